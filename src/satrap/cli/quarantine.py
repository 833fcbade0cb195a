"""Packets that embedding servers refused: which, why, and what becomes of them."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from satrap.cli.records import print_record
from satrap.cli.shards import Said, ask_all, status_of_all
from satrap.cli.update_status import age
from satrap.errors import InvalidInputError, NotFoundError, SatrapError
from satrap.protos import embedding_pb2 as pb
from satrap.tls import Tls

__all__ = ["Refused", "collect", "decide", "show_list", "show_one"]

_SECONDS = 30.0
_ACTIONS = {"retry": pb.QuarantineRequest.ACTION_RETRY, "drop": pb.QuarantineRequest.ACTION_DROP}


@dataclass(frozen=True)
class Refused:
    """One packet that one server refused. `applied_by` are the shards that have applied it."""

    address: str
    shard: str
    name: str
    sequence: int
    code: str
    reason: str
    since_ns: int
    kept_at: str
    decision: str
    applied_by: tuple[str, ...] = ()


def collect(addresses: Sequence[str], tls: Tls | None = None) -> tuple[list[Refused], list[str]]:
    """Every record of every server, and a sentence for each server that did not say."""
    request = pb.QuarantineRequest(action=pb.QuarantineRequest.ACTION_LIST)
    statuses = status_of_all(addresses, tls)
    listed = ask_all(addresses, lambda stub: stub.Quarantine(request, timeout=_SECONDS), tls=tls)
    applied = {
        _shard(status): status.answer.updates.applied_sequence
        for status in statuses
        if status.answer is not None and status.answer.HasField("updates")
    }
    found = [
        (_shard(status), said.address, record)
        for status, said in zip(statuses, listed, strict=True)
        if said.answer is not None
        for record in said.answer.records
    ]
    holders = {(shard, record.name) for shard, _, record in found}
    records = [
        Refused(
            address,
            shard,
            record.name,
            record.sequence,
            record.code,
            record.reason,
            record.since_ns,
            record.kept_at,
            record.decision,
            tuple(
                other
                for other, sequence in applied.items()
                if 0 < record.sequence <= sequence and (other, record.name) not in holders
            ),
        )
        for shard, address, record in found
    ]
    silent = [f"{said.address}: {said.error}" for said in listed if said.error is not None]
    return records, silent


def show_list(records: Sequence[Refused], *, as_json: bool) -> None:
    """Print what was refused, one line each."""
    if as_json:
        print(json.dumps([asdict(record) for record in records], indent=2))
        return
    if not records:
        print("no packet is in quarantine")
        return
    now_ns = time.time_ns()
    for record in records:
        since = age(max(now_ns - record.since_ns, 0) / 1e9)
        print(f"{record.name}  shard {record.shard}  {record.decision}  {record.code}  {since} ago")


def show_one(records: Sequence[Refused], name: str, *, as_json: bool) -> None:
    """Print all about one packet.

    Raises:
        NotFoundError: no server has a record of it.
    """
    of_name = [record for record in records if record.name == name]
    if not of_name:
        raise NotFoundError(
            f"no server has {name!r} in quarantine: `satrap quarantine list` shows what they have"
        )
    if as_json:
        print(json.dumps([asdict(record) for record in of_name], indent=2))
        return
    for record in of_name:
        since = datetime.fromtimestamp(record.since_ns / 1e9, UTC)
        print_record(
            f"{record.name} at shard {record.shard} ({record.address})",
            [
                ("sequence", f"{record.sequence:,}"),
                ("decision", record.decision),
                ("since", f"{since:%Y-%m-%d %H:%M:%S} UTC"),
                ("code", record.code),
                ("reason", record.reason),
                ("kept at", record.kept_at),
                ("applied by", ", ".join(f"shard {shard}" for shard in record.applied_by)),
            ],
        )


def decide(
    addresses: Sequence[str], name: str, action: Literal["retry", "drop"], tls: Tls | None = None
) -> list[str]:
    """Retry or drop a packet wherever it is in quarantine, and say how far each server is then.

    Raises:
        NotFoundError: no server has a record of it.
        InvalidInputError: none of them could be asked.
        SatrapError: a server refuses; the others have done it.
    """
    lines = _halves(collect(addresses, tls)[0], name) if action == "drop" else []
    request = pb.QuarantineRequest(action=_ACTIONS[action], name=name)
    said_all = ask_all(addresses, lambda stub: stub.Quarantine(request, timeout=_SECONDS), tls=tls)
    done = [said.address for said in said_all if said.answer is not None]
    refusals = [said for said in said_all if said.error is not None and not _lacks(said.error)]
    if not done and not refusals:
        raise NotFoundError(
            f"no server has {name!r} in quarantine: `satrap quarantine list` shows what they have"
        )
    lines += [f"{address}: {'judged again' if action == 'retry' else 'dropped'}" for address in done]
    for said in ask_all(done, lambda stub: stub.FollowNow(pb.FollowNowRequest(), timeout=_SECONDS), tls=tls):
        if said.answer is not None:
            alarms = "".join(f"; {alarm.code}: {alarm.message}" for alarm in said.answer.alarms)
            lines.append(f"{said.address}: at sequence {said.answer.applied_sequence:,}{alarms}")
    if refusals:
        told = "; ".join(f"{said.address}: {said.error}" for said in refusals)
        raise InvalidInputError("; ".join((*lines, told)) if lines else told)
    return lines


def _halves(records: Sequence[Refused], name: str) -> list[str]:
    """What is left of a packet that is dropped where it was refused and applied elsewhere."""
    applied = {shard for record in records if record.name == name for shard in record.applied_by}
    if not applied:
        return []
    told = ", ".join(f"shard {shard}" for shard in sorted(applied))
    return [f"{told} applied it and keeps its rows (docs/operations.md says how to have none of it anywhere)"]


def _lacks(error: SatrapError) -> bool:
    """Whether a server answered that it has no such record, which is as good as done."""
    return isinstance(error, NotFoundError)


def _shard(said: Said[pb.StatusResponse]) -> str:
    if said.answer is None:
        return "?"
    return f"{said.answer.replica_index} of {said.answer.replica_size}"
