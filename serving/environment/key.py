"""The name of an environment: a digest of everything that decides what is in it.

That is the requirements file, the files of the archive that it names (wheels, other requirements files), the
interpreter, and the packages of the server, since pip installs only what they do not offer.
"""

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["environment_key", "named_files"]

_SEPARATORS = re.compile(r"[\s,;@=\"']+")
_DIGEST_LETTERS = 32


def environment_key(requirements: Path, directory: Path, server_packages: Iterable[Path]) -> str:
    """The key of the environment for that file of the archive unpacked in `directory`.

    `server_packages` are the server's site-packages directories.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for part in (sys.version, sys.prefix, sys.base_prefix):
        _add(digest, part.encode())
    for folder in server_packages:
        _add(digest, str(folder).encode())
        for name in _distributions(folder):
            _add(digest, name.encode())
    _add(digest, requirements.read_bytes())
    for file in named_files(requirements, directory):
        _add(digest, str(file.relative_to(directory)).encode())
        _add(digest, file.read_bytes())
    return digest.hexdigest()[:_DIGEST_LETTERS]


def named_files(requirements: Path, directory: Path) -> list[Path]:
    """The files below `directory` that a requirements file names, directly or through one that it names, sorted.

    Of a folder that it names (`.`, a source tree, `--find-links wheels`) these are all files in it.
    """
    found: set[Path] = set()
    unread = [requirements]
    while unread:
        for file in _named_in(unread.pop(), directory):
            if file not in found and file != requirements:
                found.add(file)
                if file.suffix in (".txt", ".in"):
                    unread.append(file)
    return sorted(found)


def _named_in(requirements: Path, directory: Path) -> Iterator[Path]:
    for line in requirements.read_text(errors="replace").splitlines():
        for word in _SEPARATORS.split(line.partition(" #")[0]):
            # pip resolves what follows -r and -c against the file, everything else against its working directory.
            for base in {requirements.parent, directory}:
                yield from _files_at(
                    base, word.removeprefix("-r").removeprefix("-c").partition("[")[0], directory
                )


def _files_at(base: Path, word: str, directory: Path) -> Iterator[Path]:
    if not word or "\0" in word or "://" in word or len(word) > 255:
        return
    path = (base / word).resolve()
    if not path.is_relative_to(directory.resolve()):
        return
    path = directory / path.relative_to(directory.resolve())
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())


def _distributions(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(e.name for e in folder.iterdir() if e.name.endswith((".dist-info", ".egg-info", ".pth")))


def _add(digest: "hashlib._Hash", part: bytes) -> None:
    """Length first, so that no two lists of parts give the same bytes."""
    digest.update(len(part).to_bytes(8, "little") + part)
