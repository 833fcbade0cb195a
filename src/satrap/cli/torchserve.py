"""`satrap torchserve`: TorchServe's own command line in front of satrap."""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import satrap
from satrap.cli import options
from satrap.cli.servers import announce, begin_process
from satrap.cli.serving_flags import ServingFlags
from satrap.cli.serving_settings import torchserve_settings, ts_snapshots
from satrap.errors import InvalidInputError
from satrap.pid_file import PidFile

if TYPE_CHECKING:
    from satrap.serving.settings import ServingSettings

__all__ = ["torchserve"]

log = logging.getLogger("satrap.config")

VERSION = "0.12.0"
"""The TorchServe whose behaviour is served."""

STARTED = "Model server started."
"""TorchServe's line, which scripts wait for."""

_JAVA = "org.pytorch.serve.ModelServer"
"""What the command line of a real TorchServe has, which writes the same pid file."""

_STOP_SECONDS = 150.0
"""What `--stop` waits: more than draining takes by default, `unregister_model_timeout` included."""

_IGNORED = {
    "workflow_store": "--workflow-store: there are no workflows",
    "log_config": "--log-config: log lines go to standard error, as they are",
    "cpp_log_config": "--cpp-log-config: there are no C++ workers",
    "plugins_path": "--plugins-path: there are no plugins",
}


def torchserve(context: typer.Context) -> None:
    """Take TorchServe's own flags and files: --start, --stop, --model-store, --models, --ts-config, --ncs.

    Example: satrap torchserve --start --ncs --model-store model_store --models noop=noop.mar
    """
    arguments = _parser().parse_args(context.args)
    pid_file = PidFile(Path(tempfile.gettempdir()) / ".model_server.pid")
    if arguments.version:
        print(f"TorchServe Version is {VERSION}")
        print(f"satrap {satrap.__version__}")
    elif arguments.stop:
        _stop(pid_file)
    elif arguments.foreground:
        _serve(arguments, pid_file)
    else:
        _start(arguments, context.args, pid_file)


