"""Java's keystores: private key and certificates of a PKCS12 file, as PEM.

PKCS12 is what keytool writes since Java 9. The formats before it are Java's own; the error says how keytool turns one
into the other.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from satrap.errors import InvalidInputError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["KeyPair", "read_keystore", "to_pkcs12"]

_VERSION = b"\x02\x01\x03"
"""A PKCS12 file is a sequence, whose length is 1 to 5 bytes, that begins with the number 3."""

_JAVAS_OWN = {b"\xfe\xed\xfe\xed": "JKS", b"\xce\xce\xce\xce": "JCEKS"}


@dataclass(frozen=True)
class KeyPair:
    """A certificate with those that vouch for it behind it, and its key without a password; both PEM."""

    certificate: bytes
    private_key: bytes = field(repr=False)


def read_keystore(path: Path, password: str) -> KeyPair:
    """The key of a keystore, and its certificates up to the last that is there.

    Raises:
        InvalidInputError: the file cannot be read, is no PKCS12 file, is not opened by the password, or has no key or
            no certificate of it.
    """
    # Here, because only who has a keystore needs it.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        pkcs12,
    )

    content = _content(path)
    try:
        found = pkcs12.load_pkcs12(content, password.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(
            f"keystore {path}: the password (keystore_pass in config.properties, serving.tls.keystore_password in "
            f"global_config.yaml) does not open it, or the file is damaged: {error}"
        ) from error
    if found.key is None:
        raise InvalidInputError(
            f"keystore {path}: there is no private key in it, only certificates; make one by keytool -genkeypair, or "
            "name another keystore"
        )
    if found.cert is None:
        raise InvalidInputError(
            f"keystore {path}: there is no certificate of its private key in it; import the chain by keytool "
            "-importcert, or name another keystore"
        )
    certificates = _chain(found.cert.certificate, [each.certificate for each in found.additional_certs])
    return KeyPair(
        b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates),
        found.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def to_pkcs12(path: Path | str) -> str:
    """The command line that makes a PKCS12 file of another keystore."""
    return f"keytool -importkeystore -srckeystore {path} -destkeystore {path}.p12 -deststoretype PKCS12"


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"keystore {path} cannot be read: {error.strerror or error}") from error
    if (kind := _JAVAS_OWN.get(content[:4])) is not None:
        raise InvalidInputError(
            f"keystore {path} is a {kind} file, and only PKCS12 is read. Make one of it: {to_pkcs12(path)}; then name "
            f"{path}.p12"
        )
    if _VERSION not in content[:9]:
        raise InvalidInputError(f"keystore {path} is no PKCS12 file, nor another keystore of Java's")
    return content


def _chain(first: "Certificate", others: "list[Certificate]") -> "list[Certificate]":
    """`first`, who issued it, and so on; a keystore may hold certificates that have nothing to do with it."""
    chain = [first]
    while True:
        issuers = (each for each in others if each.subject == chain[-1].issuer and each not in chain)
        issuer = next(issuers, None)
        if issuer is None:
            return chain
        chain.append(issuer)
