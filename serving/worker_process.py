"""The frontend's end of one worker: sends it batches, hears its answers, and knows when it is gone.

A worker is gone when its process has ended and everything that it sent has been read; that is reported once.
"""

import asyncio
import dataclasses
import logging
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from satrap.errors import UnavailableError
from satrap.serving.forks import Child, Template
from satrap.serving.frames import Bytes, Frame, FrameError, FrameParser, Kind, encode
from satrap.serving.observation import Observation
from satrap.serving.output import OutputLog
from satrap.serving.query import Query
from satrap.serving.request import NO_HEADERS, OK, Prediction, Request
from satrap.serving.worker.assignment import Assignment

__all__ = ["WorkerEvents", "WorkerProcess"]

log = logging.getLogger("satrap.serving")

_STOP_GRACE_SECONDS = 2.0
"""A worker that was told to end may take so long before it is killed."""

_TIMER_RESOLUTION = 0.002
"""uvloop counts whole milliseconds: a timer may fire so much too early."""

_LAST_WORDS_SECONDS = 1.0
"""After its process ended, its socket is read and the template's report awaited for so long at most: a grandchild
may keep the one open, and a template that is stopped never sends the other."""


def _content_type(query: Query, key: str) -> str:
    return query.content_types.get(key, "") if query.content_types else ""


class WorkerEvents(Protocol):
    """Who wants to know about a worker: the version that it belongs to."""

    def worker_loaded(self, worker: "WorkerProcess") -> None:
        """It has loaded the handler."""

    def worker_answered(
        self,
        worker: "WorkerProcess",
        batch: Sequence[Request],
        predictions: Sequence[Prediction],
        observations: Sequence[Observation],
    ) -> None:
        """It has answered a batch, whose requests know it already, and is idle."""

    def worker_ended(self, worker: "WorkerProcess", batch: Sequence[Request], reason: str) -> None:
        """It is gone; nobody has answered the `batch` that it had."""


class WorkerProcess(asyncio.Protocol):
    """One process. Belongs to the frontend's loop; `launch` starts it, `stop` or `kill` end it."""

    def __init__(self, number: int, assignment: Assignment, events: WorkerEvents) -> None:
        """Start nothing."""
        self.number = number
        self.started_at = time.time()
        self._assignment = dataclasses.replace(assignment, output_mark=secrets.token_hex(8))
        self._events = events
        self._name = f"{assignment.model} {assignment.version} worker {number}"
        self._child: Child | None = None
        self._forking: asyncio.Task[Any] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = FrameParser()
        self._batch: Sequence[Request] = ()
        self._timeout = math.inf
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
            UnavailableError: no process could be had, or it was killed before; nothing follows.
        """
        if self.is_ending:
            raise UnavailableError(self._reason)
        child = self._child = await self._fork(template)
        loop = asyncio.get_running_loop()
        OutputLog(child.output, self._name, self._assignment.output_mark)
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
        queries = [request.query for request in batch]
        head: dict[str, Any] = {
            "ids": [request.id for request in batch],
            "inputs": [
                [[key, len(value), _content_type(query, key)] for key, value in query.inputs.items()]
                for query in queries
            ],
        }
        if any(query.headers for query in queries):
            head["headers"] = [dict(query.headers or {}) for query in queries]
        now = time.monotonic()
        for request in batch:
            request.sent = now
        values = [value for query in queries for value in query.inputs.values()]
        self._send(encode(Kind.PREDICT, head, values))
        self._timeout = timeout
        self._expect(timeout, f"did not answer within {timeout:g} s")

    async def _fork(self, template: Template) -> Child:
        """The process, unless it is killed before it is there: a template may need long."""
        task = self._forking = asyncio.current_task()
        try:
            return await template.fork("worker", self._assignment.python)
        except asyncio.CancelledError:
            if not self.is_ending or task is None:
                raise
            task.uncancel()
            raise UnavailableError(self._reason) from None
        finally:
            self._forking = None

    def stop(self) -> None:
        """Let the idle worker end: it sees end-of-file. What does not end soon is killed."""
        self._reason = self._reason or "was stopped"
        if self._transport is not None:
            self._transport.close()
        self._expect(_STOP_GRACE_SECONDS, "did not end when it was told to")

    def kill(self, reason: str) -> None:
        """End the process at once; `worker_ended` follows with that reason, or `launch` fails with it."""
        self._reason = self._reason or reason
        if self._forking is not None:
            self._forking.cancel()
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
                longest = self._assignment.max_response_bytes
                predictions = [
                    request.whole(prediction, longest)
                    for request, prediction in zip(
                        batch, _predictions(frame, batch, time.monotonic()), strict=True
                    )
                ]
                for request, prediction in zip(batch, predictions, strict=True):
                    request.succeed(prediction)
                observations = [_observation(fields) for fields in frame.head.get("observations", ())]
                self._events.worker_answered(self, batch, predictions, observations)
            case Kind.PART if self._batch:
                self._receive_parts(frame)
            case _:
                raise FrameError(f"a {frame.kind.name} frame was not expected")

    def _receive_parts(self, frame: Frame) -> None:
        """Parts of streamed answers; the time for the next one starts anew."""
        now, start = time.monotonic(), 0
        self._expect(self._timeout, f"did not go on with its answer within {self._timeout:g} s")
        for place, code, length, *chosen in frame.head["parts"]:
            if not 0 <= place < len(self._batch):
                raise FrameError(f"a part of answer {place} to a batch of {len(self._batch)}")
            request = self._batch[place]
            value = frame.body[start : start + length]
            part = _prediction(request, code, value, chosen, {}, now)._replace(batch_size=len(self._batch))
            request.take_part(part, self._assignment.max_response_bytes)
            start += length

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
        how = self._child.ended.result() if self._child and self._child.ended.done() else "ended"
        self._events.worker_ended(self, batch, self._reason or how)


def _prediction(
    request: Request, code: int, value: bytes, chosen: list[Any], times: Mapping[str, float], now: float
) -> Prediction:
    """`chosen` are the handler's status, phrase and headers, if it chose any."""
    status, phrase, headers = chosen or (code, "", NO_HEADERS)
    return Prediction(
        code,
        value,
        times,
        status=status if code == OK else code,
        phrase=phrase,
        headers=headers,
        request_id=request.id,
        queue_seconds=request.sent - request.arrived,
        worker_seconds=now - request.sent,
    )


def _predictions(frame: Frame, batch: Sequence[Request], now: float) -> list[Prediction]:
    head, start = frame.head, 0
    predictions: list[Prediction] = []
    for place, (request, (code, length, *chosen)) in enumerate(zip(batch, head["answers"], strict=True)):
        value = frame.body[start : start + length]
        start += length
        predictions.append(
            _prediction(request, code, value, chosen, head["times"], now)._replace(
                is_stale=place in head["stale"], staleness_ms=head["staleness_ms"], batch_size=len(batch)
            )
        )
    return predictions


def _observation(fields: list[Any]) -> Observation:
    name, value, unit, kind, dimensions, request, is_exact = fields
    pairs = tuple((key, given) for key, given in dimensions)
    return Observation(name, value, unit, kind, pairs, request, is_exact)
