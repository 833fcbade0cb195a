"""What nobody needs of a packet directory and a folder of checkpoints, and its removal.

`stored` looks what there is, `satrap.retention` decides.
"""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from rich.filesize import decimal

from satrap.cli.progress import item_progress
from satrap.cli.records import print_record
from satrap.cli.shards import STATUS_SECONDS, Said, ask_all, status_of_all
from satrap.cli.stored import Found, find_checkpoints, find_packets, spelled_once
from satrap.embedding_server.origin import PERSIA_STREAM
from satrap.errors import InvalidInputError, StorageError
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.retention import PrunePlan, ServerPosition, plan_pruning
from satrap.storage import Storage, StorageKind, open_storage
from satrap.tls import Tls

__all__ = ["Asked", "Survey", "remove", "show", "survey"]


@dataclass(frozen=True)
class Asked:
    """What is to be pruned, by which rules. Locations are paths or URLs, empty: none. `storage` says what a path of
    packets without a scheme means.
    """

    packets: str = ""
    checkpoints: str = ""
    storage: StorageKind = "local"
    margin_seconds: int = 600
    keep: int = 2
    servers: tuple[str, ...] = ()
    tls: Tls | None = None


@dataclass
class Survey:
    """What was found, what is planned, and in which storage each publication lies, by its name."""

    plan: PrunePlan
    homes: dict[str, Storage]
    remarks: list[str] = field(default_factory=list)


def survey(asked: Asked, *, now_ns: int | None = None) -> Survey:
    """Look what there is, ask the servers, and plan. Nothing is changed.

    Raises:
        InvalidInputError: neither packets nor checkpoints are named, or there is no such directory.
        CheckpointError: there is no such folder of checkpoints, or the one that is named cannot be used.
        UpdateError: a hold cannot be read, so it is not known what it needs.
        StorageError: something cannot be listed.
    """
    if not asked.packets and not asked.checkpoints:
        raise InvalidInputError(
            "nothing is named: pass --packets and --checkpoints, or set updates.directory and "
            "infer_config.embedding_checkpoint"
        )
    found: list[Found] = []
    if asked.checkpoints:
        found.append(find_checkpoints(open_storage(asked.checkpoints), asked.margin_seconds))
    if asked.packets:
        found.append(find_packets(open_storage(asked.packets, asked.storage)))
    servers, remarks = _ask(asked.servers, asked.tls)
    plan = plan_pruning(
        [checkpoint for place in found for checkpoint in place.checkpoints],
        [packet for place in found for packet in place.packets],
        remainders=[remainder for place in found for remainder in place.remainders],
        servers=servers,
        holds={stream: through for place in found for stream, through in place.holds.items()},
        keep=asked.keep,
        now_ns=time.time_ns() if now_ns is None else now_ns,
    )
    return Survey(
        plan,
        {name: place.storage for place in found for name in place.names()},
        [*(remark for place in found for remark in place.remarks), *remarks],
    )


def remove(surveyed: Survey) -> None:
    """Remove what is planned, in its order. What has gone meanwhile is gone.

    Raises:
        StorageError: something cannot be removed; what is left hangs together, and goes the next time.
    """
    with item_progress("removing", len(surveyed.plan.removed)) as step:
        for publication in surveyed.plan.removed:
            storage = surveyed.homes[publication.name]
            for file in publication.files:
                with suppress(FileNotFoundError):
                    storage.remove(file)
            for folder in publication.folders:
                with suppress(
                    FileNotFoundError, StorageError
                ):  # somebody else's file is in it, or there are no folders
                    storage.remove(folder)
            step()


def show(surveyed: Survey, *, removed: bool, as_json: bool) -> None:
    """Print what goes, or has gone, what stays, and why."""
    plan = surveyed.plan
    remarks = [*surveyed.remarks, *plan.remarks]
    if as_json:
        print(json.dumps(_facts(plan, remarks, removed), indent=2))
        return
    for kept in plan.kept:
        if not kept.stream:
            continue
        print_record(
            f"stream {kept.stream}",
            [
                ("checkpoints", ", ".join(item.publication.name for item in kept.checkpoints)),
                ("packets", f"{kept.packets:,}"),
                (
                    "needed",
                    "all of them" if kept.covers is None else f"what comes after {kept.covers:,}",
                ),
                ("because", kept.reason),
            ],
        )
    print_record(
        "removed" if removed else "can be removed",
        [
            ("checkpoints", ", ".join(item.publication.name for item in plan.checkpoints) or "none"),
            ("packets", _span([item.publication.name for item in plan.packets])),
            ("remainders", _span([item.publication.name for item in plan.remainders])),
            ("bytes", decimal(plan.bytes)),
        ],
    )
    for remark in remarks:
        print(f"note: {remark}")
    if plan.removed and not removed:
        print("nothing was removed; pass --yes to do it")


def _span(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{len(names):,}, {names[0]} to {names[-1]}"


def _facts(plan: PrunePlan, remarks: Sequence[str], removed: bool) -> dict[str, object]:
    return {
        "removed": removed,
        "bytes": plan.bytes,
        "checkpoints": [item.publication.name for item in plan.checkpoints],
        "packets": [item.publication.name for item in plan.packets],
        "remainders": [item.publication.name for item in plan.remainders],
        "kept": [
            {
                "stream": kept.stream,
                "checkpoints": [item.publication.name for item in kept.checkpoints],
                "packets": kept.packets,
                "needed_after": kept.covers,
                "reason": kept.reason,
            }
            for kept in plan.kept
        ],
        "notes": list(remarks),
    }


def _ask(addresses: Sequence[str], tls: Tls | None) -> tuple[list[ServerPosition], list[str]]:
    """How far each server is, and what to say of those that did not answer."""
    if not addresses:
        return [], ["no embedding server is known (--shards): what one has not applied yet is not looked at"]
    refused = {said.address: said for said in ask_all(addresses, _list_quarantine, tls=tls)}
    servers, remarks = [], []
    for said in status_of_all(addresses, tls):
        if said.answer is None:
            remarks.append(
                f"{said.address} was not asked ({said.error}): if it misses packets that go now, it has to load a "
                "checkpoint"
            )
        elif said.answer.HasField("updates") and said.answer.updates.stream:
            servers.append(_position(said.address, said.answer, refused[said.address]))
    return servers, remarks


def _list_quarantine(stub: pb_grpc.EmbeddingServiceStub) -> pb.QuarantineResponse:
    request = pb.QuarantineRequest(action=pb.QuarantineRequest.ACTION_LIST)
    answer: pb.QuarantineResponse = stub.Quarantine(request, timeout=STATUS_SECONDS)
    return answer


def _position(
    address: str, answer: pb.StatusResponse, refused: Said[pb.QuarantineResponse]
) -> ServerPosition:
    updates = answer.updates
    applied: int | None = updates.applied_sequence
    if updates.stream == PERSIA_STREAM:  # nobody knows what is missing, but whether something is
        applied = None if updates.packets_behind else sys.maxsize
    records = refused.answer.records if refused.answer is not None else ()
    return ServerPosition(
        address,
        updates.stream,
        applied,
        spelled_once(answer.checkpoint),
        frozenset(record.name for record in records if record.decision == "waiting"),
    )