def _parser() -> argparse.ArgumentParser:
    """TorchServe's flags, by its names."""
    parser = argparse.ArgumentParser(
        prog="satrap torchserve",
        description="TorchServe's command line. Without --stop and --version a server is started.",
        epilog="Example: satrap torchserve --start --ncs --model-store model_store --models noop=noop.mar",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-v", "--version", action="store_true", help="say which TorchServe's behaviour this is")
    what.add_argument("--start", action="store_true", help="start a server; it goes on in the background")
    what.add_argument("--stop", action="store_true", help="stop it, when what it has accepted is answered")
    parser.add_argument("--foreground", action="store_true", help="stay, instead of returning")
    parser.add_argument("--ts-config", metavar="FILE", type=Path, help="config.properties")
    parser.add_argument("--model-store", metavar="DIR", type=Path, help="the directory of the archives")
    parser.add_argument("--models", metavar="[NAME=]FILE", nargs="+", help="what to register, or ALL")
    parser.add_argument(
        "--no-config-snapshots",
        "--ncs",
        dest="ncs",
        action="store_true",
        help="neither write nor take snapshots",
    )
    parser.add_argument(
        "--disable-token-auth", "--dt", dest="no_tokens", action="store_true", help="ask for no tokens"
    )
    parser.add_argument(
        "--enable-model-api",
        dest="model_api",
        action="store_true",
        help="register and unregister over the APIs",
    )
    for ignored in ("--workflow-store", "--log-config", "--cpp-log-config"):
        parser.add_argument(ignored, metavar="PATH", help="has no effect here")
    parser.add_argument("--plugins-path", "--ppath", metavar="PATH", help="has no effect here")
    # The process behind --start: when the server is ready, nobody reads its standard output any more.
    parser.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    return parser


def _start(arguments: argparse.Namespace, words: Sequence[str], pid_file: PidFile) -> None:
    """Start the server in a session of its own, show what it says until it is ready, and leave it running."""
    _refuse_second(pid_file)
    _settings(arguments, os.environ, quiet=True)  # a mistake is said here, by the process that was called
    command = [sys.executable, "-P", "-m", "satrap.cli", "torchserve", *words, "--foreground", "--background"]
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    assert server.stdout is not None
    try:
        with server.stdout as lines:
            for line in lines:
                print(line, end="", flush=True)
                if line.strip() == STARTED:
                    return
        raise typer.Exit(server.wait() or 1)
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        raise


def _serve(arguments: argparse.Namespace, pid_file: PidFile) -> None:
    from satrap.serving.forks import launched_template

    _refuse_second(pid_file)
    settings = _settings(arguments, os.environ)
    stop = begin_process(exit_with_parent=False)
    pid_file.claim()

    def ready(line: str) -> None:
        announce(line)
        announce(STARTED)
        if arguments.background:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    try:
        with launched_template() as template:  # it imports torch while this process imports the rest
            from satrap.serving.server import run

            run(settings, stop, ready, template)
    finally:
        pid_file.release()


def _stop(pid_file: PidFile) -> None:
    if (foreign := pid_file.process_of(_JAVA)) is not None:
        raise InvalidInputError(
            f"process {foreign}, named by {pid_file.path}, is a real TorchServe: stop it with its own torchserve --stop"
        )
    if pid_file.process() is None:
        pid_file.path.unlink(missing_ok=True)
        print("TorchServe is not currently running.")
    elif pid_file.stop(_STOP_SECONDS):
        print("TorchServe has stopped.")
    else:
        raise InvalidInputError(
            f"process {pid_file.process()} has not stopped within {_STOP_SECONDS:.0f} s: it still answers what it "
            "has accepted. Ask again, or kill it"
        )


def _refuse_second(pid_file: PidFile) -> None:
    running = pid_file.process() or pid_file.process_of(_JAVA)
    if running is not None and running != os.getpid():
        raise InvalidInputError(
            f"TorchServe is already running (process {running}, {pid_file.path}), please use torchserve --stop to stop "
            "TorchServe. A second one needs a TMPDIR of its own"
        )


def _settings(
    arguments: argparse.Namespace, environment: Mapping[str, str], *, quiet: bool = False
) -> "ServingSettings":
    """What the flags, the file that TorchServe would take, and the environment say. `quiet`: without warnings."""
    from satrap.serving.ts_properties import Properties, find_config_file, read_properties

    snapshots = None if arguments.ncs or arguments.models else ts_snapshots(environment)
    file = find_config_file(arguments.ts_config, environment, Path(), snapshots)
    properties = read_properties(file, environment) if file is not None else Properties()
    global_config = _path(environment, "PERSIA_GLOBAL_CONFIG")
    embedding_config = _path(environment, "PERSIA_EMBEDDING_CONFIG")
    options.read_embedding_config(embedding_config)
    if not quiet:
        for name, sentence in _IGNORED.items():
            if getattr(arguments, name):
                log.warning("%s", sentence)
    settings = torchserve_settings(
        ServingFlags(
            model_store=arguments.model_store,
            models=",".join(arguments.models) if arguments.models else None,
            ncs=arguments.ncs,
            token_auth=False if arguments.no_tokens else None,
            model_api=True if arguments.model_api else None,
            global_config=global_config,
            embedding_config=embedding_config,
            shards=environment.get("SATRAP_SHARDS"),
        ),
        options.read_global_config(global_config),
        properties,
        environment,
        quiet=quiet,
    )
    if settings.model_store is None:
        raise InvalidInputError("Missing mandatory parameter --model-store")
    if not settings.model_store.is_dir():
        raise InvalidInputError(f"--model-store directory not found: {settings.model_store}")
    return settings


def _path(environment: Mapping[str, str], variable: str) -> Path | None:
    return Path(environment[variable]) if environment.get(variable) else None
