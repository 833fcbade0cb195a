"""Tokens over gRPC: every kind of call, with a real server."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from satrap import rpc
from satrap.protos import inference_pb2 as pb
from satrap.protos import inference_pb2_grpc
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


def served(tmp_path: Path, body):
    """Run `body(stub, channel, header of the inference key)` against a server that asks for tokens."""

    async def run():
        tokens = TokenAuthorization(tmp_path / "key_file.json")
        server = rpc.aio_server(
            max_receive=1000, max_send=1000, interceptors=[TokenInterceptor(tokens, "inference")]
        )
        inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(Answers(), server)
        port = rpc.listen(server, "127.0.0.1:0")
        await server.start()
        try:
            async with rpc.aio_channel(f"127.0.0.1:{port}") as channel:
                stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
                await asyncio.wait_for(body(stub, channel, f"Bearer {tokens.keys.inference}"), 30)
        finally:
            await server.stop(None)

    asyncio.run(run())


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
def test_every_kind_of_call_is_refused_without_the_key(tmp_path: Path, metadata):
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

    served(tmp_path, body)


def test_strangers_do_not_learn_which_methods_there_are(tmp_path: Path):
    async def body(stub, channel, header):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/some.Service/Method")(b"")
        assert is_refused(caught)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/some.Service/Method")(b"", metadata=(("authorization", header),))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    served(tmp_path, body)


def test_with_the_key_calls_pass(tmp_path: Path):
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

    served(tmp_path, body)
