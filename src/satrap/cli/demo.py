"""`satrap demo`: the main job on data made on the spot."""

import logging
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards and say what to try.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to put packets, checkpoints and archives; otherwise a temporary directory."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="How long training goes on while the model is served.")
    ] = 24.0,
) -> None:
    """Train a small model, serve it on two shards, go on training while it is served, and compare the AUC.

    Example: satrap demo --keep
    """
    from satrap.demo.run import run
    from satrap.signals import unwind_on_signals

    unwind_on_signals()
    logging.getLogger("satrap.trainer").setLevel(logging.WARNING)  # the demo says what it does itself
    run(keep=keep, folder=folder, seconds=seconds)
