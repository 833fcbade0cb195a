"""The management API over REST: which call each path is, and its status."""

import logging
from typing import Any

import pytest

from satrap.serving.outcome import Outcome, OutcomeState
from satrap.serving.rest.management import ManagementRoutes
from satrap.serving.version_spec import RegisterParameters

LIMIT = 1000


@pytest.mark.parametrize(
    ("method", "target", "error"),
    [
        ("DELETE", "/models", (405, "MethodNotAllowedException")),
        ("PUT", "/models", (405, "MethodNotAllowedException")),
        ("PATCH", "/models/", (405, "MethodNotAllowedException")),
        ("POST", "/models/m", (405, "MethodNotAllowedException")),
        ("POST", "/models/m/1.0", (405, "MethodNotAllowedException")),
        ("GET", "/models/m/1.0/set-default", (405, "MethodNotAllowedException")),
        ("POST", "/v1/models/m", (405, "MethodNotAllowedException")),
        ("PUT", "/models/m/1.0/default", (404, "ResourceNotFoundException")),
        ("PUT", "/models/m/1.0/set-default/x", (404, "ResourceNotFoundException")),
        ("GET", "/ping", (404, "ResourceNotFoundException")),
        ("GET", "/v2/models/m", (404, "ResourceNotFoundException")),
        ("GET", "/", (404, "ResourceNotFoundException")),
        ("GET", "/models/x", (404, "ModelNotFoundException")),
        ("GET", "/models/m/9", (404, "ModelVersionNotFoundException")),
        ("GET", "/v1/models/x", (404, "ModelNotFoundException")),
        ("PUT", "/models/x", (404, "ModelNotFoundException")),
        ("PUT", "/models/m/9/set-default", (404, "ModelVersionNotFoundException")),
        ("DELETE", "/models/x", (404, "ModelNotFoundException")),
        ("OPTIONS", "/models/x", (404, "ModelNotFoundException")),
        ("OPTIONS", "/models/m/9", (404, "ModelVersionNotFoundException")),
        ("GET", "/workflows", (501, "UnsupportedOperationException")),
        ("POST", "/workflows/w", (501, "UnsupportedOperationException")),
    ],
)
def test_what_is_refused(talk: Any, service: Any, method: str, target: str, error: tuple[int, str]) -> None:
    async def conversation(site: Any) -> None:
        assert (await site.ask(method, target)).error == error

    talk([ManagementRoutes(service, LIMIT)], conversation)
    assert not service.calls


@pytest.mark.parametrize(
    ("body", "code"), [(b"{", 400), (b"[1]", 400), (b'{"url": {}}', 400), (b" " * (LIMIT + 1), 413)]
)
def test_registrations_that_are_none(talk: Any, service: Any, body: bytes, code: int) -> None:
    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/models", body, [("Content-Type", "application/json")])
        assert reply.error[0] == code

    talk([ManagementRoutes(service, LIMIT)], conversation)
    assert not service.calls


@pytest.mark.parametrize(
    ("method", "target", "call"),
    [
        ("GET", "/models", ("list", 100, 0)),
        ("GET", "/models/", ("list", 100, 0)),
        ("HEAD", "/models", ("list", 100, 0)),
        ("GET", "/models?limit=0&next_page_token=3", ("list", 0, 3)),
        ("GET", "/models?limit=x&next_page_token=", ("list", 100, 0)),
        ("GET", "/models?limit=2&limit=1", ("list", 2, 0)),
        ("GET", "/models/m", ("describe", "m", "", False)),
        ("GET", "/models/m/all?customized=TRUE", ("describe", "m", "all", True)),
        ("GET", "/models/m/1.0?customized=1", ("describe", "m", "1.0", False)),
        ("PUT", "/models/m", ("scale", "m", "", 1, None, False)),
        ("PUT", "/models/m?min_worker=0", ("scale", "m", "", 0, None, False)),
        (
            "PUT",
            "/models/m/2.0?min_worker=2&max_worker=3&synchronous=true&timeout=9&number_gpu=1",
            ("scale", "m", "2.0", 2, 3, True),
        ),
        ("PUT", "/models/m?min_worker=x&model_version=2.0", ("scale", "m", "2.0", 1, None, False)),
        ("PUT", "/models/m/1.0?model_version=2.0", ("scale", "m", "1.0", 1, None, False)),
        ("PUT", "/models/m/2.0/set-default", ("set-default", "m", "2.0")),
        ("DELETE", "/models/m", ("unregister", "m", "")),
        ("DELETE", "/models/m/2.0?synchronous=false", ("unregister", "m", "2.0")),
        ("POST", "/models", ("register", RegisterParameters(url=None, synchronous=True))),
        (
            "POST",
            "/models?url=a%20b.mar&initial_workers=1&unknown=1",
            ("register", RegisterParameters(url="a b.mar", initial_workers=1, synchronous=True)),
        ),
    ],
)
def test_calls(talk: Any, service: Any, method: str, target: str, call: tuple[Any, ...]) -> None:
    async def conversation(site: Any) -> None:
        assert (await site.ask(method, target)).status == 200

    talk([ManagementRoutes(service, LIMIT)], conversation)
    assert service.calls == [call]


def test_a_registration_in_json(talk: Any, service: Any) -> None:
    async def conversation(site: Any) -> None:
        body = b'{"url": "a.mar", "batch_size": 4, "synchronous": false}'
        await site.ask("POST", "/models?url=not.mar", body, [("Content-Type", "application/json")])

    talk([ManagementRoutes(service, LIMIT)], conversation)
    assert service.calls == [("register", RegisterParameters(url="a.mar", batch_size=4, synchronous=False))]


@pytest.mark.parametrize("state", OutcomeState)
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/models?url=a"),
        ("PUT", "/models/m"),
        ("PUT", "/models/m/1.0/set-default"),
        ("DELETE", "/models/m"),
    ],
)
def test_how_far_a_change_is_carried_out(
    talk: Any, service: Any, state: OutcomeState, method: str, target: str
) -> None:
    service.outcome = Outcome('Model "m" is "fine"', state)

    async def conversation(site: Any) -> None:
        reply = await site.ask(method, target)
        assert (reply.status, reply.headers["content-type"]) == (state.value, "application/json")
        assert reply.body == b'{\n  "status": "Model \\"m\\" is \\"fine\\""\n}\n'

    talk([ManagementRoutes(service, LIMIT)], conversation)


def test_documents(talk: Any, service: Any) -> None:
    async def conversation(site: Any) -> None:
        assert (await site.ask("GET", "/models")).document == {"models": []}
        assert (await site.ask("GET", "/models/m")).document == [{"modelName": "m"}]
        for name in ("m", "m:predict"):
            reply = await site.ask("GET", f"/v1/models/{name}")
            assert reply.document == {"name": "m", "ready": True}
        for path in ("/models/m", "/models/m/1.0"):
            assert "/models/{model_name}" in (await site.ask("OPTIONS", path)).document["paths"]

    talk([ManagementRoutes(service, LIMIT)], conversation)


def test_a_misspelled_parameter_is_ignored_and_logged(talk: Any, service: Any, caplog: Any) -> None:
    async def conversation(site: Any) -> None:
        await site.ask("PUT", "/models/m?min_workers=1")
        await site.ask("POST", "/models?url=a&initial_worker=1")

    with caplog.at_level(logging.WARNING):
        talk([ManagementRoutes(service, LIMIT)], conversation)
    assert "'min_workers' is ignored: there is 'min_worker'" in caplog.text
    assert "'initial_worker' is ignored: there is 'initial_workers'" in caplog.text
