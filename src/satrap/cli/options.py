"""Flags that several commands share."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from satrap.config import EmbeddingConfig, GlobalConfig, load_embedding_config, load_global_config
from satrap.errors import InvalidInputError
from satrap.tls import Tls

__all__ = [
    "AsJson",
    "Checkpoint",
    "ClientTls",
    "EmbeddingConfigPath",
    "ExitWithParent",
    "GlobalConfigPath",
    "GrpcInferencePort",
    "GrpcManagementPort",
    "Host",
    "Insecure",
    "MetricsPort",
    "ModelApi",
    "ModelStore",
    "Models",
    "Ncs",
    "Packets",
    "Purge",
    "RestInferencePort",
    "RestManagementPort",
    "ServingHost",
    "Shards",
    "TableDirectory",
    "TokenAuth",
    "TsConfig",
    "client_tls",
    "packet_directory",
    "read_embedding_config",
    "read_global_config",
    "require_embedding_config",
    "shard_addresses",
    "table_directory_of",
]

log = logging.getLogger("satrap.config")

GlobalConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--global-config",
        envvar="PERSIA_GLOBAL_CONFIG",
        help="global_config.yaml, PERSIA's or satrap's. Without it every key has its default.",
        show_envvar=True,
    ),
]
EmbeddingConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--embedding-config",
        envvar="PERSIA_EMBEDDING_CONFIG",
        help="embedding_config.yml, PERSIA's as it is: the features and their dims.",
        show_envvar=True,
    ),
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
ServingHost = Annotated[
    str | None,
    typer.Option(
        "--host", help="Address of all APIs, in place of the configuration's.", show_default="127.0.0.1"
    ),
]
GrpcInferencePort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Port of the gRPC inference API; 0 picks a free one.", show_default="7070"
    ),
]
GrpcManagementPort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Port of the gRPC management API; 0 picks a free one.", show_default="7071"
    ),
]
RestInferencePort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Port of the REST inference API; 0 picks a free one.", show_default="8080"
    ),
]
RestManagementPort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Port of the REST management API; 0 picks a free one.", show_default="8081"
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Port of serving's /metrics; 0 picks a free one.", show_default="8082"
    ),
]
TsConfig = Annotated[
    Path | None,
    typer.Option(
        "--ts-config",
        help="TorchServe's config.properties. Where it is silent TorchServe's defaults count, tokens on and model API "
        "off among them.",
    ),
]
TokenAuth = Annotated[
    bool | None,
    typer.Option(
        "--token-auth/--disable-token-auth",
        help="Ask every call for the token in key_file.json; otherwise only on addresses that others can reach.",
        show_default=False,
    ),
]
ModelApi = Annotated[
    bool | None,
    typer.Option(
        "--enable-model-api/--disable-model-api",
        help="Let models be registered and unregistered over the APIs, which they may by default.",
        show_default=False,
    ),
]
Ncs = Annotated[
    bool,
    typer.Option(
        "--ncs", help="Neither restore what was registered when the last server ended nor write it down."
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure", help="Listen on an address that others can reach, without tokens and encryption."
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="Checkpoint to load, a path or a URL, or a folder of them: then the newest, also while serving; "
        "otherwise infer_config.embedding_checkpoint.",
    ),
]
Packets = Annotated[
    str | None,
    typer.Option(
        "--packets",
        help="Directory of the trainer's packets, a path or a URL, to follow while serving; otherwise "
        "updates.directory.",
    ),
]
ModelStore = Annotated[
    Path | None,
    typer.Option("--model-store", help="Directory with the .mar archives that may be registered."),
]
Models = Annotated[
    str | None,
    typer.Option("--models", help="Archives to register at start: a.mar,b.mar or name=a.mar, or all."),
]
Shards = Annotated[
    str | None,
    typer.Option(
        "--shards",
        help="Addresses of the embedding servers, comma-separated, in order; otherwise infer_config.servers.",
        envvar="SATRAP_SHARDS",
    ),
]
TableDirectory = Annotated[
    Path | None,
    typer.Option(
        "--table-directory",
        envvar="SATRAP_TABLE_DIRECTORY",
        help="Where tables are kept; otherwise embedding_server.table_directory.",
        show_envvar=True,
    ),
]
Purge = Annotated[
    bool,
    typer.Option("--purge", help="Remove the tables at the end, instead of keeping them for the next start."),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
ExitWithParent = Annotated[
    bool, typer.Option("--exit-with-parent", hidden=True, help="Stop when standard input closes.")
]


ClientTls = Annotated[
    str | None,
    typer.Option(
        "--tls",
        envvar="SATRAP_TLS",
        show_envvar=True,
        metavar="CA[,CERTIFICATE,KEY]",
        help="The server speaks TLS: PEM file of the authority that signed its certificate; two more, if it asks its "
        "clients for one.",
    ),
]


def client_tls(flag: str | None) -> Tls | None:
    """What a client shows and believes by the flag; None: it speaks without TLS.

    Raises:
        InvalidInputError: not one or three files, or one that cannot be used.
    """
    if flag is None:
        return None
    files = flag.split(",")
    if len(files) not in (1, 3) or not all(files):
        raise InvalidInputError(
            f"--tls {flag}: name the authority's file, or three: authority,certificate,key"
        )
    authority, certificate, key = files if len(files) == 3 else (files[0], "", "")
    tls = Tls(certificate, key, authority)
    tls.check()
    return tls


def read_global_config(path: Path | None) -> GlobalConfig:
    """The file's values, or the defaults without a file; unknown keys of PERSIA's are logged."""
    return load_global_config(path, log.warning) if path is not None else GlobalConfig()


def read_embedding_config(path: Path | None) -> EmbeddingConfig | None:
    """The file's values, or None without a file."""
    return load_embedding_config(path, log.warning) if path is not None else None


def require_embedding_config(path: Path | None) -> EmbeddingConfig:
    """The file's values.

    Raises:
        InvalidInputError: no file was named.
    """
    config = read_embedding_config(path)
    if config is None:
        raise InvalidInputError(
            "no embedding config: pass --embedding-config FILE or set PERSIA_EMBEDDING_CONFIG "
            "(the embedding_config.yml of the training job)"
        )
    return config


def table_directory_of(flag: Path | None, config: GlobalConfig) -> Path:
    """The table directory: that of the flag, otherwise the config's."""
    return (flag or Path(config.embedding_server.table_directory)).absolute()


def packet_directory(flag: str | None, config: GlobalConfig) -> str:
    """Where packets are followed: the flag's, otherwise the config's; empty: nowhere, also as a flag."""
    return config.packet_directory if flag is None else flag


def shard_addresses(flag: str | None, config: GlobalConfig) -> list[str]:
    """The embedding servers in order: those of the flag, otherwise infer_config.servers; may be empty."""
    if flag is not None:
        return [address.strip() for address in flag.split(",") if address.strip()]
    return list(config.common_config.infer_config.servers)
