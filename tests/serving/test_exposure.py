"""Who may reach a serving process."""

import dataclasses
from pathlib import Path

import pytest
import trustme

from satrap.config.global_config import ServingConfig
from satrap.errors import InvalidInputError
from satrap.serving.exposure import asks_for_tokens, by_reach, check_exposure, serving_tls
from satrap.serving.listening import Address, Listening

APIS = ("grpc_inference", "grpc_management", "rest_inference", "rest_management", "metrics")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("server", "other"):
        made = authority.issue_cert("127.0.0.1")
        made.private_key_pem.write_to_path(folder / f"{name}-key.pem")
        for pem in made.cert_chain_pems:
            pem.write_to_path(folder / f"{name}.pem", append=True)
    (folder / "text").write_text("no certificate")
    return {path.name: str(path) for path in folder.iterdir()}


def configured(files, *, enabled: bool | None = None, authority: str = "") -> ServingConfig:
    return ServingConfig.model_validate(
        {
            "token": {"enabled": enabled},
            "tls": {
                "certificate": files["server.pem"],
                "private_key": files["server-key.pem"],
                "client_authority": authority,
            },
        }
    )


def beyond(api: str, host: str = "0.0.0.0", *, tls: bool = False) -> Listening:
    return dataclasses.replace(Listening(), **{api: Address(host, 1, tls)})


def test_on_loopback_nothing_is_asked_for():
    config = ServingConfig()
    check_exposure(config, Listening(), insecure=False, remedy="")
    assert not asks_for_tokens(config, Listening(), insecure=False)
    assert asks_for_tokens(
        ServingConfig.model_validate({"token": {"enabled": True}}), Listening(), insecure=False
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "some.host"])
@pytest.mark.parametrize("api", APIS)
def test_beyond_loopback_every_api_needs_tls(files, api, host):
    with pytest.raises(InvalidInputError, match=r"without TLS.*or do the one thing"):
        check_exposure(configured(files), beyond(api, host), insecure=False, remedy="do the one thing")
    check_exposure(configured(files), beyond(api, host), insecure=True, remedy="")
    check_exposure(configured(files), beyond(api, host, tls=True), insecure=False, remedy="")


@pytest.mark.parametrize("api", APIS)
def test_beyond_loopback_calls_need_a_token_or_a_client_certificate(files, api):
    everybody = configured(files, enabled=False)
    if api == "metrics":  # as in TorchServe: Prometheus has no token
        check_exposure(everybody, beyond(api, tls=True), insecure=False, remedy="")
        return
    with pytest.raises(InvalidInputError, match=r"to anybody.*or do the one thing"):
        check_exposure(everybody, beyond(api, tls=True), insecure=False, remedy="do the one thing")
    check_exposure(everybody, beyond(api, tls=True), insecure=True, remedy="")
    known = configured(files, enabled=False, authority=files["ca.pem"])
    check_exposure(known, beyond(api, tls=True), insecure=False, remedy="")


def test_a_unix_socket_is_as_local_as_loopback():
    config = ServingConfig()
    listening = dataclasses.replace(Listening(), rest_inference=Address(socket_path="/run/satrap.sock"))
    check_exposure(config, listening, insecure=False, remedy="")
    assert not asks_for_tokens(config, listening, insecure=False)
    assert by_reach(config, listening, model_api_said=False).model_api


@pytest.mark.parametrize("api", APIS)
def test_tokens_are_on_beyond_loopback_unless_it_is_said_otherwise(files, api):
    assert asks_for_tokens(configured(files), beyond(api, tls=True), insecure=False)
    assert not asks_for_tokens(configured(files), beyond(api, tls=True), insecure=True)
    assert asks_for_tokens(configured(files, enabled=True), beyond(api), insecure=True)
    assert not asks_for_tokens(configured(files, enabled=False), beyond(api, tls=True), insecure=False)


def test_tls_without_a_certificate_is_refused_on_loopback_too():
    with pytest.raises(
        InvalidInputError, match=r"REST management API on 127\.0\.0\.1:1 .* there is no certificate"
    ):
        check_exposure(
            ServingConfig(), beyond("rest_management", "127.0.0.1", tls=True), insecure=True, remedy=""
        )


def test_apis_that_share_an_address_are_both_served_by_tls_or_neither(files):
    shared = {"rest_inference": Address(port=1), "rest_management": Address(port=1, tls=True)}
    with pytest.raises(
        InvalidInputError, match=r"REST inference and REST management APIs share 127\.0\.0\.1:1"
    ):
        check_exposure(
            configured(files), dataclasses.replace(Listening(), **shared), insecure=False, remedy=""
        )
    both = dataclasses.replace(Listening(), **dict.fromkeys(shared, Address(port=1, tls=True)))
    check_exposure(configured(files), both, insecure=False, remedy="")
    apart = {name: dataclasses.replace(address, port=0) for name, address in shared.items()}
    check_exposure(configured(files), dataclasses.replace(Listening(), **apart), insecure=False, remedy="")


@pytest.mark.parametrize(
    ("certificate", "key", "authority", "words"),
    [
        ("absent", "server-key.pem", "", "cannot be read"),
        ("server.pem", "absent", "", "cannot be read"),
        ("server.pem", "server-key.pem", "absent", "cannot be read"),
        ("server.pem", "other-key.pem", "", "do not go together"),
        ("text", "server-key.pem", "", "do not go together"),
        ("server.pem", "text", "", "do not go together"),
        ("server.pem", "server-key.pem", "text", "has no certificate of an authority"),
    ],
)
def test_files_that_cannot_be_used_are_named(files, certificate, key, authority, words):
    names = {"certificate": certificate, "private_key": key, "client_authority": authority}
    tls = {name: files.get(file, f"/nowhere/{file}") if file else "" for name, file in names.items()}
    with pytest.raises(InvalidInputError, match=words) as caught:
        check_exposure(ServingConfig.model_validate({"tls": tls}), Listening(), insecure=False, remedy="")
    assert any(path in str(caught.value) for path in tls.values() if path)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(files, tmp_path):
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(Path(files["server-key.pem"]).read_bytes(), None)
    locked = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.pem").write_bytes(locked)
    tls = {"certificate": files["server.pem"], "private_key": str(tmp_path / "locked.pem")}
    with pytest.raises(InvalidInputError, match="without a password"):
        check_exposure(ServingConfig.model_validate({"tls": tls}), Listening(), insecure=False, remedy="")


def test_clients_are_asked_for_a_certificate_where_an_authority_is_named(files):
    assert serving_tls(ServingConfig().tls) is None
    asked = serving_tls(configured(files, authority=files["ca.pem"]).tls)
    open_to_all = serving_tls(configured(files).tls)
    assert asked is not None
    assert open_to_all is not None
    assert asked.server_context().verify_mode.name == "CERT_REQUIRED"
    assert open_to_all.server_context().verify_mode.name == "CERT_NONE"
