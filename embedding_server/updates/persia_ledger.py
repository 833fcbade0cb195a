"""Which of PERSIA's files are applied: the resume point of tables that follow them, beside those tables.

    <generation folder>/applied.json            most of them
    <generation folder>/applied-recent.json     the last ones, so that little is written for each

    {"format": "satrap-persia-applied", "version": 1,
     "files": {"s0/inc_20260101000000": {"0_0.inc": [unix_seconds, bytes, modified_ns, "xxh3_64:..."]}}}

Both are replaced by rename, after the rows of what they name are in the tables: a server that is killed between the two
applies a file again, which changes nothing. They die with the tables. One that cannot be read names nothing: what it
named is applied again.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from satrap.embedding_server.updates.persia import Settled, outlived_by
from satrap.errors import TableFolderError
from satrap.formats.persia_packet import PersiaFile

__all__ = ["LEDGER_NAMES", "AppliedFiles", "format_applied", "parse_applied"]

log = logging.getLogger(__name__)

_NAME, _RECENT_NAME = "applied.json", "applied-recent.json"
LEDGER_NAMES = (_NAME, _RECENT_NAME)
"""What its files are called."""
_FORMAT = {"format": "satrap-persia-applied", "version": 1}
_RECENT = 256
"""Names that are written again with each one that comes to them."""


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
        self._path, self._recent_path = folder / _NAME, folder / _RECENT_NAME
        self._recent = _read(self._recent_path)
        self._settled = _read(self._path) | self._recent
        self._by_second: dict[int, set[str]] = {}
        self._index(self._settled.values())
        self.removals = 0
        """How often names left the list, directories that are gone apart."""

    @property
    def settled(self) -> Mapping[str, Settled]:
        """By name. It changes as files are added."""
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
        new = {done.file.name: done for done in applied}
        same_seconds = {
            name: self._settled[name]
            for done in new.values()
            for name in self._by_second.get(done.unix_seconds, ())
        }
        out = outlived_by(same_seconds, list(new.values()))
        recent = self._recent | new
        if out or len(recent) > _RECENT:
            self._write_all({name: done for name, done in (self._settled | new).items() if name not in out})
            return
        _write(self._recent_path, recent)
        self._recent = recent
        self._settle(new)

    def settle(self, settled: Iterable[Settled]) -> None:
        """The same of files that bring no rows: nothing has to follow them. On disk with the next `add`."""
        new = {done.file.name: done for done in settled}
        self._recent |= new
        self._settle(new)

    def discard(self, *names: str) -> None:
        """The rows of these were taken back. Durable on return.

        Raises:
            TableFolderError: it cannot be written; nothing has changed.
        """
        if any(name in self._settled for name in names):
            self._write_all({name: done for name, done in self._settled.items() if name not in names})

    def forget_all_but(self, directories: Iterable[str], names: Iterable[str] = ()) -> None:
        """What was in directories that are gone need not be known any more. On disk with a later `add`.

        `names` stay: those that can be taken back. One that is not on the list counts as begun and not finished.
        """
        there, kept = set(directories), set(names)
        gone = [
            name
            for name, done in self._settled.items()
            if done.file.directory not in there and name not in kept
        ]
        for name in gone:
            self._by_second[self._settled.pop(name).unix_seconds].discard(name)
            self._recent.pop(name, None)

    def _settle(self, new: Mapping[str, Settled]) -> None:
        for name in new:
            if name in self._settled:
                self._by_second[self._settled[name].unix_seconds].discard(name)
        self._settled.update(new)
        self._index(new.values())

    def _index(self, settled: Iterable[Settled]) -> None:
        for done in settled:
            self._by_second.setdefault(done.unix_seconds, set()).add(done.file.name)

    def _write_all(self, settled: dict[str, Settled]) -> None:
        # A kill between the two leaves names in both, or, in the second, names that are applied once more.
        _write(self._recent_path, {name: done for name, done in self._recent.items() if name in settled})
        _write(self._path, settled)
        self.removals += not settled.keys() >= self._settled.keys()
        self._settled, self._recent = settled, {}
        self._by_second = {}
        self._index(settled.values())


def _read(path: Path) -> dict[str, Settled]:
    try:
        return parse_applied(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s: cannot be used, all packets in it are applied again: %s", path, error)
        return {}


def _write(path: Path, settled: Mapping[str, Settled]) -> None:
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_bytes(format_applied(settled))
        temporary.replace(path)
    except OSError as error:
        raise TableFolderError(path, f"cannot be written: {error.strerror}") from error
