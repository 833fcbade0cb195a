"""Unpacks one archive in a process of its own, so that no archive can hold or harm the frontend.

Zip (`.mar`), gzipped tar (one leading folder, stripped) and plain directories (or a directory that holds nothing but
one) are told apart by what they are, not by their names. Everything is checked before anything is written: paths that
leave the target, symbolic links, and more files or bytes than allowed are refused. The frontend made the target
directory and removes it when unpacking fails.
"""

import errno
import gzip
import lzma
import os
import resource
import shutil
import socket
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from satrap.serving.archive.manifest import MANIFEST_NAME, ArchiveOptions, Manifest, ManifestError
from satrap.serving.archive.warmup import WarmupError, read_warmup
from satrap.serving.frames import Kind, encode, receive_head

__all__ = ["Limits", "UnpackError", "answer", "run", "unpack"]

_CHUNK = 1024**2
_MAX_DEPTH = 64
"""Folders within folders. More are no archive's, and what walks through them, or removes them, runs out of stack."""
_MAX_DOCUMENT_BYTES = 4 * 1024**2
"""Of the manifest, which the frontend keeps, and of the config file, which takes seconds to read."""
_MEMORY_BYTES = 1024**3
"""So much may unpacking take: a tar file's headers and a config file are read whole, and say themselves how much."""


class UnpackError(Exception):
    """The archive is refused, and why."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold, unpacked."""

    max_bytes: int
    max_files: int


def run(connection: socket.socket) -> None:
    """Serve one `UNPACK` on that connection (the role "unpack" of `satrap.serving.template`)."""
    received = receive_head(connection)
    if received is None:
        return
    head = received[1]
    limits = Limits(head["max_bytes"], head["max_files"])
    _limit_memory()
    for buffer in encode(Kind.UNPACKED, answer(Path(head["archive"]), Path(head["target"]), limits)):
        connection.sendall(buffer)


def answer(archive: Path, target: Path, limits: Limits) -> dict[str, object]:
    """What the frontend is told: what was unpacked, the `reason` why it is refused, or that there is `no_room`."""
    try:
        manifest, options = unpack(archive, target, limits)
    except (UnpackError, ManifestError) as error:
        return {"reason": str(error)}
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"no_room": True}
        return {"reason": f"it cannot be unpacked: {error}"}
    except MemoryError:
        return {"reason": f"unpacking it takes more than {_MEMORY_BYTES} bytes of memory"}
    return {"manifest": manifest.raw, "config": asdict(options)}


def _limit_memory() -> None:
    """Let this process have so much more than it has from the template."""
    status = Path("/proc/self/status").read_text()
    data = int(status.partition("VmData:")[2].split()[0]) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def unpack(archive: Path, target: Path, limits: Limits) -> tuple[Manifest, ArchiveOptions]:
    """Unpack into the empty directory `target`; return the manifest and the server's part of the config file.

    Raises:
        UnpackError: the archive is refused.
        ManifestError: its manifest or config file is.
        OSError: reading or writing failed.
    """
    budget = _Budget(limits)
    if archive.is_dir():
        _copy_directory(archive, target, budget)
    elif zipfile.is_zipfile(archive):
        _unpack_zip(archive, target, budget)
    elif _is_tar(archive):
        _unpack_tar(archive, target, budget, is_stripped=True)
    else:
        raise UnpackError("it is neither a zip file, nor a gzipped tar file, nor a directory")
    manifest_file = target / MANIFEST_NAME
    manifest = Manifest.parse(_document(manifest_file)) if manifest_file.is_file() else Manifest.missing()
    for key in ("serializedFile", "modelFile", "configFile"):
        name = manifest.raw.get("model", {}).get(key)
        if name and not (target / _inside(str(name))).is_file():
            raise UnpackError(f"the file {name!r} that its manifest names as {key} is not in it")
    if not manifest.config_file:
        return manifest, ArchiveOptions()
    config_file = target / manifest.config_file
    options = ArchiveOptions.parse(_document(config_file), manifest.config_file)
    if options.extra_files:
        _unpack_extra_files(options.extra_files, target, budget)
    if options.warmup:
        try:
            read_warmup(target, options.warmup)
        except WarmupError as error:
            raise UnpackError(f"its warm-up file {options.warmup!r}: {error}") from error
    return manifest, options


def _document(file: Path) -> bytes:
    if file.stat().st_size > _MAX_DOCUMENT_BYTES:
        raise UnpackError(f"{file.name} is larger than {_MAX_DOCUMENT_BYTES} bytes")
    return file.read_bytes()


def _unpack_extra_files(name: str, target: Path, budget: "_Budget") -> None:
    """Unpack the archive within the archive that its config file names as `system.extraFiles`, over what is there."""
    archive = target / _inside(name)
    if not archive.is_file():
        raise UnpackError(f"the file {name!r} that its config file names as system.extraFiles is not in it")
    with tempfile.TemporaryDirectory(dir=target) as folder:
        try:
            if zipfile.is_zipfile(archive):
                _unpack_zip(archive, Path(folder), budget)
            elif _is_tar(archive):
                _unpack_tar(archive, Path(folder), budget, is_stripped=False)
            else:
                raise UnpackError("it is neither a zip file nor a tar file")
            for entry in _walk(Path(folder)):
                _move(Path(entry.path), target / Path(entry.path).relative_to(folder), target)
        except UnpackError as error:
            raise UnpackError(f"its extra files {name!r}: {error}") from error


