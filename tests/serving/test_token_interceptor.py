"""Tokens over gRPC: every kind of call, with both servers that serve it."""

import asyncio
import functools
import socket
from pathlib import Path

import grpc
import grpc.aio
import pytest

from satrap import rpc
from satrap.protos import inference_pb2 as pb
from satrap.protos import inference_pb2_grpc
from satrap.serving.grpc_server.server import GrpcServer
from satrap.serving.metrics.calls import CallLog
from satrap.serving.token_interceptor import TokenInterceptor
from satrap.serving.tokens import TokenAuthorization


class Answers(inference_pb2_grpc.InferenceAPIsServiceServicer):
    async def Ping(self, request, context):
        return pb.TorchServeHealthResponse(health="fine")

    async def StreamPredictions(self, request, context):
        yield pb.PredictionResponse(prediction=b"one")

    async def StreamPredictions2(self, requests, context):
        async for _ in requests:
            yield pb.PredictionResponse(prediction=b"one")


def of_grpcio(tokens: TokenAuthorization) -> tuple[grpc.aio.Server, int]:
    server = rpc.aio_server(
        max_receive=1000, max_send=1000, interceptors=[TokenInterceptor(tokens, "inference")]
    )
    return server, rpc.listen(server, "127.0.0.1:0")


def our_own(tokens: TokenAuthorization) -> tuple[GrpcServer, int]:
    listening = socket.create_server(("127.0.0.1", 0))
    admit = functools.partial(tokens.check, "inference")
    server = GrpcServer(listening, max_receive=1000, max_send=1000, admit=admit)
    return server, listening.getsockname()[1]


@pytest.fixture(params=[of_grpcio, our_own])
def served(tmp_path: Path, request):
    """served(body) runs `body(stub, channel, header of the inference key)` against a server that asks for tokens."""

    async def run(body) -> None:
        tokens = TokenAuthorization(tmp_path / "key_file.json")
        server, port = request.param(tokens)
        inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(Answers(), server)
        await server.start()
        try:
            async with rpc.aio_channel(f"127.0.0.1:{port}") as channel:
                stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
                await asyncio.wait_for(body(stub, channel, f"Bearer {tokens.keys.inference}"), 30)
        finally:
            await server.stop(0)

    return lambda body: asyncio.run(run(body))


async def never():
    await asyncio.Event().wait()
    yield pb.PredictionsRequest()


def is_refused(caught) -> bool:
    return (
        caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        and caught.value.details()
        == "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
    )


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer wrong"),),
        (("authorization", "wrong"),),
        (("authorization-bin", b"Bearer x"),),
    ],
)
def test_every_kind_of_call_is_refused_without_the_key(served, metadata):
    async def body(stub, channel, header):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Ping(pb.PredictionsRequest(), metadata=metadata)
        assert is_refused(caught)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StreamPredictions(pb.PredictionsRequest(), metadata=metadata).read()
        assert is_refused(caught)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StreamPredictions2(never(), metadata=metadata).read()
        assert is_refused(caught)

    served(body)


def test_strangers_do_not_learn_which_methods_there_are(served):
    async def body(stub, channel, header):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/some.Service/Method")(b"")
        assert is_refused(caught)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/some.Service/Method")(b"", metadata=(("authorization", header),))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    served(body)


def test_with_the_key_calls_pass(served):
    async def body(stub, channel, header):
        metadata = (("authorization", header),)
        assert (await stub.Ping(pb.PredictionsRequest(), metadata=metadata)).health == "fine"
        assert (
            await stub.StreamPredictions(pb.PredictionsRequest(), metadata=metadata).read()
        ).prediction == b"one"

        async def one():
            yield pb.PredictionsRequest()

        answers = [answer.prediction async for answer in stub.StreamPredictions2(one(), metadata=metadata)]
        assert answers == [b"one"]

    served(body)


def test_refused_calls_are_counted(tmp_path: Path):
    counted: list[int] = []
    refused: list[tuple[str, str]] = []

    async def run() -> None:
        tokens = TokenAuthorization(tmp_path / "key_file.json")
        calls = CallLog(
            counted.append, lines=False, count_refused=lambda api, reason: refused.append((api, reason))
        )
        interceptors = [TokenInterceptor(tokens, "inference", calls)]
        server = rpc.aio_server(max_receive=1000, max_send=1000, interceptors=interceptors)
        inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(Answers(), server)
        port = rpc.listen(server, "127.0.0.1:0")
        await server.start()
        async with rpc.aio_channel(f"127.0.0.1:{port}") as channel:
            stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Ping(pb.PredictionsRequest())
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.StreamPredictions(pb.PredictionsRequest()).read()
            await stub.Ping(
                pb.PredictionsRequest(), metadata=(("authorization", f"Bearer {tokens.keys.inference}"),)
            )
        await server.stop(None)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert refused == [("grpc", "token")] * 2
    assert counted == [400, 400], "what is let through the API itself counts"
