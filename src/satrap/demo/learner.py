"""Training that goes on while the model is served: clicks arrive at a steady pace, a thread learns from them."""

import copy
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from satrap.demo.clicks import Clicks
from satrap.demo.model import DenseModel, Trainer

__all__ = ["Learner"]


class Learner:
    """Learns from `clicks`, one batch after another, until there are no more. A context manager: leaving it stops."""

    def __init__(self, trainer: Trainer, clicks: Clicks, *, batch: int, clicks_per_second: float) -> None:
        self._trainer, self._batches = trainer, clicks.chunks(batch)
        self._seconds = batch / clicks_per_second
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-learner")
        self._error: BaseException | None = None
        self._learned = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def learned(self) -> int:
        """Clicks learned from so far.

        Raises:
            Exception: what ended the thread.
        """
        if self._error is not None:
            raise self._error
        return self._learned

    def dense(self) -> DenseModel:
        """The dense model between two steps."""
        with self._lock:
            return copy.deepcopy(self._trainer.dense)

    def _run(self) -> None:
        try:
            for batch in self._arriving():
                with self._lock:
                    self._trainer.learn(batch)
                self._learned += len(batch)
        except BaseException as error:
            self._error = error

    def _arriving(self) -> Iterator[Clicks]:
        """Each batch when its time has come; one that is late is not waited for."""
        due = time.monotonic()
        for batch in self._batches:
            due += self._seconds
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            yield batch
