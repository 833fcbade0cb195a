"""What is published already, and publishing one more packet: nothing that another trainer wrote is passed over."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from satrap.errors import ForeignConfigError, ForkedStreamError, UpdateError
from satrap.formats.decisions import read_hold
from satrap.formats.manifest import Dense, RowDType, after_sequence, parse_manifest_name
from satrap.formats.packet import PacketContent, publish_packet, read_manifest, read_shard
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.storage import Storage
from satrap.trainer.rows import Rows

__all__ = ["Identity", "PacketJob", "check_fork", "newest_checkpoint", "newest_sequence", "replay"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Who publishes what: the same for all that one trainer publishes."""

    stream: str
    writer: str
    num_shards: int
    row_dtype: RowDType
    embedding_config: str


def newest_sequence(storage: Storage, stream: str) -> int:
    """The greatest sequence of a stream's manifests in a folder; 0 if it has none.

    A manifest that cannot be read counts: its sequence may be the stream's, and is never given a second time.

    Raises:
        StorageError: the folder cannot be listed or read.
    """
    for name, sequence, _ in sorted(_manifests(storage), key=lambda found: found[1], reverse=True):
        if _stream_of(storage, name) in (stream, None):
            return sequence
    return 0


def newest_checkpoint(storage: Storage, stream: str) -> int:
    """The greatest sequence of a stream's checkpoints in a folder of checkpoints, or in one of them; 0 if
    there are none.

    Raises:
        StorageError: a folder cannot be listed or read.
    """
    folders = [storage.subfolder(entry.name) for entry in storage.list() if entry.is_folder]
    return max(newest_sequence(folder, stream) for folder in [storage, *folders])


def replay(
    storage: Storage, identity: Identity, rows: Rows, dims: Collection[int], applied: int
) -> tuple[int, int]:
    """Bring `rows`, which are those of sequence `applied`, up to the stream's newest packet that follows on it, or to
    the last one that a hold lets stand.

    Returns the sequence that they have then, and the newest event in the packets (nanoseconds, 0: none). A missing
    packet ends it; what comes after it is left alone.

    Raises:
        ForkedStreamError: two packets follow on one.
        ForeignConfigError: a packet of another embedding config, or with a dim that this one lacks.
        UpdateError: a packet is not whole, or a hold cannot be understood.
        StorageError: the folder cannot be listed or read.
    """
    newest_event_ns = 0
    hold = read_hold(storage, identity.stream)
    if hold is not None:
        log.warning(
            "the stream %r is held at %d by %s (%s): what comes after it is not taken",
            identity.stream,
            hold.keep_through,
            hold.who,
            hold.why,
        )
    for name, sequence, _ in _manifests(storage, after_sequence(applied + 1)):
        if _stream_of(storage, name) not in (identity.stream, None):
            continue
        if hold is not None and sequence > hold.keep_through:
            break
        manifest = read_manifest(storage, name)
        path = storage.path_of(name)
        if manifest.previous is not None and manifest.previous < applied:
            raise ForkedStreamError(
                path, f"it follows on sequence {manifest.previous}, as another packet does"
            )
        if manifest.previous != applied:
            log.warning(
                "%s follows on sequence %s, which is missing after %d", path, manifest.previous, applied
            )
            break
        if manifest.embedding_config not in (None, identity.embedding_config):
            raise ForeignConfigError(path, "it was published with another embedding config")
        for dim, signs, values in read_shard(storage, manifest, ShardRoute()):
            if dim not in dims:
                raise ForeignConfigError(
                    path, f"it has rows of dim {dim}, which no slot of the embedding config has"
                )
            if values is None:
                rows.erase(dim, signs)
            else:
                rows.write(dim, signs, values)
        applied, newest_event_ns = sequence, max(newest_event_ns, manifest.newest_event_ns)
    return applied, newest_event_ns


def check_fork(storage: Storage, stream: str, sequence: int, writer: str) -> None:
    """Refuse to publish a sequence that another writer of the stream has published, or gone past.

    Raises:
        ForkedStreamError: there is such a manifest.
        StorageError: the folder cannot be listed or read.
    """
    for name, found, by in _manifests(storage, after_sequence(sequence)):
        if by != writer and _stream_of(storage, name) == stream:
            raise ForkedStreamError(
                storage.path_of(name),
                f"another trainer (writer {by}) has published sequence {found} of the stream {stream!r}, where this "
                f"one (writer {writer}) is at {sequence}: two trainers must not write one stream. Stop one of them. If "
                "it is this one that goes on, start it again from its newest checkpoint: it then publishes a full "
                "checkpoint before its next packet",
            )


@dataclass
class PacketJob:
    """A packet that was cut and waits to be published."""

    storage: Storage
    identity: Identity
    sequence: int
    previous: int
    parts: Sequence[PacketContent]
    oldest_event_ns: int
    newest_event_ns: int
    dense: Dense | None = None
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = sum(len(part.signs) for part in self.parts)

    def run(self) -> None:
        """Publish it, or find that an earlier try did.

        Raises:
            ForkedStreamError: another trainer was first.
            StorageError: it cannot be written at the moment; nothing is visible.
        """
        identity = self.identity
        try:
            publish_packet(
                self.storage,
                stream=identity.stream,
                writer=identity.writer,
                sequence=self.sequence,
                previous=self.previous,
                parts=self.parts,
                num_shards=identity.num_shards,
                dtype=identity.row_dtype,
                oldest_event_ns=self.oldest_event_ns,
                newest_event_ns=self.newest_event_ns,
                embedding_config=identity.embedding_config,
                dense=self.dense,
                before_manifest=self._check_fork,
            )
        except FileExistsError:
            # A try whose answer was lost: the writer's id is this process's alone, so the manifest is this packet's.
            self.storage.sync()
        # Two trainers may both have looked before either published: then both learn of it here, as servers do.
        self._check_fork()
        log.debug("published packet %d: %d rows", self.sequence, self.rows)

    def _check_fork(self) -> None:
        check_fork(self.storage, self.identity.stream, self.sequence, self.identity.writer)


def _manifests(storage: Storage, after: str = "") -> Iterator[tuple[str, int, str]]:
    for entry in storage.list(after=after):
        parsed = parse_manifest_name(entry.name)
        if parsed is not None and not entry.is_folder:
            yield entry.name, *parsed


def _stream_of(storage: Storage, name: str) -> str | None:
    """The stream of a manifest; None if it cannot be read, empty if it is gone."""
    try:
        return read_manifest(storage, name).stream
    except FileNotFoundError:
        return ""
    except UpdateError as error:
        log.warning("a manifest that cannot be read: %s", error)
        return None
