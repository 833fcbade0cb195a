"""What a run writes: checkpoints, configs, models, archives, the peer's table. All under one directory."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import satrap
from harness.processes import ChildFailedError
from harness.workload import PREFIX_BITS, Workload
from satrap.trainer import write_persia_checkpoint

__all__ = [
    "Files",
    "archive",
    "archive_with_handler",
    "archive_without_code",
    "write_embeddings",
    "write_handler_files",
    "write_peer_table",
]

_VERSION = "1.0"
_INTERNAL_SHARDS = 8


@dataclass(frozen=True)
class Files:
    """Where things are, under `root`, which must be absolute: servers have working directories of their own."""

    root: Path

    @property
    def checkpoint(self) -> Path:
        """PERSIA's checkpoint directory."""
        return self.root / "checkpoint"

    @property
    def embedding_config(self) -> Path:
        """The features."""
        return self.root / "embedding_config.yml"

    @property
    def global_config(self) -> Path:
        """Workers by model."""
        return self.root / "global_config.yaml"

    @property
    def model(self) -> Path:
        """TorchScript."""
        return self.root / "model.pt"

    @property
    def store(self) -> Path:
        """satrap's archives."""
        return self.root / "satrap_store"

    @property
    def peer_store(self) -> Path:
        """The peer's archives."""
        return self.root / "peer_store"

    def handler_directory(self, name: str) -> Path:
        """What the archive of a model holds besides its handler."""
        return self.root / "handlers" / name


def write_embeddings(files: Files, workload: Workload) -> None:
    """Write the checkpoint and the embedding config."""
    write_persia_checkpoint(
        files.checkpoint,
        {workload.shape.dim: (workload.signs, workload.rows)},
        num_shards=1,
        num_internal_shards=_INTERNAL_SHARDS,
    )
    slots = "".join(f"  {name}: {{dim: {workload.shape.dim}}}\n" for name in workload.shape.feature_names)
    files.embedding_config.write_text(f"feature_index_prefix_bit: {PREFIX_BITS}\nslots_config:\n{slots}")


def write_peer_table(files: Files, workload: Workload) -> None:
    """Write the same rows as arrays that a handler loads with numpy, and a path on which it finds satrap.

    An editable installation keeps Python code and native core apart; links bring them together.
    """
    np.save(files.root / "keys.npy", workload.keys)
    np.save(files.root / "rows.npy", workload.rows)
    package = files.root / "satrap_path" / "satrap"
    package.mkdir(parents=True)
    for directory in satrap.__path__:
        for entry in Path(directory).iterdir():
            link = package / entry.name
            if not link.exists():
                link.symlink_to(entry.resolve())


def write_handler_files(files: Files, workload: Workload, name: str, table: str) -> list[Path]:
    """Write what a benchmark handler reads at start beside its model; `table` is a class of `numpy_table`."""
    directory = files.handler_directory(name)
    directory.mkdir(parents=True)
    settings = directory / "settings.json"
    settings.write_text(
        json.dumps(
            {
                "feature_names": workload.shape.feature_names,
                "dense": workload.shape.dense,
                "table": table,
                "table_directory": str(files.root),
                "satrap_path": str(files.root / "satrap_path"),
            }
        )
    )
    (directory / files.model.name).symlink_to(files.model)
    return [settings]


def archive_with_handler(store: Path, name: str, model: Path, handler: Path, extra: Sequence[Path]) -> None:
    """Write `store/name.mar` with the real `torch-model-archiver`."""
    extra_files = ",".join(map(str, extra))
    archive(
        store, name, _VERSION, "--serialized-file", model, "--handler", handler, "--extra-files", extra_files
    )


def archive_without_code(store: Path, name: str, model: Path) -> None:
    """Write `store/name.mar` with `satrap archive`, whose default handler takes PERSIA batches."""
    _archive([_program("satrap"), "archive"], store, name, _VERSION, "--serialized-file", model)


def archive(store: Path, name: str, version: str, *flags: str | Path) -> None:
    """Write `store/name.mar` with the real `torch-model-archiver`, given any of its other flags.

    Raises:
        ChildFailedError: it refused.
    """
    _archive([_program("torch-model-archiver")], store, name, version, *flags)


def _program(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def _archive(command: Sequence[str | Path], store: Path, name: str, version: str, *flags: str | Path) -> None:
    store.mkdir(exist_ok=True)
    common = ("--model-name", name, "--version", version, "--export-path", store)
    done = subprocess.run([*command, *common, *flags], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ChildFailedError(f"{command[0]} failed: {done.stderr}")
