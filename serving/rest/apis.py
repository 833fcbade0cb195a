"""Which routes are served at which address; several APIs may share one, as in TorchServe."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from satrap.serving.listening import Address
from satrap.serving.model_service import ModelService
from satrap.serving.refusal import Refusal
from satrap.serving.rest.app import Answered, RestApp, Routes
from satrap.serving.rest.description_routes import DescriptionRoutes
from satrap.serving.rest.inference import InferenceRoutes
from satrap.serving.rest.inference_description import describe_inference
from satrap.serving.rest.management import ManagementRoutes
from satrap.serving.rest.management_description import describe_management
from satrap.serving.rest.metrics_route import MetricsRoutes, Render, describe_metrics
from satrap.serving.rest.token_routes import TokenRoutes
from satrap.serving.settings import ServingSettings
from satrap.serving.tokens import Api, TokenAuthorization

__all__ = ["RestApi", "rest_apis"]


@dataclass(frozen=True)
class RestApi:
    """One address, the names of the APIs there in the order of the ready line, and what answers."""

    address: Address
    names: Sequence[str]
    app: RestApp


@dataclass
class _Shared:
    """What is collected for one address."""

    address: Address
    names: list[str] = field(default_factory=list)
    paths: dict[str, Any] = field(default_factory=dict)
    open: list[Routes] = field(default_factory=list)
    guarded: list[Routes] = field(default_factory=list)
    apis: list[Api] = field(default_factory=list)


def rest_apis(
    settings: ServingSettings,
    service: ModelService,
    request_ids: Iterator[str],
    *,
    tokens: TokenAuthorization | None,
    render: Render,
    answered: Answered | None = None,
    refused: Callable[[Refusal], None] | None = None,
    version: str,
) -> list[RestApi]:
    """The applications of the addresses that `settings` names; without `tokens` nobody needs one."""
    listening, limit = settings.listening, settings.config.max_request_bytes
    places: dict[object, _Shared] = {}

    def at(address: Address, name: str, paths: Mapping[str, Any]) -> _Shared:
        place = places.setdefault(address.place or name, _Shared(address))
        place.names.append(name)
        place.paths.update(paths)
        return place

    if listening.rest_inference is not None:
        place = at(listening.rest_inference, "REST inference", describe_inference())
        place.guarded.append(InferenceRoutes(service, limit))
        place.apis.append("inference")
    if listening.rest_management is not None:
        place = at(listening.rest_management, "REST management", describe_management())
        place.guarded.append(ManagementRoutes(service, limit))
        place.apis.append("management")
    if listening.metrics is not None:
        at(listening.metrics, "metrics", describe_metrics()).open.append(MetricsRoutes(render))
    cors = _cors(settings)
    apis = []
    for place in places.values():
        guard: list[Routes] = [TokenRoutes(tokens, place.apis)] if tokens and place.apis else []
        routes = [DescriptionRoutes(place.paths, version), *place.open, *guard, *place.guarded]
        app = RestApp(routes, request_ids, cors=cors, answered=answered, refused=refused)
        apis.append(RestApi(place.address, place.names, app))
    return apis


def _cors(settings: ServingSettings) -> Mapping[str, str]:
    cors = settings.config.cors
    headers = {
        "access-control-allow-origin": cors.allowed_origin,
        "access-control-allow-methods": cors.allowed_methods,
        "access-control-allow-headers": cors.allowed_headers,
    }
    return {name: value for name, value in headers.items() if value}
