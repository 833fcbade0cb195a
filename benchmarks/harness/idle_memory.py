"""How much memory a server holds with three small models that nobody calls."""

import contextlib
import time
from contextlib import closing
from pathlib import Path

import psutil

from harness.contenders import Running, Start
from harness.predict import PredictCaller
from harness.small_models import IMAGE, NOOP, PLAIN, Questions, archive_name
from satrap.protos import inference_pb2

__all__ = ["idle_megabytes"]

_QUIET_SECONDS = 2.0
_MODELS = (NOOP, IMAGE, PLAIN)


def idle_megabytes(start: Start, store: Path, directory: Path, questions: dict[str, Questions]) -> float:
    """Start a server with three models, call each once, leave it alone, and add up the PSS of all its processes, MB.

    PSS counts a page that n processes share as 1/n in each, so the sum counts every page once.
    """
    with start(store, directory, {model: archive_name(model, "1.0") for model in _MODELS}) as running:
        with closing(PredictCaller(running.inference)) as caller:
            for model in (NOOP, IMAGE):
                caller.call(inference_pb2.PredictionsRequest.FromString(questions[model].payloads[0]))
        time.sleep(_QUIET_SECONDS)
        return _pss(running) / 2**20


def _pss(running: Running) -> int:
    root = psutil.Process(running.process.pid)
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total
