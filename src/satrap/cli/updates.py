"""The commands for whoever operates live updates: what was refused, what is skipped, and how to go back."""

from typing import Annotated, Literal

import typer

from satrap.cli import options
from satrap.config import GlobalConfig
from satrap.errors import InvalidInputError
from satrap.storage import StorageKind
from satrap.tls import Tls

__all__ = ["quarantine", "rollback", "stream"]

quarantine = typer.Typer(
    help="Packets that embedding servers refused, and what becomes of them.\n\nExample: satrap quarantine list",
    no_args_is_help=True,
    rich_markup_mode=None,
)
stream = typer.Typer(
    help="The trainer's stream of packets, as embedding servers follow it.\n\nExample: satrap stream show",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_LOOK_SECONDS = 10.0
"""How long servers may take to look at a decision; they see it at their next poll otherwise."""

_Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The packet, as `satrap quarantine list` names it.")
]
_Stream = Annotated[
    str | None, typer.Option("--stream", help="Which stream; otherwise the one that the servers follow.")
]
_Directory = Annotated[
    str | None,
    typer.Option(
        "--packets",
        help="Directory of the packets, a path or a URL; otherwise updates.directory, or what the servers follow.",
    ),
]
_Who = Annotated[
    str | None, typer.Option("--who", help="Who decided it, for the record; otherwise the present user.")
]


@quarantine.command("list")
def list_quarantine(
    global_config: options.GlobalConfigPath = None,
    shards: options.Shards = None,
    table_directory: options.TableDirectory = None,
    as_json: options.AsJson = False,
) -> None:
    """List the packets that any server refused. The status is 1 if a server cannot be asked.

    Example: satrap quarantine list --shards 127.0.0.1:8888,127.0.0.1:8889
    """
    from satrap.cli.quarantine import collect, show_list

    records, silent = collect(*_servers(global_config, shards, table_directory))
    show_list(records, as_json=as_json)
    _tell_silent(silent)


@quarantine.command("show")
def show_quarantine(
    name: _Name,
    global_config: options.GlobalConfigPath = None,
    shards: options.Shards = None,
    table_directory: options.TableDirectory = None,
    as_json: options.AsJson = False,
) -> None:
    """Say why a packet was refused, where its files are kept, and which servers have applied it.

    Example: satrap quarantine show 00000000000000000007-5f3a9c.json
    """
    from satrap.cli.quarantine import collect, show_one

    records, silent = collect(*_servers(global_config, shards, table_directory))
    show_one(records, name, as_json=as_json)
    _tell_silent(silent)


@quarantine.command("retry")
def retry_quarantine(
    name: _Name,
    global_config: options.GlobalConfigPath = None,
    shards: options.Shards = None,
    table_directory: options.TableDirectory = None,
) -> None:
    """Have a packet judged again, as if it had just come: after its files or the configuration were mended.

    Example: satrap quarantine retry 00000000000000000007-5f3a9c.json
    """
    for line in _decide(name, "retry", global_config, shards, table_directory):
        print(line)


@quarantine.command("drop")
def drop_quarantine(
    name: _Name,
    global_config: options.GlobalConfigPath = None,
    shards: options.Shards = None,
    table_directory: options.TableDirectory = None,
) -> None:
    """Let the stream go on without a packet, for good: its rows stay as they were until a later packet brings them.

    Example: satrap quarantine drop 00000000000000000007-5f3a9c.json
    """
    for line in _decide(name, "drop", global_config, shards, table_directory):
        print(line)


@stream.command("show")
def show_stream(
    global_config: options.GlobalConfigPath = None,
    packets: _Directory = None,
    stream_name: _Stream = None,
    shards: options.Shards = None,
    table_directory: options.TableDirectory = None,
    as_json: options.AsJson = False,
) -> None:
    """Say how far every server is with the stream, and which holds and skips stand.

    Example: satrap stream show --packets /data/packets
    """
    from satrap.cli.stream import find_stream, show

    config = options.read_global_config(global_config)
    addresses = _known_addresses(config, shards, table_directory)
    show(
        find_stream(*_place(packets, config), stream_name, addresses, config.internal_tls.files),
        as_json=as_json,
    )


