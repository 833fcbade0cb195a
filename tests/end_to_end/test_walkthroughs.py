"""What people do in their first hour with TorchServe, step by step with curl, at satrap.

Archives come from the real torch-model-archiver; models are made on the spot.
"""

import http.server
import json
import re
import subprocess
import sys
import textwrap
import threading
import wave
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")]

ARCHIVER = Path(sys.executable).parent / "torch-model-archiver"

DIGIT_MODEL = """
import torch


class Digits(torch.nn.Module):
    # Which tenth of the image is the brightest.
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(10))

    def forward(self, images):
        return images.reshape(len(images), 10, -1).mean(2) + self.bias
"""

DIGIT_HANDLER = """
import numpy as np
import torch
from ts.torch_handler.image_classifier import ImageClassifier


class DigitClassifier(ImageClassifier):
    # One digit an image, as a string.

    def image_processing(self, image):
        return torch.from_numpy(np.asarray(image.convert("L"), np.float32) / 255)

    def postprocess(self, data):
        return data.argmax(1).tolist()
"""

GENRE_HANDLER = """
import json
import os

import numpy as np
import torch
from ts.torch_handler.vision_handler import VisionHandler


class GenreHandler(VisionHandler):
    def initialize(self, context):
        super().initialize(context)
        with open(os.path.join(context.system_properties["model_dir"], "genres.json")) as file:
            self.genres = json.load(file)

    def image_processing(self, image):
        return torch.from_numpy(np.asarray(image, np.float32) / 255).mean((0, 1))

    def postprocess(self, data):
        return [dict(zip(self.genres, row.tolist())) for row in torch.softmax(data, 1)]
"""

WAVE_MODEL = """
import torch


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def generate(self, waves):
        return waves * self.gain
"""

WAVE_HANDLER = """
import io
import json
import os
import wave
from typing import Dict, List

import numpy as np
import torch
from model import Model
from ts.torch_handler.base_handler import BaseHandler


class WaveHandler(BaseHandler):
    def __init__(self):
        super(WaveHandler, self).__init__()
        self.initialized = False

    def initialize(self, context):
        self.manifest = context.manifest
        properties = context.system_properties
        self._context = context
        self.model = Model()
        self.model.load_state_dict(torch.load(os.path.join(properties.get("model_dir"), "weights.pt")))
        # As it stands in handlers that people have: the method's name is taken by a flag.
        self.initialize = True
        self.device = torch.device(
            "cuda:" + str(properties.get("gpu_id"))
            if torch.cuda.is_available() and properties.get("gpu_id") is not None
            else "cpu"
        )

    def preprocess(self, requests: List[Dict[str, bytearray]]):
        waves = []
        for request in requests:
            data = request.get("data")
            if data is None:
                data = request.get("body")
            with wave.open(io.BytesIO(data)) as file:
                waves.append(np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32))
        return torch.from_numpy(np.stack(waves))

    def inference(self, model_input):
        with torch.no_grad():
            return self.model.generate(model_input.to(self.device))

    def postprocess(self, data):
        return data.mean(1).tolist()
"""


def archive(folder: Path, name: str, sources: dict[str, str], *arguments: str, version: str = "1.0") -> None:
    """Write the sources beside the archive's other files and call the archiver there."""
    for file, source in sources.items():
        (folder / file).write_text(textwrap.dedent(source))
    command = [str(ARCHIVER), "--model-name", name, "--version", version, "--export-path", str(folder), "-f"]
    subprocess.run([*command, *arguments], cwd=folder, check=True, capture_output=True)


def image_of(digit: int, path: Path) -> Path:
    """A grey picture of 10 x 10, bright in one row."""
    image = Image.new("L", (10, 10))
    for x in range(10):
        image.putpixel((x, digit), 255)
    image.save(path)
    return path


