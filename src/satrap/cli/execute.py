"""`satrap exec`: a client script with PERSIA's and TorchServe's names at hand."""

from typing import Annotated

import typer

__all__ = ["execute"]


def execute(
    script: Annotated[str, typer.Argument(help="The script, as after `python`.", metavar="SCRIPT.py")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Its arguments, untouched.", metavar="[ARGS]...")
    ] = None,
) -> None:
    """Run a Python script as `python SCRIPT.py ARGS` does, with `persia` and `ts` being satrap's.

    Example: satrap exec serve_client.py --batch 128
    """
    from satrap.compat.execute import execute as run_script

    run_script(script, arguments or [])
