"""`GET /metrics`: Prometheus' text, and how OpenAPI describes it."""

from collections.abc import Callable, Sequence

from satrap.serving.rest.openapi import Json, operation
from satrap.serving.rest.request import RestRequest
from satrap.serving.rest.response import RestResponse

__all__ = ["MetricsRoutes", "Render", "describe_metrics"]

Render = Callable[[Sequence[str]], bytes]
"""The registry as text; names, if there are any, say which metrics are wanted."""

_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TEXT = ((b"content-type", _MEDIA_TYPE.encode()),)


class MetricsRoutes:
    """The metrics, all or by `name[]`."""

    def __init__(self, render: Render) -> None:
        """`render` makes the text."""
        self._render = render

    async def answer(self, request: RestRequest) -> RestResponse | None:
        """Part of `Routes`. As in TorchServe any method will do."""
        match request.segments:
            case ["", "metrics", *_]:
                return RestResponse(200, self._render(request.parameters.get("name[]", ())), _TEXT)
            case _:
                return None


def describe_metrics() -> Json:
    """The path of the metrics."""
    wanted = {"type": "array", "items": {"type": "string"}}
    return {
        "/metrics": {
            "get": operation(
                "metrics",
                "Prometheus' text.",
                parameters=[
                    {
                        "in": "query",
                        "name": "name[]",
                        "description": "Only metrics of these names.",
                        "schema": wanted,
                    }
                ],
                content={_MEDIA_TYPE: {"schema": {"type": "string"}}},
            )
        }
    }
