"""Tracked modules: after every optimizer step, what is committed is what the module holds."""

import numpy as np
import pytest
import torch

from satrap.errors import InvalidInputError
from satrap.trainer import TrainCtx

# torch says once that it checks no invariants of sparse tensors; its own optimizers make it say so.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

OPTIMIZERS = {
    "sparse_adam": lambda weights: torch.optim.SparseAdam(weights, lr=0.1),
    "adagrad": lambda weights: torch.optim.Adagrad(weights, lr=0.1),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.1),
    "momentum": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
}


@pytest.fixture
def ctx(embedding_config, config, packets):
    with TrainCtx(config(), embedding_config, directory=packets) as ctx:
        yield ctx


def embedding(rows: int = 20, dim: int = 4, **arguments) -> torch.nn.Embedding:
    return torch.nn.Embedding(rows, dim, sparse=True, **arguments)


def backward(module: torch.nn.Module, ids: list[int]) -> None:
    module(torch.tensor([ids])).pow(2).sum().backward()


def assert_same(ctx: TrainCtx, module: torch.nn.Module, feature: str = "user") -> None:
    vectors, found = ctx.lookup(feature, np.arange(module.num_embeddings))
    assert found.all()
    assert np.array_equal(vectors, module.weight.detach().numpy())


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("kind", [torch.nn.Embedding, torch.nn.EmbeddingBag])
def test_what_is_committed_is_what_the_module_holds(ctx, name, kind):
    torch.manual_seed(1)
    module = kind(20, 4, sparse=True)
    optimizer = OPTIMIZERS[name]([module.weight])
    ctx.track(module, "user")
    assert_same(ctx, module)
    for ids in ([1, 2, 3], [3, 4, 4], [9], [1]):
        optimizer.zero_grad()
        backward(module, ids)
        optimizer.step()
        assert_same(ctx, module)


def test_only_rows_that_the_step_touched_wait(ctx):
    module = embedding()
    optimizer = torch.optim.SparseAdam([module.weight])
    ctx.track(module, "user")
    ctx.flush()
    backward(module, [3, 5, 5])
    assert ctx.waiting_rows == 0  # nothing has changed yet
    optimizer.step()
    assert ctx.waiting_rows == 2


def test_gradients_that_accumulate_count_together(ctx):
    module = embedding()
    optimizer = torch.optim.SGD([module.weight], lr=0.1)
    ctx.track(module, "user", initial=False)
    for ids in ([1], [2], [2, 3]):
        backward(module, ids)
    optimizer.step()
    assert (ctx.waiting_rows, ctx.row_count) == (3, 3)
    optimizer.zero_grad()
    optimizer.step()  # no gradient: nothing changes
    backward(module, [7])
    optimizer.zero_grad()  # thrown away
    optimizer.step()
    assert ctx.waiting_rows == 3


def test_a_closure(ctx):
    module = embedding()
    optimizer = torch.optim.SGD([module.weight], lr=0.1)
    ctx.track(module, "user")

    def closure() -> float:
        optimizer.zero_grad()
        backward(module, [4])
        return 0.0

    optimizer.step(closure)
    assert_same(ctx, module)


def test_modules_of_one_optimizer_are_one_step(embedding_config, config, packets, published):
    with TrainCtx(config(buffer_size=1), embedding_config, directory=packets) as ctx:
        user, item = embedding(), embedding()
        ctx.track(user, "user", initial=False)
        ctx.track(item, "item", initial=False)
        optimizer = torch.optim.SparseAdam([user.weight, item.weight])
        for ids in ([1, 2, 3], [4, 5]):
            optimizer.zero_grad()
            backward(user, ids)
            backward(item, ids)
            optimizer.step()
    assert [manifest.records for manifest in published.manifests()] == [6, 4]


def test_other_optimizers_are_nobodys_business(ctx):
    module, other = embedding(), embedding()
    ctx.track(module, "user", initial=False)
    optimizer = torch.optim.SparseAdam([other.weight])
    backward(module, [1])
    backward(other, [1])
    optimizer.step()
    assert ctx.waiting_rows == 0


