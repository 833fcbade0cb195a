"""A worker's life: take the assignment, load the handler, answer batches until the frontend hangs up."""

import gc
import logging
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from satrap import __version__
from satrap.middleware import Marks, hear
from satrap.serving.archive.warmup import WarmupError, read_warmup
from satrap.serving.context import Context, RequestProcessor
from satrap.serving.frames import Bytes, Kind, encode, read_into, receive_head
from satrap.serving.headers import STALE_HEADER
from satrap.serving.observation import PHASE, Observation
from satrap.serving.prediction import PredictionException
from satrap.serving.worker import surroundings
from satrap.serving.worker.assignment import Assignment
from satrap.serving.worker.handler_loading import EntryPoint, load_entry_point
from satrap.serving.worker.inputs import decode_input
from satrap.serving.worker.priority import in_background
from satrap.serving.worker.results import OK, Answer, answers_of, encode_answer, error_answer

__all__ = ["run"]

log = logging.getLogger("satrap.serving.worker")

_IOV_MAX = 1024
"""Buffers that one gathering write takes (Linux)."""


def run(connection: socket.socket) -> None:
    """Be a worker on that connection; returns when the frontend hangs up or the handler cannot be loaded."""
    received = receive_head(connection)
    if received is None:
        return
    assignment = Assignment.from_head(received[1])
    surroundings.prepare(assignment, connection)
    context = _context(assignment)
    with in_background():
        try:
            entry = load_entry_point(assignment.handler, Path(assignment.directory), context)
        except Exception as error:
            log.exception("handler %r could not be loaded", assignment.handler)
            _send(connection, Kind.FAILED, {"reason": f"{type(error).__name__}: {error}"}, [])
            return
        if assignment.warmup and (failure := _warm_up(entry, context, assignment)):
            _send(connection, Kind.FAILED, {"reason": f"warm-up by {assignment.warmup}: {failure}"}, [])
            return
    gc.freeze()  # the handler and its model stay: no collection needs to look at them while requests wait
    _send(connection, Kind.READY, {}, [])
    while (batch := _receive_batch(connection, decode=assignment.decode_inputs)) is not None:
        head, data = batch
        _set_requests(context, head)
        context.send_part = _part_sender(connection, context, assignment.max_response_bytes)
        started = time.perf_counter()
        with hear() as marks:
            answers = _predict(entry, data, context, assignment.max_response_bytes)
        seconds = time.perf_counter() - started
        context.send_part = None
        observations = context.metrics.take()
        answered = {
            "answers": [_head_of(a, context.request_processor[i]) for i, a in enumerate(answers)],
            "times": {**_times(observations), "handler": seconds * 1e3},
            "stale": _stale_places(context, marks),
            "staleness_ms": marks.staleness_ms,
        }
        if observations:
            answered["observations"] = [
                [o.name, o.value, o.unit, o.type, o.dimensions, o.request, o.is_exact] for o in observations
            ]
        _send(connection, Kind.ANSWER, answered, [a.value for a in answers])


def _warm_up(entry: EntryPoint, context: Context, assignment: Assignment) -> str:
    """Answer the requests of the archive's warm-up file, one by one; returns what went wrong, or nothing."""
    try:
        warmup = read_warmup(Path(assignment.directory), assignment.warmup)
    except (WarmupError, OSError) as error:
        return str(error)
    started = time.perf_counter()
    context.send_part = lambda values, places: None
    for _ in range(warmup.repeat):
        for place, inputs in enumerate(warmup.requests):
            described = [[key, len(value), content_type] for key, (value, content_type) in inputs.items()]
            _set_requests(context, {"ids": [f"warmup-{place}"], "inputs": [described]})
            data = {
                key: decode_input(bytearray(value), content_type)
                if assignment.decode_inputs
                else bytearray(value)
                for key, (value, content_type) in inputs.items()
            }
            (answer,) = _predict(entry, [data], context, assignment.max_response_bytes)
            context.metrics.take()  # they are no request's
            if answer.code != OK:
                return f"request {place} was answered {answer.code}: {bytes(answer.value).decode(errors='replace')}"
    context.send_part = None
    count = warmup.repeat * len(warmup.requests)
    log.info("warmed up by %d requests in %.3f s", count, time.perf_counter() - started)
    return ""


