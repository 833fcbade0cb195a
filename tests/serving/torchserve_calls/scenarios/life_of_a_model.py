"""Management: registration with every parameter, versions, scaling, descriptions, lists, removal."""

from torchserve_calls.call import Ready, Scenario, Step
from torchserve_calls.scenarios.spelling import infer, json_call, manage, predict, rpc

__all__ = ["LISTS", "MODEL_API_OFF", "REGISTRATION", "SCALING", "VERSIONS"]

_BAD_ARCHIVES = (
    *("no_manifest", "empty_manifest", "no_model", "no_name", "no_version", "no_runtime", "bad_runtime"),
    *("no_handler", "handler_missing", "old", "odd_name", "not_json", "not_a_zip", "empty", "slip"),
)
_BAD_HANDLERS = (
    "fails_at_import",
    "fails_to_initialize",
    "memory_error_at_load",
    "two_classes",
    "nothing_in_it",
)


def _urls() -> list[Step]:
    return [
        manage("POST", "/models"),
        manage("POST", "/models?url="),
        manage("POST", "/models?url", note="no value"),
        manage("POST", "/models?URL=noop_v1.mar", note="upper case"),
        manage("POST", "/models?url=missing.mar"),
        manage("POST", "/models?url=../noop_v1.mar"),
        manage("POST", "/models?url=%2e%2e%2fnoop_v1.mar"),
        manage("POST", "/models?url=a..b.mar"),
        manage("POST", "/models?url=sub/missing.mar"),
        manage("POST", "/models?url=/etc/passwd"),
        manage("POST", "/models?url=%20"),
        manage("POST", "/models?url=.", note="the store itself"),
        manage("POST", "/models?url=ftp://127.0.0.1/x.mar"),
        manage("POST", "/models?url=s3://bucket/x.mar"),
        manage("POST", "/models?url=file:///nowhere/missing.mar"),
        manage("POST", "/models?url=missing%00.mar"),
        rpc("RegisterModel"),
        rpc("RegisterModel", url="missing.mar"),
        rpc("RegisterModel", url="../noop_v1.mar"),
        rpc("RegisterModel", url="/etc/passwd"),
        rpc("RegisterModel", url=" "),
        manage("POST", "/models?url=/elsewhere/noop_v1.mar", note="an absolute url means its base name"),
        manage("GET", "/models"),
        manage("DELETE", "/models/noop"),
        manage("POST", "/models?url=sub/noop_v1.mar", note="a folder means the base name"),
        manage("DELETE", "/models/noop/1.0"),
        manage("POST", "/models/noop_v1.mar", note="not a route"),
        manage("PUT", "/models?url=noop_v1.mar", note="wrong method"),
        manage("DELETE", "/models", note="wrong method"),
    ]


