"""Every format of the real torch-model-archiver, registered and answered."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from satrap.serving.query import Query
from satrap.serving.version_spec import RegisterParameters

pytestmark = pytest.mark.slow

HANDLER = """
import os

def handle(data, context):
    if data is None:
        return None
    inside = os.path.join(context.system_properties["model_dir"], "folder", "inner.txt")
    return [open(inside).read() + context.model_yaml_config["own"]["key"]] * len(data)
"""


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_it_is_served(
    in_process: Any,
    open_service: Any,
    store: Any,
    tmp_path: Path,
    archive_format: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "extra" / "folder").mkdir(parents=True)
    (tmp_path / "extra" / "folder" / "inner.txt").write_text("inner ")
    (tmp_path / "handler.py").write_text(HANDLER)
    (tmp_path / "model.yaml").write_text("batchSize: 3\nmaxBatchDelay: 5\nown: {key: value}\n")
    # It works in $TMPDIR/<model name>, which it deletes first.
    (tmp_path / "archiver").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "archiver"))
    flags = ["--model-name", "real", "--version", "2.1", "--handler", str(tmp_path / "handler.py")]
    flags += ["--extra-files", str(tmp_path / "extra"), "--config-file", str(tmp_path / "model.yaml")]
    flags += ["--archive-format", archive_format, "--export-path", str(store.directory)]
    subprocess.run(
        [str(Path(sys.executable).parent / "torch-model-archiver"), *flags], check=True, capture_output=True
    )
    (made,) = store.directory.iterdir()

    service = open_service()
    assert service.store.all() == [made.name]
    in_process.run(service.register(RegisterParameters(url=made.name, initial_workers=1, synchronous=True)))
    assert in_process.run(service.predict(Query("real", "2.1", {"d": b""}))).value == b"inner value"
    (described,) = in_process.run(service.catalog.describe("real"))
    assert (described["batchSize"], described["maxBatchDelay"]) == (3, 5)
