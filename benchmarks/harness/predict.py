"""Clients of TorchServe's `Predictions`, and the echo server that marks their floor."""

import json
import sys
from collections.abc import Mapping
from concurrent import futures

import grpc
import numpy as np
from numpy.typing import NDArray

from satrap.protos import inference_pb2, inference_pb2_grpc

__all__ = ["PredictCaller", "parse_answer", "prediction_request"]

_DEADLINE_SECONDS = 30.0
_ECHO_THREADS = 8
_METHOD = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"


def prediction_request(model: str, inputs: Mapping[str, bytes]) -> bytes:
    """A `PredictionsRequest`, as it goes over the wire."""
    return inference_pb2.PredictionsRequest(model_name=model, input=inputs).SerializeToString()


def parse_answer(prediction: bytes) -> NDArray[np.float64]:
    """The list of floats that a handler answered."""
    return np.asarray(json.loads(prediction), dtype=np.float64)


class PredictCaller:
    """A client with the stub that protoc generates, on a connection that it shares with nobody."""

    def __init__(self, address: str) -> None:
        """Open a channel to `host:port`."""
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._predictions = inference_pb2_grpc.InferenceAPIsServiceStub(self._channel).Predictions

    def prepare(self, payload: bytes) -> object:
        """A message; gRPC serializes it at each call."""
        return inference_pb2.PredictionsRequest.FromString(payload)

    def call(self, prepared: object) -> bytes:
        """The prediction's bytes."""
        answer: bytes = self._predictions(prepared, timeout=_DEADLINE_SECONDS).prediction
        return answer

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def serve_echo(answer_bytes: int) -> None:
    """Answer every Predictions with as many bytes, on a port that the first line on stdout names. Never returns."""
    answer = inference_pb2.PredictionResponse(prediction=b"0" * answer_bytes)

    def predict(request: inference_pb2.PredictionsRequest, context: grpc.ServicerContext) -> object:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        predict,
        request_deserializer=inference_pb2.PredictionsRequest.FromString,
        response_serializer=inference_pb2.PredictionResponse.SerializeToString,
    )
    service, method = _METHOD.strip("/").split("/")
    server = grpc.server(futures.ThreadPoolExecutor(_ECHO_THREADS), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve_echo(int(sys.argv[1]))
