"""The REST management API in OpenAPI."""

from collections.abc import Sequence
from typing import Any

from satrap.serving.rest.openapi import (
    STATUS,
    Json,
    api_document,
    description_paths,
    in_path,
    in_query,
    model_name,
    operation,
)

__all__ = ["describe_management", "describe_management_of"]


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


def describe_management() -> Json:
    """The paths of the management API."""
    return {
        **description_paths(),
        "/models": {"get": _list(), "post": _register()},
        **_model_paths(),
        "/v1/models/{model_name}": {
            "get": operation(
                "v1_model_ready",
                "Has the model any worker?",
                parameters=[model_name()],
                ok={
                    "type": "object",
                    "required": ["name", "ready"],
                    "properties": {"name": {"type": "string"}, "ready": {"type": "boolean"}},
                },
                others=("404",),
            )
        },
    }


def describe_management_of(model: str) -> Json:
    """What `OPTIONS /models/{model}` says."""
    return api_document(f"RESTful Management API for: {model}", "1.0.0", _model_paths())


def _model_paths() -> Json:
    model, version = model_name(), in_path("model_version", "Version of the model.")
    return {
        "/models/{model_name}": _of_one("", [model], "the default version"),
        "/models/{model_name}/{model_version}": _of_one("version_", [model, version], "that version"),
        "/models/{model_name}/{model_version}/set-default": {
            "put": operation(
                "setDefault",
                "Let that version answer when a request names none.",
                parameters=[model, version],
                ok=STATUS,
                others=("202", "404"),
            )
        },
    }


def _of_one(prefix: str, named: Sequence[Json], what: str) -> Json:
    """What can be done with one version; `prefix` is that of the operations' names, `named` what names the version."""
    return {
        "get": operation(
            f"{prefix}describeModel",
            f"Describe {what}" + ("; `all` describes every version." if prefix else "."),
            parameters=[
                *named,
                in_query(
                    "customized", "boolean", "Ask a worker for the handler's own description too.", False
                ),
            ],
            ok={"type": "array", "items": _DESCRIPTION},
            others=("404", "503"),
        ),
        "put": operation(
            f"{prefix}setAutoScale",
            f"Change how many workers {what} has.",
            parameters=[
                *named,
                in_query("min_worker", "integer", "At least so many workers.", 1),
                in_query("max_worker", "integer", "At most so many; min_worker if it is not given."),
                in_query("synchronous", "boolean", "Answer when the workers are ready.", False),
                in_query("number_gpu", "integer", "Accepted and ignored, as in TorchServe."),
                in_query("timeout", "integer", "Accepted and ignored, as in TorchServe."),
            ],
            ok=STATUS,
            others=("202", "206", "400", "404", "500"),
        ),
        "delete": operation(
            f"{prefix}unregisterModel",
            f"Take {what} out; answered when all that it had accepted is.",
            parameters=named,
            ok=STATUS,
            others=("403", "404", "405", "408"),
        ),
    }


def _list() -> Json:
    model = {
        "type": "object",
        "required": ["modelName", "modelUrl"],
        "properties": {"modelName": {"type": "string"}, "modelUrl": {"type": "string"}},
    }
    return operation(
        "listModels",
        "The models by name, with the urls of their default versions.",
        parameters=[
            in_query("limit", "integer", "At most so many, up to 100.", 100),
            in_query("next_page_token", "string", "What the page before this one said.", "0"),
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
    described = operation(
        "registerModel",
        "Register a version of a model; the parameters may also come as a JSON object.",
        parameters=[in_query(*each) for each in parameters],
        ok=STATUS,
        others=("202", "400", "404", "405", "409", "500"),
    )
    described["requestBody"] = {
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["url"], "properties": properties}}
        }
    }
    return described
