"""What a requirements file includes by `-r` and `-c`: files of its archive, or addresses.

pip would read any file of this machine for it, and show its lines in the error.
"""

import codecs
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["refused_inclusion"]

_COMMENT = re.compile(r"(^|\s+)#.*$")
_ENCODING = re.compile(rb"#.*?coding[:=]\s*([-\w.]+)")
_OTHER_ENCODINGS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
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
        content = file.read_bytes()
        if not _is_utf8(content):
            return f"its requirements file {file.name} is not in UTF-8, and no other encoding is read: save it as UTF-8"
        for name in _included(content.decode("utf-8-sig", "replace")):
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


def _is_utf8(content: bytes) -> bool:
    """Whether pip will take it for that: another encoding may spell an inclusion otherwise."""
    if content.startswith(_OTHER_ENCODINGS):
        return False
    for line in content.split(b"\n")[:2]:
        if (said := _ENCODING.match(line)) is not None:
            try:
                return codecs.lookup(said[1].decode("ascii")).name in ("utf-8", "utf-8-sig", "ascii")
            except LookupError:
                return False
    return True


def _included(text: str) -> Iterator[str]:
    """The names behind -r and -c, in all spellings that pip takes."""
    for line in _joined(text.splitlines()):
        line = _VARIABLE.sub(lambda found: os.environ.get(found[1]) or found[0], _COMMENT.sub("", line))
        if not line.lstrip().startswith("-"):
            continue  # a requirement, whose options name no files
        try:
            words = shlex.split(line)
        except ValueError:
            continue  # pip says what is wrong with it
        for word, after in zip(words, [*words[1:], ""], strict=True):  # what is behind one may be one as well
            name, is_joined, value = word.partition("=")
            if len(name) >= _SHORTEST and any(option.startswith(name) for option in _LONG):
                yield value if is_joined else after
            elif word[:2] in ("-r", "-c"):
                yield word[2:] or after


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Lines that go on with the next one, joined as pip does it: a comment ends them, and hides nothing behind it."""
    begun: list[str] = []
    for line in lines:
        is_comment = _COMMENT.match(line) is not None
        if line.endswith("\\") and not is_comment:
            begun.append(line.strip("\\"))
            continue
        yield "".join([*begun, f" {line}" if is_comment else line])
        begun = []
    yield "".join(begun)
