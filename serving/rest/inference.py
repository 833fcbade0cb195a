"""TorchServe's REST inference API: ping and predictions, by every path that it has."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping

from satrap.errors import (
    InvalidInputError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    UnsupportedError,
)
from satrap.serving.headers import STALE_HEADER, STALENESS_HEADER, TIMING_HEADER
from satrap.serving.model_service import ModelService
from satrap.serving.query import Query
from satrap.serving.request import OK, Prediction
from satrap.serving.rest.body_stream import BodyStream
from satrap.serving.rest.forms import Inputs, is_form, parse_form
from satrap.serving.rest.inference_description import describe_predictions_of
from satrap.serving.rest.prediction_path import Ping, Predict, Unsupported, parse_path
from satrap.serving.rest.request import RestRequest
from satrap.serving.rest.response import RestResponse, document, error_document

__all__ = ["InferenceRoutes"]

log = logging.getLogger("satrap.serving")

_QUICK_FORM_BYTES = 16 * 1024
"""Larger forms are taken apart in a thread: a bad one takes seconds, and other requests must not wait for it."""

_MAX_UNSENT_BYTES = 64 * 1024**2
"""So much of a streamed answer may wait for a client that does not read it."""

_BODY = "body"
"""TorchServe's name for the input that is the whole body."""

_OURS = frozenset(
    (
        "cache-control",
        "connection",
        "content-length",
        "expires",
        "keep-alive",
        "pragma",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    )
)
"""Headers that a handler does not set: they are the connection's, or, as in TorchServe, the same on every answer."""

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class InferenceRoutes:
    """Ping, predictions, and clear answers to what is not served."""

    def __init__(self, service: ModelService, max_request_bytes: int) -> None:
        """Serve that service's models."""
        self._service, self._max_request_bytes = service, max_request_bytes

    async def answer(self, request: RestRequest) -> RestResponse | None:
        """Part of `Routes`."""
        match parse_path(request.segments):
            case Predict() as asked:
                return await self._predict(request, asked)
            case Ping():
                healthy = self._service.catalog.is_healthy()
                return document({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 500)
            case Unsupported(what):
                raise UnsupportedError(f"satrap does not serve {what}, only predictions")
            case None:
                return None

    async def _predict(self, request: RestRequest, asked: Predict) -> RestResponse:
        started = time.perf_counter()
        inputs = await self._inputs(request, asked)
        model = asked.model or self._model(request, asked, inputs)
        if asked.url_path and not asked.version:
            self._service.catalog.has_workers(model)  # it is known, or an error
            raise ModelVersionNotFoundError(model, "")
        if request.method == "OPTIONS":
            self._service.catalog.has_workers(model, asked.version)  # it is known, or an error
            return document(describe_predictions_of(model))
        stream: BodyStream | None = None
        failed: Prediction | None = None
        refused: RestResponse | None = None

        def send_part(part: Prediction) -> None:
            nonlocal stream, failed, refused
            if part.code != OK:
                failed = failed or part
            if failed is not None or refused is not None:
                return
            if stream is None:
                response = _response(request, part, started)
                if response.is_error:
                    refused = response
                    return
                stream = request.begin_stream(response)
            stream.write(part.value)
            if stream.unsent > _MAX_UNSENT_BYTES:
                log.error("%r: the client does not read its stream, which is given up", request.path)
                departure.give_up()

        query = Query(
            model,
            asked.version,
            inputs.values,
            request_id=request.id,
            content_types=inputs.content_types,
            headers=_headers(request, asked),
            protocol="rest",
        )
        # HTTP 1.0 has no chunks: there the parts come in one piece.
        on_part = None if request.scope["http_version"] == "1.0" else send_part
        with request.departure() as departure:
            prediction = await self._service.predict(query, on_part)
        if refused is not None:
            return refused
        prediction = failed or prediction
        if prediction.code != OK:
            # 413 is what TorchServe's workers say when memory ran out.
            status = 507 if prediction.code == 413 else prediction.code
            text = prediction.value.decode("utf-8", "replace")
            return error_document(_valid_status(status), "InternalServerException", text)
        return _response(request, prediction, started)

    async def _inputs(self, request: RestRequest, asked: Predict) -> Inputs:
        inputs = Inputs()
        if asked.with_parameters:
            for name, values in request.parameters.items():
                inputs.add(name, values[-1].encode())
        body = await request.body(self._max_request_bytes)
        content_type = request.header("content-type")
        if not is_form(content_type):
            inputs.add(_BODY, body, request.media_type)
        elif len(body) <= _QUICK_FORM_BYTES:
            parse_form(content_type, body, inputs)
        else:
            await asyncio.to_thread(parse_form, content_type, body, inputs)
        return inputs

    def _model(self, request: RestRequest, asked: Predict, inputs: Inputs) -> str:
        """The model that no path names: a parameter does, or there is only one that was there at the start."""
        if asked.model is not None:
            raise ModelNotFoundError(asked.model)
        named = request.parameter("model_name")
        if named:
            return named
        startup = self._service.catalog.startup_models()
        if len(startup) == 1:
            return startup[0]
        field = inputs.values.get("model_name")
        if field is None:
            raise InvalidInputError("Parameter model_name is required.")
        return field.decode("utf-8", "replace")


def _headers(request: RestRequest, asked: Predict) -> Mapping[str, str]:
    """The request's, with TorchServe's own; of several of a name the last."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers_as_sent}
    if asked.url_path is not None:
        headers["url_path"] = asked.url_path
    if not asked.with_parameters:
        headers["explain"] = "False"
    return headers


def _valid_status(status: int) -> int:
    return status if 200 <= status <= 599 else 500


def _response(request: RestRequest, prediction: Prediction, started: float) -> RestResponse:
    """What the handler made, with the status and the headers that it chose."""
    headers: list[tuple[bytes, bytes]] = []
    for name, value in prediction.headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(str(value)):
            text = f"the handler set a response header that HTTP does not allow: {name!r}: {value!r}"
            return error_document(500, "InternalServerException", text)
        key = name.lower()
        if key not in _OURS:
            headers.append((key.encode("ascii"), str(value).encode("latin-1")))
    if prediction.is_stale:
        headers.append((STALE_HEADER.encode(), b"1"))
    if prediction.staleness_ms is not None:
        headers.append((STALENESS_HEADER.encode(), b"%d" % prediction.staleness_ms))
    if request.header(TIMING_HEADER):
        times = {"server": (time.perf_counter() - started) * 1e3, **prediction.times}
        headers.append((TIMING_HEADER.encode(), json.dumps(times).encode()))
    phrase = prediction.phrase.encode("ascii", "replace").decode()
    if not _HEADER_VALUE.fullmatch(phrase):
        text = f"the handler set a reason phrase that HTTP does not allow: {prediction.phrase!r}"
        return error_document(500, "InternalServerException", text)
    return RestResponse(_valid_status(prediction.status), prediction.value, headers, phrase)
