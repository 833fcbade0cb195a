"""What a request has for inputs, in words for its sender."""

import reprlib
from collections.abc import Iterable

__all__ = ["input_names"]

_NAMES = 6
_CHARACTERS = 40


def input_names(names: Iterable[str]) -> str:
    """The names for a sentence, the first ones and shortened: a form's fields are what its sender makes of them.

    A file that is sent as a form (`curl --data-binary` says so unless it is told otherwise) is all names.
    """
    known = list(names)
    if any(not name.isprintable() for name in known):
        return "bytes that were read as a form: send a file by `curl -T`, or with a Content-Type that says what it is"
    short = reprlib.Repr()
    short.maxstring = _CHARACTERS
    shown = [short.repr(name) for name in known[:_NAMES]]
    if more := len(known) - len(shown):
        shown.append(f"and {more} more")
    return ", ".join(shown) or "none"
