"""Which manifests lie in a directory, without listing all of it for every packet.

A listing of a local directory costs what lies in it, however little is new: a day of packets that nobody pruned is a
million names. So it is listed as a whole when it is polled, or when somebody asks; what inotify tells of in between is
taken in by its name. A directory whose arrivals have never been told of (another machine writes it) is always listed.
"""

import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence

from satrap.errors import SatrapError
from satrap.formats.decisions import parse_decision_name
from satrap.formats.manifest import after_sequence, parse_manifest_name
from satrap.formats.persia_marker import SHARD_FOLDER
from satrap.storage import Entry, Storage

__all__ = ["Listed", "PacketListing"]

Listed = tuple[str, int]
"""A manifest's name, and its sequence."""

_REMEMBERED = 8
"""Of the manifests that appeared below what is applied, the last ones are remembered."""

_REST = 20
"""A directory whose listing takes long is listed so rarely that it takes a twentieth of the time."""


class PacketListing:
    """What lies in one directory from the applied packet on. One thread at a time; any may call `arrived`."""

    def __init__(
        self, storage: Storage, poll_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is listed yet."""
        self._storage, self._poll_seconds, self._clock = storage, poll_seconds, clock
        self.names: list[Listed] = []
        """Manifests of the applied packet and of later ones, in order."""
        self.below: list[Listed] = []
        """Manifests that appeared lately and come before."""
        self.others: Sequence[Entry] = ()
        """Decision files, and folders of PERSIA's packets."""
        self._arrivals: deque[str] = deque()
        self._late: deque[str] = deque(maxlen=_REMEMBERED)
        self._told = False
        self._whole_at = 0.0
        self._applied = 0
        self.listings = 0
        """How often the whole directory was listed."""

    def arrived(self, name: str) -> None:
        """A name has appeared, or gone; empty: whatever it was, look at everything."""
        self._arrivals.append(name)

    def refresh(self, applied: int) -> None:
        """Find out what lies there now, from sequence `applied` on, that one included.

        Raises:
            StorageError: the directory cannot be listed.
        """
        arrivals = [self._arrivals.popleft() for _ in range(len(self._arrivals))]
        manifests = [(name, found[0]) for name in arrivals if (found := parse_manifest_name(name))]
        unclear = len(manifests) < len(arrivals) or applied < self._applied
        whole = unclear or not self._told or self._storage.local is None or self._clock() >= self._whole_at
        self._told |= bool(manifests)
        self._applied = applied
        if whole:
            self._list(applied)
        else:
            self._take_in(manifests, applied)
        self._late.extend(
            name for name, sequence in manifests if sequence < applied and name not in self._late
        )
        self.below = [
            (name, found[0])
            for name in self._late
            if (found := parse_manifest_name(name)) and found[0] < applied and self._is_there(name)
        ]

    def drop(self, name: str) -> None:
        """It is gone."""
        self.names = [listed for listed in self.names if listed[0] != name]
        self.below = [listed for listed in self.below if listed[0] != name]

    def _list(self, applied: int) -> None:
        began = self._clock()
        entries = self._storage.list(after=after_sequence(applied))
        ended = self._clock()
        # Half a poll is spared at least, so that the looks between two polls do without.
        self._whole_at = ended + max(self._poll_seconds / 2, _REST * (ended - began))
        self.listings += 1
        self.names = [
            (entry.name, found[0])
            for entry in entries
            if not entry.is_folder and (found := parse_manifest_name(entry.name))
        ]
        self.others = [
            entry
            for entry in entries
            if parse_decision_name(entry.name) or (entry.is_folder and SHARD_FOLDER.fullmatch(entry.name))
        ]

    def _take_in(self, manifests: Sequence[Listed], applied: int) -> None:
        del self.names[: bisect_left(self.names, applied, key=lambda listed: listed[1])]
        for listed in manifests:
            there = self._is_there(listed[0])
            if not there:
                self.drop(listed[0])
            elif listed[1] >= applied and listed not in self.names:
                insort(self.names, listed)

    def _is_there(self, name: str) -> bool:
        """Whether a name is still there. One that cannot even be asked for (a link out of the folder, or in a circle)
        stops nothing here: if it is the next packet's, the listing of everything has it, and whoever reads it says so.
        """
        try:
            return self._storage.exists(name)
        except SatrapError:
            return False
