"""The trainer of `updates.py`, in a process of its own: publishes packets at their times, writes checkpoints.

Reads one JSON order a line from standard input, answers with one line each. `Publisher` is its other end.
"""

import contextlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.processes import ChildFailedError
from harness.update_rows import FEATURE, Stream, rows_of

__all__ = ["Publisher", "trainer"]

_NICE = 19
_CHUNK = 200_000
_PROGRESS_SECONDS = 0.2


@dataclass
class Publisher:
    """The process; every method waits for its answer."""

    process: "Popen[str]"
    log: Path

    def order(self, **order: object) -> dict[str, Any]:
        """Give one order, and return what the process answers.

        Raises:
            ChildFailedError: it ended; the text has the end of its log.
        """
        self.begin(**order)
        return self.answer()

    def begin(self, **order: object) -> None:
        """Give an order, whose answer is waited for by `answer`."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The answer to the order that was begun."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
            raise ChildFailedError(f"the publisher ended; the end of {self.log}:\n{tail}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def trainer(
    global_config: Path, embedding_config: Path, packets: Path, stream: Stream, log: Path
) -> Iterator[Publisher]:
    """A process that publishes into `packets`; it ends with the block."""
    command = [sys.executable, __file__, str(global_config), str(embedding_config), str(packets)]
    command += [str(stream.rows), str(stream.packet_rows), str(stream.seed)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (
        log.open("wb") as errors,
        Popen(
            command, stdin=PIPE, stdout=PIPE, stderr=errors, text=True, env=environ, start_new_session=True
        ) as process,
    ):
        try:
            yield Publisher(process, log)
        finally:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(20)
            except BaseException:
                process.kill()
                raise


class _Trainer:
    """What runs in the process."""

    def __init__(self, global_config: str, embedding_config: str, packets: str, stream: Stream) -> None:
        from satrap.trainer import TrainCtx

        self._stream = stream
        self._configs = (global_config, embedding_config)
        self._ctx = TrainCtx(*self._configs, directory=packets)
        self._decoy: TrainCtx | None = None
        self._done = 0
        self._ready: list[tuple[int, NDArray[np.uint64], NDArray[np.float32]]] = []

    def close(self) -> None:
        """Publish what waits."""
        for ctx in (self._ctx, self._decoy):
            if ctx is not None:
                ctx.close()

    def fill(self) -> dict[str, Any]:
        """Train the checkpoint's rows, published as packets on the way as in any training."""
        ids = self._stream.first_ids()
        for begin in range(0, len(ids), _CHUNK):
            part = ids[begin : begin + _CHUNK]
            self._ctx.commit(FEATURE, part, rows_of(part, 0))
            self._ctx.flush()
        return {"rows": self._ctx.row_count}

    def dump(self, to: str) -> dict[str, Any]:
        """Write a checkpoint: how long, and how much more memory was held at the same time than before."""
        before = _rss_bytes()
        greatest = [before]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                greatest[0] = max(greatest[0], _rss_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        dump = self._ctx.dump(to)
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        return {"seconds": seconds, "sequence": dump.sequence, "rss_bytes": before, "peak_bytes": greatest[0]}

    def prepare(self, count: int) -> dict[str, Any]:
        """Make the rows of the next packets, so that `publish` begins at once."""
        if not self._ready:
            numbers = range(self._done + 1, self._done + 1 + count)
            ready = [(number, self._stream.ids(number)) for number in numbers]
            self._ready = [(number, ids, rows_of(ids, number)) for number, ids in ready]
        return {"packets": len(self._ready)}

    def publish(self, count: int, every: float, decoy: str = "") -> dict[str, Any]:
        """Publish so many packets, one every so many seconds, each at its own time whatever the one before took.

        With `decoy` they go to a directory that nobody follows, as the same work.
        """
        from satrap.trainer import TrainCtx

        if decoy and self._decoy is None:
            self._decoy = TrainCtx(*self._configs, directory=decoy, stream="decoy")
        ctx = self._decoy if decoy else self._ctx
        assert ctx is not None
        self.prepare(count)
        packets, self._ready = self._ready, []
        cpu = time.process_time()
        published = []
        start = time.perf_counter()
        late = 0.0
        for turn, (number, ids, rows) in enumerate(packets):
            wait = start + turn * every - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            late = max(late, -wait)
            ctx.commit(FEATURE, ids, rows)
            published.append((number, ctx.flush(), time.time_ns()))
        seconds = time.perf_counter() - start
        if not decoy:
            self._done += count
        return {
            "packets": published,
            "seconds": seconds,
            "late_seconds": late,
            "cpu_seconds": time.process_time() - cpu,
        }


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _main() -> None:
    global_config, embedding_config, packets, *numbers = sys.argv[1:]
    os.nice(_NICE)  # a trainer runs on another machine: here it takes what lookups leave
    stream = Stream(*map(int, numbers))
    np.random.default_rng()  # imported before the first order
    one = _Trainer(global_config, embedding_config, packets, stream)
    try:
        for line in sys.stdin:
            order = json.loads(line)
            print(json.dumps(getattr(one, order.pop("do"))(**order)), flush=True)
    finally:
        one.close()


if __name__ == "__main__":
    _main()
