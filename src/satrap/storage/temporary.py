"""The names of files that are being written: `.NAME.` and 16 hexadecimal digits, so that no two writers share one."""

import re
import secrets

__all__ = ["is_temporary", "name_behind", "temporary_name"]

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}")


def temporary_name(name: str) -> str:
    """A new name for the file `name`, beside it, while it is being written."""
    return f".{name}.{secrets.token_hex(8)}"


def name_behind(temporary: str) -> str | None:
    """The name that a file was to get whose temporary name this is; None: `temporary_name` did not give it."""
    found = _TEMPORARY.fullmatch(temporary)
    return found[1] if found else None


def is_temporary(name: str) -> bool:
    """Whether it is a name under which something is being written, by us or by others."""
    return name.startswith(".")
