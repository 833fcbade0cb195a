"""The hidden file that a download is written to until it is whole. Who writes it holds a lock on it."""

import fcntl
import logging
import re
import secrets
from pathlib import Path
from typing import BinaryIO

__all__ = ["create_partial", "partial_path", "remove_abandoned"]

log = logging.getLogger("satrap.serving")

_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.part")


def partial_path(target: Path) -> Path:
    """A new name beside the target, which nothing else has."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def create_partial(path: Path) -> BinaryIO:
    """Create the file, locked as long as it is open.

    Raises:
        OSError: it cannot be created, or locked.
    """
    file = path.open("xb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


def remove_abandoned(directory: Path) -> None:
    """Remove those that nobody writes any more: whoever did was killed. One that cannot be removed is logged."""
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return  # where nothing can be read nothing was downloaded to; registrations will say what is wrong
    for entry in entries:
        if _NAME.fullmatch(entry.name) and entry.is_file() and not entry.is_symlink():
            try:
                with entry.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    entry.unlink()
            except BlockingIOError:
                continue  # another server downloads it
            except OSError as error:
                log.warning("what is left of a download stays in the model store: %s", error)
            else:
                log.info("removed %s, what was left of a download", entry)
