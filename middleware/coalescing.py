"""Concurrent questions to one busy shard become one: the decision, and the shell that carries it out."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from satrap.middleware.shards import FutureAnswer, Group, Rows, RpcShard, ShardState

__all__ = ["CoalescingShard", "Turns"]

T = TypeVar("T")


class Turns(Generic[T]):
    """Who is sent now, and who waits. No threads, no sockets.

    A shard with fewer than `limit` questions in flight is not busy: a question goes out at once, alone. While it is
    busy questions gather, and the next one that ends sends all of them as one.
    """

    def __init__(self, limit: int) -> None:
        """Let `limit` questions be in flight."""
        self._limit = limit
        self._in_flight = 0
        self._waiting: list[T] = []

    def asked(self, question: T) -> list[T]:
        """What to send now, as one; nothing if the question has to wait."""
        if self._in_flight >= self._limit:
            self._waiting.append(question)
            return []
        self._in_flight += 1
        return [question]

    def ended(self) -> list[T]:
        """The same, after one in flight has ended, whatever its end."""
        questions, self._waiting = self._waiting, []
        if not questions:
            self._in_flight -= 1
        return questions


class CoalescedAnswer(Future[list[Rows]]):
    """Rows that come with those of others, from a server that is there."""

    is_stale = False
    newest_event_ns = 0


Question = tuple[Sequence[Group], CoalescedAnswer]


class CoalescingShard:
    """A shard whose questions wait for each other while it is busy. Any thread may ask."""

    def __init__(self, shard: RpcShard, limit: int) -> None:
        """`limit` is how many calls the shard is to have in flight before questions gather."""
        self.replica_index, self.address = shard.replica_index, shard.address
        self._shard = shard
        self._lock = threading.Lock()  # guards the turns; never held while sending
        self._turns: Turns[Question] = Turns(limit)

    def ask(self, groups: Sequence[Group]) -> CoalescedAnswer:
        """Send now, or with others when a call ends; the answer has the rows of these groups."""
        answer = CoalescedAnswer()
        with self._lock:
            questions = self._turns.asked((groups, answer))
        self._send(questions)
        return answer

    def state(self, timeout: float) -> ShardState:
        """Ask how it is.

        Raises:
            ShardMismatchError: it is another shard than the address list says.
        """
        return self._shard.state(timeout)

    def close(self) -> None:
        """Close the shard; questions in flight and waiting fail."""
        self._shard.close()

    def _send(self, questions: list[Question]) -> None:
        while questions:
            try:
                call = self._shard.ask_from_any_thread([group for groups, _ in questions for group in groups])
            except Exception as error:  # the channel is closed
                for _, answer in questions:
                    answer.set_exception(error)
                with self._lock:
                    questions = self._turns.ended()
                continue
            call.when_done(lambda call=call, questions=questions: self._answered(call, questions))  # type: ignore[misc]
            return

    def _answered(self, call: FutureAnswer, questions: list[Question]) -> None:
        """Send what has gathered, then hand out what came: the shard is kept busy first."""
        with self._lock:
            gathered = self._turns.ended()
        self._send(gathered)
        try:
            rows = call.result()
        except Exception as error:  # belongs to those who asked
            for _, answer in questions:
                answer.set_exception(error)
            return
        start = 0
        for groups, answer in questions:
            answer.newest_event_ns = call.newest_event_ns
            answer.set_result(rows[start : start + len(groups)])
            start += len(groups)
