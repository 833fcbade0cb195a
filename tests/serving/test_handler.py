"""EmbeddingHandler: batch bytes in, predictions out; a bad request of a batch alone gets its error."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from satrap.batch import Batch, DecodedBatch
from satrap.client import IDTypeFeature, IDTypeFeatureWithSingleID, NonIDTypeFeature, PersiaBatch
from satrap.errors import ArchiveError, BatchError, ShardUnavailableError, UnknownFeatureError
from satrap.middleware import Embedding, Embeddings, RawEmbedding, SumEmbedding
from satrap.serving import handler as handler_module
from satrap.serving.context import Context
from satrap.serving.handler import EmbeddingHandler
from satrap.serving.prediction import PredictionException

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

DIM = 4
FIXED = 3


class ArithmeticLookup:
    """An embedding lookup without servers: the row of an id is the id itself, `DIM` times.

    `history` is raw with `FIXED` places, every other feature is summed; `unknown` is a feature it does not know.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.error: Exception | None = None

    def lookup(self, batch: DecodedBatch) -> Embeddings:
        return self.lookup_many([batch])[0]

    def lookup_many(self, batches: Sequence[DecodedBatch]) -> list[Embeddings]:
        self.calls.append(len(batches))
        if self.error is not None:
            raise self.error
        return [Embeddings(self._embeddings(batch)) for batch in batches]

    def close(self) -> None:
        pass

    def _embeddings(self, batch: DecodedBatch) -> list[Embedding]:
        found: list[Embedding] = []
        for place, name in enumerate(batch.feature_names):
            _, values, offsets = batch.id_feature(place)
            if name == "unknown":
                raise UnknownFeatureError("is not in slots_config", feature=name)
            samples = np.split(values, offsets[1:-1].astype(int))
            found.append(_raw(name, samples) if name == "history" else _summed(name, samples))
        return found


def _summed(name: str, samples: Sequence[np.ndarray]) -> SumEmbedding:
    rows = np.array([[sample.sum()] * DIM for sample in samples], np.float16)
    return SumEmbedding(name=name, dim=DIM, values=rows)


def _raw(name: str, samples: Sequence[np.ndarray]) -> RawEmbedding:
    distinct = np.unique(np.concatenate(samples))
    values = np.zeros((len(distinct) + 1, DIM), np.float16)
    values[1:] = distinct[:, None]
    index = np.zeros((len(samples), FIXED), np.int64)
    for row, sample in zip(index, samples, strict=True):
        row[: len(sample)] = np.searchsorted(distinct, sample[:FIXED]) + 1
    counts = np.array([min(len(sample), FIXED) for sample in samples], np.uint64)
    return RawEmbedding(
        name=name, dim=DIM, values=values, index=index, sample_id_num=counts, sample_fixed_size=FIXED
    )


