"""One generation of tables and the packets for it: decide, fetch, judge, keep what is overwritten, apply, move on.

                   ┌──────────────────────────── feed ───────────────────────────┐
    list ─▶ decide ─▶ fetch ─▶ judge ─▶ undo ─▶ rows ─▶ watermark ─▶ list of files
      ▲        │        │        │
      │        ├─ wait  └────────┴─▶ refused: quarantine
      └────────┘

The tables in use and those that are loaded beside them go through the same pipeline, each through one of its own.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from satrap.config import UpdatesConfig
from satrap.embedding_server.target import Target
from satrap.embedding_server.updates.alarms import Alarm
from satrap.embedding_server.updates.apply import Applied, OnStep, apply_packet, pass_over
from satrap.embedding_server.updates.decide import Apply, Decision, PassOver, Refuse, RollBack, Step, Wait
from satrap.embedding_server.updates.decisions import DecisionFiles
from satrap.embedding_server.updates.feed import Feed, Standing
from satrap.embedding_server.updates.freshness import Freshness
from satrap.embedding_server.updates.packet import VerifiedPacket
from satrap.embedding_server.updates.quarantine import Decision as Verdict
from satrap.embedding_server.updates.quarantine import Quarantine
from satrap.embedding_server.updates.rollback import plan_rollback, roll_back
from satrap.embedding_server.updates.undo import UndoLog
from satrap.errors import NoSpaceError, StorageError, TableFolderError, UpdateError

__all__ = ["Counts", "Outcome", "Pipeline"]

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What was done since start. The pipeline's thread counts."""

    packets: int = 0
    rows: int = 0
    erased: int = 0
    quarantined: int = 0
    skipped: int = 0
    unmarked: int = 0


@dataclass(frozen=True)
class Outcome:
    """How an advance ended: what was decided last, when to look again at the latest, and what has to be loaded.

    `alarms` are the decision's and the pipeline's own. `reload` is the sequence of the checkpoint that a hold needs.
    """

    decision: Decision
    alarms: tuple[Alarm, ...] = ()
    until_ns: int | None = None
    reload: int | None = None
    settled: bool = True


