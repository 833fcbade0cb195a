"""Requests that an archive carries: what their file may say, and that they run before the version is ready."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import ArchiveError, WorkerStartError
from satrap.serving.archive.warmup import Warmup, WarmupError, read_warmup
from satrap.serving.query import Query
from satrap.serving.version_spec import RegisterParameters

HANDLER = """
class Handler:
    def initialize(self, context):
        self.seen = []

    def handle(self, data, context):
        assert context.get_request_id(0)
        if "fail" in data[0]:
            raise ValueError("told to")
        self.seen += [[key, type(value).__name__, context.get_request_header(0, key)["content-type"]]
                      for key, value in data[0].items()]
        context.metrics.add_time("Look", 1.0)
        return [self.seen] * len(data)
"""


def written(directory: Path, document: object, name: str = "warmup.json") -> str:
    (directory / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return name


def test_every_kind_of_input(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "image").write_bytes(b"\x89PNG")
    requests = [
        {
            "a": {"json": {"x": [1, None]}},
            "b": {"text": "grüße"},
            "c": {"file": "sub/image", "content_type": "image/png"},
            "d": {"base64": "/wA="},
        },
        {"e": {"json": "x", "content_type": ""}},
        {},
    ]
    expected = (
        {
            "a": (b'{"x": [1, null]}', "application/json"),
            "b": ("grüße".encode(), "text/plain"),
            "c": (b"\x89PNG", "image/png"),
            "d": (b"\xff\x00", ""),
        },
        {"e": (b'"x"', "")},
        {},
    )
    assert read_warmup(tmp_path, written(tmp_path, {"requests": requests})) == Warmup(expected)
    assert read_warmup(tmp_path, written(tmp_path, {"requests": requests, "repeat": 7})).repeat == 7


def test_any_other_file_is_a_batch(tmp_path: Path) -> None:
    (tmp_path / "batch.bin").write_bytes(b"PersiaBatch")
    assert read_warmup(tmp_path, "batch.bin") == Warmup(({"batch": (b"PersiaBatch", "")},))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ([], "not a mapping with requests"),
        ({"requests": [{}], "repeats": 2}, "not a mapping with requests"),
        ({}, "its requests are not a list of 1 to 1000"),
        ({"requests": []}, "its requests are not a list"),
        ({"requests": {}}, "its requests are not a list"),
        ({"requests": [{}] * 1001}, "its requests are not a list"),
        ({"requests": [{}], "repeat": 0}, "its repeat is 0"),
        ({"requests": [{}], "repeat": True}, "its repeat is True"),
        ({"requests": [{}], "repeat": 1001}, "its repeat is 1001"),
        ({"requests": [{}, "x"]}, "request 1 is not a mapping"),
        ({"requests": [{"a": "x"}]}, "request 0, input 'a': it is not one of json, text, file and base64"),
        ({"requests": [{"a": {}}]}, "not one of json"),
        ({"requests": [{"a": {"text": "x", "file": "y"}}]}, "not one of json"),
        ({"requests": [{"a": {"text": "x", "type": "y"}}]}, "not one of json"),
        ({"requests": [{"a": {"text": 3}}]}, "text is not a string"),
        ({"requests": [{"a": {"text": "x", "content_type": 3}}]}, "content_type is not a string"),
        ({"requests": [{"a": {"base64": "?"}}]}, "request 0, input 'a'"),
        ('{"requests": [{"a": {"text": "\\ud800"}}]}', "surrogates not allowed"),
        ({"requests": [{"a": {"file": "none"}}]}, "the file 'none' is not in the archive"),
        ({"requests": [{"a": {"file": "../secret"}}]}, "the file '../secret' is not in the archive"),
        ({"requests": [{"a": {"file": "/etc/hostname"}}]}, "the file '/etc/hostname' is not in the archive"),
        ({"requests": [{"a": {"file": "a\u0000"}}]}, "is not in the archive"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, document: object, reason: str) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "secret").touch()
    with pytest.raises(WarmupError, match=reason):
        read_warmup(tmp_path / "archive", written(tmp_path / "archive", document))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["requests", "repeat", "a", "json", "text", "file", "base64", "content_type"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=10,
    )
)
def test_any_document_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        warmup = read_warmup(folder, written(folder, document))
    except WarmupError:
        return
    assert 1 <= len(warmup.requests) <= 1000 and 1 <= warmup.repeat <= 1000


@pytest.mark.slow
class TestServed:
    @staticmethod
    def register(in_process: Any, service: Any, url: str) -> None:
        in_process.run(service.register(RegisterParameters(url=url, initial_workers=2, synchronous=True)))

    def archive(self, store: Any, warmup: object, name: str = "warmup.json") -> str:
        text = warmup if isinstance(warmup, str | bytes) else json.dumps(warmup)
        files = {name: text}
        url: str = store.add("m.mar", HANDLER, config=f"satrap: {{warmup: {name}}}\n", **files)
        return url

    def test_it_runs_in_every_worker_before_it_is_ready(
        self, in_process: Any, open_service: Any, store: Any
    ) -> None:
        warmup = {"requests": [{"a": {"json": [1]}}, {"b": {"text": "x"}, "c": {"base64": ""}}], "repeat": 2}
        service = open_service()
        self.register(in_process, service, self.archive(store, warmup))
        once = [["a", "list", "application/json"], ["b", "str", "text/plain"], ["c", "bytearray", ""]]
        for _ in range(2):
            answer = in_process.run(service.predict(Query("m", "", {"d": b"x"})))
            assert json.loads(answer.value)[: 2 * len(once)] == once * 2
            assert answer.times["Look"] == 1.0, "the warm-up's are nobody's"

    def test_a_batch(self, in_process: Any, open_service: Any, store: Any) -> None:
        service = open_service(decode_input_request=False)
        self.register(in_process, service, self.archive(store, b"\x00\xff", "first.bin"))
        answer = in_process.run(service.predict(Query("m", "", {"d": b"x"})))
        assert json.loads(answer.value)[0] == ["batch", "bytearray", ""]

    def test_a_request_that_fails(self, in_process: Any, open_service: Any, store: Any) -> None:
        service = open_service()
        url = self.archive(store, {"requests": [{"a": {"text": "x"}}, {"fail": {"text": "x"}}]})
        with pytest.raises(
            WorkerStartError, match=r"warm-up by warmup\.json: request 1 was answered 503: Prediction failed"
        ):
            self.register(in_process, service, url)
        assert service.catalog.list_models() == {"models": []}

    def test_a_bad_file_is_refused_with_its_archive(
        self, in_process: Any, open_service: Any, store: Any
    ) -> None:
        service = open_service()
        with pytest.raises(
            ArchiveError, match=r"its warm-up file 'warmup\.json': its requests are not a list"
        ):
            self.register(in_process, service, self.archive(store, {"requests": []}))
