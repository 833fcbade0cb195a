"""The commands for whoever operates satrap: what is held, what a path is, how the servers are."""

from typing import Annotated

import typer

from satrap.cli import options

__all__ = ["inspect", "status", "tables"]

tables = typer.Typer(
    help="What memory tables hold on this machine.\n\nExample: satrap tables list",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@tables.command("list")
def list_tables(
    global_config: options.GlobalConfigPath = None,
    table_directory: options.TableDirectory = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what memory is held, by which tables, and whose they are.

    Example: satrap tables list
    """
    from satrap.cli.held_tables import show

    config = options.read_global_config(global_config)
    show(options.table_directory_of(table_directory, config), as_json=as_json)


@tables.command("remove")
def remove_tables(
    which: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAMESPACE/I-of-N]...", help="Tables as `satrap tables list` names them."),
    ] = None,
    remove_all: Annotated[
        bool, typer.Option("--all", help="All tables of this user that no server holds.")
    ] = False,
    global_config: options.GlobalConfigPath = None,
    table_directory: options.TableDirectory = None,
) -> None:
    """Give back the memory of tables that no server holds. A server that starts next loads its checkpoint.

    Example: satrap tables remove default/0-of-2 default/1-of-2
    """
    from satrap.cli.held_tables import remove

    config = options.read_global_config(global_config)
    remove(options.table_directory_of(table_directory, config), which or (), remove_all=remove_all)


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A packet's or checkpoint's manifest, one of their files, a folder of them, or an operator's "
            "decision, by path or URL; a PERSIA checkpoint, packet directory, .emb or .inc file; a generation of "
            "tables, one of its tables, a shard's folder of them, or a file of those, undo files included; a refused "
            "packet's folder.",
        ),
    ],
    sign: Annotated[
        int | None,
        typer.Option(
            "--id",
            min=0,
            max=2**64 - 1,
            help="Also show the rows of this id, as tables and packets have it: after its feature's prefix.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what a path is and what its headers say, and check it. The status is 1 if something is damaged.

    Example: satrap inspect /var/lib/packets --id 7
    """
    from satrap.cli.inspection import examine
    from satrap.cli.inspection_output import show

    facts = examine(path, sign)
    show(facts, as_json=as_json)
    if facts["damage"]:
        raise typer.Exit(1)


def status(
    global_config: options.GlobalConfigPath = None,
    shards: options.Shards = None,
    middleware: Annotated[
        str | None,
        typer.Option("--middleware", help="Also ask this `satrap middleware` how it reaches each server."),
    ] = None,
    table_directory: options.TableDirectory = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask every embedding server how it is, and how far with its trainer's packets.

    The status is 1 if one of them is not ready, be it only that its health is red because of updates. Without --shards
    and infer_config.servers it asks those of this machine, whose tables lie in the table directory.

    Example: satrap status --shards 127.0.0.1:8888,127.0.0.1:8889
    """
    from satrap.cli.server_status import ask, show
    from satrap.cli.shards import servers_to_ask

    config = options.read_global_config(global_config)
    directory = options.table_directory_of(table_directory, config)
    answers = ask(servers_to_ask(shards, config, directory), middleware, config.internal_tls.files)
    show(answers, as_json=as_json, with_way=middleware is not None)
    if not all(answer.is_ready for answer in answers):
        raise typer.Exit(1)
