"""`satrap models`: register, describe, scale, deploy and remove models at a running server, satrap or TorchServe."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from satrap.cli import options
from satrap.errors import InvalidInputError, RemoteError, UnavailableError

if TYPE_CHECKING:
    from satrap.client import ManagementClient, ModelDescription, ModelEntry

__all__ = ["models"]

models = typer.Typer(
    help="Register, describe, scale, deploy and remove models at a running server.\n\nExample: satrap models list",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Address = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="SATRAP_MANAGEMENT_ADDRESS",
        show_envvar=True,
        help="The server's gRPC management API.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="SATRAP_MANAGEMENT_TOKEN",
        show_envvar=True,
        help="The management key of key_file.json, if the server asks for one.",
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that a call may take.")]
Model = Annotated[str, typer.Argument(help="The model's name.")]
Url = Annotated[str, typer.Argument(help="An archive in the model store, or a URL that the server allows.")]
Name = Annotated[str, typer.Option("--model-name", help="Another name than the archive's.")]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Worker processes; 0 leaves it to the server.")
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=0, help="Requests that the handler gets at once; 0: the archive's.")
]
BatchDelay = Annotated[
    int, typer.Option("--max-batch-delay", min=0, help="Milliseconds a request waits for others; 0 likewise.")
]

_DEFAULT_ADDRESS = "127.0.0.1:7071"
_DEFAULT_TIMEOUT = 300.0


@contextmanager
def _management(
    address: str, token: str | None, tls: str | None, timeout: float
) -> Iterator["ManagementClient"]:
    if "://" in address:
        raise InvalidInputError(
            f"--address {address}: it is the host and port of the gRPC management API, like {_DEFAULT_ADDRESS}"
        )
    metadata = {"authorization": f"Bearer {token}"} if token else None
    # Imported here: every command loads this module, and the client numpy.
    from satrap.client import ManagementClient

    with ManagementClient(address, timeout=timeout, metadata=metadata, tls=options.client_tls(tls)) as client:
        try:
            yield client
        except UnavailableError as error:
            raise UnavailableError(
                f"{error} (is a server running at {address}? If not there, name it by --address)"
            ) from error
        except RemoteError as error:
            if error.status is not grpc.StatusCode.PERMISSION_DENIED or "Token" not in error.details:
                raise
            raise RemoteError(
                error.status, f"{error.details} (name the management key of its key_file.json by --token)"
            ) from error


@models.command("register")
def register(
    url: Url,
    model_name: Name = "",
    workers: Workers = 1,
    batch_size: BatchSize = 0,
    max_batch_delay: BatchDelay = 0,
    handler: Annotated[str, typer.Option("--handler", help="Another handler than the archive's.")] = "",
    response_timeout: Annotated[
        int, typer.Option("--response-timeout", min=0, help="Seconds a worker may take for an answer.")
    ] = 0,
    startup_timeout: Annotated[
        int, typer.Option("--startup-timeout", min=0, help="Seconds a worker may take to load the model.")
    ] = 0,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when the workers are ready, or at once.")
    ] = True,
    address: Address = _DEFAULT_ADDRESS,
    token: Token = None,
    tls: options.ClientTls = None,
    timeout: Timeout = _DEFAULT_TIMEOUT,
) -> None:
    """Register a version; the first one of a model is its default.

    Example: satrap models register deepctr_v2.mar --workers 2
    """
    with _management(address, token, tls, timeout) as management:
        typer.echo(
            management.register(
                url,
                model_name=model_name,
                handler=handler,
                initial_workers=workers,
                batch_size=batch_size,
                max_batch_delay=max_batch_delay,
                response_timeout=response_timeout,
                startup_timeout=startup_timeout,
                synchronous=wait,
            )
        )


@models.command("deploy")
def deploy(
    url: Url,
    model_name: Name = "",
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=0,
            help="Worker processes; 0: the archive's or server's count, but as many as the default version has.",
        ),
    ] = 0,
    batch_size: BatchSize = 0,
    max_batch_delay: BatchDelay = 0,
    keep: Annotated[
        int, typer.Option("--keep", min=0, help="How many older versions stay, the last registered ones.")
    ] = 0,
    address: Address = _DEFAULT_ADDRESS,
    token: Token = None,
    tls: options.ClientTls = None,
    timeout: Timeout = _DEFAULT_TIMEOUT,
) -> None:
    """Register a version, wait until it is ready, make it the default, and remove the older ones; no request is lost.

    Example: satrap models deploy deepctr_v2.mar
    """
    with _management(address, token, tls, timeout) as management:
        deployed = management.deploy(
            url,
            model_name=model_name,
            workers=workers,
            batch_size=batch_size,
            max_batch_delay=max_batch_delay,
            keep=keep,
            on_step=lambda sentence: typer.echo(sentence, err=True),
        )
    removed = f", removed {', '.join(deployed.removed)}" if deployed.removed else ""
    typer.echo(f"{deployed.model} {deployed.version} is the default{removed}")


@models.command("list")
def list_models(
    as_json: options.AsJson = False,
    address: Address = _DEFAULT_ADDRESS,
    token: Token = None,
    tls: options.ClientTls = None,
    timeout: Timeout = _DEFAULT_TIMEOUT,
) -> None:
    """List the models with the archives of their default versions.

    Example: satrap models list
    """
    entries: list[ModelEntry] = []
    page_token: int | None = 0
    with _management(address, token, tls, timeout) as management:
        while page_token is not None:
            page = management.list_models(next_page_token=page_token)
            entries += page.models
            page_token = page.next_page_token if page.models else None
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        return
    for entry in entries:
        typer.echo(f"{entry.name}\t{entry.url}")
    if not entries:
        typer.echo("no models are registered", err=True)


@models.command("describe")
def describe(
    model: Model,
    version: Annotated[str, typer.Option("--version", help="One version; otherwise all of them.")] = "all",
    customized: Annotated[
        bool, typer.Option("--customized", help="Ask a worker as well what the handler tells of itself.")
    ] = False,
    as_json: options.AsJson = False,
    address: Address = _DEFAULT_ADDRESS,
    token: Token = None,
    tls: options.ClientTls = None,
    timeout: Timeout = _DEFAULT_TIMEOUT,
) -> None:
    """Say how a model's versions are served, and by which workers.

    Example: satrap models describe deepctr --json
    """
    with _management(address, token, tls, timeout) as management:
        described = management.describe(model, version, customized=customized)
        default = management.describe(model)[0].version
    if as_json:
        typer.echo(json.dumps([each.document for each in described], indent=2))
        return
    Console().print(_table(described, default))
    for each in described:
        if told := each.document.get("customizedMetadata"):
            typer.echo(f"{each.version}: {json.dumps(told)}")


def _table(described: "tuple[ModelDescription, ...]", default: str) -> Table:
    table = Table("version", "archive", "workers", "batch", "delay", "waiting", "memory")
    for each in described:
        queue = each.document.get("jobQueueStatus", {})
        table.add_row(
            f"{each.version}{' (default)' if each.version == default else ''}",
            each.url,
            f"{each.ready_workers} of {each.min_workers} ready",
            str(each.batch_size),
            f"{each.max_batch_delay} ms",
            str(queue.get("pendingRequests", "")),
            decimal(sum(worker.memory_usage for worker in each.workers)),
        )
    return table


@models.command("scale")
def scale(
    model: Model,
    workers: Annotated[int, typer.Argument(min=1, help="Worker processes to have at least.")],
    max_workers: Annotated[
        int, typer.Option("--max-workers", min=0, help="And at most; 0: as many as at least.")
    ] = 0,
    version: Annotated[str, typer.Option("--version", help="A version; otherwise the default one.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when the workers are there, or at once.")
    ] = True,
    address: Address = _DEFAULT_ADDRESS,
    token: Token = None,
    tls: options.ClientTls = None,
    timeout: Timeout = _DEFAULT_TIMEOUT,
) -> None:
    """Change how many workers a version has; a worker that is not wanted any more finishes first.

    Example: satrap models scale deepctr 4
    """
    with _management(address, token, tls, timeout) as management:
        typer.echo(
            management.scale(
                model, min_workers=workers, max_workers=max_workers, version=version, synchronous=wait
            )
        )


@models.command("set-default")
def set_default(
    model: Model,
    version: Annotated[str, typer.Argument(help="The version that answers when a request names none.")],
    address: Address = _DEFAULT_ADDRESS,
    token: Token = None,
    tls: options.ClientTls = None,
    timeout: Timeout = _DEFAULT_TIMEOUT,
) -> None:
    """Make a version the default.

    Example: satrap models set-default deepctr 2.0
    """
    with _management(address, token, tls, timeout) as management:
        typer.echo(management.set_default(model, version))


@models.command("unregister")
def unregister(
    model: Model,
    version: Annotated[str, typer.Option("--version", help="A version; otherwise the default one.")] = "",
    address: Address = _DEFAULT_ADDRESS,
    token: Token = None,
    tls: options.ClientTls = None,
    timeout: Timeout = _DEFAULT_TIMEOUT,
) -> None:
    """Remove a version, when all requests that it accepted are answered.

    Example: satrap models unregister deepctr --version 1.0
    """
    with _management(address, token, tls, timeout) as management:
        typer.echo(management.unregister(model, version))