def _parameters() -> list[Step]:
    register = "/models?url=noop_v1.mar"
    remove = manage("DELETE", "/models/noop")
    describe = manage("GET", "/models/noop")
    everything = (
        f"{register}&model_name=renamed&handler=handler&runtime=python3&batch_size=2&max_batch_delay=30"
        "&response_timeout=40&startup_timeout=50&initial_workers=1&synchronous=true&s3_sse_kms=false"
    )
    return [
        manage("POST", register),
        describe,
        manage("POST", register, note="twice"),
        rpc("RegisterModel", url="noop_v1.mar"),
        infer("POST", "/predictions/noop", b"x", note="no worker"),
        remove,
        manage("POST", f"{register}&initial_workers=1"),
        describe,
        infer("POST", "/predictions/noop", b"x"),
        remove,
        manage("POST", f"{register}&initial_workers=1&synchronous=false"),
        Ready("noop", 1),
        infer("POST", "/predictions/noop", b"x"),
        remove,
        manage("POST", everything),
        manage("GET", "/models/renamed"),
        manage("DELETE", "/models/renamed"),
        manage("POST", f"{register}&handler=noop:handle&initial_workers=1"),
        infer("POST", "/predictions/noop", b"x"),
        remove,
        manage("POST", f"{register}&batch_size=0"),
        remove,
        manage("POST", f"{register}&batch_size=-1"),
        remove,
        manage("POST", f"{register}&batch_size=many"),
        remove,
        manage("POST", f"{register}&batch_size=2.5"),
        remove,
        manage("POST", f"{register}&batch_size="),
        remove,
        manage("POST", f"{register}&batch_size=99999999999"),
        remove,
        manage("POST", f"{register}&max_batch_delay=-1"),
        describe,
        remove,
        manage("POST", f"{register}&initial_workers=-1"),
        remove,
        manage("POST", f"{register}&initial_workers=one"),
        remove,
        manage("POST", f"{register}&response_timeout=0"),
        describe,
        remove,
        manage("POST", f"{register}&response_timeout=soon"),
        remove,
        manage("POST", f"{register}&startup_timeout=-5"),
        describe,
        remove,
        manage("POST", f"{register}&synchronous=maybe&initial_workers=1"),
        Ready("noop", 1),
        remove,
        manage("POST", f"{register}&synchronous=TRUE&initial_workers=1"),
        remove,
        manage("POST", f"{register}&runtime=ruby"),
        manage("POST", f"{register}&runtime=LSP"),
        remove,
        manage("POST", f"{register}&runtime="),
        remove,
        manage("POST", f"{register}&model_name="),
        remove,
        manage("POST", f"{register}&model_name=with%20space"),
        manage("GET", "/models/with%20space"),
        manage("DELETE", "/models/with%20space"),
        manage("POST", f"{register}&handler="),
        remove,
        manage("POST", f"{register}&handler=absent&initial_workers=1"),
        manage("GET", "/models/noop", note="a failed start leaves nothing"),
        manage("POST", f"{register}&min_workers=1&max_workers=2", note="unknown parameters"),
        describe,
        remove,
        manage("POST", f"{register}&url=missing.mar", note="url twice"),
        remove,
    ]


def _bodies() -> list[Step]:
    remove = manage("DELETE", "/models/noop")
    return [
        json_call("/models", {"url": "noop_v1.mar"}),
        remove,
        json_call(
            "/models", {"url": "noop_v1.mar", "initial_workers": 1, "batch_size": 4, "max_batch_delay": 7}
        ),
        manage("GET", "/models/noop"),
        remove,
        json_call(
            "/models", {"url": "noop_v1.mar", "initial_workers": "1", "synchronous": "true"}, note="strings"
        ),
        remove,
        json_call("/models", {"url": "noop_v1.mar", "synchronous": False, "initial_workers": 1}),
        Ready("noop", 1),
        remove,
        json_call("/models", {"url": "noop_v1.mar", "unknown": 1}, note="unknown key"),
        remove,
        json_call("/models", {}),
        json_call("/models", [], note="a list"),
        json_call("/models", {"url": None}, note="url null"),
        json_call("/models", {"url": 5}, note="url a number"),
        json_call("/models?batch_size=2", {"url": "noop_v1.mar"}, note="query and body"),
        manage("GET", "/models/noop"),
        remove,
        manage("POST", "/models", b"{broken", [("Content-Type", "application/json")], note="broken json"),
        manage("POST", "/models", b'{"url": "noop_v1.mar"}', note="json without a content type"),
        manage(
            "POST",
            "/models",
            b"url=noop_v1.mar",
            [("Content-Type", "application/x-www-form-urlencoded")],
            note="form",
        ),
        manage("POST", "/models?url=noop_v1.mar", b"ignored", note="a body beside the query"),
        remove,
    ]


