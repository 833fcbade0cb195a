"""Versions come and go, processes die: no request is lost, none is run twice, no process is left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

pytestmark = pytest.mark.slow

FAILED = "\norg.pytorch.serve.http.InternalServerException"

SLEEPER = """
import os, time

def handle(data, context):
    if data is None:
        return
    for request in data:
        asked = bytes(request["data"]).decode()
        if asked.startswith("sleep"):
            time.sleep(float(asked[5:]))
        if asked.startswith("hold "):
            open(asked[5:], "w").close()
            while os.path.exists(asked[5:]):
                time.sleep(0.01)
        if asked == "die":
            os.kill(os.getpid(), 9)
        if asked.startswith("count "):
            with open(asked[6:], "a") as file:
                file.write("run\\n")
            time.sleep(0.3)
    return [f"{os.getpid()} %s"] * len(data)
"""


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def serving_processes(pid: int, count: int, wait_until: Any) -> list[psutil.Process]:
    """The template and its workers, `count` in all; what has unpacked an archive may take a moment to be gone."""
    wait_until(lambda: len(descendants(pid)) == count)
    return descendants(pid)


def all_gone(processes: list[psutil.Process]) -> bool:
    return all(is_gone(process) for process in processes)


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def template_of(server: Any) -> psutil.Process:
    (template,) = psutil.Process(server.command.process.pid).children()
    return template


@contextmanager
def load(predict: Callable[[], bytes], clients: int = 3) -> Iterator[tuple[list[bytes], list[grpc.RpcError]]]:
    """Closed-loop clients while the block runs: what they were answered, and what failed."""
    answers: list[bytes] = []
    errors: list[grpc.RpcError] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                answers.append(predict())
            except grpc.RpcError as error:
                errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers, errors
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_killed_worker_fails_what_it_had_and_is_replaced(
    shared: Any, failure: Any, tmp_path: Path, wait_until: Any
) -> None:
    shared.store.add("m.mar", SLEEPER)
    client = shared.client
    client.register("m.mar")
    (pid,) = client.worker_pids("m")
    counted = tmp_path / "counted"
    running = client.start_predict("m", f"count {counted}".encode())
    wait_until(counted.exists)
    waiting = client.start_predict("m", b"x")
    os.kill(pid, signal.SIGKILL)
    assert failure(running.result) == ("INTERNAL", "Worker died." + FAILED)
    assert waiting.result().prediction.split()[0] != str(pid).encode(), (
        "what waited is answered by the next one"
    )
    assert counted.read_text() == "run\n", "no request is run twice"
    assert "killed by signal 9" in shared.log()
    for _ in range(2):
        assert failure(client.predict, "m", b"die") == ("INTERNAL", "Worker died." + FAILED)
        assert client.predict("m")


def test_a_worker_that_does_not_answer_in_time_is_replaced(shared: Any, failure: Any) -> None:
    shared.store.add("m.mar", SLEEPER)
    client = shared.client
    client.register("m.mar", response_timeout=1)
    (pid,) = client.worker_pids("m")
    assert failure(client.predict, "m", b"sleep60") == ("INTERNAL", "Worker died." + FAILED)
    assert int(client.predict("m").split()[0]) != pid
    assert "did not answer within 1 s" in shared.log()


def test_a_killed_template_is_replaced_and_workers_go_on(serve: Any, store: Any, wait_until: Any) -> None:
    store.add("m.mar", SLEEPER)
    store.add("n.mar", SLEEPER, name="n")
    server = serve("m.mar")
    template = template_of(server)
    pids = server.client.worker_pids("m")
    template.kill()
    wait_until(lambda: all_gone([template]))
    wait_until(lambda: "WARNING satrap.serving: the worker template was killed by signal 9" in server.log())
    assert int(server.client.predict("m").split()[0]) == pids[0]
    server.client.register("n.mar")
    assert server.client.predict("n")
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: server.client.worker_pids("m") not in (pids, [-1]))
    assert server.client.predict("m")
    assert server.command.stop() == 0


FAILED = "\norg.pytorch.serve.http.InternalServerException"


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_frontend_leaves_no_process(serve: Any, store: Any, wait_until: Any, busy: bool) -> None:
    store.add("m.mar", SLEEPER)
    server = serve("m.mar", serving={"default_workers_per_model": 2})
    processes = serving_processes(server.command.process.pid, 3, wait_until)
    if busy:
        started = server.client.start_predict("m", b"sleep60")
        wait_until(lambda: server.client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 0)
    server.command.kill()
    wait_until(lambda: all_gone(processes))
    if busy:
        assert started.exception() is not None


def test_a_killed_servers_directory_is_removed_by_the_next(serve: Any, store: Any) -> None:
    store.add("m.mar", SLEEPER)
    first = serve("m.mar")
    (left,) = first.working_directories.iterdir()
    first.command.kill()
    os.utime(left, (0, 0))
    second = serve("m.mar")
    (own,) = second.working_directories.iterdir()
    assert own != left
    os.utime(own, (0, 0))
    third = serve("m.mar")
    assert own in third.working_directories.iterdir(), "what a living server has locked stays"


def test_unregistering_under_load_loses_nothing(shared: Any) -> None:
    for version in ("1.0", "2.0"):
        shared.store.add(f"m{version[0]}.mar", SLEEPER.replace("%s", version), version=version)
    client = shared.client
    client.register("m1.mar")
    gone: list[str] = []

    def predict_second() -> bytes:
        try:
            return client.predict("m", b"sleep0.01", version="2.0")
        except grpc.RpcError as error:
            if "does not exist for model" not in error.details():
                raise
            gone.append(error.details())
            return b"gone"

    for _ in range(5):
        client.register("m2.mar", model_name="m")
        with load(predict_second) as (answers, errors):
            while len(answers) < 5:
                client.predict("m")
            client.unregister("m", "2.0")
            assert [v["modelVersion"] for v in client.describe("m")] == ["1.0"]
        assert errors == []
        assert all(answer.endswith(b"2.0") or answer == b"gone" for answer in answers)


def test_replacing_the_default_under_load_loses_nothing(shared: Any, wait_until: Any) -> None:
    for version in ("1.0", "2.0"):
        shared.store.add(f"m{version[0]}.mar", SLEEPER.replace("%s", version), version=version)
    client = shared.client
    client.register("m1.mar")
    with load(lambda: client.predict("m")) as (answers, errors):
        for old, new in [("1.0", "2.0"), ("2.0", "1.0")] * 3:
            client.register(f"m{new[0]}.mar", model_name="m")
            client.set_default("m", new)
            client.unregister("m", old)
    assert errors == []
    assert {answer.split()[1] for answer in answers} == {b"1.0", b"2.0"}
    serving_processes(shared.command.process.pid, 2, wait_until)
    assert len(shared.unpacked()) == 1


def test_unregister_returns_when_the_last_answer_is_out(shared: Any, tmp_path: Path, wait_until: Any) -> None:
    shared.store.add("m.mar", SLEEPER)
    client = shared.client
    client.register("m.mar")
    held = tmp_path / "held"
    calls = [client.start_predict("m", f"hold {held}".encode())]
    wait_until(held.exists)
    calls += [client.start_predict("m") for _ in range(2)]
    wait_until(lambda: client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 2)
    with ThreadPoolExecutor(1) as pool:
        unregistered = pool.submit(client.unregister, "m")
        wait_until(lambda: client.list_models() == {"models": []})
        assert not unregistered.done() and not any(call.done() for call in calls)
        held.unlink()
        assert unregistered.result() == 'Model "m" unregistered'
    assert all(call.result().prediction for call in calls)


def test_unregister_gives_up_after_its_timeout(
    serve: Any, store: Any, failure: Any, tmp_path: Path, wait_until: Any
) -> None:
    store.add("m.mar", SLEEPER)
    server = serve("m.mar", serving={"unregister_model_timeout_seconds": 1})
    counted = tmp_path / "counted"
    first = server.client.start_predict("m", f"count {counted}".encode())
    wait_until(counted.exists)
    stuck = server.client.start_predict("m", b"sleep60")
    code, details = failure(server.client.unregister, "m")
    assert code == "FAILED_PRECONDITION"
    assert details.splitlines()[0] == "Timed out while cleaning resources: m"
    assert first.result()
    assert failure(stuck.result) == ("INTERNAL", "Worker died." + FAILED)
    assert server.unpacked() == []
    server.client.register("m.mar")
    assert server.client.predict("m")


def test_scaling_down_lets_a_busy_worker_finish(shared: Any, tmp_path: Path, wait_until: Any) -> None:
    shared.store.add("m.mar", SLEEPER)
    server = shared
    server.client.register("m.mar")
    server.client.scale("m", min_worker=2, synchronous=True)
    processes = serving_processes(server.command.process.pid, 3, wait_until)
    counted = [tmp_path / "first", tmp_path / "second"]
    calls = [server.client.start_predict("m", f"count {path}".encode()) for path in counted]
    wait_until(lambda: all(path.exists() for path in counted))
    server.client.scale("m", min_worker=1, max_worker=1)
    assert len({call.result().prediction for call in calls}) == 2, "each answered by a worker of its own"
    assert [path.read_text() for path in counted] == ["run\n", "run\n"]
    wait_until(lambda: sum(not is_gone(p) for p in processes) == 2)
    assert server.client.predict("m")


def test_an_asynchronous_registration_is_answered_when_ready(shared: Any) -> None:
    shared.store.add("m.mar", "import time\ntime.sleep(0.5)\n" + SLEEPER)
    client = shared.client
    assert client.register("m.mar", synchronous=False) == "Processing worker updates..."
    assert client.predict("m")


def test_sigterm_finishes_what_was_accepted(serve: Any, store: Any, tmp_path: Path, wait_until: Any) -> None:
    store.add("m.mar", SLEEPER)
    server = serve("m.mar")
    held = tmp_path / "held"
    calls = [server.client.start_predict("m", f"hold {held}".encode())]
    wait_until(held.exists)
    calls += [server.client.start_predict("m") for _ in range(2)]
    wait_until(lambda: server.client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 2)
    processes = descendants(server.command.process.pid)
    server.command.process.terminate()
    wait_until(lambda: "draining" in server.log())
    held.unlink()
    assert server.command.process.wait(60) == 0
    assert all(call.result().prediction for call in calls)
    assert all_gone(processes)


def test_sigterm_while_a_model_loads(store: Any, tmp_path: Path, wait_until: Any) -> None:
    loading = tmp_path / "loading"
    store.add("m.mar", f"import time\nopen({str(loading)!r}, 'w').close()\ntime.sleep(600)\n")
    ports = ("grpc-inference", "grpc-management", "rest-inference", "rest-management", "metrics")
    flags = [word for port in ports for word in (f"--{port}-port", "0")]
    command = ["serving", "--model-store", str(store.directory), "--models", "m.mar", *flags]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "satrap.cli", *command],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        wait_until(loading.exists)
        processes = descendants(process.pid)
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, b""), "stopped in order, and never said to be ready"
    assert all_gone(processes)
    assert not list(tmp_path.glob("satrap-serving-*"))
