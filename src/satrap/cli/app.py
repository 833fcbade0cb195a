"""The command line's table of contents, and the one place where an error becomes a sentence and an exit status."""

import logging
import sys

import typer

import satrap
from satrap.cli.archive import archive
from satrap.cli.bench import bench
from satrap.cli.demo import demo
from satrap.cli.execute import execute
from satrap.cli.models import models
from satrap.cli.operators import inspect, status, tables
from satrap.cli.prune import prune
from satrap.cli.servers import embedding_server, middleware, serving
from satrap.cli.torchserve import torchserve
from satrap.cli.up import up
from satrap.cli.updates import quarantine, rollback, stream
from satrap.errors import SatrapError

__all__ = ["app", "main"]

app = typer.Typer(
    name="satrap",
    help="Serve models whose weight sits in embeddings: PERSIA's checkpoints over TorchServe's API.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("up")(up)
app.command("embedding-server")(embedding_server)
app.command("middleware")(middleware)
app.command("serving")(serving)
app.command(
    "torchserve",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)(torchserve)
app.command("archive")(archive)
app.add_typer(models, name="models")
app.command("bench")(bench)
app.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)(execute)
app.command("demo")(demo)
app.command("status")(status)
app.command("inspect")(inspect)
app.add_typer(tables, name="tables")
app.command("rollback")(rollback)
app.add_typer(stream, name="stream")
app.add_typer(quarantine, name="quarantine")
app.command("prune")(prune)
# PERSIA's names of the first two processes.
app.command("embedding-parameter-server", hidden=True)(embedding_server)
app.command("embedding-worker", hidden=True)(middleware)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"satrap {satrap.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Say the version."
    ),
) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # They say with every client where they found its credentials, or every request.
    for chatty in ("aiobotocore", "botocore", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main() -> None:
    """Run the command line. An error of satrap's own is one sentence on standard error and exit status 1."""
    try:
        app()
    except SatrapError as error:
        print(f"satrap: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
