"""`satrap archive --model-server`: the flags of the model-servers style's build script."""

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from satrap.cli.app import app
from satrap.errors import ArchiveError
from satrap.serving.archive.model_server import package_model_server


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("handler_model.py").write_text("handler = None")
    Path("weights.pt").write_bytes(b"weights")
    Path("requirements.txt").write_text("")
    Path("model.py").write_text("x = 1")
    with tarfile.open("extra.tar.gz", "w:gz") as tar:
        tar.add("model.py")
    Path("model-config.yml").write_text("minWorkers: 1\nsystem:\n  extraFiles: extra.tar.gz\n")
    return tmp_path


def test_the_build_scripts_flags(sources: Path) -> None:
    result = CliRunner().invoke(
        app,
        [
            *("archive", "--model-server", "--model_name", "net", "--model_file", "handler_model.py"),
            *("--config_file", "model-config.yml", "--requirements_file", "requirements.txt"),
            *("--checkpoint_file", "weights.pt", "--version", "1.0", "--extra_files", "extra.tar.gz"),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    with zipfile.ZipFile("net.mar") as archive:
        assert sorted(archive.namelist()) == [
            *("MAR-INF/MANIFEST.json", "extra.tar.gz", "handler_model.py", "model-config.yml"),
            *("requirements.txt", "weights.pt"),
        ]
        assert json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"] == {
            "modelName": "net",
            "serializedFile": "weights.pt",
            "handler": "handler_model.py",
            "modelVersion": "1.0",
            "requirementsFile": "requirements.txt",
            "configFile": "model-config.yml",
        }


def written(**given: Any) -> Path:
    return package_model_server(
        **{"model_name": "net", "version": "1", "model_file": "handler_model.py", **given}
    )


def test_what_may_be_left_out(sources: Path) -> None:
    assert written() == Path("net.mar")
    assert written(
        force=True, config_file="model-config.yml", extra_files="extra.tar.gz", archive_format="tgz"
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"extra_files": "extra.tar.gz"},
            r"(?s)would not unpack extra\.tar\.gz: the config file has no .*\nsystem:\n  extraFiles: extra\.tar\.gz",
        ),
        (
            {"extra_files": "model.py", "config_file": "model-config.yml"},
            r"names 'extra\.tar\.gz' as system\.extraFiles",
        ),
        ({"config_file": "model-config.yml"}, "give it as --extra_files"),
        ({"config_file": "none.yml"}, r"file does not exist: none\.yml"),
        ({"config_file": "bad.yml"}, r"config file bad\.yml cannot be read"),
        ({"model_file": "none.py"}, r"file does not exist: none\.py"),
        ({"checkpoint_file": "none.pt"}, r"file does not exist: none\.pt"),
    ],
)
def test_what_is_refused(given: dict[str, Any], reason: str, sources: Path) -> None:
    Path("bad.yml").write_text("a: [")
    with pytest.raises(ArchiveError, match=reason):
        written(**given)
    assert not Path("net.mar").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--model-server"],
        ["--model-server", "--model_file", "handler_model.py", "--handler", "h.py"],
        ["--model-server", "--model_file", "handler_model.py", "--serialized-file", "weights.pt"],
        ["--checkpoint_file", "weights.pt"],
    ],
)
def test_flags_that_do_not_go_together(flags: list[str], sources: Path) -> None:
    result = CliRunner().invoke(app, ["archive", "--model_name", "net", "--version", "1", *flags])
    assert isinstance(result.exception, ArchiveError)
