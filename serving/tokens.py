"""Token authorization as TorchServe's: three keys in a file that only its owner reads.

A caller of the inference or the management API shows that API's key, `Authorization: Bearer KEY`, which is good for
some minutes. The third key, `API`, makes a new key of one of the two; it does not expire.

    {"management": {"key": ..., "expiration time": "2026-11-21T12:00:00Z"},
     "inference": {"key": ..., "expiration time": ...},
     "API": {"key": ...}}

The keys are new with every start. TorchServe's have 48 random bits, these 192.
"""

import hmac
import json
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from satrap.errors import InvalidInputError, InvalidTokenError

__all__ = ["Api", "Keys", "TokenAuthorization"]

Api = Literal["inference", "management"]

log = logging.getLogger("satrap.serving")

_APIS: Mapping[str, Api] = {"inference": "inference", "management": "management"}
_KEY_BYTES = 24
_BEARER = re.compile(r"Bearer\s+(\S+)", re.ASCII)


def _new_key() -> str:
    return secrets.token_urlsafe(_KEY_BYTES)


@dataclass(frozen=True)
class Keys:
    """The keys at one moment; `*_expires` in unix seconds."""

    inference: str
    inference_expires: float
    management: str
    management_expires: float
    api: str

    def admits(self, api: Api, header: str | None, now: float) -> bool:
        """Whether a header `Bearer KEY` has the key of that API, and in time."""
        if api == "inference":
            return _same(header, self.inference) and now < self.inference_expires
        return _same(header, self.management) and now < self.management_expires

    def may_rotate(self, header: str | None) -> bool:
        """Whether a header has the key that makes new ones."""
        return _same(header, self.api)

    def rotated(self, api: Api, key: str, expires: float) -> "Keys":
        """The same with another key of that API."""
        if api == "inference":
            return replace(self, inference=key, inference_expires=expires)
        return replace(self, management=key, management_expires=expires)

    def document(self) -> str:
        """The key file's text."""
        return json.dumps(
            {
                "management": {"key": self.management, "expiration time": _instant(self.management_expires)},
                "inference": {"key": self.inference, "expiration time": _instant(self.inference_expires)},
                "API": {"key": self.api},
            },
            indent=2,
        )


def _same(header: str | None, key: str) -> bool:
    found = _BEARER.fullmatch(header or "")
    # In constant time: how long it takes tells nobody how much of a guess was right.
    return found is not None and hmac.compare_digest(found[1].encode(), key.encode())


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TokenAuthorization:
    """The keys of one server and their file. Thread-safe: checks read one value, a lock orders rotations."""

    def __init__(
        self,
        key_file: Path,
        expiration_minutes: float = 60,
        *,
        is_required: bool = True,
        now: Callable[[], float] = time.time,
        new_key: Callable[[], str] = _new_key,
    ) -> None:
        """Make keys; `open` writes them. Not required, keys are there for who sends them, and every call passes."""
        self.key_file = key_file.absolute()
        self._is_required = is_required
        self._seconds = expiration_minutes * 60
        self._now = now
        self._new_key = new_key
        self._lock = threading.Lock()
        expires = now() + self._seconds
        self._keys = Keys(new_key(), expires, new_key(), expires, new_key())

    @property
    def keys(self) -> Keys:
        """The keys that are good at the moment."""
        return self._keys

    def open(self) -> None:
        """Write the key file, in place of one that an earlier server left.

        Raises:
            InvalidInputError: it cannot be written, and calls need its keys.
        """
        try:
            self._write(self._keys)
        except InvalidInputError as error:
            if self._is_required:
                raise
            log.warning("no keys for clients that send one: %s", error)
            return
        need = "need" if self._is_required else "may have"
        log.info("calls %s a token: the keys are in %s", need, self.key_file)

    def close(self) -> None:
        """Remove the key file, unless another server has written its own there meanwhile."""
        try:
            if self.key_file.read_text() == self._keys.document():
                self.key_file.unlink()
        except FileNotFoundError:
            return

    def check(self, api: Api, header: str | None) -> None:
        """Let a call pass whose header `authorization` has the key of its API.

        Raises:
            InvalidTokenError: no header, a wrong key, or one that is no longer good, where keys are required.
        """
        if self._is_required and not self._keys.admits(api, header, self._now()):
            raise InvalidTokenError

    def rotate(self, api: str | None, header: str | None) -> None:
        """Make a new key of `api`, as `GET /token?type=...` asks for; the old one is dead at once.

        Raises:
            InvalidTokenError: the header has not the key `API`, or `api` is neither `inference` nor `management`.
            InvalidInputError: the key file cannot be written; the old key stays good.
        """
        kind = _APIS.get(api or "")
        if kind is None or not self._keys.may_rotate(header):
            raise InvalidTokenError
        with self._lock:
            keys = self._keys.rotated(kind, self._new_key(), self._now() + self._seconds)
            self._write(keys)
            self._keys = keys

    def _write(self, keys: Keys) -> None:
        """Publish by renaming: nobody sees half a file, and none is ever readable for others."""
        folder = self.key_file.parent
        try:
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=f".{self.key_file.name}-")  # mode 600
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(keys.document())
                Path(name).replace(self.key_file)
            except BaseException:
                Path(name).unlink()
                raise
        except OSError as error:
            raise InvalidInputError(
                f"the key file {self.key_file} cannot be written: {error.strerror or error}. Start in a folder where "
                "it can be, name another as serving.token.key_file, or start with --disable-token-auth on a "
                "loopback address"
            ) from error
