"""A progress bar on standard error while something takes long; a line every few seconds where it is no terminal."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

__all__ = ["LoadProgress", "item_progress"]

log = logging.getLogger("satrap.load")

_LINE_SECONDS = 5.0


class LoadProgress:
    """Shows how far a load is. `update` may be called from any thread."""

    def __init__(self, name: str) -> None:
        """Show nothing yet; `name` stands before the bar."""
        self._name = name
        self._bar: Progress | None = None
        self._said_at = time.monotonic()

    def update(self, fraction: float, rows: int) -> None:
        """`fraction` of the checkpoint is loaded (0 to 1), `rows` rows so far."""
        if not sys.stderr.isatty():
            now = time.monotonic()
            if now - self._said_at >= _LINE_SECONDS:
                self._said_at = now
                log.info("%s: %.0f %% loaded, %s rows", self._name, fraction * 100, f"{rows:,}")
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[rows]:,} rows"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.add_task(f"loading {self._name}", total=1.0, rows=0)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=fraction, rows=rows)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> "LoadProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def item_progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how many of `total` items are done. What it gives is to be called after each."""
    done = 0
    if sys.stderr.isatty():
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = bar.add_task(what, total=total)
        with bar:
            yield lambda: bar.advance(task)
        return
    said = time.monotonic()

    def step() -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= _LINE_SECONDS:
            said = time.monotonic()
            log.info("%s: %s of %s", what, f"{done:,}", f"{total:,}")

    yield step
