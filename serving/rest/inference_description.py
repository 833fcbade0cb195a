"""The REST inference API in OpenAPI."""

from collections.abc import Sequence

from satrap.serving.rest.openapi import (
    BINARY,
    STATUS,
    Json,
    api_document,
    description_paths,
    in_path,
    in_query,
    model_name,
    operation,
)

__all__ = ["describe_inference", "describe_predictions_of"]


def describe_inference() -> Json:
    """The paths of the inference API."""
    return {
        **description_paths(),
        "/ping": {"get": operation("ping", "Is every model's default version healthy?", ok=STATUS)},
        "/predictions/{model_name}": _predictions("predictions", "the default version"),
        "/predictions/{model_name}/{model_version}": _predictions(
            "version_predictions", "that version", versioned=True
        ),
        "/predictions/{model_name}/{model_version}/{url_path}": _predictions(
            "path_predictions",
            "that version, which gets the rest of the path as the header url_path",
            versioned=True,
            extra=[in_path("url_path", "What the handler makes of it.")],
        ),
        "/models/{model_name}/invoke": _predictions("invoke", "the default version", methods=("post",)),
        "/invocations": _predictions(
            "invocations",
            "the default version of the model that a parameter names, or of the only model there was at the start",
            named=False,
            methods=("post",),
            extra=[in_query("model_name", "string", "Name of the model.")],
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
    return api_document(f"RESTful API for: {model}", "1.0.0", paths)


def _predictions(
    name: str,
    answering: str,
    *,
    named: bool = True,
    versioned: bool = False,
    methods: Sequence[str] = ("post", "put"),
    extra: Sequence[Json] = (),
) -> Json:
    parameters = [
        *([model_name()] if named else []),
        *([in_path("model_version", "Version of the model.")] if versioned else []),
        *extra,
    ]
    path: Json = {}
    for method in methods:
        path[method] = operation(
            name if method == methods[0] else f"{name}_{method}",
            f"A prediction by {answering}.",
            parameters=parameters,
            body={
                "description": "What the handler takes: bytes, JSON, text, or a form whose fields are inputs.",
                "required": True,
                "content": BINARY,
            },
            content=BINARY,
            others=("404", "413", "500", "503", "507"),
        )
    return path
