"""`satrap demo`: the main job on data made on the spot."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards and say what to try.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to put data, checkpoint and archive; otherwise a temporary directory."),
    ] = None,
) -> None:
    """Train a small model, write a PERSIA checkpoint, serve it on two shards, and compare the AUC.

    Example: satrap demo --keep
    """
    from satrap.demo.run import run
    from satrap.signals import unwind_on_signals

    unwind_on_signals()
    run(keep=keep, folder=folder)
