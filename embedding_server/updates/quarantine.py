"""Packets that were refused: kept aside with the reason, until somebody decides.

    <identity folder>/quarantine/<name>/      one folder per packet; '/' and the like in names are %-escaped
        reason.json                           {"format": "satrap-quarantine", "version": 1, "name", "sequence", "code",
                                               "reason", "since_ns", "decision"}
        ...                                   copies of this shard's files and of the manifest, if they can be read

A record becomes visible whole (temporary name, rename) and outlives the server, but not the machine's memory: after a
reboot a packet is judged again. The newest `_KEPT_RECORDS` records stay, and of the copies as many as `_KEPT_BYTES`
hold: the memory is that of the tables.
"""

import contextlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

import xxhash

from satrap.embedding_server.table_errors import table_errors
from satrap.errors import ConflictError, InvalidInputError, NotFoundError, SatrapError, UpdateError
from satrap.protos import embedding_pb2 as pb

__all__ = ["Decision", "Quarantine", "Record", "answer_quarantine"]

log = logging.getLogger(__name__)

Decision = Literal["waiting", "skipped", "dropped"]
"""waiting: the stream holds here. skipped: it went on by the policy. dropped: it went on because somebody said so."""

_REASON = "reason.json"
_FORMAT, _VERSION = "satrap-quarantine", 1
_KEPT_RECORDS = 256
_KEPT_BYTES = 1 << 30
_MAX_NAME = 200


@dataclass(frozen=True)
class Record:
    """One refused packet. `code` and `reason` are the error's, `kept_at` the folder with the copies."""

    name: str
    sequence: int
    code: str
    reason: str
    since_ns: int
    decision: Decision
    kept_at: str = ""


