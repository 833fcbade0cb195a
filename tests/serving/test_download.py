"""Archives from URLs: what may be fetched, what a stranger's server may do, and what stays behind."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from satrap.errors import (
    ArchiveError,
    ArchiveExistsError,
    ArchiveNotFoundError,
    DownloadError,
    WorkerStartError,
)
from satrap.serving.archive import download as download_module
from satrap.serving.archive.download import DownloadFailure, Source, download
from satrap.serving.archive.partial import create_partial, partial_path, remove_abandoned
from satrap.serving.archive.urls import AllowedUrls
from satrap.serving.frames import Kind, encode, receive_head
from satrap.serving.query import Query
from satrap.serving.version_spec import RegisterParameters

HANDLER = """
def handle(data, context):
    return None if data is None else [b"here"] * len(data)
"""

Answer = Callable[[BaseHTTPRequestHandler], None]


class Remote:
    """An HTTP server that answers each path as a test says."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        remote = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                remote.asked.append(self.path)
                remote.answers[self.path.partition("?")[0]](self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def send(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        """Answer that path so; returns its URL."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                if value:
                    request.send_header(name.replace("_", "-"), value)
            request.end_headers()
            request.wfile.write(body)

        self.answers[path] = answer
        return self.url + path


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    remote = Remote()
    thread = threading.Thread(target=remote.server.serve_forever, args=[0.01])
    thread.start()
    yield remote
    remote.server.shutdown()
    thread.join()
    remote.server.server_close()


@pytest.fixture
def fetch(tmp_path: Path) -> Any:
    """Download into `tmp_path/store/a.mar`; on failure nothing but the part that the frontend removes is there."""
    (tmp_path / "store").mkdir()
    target = tmp_path / "store" / "a.mar"

    def run(url: str, *allowed: str, max_bytes: int = 1000, interruption: str = "") -> bytes:
        source = Source(url, AllowedUrls(allowed or [".*"]), max_bytes)
        partial = target.with_name(".a.mar.part")
        try:
            size = download(source, partial, target, lambda: interruption)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        assert list(target.parent.iterdir()) == [target]
        content = target.read_bytes()
        assert size == len(content)
        target.unlink()
        return content

    yield run
    assert list(target.parent.iterdir()) == []


def test_it_is_fetched(remote: Remote, fetch: Any) -> None:
    assert fetch(remote.send("/a.mar", b"archive")) == b"archive"
    assert fetch(remote.send("/exact", b"x" * 1000)) == b"x" * 1000
    assert fetch(remote.send("/unknown-length", b"archive", Content_Length="")) == b"archive"
    remote.send("/signed", b"archive")
    assert fetch(f"{remote.url}/signed?signature=a%2Fb") == b"archive"
    assert remote.asked[-1] == "/signed?signature=a%2Fb"


def test_a_redirect_that_is_allowed(remote: Remote, fetch: Any) -> None:
    remote.send("/moved", b"archive")
    for number, location in enumerate(("/moved", remote.url + "/moved")):
        url = remote.send(f"/{number}", b"", 302, Location=location)
        assert fetch(url, remote.url + "/.*") == b"archive"


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://localhost:{port}/secret",
        "http://127.0.0.1:{port}@localhost:{port}/secret",
        "/models/../secret",
        "/secret",
        "file:///etc/passwd",
        "ftp://127.0.0.1/secret",
    ],
)
def test_a_redirect_that_is_not(remote: Remote, fetch: Any, location: str) -> None:
    remote.send("/secret", b"secret")
    location = location.format(port=remote.server.server_port)
    url = remote.send("/models/a.mar", b"", 302, Location=location)
    with pytest.raises(DownloadFailure):
        fetch(url, remote.url.replace(".", r"\.") + "/models/.*", "file://.*")
    assert remote.asked == ["/models/a.mar"], "nothing else was asked for"


def test_redirects_have_an_end(remote: Remote, fetch: Any) -> None:
    url = remote.send("/a.mar", b"", 302, Location="/a.mar")
    with pytest.raises(DownloadFailure, match="redirected more than 5 times"):
        fetch(url)
    assert len(remote.asked) == 6


@pytest.mark.parametrize("status", [404, 403, 500, 206, 204])
def test_another_status_than_200(remote: Remote, fetch: Any, status: int) -> None:
    with pytest.raises(DownloadFailure, match=f"the server answered {status}"):
        fetch(remote.send("/a.mar", b"" if status == 204 else b"error", status))


def test_what_is_too_large(remote: Remote, fetch: Any) -> None:
    for headers in ({}, {"Content_Length": ""}, {"Content_Length": "1001"}):
        url = remote.send("/a.mar", b"x" * 1001, **headers)
        with pytest.raises(DownloadFailure, match=r"larger than 1000 bytes \(max_archive_bytes\)"):
            fetch(url)


def test_a_body_that_ends_early(remote: Remote, fetch: Any) -> None:
    with pytest.raises(DownloadFailure, match="RemoteProtocolError"):
        fetch(remote.send("/a.mar", b"half", Content_Length="8"))


def test_a_compressed_body(remote: Remote, fetch: Any) -> None:
    with pytest.raises(DownloadFailure, match="in the encoding gzip"):
        fetch(remote.send("/a.mar", b"\x1f\x8b", Content_Encoding="gzip"))


def test_a_server_that_is_not_there(remote: Remote, fetch: Any) -> None:
    with pytest.raises(DownloadFailure, match="ConnectError"):
        fetch("http://127.0.0.1:1/a.mar")


def test_nobody_waits_any_more(remote: Remote, fetch: Any) -> None:
    with pytest.raises(DownloadFailure, match="nobody waits"):
        fetch(remote.send("/a.mar", b"archive"), interruption="nobody waits")


def test_it_is_given_up_between_two_bytes(remote: Remote, fetch: Any) -> None:
    sent = []

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "2000")
        request.end_headers()
        with contextlib.suppress(OSError):
            for number in range(2000):
                request.wfile.write(b"x")
                sent.append(number)
                time.sleep(0.005)

    remote.answers["/a.mar"] = drip
    with pytest.raises(DownloadFailure, match="nobody waits"):
        fetch(remote.url + "/a.mar", max_bytes=5000, interruption="nobody waits")
    assert len(sent) < 1000


def ask_for_archive(connection: socket.socket, remote: Remote, folder: Path) -> None:
    """Ask the downloader at the other end for `a.mar`, as the frontend does."""
    head = {
        "url": remote.url + "/a.mar",
        "allowed": [".*"],
        "max_bytes": 10**6,
        "partial": str(folder / ".a.mar.part"),
        "target": str(folder / "a.mar"),
    }
    for buffer in encode(Kind.DOWNLOAD, head):
        connection.sendall(buffer)


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n"], ids=["head", "body"]
)
def test_a_server_that_sends_little_at_a_time(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(download_module, "_TOTAL_SECONDS", 0.3)
    over = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):
            request.wfile.write(start)
            while not over.wait(0.01):
                request.wfile.write(b"x")

    remote.answers["/a.mar"] = drip
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ask_for_archive(ours, remote, tmp_path)
        try:
            download_module.run(theirs)
        finally:
            over.set()
        answer = receive_head(ours)
    assert answer is not None and answer[1] == {"reason": "it takes longer than 0.3 s"}
    assert list(tmp_path.iterdir()) == []


def test_nobody_waits_any_more_for_a_server_that_sends_nothing(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_SILENCE_SECONDS", None)
    monkeypatch.setattr(download_module, "_TOTAL_SECONDS", 600)
    ours, theirs = socket.socketpair()

    def hang_up(request: BaseHTTPRequestHandler) -> None:
        ours.shutdown(socket.SHUT_WR)  # as the end of the frontend, but the answer can be read
        request.rfile.read()

    remote.answers["/a.mar"] = hang_up
    with ours, theirs:
        ask_for_archive(ours, remote, tmp_path)
        download_module.run(theirs)
        answer = receive_head(ours)
    assert answer is not None and answer[1] == {"reason": "nobody waits for it any more"}
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_of_a_download_that_was_killed(tmp_path: Path) -> None:
    abandoned = partial_path(tmp_path / "a.mar")
    abandoned.write_bytes(b"half")
    others = [tmp_path / name for name in ("a.mar", ".a.mar.part", "b.0123abcd.part", ".satrap")]
    for other in others:
        other.touch()
    (tmp_path / ".link.0123abcd.part").symlink_to(tmp_path / "a.mar")
    (tmp_path / ".folder.0123abcd.part").mkdir()
    running = partial_path(tmp_path / "b.mar")
    with create_partial(running):
        remove_abandoned(tmp_path)
        assert running.exists()
    assert not abandoned.exists()
    assert len(list(tmp_path.iterdir())) == len(others) + 3
    remove_abandoned(tmp_path)
    assert not running.exists()
    remove_abandoned(tmp_path / "absent")


def test_a_name_that_is_taken_meanwhile(remote: Remote, tmp_path: Path) -> None:
    target = tmp_path / "a.mar"
    target.write_text("another's")
    with pytest.raises(FileExistsError):
        download(Source(remote.send("/a.mar", b"x"), AllowedUrls([".*"]), 9), tmp_path / "p", target, str)
    assert target.read_text() == "another's"


def test_a_file_system_without_hard_links(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    source, target = Source(remote.send("/a.mar", b"x"), AllowedUrls([".*"]), 9), tmp_path / "a.mar"
    download(source, tmp_path / "p", target, str)
    assert list(tmp_path.iterdir()) == [target] and target.read_bytes() == b"x"
    with pytest.raises(FileExistsError):
        download(source, tmp_path / "p", target, str)


class TestFiles:
    def test_a_file_of_this_host(self, fetch: Any, tmp_path: Path) -> None:
        (tmp_path / "else where").write_bytes(b"archive")
        assert fetch(f"file://{tmp_path}/else%20where") == b"archive"
        with pytest.raises(DownloadFailure, match="larger than 3 bytes"):
            fetch(f"file://{tmp_path}/else%20where", max_bytes=3)

    def test_what_is_no_file(self, fetch: Any, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name, reason in [
            ("store", "Is a directory"),
            ("pipe", "is not a file"),
            ("none", "No such file"),
        ]:
            with pytest.raises(DownloadFailure, match=reason):
                fetch(f"file://{tmp_path}/{name}")

    def test_a_path_that_climbs(self, fetch: Any, tmp_path: Path) -> None:
        for url in (f"file://{tmp_path}/%2e%2e/passwd", f"file://elsewhere{tmp_path}/a.mar"):
            with pytest.raises(DownloadFailure, match="by its absolute path"):
                fetch(url)


@pytest.mark.slow
class TestRegistered:
    """The whole way: by a child process into the store of a service."""

    @pytest.fixture
    def far(self, store: Any, remote: Remote, tmp_path: Path) -> Callable[..., str]:
        """Offer an archive at a URL; it is not in the store."""

        def offer(file: str, handler: str = HANDLER, **more: Any) -> str:
            store.add(file, handler, **more)
            path: Path = store.directory / file
            body = path.read_bytes()
            path.unlink()
            return remote.send(f"/{file}", body)

        return offer

    @staticmethod
    def parameters(url: str, **more: Any) -> RegisterParameters:
        return RegisterParameters(url=url, initial_workers=1, synchronous=True, **more)

    def test_it_is_served_and_deleted_with_its_version(
        self, in_process: Any, open_service: Any, store: Any, remote: Remote, far: Any
    ) -> None:
        service = open_service(allowed_urls=[remote.url + "/.*"])
        url = far("a.mar")
        in_process.run(service.register(self.parameters(url)))
        assert in_process.run(service.predict(Query("m", "", {"data": b"x"}))).value == b"here"
        assert service.catalog.list_models()["models"] == [{"modelName": "m", "modelUrl": url}]
        assert [entry.name for entry in store.directory.iterdir()] == ["a.mar"]
        with pytest.raises(ArchiveExistsError, match=r"Model file already exists a\.mar"):
            in_process.run(service.register(self.parameters(url, model_name="other")))
        in_process.run(service.register(self.parameters("a.mar", model_name="other")))
        in_process.run(service.unregister("other"))
        assert [entry.name for entry in store.directory.iterdir()] == ["a.mar"], "that one was in the store"
        in_process.run(service.unregister("m"))
        assert list(store.directory.iterdir()) == []

    def test_a_failure_leaves_nothing(
        self, in_process: Any, open_service: Any, store: Any, remote: Remote, far: Any
    ) -> None:
        service = open_service(allowed_urls=[remote.url + "/.*"], max_archive_bytes=5000)
        refused: list[tuple[str, type[Exception], str]] = [
            (remote.send("/none.mar", b"", 404), DownloadError, "the server answered 404 Not Found"),
            (remote.send("/long.mar", b"x" * 5001), DownloadError, "larger than 5000 bytes"),
            (remote.send("/text.mar", b"text"), ArchiveError, "neither a zip file"),
            (far("bad.mar", "raise ValueError('at import')"), WorkerStartError, "ValueError: at import"),
            (remote.url + "/", DownloadError, "its path ends in no file's name"),
            (remote.url + "/.hidden.mar", DownloadError, "its path ends in no file's name"),
            ("http://localhost/a.mar", ArchiveNotFoundError, "does not match any allowed URL"),
        ]
        for url, kind, sentence in refused:
            with pytest.raises(kind, match=sentence):
                in_process.run(service.register(self.parameters(url)))
            assert list(store.directory.iterdir()) == []
        assert service.catalog.list_models() == {"models": []}

    def test_a_call_that_is_cancelled_by_the_end_leaves_nothing(
        self, in_process: Any, open_service: Any, store: Any, remote: Remote
    ) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", "100")
            request.end_headers()
            request.wfile.write(b"x" * 50)
            begun.set()
            go_on.wait(60)

        async def end_meanwhile() -> None:
            registering = asyncio.ensure_future(service.register(self.parameters(remote.url + "/a.mar")))
            assert await asyncio.to_thread(begun.wait, 20)
            await service.close()
            await asyncio.wait([registering])
            assert registering.cancelled()

        remote.answers["/a.mar"] = answer
        service = open_service(allowed_urls=[remote.url + "/.*"])
        try:
            in_process.run(end_meanwhile())
        finally:
            go_on.set()
        assert list(store.directory.iterdir()) == []

    def test_a_file_that_is_allowed(
        self, in_process: Any, open_service: Any, store: Any, tmp_path: Path
    ) -> None:
        service = open_service(allowed_urls=["file://.*"])
        store.add("a.mar", HANDLER)
        in_process.run(service.register(self.parameters(f"file://{store.directory}/a.mar")))
        in_process.run(service.unregister("m"))
        assert (store.directory / "a.mar").exists(), "it was in the store"
        (store.directory / "a.mar").rename(tmp_path / "b.mar")
        in_process.run(service.register(self.parameters(f"file://{tmp_path}/b.mar")))
        assert (store.directory / "b.mar").exists()
        in_process.run(service.unregister("m"))
        assert not (store.directory / "b.mar").exists() and (tmp_path / "b.mar").exists()
