"""What the configuration and the config file say of devices and images reaches the handler."""

import asyncio
import json
from typing import Any

import pytest

from satrap.serving import version_builder
from satrap.serving.query import Query
from satrap.serving.version_spec import RegisterParameters

pytestmark = pytest.mark.slow

HANDLER = """
import json

def handle(data, context):
    if data is not None:
        return [json.dumps(context.system_properties)] * len(data)
"""


async def _properties(service: Any, workers: int) -> list[dict[str, Any]]:
    """What as many requests at once as there are workers are told: one of each worker."""
    answers = await asyncio.gather(*(service.predict(Query("m", "", {"data": b"x"})) for _ in range(workers)))
    return [json.loads(answer.value) for answer in answers]


def register(in_process: Any, service: Any, url: str, workers: int = 1) -> None:
    given = RegisterParameters(url=url, initial_workers=workers, synchronous=True)
    in_process.run(service.register(given))


def test_workers_get_gpus_by_turns(
    in_process: Any, open_service: Any, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_builder, "available_gpus", lambda: 4)
    service = open_service(gpus=3)
    register(
        in_process, service, store.add("m.mar", HANDLER, config="deviceType: gpu\ndeviceIds: [0, 2, 3]"), 2
    )
    found = in_process.run(_properties(service, 2))
    assert sorted(each["gpu_id"] for each in found) == [0, 2], "the configuration leaves out the fourth"
    (described,) = in_process.run(service.catalog.describe("m", ""))
    assert (described["deviceType"], described["deviceIds"]) == ("gpu", [0, 2, 3])
    assert [worker["gpu"] for worker in described["workers"]] == [True, True]


@pytest.mark.parametrize("config", ["deviceType: cpu", "deviceType: neuron"])
def test_a_model_may_stay_on_the_cpu(
    config: str, in_process: Any, open_service: Any, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_builder, "available_gpus", lambda: 2)
    service = open_service()
    register(in_process, service, store.add("m.mar", HANDLER, config=config))
    (found,) = in_process.run(_properties(service, 1))
    assert found["gpu_id"] is None
    (described,) = in_process.run(service.catalog.describe("m", ""))
    assert described["deviceType"] == "cpu"
    assert "deviceIds" not in described


def test_the_limit_on_images(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service(limit_max_image_pixels=False)
    register(in_process, service, store.add("m.mar", HANDLER))
    assert in_process.run(_properties(service, 1))[0]["limit_max_image_pixels"] is False
