"""Environments built for real by venv and pip, from wheels in the archive."""

import fcntl
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from satrap.serving.environment.build import BuildError, HungUpError, build

pytestmark = pytest.mark.slow


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    directory = tmp_path / "archive"
    directory.mkdir()
    return directory


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def requirements(archive: Path, *lines: str) -> Path:
    file = archive / "requirements.txt"
    file.write_text("\n".join(["--no-index", *lines]) + "\n")
    return file


def test_it_holds_the_files_packages_before_the_servers(
    tmp_path: Path, archive: Path, connection, make_wheel
):
    wheel = make_wheel(archive, "anything", "1.5", {"anything.py": "answer = 42\n"})
    file = requirements(archive, f"./{wheel.name}", "numpy")
    built = build(file, archive, tmp_path / "cache", 100, connection[0])
    assert not built.is_fresh
    code = "import anything, numpy, satrap; print(anything.answer, numpy.__version__, satrap.__file__)"
    command = [built.python, "-P", "-c", code]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert said[:2] == ["42", np.__version__]
    assert not list(built.packages.glob("numpy*")), "what the server has is not installed again"
    assert (tmp_path / "cache").stat().st_mode & 0o77 == 0, "nobody else may put packages there"
    log = built.directory.with_suffix(".log")
    assert "Successfully installed anything-1.5" in log.read_text()

    log.unlink()
    again = build(file, archive, tmp_path / "cache", 100, connection[0])
    assert again == built
    assert not log.exists(), "pip ran again"


def test_another_version_of_what_this_process_has_loaded(
    tmp_path: Path, archive: Path, connection, make_wheel
):
    wheel = make_wheel(archive, "numpy", "0.1", {"numpy/__init__.py": ""})
    built = build(requirements(archive, f"./{wheel.name}"), archive, tmp_path / "cache", 100, connection[0])
    assert built.is_fresh
    assert built.replaced == (f"numpy 0.1 (the server's: {np.__version__})",)
    assert built.describe()["process"] == "fresh"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["no-such-package-at-all"], "No matching distribution found for no-such-package-at-all"),
        (["./missing.whl"], "missing.whl"),
        (["this is !! no requirement"], "Invalid requirement"),
    ],
)
def test_what_pip_refuses(tmp_path: Path, archive: Path, connection, lines: list[str], said: str):
    with pytest.raises(BuildError, match="the installer exited with status") as caught:
        build(requirements(archive, *lines), archive, tmp_path / "cache", 100, connection[0])
    assert said in caught.value.log
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock", ".log"}


def test_another_satrap_is_refused(tmp_path: Path, archive: Path, connection, make_wheel):
    wheel = make_wheel(archive, "satrap", "9.0", {"satrap/__init__.py": ""})
    with pytest.raises(BuildError, match="brings another satrap"):
        build(requirements(archive, f"./{wheel.name}"), archive, tmp_path / "cache", 100, connection[0])


def test_what_is_linked_to_the_archive_is_refused(tmp_path: Path, archive: Path, connection, make_wheel):
    wheel = make_wheel(archive, "linked", "1.0", {"linked.pth": f"{archive}/src\n"})
    with pytest.raises(BuildError, match=r"leaves linked\.pth linked to the archive's own directory"):
        build(requirements(archive, f"./{wheel.name}"), archive, tmp_path / "cache", 100, connection[0])


def test_files_that_the_file_includes(tmp_path: Path, archive: Path, connection, make_wheel):
    wheel = make_wheel(archive, "anything", "1.5", {"anything.py": ""})
    (archive / "other.txt").write_text(f"./{wheel.name}\n")
    built = build(requirements(archive, "-r other.txt"), archive, tmp_path / "cache", 100, connection[0])
    assert (built.packages / "anything.py").exists()
    (tmp_path / "secret.txt").write_text("a secret line\n")
    with pytest.raises(
        BuildError, match=r"includes '\.\./secret\.txt', which lies outside of the archive"
    ) as caught:
        build(requirements(archive, "-r ../secret.txt"), archive, tmp_path / "cache", 100, connection[0])
    assert "secret line" not in caught.value.log


