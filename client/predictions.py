"""What the inference clients send, and what the answers say. No I/O."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satrap.client.persia_batch import PersiaBatch
from satrap.errors import UnexpectedAnswerError
from satrap.protos import inference_pb2

__all__ = ["BATCH_KEY", "Inputs", "batch_inputs", "parse_health", "parse_prediction", "predictions_request"]

Inputs = Mapping[str, bytes]
"""A request's named inputs."""

BATCH_KEY = "batch"
"""The input under which PERSIA's handlers, and satrap's, look for a batch."""


def batch_inputs(batch: PersiaBatch | bytes) -> Inputs:
    """The inputs of a request that carries one batch, or its bytes."""
    return {BATCH_KEY: batch.to_bytes() if isinstance(batch, PersiaBatch) else bytes(batch)}


def predictions_request(model: str, inputs: Inputs, version: str) -> inference_pb2.PredictionsRequest:
    """The message of Predictions and StreamPredictions; an empty version: the model's default."""
    return inference_pb2.PredictionsRequest(model_name=model, model_version=version, input=inputs)


def parse_health(document: str) -> str:
    """The word in TorchServe's health document.

    Raises:
        UnexpectedAnswerError: it is something else.
    """
    try:
        return str(json.loads(document)["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnexpectedAnswerError(f"the health is no JSON with a status: {document!r}") from error


def parse_prediction(answer: bytes) -> NDArray[Any]:
    """The array in a handler's answer: a JSON list of numbers, nested to any depth (NaN and Infinity allowed).

    Raises:
        UnexpectedAnswerError: it is something else, or rows differ in length.
    """
    try:
        values = json.loads(answer)
        array = np.asarray(values)
    except ValueError as error:
        raise UnexpectedAnswerError(
            f"the prediction is no list of numbers: {error}: {answer[:80]!r}"
        ) from error
    if not isinstance(values, list) or (array.size and array.dtype.kind not in "biuf"):
        raise UnexpectedAnswerError(f"the prediction is no list of numbers: {answer[:80]!r}")
    return array
