"""A dense model as an archive that says which rows it needs."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from satrap.errors import ArchiveError, UnavailableError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

USER_ROW = np.ones((1, 4), np.float32)


def contents(archive: Path) -> tuple[dict, dict, torch.jit.ScriptModule]:
    with zipfile.ZipFile(archive) as file:
        manifest = json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]
        name = manifest.get("configFile")
        settings = yaml.safe_load(file.read(name)) if name else {}
        with file.open(manifest["serializedFile"]) as weights:
            model = torch.jit.load(weights)
    return manifest, settings, model


def test_one_call_from_a_model_to_an_archive(train, tmp_path, published):
    ctx = train()
    ctx.commit("user", [1], USER_ROW)
    model = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Dropout(0.5)).train()
    extra = tmp_path / "words.txt"
    extra.write_text("hello")
    dump = ctx.dump_dense(
        model,
        tmp_path / "store" / "ctr_v2.mar",
        model_name="ctr",
        version="2.0",
        extra_files=[extra],
        config={"minWorkers": 2},
    )
    assert (dump.archive, dump.sparse_sequence, dump.answer) == (tmp_path / "store" / "ctr_v2.mar", 1, "")
    manifest, settings, scripted = contents(dump.archive)
    assert (manifest["modelName"], manifest["modelVersion"]) == ("ctr", "2.0")
    assert manifest["handler"] == "satrap.serving.handler:EmbeddingHandler"
    assert settings == {"minWorkers": 2, "satrap": {"sparse_sequence": 1}}
    assert not scripted.training
    assert model.training  # training goes on as before
    example = torch.ones(3, 4)
    assert torch.equal(scripted(example), model.eval()(example))
    assert published.manifests()[0].dense.version == "2.0"
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["ctr_v2.mar"]


def test_an_archive_is_replaced(train, tmp_path):
    ctx = train()
    ctx.commit("user", [1], USER_ROW)
    for version in ("1", "2"):
        ctx.dump_dense(torch.nn.Linear(1, 1), tmp_path / "m.mar", model_name="m", version=version)
    manifest, settings, _ = contents(tmp_path / "m.mar")
    assert manifest["modelVersion"] == "2"
    assert settings == {"satrap": {"sparse_sequence": 1}}


def test_a_scripted_model_and_a_handler(train, tmp_path):
    ctx = train()
    handler = tmp_path / "mine.py"
    handler.write_text("class Handler: pass\n")
    dump = ctx.dump_dense(
        torch.jit.script(torch.nn.Linear(2, 1)),
        str(tmp_path / "m.mar"),
        model_name="m",
        version="1",
        handler=str(handler),
    )
    manifest, settings, _ = contents(dump.archive)
    assert manifest["handler"] == "mine.py"
    assert dump.sparse_sequence is None  # nothing is published: any rows will do
    assert settings == {}


def test_without_packets_no_sequence_is_needed(train, tmp_path):
    ctx = train(directory=None)
    ctx.commit("user", [1], USER_ROW)
    dump = ctx.dump_dense(torch.nn.Linear(2, 1), tmp_path / "m.mar", model_name="m", version="1")
    assert dump.sparse_sequence is None


class Unscriptable(torch.nn.Module):
    def forward(self, x):
        return globals()["nothing"](*x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"archive": "m.zip"}, r"ends in \.mar"),
        ({"model_name": "../m"}, "letter or digit"),
        ({"version": ""}, "version"),
        ({"version": "1\n"}, "version"),
        ({"model_name": "m" * 257}, "model_name"),
        ({"extra_files": ["nowhere.txt"]}, "does not exist"),
        ({"model": Unscriptable()}, "TorchScript does not take"),
    ],
)
def test_archives_that_cannot_be(train, tmp_path, arguments, message):
    ctx = train()
    ctx.commit("user", [1], USER_ROW)
    given = {
        "model": torch.nn.Linear(1, 1),
        "archive": "m.mar",
        "model_name": "m",
        "version": "1",
    } | arguments
    model, archive = given.pop("model"), tmp_path / given.pop("archive")
    with pytest.raises(ArchiveError, match=message):
        ctx.dump_dense(model, archive, **given)
    assert not list(tmp_path.glob("*.mar"))
    ctx.commit("user", [1], USER_ROW)
    ctx.flush()  # publishing goes on


def test_a_server_that_is_not_there(train, tmp_path, monkeypatch):
    ctx = train()
    with pytest.raises(UnavailableError):
        ctx.dump_dense(
            torch.nn.Linear(1, 1), tmp_path / "m.mar", model_name="m", version="1", register="127.0.0.1:1"
        )
    assert (tmp_path / "m.mar").exists()
