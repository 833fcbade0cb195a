"""A server that is fit to be reached by others: TLS with client certificates, and tokens, on every API."""

import json
import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from satrap.client import NO_RETRY, InferenceClient, ManagementClient, Tls
from satrap.errors import InvalidInputError, RemoteError, UnavailableError

pytestmark = pytest.mark.slow

NOOP = """
def handle(data, context):
    return None if data is None else [b"one"] * len(data)
"""


@dataclass
class Secured:
    """The server's addresses and keys."""

    addresses: list[str]
    key_file: Path
    tls: Tls

    def header(self, api: str) -> dict[str, str]:
        return {"authorization": f"Bearer {json.loads(self.key_file.read_text())[api]['key']}"}

    def url(self, place: int, path: str, scheme: str = "https") -> str:
        """Of the REST inference API (2), the REST management API (3), or the metrics (4)."""
        return f"{scheme}://{self.addresses[place]}{path}"

    def browser(self, tls: Tls | None = None) -> httpx.Client:
        tls = tls or self.tls
        context = ssl.create_default_context(cafile=tls.authority)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.private_key)
        return httpx.Client(verify=context, trust_env=False)


@pytest.fixture(scope="module")
def secured(satrap_module, certificates, tmp_path_factory) -> Secured:
    folder = tmp_path_factory.mktemp("secured")
    store = folder / "store"
    store.mkdir()
    tls = certificates.ours
    files = {
        "certificate": tls.certificate,
        "private_key": tls.private_key,
        "client_authority": tls.authority,
    }
    serving = {"tls": files, "token": {"enabled": True, "key_file": str(folder / "key_file.json")}}
    config = folder / "global_config.yaml"
    config.write_text(json.dumps({"serving": serving}))
    (folder / "handler.py").write_text(NOOP)
    archive = ["archive", "--model-name", "noop", "--version", "1.0", "--handler", str(folder / "handler.py")]
    subprocess.run([sys.executable, "-m", "satrap.cli", *archive, "--export-path", str(store)], check=True)
    command = satrap_module(
        "serving", "--global-config", config, "--model-store", store, "--models", "noop.mar",
        "--grpc-inference-port", "0", "--grpc-management-port", "0",
    )  # fmt: skip
    return Secured(command.addresses, folder / "key_file.json", tls)


@pytest.fixture
def strangers(certificates) -> list[Tls | None]:
    """Without TLS, without a certificate, with one of another authority."""
    ours, theirs = certificates.ours, certificates.strangers
    return [None, certificates.only_authority, Tls(theirs.certificate, theirs.private_key, ours.authority)]


def test_grpc_for_those_who_have_both(secured):
    with InferenceClient(
        secured.addresses[0], metadata=secured.header("inference"), tls=secured.tls
    ) as client:
        assert client.ping() == "Healthy"
        assert client.predict("noop", {"data": b"x"}) == b"one"
    with ManagementClient(
        secured.addresses[1], metadata=secured.header("management"), tls=secured.tls
    ) as client:
        assert [entry.name for entry in client.list_models().models] == ["noop"]


def test_grpc_without_the_right_token(secured):
    for metadata in (None, secured.header("management"), {"authorization": "Bearer wrong"}):
        with InferenceClient(secured.addresses[0], metadata=metadata, tls=secured.tls) as client:
            for call in (client.ping, lambda client=client: client.predict("noop", {"data": b"x"})):
                with pytest.raises(RemoteError) as caught:
                    call()
                assert caught.value.status is grpc.StatusCode.PERMISSION_DENIED
    with (
        ManagementClient(
            secured.addresses[1], metadata=secured.header("inference"), tls=secured.tls
        ) as client,
        pytest.raises(RemoteError, match="Token Authorization failed"),
    ):
        client.list_models()


def test_grpc_for_strangers(secured, strangers):
    for tls in strangers:
        with (
            InferenceClient(
                secured.addresses[0], metadata=secured.header("inference"), tls=tls, timeout=5, retry=NO_RETRY
            ) as client,
            pytest.raises(UnavailableError),
        ):
            client.ping()


