"""What is registered, written down at every change so that the next start can restore it."""

import asyncio

from satrap.serving.description import state_of
from satrap.serving.registry import Registry
from satrap.serving.snapshot import Snapshot, SnapshotKind
from satrap.serving.snapshot_files import SnapshotFiles
from satrap.serving.unrestored import Unrestored
from satrap.serving.version import Version

__all__ = ["RegistrationRecord"]


class RegistrationRecord:
    """Takes snapshots of a registry. Belongs to the frontend's event loop.

    Nothing is written before `started`: until then a registry is incomplete, and what could not be restored would be
    forgotten by the next start.
    """

    def __init__(self, registry: Registry[Version], files: SnapshotFiles) -> None:
        """Write nothing."""
        self.files = files
        self.unrestored = Unrestored()
        self._registry = registry
        self._is_started = False
        self._saving: set[asyncio.Task[None]] = set()

    async def started(self) -> None:
        """What was to be registered at the start is: from now on every change is written down."""
        self._is_started = True
        await self.save("startup")

    async def save(self, kind: SnapshotKind = "snapshot") -> None:
        """Write down what is registered, once that is complete."""
        if self._is_started:
            await self.files.save(self._snapshot(), kind)

    def save_soon(self) -> None:
        """The same, without waiting."""
        if not self._is_started:
            return
        task = asyncio.get_running_loop().create_task(self.save())
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)

    async def close(self) -> None:
        """Write down what is registered at the end; what changes afterwards is not."""
        for task in self._saving:
            task.cancel()
        await asyncio.gather(*self._saving, return_exceptions=True)
        await self.save("shutdown")
        await asyncio.to_thread(self.files.close)
        self._is_started = False

    def _snapshot(self) -> Snapshot:
        registered = {
            model: [
                state_of(version, is_default=version is self._registry.find_default(model))
                for version in self._registry.versions(model)
            ]
            for model in self._registry.models()
        }
        return self.unrestored.added_to(Snapshot(registered))