class Pipeline:
    """Follows a directory for one target. One thread at a time calls `advance`."""

    def __init__(
        self,
        target: Target,
        feed: Feed,
        decisions: DecisionFiles,
        quarantine: Quarantine,
        config: UpdatesConfig,
        judge: Callable[[VerifiedPacket, Target], None],
        *,
        writing: Callable[[], AbstractContextManager[object]] = nullcontext,
        checkpoints: Callable[[], list[int]] = list,
        on_step: OnStep = lambda name: None,
        on_change: Callable[[Decision, int], None] = lambda decision, done: None,
        on_release: Callable[[], None] = lambda: None,
        now_ns: Callable[[], int] = time.time_ns,
        counts: Counts | None = None,
        freshness: Freshness | None = None,
    ) -> None:
        """`judge` refuses packets; `writing` is held while rows change; `checkpoints` are the sequences that a rollback
        could load; `on_step` is told each step; `on_change` each decision, and again after each packet,
        with how many of the decision's are done; `on_release`, before a packet that was held back is applied, that its
        hold has ended, or has moved up.
        """
        self.target, self.feed = target, feed
        self._counts, self._freshness = counts or Counts(), freshness or Freshness()
        self._decisions, self._quarantine, self._config = decisions, quarantine, config
        self._judge, self._writing, self._checkpoints = judge, writing, checkpoints
        self._on_step, self._on_change, self._now_ns = on_step, on_change, now_ns
        self._undo = UndoLog(target.folder, config.undo_packets)
        self._position = feed.position(target.store)
        self._on_release = on_release
        self._held: int | None = None
        self._own_alarms: tuple[Alarm, ...] = ()
        self._reload: int | None = None

    @property
    def undo_reaches(self) -> int:
        """The least sequence that can be gone back to at once."""
        return self._undo.reaches(self.target.store.applied[0])

    def recover(self) -> None:
        """Take back what a process before began and did not finish.

        Raises:
            NoSpaceError, TableFolderError: it cannot be taken back now.
        """
        with self._writing():
            if self._undo.revert(self.target.store, self._position):
                log.info("took back a packet that was applied in part")

    def advance(self, stopped: Callable[[], bool] = lambda: False) -> Outcome:
        """Do everything that can be done; ends when there is nothing left but to wait, or when `stopped`.

        Raises:
            StorageError: the directory cannot be listed.
            NoSpaceError, TableFolderError: a half-applied packet cannot be taken back; call it again.
        """
        while True:
            listed = time.monotonic()
            applied = self.target.store.applied[0]
            entries = self.feed.list(applied, self._now_ns())
            self._decisions.read(entries)
            self._on_step("listed")
            self._tell_release()
            progressed = False
            while time.monotonic() - listed < self._config.poll_seconds or not progressed:
                outcome = self._round(stopped)
                if outcome is None:
                    progressed = True
                    continue
                if progressed and outcome.settled:
                    break  # what came meanwhile is not listed yet
                return outcome

    def _tell_release(self) -> None:
        held = self._decisions.holds.get(self.target.origin.stream)
        before, self._held = self._held, held
        if before is not None and (held is None or held > before):
            self._on_release()

    def _round(self, stopped: Callable[[], bool]) -> Outcome | None:
        """Decide, and take the steps; an outcome when there is nothing more to do."""
        self._own_alarms, self._reload = (), None
        decision = self._decide(stopped)
        self._on_change(decision, 0)
        for done, step in enumerate(decision.steps, 1):
            if stopped():
                break
            if isinstance(step, Wait):
                return self._outcome(decision, step.until_ns)
            if not self._take(step, decision):
                stuck = self._own_alarms or self._reload is not None
                return self._outcome(decision, None) if stuck else None
            self._on_change(decision, done)
        if stopped() or not decision.steps:
            return replace(self._outcome(decision, None), settled=False)
        return None

    def _outcome(self, decision: Decision, until_ns: int | None) -> Outcome:
        return Outcome(decision, (*self._own_alarms, *decision.alarms), until_ns, self._reload)

    def _decide(self, stopped: Callable[[], bool]) -> Decision:
        records = self._quarantine.records()
        decision = self.feed.decide(
            Standing(
                self.target.store.applied[0],
                self.target.origin.stream,
                self._decisions.holds,
                self._decisions.skips,
                {name: record.decision for name, record in records.items()},
                self._undo.last_applied(self.target.store.applied[0], self._position),
            ),
            self._now_ns(),
            stopped,
        )
        for name in decision.changed:
            self._quarantine.retry(name)
        return decision

    def _take(self, step: Step, decision: Decision) -> bool:
        """Take one step; whether the next one of the same decision may follow."""
        match step:
            case Apply(name, sequence, jumped):
                if jumped:
                    log.warning(
                        "%s is applied although it does not follow %d: skipped by %s",
                        name,
                        self.target.store.applied[0],
                        self._decisions.who_skipped(decision.stream),
                    )
                return self._apply(name, sequence, decision)
            case PassOver(name, sequence):
                with self._writing():
                    self._undo.begin(self.target.store, name, sequence, (), self._position)
                    pass_over(self.target, sequence)
                    self.feed.applied([name])
                    self._undo.prune()
                self._counts.skipped += 1
                log.warning("%s is passed over", name)
                return True
            case Refuse(name, sequence, error):
                self._refuse(name, sequence, error)
                return False
            case RollBack(keep_through):
                self._roll_back(keep_through)
                return False
            case _:
                raise AssertionError(f"no step for the pipeline: {step}")

    def _apply(self, name: str, sequence: int, decision: Decision) -> bool:
        try:
            packet = self.feed.fetch(name)
            self._on_step("fetched")
            self._judge(packet, self.target)
            self._on_step("guarded")
            with self._writing():
                applied = self._write(packet)
        except (UpdateError, StorageError, NoSpaceError, TableFolderError) as error:
            if self.feed.failed(name, error, self._now_ns()):
                assert isinstance(error, UpdateError)
                self._refuse(name, sequence, error)
            return False
        self._counts.packets += 1
        self._counts.rows += applied.written
        self._counts.erased += applied.erased
        self._counts.unmarked += name in decision.unmarked
        self._freshness.observe(packet.published_ns, packet.newest_event_ns, self._now_ns())
        self._on_step("finished")
        return True

    def _write(self, packet: VerifiedPacket) -> Applied:
        target = self.target
        if not target.origin.stream:
            target.adopt(self.feed.format, packet.stream)
            self._on_step("adopted")
        self._undo.begin(target.store, packet.name, packet.sequence, packet.parts, self._position)
        self._on_step("undo_written")
        try:
            applied = apply_packet(target, packet, self._on_step)
        except (NoSpaceError, TableFolderError):
            self._undo.revert(target.store, self._position)
            raise
        self.feed.applied([packet.name])
        self._on_step("noted")
        self._undo.prune()
        if applied.erased and self.feed.gap_detection == "sequence":
            self._forget_tombstones()
        return applied

    def _forget_tombstones(self) -> None:
        """Packets come in order, so nothing older can come than what could be gone back to."""
        horizon = self.undo_reaches
        for table in self.target.tables.values():
            table.forget_tombstones(horizon)

    def _refuse(self, name: str, sequence: int, error: UpdateError) -> None:
        known = name in self._quarantine.records()
        decision: Verdict = "skipped" if self._config.quarantine == "skip" else "waiting"

        self._quarantine.refuse(
            name, sequence, error, decision, lambda folder: self.feed.copy(name, folder), self._now_ns()
        )
        self._on_step("refused")
        if not known:
            self._counts.quarantined += 1
            log.error("%s is refused (%s): %s", name, error.code, error)

    def _roll_back(self, keep_through: int) -> None:
        store = self.target.store
        self.recover()
        plan = plan_rollback(keep_through, self._undo.entries(), store.applied[0], self._checkpoints())
        with self._writing():
            roll_back(store, self._undo, self._position, plan.undo, self._on_step)
        if plan.undo:
            log.warning("rolled back to %d: %d packets were taken back", store.applied[0], len(plan.undo))
        self._reload = plan.reload
        if plan.stuck:
            self._own_alarms = (Alarm("held", plan.stuck),)
