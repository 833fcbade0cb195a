"""Asks the served model for the held-out samples, and measures what comes back."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from satrap import rpc
from satrap.demo.clicks import Clicks
from satrap.demo.scores import auc
from satrap.protos import inference_pb2, inference_pb2_grpc

__all__ = ["Asker", "Served"]


@dataclass(frozen=True)
class Served:
    """What came back: predictions `[samples]`; of each request its seconds, the milliseconds since the newest event
    that its rows know of (none where the server did not say), and the servers' own times in milliseconds, by name:
    `server` (the frontend and all behind it), `handler`, and its parts.
    """

    predictions: NDArray[np.float32]
    labels: NDArray[np.float32]
    seconds: NDArray[np.float64]
    staleness_ms: NDArray[np.float64]
    parts: Mapping[str, float]

    @property
    def auc(self) -> float:
        """The area under the ROC curve."""
        return auc(self.labels, self.predictions)

    def latency_ms(self, percent: float) -> float:
        """A percentile of the requests' milliseconds."""
        return float(np.percentile(self.seconds, percent)) * 1e3

    def staleness(self, percent: float) -> float | None:
        """A percentile of the staleness in milliseconds."""
        return float(np.percentile(self.staleness_ms, percent)) if len(self.staleness_ms) else None


class Asker:
    """Holds the samples as requests, and a channel. A context manager."""

    def __init__(self, address: str, model: str, samples: Clicks, batch: int) -> None:
        self._model, self._labels = model, samples.labels
        self._payloads: Sequence[bytes] = [chunk.batch().to_bytes() for chunk in samples.chunks(batch)]
        self._channel = rpc.channel(address)
        self._stub: Any = inference_pb2_grpc.InferenceAPIsServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    @property
    def requests(self) -> int:
        """Requests of one pass over the samples."""
        return len(self._payloads)

    def warm_up(self) -> None:
        """The first forwards of a TorchScript model are its profiling runs."""
        for _ in range(3):
            self._ask(self._payloads[0])

    def ask(self) -> Served:
        """One pass over the samples, one request after the other.

        Raises:
            grpc.RpcError: a request was not answered.
        """
        predictions, seconds, staleness = [], [], []
        times: dict[str, list[float]] = {}
        for payload in self._payloads:
            started = time.perf_counter()
            values, said = self._ask(payload)
            seconds.append(time.perf_counter() - started)
            predictions.append(values)
            if "satrap-staleness-ms" in said:
                staleness.append(float(said["satrap-staleness-ms"]))
            times.setdefault("request", []).append(seconds[-1] * 1e3)
            for name, milliseconds in json.loads(said["satrap-timing"]).items():
                times.setdefault(name, []).append(milliseconds)
        return Served(
            np.concatenate(predictions),
            self._labels,
            np.array(seconds),
            np.array(staleness),
            {name: float(np.median(values)) for name, values in times.items()},
        )

    def _ask(self, payload: bytes) -> tuple[NDArray[np.float32], dict[str, str]]:
        request = inference_pb2.PredictionsRequest(model_name=self._model, input={"batch": payload})
        answer, call = self._stub.Predictions.with_call(
            request, metadata=[("satrap-timing", "1")], timeout=60.0
        )
        values = np.array(json.loads(answer.prediction), np.float32).reshape(-1)
        return values, dict(call.trailing_metadata())
