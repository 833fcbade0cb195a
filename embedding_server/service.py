"""The gRPC service: messages in, messages out."""

import logging
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

import grpc
import numpy as np

import satrap
from satrap._core.table import MAX_DIM, Table
from satrap.embedding_server.loading import LoadCancelled, LoadProgress
from satrap.embedding_server.snapshot import Phase
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.tables import Counters, Generation, RowDType
from satrap.embedding_server.updates.follower import Follower
from satrap.embedding_server.updates.status_messages import alarm_message, update_status
from satrap.errors import InvalidInputError, SatrapError, ShardMismatchError, UnavailableError
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.rpc import ErrorsAsStatus

__all__ = ["EmbeddingService"]

log = logging.getLogger(__name__)

_SIGN_BYTES = 8
_ANSWER_LIMIT = 2**31 - 2**16
"""Bytes of rows in one answer: gRPC's messages end at 2 GiB."""

_FOLLOW_SECONDS = 60.0
_ANSWER_SECONDS = 0.1
"""How long FollowNow waits at most, and how long before the caller's deadline it answers."""

_DTYPES: dict[RowDType, pb.DType] = {"float32": pb.DTYPE_FLOAT32, "float16": pb.DTYPE_FLOAT16}
_STATES = {
    Phase.LOADING: pb.STATE_LOADING,
    Phase.READY: pb.STATE_READY,
    Phase.FAILED: pb.STATE_FAILED,
}


class EmbeddingService(pb_grpc.EmbeddingServiceServicer):
    """Answers from whatever `state` serves at the moment. Any thread may call."""

    def __init__(
        self, state: ShardState, stopping: threading.Event, follower: Follower | None = None
    ) -> None:
        """`stopping` ends a load between two files. `follower` is None if nothing is followed."""
        self._state = state
        self._stopping = stopping
        self._follower = follower
        self._counters = Counters()
        self._shard = (state.owner.replica_index, state.owner.replica_size)

    def Lookup(self, request: pb.LookupRequest, context: grpc.ServicerContext) -> pb.LookupResponse:  # noqa: N802
        """Rows of each group's signs; zeros for those that are absent or of another dim, which are counted."""
        with ErrorsAsStatus(context):
            asked = (request.replica_index, request.replica_size)
            if asked != self._shard:
                raise ShardMismatchError(asked, self._shard)
            generation = self._state.generation()
            _check_size(request, np.dtype(generation.row_dtype).itemsize)
            _, newest_event_ns = self._state.applied()  # before the rows, which are at least as new
            return pb.LookupResponse(
                groups=[self._answer(generation, group.dim, group.signs) for group in request.groups],
                newest_event_ns=newest_event_ns,
            )
        raise AssertionError("abort() raised")

    def _answer(self, generation: Generation, dim: int, packed: bytes) -> pb.RowGroup:
        signs = np.frombuffer(packed, np.uint64)
        rows = np.empty((len(signs), dim), generation.row_dtype)
        found = np.empty(len(signs), np.uint8)
        table = generation.tables.get(dim)
        if table is None:
            rows.fill(0)
            absent = len(signs)
        else:
            absent = table.lookup(signs, rows, found)
        mismatched = _held_elsewhere(generation, dim, signs[found == 0] if table else signs) if absent else 0
        self._counters.add(len(signs), absent - mismatched, mismatched)
        return pb.RowGroup(
            dim=dim,
            dtype=_DTYPES[generation.row_dtype],
            rows=rows.tobytes(),
            missing=absent - mismatched,
            dim_mismatch=mismatched,
        )

    def LoadCheckpoint(  # noqa: N802
        self, request: pb.LoadCheckpointRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.LoadCheckpointProgress]:
        """Load, telling the progress; the load goes on if the caller goes away."""
        with ErrorsAsStatus(context):
            if not request.path:
                raise InvalidInputError(
                    "path is empty: name the directory of a checkpoint on the server's machine, or its URL"
                )
            for progress, generation in self._loaded(request.path):
                yield pb.LoadCheckpointProgress(
                    files_done=progress.files_done,
                    files_total=progress.files_total,
                    rows=progress.rows,
                    done=generation is not None,
                    warnings=generation.warnings if generation is not None else (),
                )

    def _loaded(self, path: str) -> Iterator[tuple[LoadProgress, Generation | None]]:
        """Progress while a thread loads; the last item has the generation. Raises what the load raises."""
        told: queue.SimpleQueue[LoadProgress | Generation | BaseException] = queue.SimpleQueue()

        def load() -> None:
            try:
                catch_up = self._follower.catch_up if self._follower is not None else lambda target: None
                told.put(self._state.load(path, told.put, self._stopping, catch_up))
                if self._follower is not None:
                    self._follower.wake()
            except LoadCancelled:
                told.put(UnavailableError(f"load of {path} was given up: the server is stopping"))
            except Exception as error:  # goes to the caller, below
                log.warning("load of %s failed: %s", path, error)
                told.put(error)

        threading.Thread(target=load, name="load-checkpoint").start()
        progress = LoadProgress()
        while True:
            item = told.get()
            if isinstance(item, BaseException):
                raise (
                    item if isinstance(item, SatrapError) else SatrapError(f"load of {path} failed: {item!r}")
                )
            if isinstance(item, Generation):
                for warning in item.warnings:
                    log.warning("%s", warning)
                yield progress, item
                return
            progress = item
            yield progress, None

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:  # noqa: N802
        """What is served, what is being loaded, what was asked."""
        return self.status()

    def status(self) -> pb.StatusResponse:
        """What Status answers."""
        snapshot = self._state.snapshot
        generation = snapshot.generation
        totals = self._counters.totals
        return pb.StatusResponse(
            state=_STATES[snapshot.phase],
            message=snapshot.message,
            progress=1.0
            if snapshot.phase is Phase.READY and not snapshot.loading
            else snapshot.progress.fraction,
            replica_index=self._shard[0],
            replica_size=self._shard[1],
            checkpoint=generation.checkpoint if generation else "",
            tables=[_table_status(table) for table in generation.tables.values()] if generation else [],
            lookups=totals.lookups,
            missing=totals.missing,
            dim_mismatch=totals.dim_mismatch,
            warnings=generation.warnings if generation else (),
            version=satrap.__version__,
            instance_id=generation.instance_id if generation else b"",
            table_path=generation.folder if generation else "",
            server_uid=os.geteuid(),
            started=snapshot.started,
            updates=self._update_status(),
        )

    def FollowNow(self, request: pb.FollowNowRequest, context: grpc.ServicerContext) -> pb.FollowNowResponse:  # noqa: N802
        """Look for packets now, and answer when nothing more can be applied, or shortly before the deadline."""
        with ErrorsAsStatus(context):
            left = context.time_remaining()
            patience = _FOLLOW_SECONDS if left is None else min(left - _ANSWER_SECONDS, _FOLLOW_SECONDS)
            status = self._following().follow_now(patience)
            return pb.FollowNowResponse(
                applied_sequence=status.applied, alarms=[alarm_message(alarm) for alarm in status.alarms]
            )
        raise AssertionError("abort() raised")

    def Quarantine(  # noqa: N802
        self, request: pb.QuarantineRequest, context: grpc.ServicerContext
    ) -> pb.QuarantineResponse:
        """List what was refused, or decide what becomes of it."""
        with ErrorsAsStatus(context):
            return self._following().answer_quarantine(request)
        raise AssertionError("abort() raised")

    def _update_status(self) -> pb.UpdateStatus | None:
        if self._follower is None:
            return None
        # Of the tables in use: the follower's own word may still be of those before a switch.
        applied, newest_event_ns = self._state.applied()
        return update_status(replace(self._follower.status, applied=applied, newest_event_ns=newest_event_ns))

    def _following(self) -> Follower:
        if self._follower is None:
            raise InvalidInputError(
                "this server follows no packets: start it with --packets, or set updates.directory"
            )
        return self._follower


