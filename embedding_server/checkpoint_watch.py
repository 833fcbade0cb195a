"""The thread that looks for better checkpoints in a folder while tables are served, and loads them.

A single checkpoint is not loaded again by itself, whatever becomes of it: only where a hold needs it.

What to load is `candidates.choose`'s decision; how, `ShardState`'s. A checkpoint that turns out to be bad is passed
over with a warning and the next one taken; what may go away by itself (no room, storage down) is tried again later.
"""

import logging
import threading
import time
from collections.abc import Callable

from satrap.embedding_server.candidates import Candidate, Serving, choose
from satrap.embedding_server.checkpoint_folder import CheckpointFolder
from satrap.embedding_server.loading import LoadCancelled
from satrap.embedding_server.origin import NO_ORIGIN
from satrap.embedding_server.state import CatchUp, ShardState
from satrap.embedding_server.target import Target
from satrap.embedding_server.updates.alarms import Alarm, AlarmCode
from satrap.errors import CheckpointError, ConflictError, NoSpaceError, SatrapError, StorageError, UpdateError

__all__ = ["CheckpointWatch"]

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0
"""Seconds between two tries of what fails again and again."""


class CheckpointWatch:
    """Watches one folder for one shard, from `start` to `stop`.

    Threads: any may call `look`, `wake`, `reload`, `alarms` and `sequences`.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        state: ShardState,
        *,
        poll_seconds: float,
        catch_up: CatchUp = lambda target: None,
        on_change: Callable[[], None] = lambda: None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Nothing is looked at yet. `on_change` is called when other tables are served, or the alarms have changed."""
        self._folder, self._state, self._catch_up = folder, state, catch_up
        self._poll_seconds = poll_seconds
        self._on_change, self._now_ns = on_change, now_ns
        state.others = self._present
        self._candidates: tuple[Candidate, ...] = ()
        self._alarm: Alarm | None = None
        self._failures = 0
        self._reload: int | None = None
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="checkpoint-watch")

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """What stands now: `no_room`, `checkpoint`, `storage` or nothing."""
        alarm = self._alarm
        return () if alarm is None else (alarm,)

    def sequences(self) -> list[int]:
        """How far the checkpoints of the served stream reach that there were at the last look."""
        serving = self._state.serving()
        if serving is None:
            return []
        return [found.reaches for found in self._candidates if found.stream == serving.origin.stream]

    def start(self) -> None:
        """Look from now on; the state serves something already."""
        self._thread.start()

    def stop(self) -> None:
        """End; a load that is running is given up."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def cancel(self) -> None:
        """Give up a load that is running; nothing is loaded any more. Call `stop` as well."""
        self._stopping.set()

    def wake(self) -> None:
        """Look soon, not at the next poll."""
        self._wake.set()

    def reload(self, keep_through: int) -> None:
        """What is served is beyond a hold at `keep_through` and cannot be taken back: load a checkpoint below it."""
        if self._reload != keep_through:
            self._reload = keep_through
            self._wake.set()

    def look(self) -> bool:
        """Look once, and load the checkpoint that is better than what is served, if there is one: whether it was.

        Raises:
            StorageError: the folder cannot be listed, or a checkpoint cannot be read, at the moment.
            NoSpaceError, TableFolderError, ConflictError: it cannot be loaded now.
            LoadCancelled: `stop` was called.
        """
        with self._looking:
            return self._look()

    def _look(self) -> bool:
        if not self._folder.single or self._reload is not None or not self._candidates:
            self._candidates = tuple(self._folder.candidates())
        while (choice := self._choice()) is not None:
            log.info("loading %s (%s, sequence %d)", choice.location, choice.stream, choice.sequence)
            try:
                generation = self._state.load(
                    choice.location,
                    lambda progress: None,
                    self._stopping,
                    self._bring_up,
                    only_forward=self._reload is None,
                    by_name=False,
                )
            except (CheckpointError, UpdateError) as error:
                if choice.reaches > self._state.holds().get(choice.stream, choice.reaches):
                    continue  # held since it was chosen: nothing is wrong with it
                self._folder.refuse(choice, error)
                self._raise("checkpoint", f"{choice.location} is passed over: {error}")
                continue
            for warning in generation.warnings:
                log.warning("%s", warning)
            log.info("serving %s: %s rows", choice.location, f"{generation.rows:,}")
            self._reload = None
            return True
        return False

    def _present(self) -> list[str]:
        try:
            self._candidates = tuple(self._folder.candidates())
        except StorageError as error:
            log.warning("%s", error)
        return [found.identity for found in self._candidates]

    def _bring_up(self, target: Target) -> None:
        try:
            self._catch_up(target)
        except UpdateError as error:  # not the checkpoint's fault
            raise StorageError(self._folder.location, f"packets cannot be applied now: {error}") from error

    def _choice(self) -> Candidate | None:
        keep_through = dict(self._state.holds())
        found = self._state.serving()
        serving = found or Serving(NO_ORIGIN, 0)
        must_replace = self._reload is not None and serving.applied > self._reload
        if self._reload is not None:
            stream = serving.origin.stream
            keep_through[stream] = min(keep_through.get(stream, self._reload), self._reload)
        if not must_replace:
            self._reload = None
            if self._folder.single and found is not None:
                return None
        return choose(self._candidates, serving, keep_through, self._folder.refused, must_replace)

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause = self._round()
            self._wake.wait(pause)
            self._wake.clear()

    def _round(self) -> float:
        """One look; the seconds until the next."""
        try:
            if self.look():
                self._on_change()
        except LoadCancelled:
            return 0.0
        except ConflictError:
            return self._poll_seconds  # somebody is loading what they named
        except NoSpaceError as error:
            return self._failed("no_room", error)
        except StorageError as error:
            return self._failed("storage", error)
        except SatrapError as error:
            return self._failed("checkpoint", error)
        except Exception as error:
            log.exception("looking for checkpoints in %s failed", self._folder.location)
            return self._failed("checkpoint", error)
        self._failures = 0
        if self._alarm is not None and (self._alarm.code != "checkpoint" or not self._folder.refused_there):
            self._clear()
        return self._poll_seconds

    def _failed(self, code: AlarmCode, error: Exception) -> float:
        self._failures += 1
        self._raise(code, f"{self._folder.location}: {error}")
        return min(self._poll_seconds * 2.0 ** min(self._failures - 1, 10), _LONGEST_PAUSE)

    def _raise(self, code: AlarmCode, message: str) -> None:
        before = self._alarm
        since = before.since_ns if before is not None and before.code == code else self._now_ns()
        self._alarm = Alarm(code, message, since)
        if before is None or before.code != code:
            log.warning("%s", message)
            self._on_change()

    def _clear(self) -> None:
        if self._alarm is not None:
            self._alarm = None
            self._on_change()