def _kinds_of_archives() -> list[Step]:
    steps: list[Step] = []
    for name in _BAD_ARCHIVES:
        steps.append(manage("POST", f"/models?url={name}.mar&initial_workers=1"))
        steps.append(manage("DELETE", f"/models/{name}", note="if it is there"))
    steps += [
        rpc("RegisterModel", url="no_name.mar"),
        rpc("RegisterModel", url="bad_runtime.mar"),
        rpc("RegisterModel", url="not_a_zip.mar"),
        manage("POST", "/models?url=slip.tar.gz&initial_workers=1"),
        manage("POST", "/models?url=no_manifest.mar&model_name=given&handler=handler&initial_workers=1"),
        manage("GET", "/models/given"),
        infer("POST", "/predictions/given", b"x"),
        manage("DELETE", "/models/given"),
        manage("POST", "/models?url=no_handler.mar&handler=handler&initial_workers=1"),
        manage("DELETE", "/models/no_handler", note="if it is there"),
        manage("DELETE", "/models/odd%20name%2F%C3%BC", note="if it is there"),
    ]
    for url, name in (("packed.tar.gz", "packed"), ("stored.mar", "stored"), ("folder", "folder")):
        steps += [
            manage("POST", f"/models?url={url}&initial_workers=1"),
            infer("POST", f"/predictions/{name}", b"x"),
            manage("GET", f"/models/{name}"),
            manage("DELETE", f"/models/{name}"),
        ]
    for name in ("plain", "function", "configured"):
        steps += [
            manage("POST", f"/models?url={name}.mar&initial_workers=1"),
            infer("POST", f"/predictions/{name}", b"x"),
            manage("GET", f"/models/{name}"),
            manage("DELETE", f"/models/{name}"),
        ]
    steps += [
        manage("POST", "/models?url=function.mar&handler=named_function:first&initial_workers=1"),
        infer("POST", "/predictions/function", b"x", note="the function that was named"),
        manage("DELETE", "/models/function"),
        manage("POST", "/models?url=configured.mar&batch_size=5&initial_workers=2", note="over its config"),
        manage("GET", "/models/configured"),
        manage("DELETE", "/models/configured"),
    ]
    return steps


def _bad_handlers() -> list[Step]:
    steps: list[Step] = []
    for name in _BAD_HANDLERS:
        steps.append(manage("POST", f"/models?url={name}.mar&initial_workers=1"))
        steps.append(manage("GET", f"/models/{name}", note="it is not there"))
    steps += [
        rpc("RegisterModel", url="fails_at_import.mar", initial_workers=1, synchronous=True),
        rpc("RegisterModel", url="fails_at_import.mar", initial_workers=1),
        rpc("UnregisterModel", model_name="fails_at_import"),
    ]
    return steps


def _over_grpc() -> list[Step]:
    remove = rpc("UnregisterModel", model_name="noop")
    describe = rpc("DescribeModel", model_name="noop")
    return [
        rpc("RegisterModel", url="noop_v1.mar"),
        describe,
        remove,
        rpc("RegisterModel", url="noop_v1.mar", initial_workers=1, synchronous=True),
        describe,
        predict("noop", data=b"x"),
        remove,
        rpc("RegisterModel", url="noop_v1.mar", initial_workers=1),
        Ready("noop", 1),
        remove,
        rpc(
            "RegisterModel",
            url="noop_v1.mar",
            model_name="renamed",
            handler="noop:handle",
            runtime="python3",
            batch_size=2,
            max_batch_delay=30,
            response_timeout=40,
            startup_timeout=50,
            initial_workers=1,
            synchronous=True,
        ),
        rpc("DescribeModel", model_name="renamed"),
        rpc("UnregisterModel", model_name="renamed"),
        rpc("RegisterModel", url="noop_v1.mar", runtime="ruby"),
        rpc("RegisterModel", url="noop_v1.mar", batch_size=-1, initial_workers=-2, response_timeout=-3),
        describe,
        remove,
        remove,
    ]


REGISTRATION = Scenario(
    "registration",
    [*_urls(), *_parameters(), *_bodies(), *_kinds_of_archives(), *_bad_handlers(), *_over_grpc()],
)

