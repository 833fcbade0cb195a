"""TorchServe's REST management API on top of the model service."""

from satrap.errors import MethodNotAllowedError, UnsupportedError
from satrap.serving.model_service import ModelService
from satrap.serving.outcome import Outcome
from satrap.serving.rest.management_description import describe_management_of
from satrap.serving.rest.parameters import boolean, number, register_parameters, warn_about_misspelled
from satrap.serving.rest.request import RestRequest
from satrap.serving.rest.response import RestResponse, document

__all__ = ["ManagementRoutes"]

_DEFAULT_LIMIT = 100


class ManagementRoutes:
    """Models registered, listed, described, scaled, made default and unregistered."""

    def __init__(self, service: ModelService, max_request_bytes: int) -> None:
        """Manage that service's models."""
        self._service, self._max_request_bytes = service, max_request_bytes

    async def answer(self, request: RestRequest) -> RestResponse | None:
        """Part of `Routes`. HEAD is answered like GET."""
        method = "GET" if request.method == "HEAD" else request.method
        match method, request.segments:
            case "GET", ["", "models"]:
                return self._list(request)
            case "POST", ["", "models"]:
                return await self._register(request)
            case "GET", ["", "models", model]:
                return await self._describe(request, model, "")
            case "GET", ["", "models", model, version]:
                return await self._describe(request, model, version)
            case "PUT", ["", "models", model]:
                return await self._scale(request, model, "")
            case "PUT", ["", "models", model, version]:
                return await self._scale(request, model, version)
            case "PUT", ["", "models", model, version, "set-default"]:
                return _of(self._service.set_default(model, version))
            case "DELETE", ["", "models", model]:
                return _of(await self._service.unregister(model))
            case "DELETE", ["", "models", model, version]:
                return _of(await self._service.unregister(model, version))
            case "OPTIONS", ["", "models", model, *rest] if len(rest) <= 1:
                self._service.catalog.has_workers(model, *rest)  # it is known, or an error
                return document(describe_management_of(model))
            case "GET", ["", "v1", "models", model]:
                model = model.partition(":")[0]
                return document({"name": model, "ready": self._service.catalog.has_workers(model)})
            case _, ["", "workflows", *_]:
                raise UnsupportedError("satrap does not serve workflows, only models")
            case _, ["", "models"] | ["", "models", _] | ["", "models", _, _]:
                raise MethodNotAllowedError
            case _, ["", "models", _, _, "set-default"] | ["", "v1", "models", _]:
                raise MethodNotAllowedError
            case _:
                return None

    def _list(self, request: RestRequest) -> RestResponse:
        limit = number(request, "limit")
        page = number(request, "next_page_token")
        return document(
            self._service.catalog.list_models(
                _DEFAULT_LIMIT if limit is None else limit, 0 if page is None else page
            )
        )

    async def _register(self, request: RestRequest) -> RestResponse:
        body = await request.body(self._max_request_bytes)
        return _of(await self._service.register(register_parameters(request, body)))

    async def _describe(self, request: RestRequest, model: str, version: str) -> RestResponse:
        customized = boolean(request, "customized", default=False)
        return document(await self._service.catalog.describe(model, version, customized=customized))

    async def _scale(self, request: RestRequest, model: str, version: str) -> RestResponse:
        warn_about_misspelled(request.parameters)
        minimum = number(request, "min_worker")
        return _of(
            await self._service.scale(
                model,
                version or request.parameter("model_version") or "",
                1 if minimum is None else minimum,
                number(request, "max_worker"),
                synchronous=boolean(request, "synchronous", default=False),
            )
        )


def _of(outcome: Outcome) -> RestResponse:
    return document({"status": outcome.sentence}, outcome.state)
