"""The one place that owns signals: a server stops in order at the first SIGTERM or SIGINT, at once at the second."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

__all__ = ["stop_on_eof", "stop_on_signals", "unwind_on_signals"]


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` at the first SIGTERM or SIGINT; end the process at the second. Call from the main thread, once.

    A thread sets the event. A handler could not: Python runs it on the main thread when that executes Python again,
    which a main thread that was just about to block in `stop.wait()` never does, and it would wait for itself if the
    main thread was inside `wait()` with the event's lock. What the interpreter writes to the wake-up descriptor is
    written when the signal arrives, whatever the main thread does.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    asked = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        os.write(writer, b"\0")  # an event loop on the main thread has a wake-up descriptor of its own

    def wait() -> None:
        os.read(reader, 1)
        stop.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def stop_on_eof(stop: threading.Event) -> None:
    """Set `stop` when standard input closes: a supervisor that dies, however it dies, takes its children along."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            continue
        stop.set()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def unwind_on_signals() -> None:
    """For a command that is no server: SIGTERM, like SIGINT, is an exception, so that what was opened is closed.

    SIGINT too is set: a shell without job control lets its background jobs ignore it.
    """

    def unwind(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
    signal.signal(signal.SIGINT, signal.default_int_handler)
