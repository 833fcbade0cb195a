"""A real server, real processes, real archives: what a client of TorchServe sees."""

import json
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import torch
from google.protobuf import empty_pb2

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")]

FAILED = "\norg.pytorch.serve.http.InternalServerException"

ECHO = """
def handle(data, context):
    return None if data is None else [bytes(request["data"]) for request in data]
"""

VERSION = """
from constant import VALUE

class Handler:
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]

    def handle(self, data, context):
        return [f"{self.version} {VALUE}"] * len(data)
"""

ASKED = """
import os, time, warnings
import numpy as np
import satrap.serving.prediction

class Handler:
    def initialize(self, context):
        self.calls = 0

    def handle(self, data, context):
        assert all(type(value) is bytearray for request in data for value in request.values())
        self.size = len(data)
        return [self.answer(bytes(request["data"]).decode(), context) for request in data] + self.extra

    extra = ()

    def answer(self, asked, context):
        self.extra = []
        if asked == "raise":
            raise ValueError("a secret")
        if asked.startswith("code"):
            raise satrap.serving.prediction.PredictionException("as asked", int(asked[4:]))
        if asked.startswith("alone"):
            return satrap.serving.prediction.PredictionException("this one only", int(asked[5:]))
        if asked == "extra":
            self.extra = ["one too many"]
        if asked.startswith("hold "):
            open(asked[5:], "w").close()
            while os.path.exists(asked[5:]):
                time.sleep(0.01)
        if asked == "size":
            return self.size
        if asked == "array":
            return np.zeros(3)
        if asked == "memory":
            raise MemoryError()
        if asked == "exit":
            os._exit(3)
        if asked == "long":
            return b"x" * 6_553_501
        if asked.startswith("sleep"):
            time.sleep(float(asked[5:]))
        if asked == "warn":
            warnings.warn("the handler warns", DeprecationWarning)
        if asked == "print":
            print("the handler prints")
        if asked == "header":
            return context.get_all_request_header(0)
        if asked == "environment":
            return {k: os.environ.get(k) for k in ("MIDDLEWARE_SERVICE", "EMBEDDING_WORKER_SERVICE")}
        if asked == "path":
            import sys
            return {"cwd": os.getcwd(), "path": sys.path, "pid": os.getpid()}
        return [0.1, 1 / 3]
"""


def test_real_archives_of_two_versions_with_the_same_module_names(
    serve: Any, store: Any, tmp_path: Path
) -> None:
    for version, value in (("1.0", "one"), ("2.0", "two")):
        source = tmp_path / version
        source.mkdir()
        (source / "handler.py").write_text(VERSION)
        (source / "constant.py").write_text(f"VALUE = {value!r}\n")
        store.archive(
            f"m{version[0]}.mar",
            source / "handler.py",
            *("--extra-files", str(source / "constant.py")),
            version=version,
        )
    server = serve("m=m1.mar")
    assert server.command.line.endswith(": 1 model")
    client = server.client
    assert client.predict("m") == b"1.0 one"
    assert (
        client.register("m2.mar", model_name="m")
        == 'Model "m" Version: 2.0 registered with 1 initial workers'
    )
    assert client.predict("m", version="2.0") == b"2.0 two"
    assert client.predict("m") == b"1.0 one", "the first version stays the default"
    assert client.set_default("m", "2.0") == 'Default version successfully updated for model "m" to "2.0"'
    assert client.predict("m") == b"2.0 two"
    assert client.unregister("m", "1.0") == 'Model "m" unregistered'
    assert [v["modelVersion"] for v in client.describe("m")] == ["2.0"]
    assert client.inference.Ping(empty_pb2.Empty()).health == '{\n  "status": "Healthy"\n}'
    assert server.command.stop() == 0
    assert list(server.working_directories.iterdir()) == []


def test_a_torchscript_model_with_the_base_handler(shared: Any, tmp_path: Path) -> None:
    model = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False)))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
    torch.jit.save(model, tmp_path / "model.pt")
    (tmp_path / "handler.py").write_text("""
import json, torch
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([json.loads(bytes(request["data"])) for request in data])

    def postprocess(self, data):
        return data.tolist()
""")
    shared.store.archive("net.mar", tmp_path / "handler.py", "--serialized-file", str(tmp_path / "model.pt"))
    shared.client.register("net.mar")
    assert shared.client.predict("net", b"[1.0, 2.5]") == b"[\n  7.0\n]"


