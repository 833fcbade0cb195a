"""A warm process that forks pipelines (`pipeline_process.py`), as tests use it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


class Pipelines:
    """The warm process, and what it is asked for."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        env = dict(os.environ, OPENBLAS_NUM_THREADS="1", PYTHONPATH=str(here))
        self._process = subprocess.Popen(
            [sys.executable, str(here / "pipeline_process.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def live(self, **order: object) -> int:
        """Let one pipeline live, and say how it ended: 0, or minus the signal."""
        self._process.stdin.write(json.dumps({name: _plain(value) for name, value in order.items()}) + "\n")
        self._process.stdin.flush()
        ended = json.loads(self._process.stdout.readline())["ended"]
        assert ended in (0, -signal.SIGKILL, -signal.SIGALRM)
        return ended

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(30) == 0


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
