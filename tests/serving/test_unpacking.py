"""Working directories: those of servers that are gone are removed, and none keeps the next server from starting."""

import asyncio
import errno
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from satrap.errors import NoSpaceError
from satrap.serving.archive import unpacking
from satrap.serving.archive.unpack import Limits, answer
from satrap.serving.archive.unpacking import Unpacker
from satrap.serving.forks import Template

LONG_AGO = 1_000_000_000.0


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)  # deeper than pytest can remove


def start() -> None:
    async def opened() -> None:
        unpacker = Unpacker(Template(), Limits(1, 1))
        await unpacker.open()
        await unpacker.close()

    asyncio.run(opened())


def test_the_directory_of_a_server_that_is_gone_is_removed(temporary: Path) -> None:
    stale = temporary / "satrap-serving-gone"
    (stale / "version").mkdir(parents=True)
    os.utime(stale, (LONG_AGO, LONG_AGO))

    start()

    assert list(temporary.iterdir()) == []


def test_one_that_is_too_deep_to_be_removed_fails_no_start(
    temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stale = temporary / "satrap-serving-deep"
    stale.mkdir()
    folder = os.open(stale, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("a", dir_fd=folder)
        deeper = os.open("a", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    os.utime(stale, (LONG_AGO, LONG_AGO))

    with caplog.at_level(logging.WARNING, "satrap.serving"):
        start()

    assert "too deep to be removed" in caplog.text
    assert stale.exists()


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT], ids=["full", "over the quota"])
def test_no_room_is_not_the_archives_fault(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    archive = temporary / "m"
    archive.mkdir()
    (archive / "handler.py").touch()

    def full(*paths: Path) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(shutil, "copyfile", full)
    (target := temporary / "target").mkdir()
    said = answer(archive, target, Limits(1, 1))
    assert said == {"no_room": True}

    async def errand(*arguments: object) -> SimpleNamespace:
        return SimpleNamespace(head=said)

    monkeypatch.setattr(unpacking, "run_errand", errand)

    async def unpacked() -> None:
        unpacker = Unpacker(Template(), Limits(1, 1))
        await unpacker.open()
        try:
            await unpacker.unpack(archive)
        finally:
            await unpacker.close()

    with pytest.raises(NoSpaceError, match=f"no room to unpack it in {temporary}.*TMPDIR"):
        asyncio.run(unpacked())
    assert sorted(temporary.iterdir()) == [archive, target]
