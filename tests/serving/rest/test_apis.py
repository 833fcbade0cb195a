"""Which API is at which address: tokens, shared addresses, descriptions, metrics."""

import asyncio
import json
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from satrap.config.global_config import CorsConfig, ServingConfig
from satrap.serving.listening import Address, Listening
from satrap.serving.request_ids import request_ids
from satrap.serving.rest.apis import RestApi, rest_apis
from satrap.serving.settings import ServingSettings
from satrap.serving.tokens import TokenAuthorization
from satrap.tls import Tls


def render(names: Sequence[str]) -> bytes:
    return f"metrics {','.join(names)}".encode()


def apis(service: Any, tokens: TokenAuthorization | None = None, **listening: Any) -> dict[str, RestApi]:
    """By the names of what is served there."""
    given = {"rest_inference": Address(), "rest_management": Address(), "metrics": Address(), **listening}
    settings = ServingSettings(
        listening=Listening(**given),
        config=ServingConfig(cors=CorsConfig(allowed_origin="https://a", allowed_methods="GET, POST")),
    )
    made = rest_apis(settings, service, request_ids(), tokens=tokens, render=render, version="1.2.3")
    return {" + ".join(api.names): api for api in made}


@pytest.fixture
def tokens(tmp_path: Path) -> TokenAuthorization:
    made = TokenAuthorization(tmp_path / "key_file.json")
    made.open()
    return made


def bearer(key: str) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {key}")]


@pytest.fixture
def each(talk: Any) -> Any:
    """Send one request to an API."""

    def send(api: RestApi, method: str, target: str, headers: Sequence[tuple[str, str]] = ()) -> Any:
        replies = []

        async def conversation(site: Any) -> None:
            replies.append(await site.ask(method, target, headers=headers))

        talk(api.app, conversation)
        return replies[0]

    return send


def test_each_api_answers_at_its_own_address_only(service: Any, each: Any) -> None:
    made = apis(service)
    assert list(made) == ["REST inference", "REST management", "metrics"]
    for path, home in (("/ping", "REST inference"), ("/models", "REST management"), ("/metrics", "metrics")):
        for name, api in made.items():
            assert each(api, "GET", path).status == (200 if name == home else 404)


def test_an_api_without_an_address_is_not_served(service: Any) -> None:
    assert list(apis(service, rest_management=None, metrics=None)) == ["REST inference"]
    assert not apis(service, rest_inference=None, rest_management=None, metrics=None)


def test_apis_that_share_an_address(service: Any, each: Any) -> None:
    shared = Address(port=8080)
    made = apis(service, rest_inference=shared, rest_management=Address(port=8080))
    assert list(made) == ["REST inference + REST management", "metrics"]
    both = made["REST inference + REST management"]
    for path in ("/ping", "/models", "/models/m", "/v1/models/m"):
        assert each(both, "GET", path).status == 200
    assert each(both, "POST", "/v1/models/m:predict").body == b"predicted"
    assert {"/ping", "/models"} <= set(each(both, "OPTIONS", "/").document["paths"])
    other_host = apis(service, rest_inference=shared, rest_management=Address("::1", 8080))
    assert len(other_host) == 3
    all_in_one = apis(service, rest_inference=shared, rest_management=shared, metrics=shared)
    [api] = all_in_one.values()
    assert each(api, "GET", "/metrics").body == b"metrics "


def test_metrics(service: Any, each: Any) -> None:
    api = apis(service)["metrics"]
    reply = each(api, "GET", "/metrics?name[]=a&name%5B%5D=b")
    assert reply.body == b"metrics a,b"
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert each(api, "POST", "/metrics/x").status == 200


def test_other_origins(service: Any, each: Any) -> None:
    for api in apis(service).values():
        headers = each(api, "GET", "/nowhere").headers
        assert headers["access-control-allow-origin"] == "https://a"
        assert headers["access-control-allow-methods"] == "GET, POST"
        assert "access-control-allow-headers" not in headers


def test_tokens(service: Any, tokens: TokenAuthorization, each: Any) -> None:
    made = apis(service, tokens)
    keys = {"inference": tokens.keys.inference, "management": tokens.keys.management, "api": tokens.keys.api}
    for api, right, paths in (
        ("REST inference", "inference", ("/ping", "/predictions/m", "/nowhere")),
        ("REST management", "management", ("/models", "/models/m", "/ping")),
    ):
        for path in paths:
            for headers in (
                [],
                [("authorization", "Bearer")],
                *(bearer(key) for key in ("x", *keys.values())),
            ):
                reply = each(made[api], "GET", path, headers)
                if headers == bearer(keys[right]):
                    assert reply.status in (200, 404)
                    assert b"Token" not in reply.body
                else:
                    assert reply.error == (400, "InvalidKeyException")
                    assert reply.document["message"] == (
                        "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
                    )
    assert each(made["metrics"], "GET", "/metrics").status == 200
    for api in ("REST inference", "REST management"):
        assert each(made[api], "OPTIONS", "/").status == 200
        assert each(made[api], "GET", "/api-description").status == 200


