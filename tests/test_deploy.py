"""deploy/: what its files tell containers to run are commands and flags that are there. Nothing is built here."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from satrap.cli.app import app
from satrap.serving.listening import Listening
from satrap.serving.ts_keys import KEYS

DEPLOY = Path(__file__).parent.parent / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker/compose.yaml").read_text())
DOCKERFILE = (DEPLOY / "docker/Dockerfile").read_text()
README = (DEPLOY / "README.md").read_text()


@pytest.mark.parametrize("service", sorted(COMPOSE["services"]))
def test_services_run_commands_with_flags_that_are_there(service: str) -> None:
    described: dict[str, Any] = COMPOSE["services"][service]
    check = described.get("healthcheck", {}).get("test", [])
    for words in (shlex.split(described["command"]), check[1:]):
        if words:
            program, command, *arguments = words
            assert program == "satrap"
            usage = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
            assert [word for word in arguments if word.startswith("--") and f"{word} " not in usage] == []


def test_shards_do_not_have_the_health_check_of_serving() -> None:
    checks = {name: described.get("healthcheck") for name, described in COMPOSE["services"].items()}
    assert checks["serving"] is None
    assert checks["shard-0"] == checks["shard-1"]
    assert all("127.0.0.1:8888" in checks[name]["test"] for name in ("shard-0", "shard-1"))


def test_ports_are_the_ones_that_are_listened_on() -> None:
    listening = Listening()
    addresses = (
        listening.grpc_inference,
        listening.grpc_management,
        listening.rest_inference,
        listening.rest_management,
        listening.metrics,
    )
    ports = {address.port for address in addresses if address is not None}
    (exposed,) = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert {int(port) for port in exposed.split()} == ports
    published = {int(each.rpartition(":")[2]) for each in COMPOSE["services"]["serving"]["ports"]}
    assert published == ports
    assert listening.metrics is not None and f"127.0.0.1:{listening.metrics.port}/metrics" in DOCKERFILE


def test_keys_of_the_configuration_are_known() -> None:
    keys = re.findall(r"^([a-z_]+)=", README, re.MULTILINE)
    assert len(keys) == 6 and not set(keys) - KEYS.keys()
