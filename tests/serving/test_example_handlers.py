"""Handlers of the kinds that TorchServe's examples have, served by a real server and asked over REST."""

import io
import json
import subprocess
import sys
import tarfile
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from satrap.serving.archive.package import package

pytestmark = pytest.mark.slow

COLORS = ["red", "green", "blue"]


def png(color: str, size: tuple[int, int] = (300, 260)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "png")
    return file.getvalue()


class Means(torch.nn.Module):
    """A classifier whose scores are the mean of each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class Rest:
    """A server's REST APIs."""

    def __init__(self, server: Any) -> None:
        self.store = server.store.directory
        self.log = server.log
        self.working = server.working_directories
        self.inference, self.management = (f"http://{a}" for a in server.command.addresses[2:4])
        self.http = httpx.Client(timeout=60)

    def register(self, url: str, **parameters: Any) -> httpx.Response:
        given = {"url": url, "initial_workers": 1, "synchronous": "true", **parameters}
        return self.http.post(f"{self.management}/models", params=given)

    def predict(self, model: str, **request: Any) -> httpx.Response:
        return self.http.post(f"{self.inference}/predictions/{model}", **request)

    def describe(self, model: str, **parameters: Any) -> Any:
        return self.http.get(f"{self.management}/models/{model}", params=parameters).json()


