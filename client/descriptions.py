"""What the management API tells about models, as values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from satrap.errors import UnexpectedAnswerError

__all__ = [
    "ModelDescription",
    "ModelEntry",
    "ModelPage",
    "SparseNeed",
    "WorkerDescription",
    "parse_descriptions",
    "parse_page",
]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model in a list: its name, and the archive of its default version."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class ModelPage:
    """One page of a list; `next_page_token` is None when the list ended before the page's end."""

    models: tuple[ModelEntry, ...]
    next_page_token: int | None


@dataclass(frozen=True, slots=True)
class WorkerDescription:
    """A worker process. `memory_usage` is in bytes, 0 while unknown."""

    id: str
    status: str
    start_time: str
    pid: int
    memory_usage: int
    gpu: bool


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A version of a model. `max_batch_delay` is in milliseconds, `response_timeout` in seconds.

    `sparse_sequence` is the sequence of its embeddings that the version needs, None if none; it answers once every
    embedding server had applied it, and `is_waiting` until then. Satrap only.

    `document` has all that the server said, under its own keys.
    """

    name: str
    version: str
    url: str
    runtime: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    response_timeout: int
    loaded_at_startup: bool
    sparse_sequence: int | None
    is_waiting: bool
    workers: tuple[WorkerDescription, ...]
    document: Mapping[str, Any] = field(repr=False)

    @property
    def ready_workers(self) -> int:
        """How many workers can take a request."""
        return sum(worker.status == "READY" for worker in self.workers)


@dataclass(frozen=True, slots=True)
class SparseNeed:
    """A version that answers, and the sequence that its embeddings must not be taken back below."""

    model: str
    version: str
    sequence: int


def parse_page(text: str) -> ModelPage:
    """Read the answer of ListModels.

    Raises:
        UnexpectedAnswerError: it is not what TorchServe's API promises.
    """
    try:
        document = json.loads(text)
        token = document.get("nextPageToken")
        return ModelPage(
            models=tuple(ModelEntry(m["modelName"], m["modelUrl"]) for m in document["models"]),
            next_page_token=None if token is None else int(token),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswerError(
            f"the list of models cannot be read ({error!r}): {text[:200]!r}"
        ) from error


def parse_descriptions(text: str) -> tuple[ModelDescription, ...]:
    """Read the answer of DescribeModel: one element per version.

    Raises:
        UnexpectedAnswerError: it is not what TorchServe's API promises.
    """
    try:
        return tuple(_description(document) for document in json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswerError(f"the description cannot be read ({error!r}): {text[:200]!r}") from error


def _description(document: Mapping[str, Any]) -> ModelDescription:
    return ModelDescription(
        name=document["modelName"],
        version=document["modelVersion"],
        url=document.get("modelUrl", ""),
        runtime=document.get("runtime", ""),
        min_workers=document["minWorkers"],
        max_workers=document["maxWorkers"],
        batch_size=document.get("batchSize", 1),
        max_batch_delay=document.get("maxBatchDelay", 0),
        response_timeout=document.get("responseTimeout", 0),
        loaded_at_startup=document.get("loadedAtStartup", False),
        sparse_sequence=_sequence(document.get("sparseSequence")),
        is_waiting=document.get("sparseReached") is False,
        workers=tuple(_worker(worker) for worker in document.get("workers", ())),
        document=document,
    )


def _sequence(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise TypeError(f"sparseSequence is {value!r}")


def _worker(document: Mapping[str, Any]) -> WorkerDescription:
    return WorkerDescription(
        id=document["id"],
        status=document["status"],
        start_time=document.get("startTime", ""),
        pid=document.get("pid", 0),
        memory_usage=document.get("memoryUsage", 0),
        gpu=document.get("gpu", False),
    )
