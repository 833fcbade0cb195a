"""The one seam where the native table's errors, and the system's about its folders, become satrap's."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from satrap._core.table import TableError, TableSpaceError
from satrap.errors import NoSpaceError, TableFolderError

__all__ = ["table_errors", "unusable"]


@contextlib.contextmanager
def table_errors(path: Path) -> Iterator[None]:
    """Translate the errors of a block that works at `path`.

    Raises:
        NoSpaceError: there is no memory, no room, or no descriptor.
        TableFolderError: a file is damaged, foreign, or not to be had.
    """
    try:
        yield
    except (TableSpaceError, MemoryError) as error:
        raise NoSpaceError(str(error) or f"{path}: there is no memory") from error
    except TableError as error:
        file, _, reason = str(error).partition(": ")
        raise TableFolderError(file, reason) from error
    except OSError as error:
        raise unusable(error, path) from error


def unusable(error: OSError, folder: Path) -> NoSpaceError | TableFolderError:
    """What a folder that cannot be had is told as."""
    path = error.filename or folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return NoSpaceError(f"{path}: {error.strerror}")
    reason = "is a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
    return TableFolderError(path, f"{reason}; choose another --table-directory")
