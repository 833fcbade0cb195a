"""Forms taken apart into inputs of a prediction: `multipart/form-data` (`curl -F`) and urlencoded ones.

The whole body is in memory, within the limit of a request, and its parts stay there: no file is written.
"""

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.utils import collapse_rfc2231_value

import python_multipart.exceptions
from python_multipart.multipart import MultipartParser

from satrap.errors import InvalidInputError

__all__ = ["Inputs", "is_form", "parse_form"]

_MULTIPART = "multipart/form-data"
_URLENCODED = "application/x-www-form-urlencoded"
_MAX_PARTS = 1_000


@dataclass(slots=True)
class Inputs:
    """Bytes by name, and the content types of those that have one; of two of a name the later counts."""

    values: dict[str, bytes] = field(default_factory=dict)
    content_types: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: bytes, content_type: str = "") -> None:
        """Put one in."""
        self.values[name] = value
        if content_type:
            self.content_types[name] = content_type
        else:
            self.content_types.pop(name, None)


def is_form(content_type: str) -> bool:
    """Whether a body of that content type is a form."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in (_MULTIPART, _URLENCODED)


def parse_form(content_type: str, body: bytes, inputs: Inputs) -> None:
    """Add a form's fields and files to `inputs`.

    Raises:
        InvalidInputError: the body is not what the content type says.
    """
    if not body:
        return
    if content_type.lower().startswith(_MULTIPART):
        _Parts(_boundary(content_type), inputs).parse(body)
    else:
        text = body.decode("utf-8", "surrogateescape")
        try:
            pairs = urllib.parse.parse_qsl(
                text, keep_blank_values=True, max_num_fields=_MAX_PARTS, errors="surrogateescape"
            )
        except ValueError as error:
            raise InvalidInputError(f"the form has more than {_MAX_PARTS} fields") from error
        for name, value in pairs:
            inputs.add(name, value.encode("utf-8", "surrogateescape"))


def _boundary(content_type: str) -> str:
    boundary = _parameters(content_type).get("boundary", "")
    if not boundary:
        raise InvalidInputError(f"the form has no boundary: its content type is {content_type!r}")
    return boundary


def _parameters(value: str) -> Mapping[str, str]:
    """The parameters of a header like `form-data; name="a"`, by name in lower case.

    Raises:
        InvalidInputError: they are written as RFC 2231 says (`name*=utf-8''a`), and wrongly.
    """
    message = Message()
    message["content-type"] = value
    try:
        return {
            name.lower(): collapse_rfc2231_value(text)
            for name, text in message.get_params([], unquote=True)[1:]
        }
    except ValueError as error:
        raise InvalidInputError(f"the form's header {value!r} cannot be read: {error}") from error


class _Parts:
    """The parser's callbacks: one part after the other."""

    def __init__(self, boundary: str, inputs: Inputs) -> None:
        self._boundary, self._inputs = boundary, inputs
        self._count = 0
        self._ended = False
        self._begin()

    def parse(self, body: bytes) -> None:
        try:
            parser = MultipartParser(
                self._boundary.encode("latin-1"),
                {
                    "on_part_begin": self._begin,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_part_end,
                    "on_header_field": self._on_header_name,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_end": self._on_end,
                },
            )
            parser.write(body)
            parser.finalize()
        except (python_multipart.exceptions.FormParserError, UnicodeError) as error:
            raise InvalidInputError(f"the body is not a multipart form: {error}") from error
        if not self._ended:
            raise InvalidInputError("the multipart form has no end: its last boundary is missing")

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._name, self._value = b"", b""
        self._data: list[bytes] = []

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("utf-8", "replace")
        self._name, self._value = b"", b""

    def _on_part_end(self) -> None:
        self._count += 1
        if self._count > _MAX_PARTS:
            raise InvalidInputError(f"the form has more than {_MAX_PARTS} parts")
        disposition = _parameters(self._headers.get("content-disposition", ""))
        name = disposition.get("name")
        if name is None:
            raise InvalidInputError("a part of the form has no name in its Content-Disposition")
        # As in TorchServe a field that is no file has no content type: it reaches the handler as it is.
        content_type = self._headers.get("content-type", "") if "filename" in disposition else ""
        self._inputs.add(name, b"".join(self._data), content_type.partition(";")[0].strip())

    def _on_end(self) -> None:
        self._ended = True
