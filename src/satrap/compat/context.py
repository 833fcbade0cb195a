"""PERSIA's contexts as far as inference uses them: batches in, tensors out."""

import logging
import os
from collections.abc import Sequence
from enum import Enum
from types import TracebackType
from typing import Any, Self

import torch

from satrap.client import PersiaBatch
from satrap.compat.dense_features import DenseFeatures
from satrap.compat.device import device_of
from satrap.compat.services import get_embedding_worker_services, split_addresses
from satrap.compat.training_batch import TrainingBatch, look_up
from satrap.config import GlobalConfig, load_global_config
from satrap.middleware import EmbeddingLookup, open_lookup

__all__ = ["EmbeddingCtx", "InferCtx", "PreprocessMode", "TrainCtx", "eval_ctx"]

log = logging.getLogger(__name__)

Tensors = list[torch.Tensor]


class PreprocessMode(Enum):
    """What `prepare_features` is for: TRAIN makes leaves of a graph, INFERENCE leaves the labels out."""

    TRAIN = 1
    EVAL = 2
    INFERENCE = 3


class EmbeddingCtx:
    """Looks up the embeddings of batches, and turns them into tensors.

    A context manager: leaving it closes the connections. One thread uses a context at a time. Embeddings are
    read only; PERSIA's methods that write (dump, load, configure) belong to training.
    """

    def __init__(
        self,
        preprocess_mode: PreprocessMode,
        model: torch.nn.Module | None = None,
        embedding_config: object = None,
        threadpool_worker_size: int = 10,
        device_id: int | None = None,
        *,
        addresses: Sequence[str] | None = None,
        lookup: EmbeddingLookup | None = None,
    ) -> None:
        """Open a lookup over the addresses; nothing is sent yet.

        Args:
            preprocess_mode: What the tensors are for.
            model: For `forward`.
            embedding_config: PERSIA's hyperparameters of training, not used.
            threadpool_worker_size: PERSIA's RPC threads, not used.
            device_id: The GPU for the tensors; None: the CPU.
            addresses: `satrap:local`, or where `satrap middleware` runs; by default
                `get_embedding_worker_services()`.
            lookup: Use this one instead; the caller closes it.
        """
        self.preprocess_mode = preprocess_mode
        self.model = model
        self.device = device_of(device_id)
        self.device_id = device_id
        self.current_batch: TrainingBatch | None = None
        self._owns_lookup = lookup is None
        if lookup is None:
            given = get_embedding_worker_services() if addresses is None else list(addresses)
            lookup = open_lookup(split_addresses(given), os.environ)
        self._lookup = lookup

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owns_lookup:
            self._lookup.close()

    def wait_for_serving(self) -> None:
        """Wait until every shard is ready, for `middleware.startup_timeout_seconds` of the global config.

        Raises:
            ShardUnavailableError: a shard is not ready by then; it says which, where, and how far it is.
        """
        self._lookup.wait_ready(_startup_timeout())

    def get_embedding_from_bytes(self, data: bytes, device_id: int | None = None) -> TrainingBatch:
        """Look up the embeddings of `PersiaBatch.to_bytes()`.

        Raises:
            BatchError: the bytes are no batch, or one that cannot be answered.
            UnavailableError: a shard or the middleware does not answer.
        """
        return look_up(self._lookup, data, self.device if device_id is None else device_of(device_id))

    def get_embedding_from_data(
        self, persia_batch: PersiaBatch, device_id: int | None = None
    ) -> TrainingBatch:
        """The same for a batch that is not serialised yet."""
        return self.get_embedding_from_bytes(persia_batch.to_bytes(), device_id)

    def prepare_features(self, persia_training_batch: TrainingBatch) -> Any:
        """The tensors that a model takes: (dense tensors, embedding tensors, label tensors).

        Dense and label tensors keep their dtypes. Embeddings are float16: summed `[batch, dim]`, raw
        `[batch, sample_fixed_size, dim + 1]` with the mask last. Labels are None for inference.
        """
        self.current_batch = persia_training_batch
        training = self.preprocess_mode is PreprocessMode.TRAIN
        inference = self.preprocess_mode is PreprocessMode.INFERENCE
        return (
            persia_training_batch.dense_tensors(),
            persia_training_batch.embedding_tensors(requires_grad=training),
            None if inference else persia_training_batch.label_tensors(),
        )

    def forward(self, batch: TrainingBatch) -> tuple[Any, Tensors | None]:
        """Call the model on the batch; return its output and the labels."""
        if self.model is None:
            raise TypeError("forward() needs a model: give it to the context")
        dense, embeddings, labels = self.prepare_features(batch)
        return self.model(dense, embeddings), labels


class InferCtx(EmbeddingCtx):
    """The context of a handler: `InferCtx(get_embedding_worker_services(), device_id=0)`."""

    def __init__(
        self,
        embedding_worker_address_list: Sequence[str],
        model: torch.nn.Module | None = None,
        embedding_config: object = None,
        threadpool_worker_size: int = 10,
        device_id: int | None = None,
        *,
        lookup: EmbeddingLookup | None = None,
    ) -> None:
        """Take the addresses of embedding workers; the rest as for `EmbeddingCtx`."""
        super().__init__(
            PreprocessMode.INFERENCE,
            model,
            embedding_config,
            threadpool_worker_size,
            device_id,
            addresses=embedding_worker_address_list,
            lookup=lookup,
        )


def eval_ctx(*args: Any, **kwargs: Any) -> EmbeddingCtx:
    """An `EmbeddingCtx` whose `prepare_features` gives labels too."""
    return EmbeddingCtx(PreprocessMode.EVAL, *args, **kwargs)


class TrainCtx:
    """The context of PERSIA's oldest tutorial, where a handler uses it for `prepare_features` alone.

    The lookup is the work of `PersiaEmbeddingClientPyClass.batch_to_device_dirct` there.
    """

    def __init__(self) -> None:
        """Nothing to prepare."""
        self.current_batch: TrainingBatch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release."""

    def prepare_features(
        self, batch: TrainingBatch, is_training: bool = True
    ) -> tuple[tuple[DenseFeatures, Tensors], Tensors | None]:
        """The tensors of a batch: ((dense tensors, embedding tensors), labels).

        Labels are None unless `is_training`. The dense tensors are a list, which a TorchScript model that takes
        one dense tensor accepts as well.
        """
        self.current_batch = batch
        model_input = (
            DenseFeatures(batch.dense_tensors()),
            batch.embedding_tensors(requires_grad=is_training),
        )
        return model_input, batch.label_tensors() if is_training else None


def _startup_timeout() -> float:
    """Seconds to wait for shards: the global config's, which a worker's environment names."""
    path = os.environ.get("PERSIA_GLOBAL_CONFIG")
    config = load_global_config(path, log.debug) if path else GlobalConfig()
    return config.middleware.startup_timeout_seconds
