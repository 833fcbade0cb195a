"""`satrap bench`: load a served model, and say what its answers took."""

import json
from pathlib import Path
from typing import Annotated

import typer

from satrap.cli import options
from satrap.errors import InvalidInputError, UnavailableError

__all__ = ["bench"]


def bench(
    url: Annotated[
        str, typer.Argument(help="The server: http://HOST:PORT for REST, grpc://HOST:PORT for gRPC.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="The model's name.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="File whose bytes each request carries.")],
    clients: Annotated[
        int,
        typer.Option(
            "--clients", "-c", min=1, help="Requests that are under way together; with --rate at most."
        ),
    ] = 1,
    seconds: Annotated[float, typer.Option("--seconds", "-s", min=0.1, help="How long to measure.")] = 10.0,
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            min=0,
            help="Requests per second, whatever the server does (an open loop); 0: each client asks again when it "
            "has its answer.",
        ),
    ] = 0.0,
    version: Annotated[str, typer.Option("--version", help="A version; otherwise the default one.")] = "",
    key: Annotated[
        str, typer.Option("--key", help="Name of the input over gRPC; PERSIA's handlers take batch.")
    ] = "data",
    warmup: Annotated[float, typer.Option("--warmup", min=0, help="Seconds that are not counted.")] = 1.0,
    timeout: Annotated[float, typer.Option("--timeout", min=0.01, help="Seconds for one request.")] = 30.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the moments of an open loop.")] = 1,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="SATRAP_INFERENCE_TOKEN",
            show_envvar=True,
            help="The inference key of key_file.json, if the server asks for one.",
        ),
    ] = None,
    tls: options.ClientTls = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the figures to this file as JSON; - for standard output."),
    ] = None,
) -> None:
    """Load a served model and measure: requests per second, latencies, errors. Any TorchServe server will do.

    The exit status is 1 when no request was answered well.

    Example: satrap bench grpc://127.0.0.1:7070 --model deepctr --data batch.bin --key batch --clients 8 --seconds 10
    """
    # Imported here: every other command starts without an HTTP client.
    from satrap.load_test.load import Load, measure
    from satrap.load_test.output import print_progress, print_report
    from satrap.load_test.target import read_request, target_of

    if json_file is not None and str(json_file) != "-":
        _check_writable(json_file)
    metadata = {"authorization": f"Bearer {token}"} if token else {}
    target = target_of(
        url, read_request(model, data, version=version, key=key), clients, metadata, options.client_tls(tls)
    )
    load = Load(clients, seconds, rate, warmup, timeout, seed)
    report = measure(target, load, print_progress)
    if json_file is not None:
        text = json.dumps(
            {"url": url, "model": model, "clients": clients, "rate": rate, **report.document()}, indent=2
        )
        if str(json_file) == "-":
            typer.echo(text)
        else:
            json_file.write_text(text + "\n")
    if json_file is None or str(json_file) != "-":
        print_report(report)
    if not report.percentiles:
        first = next(iter(report.errors), "no request was sent: measure longer, or at a higher --rate")
        raise UnavailableError(f"{url}: no request was answered: {first}")


def _check_writable(path: Path) -> None:
    """Before the measurement: figures that cannot be kept are not worth measuring."""
    try:
        path.open("a").close()
    except OSError as error:
        raise InvalidInputError(f"--json {path}: {error.strerror or error}") from error