def test_a_cache_that_others_may_write(tmp_path: Path, archive: Path, connection):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(BuildError, match="others may write into"):
        build(requirements(archive), archive, cache, 100, connection[0])
    assert not list(cache.iterdir())


def test_a_file_that_is_not_in_the_archive(tmp_path: Path, archive: Path, connection):
    (tmp_path / "outside.txt").write_text("")
    for name in ("missing.txt", "../outside.txt", "."):
        with pytest.raises(BuildError, match="there is no file"):
            build(archive / name, archive, tmp_path / "cache", 100, connection[0])


def test_an_installer_that_takes_too_long_is_killed(tmp_path: Path, archive: Path, connection):
    with pytest.raises(BuildError, match="not ready in time"):
        build(requirements(archive), archive, tmp_path / "cache", 0.01, connection[0])
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_nothing_stays_when_nobody_waits_any_more(tmp_path: Path, archive: Path, connection):
    connection[1].close()
    with pytest.raises(HungUpError):
        build(requirements(archive), archive, tmp_path / "cache", 100, connection[0])
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


WAITS = """
import os

def get_requires_for_build_wheel(config_settings=None):
    with open(os.environ["BEGUN"], "w") as begun:
        begun.write("x")
    os.kill(os.getpid(), 19)  # it stops
"""


def test_an_installer_that_is_killed_leaves_nothing(
    tmp_path: Path, archive: Path, connection, monkeypatch: pytest.MonkeyPatch
):
    temporary, begun = tmp_path / "temporary", tmp_path / "begun"
    temporary.mkdir()
    os.mkfifo(begun)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("BEGUN", str(begun))
    package = archive / "package"
    package.mkdir()
    (package / "backend.py").write_text(WAITS)
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    with ThreadPoolExecutor() as threads:
        file = requirements(archive, "./package")
        building = threads.submit(build, file, archive, tmp_path / "cache", 100, connection[0])
        assert begun.read_text() == "x"
        connection[1].close()
        with pytest.raises(HungUpError):
            building.result(20)
    assert list(temporary.iterdir()) == []


def test_who_waits_for_the_lock_of_another_gives_up_too(tmp_path: Path, archive: Path, connection):
    file = requirements(archive)
    built = build(file, archive, tmp_path / "cache", 100, connection[0])
    with built.directory.with_suffix(".lock").open() as lock, ThreadPoolExecutor() as threads:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threads.submit(build, file, archive, tmp_path / "cache", 100, connection[0])
        connection[1].close()
        with pytest.raises(HungUpError):
            waiting.result(20)


def test_what_a_killed_builder_left_is_built_anew(tmp_path: Path, archive: Path, connection):
    file = requirements(archive)
    built = build(file, archive, tmp_path / "cache", 100, connection[0])
    (built.directory / "satrap-complete").unlink()
    (built.packages / "half.py").write_text("")
    assert build(file, archive, tmp_path / "cache", 100, connection[0]) == built
    assert not (built.packages / "half.py").exists()


def test_two_at_once_build_it_once(tmp_path: Path, archive: Path, connection, make_wheel):
    wheel = make_wheel(archive, "anything", "1.5", {"anything.py": ""})
    file = requirements(archive, f"./{wheel.name}")
    start = threading.Barrier(2)

    def one() -> float:
        start.wait(20)
        built = build(file, archive, tmp_path / "cache", 100, connection[0])
        return (built.packages / "anything.py").stat().st_mtime_ns

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.submit(one), threads.submit(one)
        assert first.result(100) == second.result(100)


def test_without_a_pip_of_its_own_the_server_uses_pythons(
    tmp_path: Path, archive: Path, connection, make_wheel, monkeypatch: pytest.MonkeyPatch
):
    wheel = make_wheel(archive, "anything", "1.5", {"anything.py": ""})
    file = requirements(archive, f"./{wheel.name}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("satrap.serving.environment.build._server_packages", list)
    built = build(file, archive, tmp_path / "cache", 100, connection[0])
    subprocess.run([built.python, "-P", "-c", "import anything"], check=True)
