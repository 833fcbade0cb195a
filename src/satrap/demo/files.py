"""Where the demo writes what."""

from dataclasses import dataclass
from pathlib import Path

from satrap.demo import clicks

__all__ = ["MODEL", "SHARDS", "Files"]

MODEL = "demo"
SHARDS = 2


@dataclass(frozen=True)
class Files:
    """What the demo writes, under one folder."""

    folder: Path

    @property
    def packets(self) -> Path:
        """What the trainer publishes while it trains."""
        return self.folder / "packets"

    @property
    def checkpoints(self) -> Path:
        """The full checkpoints, each in a folder of its own."""
        return self.folder / "checkpoints"

    @property
    def model_store(self) -> Path:
        """The archives."""
        return self.folder / "model_store"

    @property
    def embedding_config(self) -> Path:
        """The features."""
        return self.folder / "embedding_config.yml"

    @property
    def global_config(self) -> Path:
        """Where packets and checkpoints are, for trainer and servers."""
        return self.folder / "global_config.yaml"

    def archive(self, version: str) -> Path:
        """A version's archive."""
        return self.model_store / f"{MODEL}_v{version}.mar"

    def write_configs(self) -> None:
        """Write what trainer and servers read."""
        self.model_store.mkdir(parents=True, exist_ok=True)
        self.embedding_config.write_text(clicks.embedding_config_text(), encoding="utf-8")
        self.global_config.write_text(
            f"""\
common_config:
  infer_config: {{servers: [], embedding_checkpoint: {self.checkpoints}}}
updates: {{directory: {self.packets}}}
trainer: {{stream: demo, num_shards: {SHARDS}, incremental_flush_seconds: 0.2}}
""",
            encoding="utf-8",
        )
