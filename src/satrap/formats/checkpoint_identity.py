"""Whether a checkpoint is the one that was loaded: its path, its markers, and its files' names, sizes and times.

Not its contents: reading them takes as long as loading them (of one of ours the manifest says their checksums). A
directory that is written again in place has new times, hence is another checkpoint; one that is copied elsewhere is
another one too.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from satrap.errors import CheckpointIncompleteError
from satrap.formats.checkpoint import UpdateCheckpoint
from satrap.formats.manifest import format_manifest
from satrap.formats.persia_checkpoint import PersiaCheckpoint, ShardRoute, open_checkpoint
from satrap.formats.persia_marker import MARKER

__all__ = ["checkpoint_digest", "identify_checkpoint", "update_checkpoint_digest"]


def identify_checkpoint(path: Path, owner: ShardRoute) -> str:
    """A digest, as hexadecimal text, of what the server `owner` reads of the checkpoint.

    Raises:
        CheckpointError: as `open_checkpoint`, which looks at markers and names; no file is read.
    """
    return checkpoint_digest(open_checkpoint(path, owner))


def checkpoint_digest(checkpoint: PersiaCheckpoint) -> str:
    """The same of a checkpoint that was opened.

    Raises:
        CheckpointIncompleteError: a file is gone meanwhile.
    """
    folders = sorted({file.path.parent for file in checkpoint.files})
    digest = hashlib.sha256()
    try:
        root = checkpoint.path.resolve()
        _add(digest, [str(root).encode(errors="surrogateescape")])
        for folder in [checkpoint.path, *folders]:
            name = str(folder.relative_to(checkpoint.path)).encode(errors="surrogateescape")
            _add(digest, [name, (folder / MARKER).read_bytes()])
        for file in checkpoint.files:
            status = file.path.stat()
            name = str(file.path.relative_to(checkpoint.path)).encode(errors="surrogateescape")
            _add(digest, [name, b"%d" % status.st_size, b"%d" % status.st_mtime_ns])
    except OSError as error:
        place = error.filename or checkpoint.path
        raise CheckpointIncompleteError(place, f"cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def update_checkpoint_digest(checkpoint: UpdateCheckpoint) -> str:
    """The same of a checkpoint of ours that was opened: its place and its manifest, which has the files' checksums."""
    local = checkpoint.storage.local
    place = str(local.resolve()) if local is not None else checkpoint.path
    digest = hashlib.sha256()
    _add(digest, [b"satrap", place.encode(errors="surrogateescape"), format_manifest(checkpoint.manifest)])
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", parts: Iterable[bytes]) -> None:
    """Every part with its length before it, so that no two sequences of parts are the same bytes."""
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
