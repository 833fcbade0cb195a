"""What operators decided, as far as the files beside the packets say: read again when they change."""

from collections.abc import Mapping, Sequence

from satrap.formats.decisions import Hold, Skip, parse_decision_name, read_hold, read_skips
from satrap.storage import Entry, Storage

__all__ = ["DecisionFiles"]

_SECOND = 10**9


class DecisionFiles:
    """Holds and skips of all streams of a directory. Any thread reads what one thread's `read` found last."""

    def __init__(self, storage: Storage) -> None:
        """Nothing is decided until `read`."""
        self._storage = storage
        self._known: dict[str, tuple[Entry, Hold | tuple[Skip, ...] | None]] = {}
        self.all_holds: Mapping[str, Hold] = {}
        self.all_skips: Mapping[str, tuple[Skip, ...]] = {}

    @property
    def holds(self) -> dict[str, int]:
        """The greatest sequence to keep, by stream."""
        return {stream: hold.keep_through for stream, hold in self.all_holds.items()}

    @property
    def skips(self) -> dict[str, int]:
        """The greatest sequence to jump to, by stream."""
        return {stream: max(skip.to for skip in skips) for stream, skips in self.all_skips.items() if skips}

    def who_skipped(self, stream: str) -> str:
        """Who decided on the greatest skip of a stream, and why."""
        skip = max(self.all_skips.get(stream, ()), key=lambda skip: skip.to, default=None)
        return f"{skip.who} ({skip.why})" if skip is not None else "nobody"

    def read(self, listing: Sequence[Entry]) -> None:
        """Take in the decision files among the entries of the directory.

        Raises:
            UpdateError: one cannot be understood; so it is not known what must not be applied.
            StorageError: one cannot be read at the moment.
        """
        present = {
            entry.name: (entry, found)
            for entry in listing
            if (found := parse_decision_name(entry.name)) is not None and not entry.is_folder
        }
        if not present and not self._known:
            return
        self._known = {name: known for name, known in self._known.items() if name in present}
        holds: dict[str, Hold] = {}
        skips: dict[str, tuple[Skip, ...]] = {}
        for entry, (kind, stream) in present.values():
            content = self._content(entry, kind, stream)
            if isinstance(content, Hold):
                holds[stream] = content
            elif content:
                skips[stream] = content
        self.all_holds, self.all_skips = holds, skips

    def _content(self, entry: Entry, kind: str, stream: str) -> Hold | tuple[Skip, ...] | None:
        known = self._known.get(entry.name)
        # S3 tells whole seconds: two decisions within one may look alike.
        if known is not None and known[0] == entry and entry.modified_ns % _SECOND:
            return known[1]
        content = read_hold(self._storage, stream) if kind == "hold" else read_skips(self._storage, stream)
        self._known[entry.name] = entry, content
        return content
