"""docs/operations.md names what there is: every alarm, every refusal, every metric, every command."""

import re
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from satrap import errors
from satrap.cli.app import app
from satrap.embedding_server.updates.alarms import AlarmCode
from satrap.metrics import families
from satrap.protos import embedding_pb2 as pb

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()


def test_every_alarm_and_no_other():
    table = PAGE[PAGE.index("## Alarms") : PAGE.index("## Guardrails")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(get_args(AlarmCode))


def test_every_refusal():
    codes = {
        kind.code
        for name in errors.__all__
        if isinstance(kind := getattr(errors, name), type)
        and issubclass(kind, errors.UpdateError)
        and kind is not errors.UpdateError
    }
    told = {"forked_stream"}  # an alarm: each of the packets may be as it must
    assert codes - told - {code for code in codes if f"`{code}`" in PAGE} == set()


def test_every_metric_and_no_other():
    status = pb.StatusResponse(updates=pb.UpdateStatus(newest_event_ns=1))
    told = set()
    for family in families(status, "default", 2):
        told.add(f"{family.name}_total" if family.type == "counter" else family.name)
    table = PAGE[PAGE.index("## Metrics") :]
    assert set(re.findall(r"^\| `(satrap_\w+)` \|", table, re.MULTILINE)) == told


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^\$ satrap (.*?)(?:  +#.*)?$", PAGE, re.MULTILINE))))
def test_every_command_and_flag_exists(line):
    words = line.split()
    command = words[:2] if words[0] in ("quarantine", "stream") else words[:1]
    said = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).output
    flags = [word for word in words if word.startswith("--")]
    assert "Usage: " in said and [flag for flag in flags if flag not in said] == []
