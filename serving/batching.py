"""Which requests of one model version leave together, and when.

No clock and no I/O: the caller passes `now` (seconds on any clock that never goes back), says when a worker is
idle, and asks when to come back (`wake_at`). The rules:

* A batch leaves when a worker is idle and the queue holds a full batch; or its oldest request has waited
  `max_delay` since it arrived; or it holds as many requests as were ever outstanding together (waiting or with a
  worker) during the last 16 batches, this moment included. By the last rule a lone client never waits, and
  eight clients in step wait only for each other.
* A request that must be alone (a handler's description: a handler looks at the first of a batch only) leaves as a
  batch of its own as soon as it is the oldest.
* The queue is bounded; what does not fit is refused at once.
* A request whose deadline passes while it waits is taken out and never reaches a worker.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from satrap.errors import OverloadedError

__all__ = ["BatchPolicy", "BatchQueue", "Ticket"]

PEAK_BATCHES = 16
"""Batches over which the greatest number of outstanding requests is remembered."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """`max_delay` in seconds from arrival; `capacity` is the number of requests that may wait."""

    batch_size: int = 1
    max_delay: float = 0.1
    capacity: int = 100


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """A waiting request: the caller's item, when it came, when it is of no more use, and whether it leaves alone."""

    item: T
    arrived: float
    deadline: float
    alone: bool = False
    waiting: bool = True


class BatchQueue(Generic[T]):
    """The waiting requests of one version, oldest first. Not thread-safe: it belongs to the frontend's loop."""

    def __init__(self, policy: BatchPolicy, name: str = "queue") -> None:
        """Start empty; `name` is for the error that says it is full."""
        self.policy = policy
        self._name = name
        self._waiting: deque[Ticket[T]] = deque()
        self._removed = 0  # tickets in the deque that are no longer waiting
        self._with_deadline = 0  # tickets in the deque, waiting or not, whose deadline is finite
        self._in_flight = 0
        self._peak = 0  # greatest number outstanding since the last batch left
        self._past_peaks: deque[int] = deque([0], maxlen=PEAK_BATCHES)

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._waiting) - self._removed

    @property
    def in_flight(self) -> int:
        """How many requests have left and are not finished."""
        return self._in_flight

    def offer(self, item: T, now: float, deadline: float = math.inf, *, alone: bool = False) -> Ticket[T]:
        """Take a request in; one that is `alone` shares no batch.

        Raises:
            OverloadedError: `capacity` requests wait already.
        """
        if len(self) >= self.policy.capacity:
            raise OverloadedError(self._name, self.policy.capacity)
        ticket = Ticket(item, now, deadline, alone)
        self._waiting.append(ticket)
        self._with_deadline += deadline < math.inf
        self._peak = max(self._peak, len(self) + self._in_flight)
        return ticket

    def withdraw(self, ticket: Ticket[T]) -> bool:
        """Take a request out because nobody waits for it; False when it has left already."""
        if not ticket.waiting:
            return False
        ticket.waiting = False
        self._removed += 1
        self._drop_removed_from_front()
        return True

    def expire(self, now: float) -> list[T]:
        """Take out the requests whose deadline has passed."""
        if not self._with_deadline:
            return []
        late = [t for t in self._waiting if t.waiting and t.deadline <= now]
        for ticket in late:
            self.withdraw(ticket)
        return [t.item for t in late]

    def take(self, now: float) -> list[T]:
        """The batch that an idle worker should run now; empty when it should wait. Call `expire` first."""
        size = len(self)
        if size == 0 or not self._is_due(size, now):
            return []
        batch: list[T] = []
        while len(batch) < self.policy.batch_size and self._waiting:
            if batch and self._waiting[0].alone and self._waiting[0].waiting:
                break
            ticket = self._pop()
            if ticket.waiting:
                ticket.waiting = False
                batch.append(ticket.item)
                if ticket.alone:
                    break
            else:
                self._removed -= 1
        self._drop_removed_from_front()
        self._in_flight += len(batch)
        self._past_peaks.append(self._peak)
        self._peak = len(self) + self._in_flight
        return batch

    def finished(self, count: int) -> None:
        """`count` requests that had left are answered, whatever the answer."""
        self._in_flight -= count

    def drain(self) -> list[T]:
        """Take out all that wait."""
        items = [t.item for t in self._waiting if t.waiting]
        for ticket in self._waiting:
            ticket.waiting = False
        self._waiting.clear()
        self._removed = self._with_deadline = 0
        return items

    def release(self, wanted: Callable[[T], bool]) -> list[Ticket[T]]:
        """Take out those that are wanted elsewhere and share batches; oldest first, for `adopt` of another queue.

        The tickets given are new ones: who holds an old ticket finds that it has left.
        """
        released: list[Ticket[T]] = []
        for ticket in list(self._waiting):
            if ticket.waiting and not ticket.alone and wanted(ticket.item):
                released.append(Ticket(ticket.item, ticket.arrived, ticket.deadline))
                self.withdraw(ticket)
        return released

    def adopt(self, tickets: Iterable[Ticket[T]]) -> None:
        """Take in what another queue had accepted, by arrival, even beyond the capacity."""
        adopted = list(tickets)
        self._waiting = deque(sorted([*self._waiting, *adopted], key=lambda t: t.arrived))
        self._with_deadline += sum(t.deadline < math.inf for t in adopted)
        self._drop_removed_from_front()
        self._peak = max(self._peak, len(self) + self._in_flight)

    def wake_at(self, *, idle: bool) -> float:
        """When `expire`, or `take` if a worker is `idle`, would say something new; infinity for never."""
        moment = math.inf
        if self._with_deadline:
            moment = min((t.deadline for t in self._waiting if t.waiting), default=math.inf)
        if idle and self._waiting:
            first = self._waiting[0]
            moment = min(moment, first.arrived if first.alone else first.arrived + self.policy.max_delay)
        return moment

    def _is_due(self, size: int, now: float) -> bool:
        return (
            size >= self.policy.batch_size
            or self._waiting[0].alone
            or now >= self._waiting[0].arrived + self.policy.max_delay
            or size >= max(self._peak, *self._past_peaks)
        )

    def _pop(self) -> Ticket[T]:
        ticket = self._waiting.popleft()
        self._with_deadline -= ticket.deadline < math.inf
        return ticket

    def _drop_removed_from_front(self) -> None:
        """Keep the invariant that the first ticket of the deque is waiting."""
        while self._waiting and not self._waiting[0].waiting:
            self._pop()
            self._removed -= 1
