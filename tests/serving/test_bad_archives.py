"""A server that is given bad archives: the reason comes back, nothing is left behind, others are unharmed."""

import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from satrap.serving.archive.manifest import MANIFEST_NAME

pytestmark = pytest.mark.slow

GOOD = """
def handle(data, context):
    return None if data is None else [b"good"] * len(data)
"""

INVALID = "org.pytorch.serve.archive.model.InvalidModelException"


def bad_archives(store: Any) -> dict[str, tuple[str, str]]:
    """url -> (status, a part of the details)."""
    folder: Path = store.directory
    store.add("import.mar", "import nothing_of_that_name\n")
    store.add("raises.mar", "raise ValueError('at import')\n")
    store.add("exits.mar", "import sys\nsys.exit(3)\n")
    store.add("dies.mar", "import os\nos.kill(os.getpid(), 9)\n")
    store.add("init.mar", "class H:\n    def initialize(self, c): 1 / 0\n    def handle(self, d, c): pass\n")
    store.add("slow.mar", "import time\ntime.sleep(600)\n", config="startupTimeout: 1\n")
    store.add("config.mar", GOOD, config="batchSize: -1\n")
    (folder / "text.mar").write_text("this is text")
    with zipfile.ZipFile(folder / "empty.mar", "w") as archive:
        archive.writestr("handler.py", GOOD)
    with zipfile.ZipFile(folder / "climbs.mar", "w") as archive:
        archive.writestr(MANIFEST_NAME, "{}")
        archive.writestr("../../climbed.py", GOOD)
    with tarfile.open(folder / "link.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("m/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (folder / "unpacked").mkdir()
    (folder / "unpacked" / "out").symlink_to("/etc")
    with zipfile.ZipFile(folder / "bomb.mar", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(3_000_000))
    return {
        "import.mar": ("INTERNAL", "Failed to start workers for model m version: 1.0: ModuleNotFoundError"),
        "raises.mar": ("INTERNAL", "ValueError: at import"),
        "exits.mar": ("INTERNAL", "exited with status 3"),
        "dies.mar": ("INTERNAL", "was killed by signal 9"),
        "init.mar": ("INTERNAL", "ZeroDivisionError"),
        "slow.mar": ("INTERNAL", "did not load its handler within 1 s"),
        "config.mar": ("INVALID_ARGUMENT", "batchSize is -1"),
        "text.mar": ("INVALID_ARGUMENT", "neither a zip file"),
        "empty.mar": ("INVALID_ARGUMENT", "Model name is not defined."),
        "climbs.mar": ("INVALID_ARGUMENT", "outside of the archive's directory"),
        "link.tar.gz": ("INVALID_ARGUMENT", "is a link or a device"),
        "unpacked": ("INVALID_ARGUMENT", "leads out of it"),
        "bomb.mar": ("INVALID_ARGUMENT", "max_archive_bytes"),
    }


def test_bad_archives_are_refused_and_nothing_is_left(
    serve: Any, store: Any, failure: Any, wait_until: Any
) -> None:
    store.add("good.mar", GOOD, name="good")
    bad = bad_archives(store)
    server = serve("good.mar", serving={"max_archive_bytes": 1_000_000})
    frontend = psutil.Process(server.command.process.pid)
    processes = len(frontend.children(recursive=True))
    descriptors: list[int] = []
    for _ in range(2):  # the clients connect, and all that is opened once is, in the first round
        for url, (status, part) in bad.items():
            code, details = failure(server.client.register, url)
            assert (code, part in details) == (status, True), f"{url}: {code} {details}"
            assert server.client.predict("good") == b"good"
        wait_until(lambda: len(frontend.children(recursive=True)) == processes)
        descriptors.append(frontend.num_fds())
    assert [m["modelName"] for m in server.client.list_models()["models"]] == ["good"]
    assert len(server.unpacked()) == 1
    wait_until(lambda: frontend.num_fds() <= descriptors[0])
    assert not list(server.working_directories.rglob("climbed.py"))
    store.add("m.mar", GOOD)
    server.client.register("m.mar")
    assert server.client.predict("m") == b"good", "a name whose registration failed is free"


def test_an_asynchronous_failure_is_told_to_requests(
    serve: Any, store: Any, failure: Any, wait_until: Any
) -> None:
    store.add("bad.mar", "raise ValueError('at import')\n", name="bad")
    server = serve()
    server.client.register("bad.mar", synchronous=False)
    wait_until(lambda: "starting it again in 1 s" in server.log())
    code, details = failure(server.client.predict, "bad")
    assert code == "INTERNAL"
    assert 'Model "bad" Version 1.0 has no worker' in details or "Failed to start workers" in details
    (described,) = server.client.describe("bad")
    assert [w["status"] for w in described["workers"]] == ["UNLOADING"]
    server.client.unregister("bad")
    assert server.unpacked() == []


def test_a_named_startup_model_that_cannot_be_served_ends_the_start(
    satrap: Any, store: Any, tmp_path: Path
) -> None:
    store.add("bad.mar", "raise ValueError('at import')\n")
    store.add("good.mar", GOOD, name="good")
    arguments = ("serving", "--model-store", store.directory, "--grpc-inference-port", 0)
    arguments += ("--grpc-management-port", 0)
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with pytest.raises(pytest.fail.Exception, match="ValueError: at import"):
        satrap(*arguments, "--models", "good.mar,bad.mar", env=env)
    assert satrap(*arguments, "--models", "all", env=env).line.endswith(": 1 model")
