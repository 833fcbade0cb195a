"""Being woken when something appears in a local folder; everything else is seen by the next poll.

watchdog's observers pair the two halves of a rename, for which they may hold an event back by half a second. The thread
below them that reads inotify does not, and is all that is needed here: it matters that something appeared, not what.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

try:
    from watchdog.observers import inotify_c
except ImportError:  # not Linux: polling is all there is
    inotify_c = None  # type: ignore[assignment]

__all__ = ["FolderWatch"]

log = logging.getLogger(__name__)


class FolderWatch:
    """Calls `on_arrival`, on a thread of its own, when an entry appears in a folder or a file is closed there.

    Threads: `watch` and `close` are one thread's.
    """

    def __init__(self, on_arrival: Callable[[str], None]) -> None:
        """Watch nothing yet. `on_arrival` gets the entry's name; empty: events were lost."""
        self._listener = _Listener(on_arrival)
        self._inotify: inotify_c.InotifyFD | None = None

    def watch(self, folders: Iterable[Path]) -> bool:
        """Watch these folders, and no others any more; those that are not there are left out.

        Whether there is one among them that was not watched before: what is in it may have come before.
        """
        wanted, watched = set(folders), self._listener.descriptors
        if inotify_c is None or wanted == watched.keys():
            return False
        before = set(watched)
        try:
            if self._inotify is None:
                self._inotify = inotify_c.InotifyFD()
                self._inotify.start()
            for folder in watched.keys() - wanted:
                descriptor = watched.pop(folder, None)
                if descriptor is not None:
                    self._inotify.remove_callbacks([(descriptor, self._listener.id)])
            for folder in wanted - watched.keys():
                if folder.is_dir():
                    watched[folder] = self._inotify.add_callback(
                        bytes(folder), self._listener.mask, self._listener, self._listener.id
                    )
        except OSError as error:  # no watches left, or the folder has just gone: the poll sees what comes
            log.debug("cannot watch %s: %s", ", ".join(map(str, wanted)), error)
        return not watched.keys() <= before

    def close(self) -> None:
        """Watch nothing; no call comes after this has returned."""
        if self._inotify is not None:
            self._inotify.stop()
            self._inotify.join()
            self._inotify = None
            self._listener.descriptors.clear()


class _Listener:
    """What inotify's thread calls."""

    def __init__(self, on_arrival: Callable[[str], None]) -> None:
        self._on_arrival = on_arrival
        self.descriptors: dict[Path, inotify_c.WatchDescriptor] = {}
        if inotify_c is not None:
            constants = inotify_c.InotifyConstants
            self.id = inotify_c.CallbackId(id(self))
            self.mask = inotify_c.Mask(
                constants.IN_MOVED_TO | constants.IN_CLOSE_WRITE | constants.IN_CREATE | constants.IN_DELETE
            )

    def on_event(self, event: "inotify_c.InotifyEvent") -> None:
        """Something happened in a folder that is watched."""
        self._on_arrival(event.name.decode(errors="replace"))

    def on_watch_deleted(self, wd: int) -> None:
        """A folder has gone; if it comes back it is watched anew."""
        for folder in [folder for folder, known in self.descriptors.items() if known == wd]:
            self.descriptors.pop(folder, None)

    def on_queue_overflow(self) -> None:
        """Events were lost."""
        self._on_arrival("")
