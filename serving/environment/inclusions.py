"""What a requirements file includes by `-r` and `-c`: files of its archive, or addresses.

pip would read any file of this machine for it, and show its lines in the error.
"""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

__all__ = ["refused_inclusion"]

_COMMENT = re.compile(r"(^|\s+)#.*$")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_SCHEME = re.compile(r"(https?|file):", re.IGNORECASE)
_LONG = ("--requirement", "--constraint")
_SHORTEST = len("--cons")
"""pip takes the beginnings of options; shorter ones could be others."""


def refused_inclusion(requirements: Path, directory: Path) -> str:
    """Why a file, or one that it includes, may not include what it does; empty: it may.

    `directory` is the unpacked archive.
    """
    archive = directory.resolve()
    read: set[Path] = set()
    unread = [requirements]
    while unread:
        file = unread.pop()
        read.add(file)
        for name in _included(file):
            if _SCHEME.match(name):
                if name.lower().startswith("file:"):
                    return _sentence(file, name, "is no path within the archive")
                continue
            path = (file.parent / name).resolve()
            if not path.is_relative_to(archive):
                return _sentence(file, name, "lies outside of the archive")
            if not path.is_file():
                return _sentence(file, name, "is not in the archive")
            if path not in read:
                unread.append(path)
    return ""


def _sentence(file: Path, name: str, what: str) -> str:
    return (
        f"its requirements file {file.name} includes {name!r}, which {what}: pack that file into the archive "
        "(--extra-files) and name it by its path there, or write its lines into the file itself"
    )


def _included(file: Path) -> Iterator[str]:
    """The names behind -r and -c, in all spellings that pip takes."""
    text = re.sub(r"\\\r?\n", "", file.read_text(encoding="utf-8-sig", errors="replace"))
    for line in text.splitlines():
        line = _VARIABLE.sub(lambda found: os.environ.get(found[1]) or found[0], _COMMENT.sub("", line))
        if not line.lstrip().startswith("-"):
            continue  # a requirement, whose options name no files
        try:
            words = iter(shlex.split(line))
        except ValueError:
            continue  # pip says what is wrong with it
        for word in words:
            name, is_joined, value = word.partition("=")
            if len(name) >= _SHORTEST and any(option.startswith(name) for option in _LONG):
                yield value if is_joined else next(words, "")
            elif word[:2] in ("-r", "-c"):
                yield word[2:] or next(words, "")