def _context(assignment: Assignment) -> Context:
    context = Context(
        assignment.model,
        assignment.directory,
        assignment.manifest,
        assignment.batch_size,
        assignment.gpu,
        __version__,
        assignment.limit_max_image_pixels,
        model_yaml_config=_model_config(assignment),
    )
    for kind, name, unit, dimensions in assignment.metrics:
        context.metrics.add_metric_to_cache(name, unit, dimensions, kind)
    return context


def _model_config(assignment: Assignment) -> dict[str, Any]:
    name = assignment.manifest.get("model", {}).get("configFile")
    if not name:
        return {}
    config = yaml.safe_load((Path(assignment.directory) / name).read_text())
    return config if isinstance(config, dict) else {}


def _receive_batch(
    connection: socket.socket, *, decode: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    received = receive_head(connection)
    if received is None:
        return None
    _, head, _ = received
    data: list[dict[str, Any]] = []
    for inputs in head["inputs"]:
        request: dict[str, Any] = {}
        for key, length, content_type in inputs:
            value = bytearray(length)
            if not read_into(connection, value):
                return None
            request[key] = decode_input(value, content_type) if decode else value
        data.append(request)
    return head, data


def _set_requests(context: Context, head: dict[str, Any]) -> None:
    context.request_ids = dict(enumerate(head["ids"]))
    headers = head.get("headers") or [{}] * len(head["inputs"])
    context.request_processor = [
        RequestProcessor(
            {**{key: {"content-type": content_type} for key, _, content_type in inputs}, **given}
        )
        for inputs, given in zip(head["inputs"], headers, strict=True)
    ]


def _part_sender(
    connection: socket.socket, context: Context, max_bytes: int
) -> Callable[[Any, Iterable[int]], None]:
    def send(values: Any, places: Iterable[int]) -> None:
        chosen = list(places)
        answers = [encode_answer(values[place], max_bytes) for place in chosen]
        parts = [
            [place, *_head_of(answer, context.request_processor[place])]
            for place, answer in zip(chosen, answers, strict=True)
        ]
        _send(connection, Kind.PART, {"parts": parts}, [answer.value for answer in answers])

    return send


def _head_of(answer: Answer, processor: RequestProcessor) -> list[Any]:
    """An answer's fields in a head: what the handler chose for it only if it chose something."""
    headers = processor.get_response_headers()
    status, phrase = processor.get_response_status_code(), processor.get_response_status_phrase()
    if answer.code != OK or (status == OK and not phrase and not headers):
        return [answer.code, len(answer.value)]
    return [
        answer.code,
        len(answer.value),
        status,
        phrase or "",
        {key: str(value) for key, value in headers.items()},
    ]


def _predict(entry: EntryPoint, data: list[Any], context: Context, max_bytes: int) -> list[Answer]:
    try:
        returned = entry(data, context)
    except PredictionException as error:
        log.warning("the handler answered %s: %s", error.error_code, error.message)
        return [error_answer(error)] * len(data)
    except Exception as error:
        log.exception("the handler failed on a batch of %d", len(data))
        return [error_answer(error)] * len(data)
    return answers_of(returned, len(data), max_bytes)


def _stale_places(context: Context, marks: Marks) -> list[int]:
    """All, if a lookup of the batch was stale; else those that the handler itself marked."""
    return [
        place
        for place, processor in enumerate(context.request_processor)
        if marks.is_stale or processor.get_response_header(STALE_HEADER)
    ]


def _times(observations: Iterable[Observation]) -> dict[str, float]:
    """The phases and durations that the handler reported for this batch, in milliseconds, by name."""
    times: dict[str, float] = {}
    for observation in observations:
        if observation.name == PHASE:
            phase = observation.dimensions[0][1]
            times[phase] = times.get(phase, 0.0) + observation.value * 1e3
        elif observation.unit == "ms" and not observation.dimensions:
            times[observation.name] = times.get(observation.name, 0.0) + observation.value
    return times


def _send(connection: socket.socket, kind: Kind, head: dict[str, Any], values: list[Bytes]) -> None:
    buffers = encode(kind, head, values)
    sent = connection.sendmsg(buffers[:_IOV_MAX])
    if sent == sum(map(len, buffers)):
        return
    for buffer in buffers:  # what one gathering write did not take
        if sent >= len(buffer):
            sent -= len(buffer)
        else:
            connection.sendall(memoryview(buffer)[sent:])
            sent = 0