def test_after_closing_steps_are_not_heard(embedding_config, config, packets):
    module = embedding()
    optimizer = torch.optim.SparseAdam([module.weight])
    with TrainCtx(config(), embedding_config, directory=packets) as ctx:
        ctx.track(module, "user")
    backward(module, [1])
    optimizer.step()
    assert ctx.waiting_rows == 0


def test_ids_of_the_rows(ctx):
    module = embedding(3)
    ctx.track(module, "user", ids=[2**40, 7, 9])
    optimizer = torch.optim.SGD([module.weight], lr=0.1)
    backward(module, [0])
    optimizer.step()
    vectors, found = ctx.lookup("user", [2**40, 0])
    assert found.tolist() == [True, False]
    assert np.array_equal(vectors[0], module.weight[0].detach().numpy())


def test_a_padding_row_does_not_change(ctx):
    module = embedding(padding_idx=0)
    ctx.track(module, "user", initial=False)
    optimizer = torch.optim.SparseAdam([module.weight])
    backward(module, [0, 0, 2])
    optimizer.step()
    assert ctx.row_count == 1


def test_half_precision_is_rounded_once(embedding_config, config, packets):
    with TrainCtx(config(row_dtype="float16"), embedding_config, directory=packets) as ctx:
        module = embedding()
        ctx.track(module, "user")
        ctx.flush()
        again = embedding()
        again.load_state_dict(module.state_dict())
        ctx.track(again, "user")  # the same rows, as far as float16 can tell
        assert ctx.waiting_rows == 0


def test_only_rows_that_differ_from_what_was_loaded_are_committed(train, config, checkpoints):
    torch.manual_seed(3)
    module = embedding()
    with train() as ctx:
        ctx.track(module, "user")
        ctx.dump(checkpoints / "first")
    with torch.no_grad():
        module.weight[4] += 1
    again = train()
    again.load(checkpoints / "first")
    again.track(module, "user")
    assert again.waiting_rows == 1


def test_a_large_module_goes_out_in_parts(embedding_config, config, packets, published, monkeypatch):
    monkeypatch.setattr("satrap.trainer.stream_writer.StreamWriter.chunk_rows", 8)
    with TrainCtx(config(buffer_size=7), embedding_config, directory=packets) as ctx:
        module = embedding()
        ctx.track(module, "user")
        assert_same(ctx, module)
    assert [manifest.records for manifest in published.manifests()] == [8, 8, 4]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: torch.nn.Linear(4, 4), "not Linear"),
        (lambda: torch.nn.Embedding(5, 4), "sparse=True"),
        (lambda: embedding(dim=8), "dim: 4"),
        (lambda: embedding(max_norm=1.0), "max_norm"),
    ],
)
def test_modules_that_cannot_be_tracked(ctx, module, message):
    with pytest.raises(InvalidInputError, match=message):
        ctx.track(module(), "user")
    assert ctx.row_count == 0


@pytest.mark.parametrize(
    ("ids", "message"),
    [([1, 2], "20 rows, but 2 ids"), ([3] * 20, "one sign"), ([-1] * 20, "negative")],
)
def test_ids_that_do_not_fit(ctx, ids, message):
    with pytest.raises(InvalidInputError, match=message):
        ctx.track(embedding(), "user", ids=ids)


def test_a_gradient_that_became_dense_is_said(ctx):
    module = embedding()
    ctx.track(module, "user", initial=False)
    optimizer = torch.optim.SGD([module.weight], lr=0.1)
    module.weight.sum().backward()
    with pytest.raises(InvalidInputError, match="dense in this step"):
        optimizer.step()


def test_diverged_rows_are_said_at_the_step(ctx):
    module = embedding()
    ctx.track(module, "user", initial=False)
    optimizer = torch.optim.SGD([module.weight], lr=float("inf"))
    backward(module, [1])
    with pytest.raises(InvalidInputError, match="diverged"):
        optimizer.step()
