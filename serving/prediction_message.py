"""`PredictionsRequest` without copies of its inputs: protobuf copies them twice before a handler's worker has them.

What the parser here does not expect (fields of other types or numbers, keys behind their values, broken bytes) is left
to protobuf, so the two never differ in what they accept or mean.
"""

from collections.abc import Mapping

from satrap.protos import inference_pb2
from satrap.serving.frames import Bytes

__all__ = ["PredictionMessage", "parse_request"]

_MODEL_NAME, _MODEL_VERSION, _INPUT, _SEQUENCE_ID = 0x0A, 0x12, 0x1A, 0x22
"""Tags: number times 8, and 2 for bytes with their length before them."""
_ENTRY_KEY, _ENTRY_VALUE = 0x0A, 0x12


class PredictionMessage:
    """The fields of a `PredictionsRequest`; the inputs are views of the bytes that it was parsed from."""

    __slots__ = ("input", "model_name", "model_version", "sequence_id")

    def __init__(
        self, model_name: str, model_version: str, inputs: Mapping[str, Bytes], sequence_id: str | None
    ) -> None:
        """None: the request has no sequence id."""
        self.model_name, self.model_version, self.input = model_name, model_version, inputs
        self.sequence_id = sequence_id

    def HasField(self, name: str) -> bool:  # noqa: N802 (protobuf's name)
        """Whether the optional field is there."""
        return name == "sequence_id" and self.sequence_id is not None


class _UnexpectedError(Exception):
    pass


def parse_request(data: Bytes) -> PredictionMessage | inference_pb2.PredictionsRequest:
    """Parse the bytes of one request, which must not change as long as its inputs are used.

    Raises:
        google.protobuf.message.DecodeError: they are none.
    """
    try:
        return _parse(memoryview(data))
    except (_UnexpectedError, IndexError, UnicodeDecodeError):
        return inference_pb2.PredictionsRequest.FromString(bytes(data))


def _parse(view: memoryview) -> PredictionMessage:
    model_name = model_version = ""
    sequence_id: str | None = None
    inputs: dict[str, Bytes] = {}
    position = 0
    while position < len(view):
        tag = view[position]
        value, position = _delimited(view, position + 1)
        if tag == _MODEL_NAME:
            model_name = str(value, "utf-8")
        elif tag == _INPUT:
            if value[0] != _ENTRY_KEY:
                raise _UnexpectedError
            key, middle = _delimited(value, 1)
            if value[middle] != _ENTRY_VALUE:
                raise _UnexpectedError
            content, end = _delimited(value, middle + 1)
            if end != len(value):
                raise _UnexpectedError
            inputs[str(key, "utf-8")] = content
        elif tag == _MODEL_VERSION:
            model_version = str(value, "utf-8")
        elif tag == _SEQUENCE_ID:
            sequence_id = str(value, "utf-8")
        else:
            raise _UnexpectedError
    return PredictionMessage(model_name, model_version, inputs, sequence_id)


def _delimited(view: memoryview, position: int) -> tuple[memoryview, int]:
    """The bytes behind a length, and where they end."""
    length = view[position]
    position += 1
    if length >= 0x80:
        shift, length = 7, length & 0x7F
        while True:
            byte = view[position]
            position += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 28:
                raise _UnexpectedError
    end = position + length
    if end > len(view):
        raise _UnexpectedError
    return view[position:end], end
