"""What is registered, written down."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from satrap.serving.batching import BatchPolicy
from satrap.serving.registration_record import RegistrationRecord
from satrap.serving.registry import Registry
from satrap.serving.snapshot_files import SnapshotFiles


def version(name: str) -> Any:
    """What a snapshot looks at."""
    spec = SimpleNamespace(
        model="m",
        version=name,
        downloaded=None,
        url=f"m{name}.mar",
        batching=BatchPolicy(),
        response_timeout=120,
        startup_timeout=120,
        runtime="python",
        handler="h",
        manifest=SimpleNamespace(handler="h"),
    )
    roster = SimpleNamespace(minimum=1, maximum=2)
    return SimpleNamespace(spec=spec, pool=SimpleNamespace(roster=roster))


def written(record: RegistrationRecord) -> list[tuple[str, bool]]:
    """The versions in the newest file, and whether each is the default."""
    newest = record.files.newest()
    return [(each.version, each.is_default) for each in newest[1].models["m"]] if newest else []


def test_nothing_is_written_before_everything_is_restored(tmp_path: Path) -> None:
    async def run() -> None:
        registry = Registry[Any]()
        record = RegistrationRecord(registry, SnapshotFiles(tmp_path))
        registry.add("m", "1", version("1"))
        record.save_soon()
        await record.save()
        assert written(record) == []
        await record.started()
        assert written(record) == [("1", True)]
        await record.close()

    asyncio.run(run())


def test_every_change_is_written_until_the_end(tmp_path: Path) -> None:
    async def run() -> None:
        registry = Registry[Any]()
        record = RegistrationRecord(registry, SnapshotFiles(tmp_path))
        await record.started()
        registry.add("m", "1", version("1"))
        await record.save()
        registry.add("m", "2", version("2"))
        registry.set_default("m", "2")
        record.save_soon()
        assert written(record) == [("1", True)], "it does not wait"
        await record.close()
        assert written(record) == [("1", False), ("2", True)]
        registry.add("m", "3", version("3"))
        record.save_soon()
        await record.save()
        assert len(written(record)) == 2, "what changes afterwards is not written"

    asyncio.run(run())
