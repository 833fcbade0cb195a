"""What the management calls answer: TorchServe's sentences, and how far a change is carried out."""

import asyncio
import json
from typing import Any

import pytest

from satrap.errors import (
    ArchiveNotFoundError,
    DefaultVersionError,
    InvalidInputError,
    ModelApiDisabledError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    NoDescribeWorkerError,
    NoDescriptionError,
    VersionRegisteredError,
    WorkerStartError,
)
from satrap.serving.outcome import Outcome, OutcomeState
from satrap.serving.version_spec import RegisterParameters

pytestmark = pytest.mark.slow

HANDLER = """
import json, os, time

def handle(data, context):
    if data is None:
        return
    if context.get_request_header(0, "describe") == "True":
        return [%s]
    return [str(os.getpid())] * len(data)
"""


def add(store: Any, version: str = "1.0", described: str = '{"classes": 3}', **more: Any) -> str:
    return store.add(f"m{version[0]}.mar", HANDLER % described, version=version, **more)


def given(url: str | None, workers: int | None = 1, **more: Any) -> RegisterParameters:
    return RegisterParameters(
        **{"url": url, "initial_workers": workers, "synchronous": True, "handler": None, **more}
    )


def test_registrations(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service()
    first, second = add(store), add(store, "2.0")
    refused: list[tuple[Any, type[Exception], str]] = [
        (given(None), InvalidInputError, "Parameter url is required."),
        (given(""), ArchiveNotFoundError, "empty url"),
        (given("no.mar"), ArchiveNotFoundError, "Model not found at: no.mar"),
        (given(first, runtime="ruby"), InvalidInputError, "Invalid RuntimeType value: ruby"),
    ]
    for parameters, kind, sentence in refused:
        with pytest.raises(kind) as caught:
            in_process.run(service.register(parameters))
        assert str(caught.value) == sentence
    assert service.catalog.list_models() == {"models": []}
    assert in_process.run(service.register(given(first))) == Outcome(
        'Model "m" Version: 1.0 registered with 1 initial workers'
    )
    with pytest.raises(VersionRegisteredError):
        in_process.run(service.register(given(first)))
    assert in_process.run(service.register(given(second, None))) == Outcome(
        'Model "m" Version: 2.0 registered with 0 initial workers. Use scale workers API to add workers for the '
        "model."
    )
    in_background = given(first, model_name="other", synchronous=False)
    assert in_process.run(service.register(in_background)) == Outcome(
        "Processing worker updates...", OutcomeState.ACCEPTED
    )
    assert service.catalog.model_count() == 2


def test_scaling(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service()
    in_process.run(service.register(given(add(store), 0)))
    for wrong in [(2, 1), (-1, None)]:
        with pytest.raises(InvalidInputError):
            in_process.run(service.scale("m", "", *wrong))
    with pytest.raises(ModelNotFoundError, match="Model not found: nope"):
        in_process.run(service.scale("nope"))
    with pytest.raises(ModelVersionNotFoundError, match="Model version: 9 does not exist for model: m"):
        in_process.run(service.scale("m", "9"))
    assert not service.catalog.has_workers("m")
    assert in_process.run(service.scale("m", minimum=2, synchronous=True)) == Outcome(
        "Workers scaled to 2 for model: m"
    )
    assert service.catalog.has_workers("m")
    assert in_process.run(service.scale("m", "1.0", 1, synchronous=True)) == Outcome(
        "Workers scaled to 1 for model: m, version: 1.0"
    )
    (described,) = in_process.run(service.catalog.describe("m"))
    assert [worker["status"] for worker in described["workers"]] == ["READY"], "the other is gone by then"
    assert in_process.run(service.scale("m", minimum=0)) == Outcome(
        "Processing worker updates...", OutcomeState.ACCEPTED
    )
    (described,) = in_process.run(service.catalog.describe("m"))
    assert (described["minWorkers"], described["maxWorkers"]) == (0, 0)


def test_scaling_that_is_changed_meanwhile_is_partial(in_process: Any, open_service: Any, store: Any) -> None:
    async def scale_both() -> tuple[Outcome, Outcome]:
        up = asyncio.create_task(service.scale("m", minimum=2, synchronous=True))
        await asyncio.sleep(0)
        return await service.scale("m", minimum=1, synchronous=True), await up

    service = open_service()
    in_process.run(service.register(given(add(store), 0)))
    down, up = in_process.run(scale_both())
    assert down == Outcome("Workers scaled to 1 for model: m")
    assert up == Outcome("Workers scaling in progress...", OutcomeState.PARTIAL)


def test_a_scale_whose_workers_do_not_start(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service()
    store.add("bad.mar", "raise ValueError('at import')", name="bad")
    in_process.run(service.register(given("bad.mar", 0)))
    with pytest.raises(
        WorkerStartError, match=r"Failed to start workers for model bad version: 1\.0: ValueErr"
    ):
        in_process.run(service.scale("bad", synchronous=True))
    assert service.catalog.has_workers("bad"), "it is tried again"


def test_defaults(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service()
    for url in (add(store), add(store, "2.0")):
        in_process.run(service.register(given(url, 0)))
    with pytest.raises(ModelNotFoundError, match="Model not found: nope"):
        service.set_default("nope", "1.0")
    with pytest.raises(ModelVersionNotFoundError) as caught:
        service.set_default("m", "9.0")
    assert str(caught.value) == "Model version 9.0 does not exist for model m", (
        "worded so here, and only here"
    )
    assert service.set_default("m", "2.0") == Outcome(
        'Default version successfully updated for model "m" to "2.0"'
    )
    for version in ("", "2.0"):
        with pytest.raises(DefaultVersionError, match="Cannot remove default version for model m"):
            in_process.run(service.unregister("m", version))
    with pytest.raises(ModelVersionNotFoundError):
        in_process.run(service.unregister("m", "9.0"))
    assert in_process.run(service.unregister("m", "1.0")) == Outcome('Model "m" unregistered')
    assert in_process.run(service.unregister("m")) == Outcome('Model "m" unregistered')
    with pytest.raises(ModelNotFoundError):
        in_process.run(service.unregister("m"))


def test_lists(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service()
    url = add(store)
    for name in ("b", "a"):
        in_process.run(service.register(given(url, 0, model_name=name)))
    a, b = ({"modelName": name, "modelUrl": url} for name in "ab")
    listed = service.catalog.list_models
    assert listed() == listed(101) == listed(-1) == {"models": [a, b]}
    assert listed(2) == {"nextPageToken": "2", "models": [a, b]}
    assert listed(1, 1) == {"nextPageToken": "2", "models": [b]}
    assert listed(1, 2) == {"models": []}
    assert listed(1, -5) == {"nextPageToken": "1", "models": [a]}
    assert listed(0) == {"nextPageToken": "0", "models": []}


def test_without_the_model_api(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service(model_api=False)
    url = add(store)
    with pytest.raises(ModelApiDisabledError):
        in_process.run(service.register(given(url)))
    in_process.run(service.register(given(url), at_startup=True))
    with pytest.raises(ModelApiDisabledError):
        in_process.run(service.unregister("m"))
    in_process.run(service.scale("m", minimum=1, synchronous=True))
    service.set_default("m", "1.0")
    (described,) = in_process.run(service.catalog.describe("m"))
    assert described["loadedAtStartup"] is True


def test_a_handlers_own_description(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service()
    url = add(store)
    in_process.run(service.register(given(url)))
    (plain,) = in_process.run(service.catalog.describe("m"))
    assert "customizedMetadata" not in plain
    (described,) = in_process.run(service.catalog.describe("m", "1.0", customized=True))
    assert list(described)[-1] == "customizedMetadata" and described["customizedMetadata"] == {"classes": 3}
    assert json.dumps(described)
    (every,) = in_process.run(service.catalog.describe("m", "all", customized=True))
    assert "customizedMetadata" not in every, "as in TorchServe only one version is asked"


@pytest.mark.parametrize(("described", "expected"), [("[1, 2]", {}), ("b'text'", {}), ("b''", {})])
def test_a_description_that_is_no_dict(
    in_process: Any, open_service: Any, store: Any, described: str, expected: object
) -> None:
    service = open_service()
    in_process.run(service.register(given(add(store, described=described))))
    (answer,) = in_process.run(service.catalog.describe("m", customized=True))
    assert answer["customizedMetadata"] == expected


def test_a_description_that_cannot_be_had(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service()
    url = add(store, described="1 / 0")
    in_process.run(service.register(given(url, 0)))
    with pytest.raises(NoDescribeWorkerError, match='Model "m" has no worker to serve describe request'):
        in_process.run(service.catalog.describe("m", customized=True))
    in_process.run(service.scale("m", synchronous=True))
    with pytest.raises(NoDescriptionError, match='Prediction failed: the handler of model "m"'):
        in_process.run(service.catalog.describe("m", customized=True))
    with pytest.raises(ModelVersionNotFoundError):
        in_process.run(service.catalog.describe("m", "9", customized=True))
