"""Until a server answers right for the first time: from its start, and from the registration of a version."""

import time
from contextlib import closing
from pathlib import Path

import grpc

from harness.contenders import Management, Running, Start
from harness.measure import WrongAnswerError
from harness.predict import PredictCaller
from harness.small_models import NOOP, Questions, archive_name
from satrap.protos import inference_pb2

__all__ = ["registration_seconds", "start_seconds"]

_SECONDS = 60.0
_PAUSE_SECONDS = 0.002
_NEW = "2.0"


def start_seconds(start: Start, store: Path, directory: Path, questions: Questions) -> float:
    """Start a server with one model that does nothing, wait for its first right prediction, stop it.

    Raises:
        WrongAnswerError: it did not answer right within a minute.
    """
    began = time.perf_counter()
    with start(store, directory, {NOOP: archive_name(NOOP, "1.0")}) as running:
        _until_right(running, questions, "1.0")
        return time.perf_counter() - began


def registration_seconds(running: Running, questions: Questions) -> float:
    """From RegisterModel of a second version, with one worker, to that version's first right answer.

    The version is removed again. Raises:
        WrongAnswerError: it did not answer right within a minute.
    """
    with Management(running.management) as management:
        began = time.perf_counter()
        management.register(archive_name(NOOP, _NEW))
        _until_right(running, questions, _NEW)
        seconds = time.perf_counter() - began
        management.unregister(NOOP, _NEW)
    return seconds


def _until_right(running: Running, questions: Questions, version: str) -> None:
    request = inference_pb2.PredictionsRequest.FromString(questions.payloads[0])
    request.model_version = version
    deadline = time.monotonic() + _SECONDS
    with closing(PredictCaller(running.inference)) as caller:
        while time.monotonic() < deadline:
            try:
                if caller.call(request) == version.encode():
                    return
            except grpc.RpcError:  # not there yet
                running.process.check_alive()
            time.sleep(_PAUSE_SECONDS)
    raise WrongAnswerError(f"{running.process.name} gave no right answer of version {version}")
