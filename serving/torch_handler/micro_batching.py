"""`MicroBatching`: a handler's steps as a pipeline: one part of a batch is prepared while another is computed."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from satrap.serving.context import Context
from satrap.serving.torch_handler.base_handler import answered

__all__ = ["MicroBatching"]

_STEPS = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """Takes the place of a handler's `handle`: `self.handle = MicroBatching(self, micro_batch_size=2)`.

    A batch is cut into parts of `micro_batch_size` requests. Every step has its own threads, one unless `parallelism`
    says more, so the handler's steps run at the same time for different parts. Answers keep the order of the requests;
    the first error of a step becomes the batch's.
    """

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None
    ) -> None:
        """Start no thread before the first batch.

        Raises:
            ValueError: see `parallelism`, or a size below 1.
        """
        if micro_batch_size < 1:
            raise ValueError(f"micro_batch_size is {micro_batch_size}, the least is 1")
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._parallelism: dict[str, int] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._part = threading.local()
        self.parallelism = parallelism or {}

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads per step, of those that were set."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int]) -> None:
        """Set the threads of some steps: preprocess, inference, postprocess.

        Raises:
            ValueError: another step, or no thread at all.
        """
        for step, threads in parallelism.items():
            if step not in _STEPS or threads < 1:
                raise ValueError(f"parallelism of {step!r} is {threads}: steps are {_STEPS}, the least is 1")
        self.shutdown()
        self._parallelism.update(parallelism)

    def shutdown(self) -> None:
        """End the threads; the next batch starts them again."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.shutdown()

    def get_micro_batch_idx(self) -> int | None:
        """For the handler's steps: which part of the batch this thread works on."""
        return getattr(self._part, "index", None)

    def handle(self, data: Sequence[Any]) -> list[Any]:
        """The answers to a batch; what a step raises is raised here, when no part is at work any more."""
        self._start()
        parts = [data[i : i + self.micro_batch_size] for i in range(0, len(data), self.micro_batch_size)]
        answers: list[Future[Any]] = [Future() for _ in parts]
        for index, (part, answer) in enumerate(zip(parts, answers, strict=True)):
            self._pools[_STEPS[0]].submit(self._run, 0, index, part, answer)
        errors = [answer.exception() for answer in answers]
        for error in errors:
            if error is not None:
                raise error
        return [value for answer in answers for value in answer.result()]

    def __call__(self, data: Any, context: Context) -> Any:
        """Answer a batch, as `BaseHandler.handle` does."""
        return answered(self.handler, data, context, lambda: self.handle(data))

    def _start(self) -> None:
        for step in _STEPS:
            if step not in self._pools:
                threads = self._parallelism.get(step, 1)
                self._pools[step] = ThreadPoolExecutor(threads, thread_name_prefix=step)

    def _run(self, step: int, index: int, value: Any, answer: Future[Any]) -> None:
        self._part.index = index
        try:
            value = getattr(self.handler, _STEPS[step])(value)
            if step + 1 < len(_STEPS):
                self._pools[_STEPS[step + 1]].submit(self._run, step + 1, index, value, answer)
            else:
                answer.set_result(value)
        except BaseException as error:
            answer.set_exception(error)