@stream.command("skip")
def skip_stream(
    to: Annotated[
        int,
        typer.Option("--to", min=1, help="Go on with the packets whose previous sequence is this or below."),
    ],
    why: Annotated[str, typer.Option("--why", help="The reason, for the record.")],
    who: _Who = None,
    global_config: options.GlobalConfigPath = None,
    packets: _Directory = None,
    stream_name: _Stream = None,
    shards: options.Shards = None,
    table_directory: options.TableDirectory = None,
) -> None:
    """Go on where packets are missing (alarm `gap`) and will not come: their changes are lost until rows change again.

    The decision is a file beside the packets (skip-STREAM.json), which every server obeys, also one that starts later.

    Example: satrap stream skip --to 41 --why "the trainer's disk is gone"
    """
    from satrap.cli.rollback import watch
    from satrap.cli.stream import find_stream, present_user, skip

    config = options.read_global_config(global_config)
    addresses = _known_addresses(config, shards, table_directory)
    found = find_stream(*_place(packets, config), stream_name, addresses, config.internal_tls.files)
    print(f"{skip(found, to, who=who or present_user(), why=why)}: skip to {to:,}")
    watch(found, None, _LOOK_SECONDS)


def rollback(
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            min=0,
            help="Keep what the packets through this sequence made (PERSIA's: this time in unix seconds).",
        ),
    ] = None,
    why: Annotated[str | None, typer.Option("--why", help="The reason, for the record.")] = None,
    who: _Who = None,
    release: Annotated[
        bool, typer.Option("--release", help="Instead: end the hold, and let the stream go on.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also below the sequence that a dense version needs which answers."),
    ] = False,
    management: Annotated[
        str | None,
        typer.Option(
            help="Management address of serving, to ask which sequence dense versions need; otherwise 127.0.0.1:7071."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="SATRAP_MANAGEMENT_TOKEN",
            show_envvar=True,
            help="Serving's management key, if it asks for one.",
        ),
    ] = None,
    tls: options.ClientTls = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to wait for the servers.")] = 60.0,
    global_config: options.GlobalConfigPath = None,
    packets: _Directory = None,
    stream_name: _Stream = None,
    shards: options.Shards = None,
    table_directory: options.TableDirectory = None,
) -> None:
    """Go back to what packets through a sequence made, at all embedding servers, and stay there until --release.

    The decision is a file beside the packets (hold-STREAM.json), which every server obeys, also one that starts later.
    The last packets (updates.undo_packets) are taken back at once; further back a server loads the newest checkpoint at
    or below and applies packets again. The status is 1 if a server was not seen there in time: it follows the file.

    Example: satrap rollback --to 41 --why "bad labels since 12:30"
    """
    from satrap.cli import rollback as going_back
    from satrap.cli.stream import find_stream, present_user

    if (to is None) != release:
        raise InvalidInputError("say either --to SEQUENCE or --release")
    if to is not None and not why:
        raise InvalidInputError(
            "say --why: the reason stands beside the packets, for whoever finds the stream held"
        )
    config = options.read_global_config(global_config)
    addresses = _known_addresses(config, shards, table_directory)
    found = find_stream(*_place(packets, config), stream_name, addresses, config.internal_tls.files)
    if to is None:
        going_back.release(found)
        print(f"the hold of {found.name} is released")
    else:
        serving_tls = options.client_tls(tls)
        for line in going_back.check_dense_versions(
            to, management, force=force, token=token, tls=serving_tls
        ):
            print(line)
        for line in going_back.hold(found, to, who=who or present_user(), why=why or ""):
            print(line)
    report = going_back.watch(found, to, seconds)
    if not report.lines:
        print("no server was told: each looks for the file when it starts, and at its next poll")
    if report.left:
        raise typer.Exit(1)


def _place(packets: str | None, config: GlobalConfig) -> tuple[str, StorageKind]:
    """Where packets lie as far as the command line and the configuration say."""
    return options.packet_directory(packets, config), config.embedding_parameter_server_config.storage


def _known_addresses(
    config: GlobalConfig, shards: str | None, table_directory: options.TableDirectory
) -> list[str]:
    """The servers that can be asked; may be empty: a decision reaches them by its file."""
    from satrap.cli.shards import known_servers

    return known_servers(shards, config, options.table_directory_of(table_directory, config))


def _servers(
    global_config: options.GlobalConfigPath, shards: str | None, table_directory: options.TableDirectory
) -> tuple[list[str], Tls | None]:
    """The servers to ask, and how."""
    from satrap.cli.shards import servers_to_ask

    config = options.read_global_config(global_config)
    addresses = servers_to_ask(shards, config, options.table_directory_of(table_directory, config))
    return addresses, config.internal_tls.files


def _decide(
    name: str,
    action: Literal["retry", "drop"],
    global_config: options.GlobalConfigPath,
    shards: str | None,
    table_directory: options.TableDirectory,
) -> list[str]:
    from satrap.cli.quarantine import decide

    addresses, tls = _servers(global_config, shards, table_directory)
    return decide(addresses, name, action, tls)


def _tell_silent(silent: list[str]) -> None:
    for sentence in silent:
        print(f"not asked: {sentence}")
    if silent:
        raise typer.Exit(1)
