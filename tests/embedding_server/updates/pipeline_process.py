"""A warm process that forks pipelines: each follows a directory without gRPC, and is killed where it was told to be.

It is started by exec, reads one JSON object a line, and answers each with one: how the pipeline ended. It starts no
thread itself, as threads do not survive a fork.

    {"tables": DIR, "packets": DIR, "last": 40 or null, "checkpoints": FOLDER or null, "result": FILE, "config": {...},
     "at_step": 17 or null, "named": ["undo_written", 2] or null, "soon_after": ["undo_written", 2, 150] or null,
     "after_us": 12000 or null}
"""

import json
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import packet_history
import pyarrow.ipc  # noqa: F401  here, so that the forked ones need not

from satrap.config import UpdatesConfig
from satrap.embedding_server.checkpoint_folder import CheckpointFolder
from satrap.embedding_server.checkpoint_watch import CheckpointWatch
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import TableDirectory, TablePlace
from satrap.embedding_server.updates.follower import Follower
from satrap.embedding_server.updates.following import Following
from satrap.embedding_server.updates.quarantine import Quarantine
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.storage import open_storage


class Killer:
    """Told every step, and kills the process at the chosen one."""

    def __init__(self, at_step: int | None, named: list | None, soon_after: list | None = None) -> None:
        self._at_step, self._named, self._soon_after = at_step, named, soon_after
        self._steps, self._times = 0, 0
        self.seen: list[str] = []

    def __call__(self, name: str) -> None:
        self._steps += 1
        if name not in self.seen:
            self.seen.append(name)
        if self._named is not None and name == self._named[0]:
            self._times += 1
        if self._soon_after is not None and name == self._soon_after[0]:
            self._soon_after[1] -= 1
            if self._soon_after[1] == 0:
                signal.setitimer(signal.ITIMER_REAL, self._soon_after[2] / 1e6)
        if self._steps == self._at_step or (self._named is not None and self._times == self._named[1]):
            os.kill(os.getpid(), signal.SIGKILL)


def live(order: dict) -> None:
    """Follow until packet `last` is applied, and write down what the tables hold then."""
    # SIGALRM without a handler ends a process wherever it is, in native code as well, as SIGKILL does
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if order.get("after_us") is not None:
        signal.setitimer(signal.ITIMER_REAL, order["after_us"] / 1e6)
    killer = Killer(order.get("at_step"), order.get("named"), order.get("soon_after"))
    directory = TableDirectory(TablePlace(Path(order["tables"]), "default", None), ShardRoute(0, 1))
    config = UpdatesConfig(**order.get("config", {}))
    state = ShardState(directory, "float32", 1, checkpoint_switch=config.checkpoint_switch)
    follower = Follower(
        state,
        Following(open_storage(order["packets"]), config),
        Quarantine(directory.folder / "quarantine"),
        on_step=killer,
    )
    folder, watch = order.get("checkpoints"), None
    if folder is not None:
        watch = CheckpointWatch(
            CheckpointFolder(folder, state.checkpoints),
            state,
            poll_seconds=config.poll_seconds,
            catch_up=follower.catch_up,
            on_change=follower.wake,
        )
        follower.checkpoints = watch
    state.holds = lambda: follower.holds
    follower.read_holds()
    state.start(folder, lambda progress: None, threading.Event(), follower.catch_up_if_possible)
    follower.start()
    if watch is not None:
        watch.start()
    status = follower.follow_now(20)
    deadline = time.monotonic() + 20
    while watch is not None and status.applied != order["last"] and time.monotonic() < deadline:
        status = follower.follow_now(20)  # the checkpoint that it waits for is being loaded
    assert order["last"] in (None, status.applied), status
    target = state.target()
    result = Path(order["result"])
    unnamed = result.with_suffix(".part")
    found = {
        "contents": packet_history.contents(target.tables),
        "applied": target.store.applied,
        "started": state.snapshot.started,
        "steps": killer.seen,
        "packets": follower.status.counts.packets,
        "alarms": [alarm.code for alarm in status.alarms],
    }
    unnamed.write_bytes(pickle.dumps(found))
    unnamed.replace(result)
    os._exit(0)


def main() -> None:
    """Fork one pipeline after the other."""
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                live(order)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(3)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"ended": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
