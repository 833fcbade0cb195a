"""TorchServe's gRPC management API on top of the model service."""

import functools
import json
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from satrap.errors import InvalidInputError, SatrapError
from satrap.protos import management_pb2 as pb
from satrap.protos import management_pb2_grpc
from satrap.rpc import AioContext
from satrap.serving.metrics.calls import CANCELLED, INTERNAL_ERROR, CallLog
from satrap.serving.model_service import ModelService
from satrap.serving.request import OK
from satrap.serving.status import management_status
from satrap.serving.version_spec import RegisterParameters

__all__ = ["ManagementApi"]

_SERVICE = "org.pytorch.serve.grpc.management.ManagementAPIsService/"

R = TypeVar("R")
Method = Callable[["ManagementApi", R, AioContext], Awaitable[pb.ManagementResponse]]


def _answers(method: Callable[["ManagementApi", R], Awaitable[str]]) -> Method[R]:
    """Turn a method that returns a sentence, or raises one of satrap's errors, into an RPC."""

    @functools.wraps(method)
    async def call(self: "ManagementApi", request: R, context: AioContext) -> pb.ManagementResponse:
        started = time.perf_counter()
        status = CANCELLED
        try:
            sentence = await method(self, request)
            status = OK
            return pb.ManagementResponse(msg=sentence)
        except SatrapError as error:
            status = error.http_status
            await context.abort(*management_status(error))
            raise AssertionError("abort always raises") from error
        except Exception:
            status = INTERNAL_ERROR
            raise
        finally:
            if self._calls is not None:
                seconds = time.perf_counter() - started
                self._calls.grpc(_SERVICE + method.__name__, context.peer(), status, seconds)

    return call


def _given(value: int) -> int | None:
    """proto3 cannot tell 0 from nothing: as in TorchServe only a positive number counts."""
    return value if value > 0 else None


class ManagementApi(management_pb2_grpc.ManagementAPIsServiceServicer):
    """Models registered, described, scaled, made default and unregistered."""

    def __init__(self, service: ModelService, calls: CallLog | None = None) -> None:
        """Manage that service's models; `calls` is told about every call when it has ended."""
        self._service, self._calls = service, calls

    @_answers
    async def RegisterModel(self, request: pb.RegisterModelRequest) -> str:  # noqa: N802 (the RPC's name)
        """Register a version from the model store."""
        outcome = await self._service.register(
            RegisterParameters(
                url=request.url or None,
                model_name=request.model_name or None,
                handler=request.handler or None,
                runtime=request.runtime or None,
                batch_size=_given(request.batch_size),
                max_batch_delay=_given(request.max_batch_delay),
                initial_workers=_given(request.initial_workers),
                response_timeout=_given(request.response_timeout),
                startup_timeout=_given(request.startup_timeout),
                synchronous=request.synchronous,
                s3_sse_kms=request.s3_sse_kms,
            )
        )
        return outcome.sentence

    @_answers
    async def UnregisterModel(self, request: pb.UnregisterModelRequest) -> str:  # noqa: N802
        """Take a version out; answered when all that it had accepted is."""
        return (await self._service.unregister(_named(request.model_name), request.model_version)).sentence

    @_answers
    async def SetDefault(self, request: pb.SetDefaultRequest) -> str:  # noqa: N802
        """Make a version the one that answers when none is named."""
        return self._service.set_default(_named(request.model_name), request.model_version).sentence

    @_answers
    async def ScaleWorker(self, request: pb.ScaleWorkerRequest) -> str:  # noqa: N802
        """Change the number of workers; `timeout` and `number_gpu` mean nothing, as in TorchServe."""
        minimum = _given(request.min_worker) or 1
        outcome = await self._service.scale(
            _named(request.model_name),
            request.model_version,
            minimum,
            _given(request.max_worker),
            synchronous=request.synchronous,
        )
        return outcome.sentence

    @_answers
    async def DescribeModel(self, request: pb.DescribeModelRequest) -> str:  # noqa: N802
        """A JSON array with a description of each version asked for."""
        described = await self._service.catalog.describe(
            _named(request.model_name), request.model_version, customized=request.customized
        )
        return json.dumps(described, indent=2)

    @_answers
    async def ListModels(self, request: pb.ListModelsRequest) -> str:  # noqa: N802
        """A JSON document with the models; a limit of 0 means 100, as the proto file says."""
        return json.dumps(
            self._service.catalog.list_models(request.limit or 100, request.next_page_token), indent=2
        )


def _named(model: str) -> str:
    if not model:
        raise InvalidInputError("Parameter model_name is required.")
    return model