class Recommender(torch.nn.Module):
    """Adds up everything of a sample, and counts its calls."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1, dtype=dtype))
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))

    def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        total = torch.zeros(embeddings[0].shape[0], 1, dtype=self.scale.dtype)
        for tensor in dense:
            total = total + (tensor * self.scale).flatten(1).sum(1, keepdim=True)
        for tensor in embeddings:
            assert tensor.dtype == self.scale.dtype
            total = total + tensor.flatten(1).sum(1, keepdim=True)
        return total


@pytest.fixture
def lookup(monkeypatch: pytest.MonkeyPatch) -> ArithmeticLookup:
    opened = ArithmeticLookup()
    monkeypatch.setattr(handler_module, "open_lookup", lambda addresses, environ: opened)
    return opened


def handler_of(model: torch.nn.Module, folder: Path) -> EmbeddingHandler:
    torch.jit.save(torch.jit.script(model), folder / "model.pt")
    handler = EmbeddingHandler()
    handler.initialize(context_of(folder, serializedFile="model.pt"))
    return handler


def context_of(folder: Path, **model: str) -> Context:
    return Context("m", str(folder), {"model": {"modelName": "m", **model}}, 8, None, "0.1.0")


def batch_of(
    users: Sequence[int], dense: float = 0.0, history: Sequence[Sequence[int]] | None = None
) -> bytes:
    features: list[Any] = [IDTypeFeatureWithSingleID("user", np.array(users, np.uint64))]
    if history is not None:
        features.append(IDTypeFeature("history", [np.array(ids, np.uint64) for ids in history]))
    values = np.full((len(users), 2), dense, np.float32)
    return PersiaBatch(features, [NonIDTypeFeature(values)], requires_grad=False).to_bytes()


def answer(handler: EmbeddingHandler, *requests: dict[str, Any]) -> list[Any]:
    return handler.handle(list(requests), handler.context)


def test_one_request(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    handler = handler_of(Recommender(), tmp_path)
    # Summed: 4 x id. Raw: 4 x each of the first three ids, and 1 in the mask for each of them.
    data = batch_of([1, 2], dense=0.5, history=[[10, 20], [1, 2, 3, 100]])
    assert answer(handler, {"batch": bytearray(data)}) == [[4 + 1.0 + 122, 8 + 1.0 + 27]]
    assert "HandlerTime" in [observed.name for observed in handler.context.metrics.take()]


def test_requests_in_both_formats(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    handler = handler_of(Recommender(), tmp_path)
    persia = batch_of([1, 2], dense=0.5, history=[[10, 20], [1, 2, 3, 100]])
    arrow = Batch.from_bytes(persia).to_arrow()
    first, second = answer(handler, {"batch": bytearray(persia)}, {"batch": bytearray(arrow)})
    assert first == second == [4 + 1.0 + 122, 8 + 1.0 + 27]
    assert lookup.calls == [2]


def test_a_bad_arrow_request_alone_gets_its_error(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    handler = handler_of(Recommender(), tmp_path)
    arrow = Batch.from_bytes(batch_of([1, 2])).to_arrow()
    good, cut = answer(handler, {"batch": bytearray(arrow)}, {"batch": bytearray(arrow[:-100])})
    assert good == [4.0, 8.0]
    assert isinstance(cut, BatchError)


def test_every_request_of_a_batch_by_one_lookup_and_one_forward(
    lookup: ArithmeticLookup, tmp_path: Path
) -> None:
    handler = handler_of(Recommender(), tmp_path)
    requests = [
        {"batch": batch_of([1, 2, 3], history=[[1], [], [2, 3]])},
        {"batch": batch_of([4], history=[[7, 7]])},
        {"batch": batch_of([5, 6], history=[[], []])},
    ]
    together = answer(handler, *requests)
    assert lookup.calls == [3]
    assert handler.model.calls.item() == 1
    alone = [answer(handler, request)[0] for request in requests]
    assert together == alone
    assert [len(numbers) for numbers in together] == [3, 1, 2]


def test_a_bad_request_alone_gets_its_error(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    handler = handler_of(Recommender(), tmp_path)
    unknown = PersiaBatch(
        [IDTypeFeatureWithSingleID("unknown", np.array([1], np.uint64))], requires_grad=False
    ).to_bytes()
    good = batch_of([1])
    first, cut, other, named, last, text = answer(
        handler,
        {"batch": good},
        {"batch": good[:20]},
        {"batch": unknown},
        {"a": good, "b": good},
        {"batch": good},
        {"batch": "text"},
    )
    assert first == last == [4.0]
    assert isinstance(cut, BatchError)
    assert isinstance(other, UnknownFeatureError)
    assert other.feature == "unknown"
    assert isinstance(named, BatchError)
    assert "needs an input named 'batch'; it has 'a', 'b'" in str(named)
    assert isinstance(text, BatchError)
    assert "a batch is bytes" in str(text)


def test_every_cut_of_a_batch_is_an_error_of_that_request(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    handler = handler_of(Recommender(), tmp_path)
    good = batch_of([1, 2], history=[[1], [2, 3]])
    answers = answer(handler, *({"batch": good[:length]} for length in range(len(good))), {"batch": good})
    # What is cut off behind the ids may be nothing but absent options: PERSIA's own reader takes no such batch.
    assert all(isinstance(each, BatchError) for each in answers[:-1])
    assert len(answers[-1]) == 2


def test_flipped_bits_harm_nobody_else(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    handler = handler_of(Recommender(), tmp_path)
    good = batch_of([1, 2], dense=0.5, history=[[1], [2, 3]])
    (right,) = answer(handler, {"batch": good})
    random = np.random.default_rng(11)
    for _ in range(300):
        flipped = bytearray(good)
        for place in random.integers(len(good), size=random.integers(1, 4)):
            flipped[place] ^= 1 << random.integers(8)
        first, second = answer(handler, {"batch": flipped}, {"batch": good})
        assert second == right
        assert isinstance(first, list | BatchError | PredictionException)


def test_shards_that_are_away_are_the_error_of_those_who_need_them(
    lookup: ArithmeticLookup, tmp_path: Path
) -> None:
    handler = handler_of(Recommender(), tmp_path)
    lookup.error = ShardUnavailableError(1, 2, "127.0.0.1:9", "loading, 40 %")
    good, bad = answer(handler, {"batch": batch_of([1])}, {"batch": b""})
    assert isinstance(good, ShardUnavailableError)
    assert isinstance(bad, BatchError)
    lookup.error = None
    assert answer(handler, {"batch": batch_of([1])}) == [[4.0]]


def test_requests_of_different_shapes_get_a_forward_each(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    handler = handler_of(Recommender(), tmp_path)
    answers = answer(
        handler,
        {"batch": batch_of([1])},
        {"batch": batch_of([2], history=[[3]])},
        {"batch": batch_of([3])},
    )
    assert answers == [[4.0], [8.0 + 13], [12.0]]
    assert handler.model.calls.item() == 2


class Picky(torch.nn.Module):
    def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
        assert bool((dense[0] >= 0).all()), "a negative number"
        return embeddings[0].sum(1)


def test_a_request_on_which_the_model_fails_does_not_spoil_the_others(
    lookup: ArithmeticLookup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = handler_of(Picky(), tmp_path)
    requests = [{"batch": batch_of([user], dense=dense)} for user, dense in [(1, 1.0), (2, -1.0), (3, 1.0)]]
    first, bad, last = answer(handler, *requests)
    assert (first, last) == ([4.0], [12.0])
    assert isinstance(bad, PredictionException)
    assert (bad.message, bad.error_code) == ("Prediction failed", 503)
    assert "a negative number" in caplog.text
    with pytest.raises(torch.jit.Error, match="a negative number"):
        answer(handler, requests[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_inputs_have_the_dtype_of_the_model(
    lookup: ArithmeticLookup, tmp_path: Path, dtype: torch.dtype
) -> None:
    handler = handler_of(Recommender(dtype), tmp_path)
    assert answer(handler, {"batch": batch_of([1, 2], dense=1.0)}) == [[6.0, 10.0]]


def test_integers_stay_integers(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    class Dtypes(torch.nn.Module):
        def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
            assert dense[0].dtype == torch.int64
            assert dense[1].dtype == torch.bool
            assert dense[2].dtype == torch.float32
            return dense[0][:, 0]

    batch = PersiaBatch(
        [IDTypeFeatureWithSingleID("user", np.array([1], np.uint64))],
        [NonIDTypeFeature(np.ones((1, 1), dtype)) for dtype in (np.int64, np.bool_, np.float64)],
        requires_grad=False,
    )
    assert answer(handler_of(Dtypes(), tmp_path), {"batch": batch.to_bytes()}) == [[1]]


class OneDense(torch.nn.Module):
    def forward(self, dense: torch.Tensor, embeddings: list[torch.Tensor]) -> torch.Tensor:
        return dense.sum(1) + embeddings[0].sum(1)


def test_a_model_of_one_dense_tensor(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    handler = handler_of(OneDense(), tmp_path)
    without = PersiaBatch(
        [IDTypeFeatureWithSingleID("user", np.array([1], np.uint64))], requires_grad=False
    ).to_bytes()
    good, bad = answer(handler, {"batch": batch_of([1], dense=1.0)}, {"batch": without})
    assert good == [6.0]
    assert isinstance(bad, BatchError)
    assert "takes one dense tensor, the batch has 0" in str(bad)


def test_a_single_input_may_have_any_name(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    assert answer(handler_of(Recommender(), tmp_path), {"body": batch_of([1])}) == [[4.0]]


class Strange(torch.nn.Module):
    def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
        return embeddings[0].sum()


class Pair(torch.nn.Module):
    def forward(
        self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return embeddings[0], embeddings[0]


def test_an_output_that_cannot_be_split_is_made_for_each_request(
    lookup: ArithmeticLookup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = handler_of(Strange(), tmp_path)
    assert answer(handler, {"batch": batch_of([1])}, {"batch": batch_of([2])}) == [[4.0], [8.0]]
    assert "must return one row per sample: 2 samples gave []" in caplog.text


def test_a_model_of_several_outputs(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="must return one tensor, it returned tuple"):
        answer(handler_of(Pair(), tmp_path), {"batch": batch_of([1])})


def test_an_archive_without_a_model(lookup: ArithmeticLookup, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="EmbeddingHandler needs a TorchScript model"):
        EmbeddingHandler().initialize(context_of(tmp_path))


def test_addresses_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[str]] = []
    monkeypatch.setattr(handler_module, "open_lookup", lambda addresses, environ: opened.append(addresses))
    monkeypatch.delenv("EMBEDDING_WORKER_SERVICE", raising=False)
    handler_of(Recommender(), tmp_path)
    monkeypatch.setenv("EMBEDDING_WORKER_SERVICE", "a:1, b:2")
    handler_of(Recommender(), tmp_path)
    assert opened == [["satrap:local"], ["a:1", "b:2"]]
