"""What every benchmark's command line does around its measurements."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

__all__ = ["run_script"]

_WIDTH = 180
"""Columns where the output is no terminal."""


def run_script(
    measure: Callable[[Console], dict[str, Any]],
    json_path: Path | None,
    failures: tuple[type[Exception], ...],
) -> None:
    """Measure, and write what came of it to `json_path`.

    What is one of `failures` is told by its sentence alone; SIGTERM and Ctrl-C stop the processes on the way out.
    """
    name = Path(sys.argv[0]).name
    signal.signal(signal.SIGTERM, _leave)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    try:
        document = measure(console)
    except KeyboardInterrupt:
        sys.exit("stopped, and every process with it")
    except failures as error:
        sys.exit(f"{name}: {error}")
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(document, indent=1, default=str) + "\n")
        console.print(f"written to {json_path}")


def _leave(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
