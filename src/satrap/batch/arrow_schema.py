"""What the schema of an Arrow batch says beyond names and types: which column is what, and the batch's own facts.

What a key may hold is in docs/batch-format.md; all of them are optional.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from satrap.errors import BatchDecodeError

__all__ = ["ArrowFacts", "Role"]

Role = Literal["id", "dense", "label"]

_VERSION = b"1"
_VERSION_KEY = b"satrap.batch"
_ROLES_KEY = b"satrap.roles"
_META_KEY = b"satrap.meta"
_REQUIRES_GRAD_KEY = b"satrap.requires_grad"
_BATCH_ID_KEY = b"satrap.batch_id"
_NUMBER = re.compile(rb"[0-9]{1,20}")
_FLAGS = {b"true": True, b"false": False}


@dataclass(frozen=True)
class ArrowFacts:
    """A schema's metadata. `roles` None: lists are ids, everything else is dense."""

    roles: Sequence[Role] | None = None
    meta: bytes | None = None
    requires_grad: bool = False
    batch_id: int | None = None

    @classmethod
    def parse(cls, metadata: Mapping[bytes, bytes], columns: int) -> "ArrowFacts":
        """Read the metadata of a schema with that many columns; other keys are ignored.

        Raises:
            BatchDecodeError: a key has a value that it cannot have.
        """
        version = metadata.get(_VERSION_KEY, _VERSION)
        if version != _VERSION:
            raise _error(_VERSION_KEY, version, "this satrap reads version 1")
        flag = metadata.get(_REQUIRES_GRAD_KEY, b"false")
        if flag not in _FLAGS:
            raise _error(_REQUIRES_GRAD_KEY, flag, "it is true or false")
        number = metadata.get(_BATCH_ID_KEY)
        if number is not None and not (_NUMBER.fullmatch(number) and int(number) < 2**64):
            raise _error(_BATCH_ID_KEY, number, "it is a number below 2^64")
        return cls(
            _roles(metadata.get(_ROLES_KEY), columns),
            _meta(metadata.get(_META_KEY)),
            _FLAGS[flag],
            None if number is None else int(number),
        )

    def to_metadata(self) -> dict[bytes, bytes]:
        """The inverse of `parse`."""
        metadata = {_VERSION_KEY: _VERSION}
        if self.roles is not None:
            metadata[_ROLES_KEY] = json.dumps(list(self.roles)).encode()
        if self.meta is not None:
            metadata[_META_KEY] = base64.b64encode(self.meta)
        if self.requires_grad:
            metadata[_REQUIRES_GRAD_KEY] = b"true"
        if self.batch_id is not None:
            metadata[_BATCH_ID_KEY] = str(self.batch_id).encode()
        return metadata


def _roles(text: bytes | None, columns: int) -> Sequence[Role] | None:
    if text is None:
        return None
    try:
        roles = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _error(_ROLES_KEY, text, "it is a JSON list") from error
    if not isinstance(roles, list) or not all(isinstance(r, str) and r in get_args(Role) for r in roles):
        raise _error(_ROLES_KEY, text, f"it is a JSON list of {', '.join(get_args(Role))}")
    if len(roles) != columns:
        raise _error(_ROLES_KEY, text, f"it has {len(roles)} roles for {columns} columns")
    return roles


def _meta(text: bytes | None) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _error(_META_KEY, text, "it is not base64") from error


def _error(key: bytes, value: bytes, reason: str) -> BatchDecodeError:
    return BatchDecodeError(f"the schema's metadata has {key.decode()} = {value[:80]!r}: {reason}")
