"""The model store that the calls speak of: archives by the real `torch-model-archiver`, and bad ones by hand."""

import io
import json
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

__all__ = ["picture", "write_files", "write_store"]

_HANDLERS = Path(__file__).parent / "handlers"
_NOOP = "def handle(data, context):\n    return None if data is None else ['noop'] * len(data)\n"
_CONFIG = """\
minWorkers: 1
maxWorkers: 2
batchSize: 3
maxBatchDelay: 20
responseTimeout: 60
startupTimeout: 70
maxRetryTimeoutInSec: 30
handler: {threshold: 0.5}
"""


def write_store(store: Path) -> None:
    """Write every archive into `store`, which is made."""
    store.mkdir()
    work = store.with_name(f"{store.name}-work")
    work.mkdir()
    with _temporary_files_in(work):
        _archives(store, work)
        _examples(store, work)
    _by_hand(store)


def write_files(folder: Path) -> None:
    """Write what the file server hands out into `folder`, which is made."""
    for name in ("good", "other"):
        (folder / name).mkdir(parents=True)
        _zip(folder / name / f"{name}_file.mar", _manifest(f"{name}_file"), {"handler.py": _NOOP})
    _zip(folder / "good" / "noop.mar", _manifest("noop"), {"handler.py": _NOOP})
    (folder / "good" / "broken.mar").write_bytes(b"not an archive")


