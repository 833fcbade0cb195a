"""Models and archives that the end-to-end tests serve."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]


class Concatenate(nn.Module):
    """Answers what it was given, flat for each sample: what a test compares value for value."""

    def forward(self, dense: list[Tensor], embeddings: list[Tensor]) -> Tensor:
        """Dense tensors are ignored."""
        return torch.cat([embedding.flatten(1).float() for embedding in embeddings], 1)


class Total(nn.Module):
    """One number a sample: the sum of its embeddings times a factor. Dense tensors are ignored."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, dense: list[Tensor], embeddings: list[Tensor]) -> Tensor:
        """Works for any number of embeddings, summed or raw."""
        total = self.factor * 0.0
        for tensor in embeddings:
            total = total + self.factor * tensor.flatten(1).float().sum(1)
        return total


def save(model: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated, not gone
        torch.jit.save(torch.jit.script(model), path)
    return path


Archive = Callable[..., Path]


@pytest.fixture(scope="session")
def concatenate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Concatenate(), tmp_path_factory.mktemp("models") / "concatenate.pt")


@pytest.fixture(scope="session")
def total(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Total(), tmp_path_factory.mktemp("models") / "total.pth")


@pytest.fixture(scope="session")
def total_times_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Total(3.0), tmp_path_factory.mktemp("models") / "total3.pt")


@pytest.fixture(scope="session")
def archiver() -> Archive:
    """Runs the real torch-model-archiver."""

    def run(store: Path, name: str, *, version: str, serialized: Path, handler: str) -> Path:
        store.mkdir(exist_ok=True)
        command = [str(Path(sys.executable).parent / "torch-model-archiver"), "--model-name", name]
        command += ["--version", version, "--serialized-file", str(serialized), "--handler", handler]
        subprocess.run([*command, "--export-path", str(store), "--force"], check=True, capture_output=True)
        return store / f"{name}.mar"

    return run


@pytest.fixture(scope="session")
def persia_handler() -> str:
    """The example handler: PERSIA's names and TorchServe's, nothing of satrap's."""
    return str(ROOT / "examples" / "persia_handler" / "handler.py")


@pytest.fixture(scope="session")
def persia_tensors() -> Callable[[Path], np.ndarray]:
    """Reads what PERSIA hands to a model for a golden case."""
    return read_persia_tensors


def read_persia_tensors(case: Path) -> np.ndarray:
    """What PERSIA hands to a model, each feature flat per sample, side by side: float16 `[batch, width]`."""
    with np.load(case / "expected.npz") as arrays:
        expected = dict(arrays)
    description = json.loads((case / "expected.json").read_text())
    parts = []
    for i, feature in enumerate(description["features"]):
        values = expected[f"f{i}_emb_f16"]
        if feature["kind"] == "raw":
            index = expected[f"f{i}_index"].reshape(description["batch_size"], -1)
            values = np.concatenate([values[index], (index != 0)[..., None].astype(np.float16)], axis=2)
        parts.append(values.reshape(description["batch_size"], -1))
    return np.concatenate(parts, axis=1)