def test_what_handlers_answer(serve: Any, store: Any, failure: Any, wait_until: Any) -> None:
    store.add("m.mar", ASKED)
    server = serve("m.mar")
    predict = server.client.predict
    assert predict("m", b"floats") == b"[\n  0.1,\n  0.3333333333333333\n]"
    assert json.loads(predict("m", b"header")) == {"data": {"content-type": ""}}
    for asked, answer in {
        b"raise": ("UNAVAILABLE", "Prediction failed"),
        b"code404": ("NOT_FOUND", "as asked"),
        b"code513": ("INTERNAL", "as asked"),
        b"code400": ("INVALID_ARGUMENT", "as asked"),
        b"alone503": ("UNAVAILABLE", "this one only"),
        b"extra": ("UNAVAILABLE", "number of batch response mismatched"),
        b"array": ("UNAVAILABLE", "Unsupported model output data type."),
        b"memory": ("INTERNAL", "Out of resources"),
        b"exit": ("INTERNAL", "Worker died."),
    }.items():
        assert failure(predict, "m", asked) == (answer[0], answer[1] + FAILED)
        assert predict("m") == b"[\n  0.1,\n  0.3333333333333333\n]", "the next request is right"
    assert failure(predict, "m", b"long")[0] == "INTERNAL"
    wait_until(lambda: "ValueError: a secret" in server.log())
    predict("m", b"print")
    for _ in range(3):
        predict("m", b"warn")
    wait_until(lambda: "[m 1.0 worker 9000] the handler prints" in server.log())
    wait_until(lambda: "DeprecationWarning: the handler warns" in server.log())
    assert server.command.stop() == 0
    assert server.log().count("DeprecationWarning: the handler warns") == 1


def test_the_surroundings_of_a_worker(serve: Any, store: Any) -> None:
    store.add("m.mar", ASKED)
    server = serve("m.mar")
    assert json.loads(server.client.predict("m", b"environment")) == {
        "MIDDLEWARE_SERVICE": "satrap:local",
        "EMBEDDING_WORKER_SERVICE": "satrap:local",
    }
    place = json.loads(server.client.predict("m", b"path"))
    (directory,) = server.unpacked()
    assert place["cwd"] == place["path"][0] == str(directory)
    assert place["path"][1].endswith("compat/shims")
    assert "" not in place["path"] and str(Path.cwd()) not in place["path"]
    worker = psutil.Process(place["pid"])
    open_files = {f.fd for f in worker.open_files()}
    frontend = psutil.Process(server.command.process.pid)
    assert "torch" not in {Path(m.path).parts[-3] for m in frontend.memory_maps() if "torch" in m.path}
    assert len(open_files) < 5, "nothing of the template is left open in a worker"


def test_a_batch_of_mixed_results(shared: Any, tmp_path: Path, wait_until: Any) -> None:
    shared.store.add("m.mar", ASKED)
    client = shared.client
    client.register("m.mar", batch_size=4, max_batch_delay=60_000)
    held = tmp_path / "held"
    running = client.start_predict("m", f"hold {held}".encode())
    wait_until(held.exists)
    asked = [b"size", b"alone404", b"array", b"size"]
    calls = [client.start_predict("m", value) for value in asked]
    wait_until(lambda: client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 4)
    held.unlink()
    codes = [call.exception().code() if call.exception() else None for call in calls]
    assert codes == [None, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, None]
    assert calls[0].result().prediction == calls[3].result().prediction == b"4"
    assert running.result()


def test_errors_of_the_inference_api(shared: Any, failure: Any) -> None:
    shared.store.add("m.mar", ASKED)
    client = shared.client
    client.register("m.mar")
    code, details = failure(client.predict, "nope")
    java = "org.pytorch.serve.archive.model"
    assert (code, details) == ("INTERNAL", f"Model not found: nope\n{java}.ModelNotFoundException")
    code, details = failure(client.predict, "m", version="9")
    assert code == "INTERNAL"
    assert details.startswith("Model version: 9 does not exist for model: m\n")
    assert failure(client.predict, "") == (
        "INTERNAL",
        "Parameter model_name is required.\nBadRequestException.()",
    )
    code, details = failure(client.predict, "m", b"x" * 6_553_501)
    assert code == "RESOURCE_EXHAUSTED" and "6553500" in details
    assert client.predict("m", b"x" * 6_500_000)


