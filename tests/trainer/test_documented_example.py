"""The example of docs/trainer.md, run as it stands: twice, as it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from satrap.formats.checkpoint import open_checkpoint
from satrap.storage import open_storage

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "trainer.md"


def write_files(folder: Path) -> None:
    """Every block that begins with the name of its file."""
    for block in re.findall(r"```(?:yaml|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        if named := re.match(r"# (\S+\.\w+)\n", block):
            (folder / named[1]).write_text(block, encoding="utf-8")


def test_the_example_runs_and_goes_on(tmp_path, published):
    write_files(tmp_path)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # its batches are too small for more
        )
        assert done.returncode == 0, done.stderr
    seen = type(published)(tmp_path / "packets", tmp_path / "checkpoints", shards=2)
    manifests = seen.manifests()
    assert [manifest.previous for manifest in manifests] == list(range(len(manifests)))
    assert {(manifest.stream, manifest.shards) for manifest in manifests} == {("clicks", 2)}
    assert len({manifest.writer for manifest in manifests}) == 2
    states = seen.states()
    full = seen.full()
    assert len(full) == 2
    assert full[-1][1] == states[max(states)]
    assert len(states[max(states)]) == 1050
    assert len(list((tmp_path / "model_store").glob("clicks_*.mar"))) == 2
    assert open_checkpoint(open_storage(next((tmp_path / "checkpoints").iterdir()))).manifest.records == 1050