VERSIONS = Scenario(
    "versions",
    [
        manage("POST", "/models?url=noop_v1.mar&initial_workers=1"),
        manage("POST", "/models?url=noop_v2.mar&initial_workers=1"),
        manage("GET", "/models/noop", note="the default"),
        manage("GET", "/models/noop/2.0"),
        manage("GET", "/models/noop/all"),
        manage("GET", "/models/noop/ALL"),
        manage("GET", "/models/noop/9.0"),
        manage("GET", "/models/nobody"),
        manage("GET", "/models/nobody/1.0"),
        manage("GET", "/models/nobody/all"),
        manage("GET", "/models/noop/"),
        manage("GET", "/models/noop/2.0/more"),
        manage("POST", "/models/noop"),
        manage("HEAD", "/models/noop"),
        manage("PATCH", "/models/noop"),
        rpc("DescribeModel", model_name="noop"),
        rpc("DescribeModel", model_name="noop", model_version="2.0"),
        rpc("DescribeModel", model_name="noop", model_version="all"),
        rpc("DescribeModel", model_name="noop", model_version="9.0"),
        rpc("DescribeModel", model_name="nobody"),
        rpc("DescribeModel"),
        infer("POST", "/predictions/noop/2.0", b"x"),
        infer("POST", "/predictions/noop/9.0", b"x"),
        predict("noop", "2.0", data=b"x"),
        predict("noop", "9.0", data=b"x"),
        manage("PUT", "/models/noop/9.0/set-default"),
        manage("PUT", "/models/nobody/1.0/set-default"),
        manage("PUT", "/models/noop/set-default"),
        manage("GET", "/models/noop/2.0/set-default", note="wrong method"),
        manage("PUT", "/models/noop/2.0/set-Default", note="case"),
        manage("PUT", "/models/noop/2.0/set-default/more"),
        manage("PUT", "/models/noop/2.0/other"),
        rpc("SetDefault", model_name="noop", model_version="9.0"),
        rpc("SetDefault", model_name="nobody", model_version="1.0"),
        rpc("SetDefault", model_name="noop"),
        rpc("SetDefault"),
        manage("DELETE", "/models/noop", note="the default while there are others"),
        manage("DELETE", "/models/noop/1.0", note="the default by its name"),
        rpc("UnregisterModel", model_name="noop"),
        rpc("UnregisterModel", model_name="noop", model_version="1.0"),
        manage("PUT", "/models/noop/2.0/set-default"),
        manage("PUT", "/models/noop/2.0/set-default", note="again"),
        manage("GET", "/models/noop", note="the new default"),
        rpc("SetDefault", model_name="noop", model_version="1.0"),
        rpc("SetDefault", model_name="noop", model_version="2.0"),
        manage("DELETE", "/models/noop/9.0"),
        manage("DELETE", "/models/nobody"),
        manage("DELETE", "/models/nobody/1.0"),
        manage("DELETE", "/models/noop/"),
        rpc("UnregisterModel", model_name="noop", model_version="9.0"),
        rpc("UnregisterModel", model_name="nobody"),
        rpc("UnregisterModel"),
        manage("DELETE", "/models/noop/1.0"),
        manage("GET", "/models/noop/all"),
        infer("POST", "/predictions/noop/1.0", b"x", note="of a version that is gone"),
        manage("POST", "/models?url=noop_v1.mar", note="the same version again"),
        manage("DELETE", "/models/noop/1.0"),
        rpc("UnregisterModel", model_name="noop", model_version="2.0"),
        manage("GET", "/models/noop"),
        infer("GET", "/ping", note="no model"),
        manage("POST", "/models?url=described.mar&initial_workers=1"),
        manage("GET", "/models/described?customized=true"),
        manage("GET", "/models/described/1.0?customized=true"),
        manage("GET", "/models/described/all?customized=true"),
        manage("GET", "/models/described?customized=false"),
        manage("GET", "/models/described?customized=TRUE"),
        manage("GET", "/models/described?customized=1"),
        rpc("DescribeModel", model_name="described", customized=True),
        infer("POST", "/predictions/described", b"x"),
        manage("POST", "/models?url=plain.mar&initial_workers=1"),
        manage("GET", "/models/plain?customized=true", note="a handler without a description"),
        manage("GET", "/v1/models/described"),
        manage("GET", "/v1/models/nobody"),
        manage("GET", "/v1/models"),
    ],
)