def test_errors_of_the_management_api(shared: Any, failure: Any) -> None:
    shared.store.add("m.mar", ECHO)
    shared.store.add("m2.mar", ECHO, version="2.0")
    client = shared.client
    client.register("m.mar")
    java = "org.pytorch.serve"
    not_found = f"{java}.archive.model.ModelNotFoundException"
    for call, arguments, answer in [
        (client.register, ["missing.mar"], ("NOT_FOUND", f"Model not found at: missing.mar\n{not_found}")),
        (
            client.register,
            ["../m.mar"],
            ("NOT_FOUND", f"Relative path is not allowed in url: ../m.mar\n{not_found}"),
        ),
        (
            client.register,
            ["http://h/m.mar"],
            (
                "NOT_FOUND",
                "Given URL http://h/m.mar does not match any allowed URL(s): none is allowed here, see "
                f"serving.allowed_urls (allowed_urls in config.properties)\n{not_found}",
            ),
        ),
        (
            client.register,
            [""],
            ("INVALID_ARGUMENT", f"Parameter url is required.\n{java}.http.BadRequestException"),
        ),
        (
            client.register,
            ["m.mar"],
            (
                "ABORTED",
                f"Model version 1.0 is already registered for model m\n{java}.http.ConflictStatusException",
            ),
        ),
        (client.unregister, ["nope"], ("NOT_FOUND", f"Model not found: nope\n{not_found}")),
        (
            client.unregister,
            ["m", "9"],
            (
                "NOT_FOUND",
                "Model version: 9 does not exist for model: m\n"
                f"{java}.archive.model.ModelVersionNotFoundException",
            ),
        ),
    ]:
        assert failure(call, *arguments) == answer
    code, details = failure(client.set_default, "m", "9.0")
    assert (code, details.splitlines()[0]) == ("NOT_FOUND", "Model version 9.0 does not exist for model m")
    code, details = failure(client.register, "m.mar", model_name="r", runtime="ruby")
    assert (code, details.splitlines()[0]) == ("INVALID_ARGUMENT", "Invalid RuntimeType value: ruby")
    client.register("/anywhere/else/m2.mar")
    code, details = failure(client.unregister, "m", "1.0")
    assert (code, details.splitlines()[0]) == (
        "PERMISSION_DENIED",
        "Cannot remove default version for model m",
    )
    code, details = failure(client.scale, "m", min_worker=3, max_worker=1)
    assert (code, details.splitlines()[0]) == (
        "INVALID_ARGUMENT",
        "max_worker cannot be less than min_worker.",
    )


