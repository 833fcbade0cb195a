"""Which process a pid file means."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from satrap.errors import InvalidInputError
from satrap.pid_file import PidFile

CLAIMS = """
import sys, signal
from pathlib import Path
from satrap.pid_file import PidFile
PidFile(Path(sys.argv[1])).claim()
if sys.argv[2:] == ["deaf"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> PidFile:
    return PidFile(tmp_path / "server.pid")


@pytest.fixture
def claimed(file: PidFile):
    """Start a process that claims the file; it lives until its standard input closes."""
    running = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIMS, str(file.path), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout.readline() == "claimed\n"
        return process

    yield start
    for process in running:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def test_no_file_is_no_process(file):
    assert file.process() is None
    assert file.process_of("python") is None
    assert file.stop(0)
    file.release()


@pytest.mark.parametrize("content", ["", "\n", "x", "-1\n-1\n", "1", "999999999\n5\n", "\xff\xfe", "0\n0\n"])
def test_files_that_name_no_process_of_ours(file, content):
    file.path.write_text(content, encoding="latin-1")
    assert file.process() is None


def test_a_number_that_another_process_has_now_is_not_mistaken_for_it(file):
    file.claim()
    pid, began = file.path.read_text().split()
    assert file.process() == os.getpid() == int(pid)
    file.path.write_text(f"{pid}\n{int(began) + 1}\n")
    assert file.process() is None
    assert file.stop(0), "and it is not stopped"


def test_a_process_is_stopped_and_waited_for(file, claimed):
    process = claimed()
    assert file.process() == process.pid
    assert file.stop(30)
    assert process.wait(0) == -15
    assert file.process() is None


def test_a_process_that_has_not_stopped_in_time_is_said_to_run(file, claimed):
    process = claimed("deaf")
    assert not file.stop(0.05)
    assert process.poll() is None


def test_a_process_that_ended_and_waits_for_its_parent_counts_as_ended(file, claimed):
    process = claimed()
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert file.process() is None


def test_only_its_own_file_is_removed(file, claimed):
    claimed()
    file.release()
    assert file.path.exists()
    file.claim()
    file.release()
    assert not file.path.exists()


def test_another_programs_process_is_known_by_its_words(file):
    file.path.write_text(str(os.getpid()))
    assert file.process() is None
    word = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode()
    assert file.process_of(word) == os.getpid()
    assert file.process_of("org.pytorch.serve.ModelServer") is None


def test_another_users_file_is_not_believed(file, monkeypatch):
    """In a directory that all may write to, anybody could name any process to be stopped."""
    file.claim()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for ask in (file.process, lambda: file.process_of("python"), lambda: file.stop(0)):
        with pytest.raises(InvalidInputError, match="belongs to another user"):
            ask()


def test_a_named_pipe_holds_nobody(file):
    os.mkfifo(file.path)
    assert file.process() is None


def test_a_file_that_cannot_be_written_or_read(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="cannot be written"):
        PidFile(tmp_path / "absent" / "server.pid").claim()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInputError, match="cannot be read"):
        PidFile(tmp_path / "folder").process()
