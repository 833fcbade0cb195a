"""The calls that the real TorchServe was asked, answered as it did but for the differences that are meant to be."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from torchserve_calls.call import Scenario, name_calls
from torchserve_calls.differences import differences, page_with_table, read_deliberate, sort_out
from torchserve_calls.places import made_places, properties
from torchserve_calls.ready_line import addresses
from torchserve_calls.recordings import FOLDER, read_recording
from torchserve_calls.scenarios import SCENARIOS
from torchserve_calls.send import Addresses, Sender, run_scenario

from satrap.protos import management_pb2, management_pb2_grpc

Start = Callable[[Scenario], Addresses]

PAGE = Path(__file__).parents[2] / "docs" / "torchserve.md"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_call_has_a_recorded_answer(scenario: Scenario) -> None:
    names = [name for name, _ in name_calls(scenario.steps) if name]

    assert list(read_recording(scenario.name)) == names


def test_every_recording_belongs_to_a_scenario() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == {scenario.name for scenario in SCENARIOS}


def test_several_hundred_calls_are_compared() -> None:
    assert sum(len(read_recording(scenario.name)) for scenario in SCENARIOS) > 800


def test_the_page_for_users_of_torchserve_has_every_deliberate_difference() -> None:
    page = PAGE.read_text()

    assert page == page_with_table(page, read_deliberate()), (
        "write it anew: scripts/compare_torchserve --table"
    )


@pytest.fixture(scope="module")
def start(satrap_module: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """A server for a scenario. Those without settings of their own share one, emptied for each."""
    running: dict[str, Addresses] = {}

    with ExitStack() as stack:

        def started(scenario: Scenario) -> Addresses:
            key = "" if not scenario.settings and not scenario.tokens else scenario.name
            if key not in running:
                folder = tmp_path_factory.mktemp(key or "shared")
                places = stack.enter_context(made_places(folder))
                config = folder / "config.properties"
                config.write_text(properties(scenario, places.store))
                command = satrap_module("serving", "--ts-config", config, "--ncs", cwd=folder)
                running[key] = addresses(command.line, places, folder / "key_file.json")
            if not key:
                _empty(running[key])
            return running[key]

        yield started


def _empty(where: Addresses) -> None:
    """Unregister everything; over gRPC, because REST cannot name a model with a slash in its name."""
    with grpc.insecure_channel(where.grpc_management) as channel:
        management = management_pb2_grpc.ManagementAPIsServiceStub(channel)
        listed = json.loads(management.ListModels(management_pb2.ListModelsRequest(limit=100)).msg)
        for model in (one["modelName"] for one in listed["models"]):
            default, *_ = _versions(management, model, "")
            others = set(_versions(management, model, "all")) - {default}
            for version in [*others, default]:  # the default can only be the last
                management.UnregisterModel(
                    management_pb2.UnregisterModelRequest(model_name=model, model_version=version)
                )


def _versions(management: Any, model: str, version: str) -> list[str]:
    request = management_pb2.DescribeModelRequest(model_name=model, model_version=version)
    return [one["modelVersion"] for one in json.loads(management.DescribeModel(request).msg)]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_satrap_answers_as_torchserve_did(scenario: Scenario, start: Start) -> None:
    with Sender(start(scenario)) as sender:
        ours = run_scenario(sender, scenario)

    found = differences(scenario.name, read_recording(scenario.name), ours)
    unmeant, gone = sort_out(found, read_deliberate(), [scenario.name])

    assert [str(one) for one in unmeant] == []
    assert [f"no longer different: {one.case}: {place}" for one, place in gone] == []