def test_rest_for_those_who_have_both(secured):
    with secured.browser() as browser:
        answer = browser.post(
            secured.url(2, "/predictions/noop"), content=b"x", headers=secured.header("inference")
        )
        assert (answer.status_code, answer.content) == (200, b"one")
        answer = browser.get(secured.url(3, "/models"), headers=secured.header("management"))
        assert answer.json()["models"][0]["modelName"] == "noop"
        assert browser.get(secured.url(4, "/metrics")).status_code == 200, "Prometheus has no token"


@pytest.mark.parametrize(
    ("place", "method", "path"),
    [
        (2, "GET", "/ping"),
        (2, "POST", "/predictions/noop"),
        (2, "GET", "/no/such/path"),
        (3, "GET", "/models"),
        (3, "GET", "/models/noop"),
        (3, "POST", "/models?url=noop.mar"),
        (3, "DELETE", "/models/noop"),
        (3, "GET", "/no/such/path"),
        (3, "GET", "/token?type=inference"),
    ],
)
def test_rest_without_the_right_token(secured, place, method, path):
    other = "management" if place == 2 else "inference"
    with secured.browser() as browser:
        for headers in (
            {},
            secured.header(other),
            {"authorization": "Bearer wrong"},
            {"authorization": "wrong"},
        ):
            answer = browser.request(method, secured.url(place, path), headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")


def test_a_token_in_another_place_than_the_path_is_no_way_around(secured):
    """TorchServe takes any request that has `/token` anywhere for one that asks for a new key."""
    with secured.browser() as browser:
        for path, headers in (("/models?x=/token", {}), ("/models", {"x": "/token"}), ("/models/token", {})):
            headers = {**headers, **secured.header("API")}
            answer = browser.get(secured.url(3, path), headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")


def test_rest_for_strangers(secured, strangers):
    for tls in strangers:
        if tls is None:
            with httpx.Client(trust_env=False) as browser, pytest.raises(httpx.HTTPError):
                browser.get(secured.url(2, "/ping", "http"), headers=secured.header("inference"))
            continue
        for place, path in ((2, "/ping"), (3, "/models"), (4, "/metrics")):
            with secured.browser(tls) as browser, pytest.raises(httpx.HTTPError):
                browser.get(secured.url(place, path))


def test_a_new_key_takes_the_place_of_the_old_one_everywhere(secured):
    old = secured.header("inference")
    with secured.browser() as browser:
        answer = browser.get(secured.url(3, "/token?type=inference"), headers=secured.header("API"))
        assert answer.status_code == 200
        new = secured.header("inference")
        assert new != old
        assert browser.get(secured.url(2, "/ping"), headers=old).status_code == 400
        assert browser.get(secured.url(2, "/ping"), headers=new).status_code == 200
    with (
        InferenceClient(secured.addresses[0], metadata=old, tls=secured.tls) as client,
        pytest.raises(RemoteError),
    ):
        client.ping()
    with InferenceClient(secured.addresses[0], metadata=new, tls=secured.tls) as client:
        assert client.ping() == "Healthy"


def test_the_commands(secured, tmp_path):
    """`satrap models` and `satrap bench` with --tls and --token."""
    files = f"{secured.tls.authority},{secured.tls.certificate},{secured.tls.private_key}"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "satrap.cli", *words, "--tls", files],
            capture_output=True,
            text=True,
            timeout=60,
        )

    token = secured.header("management")["authorization"].removeprefix("Bearer ")
    listed = run("models", "list", "--address", secured.addresses[1], "--token", token)
    assert "noop" in listed.stdout, listed.stderr
    (tmp_path / "data").write_bytes(b"x")
    token = secured.header("inference")["authorization"].removeprefix("Bearer ")
    for url in (f"grpc://{secured.addresses[0]}", f"https://{secured.addresses[2]}"):
        flags = ("--model", "noop", "--data", str(tmp_path / "data"), "--seconds", "0.2", "--warmup", "0")
        loaded = run("bench", url, *flags, "--token", token, "--json", "-")
        assert loaded.returncode == 0, loaded.stdout + loaded.stderr
    wrong = run("bench", f"grpc://{secured.addresses[0]}", *flags, "--token", "wrong", "--json", "-")
    assert wrong.returncode == 1


def test_files_that_a_client_cannot_use():
    with pytest.raises(InvalidInputError, match="cannot be read"):
        InferenceClient("127.0.0.1:1", tls=Tls(authority="/nowhere/ca.pem"))
