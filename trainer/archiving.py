"""A dense model as an archive that says which sparse state it needs: TorchScript, the archive's files, one call."""

import copy
import io
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from satrap.client import ManagementClient
from satrap.errors import ArchiveError
from satrap.serving.archive.package import DEFAULT_HANDLER, package

if TYPE_CHECKING:
    import torch

__all__ = ["DenseDump", "check_archive", "register_archive", "write_dense_archive"]

_CONFIG_NAME = "satrap-model-config.yaml"


@dataclass(frozen=True)
class DenseDump:
    """A dense version that was written: where it is, the sequence that it needs (None: none), and, if it was
    registered, what the server said.
    """

    archive: Path
    sparse_sequence: int | None
    answer: str = ""


def check_archive(archive: Path, model_name: str, version: str) -> None:
    """Refuse what can be no archive, before anything is published that names it.

    Raises:
        ArchiveError: a path that does not end in `.mar`, or a name or version that no manifest can have.
    """
    if archive.suffix != ".mar":
        raise ArchiveError(
            str(archive), "an archive's name ends in .mar: give the path of the archive that is to be written"
        )
    for what, text in (("model_name", model_name), ("version", version)):
        if not text or len(text) > 256 or not text.isprintable():
            raise ArchiveError(
                str(archive), f"{what} must have 1 to 256 printable characters, which {text!r} has not"
            )


def write_dense_archive(
    model: "torch.nn.Module",
    archive: Path,
    *,
    model_name: str,
    version: str,
    handler: str | None,
    extra_files: Sequence[Path | str] | str,
    config: Mapping[str, Any],
    sparse_sequence: int | None,
) -> None:
    """Write the archive, whole or not at all; one of that name is replaced.

    The model is copied, brought to the CPU and into evaluation mode, and scripted, so training may go on with it.

    Raises:
        ArchiveError: a name, version or file that cannot be, or a model that TorchScript does not take.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    settings = dict(config)
    if sparse_sequence is not None:
        settings["satrap"] = {**settings.get("satrap", {}), "sparse_sequence": sparse_sequence}
    # Beside the archive, so that the last step is a rename; hidden, so that no server takes it for an archive.
    with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", dir=archive.parent) as text:
        folder = Path(text)
        weights = folder / "model.pt"
        try:
            _save_script(model, weights)
        except Exception as error:  # its compiler raises what it happens to raise
            raise ArchiveError(str(archive), f"TorchScript does not take the model: {error}") from error
        config_file = None
        if settings:
            config_file = folder / _CONFIG_NAME
            config_file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        written = package(
            model_name=model_name,
            version=version,
            handler=DEFAULT_HANDLER if handler is None else handler,
            serialized_file=weights,
            extra_files=extra_files,
            export_path=folder,
            config_file=config_file,
        )
        written.replace(archive)


def _save_script(model: "torch.nn.Module", path: Path) -> None:
    """Save a copy of a model as TorchScript: on the CPU, evaluating."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated, not gone
        if isinstance(model, torch.jit.ScriptModule):
            buffer = io.BytesIO()
            torch.jit.save(model, buffer)
            buffer.seek(0)
            snapshot = torch.jit.load(buffer, map_location="cpu")  # type: ignore[no-untyped-call]
        else:
            snapshot = torch.jit.script(copy.deepcopy(model).cpu())
        torch.jit.save(snapshot.eval(), path)


def register_archive(
    address: str, archive: Path, *, initial_workers: int, set_default: tuple[str, str] | None
) -> str:
    """Register an archive of the server's model store; return what the server said.

    `set_default` is the (model, version) to make the default as well.

    Raises:
        SatrapError: as `ManagementClient.register`.
    """
    with ManagementClient(address) as management:
        answer = management.register(archive.name, initial_workers=initial_workers)
        if set_default is not None:
            management.set_default(*set_default)
    return answer
