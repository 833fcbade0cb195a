"""What is around models: paths, methods, metrics, tokens, urls, what is loaded at the start."""

import json

from torchserve_calls.call import Ready, Rpc, Scenario, Step
from torchserve_calls.scenarios.spelling import do, infer, manage, metrics, predict, rpc

__all__ = ["METRICS", "OTHER_SETTINGS", "PATHS", "STARTUP", "TOKENS", "URLS"]


def _paths() -> list[Step]:
    steps: list[Step] = [
        infer("GET", "/ping"),
        infer("GET", "/ping/"),
        infer("GET", "/ping?x=1"),
        *(infer(method, "/ping") for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")),
        infer("OPTIONS", "/"),
        infer("GET", "/"),
        infer("POST", "/"),
        infer("OPTIONS", "*"),
        infer("GET", "/api-description"),
        infer("POST", "/api-description"),
        infer("OPTIONS", "/predictions/noop"),
        infer("GET", "/nowhere"),
        infer("GET", "/nowhere/at/all"),
        infer("GET", "/%"),
        infer("GET", "/ping%00"),
        infer("GET", "/models"),
        infer("POST", "/models?url=noop_v1.mar"),
        infer("DELETE", "/models/noop"),
        infer("GET", "/metrics"),
        manage("GET", "/ping"),
        manage("OPTIONS", "/"),
        manage("GET", "/"),
        manage("GET", "/api-description"),
        manage("POST", "/predictions/noop", b"x"),
        manage("GET", "/nowhere"),
        manage("GET", "/metrics"),
        manage("GET", "/workflows"),
        manage("POST", "/workflows?url=x.war"),
        manage("GET", "/token?type=inference", note="tokens are off"),
        metrics("/ping"),
        metrics("/"),
        metrics("/", "OPTIONS"),
        metrics("/nowhere"),
    ]
    routes = (
        "/predictions/noop",
        "/invocations",
        "/models/noop/invoke",
        "/noop/predict",
        "/v1/models/noop:predict",
        "/v2/models/noop/infer",
        "/explanations/noop",
        "/wfpredict/noop",
        "/predictions/noop/1.0/x",
    )
    steps += [infer("POST", route, b"x") for route in routes]
    steps += [
        infer("POST", "/invocations?model_name=noop", b"x"),
        infer("POST", "/invocations", b'{"model_name": "noop"}', [("Content-Type", "application/json")]),
        infer("POST", "/nobody/predict", b"x"),
        infer("POST", "/v1/models/nobody:predict", b"x"),
        infer("POST", "/v2/models/nobody/infer", b"x"),
        infer("POST", "/models/nobody/invoke", b"x"),
        infer("GET", "/v1/models/noop"),
        infer("GET", "/v2/models/noop"),
        infer("GET", "/v2/health/live"),
        infer("POST", "/predictions/noop", b"x", [("Host", "example.org")], note="two hosts"),
        infer("POST", "/predictions/noop", b"x", [("Connection", "close")], note="connection: close"),
        infer("GET", "/ping", headers=[("Origin", "http://example.org")], note="origin"),
        infer(
            "OPTIONS",
            "/predictions/noop",
            headers=[("Origin", "http://example.org"), ("Access-Control-Request-Method", "POST")],
            note="preflight",
        ),
        infer("GET", "http://127.0.0.1/ping", note="absolute form"),
        infer("BREW", "/ping", note="unknown method"),
        infer("GET", "/ping", headers=[("x-request-id", "7")], note="its own request id"),
    ]
    return steps


PATHS = Scenario("paths", [manage("POST", "/models?url=noop_v1.mar&initial_workers=1"), *_paths()])

METRICS = Scenario(
    "metrics",
    [
        manage("POST", "/models?url=behaviours.mar&initial_workers=1"),
        do("text"),
        do("raise"),
        infer("POST", "/predictions/behaviours/1.0", b"x", [("do", "text")]),
        infer("POST", "/predictions/nobody", b"x"),
        infer("GET", "/ping"),
        predict("behaviours", do=b"text"),
        predict("behaviours", "1.0", do=b"text"),
        predict("behaviours", do=b"raise"),
        do("metrics"),
        predict("behaviours", do=b"metrics"),
        do("text", note="so that the metrics before are in"),
        metrics("/metrics"),
        metrics("/metrics?name[]=ts_inference_requests_total"),
        metrics("/metrics?name[]=Requests2XX&name[]=ts_inference_requests_total"),
        metrics("/metrics?name[]=nothing"),
        metrics("/metrics?name%5B%5D=Requests5XX"),
        metrics("/metrics?name="),
        metrics("/metrics", "POST"),
    ],
    settings={"metrics_mode": "prometheus", "model_metrics_auto_detect": "true"},
)


def _bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer ${key}"),)


def _tokens() -> list[Step]:
    inference, management, api = (_bearer(f"{name}_KEY") for name in ("INFERENCE", "MANAGEMENT", "API"))
    register = "/models?url=noop_v1.mar&initial_workers=1"
    grpc_inference, grpc_management = ((("authorization", value[0][1]),) for value in (inference, management))
    input_ = {"model_name": "noop", "input": {"data": b"x"}}
    return [
        manage("POST", register, note="no token"),
        manage("POST", register, headers=inference, note="inference token"),
        manage("POST", register, headers=api, note="api token"),
        manage("POST", register, headers=[("Authorization", "Bearer wrong")], note="wrong token"),
        manage("POST", register, headers=[("Authorization", "$MANAGEMENT_KEY")], note="no scheme"),
        manage("POST", register, headers=[("Authorization", "Basic $MANAGEMENT_KEY")], note="basic"),
        manage(
            "POST", register, headers=[("Authorization", "bearer $MANAGEMENT_KEY")], note="lower case bearer"
        ),
        manage("DELETE", "/models/noop", headers=management, note="if it is there"),
        manage("POST", register, headers=[("Authorization", "Bearer  $MANAGEMENT_KEY")], note="two spaces"),
        manage("DELETE", "/models/noop", headers=management, note="if it is there"),
        manage("POST", register, headers=[("Authorization", "")], note="empty"),
        manage(
            "POST", register, headers=[("authorization", "Bearer $MANAGEMENT_KEY")], note="lower case header"
        ),
        manage("GET", "/models", note="no token"),
        manage("GET", "/models", headers=management),
        manage("GET", "/ping", note="no token"),
        manage("GET", "/nowhere", note="no token"),
        manage("OPTIONS", "/", note="no token"),
        manage("OPTIONS", "/", headers=management),
        manage("GET", "/api-description", note="no token"),
        infer("GET", "/ping", note="no token"),
        infer("GET", "/ping", headers=management, note="management token"),
        infer("GET", "/ping", headers=inference),
        infer("OPTIONS", "/", note="no token"),
        infer("OPTIONS", "/", headers=inference),
        infer("GET", "/api-description", note="no token"),
        infer("GET", "/nowhere", note="no token"),
        infer("POST", "/predictions/noop", b"x", note="no token"),
        infer("POST", "/predictions/noop", b"x", management, note="management token"),
        infer("POST", "/predictions/noop", b"x", inference),
        infer("POST", "/predictions/nobody", b"x", note="no token"),
        metrics("/metrics", note="no token"),
        rpc("Ping"),
        Rpc("Ping", metadata=grpc_inference, note="token"),
        Rpc("Predictions", (input_,), note="no token"),
        Rpc("Predictions", (input_,), grpc_management, note="management token"),
        Rpc("Predictions", (input_,), grpc_inference, note="token"),
        Rpc("Predictions", (input_,), (("authorization", "Bearer wrong"),), note="wrong token"),
        Rpc("Predictions", (input_,), (("authorization", "$INFERENCE_KEY"),), note="no scheme"),
        rpc("ListModels", limit=10),
        Rpc("ListModels", ({"limit": 10},), grpc_inference, note="inference token"),
        Rpc("ListModels", ({"limit": 10},), grpc_management, note="token"),
        Rpc("RegisterModel", ({"url": "plain.mar"},), note="no token"),
        manage("GET", "/token?type=management", note="no token"),
        manage("GET", "/token?type=management", headers=management, note="management token"),
        manage("GET", "/token", headers=api, note="no type"),
        manage("GET", "/token?type=nonsense", headers=api, note="unknown type"),
        manage("POST", "/token?type=inference", headers=api, note="POST"),
        manage("GET", "/token?type=inference", headers=api),
        infer("GET", "/ping", headers=inference, note="the new token"),
        manage("GET", "/token?type=management", headers=api),
        manage("GET", "/models", headers=management, note="the new token"),
        manage("GET", "/token?type=API", headers=api),
        infer("GET", "/token?type=inference", headers=api, note="wrong port"),
    ]


TOKENS = Scenario("tokens", _tokens(), settings={"enable_model_api": "true"}, tokens=True)

URLS = Scenario(
    "urls",
    [
        manage("POST", "/models?url=$FILES/good/good_file.mar&initial_workers=1"),
        manage("GET", "/models/good_file"),
        infer("POST", "/predictions/good_file", b"x"),
        manage("POST", "/models?url=$FILES/good/good_file.mar", note="twice"),
        manage("DELETE", "/models/good_file"),
        manage("POST", "/models?url=$FILES/good/good_file.mar", note="after it was removed"),
        manage("DELETE", "/models/good_file"),
        manage("POST", "/models?url=$FILES/other/other_file.mar", note="not allowed"),
        rpc("RegisterModel", url="$FILES/other/other_file.mar"),
        manage("POST", "/models?url=$FILES/good/../other/other_file.mar"),
        manage("POST", "/models?url=$FILES/good/missing.mar"),
        rpc("RegisterModel", url="$FILES/good/missing.mar"),
        manage("POST", "/models?url=$FILES/good/plain.mar", note="a file of this name is in the store"),
        manage("POST", "/models?url=$FILES/good/broken.mar"),
        manage("POST", "/models?url=$FILES/good/", note="no file name"),
        manage("POST", "/models?url=https://127.0.0.1:1/good/x.mar", note="https"),
        manage("POST", "/models?url=http://127.0.0.1:1/good/x.mar", note="nobody there"),
        manage("POST", "/models?url=file:///etc/passwd"),
        manage("GET", "/models"),
    ],
    settings={"allowed_urls": "http://127[.]0[.]0[.]1:[0-9]+/good/.*"},
)

_AT_START = {
    "noop": {
        "1.0": {
            "defaultVersion": False,
            "marName": "noop_v1.mar",
            "minWorkers": 1,
            "maxWorkers": 2,
            "batchSize": 4,
            "maxBatchDelay": 25,
            "responseTimeout": 77,
            "startupTimeout": 88,
        },
        "2.0": {"defaultVersion": True, "marName": "noop_v2.mar", "minWorkers": 1, "maxWorkers": 1},
    }
}

STARTUP = Scenario(
    "startup",
    [
        Ready("noop", 1),
        Ready("named", 1),
        Ready("configured", 1),
        manage("GET", "/models"),
        manage("GET", "/models/noop/all"),
        manage("GET", "/models/named"),
        manage("GET", "/models/configured"),
        infer("POST", "/predictions/named", b"x"),
        infer("POST", "/predictions/noop", b"x"),
    ],
    settings={
        "load_models": "noop_v1.mar,noop_v2.mar,named=plain.mar,configured.mar",
        "default_workers_per_model": "1",
        "default_response_timeout": "33",
        "job_queue_size": "7",
        "models": json.dumps(_AT_START),
    },
)

_ORIGIN = [("Origin", "http://example.org")]

OTHER_SETTINGS = Scenario(
    "other_settings",
    [
        manage("POST", "/models?url=behaviours.mar&initial_workers=1", headers=_ORIGIN, note="origin"),
        manage("GET", "/models/behaviours"),
        infer("GET", "/ping", headers=_ORIGIN, note="origin"),
        infer("GET", "/ping"),
        infer("GET", "/nowhere", headers=_ORIGIN, note="origin"),
        do("text", *_ORIGIN),
        infer(
            "OPTIONS",
            "/predictions/behaviours",
            headers=[*_ORIGIN, ("Access-Control-Request-Method", "POST")],
            note="preflight",
        ),
        do("echo", body=b"x" * 1_900, note="small enough"),
        do("echo", body=b"x" * 2_100, note="too large"),
        predict("behaviours", "", "too large", data=b"x" * 2_100),
        do("large-answer"),
        Ready("behaviours", 1),
        predict("behaviours", do=b"text"),
        do("raise"),
        metrics("/metrics"),
    ],
    settings={
        "cors_allowed_origin": "http://example.org",
        "cors_allowed_methods": "GET, POST, PUT, OPTIONS",
        "cors_allowed_headers": "X-Custom-Header",
        "metrics_mode": "legacy",
        "max_request_size": "2000",
        "max_response_size": "100000",
        "job_queue_size": "3",
        "default_response_timeout": "33",
        "default_startup_timeout": "44",
    },
)
