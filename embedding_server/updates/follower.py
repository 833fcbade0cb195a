"""The thread that follows: woken by the directory, the clock, or a call, it lets the pipeline do what can be done.

It is the only one that changes the rows of the tables in use. Tables that are loaded beside them are brought up by the
thread that loads them, through `catch_up`, before they take their place.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from satrap.embedding_server.loading import LoadCancelled
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.target import Target
from satrap.embedding_server.updates.alarms import Alarm, alarm_of, changed_alarms
from satrap.embedding_server.updates.decide import Decision
from satrap.embedding_server.updates.decisions import DecisionFiles
from satrap.embedding_server.updates.feed import Feed
from satrap.embedding_server.updates.follower_status import FollowerStatus
from satrap.embedding_server.updates.following import Feeds, Following
from satrap.embedding_server.updates.freshness import Freshness
from satrap.embedding_server.updates.guard import unjudged
from satrap.embedding_server.updates.pipeline import Counts, Outcome, Pipeline
from satrap.embedding_server.updates.quarantine import Quarantine, answer_quarantine
from satrap.embedding_server.updates.readiness import why_not_ready
from satrap.embedding_server.updates.watch import FolderWatch
from satrap.errors import ConflictError, SatrapError
from satrap.protos import embedding_pb2 as pb

__all__ = ["Checkpoints", "Follower"]

log = logging.getLogger(__name__)

_STOP_SECONDS = 0.1
"""Within these a stop is noticed while a start waits."""

_LONGEST_PAUSE = 30.0
"""Seconds between two looks when one after another fails."""


class Checkpoints(Protocol):
    """Whoever loads checkpoints while the server serves; any thread may ask."""

    @property
    def alarms(self) -> Sequence[Alarm]:
        """What stands in its way."""

    def sequences(self) -> list[int]:
        """The watermarks of the checkpoints of the stream that is served."""

    def reload(self, keep_through: int) -> None:
        """Load the newest checkpoint at or below `keep_through` in place of what is served."""

    def look(self) -> bool:
        """Load the checkpoint that is better than what is served, if there is one, and say whether there was.

        Raises:
            SatrapError, LoadCancelled: there is, and it cannot be loaded now; or that cannot be found out.
        """


class _ReplacedError(Exception):
    """The tables that a pipeline is about are not the ones in use any more."""


class Follower:
    """Follows one directory for one shard, from `start` to `stop`.

    Threads: `status` is one reference, replaced whole. Any thread may call `follow_now` and `wake`, and one at a time,
    which loads tables, `catch_up`.
    """

    def __init__(
        self,
        state: ShardState,
        following: Following,
        quarantine: Quarantine,
        *,
        on_step: Callable[[str], None] = lambda name: None,
        on_ready: Callable[[bool], None] = lambda ready: None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Nothing is looked at yet. `on_ready` is told whether the server should be ready, whenever that changes."""
        self._state, self._following, self._quarantine = state, following, quarantine
        self._config, self._storage = following.config, following.storage
        self._on_step, self._on_ready, self._now_ns = on_step, on_ready, now_ns
        self._decisions = DecisionFiles(self._storage)
        self._counts, self._freshness = Counts(), Freshness()
        self._pipeline: Pipeline | None = None
        self._feeds = Feeds(following, state.owner)
        self._ready: bool | None = None
        self._failures = 0
        self.status = FollowerStatus(self._storage.url)
        self.checkpoints: Checkpoints | None = None
        """Set it before `start`, if checkpoints are followed as well."""
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._rounds = threading.Condition()
        self._asked = self._answered = 0
        self._watch = FolderWatch(self._arrived)
        self._thread = threading.Thread(target=self._run, name="follower")

    def start(self) -> None:
        """Follow from now on; the state serves something already."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step that is being done."""
        self._stopping.set()
        self._wake.set()
        with self._rounds:
            self._rounds.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._watch.close()

    def wake(self) -> None:
        """Look soon, not at the next poll."""
        self._wake.set()

    @property
    def holds(self) -> dict[str, int]:
        """The greatest sequence to keep, by stream, as the directory said last. Any thread may ask."""
        return self._decisions.holds

    def read_holds(self) -> dict[str, int]:
        """The holds there are now, before anything is followed; those that cannot be found out are obeyed later."""
        try:
            self._decisions.read(self._storage.list(after="hold-"))
        except SatrapError as error:
            log.warning("whether the stream is held is not known yet: %s", error)
        return self.holds

    def follow_now(self, timeout: float) -> FollowerStatus:
        """Look now, and wait until nothing more can be applied, for at most `timeout` seconds."""
        with self._rounds:
            self._asked += 1
            mine = self._asked
        self._wake.set()
        with self._rounds:
            self._rounds.wait_for(
                lambda: self._answered >= mine or self._stopping.is_set(), max(timeout, 0.0)
            )
        return self.status

    def answer_quarantine(self, request: pb.QuarantineRequest) -> pb.QuarantineResponse:
        """List the refused packets, or do what was decided about one, and look again.

        Raises:
            NotFoundError, ConflictError, InvalidInputError, NoSpaceError, TableFolderError: as `answer_quarantine`.
        """
        applied, _ = self._state.applied()
        numbered = self.status.format != "persia"  # PERSIA's packets may come in any order
        answer = answer_quarantine(
            self._quarantine, request, lambda record: numbered and 0 < record.sequence <= applied
        )
        if request.action != pb.QuarantineRequest.ACTION_LIST:
            log.warning("quarantine: %s %s", pb.QuarantineRequest.Action.Name(request.action), request.name)
            self.wake()
        return answer

    def catch_up(
        self,
        target: Target,
        counts: Counts | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Apply to tables that are not in use yet every packet there is for them; `counts` counts them.

        Raises:
            StorageError, NoSpaceError, TableFolderError, UpdateError: that is not possible now.
            ConflictError: the tables have something that is beyond a hold, as the directory says now.
            LoadCancelled: `stopped`, or `stop` was called.
        """
        decisions = DecisionFiles(self._storage)

        def ending() -> bool:
            return stopped() or self._stopping.is_set()

        pipeline = Pipeline(
            target,
            self._feeds.of(target),
            decisions,
            self._quarantine,
            self._config,
            lambda packet, target: self._following.judge(packet, target, self._state.owner),
            on_step=self._on_step,
            now_ns=self._now_ns,
            counts=counts,
        )
        pipeline.recover()
        pipeline.advance(ending)
        if ending():
            raise LoadCancelled
        origin = target.origin
        reached = origin.reaches(target.store.applied[0])
        held = decisions.holds.get(origin.stream, reached)
        if reached > held:
            raise ConflictError(
                f"{target.info.checkpoint} reaches {reached}, and stream {origin.stream} is held at {held} by now"
            )

    def catch_up_if_possible(self, target: Target, stopped: Callable[[], bool] = lambda: False) -> None:
        """As `catch_up`, before the first tables are served; what is not possible now, the thread tries again.

        Raises:
            LoadCancelled: as `catch_up`.
        """
        try:
            self.catch_up(target, self._counts, stopped)
        except SatrapError as error:
            log.warning("not all packets are applied yet: %s", error)

    def wait_until_settled(self, stop: threading.Event) -> None:
        """Wait until everything that can be applied is, or until `stop` is set."""
        while not self.status.settled and not stop.is_set():
            with self._rounds:
                self._rounds.wait_for(lambda: self.status.settled, timeout=_STOP_SECONDS)

    def _arrived(self, name: str) -> None:
        """Something appeared in a folder that is watched; on inotify's thread. Data files precede their manifest."""
        if name.startswith(".") or name.endswith(".arrow"):
            return
        if self._pipeline is not None:
            self._pipeline.feed.arrived(name)
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._rounds:
                asked = self._asked
            self._wake.clear()
            if asked != self._answered and self._pipeline is not None:
                self._pipeline.feed.arrived("")  # whoever asks wants to know of everything
            pause = self._look()
            if pause is None:
                continue
            with self._rounds:
                self._answered = asked
                self._rounds.notify_all()
            self._wake.wait(pause)

    def _look(self) -> float | None:
        """One look at everything; seconds until the next one, None if other tables have come into use meanwhile."""
        try:
            outcome = self._advance()
            self._settle(outcome)
        except _ReplacedError:
            return None
        except Exception as error:
            if self._pipeline is not None and self._pipeline.target is not self._state.target():
                return None  # what it was about is closed
            if not isinstance(error, SatrapError):
                log.exception("following %s failed", self._storage.url)
            return self._failed(error)
        poll = self._config.poll_seconds
        if outcome is None or outcome.until_ns is None:
            return poll
        return min(poll, max(0.0, (outcome.until_ns - self._now_ns()) / 1e9))

    def _advance(self) -> Outcome | None:
        target = self._state.target()
        if target is None:
            return None
        if self._pipeline is not None and self._pipeline.target is not target:
            self._pipeline = None
        feed = self._feeds.of(target)
        self._watch.watch(feed.folders())
        if self._pipeline is None or self._pipeline.feed is not feed:
            pipeline = self._pipeline_of(target, feed)
            pipeline.recover()
            self._pipeline = pipeline
        outcome = self._pipeline.advance(self._stopping.is_set)
        if self._watch.watch(feed.folders()):
            self._wake.set()  # what came into a new folder before it was watched would wait for the poll
        return outcome

    def _pipeline_of(self, target: Target, feed: Feed) -> Pipeline:
        for sentence in unjudged(self._config.guardrails, target.origin.limits):
            log.warning("%s", sentence)

        @contextmanager
        def writing() -> Iterator[None]:
            with self._state.writing:
                if self._state.target() is not target:
                    raise _ReplacedError
                yield

        return Pipeline(
            target,
            feed,
            self._decisions,
            self._quarantine,
            self._config,
            lambda packet, target: self._following.judge(packet, target, self._state.owner),
            writing=writing,
            checkpoints=self.checkpoints.sequences if self.checkpoints is not None else list,
            on_step=self._on_step,
            on_change=self._changed,
            on_release=self._released,
            now_ns=self._now_ns,
            counts=self._counts,
            freshness=self._freshness,
        )

    def _released(self) -> None:
        """A hold has ended: a checkpoint beyond it comes before the packets that it takes the place of.

        Raises:
            _ReplacedError: it was loaded.
        """
        if self.checkpoints is None:
            return
        try:
            loaded = self.checkpoints.look()
        except (SatrapError, LoadCancelled) as error:
            log.warning("no checkpoint was loaded at the end of the hold, packets are applied: %s", error)
            return
        if loaded:
            raise _ReplacedError

    def _changed(self, decision: Decision, done: int) -> None:
        """A decision, or `done` of its packets: tell how far it is."""
        pipeline = self._pipeline
        assert pipeline is not None
        applied, event_ns = pipeline.target.store.applied
        self.status = replace(
            self.status,
            format=pipeline.target.origin.format,
            stream=pipeline.target.origin.stream,
            applied=applied,
            newest=max(decision.newest, applied),
            behind=max(decision.behind - done, 0),
            newest_event_ns=event_ns,
            gap_detection=pipeline.feed.gap_detection,
            hold=self._decisions.all_holds.get(decision.stream),
            undo_reaches=pipeline.undo_reaches,
            counts=replace(self._counts),
            delays=self._freshness.delays,
            skew_seconds=self._freshness.skew_seconds,
            refused=tuple(self._quarantine.records().values()),
        )

    def _settle(self, outcome: Outcome | None) -> None:
        """A look has ended: alarms and readiness."""
        self._failures = 0
        if outcome is None:
            return
        if outcome.reload is not None and self.checkpoints is not None:
            self.checkpoints.reload(outcome.reload)
        alarms = list(outcome.alarms)
        local = self._storage.local
        if local is not None and not local.is_dir():
            alarms.append(
                Alarm("storage", f"{local} does not exist (yet): whatever appears in it is applied")
            )
        if self._freshness.clock_ahead:
            alarms.append(
                Alarm(
                    "clock_ahead",
                    f"the clock of the last packet's publisher is {self._freshness.skew_seconds:.1f} s ahead of this "
                    "machine's: how fresh rows are cannot be told; set both by NTP",
                )
            )
        self._tell(alarms, settled=self.status.settled or outcome.settled)

    def _failed(self, error: Exception) -> float:
        """A look could not be ended: tell, and wait longer each time."""
        self._failures += 1
        alarm = alarm_of(error)
        others = [other for other in self.status.alarms if other.code not in (alarm.code, "failed")]
        # A server that starts while its storage is down is as ready as one whose storage goes down later.
        self._tell([alarm, *others], settled=True)
        return float(min(self._config.poll_seconds * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE))

    def _tell(self, alarms: Sequence[Alarm], *, settled: bool) -> None:
        now_ns = self._now_ns()
        others = self.checkpoints.alarms if self.checkpoints is not None else ()
        standing, raised, cleared = changed_alarms(self.status.alarms, (*alarms, *others), now_ns)
        for alarm in raised:
            log.warning("alarm %s: %s", alarm.code, alarm.message)
        for alarm in cleared:
            log.warning("alarm %s is over, after %.1f s", alarm.code, (now_ns - alarm.since_ns) / 1e9)
        not_ready = why_not_ready(settled, standing, self.status.newest_event_ns, self._config, now_ns)
        self.status = replace(self.status, alarms=standing, settled=settled, not_ready=not_ready)
        ready = not not_ready
        if ready != self._ready:
            self._ready = ready
            self._on_ready(ready)