SCALING = Scenario(
    "scaling",
    [
        manage("POST", "/models?url=noop_v1.mar"),
        manage("PUT", "/models/noop?synchronous=true"),
        manage("GET", "/models/noop"),
        manage("PUT", "/models/noop?min_worker=2"),
        Ready("noop", 2),
        manage("PUT", "/models/noop?min_worker=2&synchronous=true", note="as it is"),
        manage("PUT", "/models/noop/1.0?min_worker=1&max_worker=1&synchronous=true"),
        manage("GET", "/models/noop"),
        manage("PUT", "/models/noop?min_worker=1&max_worker=3&synchronous=true"),
        manage("GET", "/models/noop"),
        manage("PUT", "/models/noop?max_worker=2&synchronous=true"),
        manage("PUT", "/models/noop?min_worker=3&max_worker=2"),
        manage("PUT", "/models/noop?max_worker=0"),
        manage("PUT", "/models/noop?min_worker=-1"),
        manage("PUT", "/models/noop?min_worker=two"),
        manage("PUT", "/models/noop?min_worker="),
        manage("PUT", "/models/noop?min_workers=2", note="an unknown parameter"),
        manage("PUT", "/models/noop?min_worker=1&number_gpu=4&timeout=-1&synchronous=true"),
        manage("PUT", "/models/nobody?min_worker=1"),
        manage("PUT", "/models/noop/9.0?min_worker=1"),
        manage("PUT", "/models/nobody/1.0?min_worker=1"),
        json_call("/models/noop", {"min_worker": 2}, method="PUT", note="a json body"),
        manage("PUT", "/models/noop?min_worker=0&synchronous=true"),
        manage("GET", "/models/noop"),
        manage("PUT", "/models/noop?min_worker=0"),
        rpc("ScaleWorker", model_name="noop", synchronous=True),
        rpc("ScaleWorker", model_name="noop", min_worker=2),
        Ready("noop", 2),
        rpc(
            "ScaleWorker",
            model_name="noop",
            model_version="1.0",
            min_worker=1,
            max_worker=1,
            synchronous=True,
        ),
        rpc("ScaleWorker", model_name="noop", min_worker=3, max_worker=2),
        rpc("ScaleWorker", model_name="noop", min_worker=-1, max_worker=-1, synchronous=True),
        rpc("ScaleWorker", model_name="noop", number_gpu=2, timeout=5, synchronous=True),
        rpc("ScaleWorker", model_name="nobody", min_worker=1),
        rpc("ScaleWorker", model_name="noop", model_version="9.0", min_worker=1),
        rpc("ScaleWorker", min_worker=1),
        rpc("DescribeModel", model_name="noop"),
        manage("POST", "/models?url=fails_at_import.mar"),
        manage("PUT", "/models/fails_at_import?min_worker=1&synchronous=true"),
        manage("GET", "/ping"),
        infer("GET", "/ping"),
    ],
)

_THREE = [manage("POST", f"/models?url={url}") for url in ("noop_v1.mar", "described.mar", "plain.mar")]

LISTS = Scenario(
    "lists",
    [
        manage("GET", "/models", note="none"),
        rpc("ListModels"),
        rpc("ListModels", limit=5),
        *_THREE,
        manage("POST", "/models?url=noop_v2.mar"),
        manage("GET", "/models"),
        *(
            manage("GET", f"/models?limit={limit}")
            for limit in ("0", "1", "2", "3", "4", "100", "101", "-1", "x", "")
        ),
        *(
            manage("GET", f"/models?limit=1&next_page_token={token}")
            for token in ("0", "1", "2", "3", "99", "-1", "x", "")
        ),
        manage("GET", "/models?next_page_token=1"),
        manage("GET", "/models?unknown=1"),
        manage("GET", "/models/"),
        manage("GET", "/models?limit=2&limit=1"),
        rpc("ListModels"),
        *(rpc("ListModels", limit=limit) for limit in (1, 2, 3, 4, 100, 101, -1)),
        *(rpc("ListModels", limit=1, next_page_token=token) for token in (1, 2, 3, 99, -1)),
        rpc("ListModels", next_page_token=1),
    ],
)

MODEL_API_OFF = Scenario(
    "model_api_off",
    [
        manage("POST", "/models?url=plain.mar"),
        manage("DELETE", "/models/noop"),
        manage("DELETE", "/models/noop/1.0"),
        manage("DELETE", "/models/nobody"),
        rpc("RegisterModel", url="plain.mar"),
        rpc("UnregisterModel", model_name="noop"),
        manage("GET", "/models"),
        manage("GET", "/models/nobody"),
        manage("PUT", "/models/noop?min_worker=1&synchronous=true"),
        rpc("ScaleWorker", model_name="noop", min_worker=1, synchronous=True),
        manage("PUT", "/models/noop/1.0/set-default"),
        rpc("SetDefault", model_name="noop", model_version="1.0"),
        rpc("ListModels", limit=10),
        infer("POST", "/predictions/noop", b"x"),
    ],
    settings={"enable_model_api": "false", "load_models": "noop_v1.mar", "default_workers_per_model": "1"},
)
