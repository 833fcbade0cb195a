"""A handler that does what the request says: `do`, an input (gRPC, forms) or a header (any HTTP request)."""

import json
import math
import time

import torch
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


def handle(data, context):
    if data is None:
        return None
    return _BEHAVIOURS[_wanted(data[0], context)](data, context)


def _wanted(row, context):
    said = row.get("do") or context.get_request_header(0, "do") or "echo"
    return said if isinstance(said, str) else bytes(said).decode()


def _echo(data, context):
    """What arrived: types and values by key."""
    return [
        {key: [type(value).__name__, _shown(value)] for key, value in sorted(row.items())} for row in data
    ]


def _shown(value):
    if isinstance(value, bytes | bytearray):
        text = bytes(value).decode("latin-1")
        return text if len(text) <= 200 else f"{len(text)} bytes"
    return value


def _headers(data, context):
    return [{key: value for key, value in sorted(context.get_all_request_header(0).items()) if key != "Host"}]


def _header(data, context):
    names = ("x-mixed", "X-Mixed", "X-MIXED", "Content-Type", "content-type", "url_path", "explain", "absent")
    return [{name: context.get_request_header(0, name) for name in names}]


def _context(data, context):
    """The attributes of the context that are the same wherever it runs."""
    properties = dict(context.system_properties)
    model_dir = properties.pop("model_dir")
    return [
        {
            "model_name": context.model_name,
            "manifest": {key: value for key, value in context.manifest.items() if key != "createdOn"},
            "system_properties": properties,
            "model_dir": type(model_dir).__name__,
            "model_yaml_config": context.model_yaml_config,
            "request_ids": {str(key): len(value) for key, value in context.request_ids.items()},
            "request_id": context.get_request_id(0) == context.request_ids[0],
            "sequence_id": context.get_sequence_id(0),
            "content_type_before": context.get_response_content_type(0),
            "status_before": list(context.get_response_status(0)),
            "headers_before": context.get_response_headers(0),
            "header_keys": [
                context.header_key_sequence_id,
                context.header_key_sequence_start,
                context.header_key_sequence_end,
            ],
        }
    ]


def _raise(data, context):
    raise ValueError("the handler's own words")


def _prediction_exception(data, context):
    code = data[0].get("code") or context.get_request_header(0, "code") or b"513"
    raise PredictionException("the handler's sentence", int(code if isinstance(code, str) else bytes(code)))


def _prediction_exception_without_code(data, context):
    raise PredictionException("the handler's sentence")


def _memory_error(data, context):
    raise MemoryError("no more")


def _cuda(data, context):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _slow(data, context):
    time.sleep(3)
    return ["late"] * len(data)


def _status(data, context):
    context.set_response_status(418, "I'm a teapot", 0)
    context.set_response_content_type(0, "text/tea; charset=utf-8")
    context.set_response_header(0, "X-Leaves", "green")
    context.set_response_header(0, "x-request-id", "mine")
    return ["short and stout"]


def _created(data, context):
    context.set_all_response_status(201, "Created")
    context.set_response_content_type(0, "application/json")
    return [json.dumps({"made": True})]


def _unavailable(data, context):
    context.set_response_status(503, "Later", 0)
    return ["come back"]


def _describe(data, context):
    return [{"described": context.get_request_header(0, "describe")}]


def _stream(data, context):
    for number in range(3):
        send_intermediate_predict_response(
            [f"part {number} "], context.request_ids, "Intermediate", 200, context
        )
    return ["end"]


def _stream_json(data, context):
    send_intermediate_predict_response([{"part": 1}], context.request_ids, "Intermediate", 200, context)
    send_intermediate_predict_response([b"\x00\x01"], context.request_ids, "Intermediate", 200, context)
    return [[1.5, 2.5]]


def _stream_raise(data, context):
    send_intermediate_predict_response(["part "], context.request_ids, "Intermediate", 200, context)
    raise ValueError("after the first part")


def _metrics(data, context):
    context.metrics.add_counter("Answers", 2)
    context.metrics.add_time("Thinking", 12.5, None, "ms")
    context.metrics.add_size("Answer", 10, None, "B")
    context.metrics.add_percent("Certainty", 50)
    return ["counted"]


def _exit(data, context):
    import os

    os._exit(3)


def _answer(value):
    return lambda data, context: [value() if callable(value) else value]


def _result(value):
    return lambda data, context: value() if callable(value) else value


class _Odd:
    def __repr__(self):
        return "odd"


_BEHAVIOURS = {
    "echo": _echo,
    "headers": _headers,
    "header": _header,
    "context": _context,
    "raise": _raise,
    "prediction-exception": _prediction_exception,
    "prediction-exception-without-code": _prediction_exception_without_code,
    "memory-error": _memory_error,
    "cuda": _cuda,
    "slow": _slow,
    "status": _status,
    "created": _created,
    "unavailable": _unavailable,
    "describe": _describe,
    "stream": _stream,
    "stream-json": _stream_json,
    "stream-raise": _stream_raise,
    "metrics": _metrics,
    "exit": _exit,
    "none": _result(None),
    "tuple": _result(("a",)),
    "dict": _result({"a": 1}),
    "string": _result("a"),
    "bytes-result": _result(b"a"),
    "number": _result(1),
    "generator": _result(lambda: (one for one in "a")),
    "no-elements": _result([]),
    "two-elements": _result(["a", "b"]),
    "array-result": _result(lambda: torch.ones(1).numpy()),
    "tensor-result": _result(lambda: torch.ones(1)),
    "tensor": _answer(lambda: torch.tensor([[1.0, 2.5]])),
    "integer-tensor": _answer(lambda: torch.tensor(7)),
    "array": _answer(lambda: torch.ones(2).numpy()),
    "numpy-float": _answer(lambda: torch.ones(1).numpy()[0]),
    "set": _answer(lambda: {1}),
    "odd": _answer(_Odd),
    "none-element": _answer(None),
    "true": _answer(True),
    "integer": _answer(12),
    "float": _answer(0.1),
    "float32": _answer(lambda: float(torch.tensor(0.1))),
    "small": _answer(1e-7),
    "large": _answer(1e22),
    "nan": _answer(lambda: [math.nan, math.inf, -math.inf]),
    "text": _answer("grüße ☃"),
    "empty-text": _answer(""),
    "bytes": _answer(b"\x00\xff\x10"),
    "bytearray": _answer(lambda: bytearray(b"abc")),
    "memoryview": _answer(lambda: memoryview(b"abc")),
    "empty-bytes": _answer(b""),
    "list": _answer(lambda: [0.1, 1 / 3, 1e-07]),
    "empty-list": _answer(list),
    "nested": _answer(lambda: [[1, [2.0, None]], {"b": [True], "a": "ü"}]),
    "tuple-element": _answer((1, 2)),
    "mapping": _answer(lambda: {"z": 1, "a": {"n": None}}),
    "empty-mapping": _answer(dict),
    "number-keys": _answer(lambda: {1: 2, None: 3}),
    "tuple-keys": _answer(lambda: {(1, 2): 3}),
    "large-answer": _answer(lambda: b"x" * 1_000_000),
    "too-large-answer": _answer(lambda: b"x" * 7_000_000),
}
