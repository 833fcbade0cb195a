"""Archives in the model-servers style: a model file made of functions, its checkpoint, its sources in a tar file."""

from pathlib import Path

import yaml

from satrap.errors import ArchiveError
from satrap.serving.archive.package import ArchiveFormat, package

__all__ = ["package_model_server"]


def package_model_server(
    *,
    model_name: str,
    version: str,
    model_file: Path | str,
    config_file: Path | str | None = None,
    requirements_file: Path | str | None = None,
    checkpoint_file: Path | str | None = None,
    extra_files: Path | str | None = None,
    export_path: Path | str = ".",
    archive_format: ArchiveFormat = "default",
    force: bool = False,
) -> Path:
    """Write a model archive and return where it is; its flags are those of that style's build script.

    Args:
        model_name: The model's name, and the archive's without its suffix.
        version: The model's version, any text.
        model_file: A Python file that ends in `handler = handler_factory(...)`.
        config_file: The model's YAML file.
        requirements_file: Packages to install for this model, in pip's format.
        checkpoint_file: The weights, a state dict; without it `init_function` loads them.
        extra_files: A tar or zip file with the sources that the model file imports; the config file has to name it as
            `system: {extraFiles: FILE}`, and the server unpacks it beside the model file.
        export_path: The folder that gets the archive.
        archive_format: See `package`.
        force: Replace an archive of that name.

    Raises:
        ArchiveError: what `package` refuses, or extra files and config file do not name each other.
    """
    named = _named_extra_files(model_name, Path(config_file)) if config_file else None
    given = Path(extra_files).name if extra_files else None
    if given and named != given:
        raise ArchiveError(
            model_name,
            f"the server would not unpack {given}: the config file "
            + (f"names {named!r} as system.extraFiles" if named else "has no system.extraFiles")
            + f". Write into it:\nsystem:\n  extraFiles: {given}",
        )
    if named and not given:
        raise ArchiveError(
            model_name, f"{config_file} names {named!r} as system.extraFiles: give it as --extra_files"
        )
    return package(
        model_name=model_name,
        version=version,
        handler=str(model_file),
        serialized_file=checkpoint_file,
        extra_files=[extra_files] if extra_files else (),
        export_path=export_path,
        archive_format=archive_format,
        force=force,
        requirements_file=requirements_file,
        config_file=config_file,
    )


def _named_extra_files(model_name: str, config_file: Path) -> str | None:
    try:
        document = yaml.safe_load(config_file.read_bytes())
    except FileNotFoundError:
        raise ArchiveError(model_name, f"file does not exist: {config_file}") from None
    except (OSError, yaml.YAMLError) as error:
        raise ArchiveError(model_name, f"config file {config_file} cannot be read: {error}") from error
    system = document.get("system") if isinstance(document, dict) else None
    named = system.get("extraFiles") if isinstance(system, dict) else None
    return str(named) if named else None