def _check_size(request: pb.LookupRequest, item_size: int) -> None:
    """Refuse what cannot be answered before anything is allocated for it."""
    answer = 0
    for position, group in enumerate(request.groups):
        size = len(group.signs)
        if size % _SIGN_BYTES:
            raise InvalidInputError(
                f"groups[{position}].signs has {size} bytes, which is no multiple of {_SIGN_BYTES}: signs are "
                "packed little-endian u64"
            )
        if not 1 <= group.dim <= MAX_DIM:
            raise InvalidInputError(f"groups[{position}].dim is {group.dim}; it must be 1 to {MAX_DIM}")
        answer += size // _SIGN_BYTES * group.dim * item_size
    if answer > _ANSWER_LIMIT:
        raise InvalidInputError(
            f"the rows asked for are {answer:,} bytes, more than one answer can hold ({_ANSWER_LIMIT:,}): ask for "
            "fewer signs at a time"
        )


def _held_elsewhere(generation: Generation, dim: int, signs: np.ndarray) -> int:
    """How many of `signs`, which the table of `dim` does not hold, are in a table of another dim."""
    held = np.zeros(len(signs), np.bool_)
    found = np.empty(len(signs), np.uint8)
    for other, table in generation.tables.items():
        if other != dim and table.contains(signs, found):
            held |= found.view(np.bool_)
    return int(held.sum())


def _table_status(table: Table) -> pb.TableStatus:
    return pb.TableStatus(
        dim=table.dim,
        dtype=_DTYPES[table.dtype],
        rows=len(table),
        bytes=table.bytes,
        huge_pages=table.huge_pages,
    )
