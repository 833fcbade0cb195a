"""A name node as the WebHDFS REST documentation describes it, with a local folder behind it and one data node: itself.

What fsspec asks of one, and as it answers: a rename or a delete that does nothing is not an error but `false`.
"""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class WebHdfsServer:
    """Serves `root` on a port that the kernel chooses, until it is closed."""

    def __init__(self, root: Path) -> None:
        class Handler(_Handler):
            folder = root

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    folder: Path

    def _answer(self) -> None:
        url = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(url.query).items()}
        place = self._local(unquote(url.path).removeprefix("/webhdfs/v1"))
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            getattr(self, f"_{asked['op'].lower()}")(place, asked, data)
        except FileNotFoundError:
            self._exception("FileNotFoundException", f"File does not exist: {place}")

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the base class calls them so

    def _liststatus(self, place: Path, asked: dict[str, str], data: bytes) -> None:
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        entries = [self._status(file, file.name if place.is_dir() else "") for file in files]
        self._json({"FileStatuses": {"FileStatus": entries}})

    def _getfilestatus(self, place: Path, asked: dict[str, str], data: bytes) -> None:
        self._json({"FileStatus": self._status(place, "")})

    def _mkdirs(self, place: Path, asked: dict[str, str], data: bytes) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._json({"boolean": True})

    def _create(self, place: Path, asked: dict[str, str], data: bytes) -> None:
        if self._redirected():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            self._send(201)

    def _append(self, place: Path, asked: dict[str, str], data: bytes) -> None:
        if self._redirected():
            with place.open("ab") as file:
                file.write(data)
            self._send(200)

    def _open(self, place: Path, asked: dict[str, str], data: bytes) -> None:
        content = place.read_bytes()
        if self._redirected():
            start = int(asked["offset"])
            self._send(200, content[start : start + int(asked["length"])])

    def _rename(self, place: Path, asked: dict[str, str], data: bytes) -> None:
        target = self._local(asked["destination"])
        done = place.exists() and not target.exists()
        if done:
            place.rename(target)
        self._json({"boolean": done})

    def _delete(self, place: Path, asked: dict[str, str], data: bytes) -> None:
        done = place.exists()
        if place.is_dir():
            shutil.rmtree(place) if asked["recursive"] == "true" else place.rmdir()
        elif done:
            place.unlink()
        self._json({"boolean": done})

    def _local(self, path: str) -> Path:
        return self.folder / path.strip("/")

    def _status(self, file: Path, suffix: str) -> dict[str, object]:
        status = file.stat()
        folder = file.is_dir()
        return {
            "pathSuffix": suffix,
            "type": "DIRECTORY" if folder else "FILE",
            "length": 0 if folder else status.st_size,
            "modificationTime": int(status.st_mtime * 1000),
        }

    def _redirected(self) -> bool:
        """Send the client to the data node first, which is this server under another path."""
        if "datanode=true" in self.path:
            return True
        self.send_response(307)
        self.send_header("Location", f"http://{self.headers['Host']}{self.path}&datanode=true")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def _exception(self, kind: str, message: str) -> None:
        self._send(404, json.dumps({"RemoteException": {"exception": kind, "message": message}}).encode())

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode())

    def _send(self, status: int, data: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""
