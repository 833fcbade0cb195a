"""`satrap prune`: remove packets and checkpoints that no recovery needs any more."""

from typing import Annotated

import typer

from satrap.cli import options

__all__ = ["prune"]


def prune(
    packets: Annotated[
        str | None,
        typer.Option(
            "--packets",
            help="Directory of the trainer's packets, a path or a URL; otherwise updates.directory.",
        ),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            "--checkpoints",
            help="Folder of checkpoints, a path or a URL: what the servers are given as --checkpoint; otherwise "
            "infer_config.embedding_checkpoint.",
        ),
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="How many of a stream's newest usable checkpoints stay.")
    ] = 2,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it. Without this nothing is removed.")] = False,
    shards: options.Shards = None,
    global_config: options.GlobalConfigPath = None,
    table_directory: options.TableDirectory = None,
    as_json: options.AsJson = False,
) -> None:
    """Say which packets and checkpoints no recovery needs any more, ours and PERSIA's, and with --yes remove them.

    What stays: the newest checkpoints, every packet after the oldest of these, what a hold needs, what a server that
    answers has not applied yet or serves, what waits in quarantine, and for an hour what is not published to its end.

    Example: satrap prune --packets /data/packets --checkpoints /data/checkpoints --yes
    """
    from satrap.cli.pruning import Asked, remove, show, survey
    from satrap.cli.shards import known_servers

    config = options.read_global_config(global_config)
    infer = config.common_config.infer_config
    storage = config.embedding_parameter_server_config.storage
    addresses = known_servers(shards, config, options.table_directory_of(table_directory, config))
    surveyed = survey(
        Asked(
            packets=options.packet_directory(packets, config),
            checkpoints=checkpoints if checkpoints is not None else infer.embedding_checkpoint,
            storage=storage,
            margin_seconds=config.updates.persia_replay_margin_seconds,
            keep=keep,
            servers=tuple(addresses),
            tls=config.internal_tls.files,
        )
    )
    if yes:
        remove(surveyed)
    show(surveyed, removed=yes, as_json=as_json)
