"""The command line as a user meets it: help with examples, and errors that are one sentence."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import satrap
from satrap.cli.app import app

COMMANDS = [
    "up",
    "embedding-server",
    "middleware",
    "serving",
    "torchserve",
    "archive",
    "exec",
    "demo",
    "embedding-parameter-server",
    "embedding-worker",
    "status",
    "inspect",
    "tables",
    "tables list",
    "tables remove",
    "rollback",
    "stream",
    "stream show",
    "stream skip",
    "models",
    "quarantine",
    "quarantine list",
    "quarantine show",
    "quarantine retry",
    "quarantine drop",
    "prune",
]


def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "satrap.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=env or None,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Example: satrap " in result.output
    assert not re.search(r"--\w[\w-]*-\n", result.output), "a flag of the example is broken in two"


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (
            "embedding-server",
            "--global-config --embedding-config --replica-index --replica-size --host --port --checkpoint "
            "--table-directory --purge",
        ),
        ("middleware", "--global-config --embedding-config --port"),
        (
            "serving",
            "--global-config --embedding-config --model-store --models --grpc-inference-port --grpc-management-port",
        ),
        (
            "up",
            "--global-config --embedding-config --checkpoint --model-store --models --shards --table-directory "
            "--purge",
        ),
        ("status", "--global-config --shards --middleware --table-directory --json"),
        ("inspect", "--json"),
        (
            "archive",
            "--model-name --version -v --handler --serialized-file --model-file --extra-files --runtime --export-path "
            "--archive-format --force -f --requirements-file -r --config-file -c",
        ),
        ("demo", "--keep"),
    ],
)
def test_the_promised_flags_exist(command, flags):
    output = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert [flag for flag in flags.split() if flag not in output] == []


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"satrap {satrap.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embedding-server", "--host", "0.0.0.0", "--port", "0"], "--insecure"),
        (["serving", "--host", "0.0.0.0"], "--insecure"),
        (["middleware", "--port", "0"], "--embedding-config"),
        (["up"], "--embedding-config"),
        (["embedding-server", "--port", "0", "--unix-address", "/run/shard"], "unix:"),
        (["embedding-server", "--port", "0", "--checkpoint", "nowhere"], "nowhere"),
        (["embedding-server", "--port", "0", "--replica-index", "2", "--replica-size", "2"], "replica"),
        (["embedding-server", "--global-config", "nowhere.yaml"], "nowhere.yaml"),
        (["archive", "--model-name", "m", "--version", "1", "--serialized-file", "nowhere.pt"], "nowhere.pt"),
        (["exec", "nowhere.py"], "nowhere.py"),
        (["embedding-server", "--port", "0", "--table-directory", "/dev/null/x"], "/dev/null"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_status(arguments, words):
    result = run(*arguments)
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.slow
def test_a_port_that_is_taken_is_an_error_that_says_so(satrap):
    running = satrap("embedding-server", "--port", "0")
    port = running.addresses[0].rpartition(":")[2]
    result = run("embedding-server", "--port", port)
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert "another process" in result.stderr


@pytest.mark.slow
def test_persias_environment_variables_are_the_defaults(satrap, persia_data, tmp_path):
    import os

    checkpoint = persia_data / "ckpt_1x1"
    config = tmp_path / "global_config.yml"
    config.write_text(
        f"common_config:\n  infer_config:\n    servers: ['127.0.0.1:1']\n    embedding_checkpoint: {checkpoint}\n"
    )
    running = satrap(
        "embedding-parameter-server", "--port", "0", env={**os.environ, "PERSIA_GLOBAL_CONFIG": str(config)}
    )
    assert running.line.endswith("shard 0 of 1, 48 rows")
    assert running.stop() == 0


@pytest.mark.slow
def test_a_broken_config_names_file_key_and_line(tmp_path):
    config = tmp_path / "global_config.yaml"
    config.write_text("serving:\n  drain_seconds: soon\n")
    result = run("serving", "--global-config", config)
    assert result.returncode == 1
    assert f"{config}:2: serving.drain_seconds" in result.stderr


def test_the_libraries_of_s3_are_quiet(tmp_path):
    script = (
        "import logging; from typer.testing import CliRunner; from satrap.cli.app import app\n"
        f"CliRunner().invoke(app, ['inspect', {str(tmp_path)!r}])\n"
        "names = ['aiobotocore.credentials', 'botocore.configprovider', 'satrap']\n"
        "print([logging.getLogger(name).isEnabledFor(logging.INFO) for name in names])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1:] == ["[False, False, True]"], done.stderr
