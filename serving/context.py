"""What a handler is told about its model and the requests at hand: TorchServe's `context`."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from satrap.serving.handler_metrics import HandlerMetrics
from satrap.serving.headers import SEQUENCE_END_HEADER, SEQUENCE_ID_HEADER, SEQUENCE_START_HEADER

__all__ = ["Context", "RequestProcessor"]

SERVER_NAME = "MMS"
"""What TorchServe calls itself here; some handlers compare it."""


class RequestProcessor:
    """One request's headers, and what the handler wants its answer to carry."""

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        """Start with status 200 and no response headers."""
        self._request_header = dict(request_header)
        self._response_header: dict[str, str] = {}
        self._status = 200
        self._phrase: str | None = None

    def get_request_property(self, key: str) -> Any:
        """One request header, or None. Letters' case counts only where two headers differ in nothing else."""
        value = self._request_header.get(key)
        if value is not None or not isinstance(key, str):
            return value
        lowered = key.lower()
        return next((v for name, v in self._request_header.items() if name.lower() == lowered), None)

    def get_request_properties(self) -> dict[str, Any]:
        """All request headers."""
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Choose the answer's HTTP status.

        Raises:
            TypeError: the code is no integer, of Python's or NumPy's.
        """
        self._status = operator.index(code)  # here, where the handler's author sees which line it is
        self._phrase = None if reason_phrase is None else str(reason_phrase)

    def get_response_status_code(self) -> int:
        """The answer's HTTP status."""
        return self._status

    def get_response_status_phrase(self) -> str | None:
        """The answer's reason phrase, or None where none was chosen."""
        return self._phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Set a response header."""
        self._response_header[str(key)] = value

    def get_response_headers(self) -> dict[str, str]:
        """All response headers."""
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        """One response header, or None."""
        return self._response_header.get(key)


class Context:
    """TorchServe's context object, the same names and the same order of arguments.

    The worker owns it and sets `request_ids` and `request_processor` anew for every batch; both are for the
    thread that runs the handler.
    """

    header_key_sequence_id = SEQUENCE_ID_HEADER
    header_key_sequence_start = SEQUENCE_START_HEADER
    header_key_sequence_end = SEQUENCE_END_HEADER

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any],
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: HandlerMetrics | None = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        """Describe the model; `gpu` is the device's index, or None on the CPU."""
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": SERVER_NAME,
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self._metrics = metrics if metrics is not None else HandlerMetrics(model_name)
        self.model_yaml_config: dict[str, Any] = model_yaml_config if model_yaml_config is not None else {}
        self.request_ids: dict[int, str] | None = None
        self._request_processor: Sequence[RequestProcessor] = [RequestProcessor({})]
        self.stopping_criteria: Any = None
        self.cl_socket: Any = None
        self.send_part: Callable[[Any, Iterable[int]], None] | None = None
        """The worker's: sends a part of the answers to the requests at these places, and returns when it is out."""

    # Kept under TorchServe's own names with an underscore: handlers read these as well.

    @property
    def system_properties(self) -> dict[str, Any]:
        """Where the model is, its device and its batch size."""
        return self._system_properties

    @property
    def metrics(self) -> HandlerMetrics:
        """What the handler reports by."""
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: HandlerMetrics) -> None:
        self._metrics = metrics

    @property
    def request_processor(self) -> Sequence[RequestProcessor]:
        """The headers and statuses of the batch's requests."""
        return self._request_processor

    @request_processor.setter
    def request_processor(self, request_processor: Sequence[RequestProcessor]) -> None:
        self._request_processor = request_processor

    def get_request_id(self, idx: int = 0) -> str:
        """The id of the request at `idx` of the batch; empty outside of a batch."""
        return (self.request_ids or {}).get(idx, "")

    def get_request_header(self, idx: int, key: str) -> Any:
        """One header of the request at `idx`, or None."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """All headers of the request at `idx`."""
        return self.request_processor[idx].get_request_properties()

    def get_sequence_id(self, idx: int = 0) -> str | None:
        """The sequence id that the client gave for the request at `idx`, or None."""
        given = self.get_request_header(idx, self.header_key_sequence_id)
        return None if given is None else str(given)

    def send_intermediate(self, values: Any, places: Iterable[int] | None = None) -> None:
        """Send a part of the answers now: `values[place]` for each place, all of the batch if none are given.

        The handler's return value is the last part. A client that asked for no stream gets all parts in one piece.

        Raises:
            RuntimeError: the handler is not answering a batch.
            IndexError: there is no request at one of the places.
        """
        if self.send_part is None:
            raise RuntimeError("an intermediate response can only be sent while the handler answers a batch")
        count = len(self.request_processor)
        chosen = range(count) if places is None else [operator.index(place) for place in places]
        for place in chosen:
            if not 0 <= place < count:
                raise IndexError(f"there is no request at place {place} of a batch of {count}")
        self.send_part(values, chosen)

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of the answer at `idx` (REST only, as in TorchServe)."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """The content type set for the answer at `idx`, or None."""
        return self.request_processor[idx].get_response_header("content-type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of the answer at `idx` (REST only, as in TorchServe, except `satrap-stale`)."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """The headers set for the answer at `idx`."""
        return self.request_processor[idx].get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the HTTP status of the answer at `idx` (REST only, as in TorchServe)."""
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the HTTP status of every answer of the batch."""
        for processor in self.request_processor:
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """The HTTP status and reason phrase set for the answer at `idx`."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()
