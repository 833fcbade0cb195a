"""What a server serves, what it is loading, and the one switch between them."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

import satrap
from satrap._core.table import TableGeneration
from satrap.embedding_server.building import Building, remove_generation
from satrap.embedding_server.candidates import Candidate, Serving, check_held
from satrap.embedding_server.checkpoints import (
    CheckpointSettings,
    Location,
    OpenedCheckpoint,
    open_checkpoint,
)
from satrap.embedding_server.in_place import clear_records, replace_rows, verify
from satrap.embedding_server.loading import LoadProgress, infinite_warning
from satrap.embedding_server.named_checkpoints import NamedCheckpoints
from satrap.embedding_server.room import require_room
from satrap.embedding_server.snapshot import Snapshot
from satrap.embedding_server.table_directory import TableDirectory
from satrap.embedding_server.tables import Generation, RowDType
from satrap.embedding_server.takeover import GenerationInfo, Replacing, Wanted
from satrap.embedding_server.target import Target
from satrap.errors import (
    CheckpointError,
    ConflictError,
    SatrapError,
    ShardUnavailableError,
    StorageError,
    TableFolderError,
    UpdateError,
)

__all__ = ["CatchUp", "ShardState"]

log = logging.getLogger(__name__)

CatchUp = Callable[[Target], None]
"""Applies to a target every packet after its watermark that there is and that may be applied."""

_MOST_DECLINED = 200
"""Identities of 64 letters each: a generation's description has room for 30 KB."""


