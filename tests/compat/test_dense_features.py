"""One value for models of both of PERSIA's ages: those that take a dense tensor, and those that take a list."""

import pytest
import torch

from satrap.compat.dense_features import DenseFeatures

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class OneTensor(torch.nn.Module):
    def forward(self, dense: torch.Tensor, embeddings: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([dense, embeddings[0]], dim=1)


class OneTensorOddly(torch.nn.Module):
    def forward(module, dense: torch.Tensor, embeddings: list[torch.Tensor]) -> torch.Tensor:  # noqa: N805
        return torch.cat([dense, embeddings[0]], dim=1)


class ManyTensors(torch.nn.Module):
    def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(dense + embeddings, dim=1)


DENSE = torch.ones(2, 3)
EMBEDDINGS = [torch.zeros(2, 4)]
JOINED = torch.cat([DENSE, EMBEDDINGS[0]], dim=1)


@pytest.mark.parametrize("model", [OneTensor(), OneTensorOddly(), ManyTensors()])
def test_torchscript_gets_what_it_declares(model: torch.nn.Module) -> None:
    script = torch.jit.script(model)
    assert torch.equal(script(DenseFeatures([DENSE]), EMBEDDINGS), JOINED)
    assert torch.equal(script.forward(DenseFeatures([DENSE]), EMBEDDINGS), JOINED)
    assert torch.equal(script(DenseFeatures([DENSE]), embeddings=EMBEDDINGS), JOINED)
    assert torch.equal(script(embeddings=EMBEDDINGS, dense=DenseFeatures([DENSE])), JOINED)


def test_several_dense_tensors_do_not_fit_a_model_of_one() -> None:
    script = torch.jit.script(OneTensor())
    with pytest.raises(RuntimeError, match=r"Expected a value of type 'Tensor'.*dense"):
        script(DenseFeatures([DENSE, DENSE]), EMBEDDINGS)


def test_it_is_a_list_elsewhere() -> None:
    dense = DenseFeatures([DENSE, DENSE])
    assert torch.equal(ManyTensors()(dense, EMBEDDINGS), torch.cat([DENSE, JOINED], dim=1))
    assert torch.equal(torch.cat(dense), torch.ones(4, 3))
    assert torch.equal(torch.stack(dense), torch.ones(2, 2, 3))
    assert len(dense) == 2
    assert torch.equal(dense[0], DENSE)
