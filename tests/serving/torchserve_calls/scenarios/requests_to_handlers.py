"""What a handler gets of a request, over REST and gRPC."""

from torchserve_calls.call import Ready, Scenario, Step
from torchserve_calls.scenarios.spelling import do, form, infer, manage, multipart, predict, rpc

__all__ = ["DECODING_OFF", "REQUESTS"]

_REGISTER: list[Step] = [
    manage("POST", "/models?url=behaviours.mar&initial_workers=1&synchronous=true"),
    Ready("behaviours", 1),
]
_JSON = ("Content-Type", "application/json")


def _bodies() -> list[Step]:
    fields = form(a="1", b="two words & more", empty="")
    two = multipart(("first", b"1", "", ""), ("second", b"\x00\xff", "s.bin", "application/octet-stream"))
    texts = multipart(
        ("plain", "grün".encode(), "", "text/plain; charset=utf-8"),
        ("data", b'{"a": [1, 2.5, null]}', "", "application/json"),
        ("body", b"named body", "", ""),
    )
    repeated = multipart(("data", b"one", "", ""), ("data", b"two", "", ""))
    return [
        do("echo", body=b"plain bytes", note="no content type"),
        do("echo", ("Content-Type", "application/octet-stream"), body=b"\x00\x01\xff"),
        do("echo", ("Content-Type", "text/plain"), body=b"text", note="text"),
        do("echo", ("Content-Type", "text/plain; charset=utf-8"), body="grüße".encode(), note="text, utf-8"),
        do(
            "echo",
            ("Content-Type", "text/plain; charset=iso-8859-1"),
            body="grüße".encode("latin-1"),
            note="latin 1",
        ),
        do("echo", ("Content-Type", "text/html"), body=b"<p>", note="html"),
        do("echo", ("Content-Type", "text/csv"), body=b"1,2", note="csv"),
        do("echo", _JSON, body=b'{"a": 1, "b": [true, null, 1.5]}', note="json object"),
        do("echo", _JSON, body=b"[1, 2]", note="json list"),
        do("echo", _JSON, body=b'"text"', note="json string"),
        do("echo", _JSON, body=b"12", note="json number"),
        do("echo", _JSON, body=b"null", note="json null"),
        do("echo", _JSON, body=b"{broken", note="broken json"),
        do("echo", _JSON, body=b"", note="empty json"),
        do("echo", _JSON, body=b'{"a": NaN}', note="NaN"),
        do("echo", _JSON, body=b'\xef\xbb\xbf{"a": 1}', note="json with a byte order mark"),
        do(
            "echo",
            ("Content-Type", "application/json; charset=utf-8"),
            body='{"ü": "é"}'.encode(),
            note="json, utf-8",
        ),
        do("echo", ("content-type", "application/json"), body=b"{}", note="lower case header"),
        do("echo", ("CONTENT-TYPE", "APPLICATION/JSON"), body=b"{}", note="upper case"),
        do("echo", ("Content-Type", "application/jsonlines"), body=b"{}\n{}", note="jsonlines"),
        do("echo", ("Content-Type", "application/vnd.api+json"), body=b"{}", note="vendor json"),
        do("echo", ("Content-Type", "image/png"), body=b"\x89PNG", note="image"),
        do("echo", ("Content-Type", "nonsense"), body=b"x", note="nonsense content type"),
        do("echo", ("Content-Type", ""), body=b"x", note="empty content type"),
        do("echo", body=b"", note="empty body"),
        do("echo", ("Content-Length", "0"), body=b"", note="length 0"),
        do("echo", body=b"x" * 1_000_000, note="a megabyte"),
        do("echo", *fields[1], body=fields[0], note="urlencoded form"),
        do("echo", *fields[1], body=b"", note="empty urlencoded form"),
        do("echo", *fields[1], body=b"novalue&a=1&a=2", note="form without values"),
        do("echo", *two[1], body=two[0], note="two parts"),
        do("echo", *texts[1], body=texts[0], note="parts with types"),
        do("echo", *repeated[1], body=repeated[0], note="a part twice"),
        do("echo", *two[1], body=two[0][:-20], note="truncated form"),
        do("echo", ("Content-Type", "multipart/form-data"), body=b"x", note="no boundary"),
        do("echo", *two[1], body=b"", note="empty form"),
        infer(
            "POST",
            "/predictions/behaviours",
            b"4\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n",
            [("Transfer-Encoding", "chunked")],
            "chunked",
        ),
        do("echo", method="PUT", body=b"put", note="PUT"),
        do("echo", method="GET", body=b"", note="GET"),
        do("echo", method="GET", body=b"get with a body", note="GET with a body"),
        do("echo", method="DELETE", body=b"", note="DELETE"),
        do("echo", method="PATCH", body=b"patch", note="PATCH"),
        do("echo", method="HEAD", body=b"", note="HEAD"),
        do("echo", method="OPTIONS", body=b"", note="OPTIONS"),
        do("echo", ("Expect", "100-continue"), body=b"expected", note="expect"),
        do("echo", ("Accept-Encoding", "gzip"), body=b"x", note="accepts gzip"),
    ]