def _move(path: Path, place: Path, target: Path) -> None:
    if place == target / MANIFEST_NAME:
        raise UnpackError(f"{MANIFEST_NAME} would take the manifest's place")
    try:
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)
    except (FileExistsError, IsADirectoryError) as error:
        raise UnpackError(
            f"{place.relative_to(target)} is a file in one and a folder in the other"
        ) from error


def _is_tar(archive: Path) -> bool:
    try:
        return tarfile.is_tarfile(archive)
    except (EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise UnpackError(f"it is not a sound tar file: {error}") from error


def _inside(name: str) -> PurePosixPath:
    """The relative path of an entry.

    Raises:
        UnpackError: it would lie outside of the target, or in too many folders.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if (
        path.is_absolute()
        or ".." in path.parts
        or ":" in (path.parts[0] if path.parts else "")
        or "\0" in name
    ):
        raise UnpackError(f"entry {name!r} would be written outside of the archive's directory")
    if len(path.parts) > _MAX_DEPTH:
        raise UnpackError(f"entry {name[:80]!r}... lies in more than {_MAX_DEPTH} folders")
    return path


class _Budget:
    """Counts files and bytes against the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._bytes, self._files = limits, 0, 0

    def spend(self, size: int) -> None:
        if size < 0:
            raise UnpackError(f"an entry of it says that it has {size} bytes")
        self._bytes += size
        self._files += 1
        if self._files > self._limits.max_files:
            raise UnpackError(f"it has more than {self._limits.max_files} entries (max_archive_files)")
        if self._bytes > self._limits.max_bytes:
            raise UnpackError(
                f"it is larger than {self._limits.max_bytes} bytes unpacked (max_archive_bytes)"
            )


def _unpack_zip(archive: Path, target: Path, budget: _Budget) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                path = _inside(entry.filename)
                budget.spend(entry.file_size)
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise UnpackError(f"entry {entry.filename!r} is a symbolic link")
                if entry.flag_bits & 1:
                    raise UnpackError(f"entry {entry.filename!r} is encrypted")
                if entry.is_dir():
                    (target / path).mkdir(parents=True, exist_ok=True)
                    continue
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                # zipfile gives at most `file_size` bytes, so the budget above holds for what is written.
                with opened.open(entry) as source, (target / path).open("xb") as copy:
                    shutil.copyfileobj(source, copy, _CHUNK)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        NotImplementedError,
        EOFError,
        ValueError,
    ) as error:
        raise UnpackError(f"it is not a sound zip file: {error}") from error
    except FileExistsError as error:
        raise UnpackError(f"it holds {Path(error.filename).name!r} twice") from None


def _unpack_tar(archive: Path, target: Path, budget: _Budget, *, is_stripped: bool) -> None:
    try:
        with tarfile.open(archive) as opened:
            for entry in opened:
                path = _inside(_stripped(entry.name) if is_stripped else entry.name)
                budget.spend(entry.size)
                if entry.isdir():
                    (target / path).mkdir(parents=True, exist_ok=True)
                elif entry.isreg():
                    (target / path).parent.mkdir(parents=True, exist_ok=True)
                    source = opened.extractfile(entry)
                    assert source is not None, "a regular file has contents"
                    with source, (target / path).open("xb") as copy:
                        shutil.copyfileobj(source, copy, _CHUNK)
                else:
                    raise UnpackError(f"entry {entry.name!r} is a link or a device, not a file")
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise UnpackError(f"it is not a sound tar file: {error}") from error
    except FileExistsError as error:
        raise UnpackError(f"it holds {Path(error.filename).name!r} twice") from None


def _stripped(name: str) -> str:
    """Without the leading folder, `<model name>/` or `./`; a name that has none stays, as in TorchServe.

    Raises:
        UnpackError: the whole name would lie outside of the target.
    """
    _inside(name)
    folder, slash, rest = name.partition("/")
    return rest if slash else folder


def _copy_directory(source: Path, target: Path, budget: _Budget) -> None:
    """Copy rather than link: the version must not change when somebody edits the directory."""
    entries = list(os.scandir(source))
    if len(entries) == 1 and entries[0].is_dir(follow_symlinks=False):
        source = Path(entries[0].path)
    root = source.resolve()
    for entry in _walk(source):
        path = Path(entry.path)
        if not path.resolve().is_relative_to(root):
            raise UnpackError(f"{path.relative_to(source)} is a symbolic link that leads out of it")
        if entry.is_dir():
            if entry.is_symlink():
                raise UnpackError(f"{path.relative_to(source)} is a symbolic link to a directory")
            (target / path.relative_to(source)).mkdir(parents=True, exist_ok=True)
        elif entry.is_file():
            budget.spend(entry.stat().st_size)
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        else:
            raise UnpackError(f"{path.relative_to(source)} is neither a file nor a directory")


def _walk(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Every entry below; a link to a directory is given, not entered."""
    for entry in sorted(os.scandir(directory), key=lambda e: e.name):
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
