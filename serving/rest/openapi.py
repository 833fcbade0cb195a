"""The APIs described in OpenAPI 3.0.1, as `OPTIONS /` and `/api-description` give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from satrap.errors import MethodNotAllowedError
from satrap.serving.rest.request import RestRequest
from satrap.serving.rest.response import RestResponse, document

__all__ = [
    "DescriptionRoutes",
    "describe_inference",
    "describe_management",
    "describe_management_of",
    "describe_metrics",
    "describe_predictions_of",
]

Json = dict[str, Any]

_VERSION = "3.0.1"
_BINARY: Json = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_STATUS: Json = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string", "description": "What was done, or is being done."}},
}
_ERROR: Json = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "The HTTP status."},
        "type": {"type": "string", "description": "TorchServe's name for this kind of error."},
        "message": {"type": "string", "description": "What was wrong, where, and what to do next."},
    },
}
_MEANINGS = {
    "202": "Begun; it goes on in the background",
    "206": "Some workers are not ready yet",
    "400": "Bad request",
    "403": "The default version cannot be removed while there are others",
    "404": "No such model or version",
    "405": "Not allowed",
    "408": "Requests were still running when the time was up",
    "409": "Registered already",
    "413": "The request is too large",
    "500": "The worker failed, or does not start",
    "503": "No worker, the queue is full, or the handler failed",
    "507": "Out of memory",
}


class DescriptionRoutes:
    """`OPTIONS /`, and `/api-description` by any method."""

    def __init__(self, paths: Mapping[str, Any], version: str) -> None:
        """Describe these paths of a server of that version."""
        self._document = _described("satrap: TorchServe's APIs", version, paths)

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


def describe_inference() -> Json:
    """The paths of the inference API."""
    return {
        **_description_paths(),
        "/ping": {"get": _operation("ping", "Is every model's default version healthy?", ok=_STATUS)},
        "/predictions/{model_name}": _predictions("predictions", "the default version"),
        "/predictions/{model_name}/{model_version}": _predictions(
            "version_predictions", "that version", versioned=True
        ),
        "/predictions/{model_name}/{model_version}/{url_path}": _predictions(
            "path_predictions",
            "that version, which gets the rest of the path as the header url_path",
            versioned=True,
            extra=[_in_path("url_path", "What the handler makes of it.")],
        ),
        "/models/{model_name}/invoke": _predictions("invoke", "the default version", methods=("post",)),
        "/invocations": _predictions(
            "invocations",
            "the default version of the model that a parameter names, or of the only model there was at the start",
            named=False,
            methods=("post",),
            extra=[_in_query("model_name", "string", "Name of the model.")],
        ),
        "/{model_name}/predict": _predictions("legacy_predict", "the default version", methods=("post",)),
        "/{model_name}/{model_version}/predict": _predictions(
            "version_legacy_predict", "that version", versioned=True, methods=("post",)
        ),
        "/v1/models/{model_name}:predict": _predictions(
            "v1_predict", "the default version", methods=("post",)
        ),
        "/v2/models/{model_name}/infer": _predictions("v2_infer", "the default version", methods=("post",)),
    }


def describe_management() -> Json:
    """The paths of the management API."""
    return {
        **_description_paths(),
        "/models": {"get": _list(), "post": _register()},
        **_model_paths(),
        "/v1/models/{model_name}": {
            "get": _operation(
                "v1_model_ready",
                "Has the model any worker?",
                parameters=[_model_name()],
                ok={
                    "type": "object",
                    "required": ["name", "ready"],
                    "properties": {"name": {"type": "string"}, "ready": {"type": "boolean"}},
                },
                others=("404",),
            )
        },
    }


def describe_metrics() -> Json:
    """The path of the metrics."""
    wanted = {"type": "array", "items": {"type": "string"}}
    return {
        "/metrics": {
            "get": _operation(
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
                content={"text/plain; version=0.0.4; charset=utf-8": {"schema": {"type": "string"}}},
            )
        }
    }


def describe_predictions_of(model: str) -> Json:
    """What `OPTIONS /predictions/{model}` says."""
    paths = {
        f"/predictions/{model}": _predictions("predictions", "the default version", named=False),
        f"/v1/models/{model}:predict": _predictions(
            "v1_predict", "the default version", named=False, methods=("post",)
        ),
        f"/v2/models/{model}/infer": _predictions(
            "v2_infer", "the default version", named=False, methods=("post",)
        ),
    }
    return _described(f"RESTful API for: {model}", "1.0.0", paths)


def describe_management_of(model: str) -> Json:
    """What `OPTIONS /models/{model}` says."""
    return _described(f"RESTful Management API for: {model}", "1.0.0", _model_paths())


def _described(title: str, version: str, paths: Mapping[str, Any]) -> Json:
    return {"openapi": _VERSION, "info": {"title": title, "version": version}, "paths": dict(paths)}


def _description_paths() -> Json:
    described = {
        "type": "object",
        "required": ["openapi", "info", "paths"],
        "properties": {
            "openapi": {"type": "string"},
            "info": {"type": "object"},
            "paths": {"type": "object"},
        },
    }
    return {
        "/": {"options": _operation("apiDescription", "This description.", ok=described)},
        "/api-description": {"get": _operation("api-description", "This description.", ok=described)},
    }


def _predictions(
    operation: str,
    answering: str,
    *,
    named: bool = True,
    versioned: bool = False,
    methods: Sequence[str] = ("post", "put"),
    extra: Sequence[Json] = (),
) -> Json:
    parameters = [
        *([_model_name()] if named else []),
        *([_in_path("model_version", "Version of the model.")] if versioned else []),
        *extra,
    ]
    path: Json = {}
    for method in methods:
        path[method] = _operation(
            operation if method == methods[0] else f"{operation}_{method}",
            f"A prediction by {answering}.",
            parameters=parameters,
            body={
                "description": "What the handler takes: bytes, JSON, text, or a form whose fields are inputs.",
                "required": True,
                "content": _BINARY,
            },
            content=_BINARY,
            others=("404", "413", "500", "503", "507"),
        )
    return path


def _model_paths() -> Json:
    def of_one(prefix: str, named: Sequence[Json], what: str) -> Json:
        return {
            "get": _operation(
                f"{prefix}describeModel",
                f"Describe {what}" + ("; `all` describes every version." if prefix else "."),
                parameters=[
                    *named,
                    _in_query(
                        "customized", "boolean", "Ask a worker for the handler's own description too.", False
                    ),
                ],
                ok={"type": "array", "items": _DESCRIPTION},
                others=("404", "503"),
            ),
            "put": _operation(
                f"{prefix}setAutoScale",
                f"Change how many workers {what} has.",
                parameters=[
                    *named,
                    _in_query("min_worker", "integer", "At least so many workers.", 1),
                    _in_query("max_worker", "integer", "At most so many; min_worker if it is not given."),
                    _in_query("synchronous", "boolean", "Answer when the workers are ready.", False),
                    _in_query("number_gpu", "integer", "Accepted and ignored, as in TorchServe."),
                    _in_query("timeout", "integer", "Accepted and ignored, as in TorchServe."),
                ],
                ok=_STATUS,
                others=("202", "206", "400", "404", "500"),
            ),
            "delete": _operation(
                f"{prefix}unregisterModel",
                f"Take {what} out; answered when all that it had accepted is.",
                parameters=named,
                ok=_STATUS,
                others=("403", "404", "405", "408"),
            ),
        }

    model, version = _model_name(), _in_path("model_version", "Version of the model.")
    return {
        "/models/{model_name}": of_one("", [model], "the default version"),
        "/models/{model_name}/{model_version}": of_one("version_", [model, version], "that version"),
        "/models/{model_name}/{model_version}/set-default": {
            "put": _operation(
                "setDefault",
                "Let that version answer when a request names none.",
                parameters=[model, version],
                ok=_STATUS,
                others=("202", "404"),
            )
        },
    }


def _list() -> Json:
    model = {
        "type": "object",
        "required": ["modelName", "modelUrl"],
        "properties": {"modelName": {"type": "string"}, "modelUrl": {"type": "string"}},
    }
    return _operation(
        "listModels",
        "The models by name, with the urls of their default versions.",
        parameters=[
            _in_query("limit", "integer", "At most so many, up to 100.", 100),
            _in_query("next_page_token", "string", "What the page before this one said.", "0"),
        ],
        ok={
            "type": "object",
            "required": ["models"],
            "properties": {
                "nextPageToken": {"type": "string"},
                "models": {"type": "array", "items": model},
            },
        },
    )


def _register() -> Json:
    parameters: list[tuple[str, str, str, Any]] = [
        ("url", "string", "An archive in the model store, or a URL that allowed_urls allows.", None),
        ("model_name", "string", "Instead of the archive's.", None),
        ("handler", "string", "Instead of the archive's.", None),
        ("runtime", "string", "Instead of the archive's: python or python3.", None),
        ("batch_size", "integer", "Requests of a batch at most.", 1),
        ("max_batch_delay", "integer", "Milliseconds that a request waits for others at most.", 100),
        ("response_timeout", "integer", "Seconds that a worker has for a batch.", 120),
        ("startup_timeout", "integer", "Seconds that a worker has to load the handler.", 120),
        ("initial_workers", "integer", "Workers to start.", 0),
        ("synchronous", "boolean", "Answer when the workers are ready.", True),
        ("s3_sse_kms", "boolean", "Accepted and ignored.", False),
    ]
    properties = {
        name: {"type": kind, "description": meaning, **({} if default is None else {"default": default})}
        for name, kind, meaning, default in parameters
    }
    operation = _operation(
        "registerModel",
        "Register a version of a model; the parameters may also come as a JSON object.",
        parameters=[_in_query(*each) for each in parameters],
        ok=_STATUS,
        others=("202", "400", "404", "405", "409", "500"),
    )
    operation["requestBody"] = {
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["url"], "properties": properties}}
        }
    }
    return operation


_WORKER: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "startTime": {"type": "string", "format": "date-time"},
        "status": {"type": "string", "enum": ["READY", "UNLOADING"]},
        "memoryUsage": {"type": "integer", "description": "Bytes."},
        "pid": {"type": "integer"},
        "gpu": {"type": "boolean"},
        "gpuUsage": {"type": "string"},
    },
}
_DESCRIPTION: Json = {
    "type": "object",
    "properties": {
        **{
            name: {"type": "string"}
            for name in ("modelName", "modelVersion", "modelUrl", "runtime", "parallelType", "deviceType")
        },
        **{
            name: {"type": "integer"}
            for name in (
                "minWorkers",
                "maxWorkers",
                "batchSize",
                "maxBatchDelay",
                "responseTimeout",
                "startupTimeout",
                "maxRetryTimeoutInSec",
                "clientTimeoutInMills",
                "parallelLevel",
                "sequenceMaxIdleMSec",
                "sequenceTimeoutMSec",
                "maxNumSequence",
                "maxSequenceJobQueueSize",
            )
        },
        **{
            name: {"type": "boolean"}
            for name in ("continuousBatching", "useJobTicket", "useVenv", "stateful", "loadedAtStartup")
        },
        "workers": {"type": "array", "items": _WORKER},
        "jobQueueStatus": {
            "type": "object",
            "properties": {
                "remainingCapacity": {"type": "integer"},
                "pendingRequests": {"type": "integer"},
            },
        },
        "customizedMetadata": {"type": "object", "description": "What the handler says of itself."},
    },
}


def _operation(
    name: str,
    summary: str,
    *,
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    ok: Json | None = None,
    content: Json | None = None,
    others: Sequence[str] = (),
) -> Json:
    responses: Json = {
        "200": {"description": "OK", "content": content or {"application/json": {"schema": ok}}}
    }
    for code in others:
        schema = _ERROR if int(code) >= 400 else _STATUS
        responses[code] = {
            "description": _MEANINGS[code],
            "content": {"application/json": {"schema": schema}},
        }
    return {
        "operationId": name,
        "summary": summary,
        **({"parameters": list(parameters)} if parameters else {}),
        **({"requestBody": body} if body else {}),
        "responses": responses,
    }


def _model_name() -> Json:
    return _in_path("model_name", "Name of the model.")


def _in_path(name: str, description: str) -> Json:
    return {
        "in": "path",
        "name": name,
        "description": description,
        "required": True,
        "schema": {"type": "string"},
    }


def _in_query(name: str, kind: str, description: str, default: Any = None) -> Json:
    schema = {"type": kind} if default is None else {"type": kind, "default": default}
    return {
        "in": "query",
        "name": name,
        "description": description,
        "required": name == "url",
        "schema": schema,
    }
