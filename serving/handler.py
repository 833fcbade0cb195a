"""The handler that needs no code: batch bytes in, a TorchScript model's predictions out."""

import logging
import os
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from satrap.batch import Decoded, decode
from satrap.errors import ArchiveError, BatchError, SatrapError
from satrap.middleware import LOCAL_ADDRESS, Embedding, EmbeddingLookup, Embeddings, open_lookup
from satrap.serving.context import Context
from satrap.serving.input_names import input_names
from satrap.serving.prediction import PredictionException
from satrap.serving.tensors import embedding_tensor, tensor_of
from satrap.serving.torch_handler.base_handler import BaseHandler

__all__ = ["EmbeddingHandler"]

log = logging.getLogger(__name__)

BATCH_KEY = "batch"


@dataclass(frozen=True, slots=True)
class Features:
    """One request's tensors: `size` samples each, dense ones in their own dtypes, embeddings float16."""

    size: int
    dense: list[torch.Tensor]
    embeddings: list[torch.Tensor]

    @property
    def shape(self) -> Hashable:
        """What has to be equal for two requests to go through the model together."""
        return tuple(
            tuple((tensor.dtype, tensor.shape[1:]) for tensor in tensors)
            for tensors in (self.dense, self.embeddings)
        )


class EmbeddingHandler(BaseHandler):
    """Looks up the ids of batches and calls `model(dense tensors, embedding tensors)`.

    A request is `{"batch": bytes}`, of `PersiaBatch.to_bytes()` or of an Arrow stream; where it has one input only,
    that may have any name. The model is TorchScript. It gets two lists in the batch's order: the dense tensors, and
    per id feature `[samples, dim]` (summed) or `[samples, sample_fixed_size, dim + 1]` (raw, the mask last); all that
    are floating point in the dtype of its parameters. A model whose first argument is one tensor gets the one dense
    tensor. It returns one tensor, `[samples]` or `[samples, ...]`; the answer is its numbers as a flat list.

    All requests of a TorchServe batch are answered by one lookup and one forward (one per kind, where they differ
    in their features' shapes). Where a request is wrong, its element of the answer is the error; the others
    are answered. Which embeddings: `EMBEDDING_WORKER_SERVICE`, by default the middleware in this process.
    """

    def __init__(self) -> None:
        """Nothing is opened before `initialize`."""
        super().__init__()
        self.lookup: EmbeddingLookup | None = None
        self._dtype = torch.float32
        self._takes_one_dense_tensor = False

    def initialize(self, context: Context) -> None:
        """Load the model and open the lookup. Shards that are not there yet are no error: requests will say so.

        Raises:
            ArchiveError: the archive has no model.
            ConfigError: the embedding config cannot be used.
        """
        super().initialize(context)
        if self.model is None:
            raise ArchiveError(
                context.model_name, "EmbeddingHandler needs a TorchScript model (--serialized-file)"
            )
        self._dtype = _floating_dtype(self.model)
        self._takes_one_dense_tensor = _first_argument_is_tensor(self.model)
        addresses = os.environ.get("EMBEDDING_WORKER_SERVICE") or LOCAL_ADDRESS
        self.lookup = open_lookup([address.strip() for address in addresses.split(",")], os.environ)

    def preprocess(self, data: Sequence[Mapping[str, Any]]) -> list[Features | SatrapError]:
        """Decode and look up every request; an element is the request's tensors, or why there are none."""
        started = time.perf_counter()
        prepared: list[Features | SatrapError | None] = [None] * len(data)
        batches: dict[int, Decoded] = {}
        for place, inputs in enumerate(data):
            try:
                batches[place] = decode(_batch_bytes(inputs))
            except BatchError as error:
                prepared[place] = error
        decoded = self._report("decode", started)
        for place, embeddings in zip(batches, self._look_up(list(batches.values())), strict=True):
            if isinstance(embeddings, SatrapError):
                prepared[place] = embeddings
                continue
            try:
                prepared[place] = self._features(batches[place], embeddings)
            except BatchError as error:
                prepared[place] = error
        self._report("look up", decoded)
        return [request for request in prepared if request is not None]

    def inference(self, data: list[Features | SatrapError], *args: Any, **kwargs: Any) -> list[Any]:
        """Call the model; an element is the request's part of its output, or why there is none."""
        started = time.perf_counter()
        answers = self._infer(data)
        self._report("forward", started)
        return answers

    def postprocess(self, data: list[Any]) -> list[Any]:
        """Flatten outputs into lists of numbers; errors stay what they are."""
        return [
            output.reshape(-1).tolist() if isinstance(output, torch.Tensor) else output for output in data
        ]

    def _infer(self, data: list[Features | SatrapError]) -> list[Any]:
        if len(data) == 1 and isinstance(data[0], Features):
            return list(self._forward([data[0]]))  # what the model raises is this request's alone
        answers: list[Any] = list(data)
        groups: dict[Hashable, dict[int, Features]] = {}
        for place, request in enumerate(data):
            if isinstance(request, Features):
                groups.setdefault(request.shape, {})[place] = request
        for group in groups.values():
            for place, output in zip(group, self._outputs(list(group.values())), strict=True):
                answers[place] = output
        return answers

    def _report(self, part: str, since: float) -> float:
        """Report how long a part of the batch took; returns the moment at which the next one begins."""
        now = time.perf_counter()
        if self.context is not None:
            self.context.metrics.add_phase(part, now - since)
        return now

    def _look_up(self, batches: Sequence[Decoded]) -> list[Embeddings | SatrapError]:
        """One lookup for all; if a batch spoils it, one for each, so that the others have theirs."""
        if not batches:
            return []
        assert self.lookup is not None, "handle() before initialize()"
        try:
            return list(self.lookup.lookup_many(batches))
        except BatchError as error:
            if len(batches) == 1:
                return [error]
        except SatrapError as error:
            return [error] * len(batches)
        alone: list[Embeddings | SatrapError] = []
        for batch in batches:
            try:
                alone.append(self.lookup.lookup(batch))
            except SatrapError as error:
                alone.append(error)
        return alone

    def _features(self, batch: Decoded, embeddings: Sequence[Embedding]) -> Features:
        assert self.device is not None, "handle() before initialize()"
        dense = [tensor_of(array, self.device) for _, array in batch.non_id_features()]
        if self._takes_one_dense_tensor and len(dense) != 1:
            raise BatchError(f"the model takes one dense tensor, the batch has {len(dense)}")
        tensors = [embedding_tensor(embedding, self.device) for embedding in embeddings]
        return Features(batch.batch_size or 0, dense, tensors)

    def _outputs(self, requests: Sequence[Features]) -> list[torch.Tensor | PredictionException]:
        """One forward for all; if a request spoils it, one for each, so that the others have theirs."""
        try:
            return list(self._forward(requests))
        except Exception:
            log.exception("the model failed on %d requests", len(requests))
        if len(requests) == 1:
            return [PredictionException("Prediction failed", 503)]
        return [output for request in requests for output in self._outputs([request])]

    def _forward(self, requests: Sequence[Features]) -> Sequence[torch.Tensor]:
        """The model's output for requests of equal shapes, split again."""
        dense = [self._joined(parts) for parts in zip(*(request.dense for request in requests), strict=True)]
        embeddings = [
            self._joined(parts) for parts in zip(*(request.embeddings for request in requests), strict=True)
        ]
        with torch.inference_mode():
            output = self.model(dense[0] if self._takes_one_dense_tensor else dense, embeddings)
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"the model must return one tensor, it returned {type(output).__name__}")
        if len(requests) == 1:
            return [output]
        sizes = [request.size for request in requests]
        if output.ndim == 0 or len(output) != sum(sizes):
            raise ValueError(
                f"the model must return one row per sample: {sum(sizes)} samples gave {list(output.shape)}"
            )
        return torch.split(output, sizes)

    def _joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        joined = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return joined.to(self._dtype) if joined.is_floating_point() else joined


def _batch_bytes(inputs: Mapping[str, Any]) -> bytes | bytearray | memoryview:
    """The bytes under `batch`, or of the only input.

    Raises:
        BatchError: there are several inputs and none has that name, or it is not bytes.
    """
    value = inputs.get(BATCH_KEY)
    if value is None:
        if len(inputs) != 1:
            raise BatchError(f"the request needs an input named {BATCH_KEY!r}; it has {input_names(inputs)}")
        value = next(iter(inputs.values()))
    if not isinstance(value, bytes | bytearray | memoryview):
        raise BatchError(
            f"a batch is bytes (PersiaBatch.to_bytes() or to_arrow()), not {type(value).__name__}"
        )
    return value


def _floating_dtype(model: Any) -> torch.dtype:
    """The dtype of the model's first floating-point parameter or buffer; float32 where it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            dtype: torch.dtype = tensor.dtype
            return dtype
    return torch.float32


def _first_argument_is_tensor(model: Any) -> bool:
    """Whether a TorchScript model declares its first argument as one tensor rather than a list."""
    schema = getattr(getattr(model, "forward", None), "schema", None)
    return schema is not None and len(schema.arguments) > 1 and str(schema.arguments[1].type) == "Tensor"
