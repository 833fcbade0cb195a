"""Which of PERSIA's files are applied: the resume point of tables that follow them, beside those tables.

    <generation folder>/applied.json
    {"format": "satrap-persia-applied", "version": 1,
     "files": {"s0/inc_20260101000000": {"0_0.inc": [unix_seconds, bytes, modified_ns, "xxh3_64:..."]}}}

It is replaced by rename, after the rows of what it names are in the tables: a server that is killed between the two
applies a file again, which changes nothing. It dies with the tables. One that cannot be read is none: every file is
applied again.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from satrap.embedding_server.updates.persia import Settled, outlived_by
from satrap.errors import TableFolderError
from satrap.formats.persia_packet import PersiaFile

__all__ = ["AppliedFiles", "format_applied", "parse_applied"]

log = logging.getLogger(__name__)

_NAME = "applied.json"
_FORMAT = {"format": "satrap-persia-applied", "version": 1}


def format_applied(settled: Mapping[str, Settled]) -> bytes:
    """The file's bytes."""
    files: dict[str, dict[str, list[int | str]]] = {}
    for done in settled.values():
        directory, _, name = done.file.name.rpartition("/")
        files.setdefault(directory, {})[name] = [
            done.unix_seconds,
            done.file.size,
            done.file.modified_ns,
            done.checksum,
        ]
    return json.dumps(_FORMAT | {"files": files}, separators=(",", ":")).encode()


def parse_applied(data: bytes) -> dict[str, Settled]:
    """The opposite.

    Raises:
        ValueError: the bytes are something else.
    """
    content = json.loads(data)
    if not isinstance(content, dict) or any(content.get(key) != value for key, value in _FORMAT.items()):
        raise ValueError("not a list of applied files of this version")
    try:
        return {
            f"{directory}/{name}": Settled(
                PersiaFile(f"{directory}/{name}", int(size), int(modified_ns)),
                int(unix_seconds),
                str(checksum),
            )
            for directory, names in content["files"].items()
            for name, (unix_seconds, size, modified_ns, checksum) in names.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"malformed: {error!r}") from error


class AppliedFiles:
    """The files that one generation of tables has, in memory and on disk.

    One thread at a time.
    """

    def __init__(self, folder: Path) -> None:
        """Read what is in the generation's folder."""
        self._path = folder / _NAME
        self._settled: dict[str, Settled] = {}
        try:
            self._settled = parse_applied(self._path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s: cannot be used, all packets are applied again: %s", self._path, error)

    @property
    def settled(self) -> Mapping[str, Settled]:
        """By name."""
        return self._settled

    @property
    def names(self) -> frozenset[str]:
        """The names alone."""
        return frozenset(self._settled)

    def __contains__(self, name: object) -> bool:
        return name in self._settled

    def __len__(self) -> int:
        return len(self._settled)

    def add(self, applied: Iterable[Settled]) -> None:
        """The rows of these are in the tables, or never will be. Durable on return.

        What has to follow them again leaves the list.

        Raises:
            TableFolderError: it cannot be written; nothing has changed.
        """
        new = list(applied)
        out = outlived_by(self._settled, new)
        self._replace(
            {name: done for name, done in self._settled.items() if name not in out}
            | {done.file.name: done for done in new}
        )

    def settle(self, settled: Iterable[Settled]) -> None:
        """The same of files that bring no rows: nothing has to follow them. On disk with the next `add`."""
        self._settled |= {done.file.name: done for done in settled}

    def discard(self, *names: str) -> None:
        """The rows of these were taken back. Durable on return.

        Raises:
            TableFolderError: it cannot be written; nothing has changed.
        """
        self._replace({name: done for name, done in self._settled.items() if name not in names})

    def forget_all_but(self, directories: Iterable[str]) -> None:
        """What was in directories that are gone need not be known any more. On disk with the next `add`."""
        there = set(directories)
        self._settled = {name: done for name, done in self._settled.items() if done.file.directory in there}

    def _replace(self, settled: dict[str, Settled]) -> None:
        temporary = self._path.with_name(f".{_NAME}")
        try:
            temporary.write_bytes(format_applied(settled))
            temporary.replace(self._path)
        except OSError as error:
            raise TableFolderError(self._path, f"cannot be written: {error.strerror}") from error
        self._settled = settled
