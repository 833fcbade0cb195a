"""What the calls need around a server: a model store and a file server, new for each scenario."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchserve_calls.call import Scenario
from torchserve_calls.store import write_files, write_store

__all__ = ["EVERY_SERVER", "Places", "made_places", "properties"]

EVERY_SERVER = {"enable_model_api": "true", "metrics_mode": "prometheus"}
"""Settings that every server gets, unless the scenario says otherwise."""


@dataclass(frozen=True)
class Places:
    """Where things are."""

    store: Path
    files: str
    """The file server's URL."""

    @property
    def words(self) -> dict[str, str]:
        """Values for `$NAME` in calls."""
        return {"FILES": self.files, "STORE": str(self.store)}


@contextmanager
def made_places(root: Path) -> Iterator[Places]:
    """Write the store and the files under `root`, and serve the files meanwhile."""
    write_store(root / "store")
    write_files(root / "files")
    handler = functools.partial(_QuietHandler, directory=str(root / "files"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="file server")
        thread.start()
        try:
            yield Places(root / "store", f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def properties(scenario: Scenario, store: Path) -> str:
    """`config.properties` for a server on ports of the kernel's choice, which only satrap can."""
    settings = {
        **{f"{api}_address": "http://127.0.0.1:0" for api in ("inference", "management", "metrics")},
        **{f"grpc_{api}_address": "127.0.0.1" for api in ("inference", "management")},
        **{f"grpc_{api}_port": "0" for api in ("inference", "management")},
        "model_store": str(store),
        "disable_token_authorization": str(not scenario.tokens).lower(),
        "disable_system_metrics": "true",
        **EVERY_SERVER,
        **scenario.settings,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass
