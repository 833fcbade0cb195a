"""PKCS12 keystores: made here, and by keytool of Java 17 (tests/data/keystores)."""

import shutil
import socket
import ssl
import threading
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    NoEncryption,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_certificates

from satrap import rpc
from satrap.errors import InvalidInputError
from satrap.keystore import read_keystore
from satrap.tls import Tls

BY_KEYTOOL = Path(__file__).parent / "data" / "keystores"
PASSWORD = "pässword "


@pytest.fixture
def keystore(tmp_path, certificates):
    """Makes one of our certificate and key; either may be left out."""

    def make(*, with_key: bool = True, with_certificate: bool = True, password: str = PASSWORD) -> Path:
        certificate = load_pem_x509_certificate(Path(certificates.ours.certificate).read_bytes())
        authority = load_pem_x509_certificate(Path(certificates.ours.authority).read_bytes())
        key = load_pem_private_key(Path(certificates.ours.private_key).read_bytes(), None)
        path = tmp_path / "keystore.p12"
        path.write_bytes(
            pkcs12.serialize_key_and_certificates(
                b"ts",
                key if with_key else None,
                certificate if with_certificate else None,
                [authority] if with_certificate else None,
                BestAvailableEncryption(password.encode()) if password else NoEncryption(),
            )
        )
        return path

    return make


def names(pem: bytes) -> list[str]:
    return [each.subject.rfc4514_string() for each in load_pem_x509_certificates(pem)]


@pytest.mark.parametrize("password", [PASSWORD, ""])
def test_key_and_chain(keystore, certificates, password):
    pair = read_keystore(keystore(password=password), password)
    ours = Path(certificates.ours.certificate).read_bytes() + Path(certificates.ours.authority).read_bytes()
    assert names(pair.certificate) == names(ours)
    key = load_pem_private_key(Path(certificates.ours.private_key).read_bytes(), None)
    assert load_pem_private_key(pair.private_key, None).private_numbers() == key.private_numbers()
    assert "PRIVATE" not in repr(pair)


def test_of_keytools_certificates_those_that_vouch_for_the_key():
    """The file also has certificates of its own accord, and a second key."""
    pair = read_keystore(BY_KEYTOOL / "java17.p12", "changeit")
    assert names(pair.certificate) == ["CN=localhost", "CN=mid", "CN=root"]


def test_keytools_older_encryption():
    assert names(read_keystore(BY_KEYTOOL / "java8.p12", "changeit").certificate) == ["CN=localhost"]


def test_java_own_format_is_refused_with_the_way_out():
    with pytest.raises(InvalidInputError, match="is a JKS file") as caught:
        read_keystore(BY_KEYTOOL / "java.jks", "changeit")
    path = BY_KEYTOOL / "java.jks"
    line = f"keytool -importkeystore -srckeystore {path} -destkeystore {path}.p12 -deststoretype PKCS12"
    assert line in str(caught.value)


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_names_its_key(keystore, password):
    with pytest.raises(InvalidInputError, match="keystore_pass in config") as caught:
        read_keystore(keystore(), password)
    assert "keystore.p12" in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_no_key():
    with pytest.raises(InvalidInputError, match=r"trusted\.p12: there is no private key"):
        read_keystore(BY_KEYTOOL / "trusted.p12", "changeit")


def test_no_certificate(keystore):
    with pytest.raises(InvalidInputError, match=r"keystore\.p12: there is no certificate"):
        read_keystore(keystore(with_certificate=False), PASSWORD)


@pytest.mark.parametrize("content", [b"", b"text", b"-----BEGIN CERTIFICATE-----\n"])
def test_no_keystore(tmp_path, content):
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(InvalidInputError, match="is no PKCS12 file"):
        read_keystore(tmp_path / "k", "")


def test_part_of_a_keystore(keystore):
    path = keystore()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InvalidInputError, match="or the file is damaged"):
        read_keystore(path, PASSWORD)


def test_no_file(tmp_path):
    with pytest.raises(InvalidInputError, match="keystore /nowhere/k cannot be read"):
        Tls(keystore="/nowhere/k").check()
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Tls(keystore=str(tmp_path)).check()


def test_the_password_is_not_shown():
    assert "secret" not in repr(Tls(keystore="k", keystore_password="secret"))


def test_a_context_for_uvicorn(keystore, certificates):
    """A whole handshake, and no file that anybody could read."""
    path = keystore()
    server = Tls(keystore=str(path), keystore_password=PASSWORD).server_context()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    client = ssl.create_default_context(cafile=certificates.ours.authority)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as wrapped:
            wrapped.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours, server_hostname="127.0.0.1") as wrapped:
        assert wrapped.recv(5) == b"hello"
    thread.join()


def test_by_grpc(keystore, certificates):
    class Echo(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

    server = rpc.server(threads=1)
    server.add_generic_rpc_handlers((Echo(),))
    port = rpc.listen(server, "127.0.0.1:0", Tls(keystore=str(keystore()), keystore_password=PASSWORD))
    server.start()
    try:
        with rpc.channel(f"127.0.0.1:{port}", tls=certificates.only_authority) as channel:
            assert channel.unary_unary("/a.B/C")(b"hello", timeout=20, wait_for_ready=True) == b"hello"
    finally:
        server.stop(None).wait()


def test_a_keystore_of_java_by_grpc(tmp_path):
    """keytool's own, an elliptic key with a chain of three."""
    path = shutil.copy(BY_KEYTOOL / "java17.p12", tmp_path)
    rpc.server_credentials(Tls(keystore=str(path), keystore_password="changeit"))
