"""What becomes of what a handler returns, raises or sets."""

from torchserve_calls.call import Ready, Scenario, Step
from torchserve_calls.scenarios.spelling import do, infer, manage, predict, predictions, rpc

__all__ = ["ANSWERS", "CRASHES", "STREAMS", "STREAM_FAILURES"]

_REGISTER: list[Step] = [
    manage("POST", "/models?url=behaviours.mar&initial_workers=1&synchronous=true"),
    Ready("behaviours", 1),
]
_VALUES = (
    *("tensor", "integer-tensor", "array", "numpy-float", "set", "odd", "none-element", "true", "integer"),
    *("float", "float32", "small", "large", "nan", "text", "empty-text", "bytes", "bytearray", "memoryview"),
    *("empty-bytes", "list", "empty-list", "nested", "tuple-element", "mapping", "empty-mapping"),
    *("number-keys", "tuple-keys", "large-answer"),
)
_RESULTS = (
    *("none", "tuple", "dict", "string", "bytes-result", "number", "generator", "no-elements"),
    *("two-elements", "array-result", "tensor-result"),
)
_FAILURES = ("raise", "prediction-exception-without-code", "memory-error", "cuda", "no-such-behaviour")
_CODES = (
    200,
    204,
    302,
    400,
    401,
    403,
    404,
    405,
    408,
    409,
    413,
    416,
    418,
    429,
    499,
    500,
    501,
    503,
    504,
    507,
    513,
    599,
)


def _over_both(behaviours: tuple[str, ...]) -> list[Step]:
    steps: list[Step] = []
    for behaviour in behaviours:
        steps += [do(behaviour), predict("behaviours", do=behaviour.encode())]
    return steps


def _codes() -> list[Step]:
    steps: list[Step] = []
    for code in _CODES:
        steps.append(do("prediction-exception", ("code", str(code)), note=f"PredictionException {code}"))
        steps.append(predict("behaviours", do=b"prediction-exception", code=str(code).encode()))
    return steps


_DECLARED = ("status", "created", "unavailable", "metrics", "describe")

ANSWERS = Scenario(
    "answers",
    [
        *_REGISTER,
        *_over_both(_VALUES),
        *_over_both(_RESULTS),
        *_over_both(_FAILURES),
        *_codes(),
        *_over_both(_DECLARED),
        do("text", note="still answers"),
    ],
)

CRASHES = Scenario(
    "crashes",
    [
        *_REGISTER,
        do("exit"),
        Ready("behaviours", 1),
        predict("behaviours", do=b"exit"),
        Ready("behaviours", 1),
        do("text", note="after two crashes"),
        do("too-large-answer"),
        Ready("behaviours", 1),
        predict("behaviours", do=b"too-large-answer"),
        Ready("behaviours", 1),
        do("echo", body=b"x" * 7_000_000, note="too large a request"),
        predict("behaviours", "", "too large a request", data=b"x" * 7_000_000),
        do("echo", body=b"x" * 6_553_400, note="just small enough"),
        manage("GET", "/models/behaviours"),
        manage("DELETE", "/models/behaviours"),
        manage("POST", "/models?url=behaviours.mar&initial_workers=1&response_timeout=1"),
        manage("GET", "/models/behaviours", note="a response_timeout, and a config file without one"),
        manage("DELETE", "/models/behaviours"),
        manage("POST", "/models?url=timed.mar&initial_workers=1&response_timeout=1"),
        Ready("timed", 1),
        infer("POST", "/predictions/timed", b"x", [("do", "slow")], "slow"),
        Ready("timed", 1),
        predict("timed", do=b"slow"),
        Ready("timed", 1),
        infer("POST", "/predictions/timed", b"x", [("do", "text")], "after two time-outs"),
        manage("PUT", "/models/timed?min_worker=0&synchronous=true"),
        infer("POST", "/predictions/timed", b"x", note="no worker"),
        infer("POST", "/predictions/timed/1.0", b"x", note="no worker, version"),
        predict("timed", "", "no worker", data=b"x"),
        predict("timed", "1.0", "no worker, version", data=b"x"),
        predictions("StreamPredictions", "timed", {"data": b"x"}, note="no worker"),
        manage("GET", "/models/timed?customized=true", note="no worker"),
        rpc("DescribeModel", model_name="timed", customized=True),
        infer("GET", "/ping", note="no worker, none wanted"),
    ],
)


def _streamed(behaviour: bytes, note: str = "") -> Step:
    return predictions("StreamPredictions", "behaviours", {"do": behaviour}, note=note)


STREAMS = Scenario(
    "streams",
    [
        *_REGISTER,
        _streamed(b"stream"),
        _streamed(b"stream-json"),
        do("stream"),
        do("stream", ("Content-Type", "application/json"), body=b"{}", note="stream for json"),
        do("stream-json"),
        predictions("StreamPredictions", "nobody", {"data": b"x"}),
        predictions("StreamPredictions", "", {"data": b"x"}, note="no model"),
        predictions("StreamPredictions2", "behaviours", note="no message"),
        predictions("StreamPredictions2", "nobody", {"data": b"x"}, note="unknown model"),
        predictions("StreamPredictions2", "", {"data": b"x"}, note="no model"),
        predictions("StreamPredictions2", "behaviours", {"do": b"text"}, note="one message"),
        predict("behaviours", do=b"stream"),
        Ready("behaviours", 1),
        predictions("StreamPredictions2", "behaviours", {"do": b"text"}, {"data": b"x"}, {"do": b"integer"}),
        _streamed(b"stream", "still streams"),
    ],
)

STREAM_FAILURES = Scenario(
    "stream_failures",
    [
        *_REGISTER,
        _streamed(b"text", "a handler that does not stream"),
        Ready("behaviours", 1),
        _streamed(b"stream-raise"),
        Ready("behaviours", 1),
        _streamed(b"raise"),
        Ready("behaviours", 1),
        do("stream-raise"),
        do("text", note="still answers"),
    ],
)
