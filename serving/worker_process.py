"""The frontend's end of one worker: sends it batches, hears its answers, and knows when it is gone.

A worker is gone when its process has ended and everything that it sent has been read; that is reported once.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from satrap.errors import SatrapError, WorkerDiedError
from satrap.serving.forks import Child, Template
from satrap.serving.frames import Bytes, Frame, FrameError, FrameParser, Kind, encode
from satrap.serving.output import OutputLog
from satrap.serving.worker.assignment import Assignment

__all__ = ["Prediction", "Request", "WorkerEvents", "WorkerProcess"]

log = logging.getLogger("satrap.serving")

_STOP_GRACE_SECONDS = 2.0
"""A worker that was told to end may take so long before it is killed."""

_TIMER_RESOLUTION = 0.002
"""uvloop counts whole milliseconds: a timer may fire so much too early."""

_LAST_WORDS_SECONDS = 1.0
"""After its process ended, its socket is read and the template's report awaited for so long at most: a grandchild
may keep the one open, and a template that is stopped never sends the other."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A worker's answer to one request: an HTTP status, and the prediction (200) or an error's sentence.

    `times` are milliseconds of its batch: `handler`, and the parts of it that the handler reported. `is_stale`: it was
    made from embeddings that may be out of date. `staleness_ms`: the age of the newest training event in its batch's
    embeddings; None: not known.
    """

    code: int
    value: bytes
    times: Mapping[str, float]
    is_stale: bool = False
    staleness_ms: int | None = None


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way; `answer` is done when it is answered, failed or abandoned."""

    id: str
    inputs: Mapping[str, Bytes]
    answer: asyncio.Future[Prediction]
    content_types: Mapping[str, str] | None = None

    def fail(self, error: SatrapError) -> None:
        """Answer with an error, if nothing has answered yet."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def succeed(self, prediction: Prediction) -> None:
        """Answer with what the worker said, if somebody still waits."""
        if not self.answer.done():
            self.answer.set_result(prediction)


def _content_type(request: Request, key: str) -> str:
    return request.content_types.get(key, "") if request.content_types else ""


class WorkerEvents(Protocol):
    """Who wants to know about a worker: the version that it belongs to."""

    def worker_loaded(self, worker: "WorkerProcess") -> None:
        """It has loaded the handler."""

    def worker_answered(self, worker: "WorkerProcess", count: int) -> None:
        """It has answered a batch of `count` and is idle."""

    def worker_ended(self, worker: "WorkerProcess", count: int, reason: str) -> None:
        """It is gone; `count` requests that it had were failed."""


class WorkerProcess(asyncio.Protocol):
    """One process. Belongs to the frontend's loop; `launch` starts it, `stop` or `kill` end it."""

    def __init__(self, number: int, assignment: Assignment, events: WorkerEvents) -> None:
        """Start nothing."""
        self.number = number
        self.started_at = time.time()
        self._assignment, self._events = assignment, events
        self._name = f"{assignment.model} {assignment.version} worker {number}"
        self._child: Child | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = FrameParser()
        self._batch: Sequence[Request] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._due = math.inf
        self._due_reason = ""
        self._reason = ""
        self._process_ended = self._connection_ended = False
        self.gone = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process's id, once it has one."""
        return self._child.pid if self._child else None

    @property
    def is_ending(self) -> bool:
        """It was told to end, or is known to."""
        return bool(self._reason)

    async def launch(self, template: Template, startup_timeout: float) -> None:
        """Fork the process and send it its assignment; `worker_loaded` or `worker_ended` follow.

        Raises:
            UnavailableError: no process could be had; nothing follows.
        """
        child = self._child = await template.fork("worker")
        loop = asyncio.get_running_loop()
        OutputLog(child.output, self._name)
        loop.add_reader(child.pidfd, self._on_process_end)
        await loop.create_unix_connection(lambda: self, sock=child.connection)
        if self._reason:  # stopped meanwhile
            self.kill(self._reason)
            return
        self._send(encode(Kind.LOAD, self._assignment.to_head()))
        self._expect(startup_timeout, f"did not load its handler within {startup_timeout:g} s")

    def predict(self, batch: Sequence[Request], timeout: float) -> None:
        """Send a batch to the idle worker; it is killed if it does not answer within `timeout` seconds."""
        self._batch = batch
        head = {
            "ids": [request.id for request in batch],
            "inputs": [
                [[key, len(value), _content_type(request, key)] for key, value in request.inputs.items()]
                for request in batch
            ],
        }
        values = [value for request in batch for value in request.inputs.values()]
        self._send(encode(Kind.PREDICT, head, values))
        self._expect(timeout, f"did not answer within {timeout:g} s")

    def stop(self) -> None:
        """Let the idle worker end: it sees end-of-file. What does not end soon is killed."""
        self._reason = self._reason or "was stopped"
        if self._transport is not None:
            self._transport.close()
        self._expect(_STOP_GRACE_SECONDS, "did not end when it was told to")

    def kill(self, reason: str) -> None:
        """End the process at once; `worker_ended` follows with that reason."""
        self._reason = self._reason or reason
        if self._child is not None and not self._process_ended:
            self._child.kill()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are of no common class

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        try:
            for frame in self._parser.feed(data):
                self._receive(frame)
        except FrameError as error:
            self.kill(f"sent something unreadable: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`: a worker without its connection is of no use."""
        self._connection_ended = True
        if not self._process_ended and not self._reason:
            # It closed the socket, or is ending just now: its own end tells more than our signal would.
            self._expect(_LAST_WORDS_SECONDS, "closed its connection")
        self._finish_if_gone()

    def _receive(self, frame: Frame) -> None:
        self._met()
        match frame.kind:
            case Kind.READY:
                self._events.worker_loaded(self)
            case Kind.FAILED:
                self._reason = str(frame.head["reason"])
            case Kind.ANSWER if len(frame.head["answers"]) == len(self._batch) > 0:
                batch, self._batch = self._batch, ()
                start, times, stale = 0, frame.head["times"], frame.head["stale"]
                staleness_ms = frame.head["staleness_ms"]
                for place, (request, (code, length)) in enumerate(
                    zip(batch, frame.head["answers"], strict=True)
                ):
                    value = frame.body[start : start + length]
                    request.succeed(Prediction(code, value, times, place in stale, staleness_ms))
                    start += length
                self._events.worker_answered(self, len(batch))
            case _:
                raise FrameError(f"a {frame.kind.name} frame was not expected")

    def _send(self, buffers: list[Bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(buffers)

    def _expect(self, seconds: float, reason: str) -> None:
        """Kill the worker in `seconds` for that reason, unless `_met` or another `_expect` comes first.

        A timer that is running already is left to run: when it fires early it is set again. So requests that
        are answered in time cost no timer each.
        """
        self._due, self._due_reason = time.monotonic() + seconds, reason
        if self._timer is None or self._timer_at > self._due:
            self._set_timer(seconds)

    def _met(self) -> None:
        self._due = math.inf

    def _set_timer(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer_at = time.monotonic() + seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        remaining = self._due - time.monotonic()
        if remaining <= _TIMER_RESOLUTION:
            log.error("%s (pid %s) %s and is killed", self._name, self.pid, self._due_reason)
            self.kill(self._due_reason)
        elif self._due < math.inf:
            self._set_timer(remaining)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_process_end(self) -> None:
        assert self._child is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._child.pidfd)
        os.close(self._child.pidfd)
        self._process_ended = True
        self._cancel_timer()
        self._timer = loop.call_later(_LAST_WORDS_SECONDS, self._finish)
        self._child.ended.add_done_callback(lambda _: self._finish_if_gone())

    def _finish_if_gone(self) -> None:
        if self._process_ended and self._connection_ended and self._child and self._child.ended.done():
            self._finish()

    def _finish(self) -> None:
        if self.gone.is_set():
            return
        self.gone.set()
        self._cancel_timer()
        if self._transport is not None:
            self._transport.abort()
        batch, self._batch = self._batch, ()
        for request in batch:
            request.fail(WorkerDiedError(self._assignment.model, self._assignment.version))
        how = self._child.ended.result() if self._child and self._child.ended.done() else "ended"
        self._events.worker_ended(self, len(batch), self._reason or how)
