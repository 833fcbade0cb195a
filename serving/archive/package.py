"""Writing model archives: what `torch-model-archiver` writes, flag for flag, published whole or not at all.

    parameters -> members (where a file comes from, its name inside) -> manifest -> zip | tar.gz | directory

Layout of all formats: every file flat under its base name, directories of `extra_files` with what they hold,
and `MAR-INF/MANIFEST.json`. In a `.tar.gz` all of that is under `<model name>/`. TorchServe reads them as well.
"""

import glob
import importlib.util
import io
import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from satrap import __version__
from satrap.errors import ArchiveError

__all__ = ["DEFAULT_HANDLER", "ArchiveFormat", "Runtime", "package"]

DEFAULT_HANDLER = "satrap.serving.handler:EmbeddingHandler"
"""The handler that needs no code: batch bytes in, the TorchScript model's answers out."""

ArchiveFormat = Literal["default", "tgz", "no-archive", "zip-store"]
Runtime = Literal["python", "python3", "LSP"]

_SUFFIXES: dict[ArchiveFormat, str] = {
    "default": ".mar",
    "tgz": ".tar.gz",
    "no-archive": "",
    "zip-store": ".mar",
}
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
_MANIFEST = "MAR-INF/MANIFEST.json"
_SKIPPED_FOLDERS = frozenset({"__MACOSX", "__pycache__"})

# Names that TorchServe resolves to handlers of its own: there is no file to copy.
_BUILT_IN_HANDLERS = frozenset(
    {
        "base_handler",
        "dali_image_classifier",
        "image_classifier",
        "image_segmenter",
        "object_detector",
        "text_classifier",
        "trt_llm_handler",
        "vllm_handler",
    }
)
_BUILT_IN_NATIVE_HANDLERS = frozenset({"BaseHandler", "TorchScriptHandler"})


class _Member(NamedTuple):
    """One file of an archive: where its bytes are now, and its name inside (with `/`)."""

    source: Path
    name: str


def package(
    *,
    model_name: str,
    version: str,
    handler: str = DEFAULT_HANDLER,
    serialized_file: Path | str | None = None,
    model_file: Path | str | None = None,
    extra_files: Sequence[Path | str] | str = (),
    runtime: Runtime = "python",
    export_path: Path | str = ".",
    archive_format: ArchiveFormat = "default",
    force: bool = False,
    requirements_file: Path | str | None = None,
    config_file: Path | str | None = None,
) -> Path:
    """Write a model archive and return where it is.

    A reader of `export_path` sees the old archive or the new one, never a part: it is written beside under a
    temporary name, flushed to the disk and renamed. (A folder that takes another's place needs two renames, so
    for a moment there is neither.)

    Args:
        model_name: The model's name, and the archive's without its suffix.
        version: The model's version, any text.
        handler: A Python file (its `.py` may be left out), `file:function`, the name of a handler that is part
            of TorchServe, or `package.module:name` of something that is installed where the model is served.
        serialized_file: The weights: TorchScript, or a state dict where there is a `model_file`.
        model_file: A Python file with the one class of an eager model.
        extra_files: Files, folders (what is in them goes to the top) and wildcards; or all of them in one
            string with commas between, as on the command line.
        runtime: What the manifest says is to run the handler.
        export_path: The folder that gets the archive.
        archive_format: `default` (a `.mar`, which is a zip), `zip-store` (the same, not compressed), `tgz`
            or `no-archive` (a folder).
        force: Replace an archive of that name.
        requirements_file: Packages to install for this model, in pip's format.
        config_file: The model's YAML file (`minWorkers`, `batchSize`, ...).

    Raises:
        ArchiveError: A name or version that cannot be, a file that is not there, two files of the same name,
            or an archive that exists already (without `force`).
    """
    target = Path(export_path) / f"{model_name}{_suffix(model_name, archive_format)}"
    _check(target, model_name, version, runtime)
    given = [
        model_file,
        serialized_file,
        _handler_file(target, handler, runtime),
        requirements_file,
        config_file,
    ]
    members = _unique(
        target,
        [
            *(_Member(_existing(target, Path(path)), Path(path).name) for path in given if path),
            *_extra_members(target, extra_files),
        ],
    )
    manifest = json.dumps(
        _manifest(
            model_name=model_name,
            version=version,
            handler=os.path.basename(handler),  # noqa: PTH119 - a handler may end in `:function`: it is no path
            serialized_file=serialized_file,
            model_file=model_file,
            runtime=runtime,
            requirements_file=requirements_file,
            config_file=config_file,
            created=datetime.now(),
        ),
        indent=2,
    ).encode()
    if target.exists() and not force:
        raise ArchiveError(
            str(target), "already exists. Give --force (-f) to replace it, or another --export-path"
        )
    _publish(target, members, manifest, archive_format, model_name)
    return target


def _suffix(model_name: str, archive_format: str) -> str:
    if archive_format not in get_args(ArchiveFormat):
        raise ArchiveError(
            model_name, f"no archive format {archive_format!r}: {', '.join(get_args(ArchiveFormat))}"
        )
    return _SUFFIXES[archive_format]  # type: ignore[index]  # narrowed by the line above


def _check(target: Path, model_name: str, version: str, runtime: str) -> None:
    if not _MODEL_NAME.fullmatch(model_name):
        raise ArchiveError(
            model_name,
            "a model's name begins with a letter or digit; letters, digits, '_', '-' and '.' may follow",
        )
    if not version:
        raise ArchiveError(model_name, "a version is needed, for instance --version 1.0")
    if runtime not in get_args(Runtime):
        raise ArchiveError(model_name, f"no runtime {runtime!r}: {', '.join(get_args(Runtime))}")
    if not target.parent.is_dir():
        raise ArchiveError(model_name, f"the export path {target.parent} is not a directory")


