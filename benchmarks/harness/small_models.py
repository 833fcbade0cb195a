"""Small models that both servers serve from the same archives, and requests whose right answers are known."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness.files import archive
from harness.predict import prediction_request

__all__ = [
    "IMAGE",
    "IMAGE_VERSIONS",
    "NOOP",
    "NOOP_VERSIONS",
    "PLAIN",
    "Questions",
    "archive_name",
    "write_store",
]

NOOP, IMAGE, PLAIN = "noop", "image", "plain"
"""Names of models: one that does nothing, a convolutional one, and a linear one with TorchServe's own handler."""
NOOP_VERSIONS = IMAGE_VERSIONS = ("1.0", "2.0")

_HANDLERS = Path(__file__).resolve().parent.parent / "handlers"
_SIDE, _CLASSES, _IMAGES = 32, 10, 24
_NOOP_BYTES = 116_280
"""As large as the headline's request."""


class Convolutions(nn.Module):
    """Two layers of convolutions and a linear one: about a millisecond for one image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, _CLASSES),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, 3, 32, 32] to scores [n, 10]."""
        scores: torch.Tensor = self.layers(images)
        return scores


class Questions:
    """Requests as they go over the wire, and their answers."""

    def __init__(self, payloads: Sequence[bytes], classes: Sequence[str]) -> None:
        """`classes[i]`: what follows the version in the answer to payload i; empty: nothing does."""
        self.payloads, self._classes = list(payloads), classes

    def answer(self, number: int, version: str) -> bytes:
        """That version's answer to a payload."""
        return f"{version} {self._classes[number]}".strip().encode()

    def are_right(self, answers: Sequence[bytes], version: str) -> bool:
        """Whether these are that version's answers to all payloads, in their order."""
        return list(answers) == [self.answer(number, version) for number in range(len(self.payloads))]


def archive_name(model: str, version: str) -> str:
    """The file in the store."""
    return f"{model}_{version}.mar"


def write_store(store: Path, seed: int) -> dict[str, Questions]:
    """Write the archives of every model and version, and return the questions by model."""
    store.mkdir(parents=True)
    work = store.with_name(f"{store.name}-work")
    work.mkdir()
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    convolutions = torch.jit.script(Convolutions().eval())
    convolutions.save(str(work / "image.pt"))  # type: ignore[no-untyped-call]
    torch.jit.script(nn.Linear(16, 4).eval()).save(str(work / "plain.pt"))  # type: ignore[no-untyped-call]
    for version in NOOP_VERSIONS:
        _versioned(store, NOOP, version, _HANDLERS / "version_handler.py", None)
    for version in IMAGE_VERSIONS:
        _versioned(store, IMAGE, version, _HANDLERS / "image_handler.py", work / "image.pt")
    _versioned(store, PLAIN, "1.0", "base_handler", work / "plain.pt")
    return {NOOP: _noop_questions(seed), IMAGE: _image_questions(seed, convolutions)}


def _versioned(store: Path, model: str, version: str, handler: Path | str, serialized: Path | None) -> None:
    flags: list[str | Path] = ["--handler", handler]
    if serialized is not None:
        flags += ["--serialized-file", serialized]
    archive(store, model, version, *flags)
    shutil.move(store / f"{model}.mar", store / archive_name(model, version))


def _noop_questions(seed: int) -> Questions:
    random = np.random.default_rng(seed)
    payloads = [prediction_request(NOOP, {"data": random.bytes(_NOOP_BYTES)}) for _ in range(4)]
    return Questions(payloads, [""] * len(payloads))


def _image_questions(seed: int, model: torch.jit.ScriptModule) -> Questions:
    random = np.random.default_rng(seed)
    images = random.standard_normal((_IMAGES, 3, _SIDE, _SIDE)).astype(np.float32)
    with torch.inference_mode():
        classes = model(torch.from_numpy(images)).argmax(1).tolist()
    payloads = [prediction_request(IMAGE, {"data": image.tobytes()}) for image in images]
    return Questions(payloads, [str(number) for number in classes])
