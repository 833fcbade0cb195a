"""The dense model: an MLP over the dense tensor and the pooled embeddings, in TorchScript."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.workload import Shape

__all__ = ["DenseModel", "probabilities", "save_model"]


class DenseModel(nn.Module):
    """Click probabilities [samples] from one dense tensor and one embedding tensor for each feature."""

    def __init__(self, inputs: int) -> None:
        """`inputs` is the width of all tensors together; the layers behind are 256, 128 and 1 wide."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1), nn.Sigmoid()
        )

    def forward(self, dense: list[Tensor], embeddings: list[Tensor]) -> Tensor:
        """One probability for each sample."""
        scores: Tensor = self.layers(torch.cat(dense + embeddings, dim=1))
        return scores.squeeze(1)


def save_model(shape: Shape, seed: int, path: Path) -> torch.jit.ScriptModule:
    """Make the model from the seed, save it as TorchScript, and return it."""
    torch.manual_seed(seed)
    model = torch.jit.script(DenseModel(shape.dense + shape.features * shape.dim).eval())
    model.save(str(path))  # type: ignore[no-untyped-call]
    return model


def probabilities(
    model: torch.jit.ScriptModule, dense: NDArray[np.float32], embeddings: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The model's answer to arrays [samples, ...]."""
    with torch.inference_mode():
        answer: Tensor = model([torch.tensor(dense)], [torch.tensor(one) for one in embeddings])
    result: NDArray[np.float32] = answer.numpy()
    return result
