"""What a caller asks of a model, whatever the API that it came by."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from satrap.serving.frames import Bytes
from satrap.serving.headers import DESCRIBE_HEADER

__all__ = ["Protocol", "Query"]

Protocol = Literal["grpc", "rest"]
"""The API that a query came by."""


class Query(NamedTuple):
    """One question, made by the API's face once and passed on as it is.

    Attributes:
        model: its name.
        version: the version that the caller named; empty: none, and the model's default answers.
        inputs: bytes by name.
        patience: seconds that the caller will wait; None: for ever.
        request_id: what the handler sees as the request's id; empty: one is made up.
        content_types: of inputs, by name: the worker decodes by them. One that is not named has none.
        headers: the request's own, by name.
        protocol: the API that it came by.
    """

    model: str
    version: str
    inputs: Mapping[str, Bytes]
    patience: float | None = None
    request_id: str = ""
    content_types: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    protocol: Protocol = "grpc"

    @property
    def is_description(self) -> bool:
        """DescribeModel asks: it is no prediction, and alone in its batch."""
        return self.headers is not None and DESCRIBE_HEADER in self.headers
