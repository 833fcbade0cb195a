"""Who we are to our peers and whom we believe: certificates in PEM files, or in a keystore.

Nothing is kept open and nothing is read before it is asked for, so a value can travel through settings.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from satrap.errors import InvalidInputError
from satrap.keystore import KeyPair, read_keystore

__all__ = ["Tls"]


@dataclass(frozen=True)
class Tls:
    """The files of one end of TLS; an empty path is none.

    Attributes:
        certificate: our certificate, with the intermediate ones behind it. A server has one; a client has one if its
            servers ask for it. PEM.
        private_key: the key of `certificate`, without a password. PEM.
        authority: who signs our peers' certificates. A server with one refuses clients that show no certificate of
            it; a client without one believes the authorities that gRPC brings along. PEM.
        keystore: a PKCS12 file with certificates and key, in place of `certificate` and `private_key`.
        keystore_password: what opens it.
    """

    certificate: str = ""
    private_key: str = ""
    authority: str = ""
    keystore: str = ""
    keystore_password: str = field(default="", repr=False)

    def check(self) -> None:
        """Read the files once.

        Raises:
            InvalidInputError: a file is not there, is no PEM or no keystore, or the key is not the certificate's.
        """
        self.server_context()

    def server_context(self) -> ssl.SSLContext:
        """What a server shows and asks for. Raises InvalidInputError as `check` does."""
        for path in filter(None, (self.certificate, self.private_key, self.authority)):
            _read(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.keystore:
            self._load_keystore(context)
        elif self.certificate:
            self._load_files(context)
        if self.authority:
            try:
                context.load_verify_locations(self.authority)
            except (OSError, ValueError) as error:
                raise InvalidInputError(
                    f"TLS: {self.authority} has no certificate of an authority: {error}"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def key_pair(self) -> KeyPair | None:
        """Certificate and key; None without one. Raises InvalidInputError if they cannot be read."""
        if self.keystore:
            return read_keystore(Path(self.keystore), self.keystore_password)
        if not self.certificate:
            return None
        return KeyPair(_read(self.certificate), _read(self.private_key) if self.private_key else b"")

    def authority_bytes(self) -> bytes | None:
        """The content of `authority`; None without one. Raises InvalidInputError if it cannot be read."""
        return _read(self.authority) if self.authority else None

    def _load_files(self, context: ssl.SSLContext) -> None:
        try:
            # Without a callback OpenSSL asks the terminal for the password of a key that has one.
            context.load_cert_chain(self.certificate, self.private_key or None, password=lambda: "")
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"TLS: {self.certificate} and {self.private_key or 'no private key'} do not go together: {error}. "
                "Both must be PEM, the key that of the certificate, and without a password"
            ) from error

    def _load_keystore(self, context: ssl.SSLContext) -> None:
        pair = read_keystore(Path(self.keystore), self.keystore_password)
        try:
            with _in_memory(pair.certificate + pair.private_key) as path:
                context.load_cert_chain(path)
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"keystore {self.keystore}: its certificate cannot be used by a server: {error}"
            ) from error


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path to `content` for this process alone: OpenSSL reads keys from files, and no disk is to have one."""
    descriptor = os.memfd_create("satrap", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"TLS: {path} cannot be read: {error.strerror or error}") from error
