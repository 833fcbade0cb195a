"""Times the steps of a handler in a process of its own, without any server around it.

Run as a script, by `measure_stages`: it loads the handler's file, feeds it the payloads, and prints medians.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from satrap.protos import inference_pb2

__all__ = ["measure_stages"]

_REPEATS = 10
_SECONDS = 120.0


def measure_stages(
    handler: Path, directory: Path, payloads: Path, environ: Mapping[str, str]
) -> dict[str, float]:
    """Medians in ms of a handler's decode, look_up, predict, and of encoding its answer as JSON.

    `directory` holds what the handler reads at start, `payloads` serialized `PredictionsRequest`s.
    """
    done = subprocess.run(
        [sys.executable, __file__, handler, directory, payloads],
        env=dict(environ),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SECONDS,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _load(path: Path) -> Any:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return next(value for name, value in vars(module).items() if name.endswith("Handler"))()


def _main(handler_path: Path, directory: Path, payloads: Path) -> None:
    handler = _load(handler_path)
    handler.initialize(SimpleNamespace(system_properties={"model_dir": str(directory)}))
    messages = [
        inference_pb2.PredictionsRequest.FromString(path.read_bytes()) for path in sorted(payloads.iterdir())
    ]
    requests = [{key: bytearray(value) for key, value in message.input.items()} for message in messages]
    times: dict[str, list[float]] = {}

    def timed(name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = step(*arguments)
        times.setdefault(name, []).append(time.perf_counter() - start)
        return result

    for _ in range(_REPEATS):
        for request in requests:
            dense, ids = timed("decode", handler.decode, request)
            pooled = timed("look up", handler.look_up, dense, ids)
            answer = timed("model", handler.predict, dense, pooled)
            timed("encode", lambda value: json.dumps(value, indent=2).encode(), answer)
    warm = len(requests)
    json.dump({name: float(np.median(values[warm:])) * 1e3 for name, values in times.items()}, sys.stdout)


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
