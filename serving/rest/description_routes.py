"""`OPTIONS /` and `/api-description`: an address says in OpenAPI what is served there."""

from collections.abc import Mapping
from typing import Any

from satrap.errors import MethodNotAllowedError
from satrap.serving.rest.openapi import api_document
from satrap.serving.rest.request import RestRequest
from satrap.serving.rest.response import RestResponse, document

__all__ = ["DescriptionRoutes"]


class DescriptionRoutes:
    """`OPTIONS /`, and `/api-description` by any method."""

    def __init__(self, paths: Mapping[str, Any], version: str) -> None:
        """Describe these paths of a server of that version."""
        self._document = api_document("satrap: TorchServe's APIs", version, paths)

    async def answer(self, request: RestRequest) -> RestResponse | None:
        """Part of `Routes`."""
        match request.segments:
            case ["", "api-description"]:
                return document(self._document)
            case [] if request.method == "OPTIONS" and request.path == "/":
                return document(self._document)
            case []:
                raise MethodNotAllowedError
            case _:
                return None