class Quarantine:
    """The records of one shard. Any thread may call."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read or made before it is needed."""
        self._folder = folder
        self._lock = threading.RLock()
        self._known: dict[str, Record] | None = None

    def records(self) -> Mapping[str, Record]:
        """Every record by name, oldest first."""
        with self._lock:
            if self._known is None:
                found = [record for path in self._folders() if (record := _read(path)) is not None]
                self._known = {record.name: record for record in sorted(found, key=lambda one: one.since_ns)}
            return dict(self._known)

    def refuse(
        self,
        name: str,
        sequence: int,
        error: UpdateError,
        decision: Decision,
        copy: Callable[[Path], None],
        now_ns: int,
    ) -> Record:
        """Keep a packet aside; `copy` puts what can be read of it into a folder.

        One that is known keeps its time, and somebody's decision to drop it. Without room for copies, or for the record
        itself, the packet is refused all the same; the next start then judges it again.
        """
        with self._lock:
            known = self.records().get(name)
            folder = self._folder / _folder_name(name)
            record = Record(
                name,
                sequence,
                error.code,
                str(error),
                known.since_ns if known is not None else now_ns,
                "dropped" if known is not None and known.decision == "dropped" else decision,
                str(folder),
            )
            try:
                with table_errors(self._folder):
                    self._store(record, folder, copy)
            except SatrapError as trouble:
                log.warning("the quarantine record of %s cannot be written: %s", name, trouble)
            self._set(record)
            self._make_room()
            return record

    def drop(self, name: str) -> Record:
        """Let the stream go on without a packet, for good.

        Raises:
            NotFoundError: there is no record of it.
            NoSpaceError, TableFolderError: that cannot be written down.
        """
        with self._lock:
            record = replace(self._record(name), decision="dropped")
            with table_errors(self._folder):
                Path(record.kept_at).mkdir(mode=0o700, parents=True, exist_ok=True)
                _write(Path(record.kept_at), record)
            self._set(record)
            return record

    def retry(self, name: str) -> None:
        """Forget a packet, which is then judged again as if it had just come. Nothing if there is no record of it.

        Raises:
            TableFolderError: its folder cannot be removed.
        """
        with self._lock:
            record = self.records().get(name)
            if record is None:
                return
            with table_errors(self._folder):
                _remove(Path(record.kept_at))
            assert self._known is not None
            self._known = {other: kept for other, kept in self._known.items() if other != name}

    def _record(self, name: str) -> Record:
        records = self.records()
        if name not in records:
            raise NotFoundError(
                f"no packet {name!r} is in quarantine here: `satrap quarantine list` shows those that are"
            )
        return records[name]

    def _set(self, record: Record) -> None:
        self._known = {**self.records(), record.name: record}

    def _store(self, record: Record, folder: Path, copy: Callable[[Path], None]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        unnamed = folder.with_name(f".{folder.name}")
        _remove(unnamed)
        unnamed.mkdir(mode=0o700)
        try:
            copy(unnamed)
        except (SatrapError, OSError) as error:
            log.warning("%s cannot be copied to quarantine: %s", record.name, error)
        if sum(map(_size, unnamed.iterdir())) > _KEPT_BYTES:
            log.warning("%s is too large to be copied to quarantine", record.name)
            _remove(unnamed)
            unnamed.mkdir(mode=0o700)
        try:
            _write(unnamed, record)
            _remove(folder)
            unnamed.replace(folder)
        except OSError:
            _remove(unnamed)
            raise

    def _make_room(self) -> None:
        """Forget the oldest that are decided, then the copies of the oldest."""
        records = self.records()
        decided = [name for name, record in records.items() if record.decision != "waiting"]
        with contextlib.suppress(SatrapError):
            for name in decided[: max(0, len(records) - _KEPT_RECORDS)]:
                self.retry(name)
            left = _KEPT_BYTES
            for record in reversed(list(self.records().values())):
                copies = [path for path in Path(record.kept_at).glob("*") if path.name != _REASON]
                left -= sum(map(_size, copies))
                if left < 0:
                    with table_errors(self._folder):
                        for path in copies:
                            path.unlink(missing_ok=True)

    def _folders(self) -> list[Path]:
        try:
            return [
                path for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith(".")
            ]
        except OSError:
            return []


def answer_quarantine(
    quarantine: Quarantine, request: pb.QuarantineRequest, gone_past: Callable[[Record], bool]
) -> pb.QuarantineResponse:
    """List, or decide. `gone_past(record)`: the stream cannot come back to that packet.

    Raises:
        NotFoundError: there is no such record.
        ConflictError: a packet that the stream has gone past cannot be judged again.
    """
    if request.action == pb.QuarantineRequest.ACTION_LIST:
        records = list(quarantine.records().values())
    elif request.action == pb.QuarantineRequest.ACTION_DROP:
        records = [quarantine.drop(request.name)]
    elif request.action == pb.QuarantineRequest.ACTION_RETRY:
        record = quarantine.records().get(request.name)
        if record is None:
            raise NotFoundError(
                f"no packet {request.name!r} is in quarantine here: `satrap quarantine list` shows those that are"
            )
        if gone_past(record):
            raise ConflictError(
                f"{record.name}: the stream has gone past it, and packets are applied in order: `satrap rollback --to "
                f"{max(record.sequence - 1, 0)}`, retry it, and `satrap rollback --release`"
            )
        quarantine.retry(record.name)
        records = [record]
    else:
        raise InvalidInputError(f"there is no action {request.action}: a newer satrap asks an older server")
    return pb.QuarantineResponse(records=[_message(record, gone_past(record)) for record in records])


def _message(record: Record, gone_past: bool) -> pb.QuarantineRecord:
    return pb.QuarantineRecord(
        name=record.name,
        sequence=record.sequence,
        code=record.code,
        reason=record.reason,
        since_ns=record.since_ns,
        kept_at=record.kept_at,
        # A checkpoint beyond it ended the wait.
        decision="skipped" if record.decision == "waiting" and gone_past else record.decision,
    )


def _folder_name(name: str) -> str:
    """A name for one folder: whatever a packet is called, no path and no temporary name comes of it."""
    escaped = quote(name, safe="").replace(".", "%2E", 1) if name.startswith(".") else quote(name, safe="")
    if not escaped or len(escaped) > _MAX_NAME:
        escaped = f"{escaped[:_MAX_NAME]}-{xxhash.xxh3_64_hexdigest(name.encode())}"
    return escaped


def _write(folder: Path, record: Record) -> None:
    facts: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "name": record.name,
        "sequence": record.sequence,
        "code": record.code,
        "reason": record.reason,
        "since_ns": record.since_ns,
        "decision": record.decision,
    }
    unnamed = folder / f".{_REASON}"
    unnamed.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    unnamed.replace(folder / _REASON)


def _read(folder: Path) -> Record | None:
    """The record in a folder; one that cannot be read is as if it were not there: its packet is judged again."""
    try:
        facts = json.loads((folder / _REASON).read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT or facts["version"] != _VERSION:
            raise ValueError("it is of another version")
        if facts["decision"] not in get_args(Decision):
            raise ValueError(f"no such decision: {facts['decision']!r}")
        return Record(
            str(facts["name"]),
            int(facts["sequence"]),
            str(facts["code"]),
            str(facts["reason"]),
            int(facts["since_ns"]),
            facts["decision"],
            str(folder),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        log.warning("%s: is no quarantine record: %s", folder, error)
        return None


def _size(path: Path) -> int:
    return path.lstat().st_size


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