def test_a_refused_call_does_nothing(service: Any, tokens: TokenAuthorization, each: Any) -> None:
    each(apis(service, tokens)["REST management"], "DELETE", "/models/m")
    each(apis(service, tokens)["REST inference"], "POST", "/predictions/m")
    assert not service.calls
    assert not service.asked


def test_a_key_made_anew(service: Any, tokens: TokenAuthorization, each: Any) -> None:
    made = apis(service, tokens)
    old, other = tokens.keys.inference, tokens.keys.management
    management, inference = made["REST management"], made["REST inference"]
    for headers, target in (
        ([], "/token?type=inference"),
        (bearer(other), "/token?type=inference"),
        (bearer(tokens.keys.api), "/token"),
        (bearer(tokens.keys.api), "/token?type=API"),
    ):
        reply = each(management, "GET", target, headers)
        assert reply.error == (400, "InvalidKeyException")
        assert reply.document["message"].startswith("Token Authentication failed.")
    assert each(inference, "GET", "/token?type=inference", bearer(tokens.keys.api)).status == 400
    assert tokens.keys.inference == old
    assert each(management, "GET", "/token?type=inference", bearer(tokens.keys.api)).status == 200
    assert (tokens.keys.inference != old, tokens.keys.management) == (True, other)
    assert json.loads(tokens.key_file.read_text())["inference"]["key"] == tokens.keys.inference
    assert each(inference, "GET", "/ping", bearer(old)).status == 400
    assert each(inference, "GET", "/ping", bearer(tokens.keys.inference)).status == 200


def test_without_tokens_there_are_none_to_make(service: Any, each: Any) -> None:
    assert each(apis(service)["REST management"], "GET", "/token?type=inference").status == 404


def test_tokens_at_a_shared_address(service: Any, tokens: TokenAuthorization, each: Any) -> None:
    shared = Address(port=8080)
    [api] = apis(service, tokens, rest_inference=shared, rest_management=shared, metrics=shared).values()
    keys = tokens.keys
    for path, right, wrong in (
        ("/ping", keys.inference, keys.management),
        ("/predictions", keys.inference, keys.management),
        ("/models", keys.management, keys.inference),
        ("/v1/models/m", keys.management, keys.inference),
    ):
        assert b"Token" not in each(api, "GET", path, bearer(right)).body
        assert each(api, "GET", path, bearer(wrong)).error == (400, "InvalidKeyException")
    assert each(api, "GET", "/metrics").status == 200
    assert each(api, "GET", "/token?type=inference", bearer(keys.api)).status == 200


@pytest.mark.parametrize("name", ["REST inference", "REST management", "metrics"])
def test_a_description_is_openapi(service: Any, each: Any, name: str) -> None:
    api = apis(service)[name]
    described = each(api, "OPTIONS", "/").document
    assert described == each(api, "GET", "/api-description").document
    assert described == each(api, "POST", "/api-description").document
    assert each(api, "GET", "/").error == (405, "MethodNotAllowedException")
    assert (described["openapi"], described["info"]["version"]) == ("3.0.1", "1.2.3")
    names = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert method in ("get", "put", "post", "delete", "options")
            names.append(operation["operationId"])
            in_path = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert in_path == {word.split("}")[0] for word in path.split("{")[1:]}
            assert all(p["schema"]["type"] for p in operation.get("parameters", ()))
            assert "200" in operation["responses"]
            assert all(answer["description"] for answer in operation["responses"].values())
    assert len(names) == len(set(names))


def test_every_described_path_is_served(service: Any, each: Any) -> None:
    made = apis(service)
    for name in ("REST inference", "REST management", "metrics"):
        for path, methods in each(made[name], "OPTIONS", "/").document["paths"].items():
            target = path.format(model_name="m", model_version="1.0", url_path="x")
            for method in methods:
                assert each(made[name], method.upper(), target).status == 200, (name, method, target)


def test_tls(service: Any, talk: Any) -> None:
    authority = trustme.CA()

    async def conversation(site: Any) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", site.port, ssl=client, server_hostname="localhost"
        )
        writer.write(b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b'{\n  "status": "Healthy"\n}\n')
        writer.close()
        plain = await site.connect()
        await plain.send("GET", "/ping")
        assert b"200 OK" not in await plain.reader.read()

    client = ssl.create_default_context()
    authority.configure_trust(client)
    certificate = authority.issue_cert("localhost")
    with certificate.private_key_and_cert_chain_pem.tempfile() as pem:
        talk(apis(service)["REST inference"].app, conversation, tls=Tls(pem, pem).server_context())
