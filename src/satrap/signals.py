"""The one place that owns signals: the first SIGTERM or SIGINT asks for an orderly stop, the second ends at once."""

import os
import signal
import sys
import threading
from types import FrameType

__all__ = ["stop_on_eof", "stop_on_signals"]


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` at the first SIGTERM or SIGINT; end the process at the second. Call from the main thread."""
    asked = False

    def handle(number: int, _: FrameType | None) -> None:
        # A second signal may interrupt `stop.set()`, which holds the event's lock: it must not touch the event.
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def stop_on_eof(stop: threading.Event) -> None:
    """Set `stop` when standard input closes: a supervisor that dies, however it dies, takes its children along."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            continue
        stop.set()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
