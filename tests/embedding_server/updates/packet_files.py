"""A directory of packets, and whatever a test wants to lie in it."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from satrap.formats.packet import PacketContent, publish_packet
from satrap.storage import open_storage

DIM = 4


@dataclass
class Packets:
    """A packet directory, and the chain that is published into it. A packet's rows all hold one value: its sequence."""

    directory: Path
    last: int = 0
    stream: str = "main"
    signs: np.ndarray = field(default_factory=lambda: np.arange(100, dtype=np.uint64))

    def parts(self, value: float, dim: int = DIM) -> list[PacketContent]:
        return [PacketContent(dim, self.signs, np.full((len(self.signs), dim), value, np.float32))]

    def publish(self, count: int = 1, **changes: object) -> int:
        """Publish the next packets, `changes` apart, and return the last one's sequence."""
        for _ in range(count):
            self.last += 1
            self.put(self.files(self.last, **changes))
        return self.last

    def files(self, sequence: int, **changes: object) -> dict[str, bytes]:
        """The files of a packet by name, the manifest last."""
        with tempfile.TemporaryDirectory() as folder:
            facts = {
                "stream": self.stream,
                "writer": "w",
                "previous": sequence - 1,
                "parts": self.parts(sequence),
                "newest_event_ns": time.time_ns(),
                **changes,
            }
            manifest = publish_packet(open_storage(folder), sequence=sequence, **facts)
            names = [entry.name for entry in manifest.files]
            return {name: (Path(folder) / name).read_bytes() for name in [*names, manifest.name]}

    def put(self, files: dict[str, bytes]) -> None:
        """Let files appear, the manifest last."""
        self.directory.mkdir(exist_ok=True)
        storage = open_storage(self.directory)
        for name, data in files.items():
            storage.publish(name, data, replace=True)


def edited(files: dict[str, bytes], edit: Callable[[dict], None]) -> dict[str, bytes]:
    """The files, with another manifest."""
    *_, name = files
    manifest = json.loads(files[name])
    edit(manifest)
    return {**files, name: json.dumps(manifest).encode()}
