"""Who we are to our peers and whom we believe: certificates in PEM files.

Nothing is kept open and nothing is read before it is asked for, so a value can travel through settings.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from satrap.errors import InvalidInputError

__all__ = ["Tls"]


@dataclass(frozen=True)
class Tls:
    """The PEM files of one end of TLS; an empty path is none.

    Attributes:
        certificate: our certificate, with the intermediate ones behind it. A server has one; a client has one if its
            servers ask for it.
        private_key: the key of `certificate`, without a password.
        authority: who signs our peers' certificates. A server with one refuses clients that show no certificate of
            it; a client without one believes the authorities that gRPC brings along.
    """

    certificate: str = ""
    private_key: str = ""
    authority: str = ""

    def check(self) -> None:
        """Read the files once.

        Raises:
            InvalidInputError: a file is not there, is no PEM, or the key is not the certificate's.
        """
        for path in filter(None, (self.certificate, self.private_key, self.authority)):
            _read(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.certificate:
            try:
                # Without a callback OpenSSL asks the terminal for the password of a key that has one.
                context.load_cert_chain(self.certificate, self.private_key or None, password=lambda: "")
            except (OSError, ValueError) as error:
                raise InvalidInputError(
                    f"TLS: {self.certificate} and {self.private_key or 'no private key'} do not go together: {error}. "
                    "Both must be PEM, the key that of the certificate, and without a password"
                ) from error
        if self.authority:
            try:
                context.load_verify_locations(self.authority)
            except (OSError, ValueError) as error:
                raise InvalidInputError(
                    f"TLS: {self.authority} has no certificate of an authority: {error}"
                ) from error

    def certificate_bytes(self) -> bytes | None:
        """The content of `certificate`; None without one. Raises InvalidInputError if it cannot be read."""
        return _read(self.certificate) if self.certificate else None

    def private_key_bytes(self) -> bytes | None:
        """The content of `private_key`; None without one. Raises InvalidInputError if it cannot be read."""
        return _read(self.private_key) if self.private_key else None

    def authority_bytes(self) -> bytes | None:
        """The content of `authority`; None without one. Raises InvalidInputError if it cannot be read."""
        return _read(self.authority) if self.authority else None


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"TLS: {path} cannot be read: {error.strerror or error}") from error