def picture() -> bytes:
    """An image of 8 x 8 pixels, as PNG."""
    image = Image.new("RGB", (8, 8))
    image.putdata([(row * 30, column * 30, (row * column) % 256) for row in range(8) for column in range(8)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _archives(store: Path, work: Path) -> None:
    noop = work / "noop.py"
    noop.write_text(_NOOP)
    config = work / "config.yaml"
    config.write_text(_CONFIG)
    _archive(
        store,
        "behaviours",
        "behaviours.py",
        config_file=_written(work / "ways.yaml", "handler: {mode: test}\n"),
    )
    _archive(store, "timed", "behaviours.py")
    for version in ("1.0", "2.0"):
        _archive(store, "noop", noop, version=version, file=f"noop_v{version[0]}")
    _archive(store, "described", "described.py")
    _archive(store, "configured", noop, config_file=config)
    _archive(store, "function", "named_function.py")
    _archive(store, "plain", "plain_class.py")
    _archive(store, "packed", noop, archive_format="tgz")
    _archive(store, "stored", noop, archive_format="zip-store")
    _archive(store, "folder", noop, archive_format="no-archive")
    for name in (
        "fails_at_import",
        "fails_to_initialize",
        "memory_error_at_load",
        "two_classes",
        "nothing_in_it",
    ):
        _archive(store, name, f"{name}.py")


def _examples(store: Path, work: Path) -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    labels = {str(number): [f"n{number}", word] for number, word in enumerate(("cat", "dog", "fish", "bird"))}
    _archive(
        store,
        "image",
        "image.py",
        serialized_file=_script(classifier, work / "image.pt"),
        extra_files=_written(work / "index_to_name.json", json.dumps(labels)),
    )
    digits = nn.Sequential()
    digits.dense = nn.Linear(16, 10)
    torch.save(_set(digits).state_dict(), work / "digits.pt")
    _archive(
        store,
        "digits",
        "digits.py",
        serialized_file=work / "digits.pt",
        model_file=_HANDLERS / "digits_model.py",
    )
    vocabulary = {word: number for number, word in enumerate(("good", "bad", "film", "wonderful", "boring"))}
    classes = work / "text"
    classes.mkdir()
    files = [
        _written(classes / "vocabulary.json", json.dumps(vocabulary)),
        _written(classes / "index_to_name.json", json.dumps({"0": "negative", "1": "positive"})),
    ]
    _archive(
        store,
        "sentiment",
        "sentiment.py",
        serialized_file=_script(nn.Linear(len(vocabulary), 2), work / "sentiment.pt"),
        extra_files=",".join(map(str, files)),
    )
    _archive(store, "base", "base_handler", serialized_file=_script(nn.Linear(2, 2), work / "base.pt"))


def _by_hand(store: Path) -> None:
    """Archives that the archiver would not write."""
    handler = {"handler.py": _NOOP}
    _zip(store / "no_manifest.mar", None, handler)
    _zip(store / "empty_manifest.mar", {}, handler)
    _zip(store / "no_model.mar", {"runtime": "python"}, handler)
    _zip(store / "no_name.mar", _manifest(None), handler)
    _zip(store / "no_version.mar", _manifest("no_version", modelVersion=None), handler)
    _zip(store / "no_runtime.mar", {**_manifest("no_runtime"), "runtime": None}, handler)
    _zip(store / "bad_runtime.mar", {**_manifest("bad_runtime"), "runtime": "ruby"}, handler)
    _zip(store / "no_handler.mar", _manifest("no_handler", handler=None), handler)
    _zip(store / "handler_missing.mar", _manifest("handler_missing", handler="other.py"), handler)
    _zip(
        store / "old.mar",
        {
            **_manifest("old"),
            "description": "of long ago",
            "modelServerVersion": "1.0",
            "implementationVersion": "1.0",
            "specificationVersion": "1.0",
        },
        handler,
    )
    _zip(store / "odd_name.mar", _manifest("odd name/ü"), handler)
    _zip(store / "slip.mar", _manifest("slip"), {**handler, "../../slipped.txt": "out"})
    with zipfile.ZipFile(store / "not_json.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{not json")
    (store / "not_a_zip.mar").write_bytes(b"this is no zip file")
    (store / "empty.mar").write_bytes(b"")
    with tarfile.open(store / "slip.tar.gz", "w:gz") as tar:
        for name, text in (
            ("slip/MAR-INF/MANIFEST.json", json.dumps(_manifest("slip"))),
            ("slip/../../../x", "out"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def _archive(store: Path, name: str, handler: str | Path, *, file: str = "", **given: Any) -> None:
    source = handler if isinstance(handler, Path) or handler == "base_handler" else _HANDLERS / handler
    with warnings.catch_warnings(
        action="ignore", category=ResourceWarning
    ):  # it leaves files open when imported
        from model_archiver.model_archiver_config import ModelArchiverConfig
        from model_archiver.model_packaging import package_model
        from model_archiver.model_packaging_utils import ModelExportUtils
    config = ModelArchiverConfig(
        model_name=name,
        handler=str(source),
        **{"version": "1.0", "export_path": str(store), **{key: str(value) for key, value in given.items()}},
    )
    package_model(config, ModelExportUtils.generate_manifest_json(config))
    if file:
        (store / f"{name}.mar").rename(store / f"{file}.mar")


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """The archiver collects a model's files in `<temporary directory>/<model name>`, where others may be at work."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _script(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings(
        action="ignore", category=DeprecationWarning
    ):  # TorchScript is what archives hold
        torch.jit.script(_set(module).eval()).save(str(path))  # type: ignore[no-untyped-call]
    return path


def _set(module: nn.Module) -> nn.Module:
    """Weights that are the same with every torch."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.sin(torch.arange(parameter.numel(), dtype=torch.float32)).reshape(parameter.shape)
            )
    return module


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _manifest(name: str | None, **model: str | None) -> dict[str, Any]:
    described = {"modelName": name, "handler": "handler.py", "modelVersion": "1.0", **model}
    return {
        "createdOn": "20/11/2026 11:27:36",
        "runtime": "python",
        "model": {key: value for key, value in described.items() if value is not None},
        "archiverVersion": "0.12.0",
    }


def _zip(path: Path, manifest: Mapping[str, Any] | None, files: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        if manifest is not None:
            kept = {key: value for key, value in manifest.items() if value is not None}
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(kept))
        for name, content in files.items():
            archive.writestr(name, content)
