"""What a user of PERSIA and TorchServe does, with their archiver, handler and client, against satrap."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from satrap import rpc
from satrap.client import NO_RETRY, InferenceClient, ManagementClient
from satrap.errors import InvalidInputError, SatrapError, UnavailableError
from satrap.protos import inference_pb2, inference_pb2_grpc
from satrap.serving.archive.package import package

pytestmark = pytest.mark.slow

CASE = "b_groups_prefix12_r2_b7"


@pytest.fixture(scope="module")
def case(persia_data: Path) -> Path:
    return persia_data / "golden" / CASE


@pytest.fixture(scope="module")
def batch(case: Path) -> bytes:
    return (case / "batch.bin").read_bytes()


@pytest.fixture(scope="module")
def expected(case, persia_tensors) -> np.ndarray:
    """What the model answers: all that PERSIA hands to it, summed for each sample."""
    return persia_tensors(case).astype(np.float32).sum(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory, archiver, persia_handler, total, total_times_three) -> Path:
    store = tmp_path_factory.mktemp("store")
    archiver(store, "deepctr", version="1.0", serialized=total, handler=persia_handler)
    # The second version, as a trainer writes it: another archive of the same model name.
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    package(model_name="deepctr", version="2.0", serialized_file=total_times_three, export_path=elsewhere)
    (elsewhere / "deepctr.mar").rename(store / "deepctr_v2.mar")
    return store


def start(commands, case: Path, store: Path, *more: str):
    return commands(
        "up",
        *("--embedding-config", case / "embedding_config.yml", "--checkpoint", case / "ckpt"),
        *("--model-store", store, "--models", "deepctr.mar", "--shards", "2"),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0", *more),
    )


@pytest.fixture(scope="module")
def running(satrap_module, case, store):
    return start(satrap_module, case, store)


@pytest.fixture(scope="module")
def client(running):
    with InferenceClient(running.addresses[0]) as client:
        yield client


@pytest.fixture(scope="module")
def management(running):
    with ManagementClient(running.addresses[1]) as client:
        yield client


def test_a_persia_handler_from_the_real_archiver_answers_what_persia_answered(client, batch, expected):
    np.testing.assert_allclose(client.infer("deepctr", batch), expected, rtol=1e-5)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 40, 200, 500])
def test_a_cut_batch_is_refused_and_the_next_request_is_right(client, batch, expected, length):
    with pytest.raises(InvalidInputError, match="at byte"):
        client.infer("deepctr", batch[:length])
    np.testing.assert_allclose(client.infer("deepctr", batch), expected, rtol=1e-5)


def test_a_feature_that_the_config_lacks_is_named(client, batch):
    with pytest.raises(InvalidInputError, match="'fx'"):
        client.infer("deepctr", batch.replace(b"f4", b"fx"))


def test_a_client_that_asks_is_told_where_the_time_went(running, batch):
    with rpc.channel(running.addresses[0]) as channel:
        stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
        request = inference_pb2.PredictionsRequest(model_name="deepctr", input={"batch": batch})
        _, call = stub.Predictions.with_call(request, metadata=[("satrap-timing", "1")])
        times = json.loads(dict(call.trailing_metadata())["satrap-timing"])
        _, silent = stub.Predictions.with_call(request)
    assert times["server"] > times["handler"] >= times["HandlerTime"] - 0.01 > 0
    assert "satrap-timing" not in dict(silent.trailing_metadata())


def test_a_version_is_registered_made_default_and_the_old_one_removed_under_load(
    client, management, running, batch, expected
):
    stop, failures, answers = threading.Event(), [], []

    def load() -> None:
        with InferenceClient(running.addresses[0]) as own:
            while not stop.is_set():
                try:
                    answers.append(own.infer("deepctr", batch))
                except SatrapError as error:
                    failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        management.register("deepctr_v2.mar", initial_workers=1, synchronous=True)
        np.testing.assert_allclose(client.infer("deepctr", batch, version="2.0"), 3 * expected, rtol=1e-5)
        np.testing.assert_allclose(client.infer("deepctr", batch), expected, rtol=1e-5)
        management.set_default("deepctr", "2.0")
        np.testing.assert_allclose(client.infer("deepctr", batch), 3 * expected, rtol=1e-5)
        management.unregister("deepctr", "1.0")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    old = sum(np.allclose(answer, expected, rtol=1e-5) for answer in answers)
    new = sum(np.allclose(answer, 3 * expected, rtol=1e-5) for answer in answers)
    assert old + new == len(answers)
    with pytest.raises(SatrapError, match=r"Model version: 1\.0 does not exist for model: deepctr"):
        client.infer("deepctr", batch, version="1.0")


def shard_processes(running) -> dict[int, psutil.Process]:
    """The embedding servers under `satrap up`, by replica index."""
    found = {}
    for process in psutil.Process(running.process.pid).children():
        words = process.cmdline()
        if "embedding-server" in words:
            found[int(words[words.index("--replica-index") + 1])] = process
    return found


def infer_when_available(client: InferenceClient, batch: bytes, meanwhile: str) -> np.ndarray:
    """Ask until there is an answer; until then every error is UNAVAILABLE and says `meanwhile`."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return client.infer("deepctr", batch)
        except UnavailableError as error:
            assert meanwhile in str(error)
            assert time.monotonic() < deadline, f"still unavailable: {error}"


def test_a_shard_that_is_gone_is_answered_for_then_named_and_works_again_when_it_is_back(
    satrap, case, store, batch, expected, tmp_path
):
    config = tmp_path / "global_config.yaml"
    config.write_text("middleware: {orphan_grace_seconds: 2.0, lookup_timeout_seconds: 1.0}\n")
    running = start(satrap, case, store, "--global-config", str(config))
    with InferenceClient(running.addresses[0], retry=NO_RETRY) as client:
        np.testing.assert_allclose(client.infer("deepctr", batch), expected, rtol=1e-5)
        shard = shard_processes(running)[1]
        shard.suspend()  # it cannot be restarted while it is only stopped, so the error is seen for certain
        deadline = time.monotonic() + 30
        with pytest.raises(UnavailableError, match="embedding shard 1 of 2"):
            while time.monotonic() < deadline:
                np.testing.assert_allclose(client.infer("deepctr", batch), expected, rtol=1e-5)
        shard.kill()
        answer = infer_when_available(client, batch, "embedding shard 1 of 2")
        np.testing.assert_allclose(answer, expected, rtol=1e-5)


def test_a_killed_frontend_is_back_on_its_port(satrap, case, store, batch, expected):
    running = start(satrap, case, store)
    (frontend,) = (
        process
        for process in psutil.Process(running.process.pid).children()
        if "serving" in process.cmdline()
    )
    with InferenceClient(running.addresses[0]) as client:
        np.testing.assert_allclose(client.infer("deepctr", batch), expected, rtol=1e-5)
        frontend.kill()
        frontend.wait()
        np.testing.assert_allclose(infer_when_available(client, batch, "connect"), expected, rtol=1e-5)


def test_nothing_survives_a_killed_supervisor(satrap, case, store):
    running = start(satrap, case, store)
    family = psutil.Process(running.process.pid).children(recursive=True)
    assert len(family) >= 4  # two shards, the frontend, and what it started
    os.kill(running.process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=40)
    assert alive == []


def test_sigterm_stops_everything(satrap, case, store):
    running = start(satrap, case, store)
    family = psutil.Process(running.process.pid).children(recursive=True)
    assert running.stop() == 0
    assert [process for process in family if process.is_running()] == []
    with pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(grpc.insecure_channel(running.addresses[0])).result(timeout=0.5)