class ShardState:
    """One shard's present snapshot, and the generation of tables behind it.

    Threads: `snapshot` is read without a lock (one reference, replaced whole); loads exclude each other. `writing` is
    held, for each packet anew, by whoever changes rows, tables, origin or watermark of what is served: inside it
    `target()` does not change. The thread that holds it may take it again.
    """

    def __init__(
        self,
        directory: TableDirectory,
        row_dtype: RowDType,
        load_threads: int,
        config_digest: str = "",
        persia_replay_margin_seconds: int = 600,
        checkpoint_switch: Literal["beside", "in_place"] = "beside",
    ) -> None:
        """Serve nothing yet. `directory` is held by the caller, and outlives this.

        `checkpoint_switch` is how `load` replaces what is served.
        """
        self._checkpoint_switch = checkpoint_switch
        self.others: Callable[[], Sequence[str]] = tuple
        """The identities of all checkpoints that might be loaded without being named."""
        self.holds: Callable[[], Mapping[str, int]] = dict
        """The sequence of each stream that is held: nothing that reaches beyond it is loaded."""
        self.owner = directory.owner
        self.row_dtype = row_dtype
        self.snapshot = Snapshot()
        self._directory = directory
        self._load_threads = load_threads
        self._config_digest = config_digest
        self.checkpoints = CheckpointSettings(
            directory.owner, persia_replay_margin_seconds, config_digest, row_dtype
        )
        self.writing = threading.RLock()
        self._loading = threading.Lock()
        self._changing = threading.Lock()  # of `snapshot`, which several threads replace
        self._target: Target | None = None
        self._half_changed = False
        self._start_identity = ""

    def generation(self) -> Generation:
        """What is served.

        Raises:
            ShardUnavailableError: nothing is; the sentence has the load's progress.
        """
        snapshot = self.snapshot
        if snapshot.generation is None:
            reason = snapshot.message or "it is starting"
            raise ShardUnavailableError(self.owner.replica_index, self.owner.replica_size, "", reason)
        return snapshot.generation

    def target(self) -> Target | None:
        """What updates are applied to. Take it inside `writing`.

        None while nothing is served, and while a checkpoint that is put in place is not whole: packets wait.
        """
        return None if self._half_changed else self._target

    def serving(self) -> Serving | None:
        """What is served, as far as it has to be known to choose a checkpoint; None if nothing is, or nothing whole."""
        target = self.target()
        if target is None:
            return None
        info = target.info
        declined = frozenset(info.declined)
        return Serving(target.origin, self.applied()[0], info.checkpoint_identity, declined)

    def applied(self) -> tuple[int, int]:
        """Sequence and newest event (nanoseconds since the epoch) of what is served; (0, 0) if nothing is.

        Ask before looking rows up: what is found then is at least as new.
        """
        target = self._target
        while target is not None:
            try:
                return target.store.applied
            except RuntimeError:  # closed: there was a switch in between
                before, target = target, self._target
                if target is before:
                    raise
        return 0, 0

    def start(
        self,
        checkpoint: Location | None,
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
        catch_up: CatchUp = lambda target: None,
    ) -> Generation:
        """Serve what a server before left, if that is what `checkpoint` would bring; otherwise load that, or nothing.

        `checkpoint` may be a folder of checkpoints: then what came of any of them is taken over, and otherwise the
        newest one is loaded that can be and that no hold forbids; if there is none yet, nothing.

        What was left is removed when the first table of the load is made, and not if the checkpoint is refused
        before. `catch_up` gets what came of it before lookups do: it applies every packet that there is. A start that
        is cut short in it goes on from there.

        Raises:
            CheckpointError, UpdateError, StorageError, LoadCancelled, NoSpaceError, TableFolderError: as `load`.
        """
        with self._one_load(checkpoint):
            began = time.monotonic()
            named = NamedCheckpoints(checkpoint, self.checkpoints, self.holds())
            wanted = Wanted(
                self._directory.boot_id,
                self.owner,
                self.row_dtype,
                self._config_digest,
                checkpoint,
                named.identity,
                named.members,
            )
            taken = self._directory.take_over(wanted)
            if not isinstance(taken, str):
                generation = self._start_warm(*taken, named.identity, catch_up)
                log.info("warm: %s rows in %.2f s", f"{generation.rows:,}", time.monotonic() - began)
                return generation
            started = f"cold: {taken}"
            log.info("%s", started)
            self._start_identity = named.identity
            self._change(started=started)
            opened = self._resumed(self._directory.resume) if self._directory.resume else None
            if opened is None:
                named.check_held()
            for choice in chain([opened] if opened is not None else [], named.choices()):
                try:
                    return self._load(choice, self._directory.discard_rest, on_progress, cancelled, catch_up)
                except (CheckpointError, UpdateError) as error:
                    if not named.pass_over(choice, error):
                        raise
            if checkpoint is not None:
                log.warning("%s: holds no checkpoint yet; nothing is served until one appears", checkpoint)
            self._directory.discard_rest()
            info = self._info("", "")
            target = Target(self._directory.new_generation(info), info, self._changed)
            target.store.serve()
            return self._serve_first(target, catch_up, started)

    def _start_warm(
        self, store: TableGeneration, info: GenerationInfo, identity: str, catch_up: CatchUp
    ) -> Generation:
        """Serve what a server before left; `identity` is that of what this start names, empty for nothing."""
        # Whoever names the loaded checkpoint now has decided anew: a later start that names another gets that.
        info = replace(info, start_identity=identity or info.start_identity)
        target = Target(store, info, self._changed)
        target.tell(info)
        self._start_identity = info.start_identity
        return self._serve_first(target, catch_up, "warm")

    def load(
        self,
        checkpoint: Location,
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
        catch_up: CatchUp = lambda target: None,
        *,
        only_forward: bool = False,
        by_name: bool = True,
    ) -> Generation:
        """Load into a new generation beside what is served, switch, and remove what was served before.

        With `checkpoint_switch: in_place` it is `load_in_place`, once something is served. If it is named by somebody
        (`by_name`), none of the checkpoints that there are besides is loaded later without being named.

        `catch_up` brings the new tables up to what is served now, and is called twice: while the old ones go on being
        updated, and again inside `writing`, when what is left is little. Then lookups and updates go to the new ones.
        If this raises, what was served goes on, and nothing of the load is left. Calls in flight end with the
        tables that they began with. With `only_forward` there is no switch to fewer packets of the same stream than are
        applied now.

        Raises:
            ConflictError: another load is running.
            CheckpointError, UpdateError: the checkpoint is refused, or is beyond a hold.
            StorageError: it cannot be read at the moment, or, with `only_forward`, not all packets after it can.
            LoadCancelled: `cancelled` was set.
            NoSpaceError: there is no memory, no room, or no descriptor for it.
            TableFolderError: its folder cannot be made.
        """
        if self._checkpoint_switch == "in_place" and self._target is not None:
            return self.load_in_place(
                checkpoint, on_progress, cancelled, catch_up, only_forward=only_forward, by_name=by_name
            )
        with self._one_load(checkpoint):
            opened = self._opened(checkpoint)
            declined = self._declined() if by_name else ()
            return self._load(
                opened,
                lambda: None,
                on_progress,
                cancelled,
                catch_up,
                only_forward=only_forward,
                declined=declined,
            )

    def load_in_place(
        self,
        checkpoint: Location,
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
        catch_up: CatchUp = lambda target: None,
        *,
        only_forward: bool = False,
        by_name: bool = True,
    ) -> Generation:
        """Put a checkpoint into the tables in use, row by row, as `in_place` says, and apply packets anew from there.

        It is read twice: once to see that it can be used. If that fails nothing has changed. If something fails later
        the tables are half changed, `target()` is None, and the same call, or `load`, is what helps. A server that
        ends meanwhile loads the checkpoint anew when it starts.

        Raises:
            As `load`.
        """
        with self._one_load(checkpoint):
            opened = self._opened(checkpoint)
            target = self._target
            if target is None:
                return self._load(opened, lambda: None, on_progress, cancelled, catch_up)
            rows = verify(opened, self._progressed(on_progress, 0.0), cancelled)
            held = {dim: len(table) for dim, table in target.tables.items()}
            more = {dim: count - held.get(dim, 0) for dim, count in rows.items() if count > held.get(dim, 0)}
            require_room(opened.location, more, self.row_dtype, self._directory.folder)
            with self.writing:
                # What was verified for a while may be forbidden, or outdated, by now.
                check_held(Candidate.of(opened), self.holds())
                if only_forward and not self._half_changed:
                    _check_ahead(target, opened)
                replacing = Replacing(opened.location, opened.identity)
                target.tell(replace(target.info, replacing=replacing))
                self._half_changed = True
                clear_records(target)
                total = sum(rows.values())
                replace_rows(target, opened, total, self._progressed(on_progress, 0.5), cancelled)
                origin = opened.origin
                target.store.set_applied(origin.base_sequence, origin.base_event_ns)
                info = self._info(opened.location, opened.identity, self._declined() if by_name else ())
                infinite = None
                if origin.format == "persia":  # ours were judged as they were read
                    infinite = infinite_warning(opened.location, target.tables)
                info = replace(info, origin=origin, warnings=(infinite,) if infinite else ())
                # Another target, though of the same tables: what others know of the old one is not true of it.
                new = Target(target.store, replace(info, created_ns=target.info.created_ns), self._changed)
                new.tell(new.info)
                generation = self._switch_to(new)
                catch_up(new)
            return generation

    def _opened(self, checkpoint: Location) -> OpenedCheckpoint:
        opened = open_checkpoint(checkpoint, self.checkpoints)
        check_held(Candidate.of(opened), self.holds())
        return opened

    def _resumed(self, location: str) -> OpenedCheckpoint | None:
        """The checkpoint that the server before was putting in place, if it is still there, and no hold forbids it."""
        try:
            return self._opened(location)
        except SatrapError as error:
            log.warning("what the server before was loading cannot be used any more: %s", error)
            return None

    def close(self) -> None:
        """Wait for the load that is running, and let go of the tables, which stay where they are."""
        with self._loading, self.writing:
            if self._target is not None:
                self._target.store.close()
                self._target = None

    @contextmanager
    def _one_load(self, checkpoint: Location | None) -> Iterator[None]:
        """Say what is being loaded, and afterwards how that failed."""
        if not self._loading.acquire(blocking=False):
            raise ConflictError(
                f"a checkpoint is being loaded already ({self.snapshot.message}); ask again when it is done"
            )
        try:
            loading = None if checkpoint is None else str(checkpoint)
            self._change(loading=loading, progress=LoadProgress(), failure="")
            yield
        except BaseException as error:
            failure = str(error) if isinstance(error, SatrapError) else f"{checkpoint}: {error!r}"
            self._change(loading=None, failure=failure)
            raise
        finally:
            self._loading.release()

    def _load(
        self,
        opened: OpenedCheckpoint,
        make_room: Callable[[], None],
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
        catch_up: CatchUp,
        *,
        only_forward: bool = False,
        declined: tuple[str, ...] = (),
    ) -> Generation:
        """`make_room` is called once, before anything is made."""
        info = self._info(opened.location, opened.identity, declined)
        building = Building(self._directory, info, self._load_threads, make_room)
        try:
            loaded = opened.load(
                self._load_threads, building.make_tables, self._progressed(on_progress), cancelled
            )
            new = building.finish(replace(info, origin=loaded.origin, warnings=loaded.warnings))
            before = self._target
            if before is not None:
                catch_up(new)
                with self.writing:
                    catch_up(new)
                    if only_forward:
                        _check_forward(before, new)
                    new.store.serve()
                    generation = self._switch_to(new)
        except BaseException:
            building.give_up()
            raise
        if before is None:
            new.store.serve()
            return self._serve_first(new, catch_up, self.snapshot.started)
        remove_generation(before.store)
        try:
            self._directory.discard_rest(new.store)  # what could not be removed earlier
        except TableFolderError as error:
            log.warning("%s", error)
        return generation

    def _progressed(
        self, on_progress: Callable[[LoadProgress], None], half: float | None = None
    ) -> Callable[[LoadProgress], None]:
        """Tell it, and keep it for Status; `half` is where the second half of the work begins, or the first."""

        def progressed(progress: LoadProgress) -> None:
            if half is not None:
                progress = replace(progress, fraction=half + progress.fraction / 2)
            self._change(progress=progress)
            on_progress(progress)

        return progressed

    def _serve_first(self, target: Target, catch_up: CatchUp, started: str) -> Generation:
        """Serve what nothing was served before; it may be taken over already."""
        try:
            catch_up(target)
        except BaseException:
            target.store.close()
            raise
        with self.writing:
            return self._switch_to(target, started)

    def _switch_to(self, target: Target, started: str | None = None) -> Generation:
        generation = _generation(target)
        target.on_change = self._changed
        self._target = target
        self._half_changed = False
        with self._changing:
            self.snapshot = Snapshot(generation, started=started or self.snapshot.started)
        return generation

    def _changed(self, target: Target) -> None:
        """Lookups find a table that was added to what is served."""
        if target is self._target:
            self._change(generation=_generation(target))

    def _change(self, **changes: Any) -> None:
        with self._changing:
            self.snapshot = replace(self.snapshot, **changes)

    def _declined(self) -> tuple[str, ...]:
        """What whoever names a checkpoint passes over: the newest of them, should they be very many."""
        return tuple(self.others())[-_MOST_DECLINED:]

    def _info(self, checkpoint: str, identity: str, declined: tuple[str, ...] = ()) -> GenerationInfo:
        return GenerationInfo(
            row_dtype=self.row_dtype,
            config_digest=self._config_digest,
            checkpoint=checkpoint,
            checkpoint_identity=identity,
            start_identity=self._start_identity,
            version=satrap.__version__,
            created_ns=time.time_ns(),
            declined=declined,
        )


def _check_forward(before: Target, new: Target) -> None:
    applied, reached = before.store.applied[0], new.origin.reaches(new.store.applied[0])
    if new.origin.stream == before.origin.stream and reached < applied:
        raise StorageError(
            new.info.checkpoint,
            f"packets after it can be applied up to {reached} only, and what is served is at {applied}",
        )


def _check_ahead(before: Target, opened: OpenedCheckpoint) -> None:
    origin, applied = opened.origin, before.store.applied[0]
    if (
        origin.format == "satrap"
        and origin.stream == before.origin.stream
        and origin.base_sequence <= applied
    ):
        raise ConflictError(
            f"{opened.location} reaches {origin.base_sequence}, and what is served is at {applied} by now"
        )


def _generation(target: Target) -> Generation:
    return Generation(
        row_dtype=target.info.row_dtype,
        tables=target.tables,
        folder=target.store.folder,
        instance_id=target.store.instance_id,
        checkpoint=target.info.checkpoint,
        warnings=target.info.warnings,
        origin=target.origin,
    )
