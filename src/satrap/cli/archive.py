"""`satrap archive`: write a .mar, with the flags of torch-model-archiver."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from satrap.serving.archive import package as packaging

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
    model_name: Annotated[str, typer.Option("--model-name", help="Name of the model and of the archive.")],
    version: Annotated[str, typer.Option("-v", "--version", help="Version of the model.")],
    handler: Annotated[
        str, typer.Option("--handler", help="A Python file, file:function, or an installed module:Class.")
    ] = packaging.DEFAULT_HANDLER,
    serialized_file: Annotated[
        Path | None, typer.Option("--serialized-file", help="TorchScript (.pt, .pth), or a state dict.")
    ] = None,
    model_file: Annotated[
        Path | None, typer.Option("--model-file", help="Python file of an eager model.")
    ] = None,
    extra_files: Annotated[
        str, typer.Option("--extra-files", help="Files, folders and wildcards, comma-separated.")
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
        Path | None, typer.Option("-r", "--requirements-file", help="Packages that the model needs.")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("-c", "--config-file", help="YAML file of the model.")
    ] = None,
    upload_to: Annotated[
        str | None,
        typer.Option("--upload", help="Also copy it into this folder, a path or a URL (s3://, hdfs://)."),
    ] = None,
) -> None:
    """Write a model archive. Without --handler it looks up embeddings and runs the TorchScript model.

    Example: satrap archive --model-name deepctr --version 1.0 --serialized-file deepctr.pt --export-path model_store
    """
    path = packaging.package(
        model_name=model_name,
        version=version,
        handler=handler,
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