def test_describe_list_and_scale(serve: Any, store: Any) -> None:
    store.add(
        "m.mar", ECHO, config="minWorkers: 2\nmaxWorkers: 3\nbatchSize: 4\nmaxBatchDelay: 7\nmine: [1]\n"
    )
    store.add("a.mar", ECHO, name="a")
    client = serve("all").client
    (described,) = client.describe("m")
    assert list(described)[:9] == [
        *("modelName", "modelVersion", "modelUrl", "runtime", "minWorkers"),
        *("maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout"),
    ]
    assert [described[k] for k in ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")] == [2, 3, 4, 7]
    assert described["jobQueueStatus"] == {"remainingCapacity": 100, "pendingRequests": 0}
    assert all(w["status"] == "READY" and psutil.pid_exists(w["pid"]) for w in described["workers"])
    assert client.list_models() == {
        "models": [{"modelName": "a", "modelUrl": "a.mar"}, {"modelName": "m", "modelUrl": "m.mar"}]
    }
    assert client.list_models(limit=1)["nextPageToken"] == "1"
    assert client.list_models(limit=1, next_page_token=1)["models"][0]["modelName"] == "m"
    assert (
        client.scale("m", model_version="1.0", min_worker=3, synchronous=True)
        == "Workers scaled to 3 for model: m, version: 1.0"
    )
    assert len(client.worker_pids("m")) == 3
    assert client.scale("m", min_worker=1, max_worker=1) == "Processing worker updates..."
    assert client.predict("m", b"still") == b"still"


def test_newest_becomes_the_default_when_ready(serve: Any, store: Any) -> None:
    for version in ("1", "2"):
        store.add(
            f"m{version}.mar", VERSION.replace("from constant import VALUE", "VALUE = 0"), version=version
        )
    client = serve("m1.mar", models={"m": {"default_version": "newest"}}).client
    client.register("m2.mar")
    assert client.predict("m") == b"2 0"


def test_no_workers_unless_asked_for(shared: Any, failure: Any) -> None:
    shared.store.add("m.mar", ECHO)
    client = shared.client
    assert client.register("m.mar", initial_workers=0) == (
        'Model "m" Version: 1.0 registered with 0 initial workers. '
        "Use scale workers API to add workers for the model."
    )
    code, details = failure(client.predict, "m")
    assert code == "INTERNAL"
    assert details.startswith('Model "m" Version 1.0 has no worker to serve inference request.')
    assert client.scale("m", min_worker=1, synchronous=True) == "Workers scaled to 1 for model: m"
    assert client.predict("m", b"now") == b"now"


def test_a_lone_client_does_not_wait_for_a_batch(shared: Any) -> None:
    shared.store.add("m.mar", ECHO)
    client = shared.client
    client.register("m.mar", batch_size=8, max_batch_delay=60_000)
    for _ in range(20):
        assert client.predict("m", b"alone", timeout=10) == b"alone"


def test_a_forked_worker_can_do_what_the_template_must_not(shared: Any) -> None:
    shared.store.add(
        "m.mar",
        """
        import random
        from concurrent import futures
        import grpc, numpy as np, torch

        class Handler:
            def initialize(self, context):
                answer = lambda request, context: request + b" answered"
                handler = grpc.method_handlers_generic_handler(
                    "s", {"m": grpc.unary_unary_rpc_method_handler(answer)}
                )
                self.server = grpc.server(futures.ThreadPoolExecutor(1))
                self.server.add_generic_rpc_handlers([handler])
                port = self.server.add_insecure_port("127.0.0.1:0")
                self.server.start()
                self.call = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/s/m")
                self.drawn = [random.random(), np.random.rand(), torch.rand(1).item()]

            def handle(self, data, context):
                assert torch.get_num_threads() == 1
                product = torch.ones(300, 300) @ torch.ones(300, 300)
                return [[self.call(b"rpc", timeout=5).decode(), product[0, 0].item(), *self.drawn]] * len(data)
        """,
    )
    client = shared.client
    client.register("m.mar")
    first = json.loads(client.predict("m"))
    assert first[:2] == ["rpc answered", 300.0]
    client.unregister("m")
    client.register("m.mar")
    second = json.loads(client.predict("m"))
    assert all(a != b for a, b in zip(first[2:], second[2:], strict=True)), (
        "workers draw numbers of their own"
    )


def test_installed_packages_first(serve: Any, store: Any) -> None:
    store.add("m.mar", ASKED)
    client = serve("m.mar", serving={"compat": "installed"}).client
    assert json.loads(client.predict("m", b"path"))["path"][-1].endswith("compat/shims")


def test_deadlines_and_cancelled_requests_in_the_queue(
    serve: Any, store: Any, failure: Any, tmp_path: Path, wait_until: Any
) -> None:
    store.add("m.mar", ASKED)
    client = serve("m.mar", serving={"job_queue_size": 2}).client
    held = tmp_path / "held"
    running = client.start_predict("m", f"hold {held}".encode())
    wait_until(held.exists)
    first, second = (client.start_predict("m", b"floats") for _ in range(2))
    wait_until(lambda: client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 2)
    code, details = failure(client.predict, "m", b"floats")
    assert code == "RESOURCE_EXHAUSTED" and "2 requests wait" in details
    first.cancel()
    wait_until(lambda: client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 1)
    assert failure(client.predict, "m", b"floats", timeout=0.2)[0] == "DEADLINE_EXCEEDED"
    held.unlink()
    assert running.result() and second.result()