def curl(*arguments: str | Path) -> str:
    done = subprocess.run(["curl", "-sS", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(text: str) -> str:
    return str(json.loads(text)["status"])


class Served:
    """A server with a store of its own, and the urls of its three REST ports."""

    def __init__(self, satrap_module, store: Path, *flags: str) -> None:
        ports = ("--grpc-inference-port", "0", "--grpc-management-port", "0")
        command = satrap_module("serving", "--model-store", store, *ports, *flags)
        self.inference, self.management, self.metrics = (f"http://{each}" for each in command.addresses[2:5])


@pytest.fixture(scope="module")
def served(satrap_module, tmp_path_factory) -> tuple[Served, Path]:
    store = tmp_path_factory.mktemp("store")
    files_url = r"http://127\.0\.0\.1:\d+/.*\.mar"
    config = store / "global_config.yaml"
    config.write_text(f"serving:\n  allowed_urls: ['{files_url}']\n")
    return Served(satrap_module, store, "--global-config", str(config)), store


def test_a_digit_classifier_by_rest(served: tuple[Served, Path], tmp_path: Path) -> None:
    server, store = served
    torch.save({"bias": torch.zeros(10)}, store / "mnist_cnn.pt")
    archive(
        store,
        "mnist",
        {"mnist.py": DIGIT_MODEL, "mnist_handler.py": DIGIT_HANDLER},
        *("--model-file", "mnist.py", "--serialized-file", "mnist_cnn.pt", "--handler", "mnist_handler.py"),
    )
    assert status(curl(f"{server.inference}/ping")) == "Healthy"
    models = f"{server.management}/models"
    said = curl("-X", "POST", f"{models}?url=artifacts/mnist.mar")
    assert status(said) == (
        'Model "mnist" Version: 1.0 registered with 0 initial workers. Use scale workers API to add workers for the '
        "model."
    )
    assert status(curl("-X", "PUT", f"{models}/mnist?min_workers=1")) == "Processing worker updates..."
    listed = json.loads(curl(models))
    assert listed["models"] == [{"modelName": "mnist", "modelUrl": "artifacts/mnist.mar"}]
    refused = json.loads(curl("-X", "POST", f"{models}?initial_workers=1&url=artifacts/mnist.mar"))
    assert refused == {
        "code": 409,
        "type": "ConflictStatusException",
        "message": "Model version 1.0 is already registered for model mnist",
    }
    for digit in (0, 3, 9):
        image = image_of(digit, tmp_path / f"image.{digit}.png")
        assert curl(f"{server.inference}/predictions/mnist", "-T", image) == str(digit)

    metrics = curl(f"{server.metrics}/metrics")
    for name in (
        "ts_inference_requests_total",
        "ts_inference_latency_microseconds",
        "ts_queue_latency_microseconds",
    ):
        found = re.search(rf'^{name}(?:_total)?\{{([^}}]*model_name="mnist"[^}}]*)\}} (\S+)$', metrics, re.M)
        assert found, metrics
        assert 'model_version="default"' in found[1] and float(found[2]) > 0
    assert re.search(r'ts_inference_requests_total\{[^}]*model_name="mnist"[^}]*\} 3\.0', metrics)

    assert status(curl("-X", "DELETE", f"{models}/mnist/1.0")) == 'Model "mnist" unregistered'
    assert json.loads(curl(f"{models}/mnist"))["code"] == 404
    said = curl("-X", "POST", f"{models}?initial_workers=1&synchronous=false&url=artifacts/mnist.mar")
    assert status(said) == "Processing worker updates..."
    assert curl(f"{server.inference}/predictions/mnist", "-T", tmp_path / "image.3.png") == "3"


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """What a team keeps its archives on: a folder over HTTP."""
    folder = tmp_path / "files"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def test_posters_in_batches_from_a_file_server(
    served: tuple[Served, Path], file_server: tuple[str, Path], tmp_path: Path
) -> None:
    server, store = served
    url, files = file_server
    (files / "genres.json").write_text('["red", "green", "blue"]')
    torch.jit.script(torch.nn.Identity()).save(str(files / "genre_classifier.pt"))
    models = f"{server.management}/models"
    for version in ("1.0", "1.1"):
        # The previous versions go first, as upload scripts do it.
        if version != "1.0":
            for described in json.loads(curl(f"{models}/my_model/all")):
                curl("-X", "DELETE", f"{models}/my_model/{described['modelVersion']}")
        (files / "requirements.txt").write_text("pillow\n")
        archive(
            files,
            "my_model",
            {"model_handler.py": GENRE_HANDLER},
            *("--serialized-file", "genre_classifier.pt", "--handler", "model_handler.py"),
            *("--extra-files", "genres.json"),
            version=version,
        )
        wanted = (
            f"url={url}/my_model.mar&model_name=my_model&batch_size=2&initial_workers=1&max_batch_delay=50"
        )
        said = curl("-X", "POST", f"{models}?{wanted}")
        assert status(said) == f'Model "my_model" Version: {version} registered with 1 initial workers'
    poster = tmp_path / "poster.jpg"
    Image.new("RGB", (8, 12), (250, 10, 10)).save(poster)
    answer = json.loads(curl(f"{server.inference}/predictions/my_model", "-F", f"data=@{poster}"))
    assert max(answer, key=answer.get) == "red" and sum(answer.values()) == pytest.approx(1)
    assert (store / "my_model.mar").exists()
    curl("-X", "DELETE", f"{models}/my_model")
    assert not (store / "my_model.mar").exists()


def test_a_sound_model_with_a_handler_of_its_own(served: tuple[Served, Path], tmp_path: Path) -> None:
    server, store = served
    torch.save({"gain": torch.full((1,), 2.0)}, store / "weights.pt")
    archive(
        store,
        "sound",
        {"model.py": WAVE_MODEL, "sound_handler.py": WAVE_HANDLER},
        *("--handler", "sound_handler.py", "--extra-files", "model.py,weights.pt"),
    )
    curl("-X", "POST", f"{server.management}/models?url=sound.mar&initial_workers=1")
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\x03\x00" * 100)
    predictions = f"{server.inference}/predictions/sound"
    assert json.loads(curl(predictions, "-T", sound)) == 6.0
    assert json.loads(curl(predictions, "-F", f"data=@{sound}")) == 6.0