def _existing(target: Path, path: Path) -> Path:
    if not path.is_file():
        raise ArchiveError(str(target), f"file does not exist: {path}")
    return path


def _handler_file(target: Path, handler: str, runtime: str) -> Path | None:
    """The file to copy for `handler`; None for one that is part of the server or an installed package."""
    if not handler:
        raise ArchiveError(
            str(target), "a handler is needed: a Python file, or the name of a built-in handler"
        )
    name = handler.partition(":")[0]
    if runtime == "LSP":
        return None if name in _BUILT_IN_NATIVE_HANDLERS else Path(f"{name}.so")
    if name in _BUILT_IN_HANDLERS:
        return None
    path = Path(name if name.endswith(".py") else f"{name}.py")
    if not path.is_file() and _is_installed_module(name):
        return None
    return path


def _is_installed_module(name: str) -> bool:
    parent, _, last = name.rpartition(".")
    if not parent or not all(part.isidentifier() for part in name.split(".")) or last == "py":
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _extra_members(target: Path, extra_files: Sequence[Path | str] | str) -> Iterator[_Member]:
    given = extra_files.split(",") if isinstance(extra_files, str) else [str(path) for path in extra_files]
    for pattern in (text.strip() for text in given):
        if not pattern:
            continue
        # A path that exists is meant literally, though its name may hold a bracket.
        paths = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not paths:
            raise ArchiveError(str(target), f"extra file does not exist: {pattern}")
        for path in map(Path, paths):
            if path.is_dir():
                yield from _folder_members(path)
            else:
                yield _Member(path, path.name)


def _folder_members(folder: Path) -> Iterator[_Member]:
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if f not in _SKIPPED_FOLDERS and not f.startswith("."))
        for file in sorted(files):
            path = Path(root, file)
            yield _Member(path, path.relative_to(folder).as_posix())


def _unique(target: Path, members: Iterable[_Member]) -> list[_Member]:
    """Each name once: the same file given twice is kept once, two files of one name are an error."""
    by_name: dict[str, _Member] = {}
    for member in members:
        first = by_name.setdefault(member.name, member)
        if not first.source.samefile(member.source):
            raise ArchiveError(
                str(target),
                f"two files would be {member.name} in the archive: {first.source} and {member.source}",
            )
    if _MANIFEST in by_name:
        raise ArchiveError(str(target), f"{by_name[_MANIFEST].source} would take the manifest's place")
    return [by_name[name] for name in sorted(by_name)]


def _manifest(
    *,
    model_name: str,
    version: str,
    handler: str,
    serialized_file: Path | str | None,
    model_file: Path | str | None,
    runtime: str,
    requirements_file: Path | str | None,
    config_file: Path | str | None,
    created: datetime,
) -> dict[str, object]:
    """The manifest's keys in the order in which TorchServe's archiver writes them; absent ones are left out."""
    model = {
        "modelName": model_name,
        "serializedFile": serialized_file and Path(serialized_file).name,
        "handler": handler,
        "modelFile": model_file and Path(model_file).name,
        "modelVersion": version,
        "requirementsFile": requirements_file and Path(requirements_file).name,
        "configFile": config_file and Path(config_file).name,
    }
    return {
        "createdOn": created.strftime("%d/%m/%Y %H:%M:%S"),
        "runtime": runtime,
        "model": {key: value for key, value in model.items() if value},
        "archiverVersion": f"satrap {__version__}",
    }


def _publish(
    target: Path, members: Sequence[_Member], manifest: bytes, archive_format: ArchiveFormat, model_name: str
) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if archive_format == "no-archive":
            _write_folder(temporary, members, manifest)
            _swap_folder(temporary, target)
            return
        with temporary.open("wb") as file:
            if archive_format == "tgz":
                _write_tar(file, members, manifest, model_name)
            else:
                _write_zip(file, members, manifest, compress=archive_format == "default")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _write_zip(
    file: io.BufferedWriter, members: Sequence[_Member], manifest: bytes, *, compress: bool
) -> None:
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    # A zip cannot say a time before 1980, which files of reproducible builds have: those become 1980.
    with zipfile.ZipFile(file, "w", method, strict_timestamps=False) as archive:
        for member in members:
            archive.write(member.source, member.name)
        archive.writestr(_MANIFEST, manifest)


def _write_tar(file: io.BufferedWriter, members: Sequence[_Member], manifest: bytes, model_name: str) -> None:
    with tarfile.open(fileobj=file, mode="w:gz", dereference=True) as archive:
        for member in members:
            archive.add(member.source, f"{model_name}/{member.name}", recursive=False)
        entry = tarfile.TarInfo(f"{model_name}/{_MANIFEST}")
        entry.size = len(manifest)
        archive.addfile(entry, io.BytesIO(manifest))


def _write_folder(folder: Path, members: Sequence[_Member], manifest: bytes) -> None:
    for member in members:
        path = folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(member.source, path)
    path = folder / _MANIFEST
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(manifest)


def _swap_folder(temporary: Path, target: Path) -> None:
    """Put `temporary` at `target`; what was there is moved away first, as a rename cannot replace a full folder."""
    if not target.exists():
        temporary.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    temporary.rename(target)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink()