def _queries_and_paths() -> list[Step]:
    target = "/predictions/behaviours"
    return [
        infer("POST", f"{target}?a=1&b=two", b"x", note="query"),
        infer("GET", f"{target}?data=query", note="query without a body"),
        infer("GET", f"{target}?data=one&data=two&empty=&novalue", note="odd query"),
        infer("POST", f"{target}?body=query", b"x", note="a query that is called body"),
        infer("POST", f"{target}?do=text", b"x", note="do in the query"),
        infer("GET", f"{target}?a=%C3%BC%20+x", note="escaped query"),
        infer("POST", f"{target}/1.0", b"x", note="version"),
        infer("POST", f"{target}/1.0/", b"x", note="version and a slash"),
        infer("POST", f"{target}/1.0/and/more", b"x", [("do", "header")], note="rest of the path"),
        infer("POST", f"{target}/", b"x", note="slash"),
        infer("POST", f"{target}//x", b"x", note="two slashes"),
        infer("POST", f"{target}/2.0", b"x", note="unknown version"),
        infer("POST", "/predictions/nobody", b"x", note="unknown model"),
        infer("POST", "/predictions/nobody/1.0", b"x", note="unknown model, version"),
        infer("POST", "/predictions", b"x", note="no model"),
        infer("POST", "/predictions/", b"x", note="no model but a slash"),
        infer("POST", "/predictions/Behaviours", b"x", note="case of the name"),
        infer("POST", "/predictions/%62ehaviours", b"x", note="escaped name"),
        infer("POST", "/predictions/nobody%20here", b"x", note="escaped space"),
        infer("POST", "/predictions/no%2Fbody", b"x", note="escaped slash"),
        infer("POST", "/Predictions/behaviours", b"x", note="case of the path"),
        infer("POST", "//predictions/behaviours", b"x", note="two slashes before"),
        infer("POST", "/predictions/../ping", b"x", note="dots"),
        do("header", ("x-mixed", "lower"), note="lower case"),
        do("header", ("X-Mixed", "mixed"), note="mixed case"),
        do("header", ("X-MIXED", "upper"), ("Content-Type", "text/plain"), note="upper case"),
        do("headers", ("X-One", "1"), ("x-two", "zwei"), note="all headers"),
        do("headers", ("X-Twice", "1"), ("X-Twice", "2"), note="a header twice"),
        do("headers", ("Authorization", "Bearer x"), ("Cookie", "a=b"), note="authorization and cookie"),
        do("headers", ("x-request-id", "mine"), note="its own request id"),
        do("headers", ("ts_request_sequence_id", "7"), note="sequence id"),
        do("headers", ("explain", "True"), note="explain"),
        do("headers", ("describe", "True"), note="describe"),
        infer("POST", "/PREDICTIONS/behaviours", b"x", [("do", "headers")], note="upper case path"),
        do("context", note="the context"),
    ]


def _over_grpc() -> list[Step]:
    return [
        predict("behaviours", data=b"bytes"),
        predict("behaviours", body=b"bytes"),
        predict("behaviours", "1.0", data=b"bytes"),
        predict("behaviours", "", "no inputs"),
        predict("behaviours", "", "empty input", data=b""),
        predict("behaviours", "", "several", a=b"1", b=b"\x00\xff", c=b'{"a": 1}'),
        predict("behaviours", "", "a megabyte", data=b"x" * 1_000_000),
        predict("behaviours", do=b"headers", data=b"x"),
        predict("behaviours", do=b"header", data=b"x"),
        predict("behaviours", do=b"context", data=b"x"),
        predict("behaviours", "2.0", data=b"x"),
        predict("nobody", data=b"x"),
        predict("nobody", "1.0", data=b"x"),
        predict("", data=b"x"),
        predict("", "1.0", data=b"x"),
        predict("Behaviours", data=b"x"),
        rpc("Predictions", model_name="behaviours", input={"data": b"x"}, sequence_id="7"),
        rpc("Ping"),
    ]


REQUESTS = Scenario("requests", [*_REGISTER, *_bodies(), *_queries_and_paths(), *_over_grpc()])

DECODING_OFF = Scenario(
    "decoding_off",
    [
        *_REGISTER,
        do("echo", _JSON, body=b'{"a": 1}', note="json"),
        do("echo", ("Content-Type", "text/plain"), body=b"text", note="text"),
        do("echo", body=b"bytes", note="no content type"),
    ],
    settings={"decode_input_request": "false"},
)
