"""`satrap archive`: write a .mar, with the flags of torch-model-archiver or of a model-servers build script."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from satrap.errors import ArchiveError
from satrap.serving.archive import package as packaging
from satrap.serving.archive.model_server import package_model_server

__all__ = ["archive"]


class _Runtime(StrEnum):
    PYTHON = "python"
    PYTHON3 = "python3"
    LSP = "LSP"


class _Format(StrEnum):
    DEFAULT = "default"
    TGZ = "tgz"
    NO_ARCHIVE = "no-archive"
    ZIP_STORE = "zip-store"


def archive(
    model_name: Annotated[
        str, typer.Option("--model-name", "--model_name", help="Name of the model and of the archive.")
    ],
    version: Annotated[str, typer.Option("-v", "--version", help="Version of the model.")],
    handler: Annotated[
        str | None,
        typer.Option("--handler", help="A Python file, file:function, or an installed module:Class."),
    ] = None,
    serialized_file: Annotated[
        Path | None, typer.Option("--serialized-file", help="TorchScript (.pt, .pth), or a state dict.")
    ] = None,
    model_file: Annotated[
        Path | None,
        typer.Option("--model-file", "--model_file", help="Python file of an eager model."),
    ] = None,
    extra_files: Annotated[
        str,
        typer.Option("--extra-files", "--extra_files", help="Files, folders and wildcards, comma-separated."),
    ] = "",
    runtime: Annotated[
        _Runtime, typer.Option("--runtime", help="What the manifest says runs it.")
    ] = _Runtime.PYTHON,
    export_path: Annotated[Path, typer.Option("--export-path", help="Folder for the archive.")] = Path(),
    archive_format: Annotated[
        _Format, typer.Option("--archive-format", help="How it is stored.")
    ] = _Format.DEFAULT,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace an archive of that name.")] = False,
    requirements_file: Annotated[
        Path | None,
        typer.Option(
            "-r", "--requirements-file", "--requirements_file", help="Packages that the model needs."
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("-c", "--config-file", "--config_file", help="YAML file of the model."),
    ] = None,
    model_server: Annotated[
        bool,
        typer.Option(
            "--model-server",
            help="The model file ends in handler = handler_factory(...), extra files are one tar file.",
        ),
    ] = False,
    checkpoint_file: Annotated[
        Path | None,
        typer.Option("--checkpoint-file", "--checkpoint_file", help="With --model-server: the state dict."),
    ] = None,
    upload_to: Annotated[
        str | None,
        typer.Option("--upload", help="Also copy it into this folder, a path or a URL (s3://, hdfs://)."),
    ] = None,
) -> None:
    """Write a model archive. Without --handler it looks up embeddings and runs the TorchScript model.

    Example: satrap archive --model-name deepctr --version 1.0 --serialized-file deepctr.pt --export-path model_store

    Example: satrap archive --model-server --model_name m --version 1.0 --model_file model.py --checkpoint_file m.pt
    """
    if model_server:
        if model_file is None or handler is not None or serialized_file is not None:
            raise ArchiveError(
                model_name,
                "--model-server takes the model from --model_file and the weights from --checkpoint_file, and has no "
                "--handler or --serialized-file",
            )
        path = package_model_server(
            model_name=model_name,
            version=version,
            model_file=model_file,
            config_file=config_file,
            requirements_file=requirements_file,
            checkpoint_file=checkpoint_file,
            extra_files=extra_files or None,
            export_path=export_path,
            archive_format=archive_format.value,
            force=force,
        )
    else:
        if checkpoint_file is not None:
            raise ArchiveError(
                model_name, "--checkpoint_file is for --model-server; otherwise: --serialized-file"
            )
        path = packaging.package(
            model_name=model_name,
            version=version,
            handler=packaging.DEFAULT_HANDLER if handler is None else handler,
            serialized_file=serialized_file,
            model_file=model_file,
            extra_files=extra_files,
            runtime=runtime.value,
            export_path=export_path,
            archive_format=archive_format.value,
            force=force,
            requirements_file=requirements_file,
            config_file=config_file,
        )
    typer.echo(f"wrote {path}", err=True)
    if upload_to is not None:
        from satrap.serving.archive.upload import upload

        typer.echo(f"uploaded {upload(path, upload_to, force=force)}", err=True)
