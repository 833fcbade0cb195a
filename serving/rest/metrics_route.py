"""`GET /metrics`: Prometheus' text."""

from collections.abc import Callable, Sequence

from satrap.serving.rest.request import RestRequest
from satrap.serving.rest.response import RestResponse

__all__ = ["MetricsRoutes", "Render"]

Render = Callable[[Sequence[str]], bytes]
"""The registry as text; names, if there are any, say which metrics are wanted."""

_TEXT = ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)


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