@pytest.fixture
def rest(shared: Any) -> Any:
    made = Rest(shared)
    yield made
    made.http.close()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def save_script(model: torch.nn.Module, path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated, not gone
        torch.jit.save(torch.jit.script(model), path)


def write(name: str, text: str) -> str:
    Path(name).write_text(textwrap.dedent(text))
    return name


def test_the_built_in_image_classifier(rest: Rest, sources: Path) -> None:
    save_script(Means(), "means.pt")
    write("index_to_name.json", json.dumps(dict(enumerate(COLORS))))
    package(
        model_name="colors",
        version="1.0",
        handler="image_classifier",
        serialized_file="means.pt",
        extra_files="index_to_name.json",
        export_path=rest.store,
    )
    assert rest.register("colors.mar", batch_size=8, max_batch_delay=200).status_code == 200
    answer = rest.predict("colors", content=png("green"))
    # As curl -T sends it; of a TorchServe handler's answer there is no content type.
    scores = [
        (c - mean) / std
        for c, mean, std in zip((0, 128 / 255, 0), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    expected = dict(zip(COLORS, torch.softmax(torch.tensor(scores), 0).tolist(), strict=True))
    assert answer.json() == pytest.approx(expected, abs=1e-5)
    assert next(iter(answer.json())) == "green"
    form = rest.predict("colors", files={"data": ("img1.png", png("red"), "image/png")})
    assert next(iter(form.json())) == "red", "as curl -F data=@img1.png sends it"
    put = rest.http.put(f"{rest.inference}/predictions/colors", content=png("blue"))
    assert next(iter(put.json())) == "blue"

    def ask(content: bytes) -> httpx.Response:
        return httpx.post(f"{rest.inference}/predictions/colors", content=content, timeout=60)

    images = [png("red"), b"no image", png("blue"), b"", png("red")]
    with ThreadPoolExecutor(len(images)) as pool:
        answers = list(pool.map(ask, images))
    assert [response.status_code for response in answers] == [200, 400, 200, 400, 200]
    assert [next(iter(answers[place].json())) for place in (0, 2, 4)] == ["red", "blue", "red"]
    assert "not an image that can be read" in answers[1].json()["message"]


MNIST_MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 10, 28)

    def forward(self, x):
        return torch.log_softmax(self.convolution(x).flatten(1), dim=1)
"""

MNIST_HANDLER = """
import torch
from PIL import Image
from satrap.serving.torch_handler.image_transforms import Compose, Normalize, ToTensor
from ts.torch_handler.image_classifier import ImageClassifier

class MNISTDigitClassifier(ImageClassifier):
    image_processing = Compose([lambda i: i.convert("L"), ToTensor(), Normalize((0.1307,), (0.3081,))])

    def postprocess(self, data):
        return data.argmax(1).tolist()
"""


def test_digits_by_an_eager_model(rest: Rest, sources: Path) -> None:
    """The real archiver, a model file with its state, and a handler that derives from the classifier."""
    write("mnist.py", MNIST_MODEL)
    write("mnist_handler.py", MNIST_HANDLER)
    # Every digit is a filter of its own, so the answer is known without the model.
    pictures = torch.zeros(10, 1, 28, 28)
    for digit in range(10):
        pictures[digit, 0, digit * 2 : digit * 2 + 2] = 1
    torch.save({"convolution.weight": pictures, "convolution.bias": torch.zeros(10)}, "mnist_cnn.pt")
    command = [
        *(str(Path(sys.executable).parent / "torch-model-archiver"), "--model-name", "mnist"),
        *("--version", "1.0", "--model-file", "mnist.py", "--serialized-file", "mnist_cnn.pt"),
        *("--handler", "mnist_handler.py", "--export-path", str(rest.store)),
    ]
    subprocess.run(command, check=True)
    registered = rest.http.post(f"{rest.management}/models", params={"url": "artifacts/mnist.mar"})
    assert registered.json()["status"] == (
        'Model "mnist" Version: 1.0 registered with 0 initial workers. Use scale workers API to add workers for the '
        "model."
    )
    scaled = rest.http.put(
        f"{rest.management}/models/mnist", params={"min_workers": 1, "synchronous": "true"}
    )
    assert scaled.status_code == 200
    for digit in range(10):
        picture = Image.fromarray((pictures[digit, 0] * 255).byte().numpy())
        file = io.BytesIO()
        picture.save(file, "png")
        assert rest.predict("mnist", content=file.getvalue()).text == str(digit)


TEXT_MODEL = """
import torch

class Sentiment(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(5, 2, mode="sum")

    def forward(self, text, offsets):
        return self.embedding(text, offsets)
"""


def test_the_built_in_text_classifier(rest: Rest, sources: Path) -> None:
    write("model.py", TEXT_MODEL)
    weights = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    torch.save({"embedding.weight": weights}, "model.pt")
    torch.save({"good": 0, "bad": 1, "not": 2, "movie": 3, "good movie": 4}, "source_vocab.pt")
    write("index_to_name.json", json.dumps({"0": "praise", "1": "blame"}))
    package(
        model_name="sentiment",
        version="1.0",
        handler="text_classifier",
        model_file="model.py",
        serialized_file="model.pt",
        extra_files="source_vocab.pt,index_to_name.json",
        export_path=rest.store,
    )
    assert rest.register("sentiment.mar").status_code == 200
    expected = torch.softmax(torch.tensor([3.5, 0.5]), 0).tolist()
    for request in (
        {"content": b"A <i>good</i> movie!", "headers": {"content-type": "text/plain; charset=utf-8"}},
        {"content": b"A good movie"},
        {"data": {"data": "good movie"}},
        {"json": {"unknown": 1}},
    ):
        answer = rest.predict("sentiment", **request)
        if "json" in request:
            assert (answer.status_code, answer.json()["message"]) == (400, "the input is dict, not text")
        else:
            assert answer.json() == pytest.approx({"praise": expected[0], "blame": expected[1]})


EVERYTHING = """
import json
import os
from ts.context import Context
from ts.handler_utils.micro_batching import MicroBatching
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

class EverythingHandler(BaseHandler):
    def initialize(self, context: Context):
        super().initialize(context)
        self.words = json.load(open(os.path.join(context.system_properties["model_dir"], "words.json")))
        self.calls = context.metrics.add_metric_to_cache("Calls", "count", ["ModelName"], MetricTypes.COUNTER)

    def preprocess(self, data):
        return [row.get("data") or row.get("body") for row in data]

    def inference(self, data):
        return [self.words.get(bytes(word).decode() if not isinstance(word, str) else word) for word in data]

    def postprocess(self, data):
        return data

    def handle(self, data, context):
        self.calls.add_or_update(1, [context.model_name])
        context.metrics.add_size("Input", 3, None, "B", [Dimension("kind", "word")], MetricTypes.HISTOGRAM)
        if context.get_request_header(0, "describe") == "True":
            return super().handle(data, context)
        asked = context.get_request_header(0, "X-Want")
        if asked == "status":
            context.set_response_status(418, "teapot", 0)
            context.set_response_header(0, "x-kind", "pot")
            context.set_response_content_type(0, "text/vnd.tea")
            return ["short and stout"]
        if asked == "error":
            raise PredictionException("no such word", 404)
        if asked == "parts":
            for part in ("one, ", "two, "):
                send_intermediate_predict_response([part], context.request_ids, "part", 200, context)
            return ["three"]
        if asked == "config":
            return [{"config": context.model_yaml_config, "id": context.get_request_id(0)}]
        return super().handle(data, context)

    def describe_handle(self):
        return {"words": sorted(self.words)}
"""


def test_everything_that_a_context_has(rest: Rest, sources: Path) -> None:
    write("handler.py", EVERYTHING)
    write("words.json", json.dumps({"cat": "chat", "dog": {"fr": "chien"}}))
    write("model-config.yaml", "minWorkers: 1\nmine: {depth: 3}\nhandler: {profile: true}\n")
    package(
        model_name="words",
        version="2.5",
        handler="handler.py",
        extra_files="words.json",
        config_file="model-config.yaml",
        export_path=rest.store,
    )
    assert rest.register("words.mar").status_code == 200
    assert rest.predict("words", data={"data": "cat"}).text == "chat"
    assert rest.predict("words", content=b"dog").json() == {"fr": "chien"}
    assert rest.predict("words", content=b"cow").text == "null"
    status = rest.predict("words", content=b"x", headers={"x-want": "status"})
    assert (status.status_code, status.text) == (418, "short and stout")
    assert (status.headers["x-kind"], status.headers["content-type"]) == ("pot", "text/vnd.tea")
    error = rest.predict("words", content=b"x", headers={"X-Want": "error"})
    assert (error.status_code, error.json()["message"]) == (404, "no such word")
    assert rest.predict("words", content=b"x", headers={"X-Want": "parts"}).text == "one, two, three"
    config = rest.predict("words", content=b"x", headers={"X-Want": "config"})
    assert config.json()["config"] == {"minWorkers": 1, "mine": {"depth": 3}, "handler": {"profile": True}}
    assert config.json()["id"] == config.headers["x-request-id"]
    (described,) = rest.describe("words", customized="true")
    assert described["customizedMetadata"] == {"words": ["cat", "dog"]}


MODEL = """
import torch

class Block(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.linear = torch.nn.Linear(size, 2)

    def forward(self, x):
        return self.linear(x)


class MyNetwork(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.block = Block(size)

    def forward(self, x):
        return self.block(x)
"""

HANDLER_MODEL = """
import os
import torch
from base_handler import handler_factory
from package.model import MyNetwork


def init_function(in_dim=3):
    return MyNetwork(in_dim)


def preprocess(data):
    return torch.tensor(data, dtype=torch.float32)


def postprocess(data):
    scores = data.squeeze(0).softmax(0)
    best = scores.argmax().item()
    return scores[best].item(), best, open("label.txt").read().split()[best]


def unpack_dependencies():
    os.system("echo unpacked >> steps.txt; unzip -o -q labels.zip || python3 -m zipfile -e labels.zip .")


def install_packages():
    os.system("echo installed >> steps.txt")


handler = handler_factory(init_function=init_function,
                          preprocess_function=preprocess,
                          postprocess_function=postprocess,
                          install_packages=install_packages,
                          unpack_dependencies=unpack_dependencies,
                          in_dim=2)
"""


def test_the_model_servers_style(rest: Rest, sources: Path) -> None:
    write("handler_model.py", HANDLER_MODEL)
    Path("package").mkdir()
    write("package/model.py", MODEL)
    write("label.txt", "left right")
    subprocess.run([sys.executable, "-m", "zipfile", "-c", "labels.zip", "label.txt"], check=True)
    with tarfile.open("test.tar.gz", "w:gz") as tar:
        tar.add("package")
        tar.add("labels.zip")
    write(
        "model-config.yaml",
        """
        minWorkers: 2
        maxWorkers: 2
        maxBatchDelay: 200
        responseTimeout: 52
        batchSize: 4
        deviceType: "gpu"
        deviceIds: [0,1,2,3]
        system:
          extraFiles: "test.tar.gz"
          maxGPUMemory: 500
        """,
    )
    state = {"block.linear.weight": torch.eye(2), "block.linear.bias": torch.zeros(2)}
    torch.save(state, "net.pt")
    write("requirements.txt", "")
    command = [
        *(str(Path(sys.executable).parent / "satrap"), "archive", "--model-server", "--model_name", "net"),
        *("--model_file", "handler_model.py", "--config_file", "model-config.yaml"),
        *("--requirements_file", "requirements.txt", "--checkpoint_file", "net.pt", "--version", "1.0"),
        *("--extra_files", "test.tar.gz", "--export-path", str(rest.store)),
    ]
    subprocess.run(command, check=True)
    assert rest.register("net.mar").status_code == 200
    (described,) = rest.describe("net")
    assert [
        described[key]
        for key in ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout")
    ] == [*(2, 2, 4, 200, 52)]
    assert described["deviceIds"] == [0, 1, 2, 3]
    if described["deviceType"] == "cpu":
        assert "net 1.0: deviceType is gpu and there is no GPU, its workers run on the CPU" in rest.log()

    def ask(value: Any) -> httpx.Response:
        return httpx.post(f"{rest.inference}/predictions/net", json=value, timeout=60)

    values = [[3.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0], "words"]
    with ThreadPoolExecutor(len(values)) as pool:
        answers = list(pool.map(ask, values))
    for place, (best, label, scores) in {0: (0, "left", [3.0, 1.0]), 2: (1, "right", [1.0, 2.0])}.items():
        probability = torch.softmax(torch.tensor(scores), 0)[best].item()
        assert answers[place].json() == [pytest.approx(probability), best, label]
    assert [answer.status_code for answer in answers] == [200, 503, 200, 503]
    (directory,) = [path.parent for path in rest_working(rest)]
    assert (directory / "steps.txt").read_text() == "installed\nunpacked\n", "once for both workers"


def rest_working(rest: Rest) -> list[Path]:
    return list(rest.working.glob("*/*/steps.txt"))


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (
            "from torchvision_absent import transforms\ndef handle(d, c): pass",
            "No module named 'torchvision_absent'",
        ),
        (
            "from ts.torch_handler.request_envelope.json import X\ndef handle(d, c): pass",
            "which satrap does not have",
        ),
    ],
)
def test_what_a_handler_misses_is_named_in_the_log(rest: Rest, handler: str, reason: str) -> None:
    Path(rest.store, "h.py").write_text(handler)
    package(model_name="missing", version="1", handler=str(rest.store / "h.py"), export_path=rest.store)
    assert rest.register("missing.mar").status_code == 500
    assert reason in rest.log()


def test_handlers_for_packages_that_are_not_served(rest: Rest) -> None:
    package(model_name="llm", version="1", handler="vllm_handler", export_path=rest.store)
    assert rest.register("llm.mar").status_code == 500
    assert "TorchServe's 'vllm_handler' is made for the package vllm" in rest.log()
