"""From settings to a model service: its parts, and which of them knows which."""

from collections.abc import Sequence
from pathlib import Path

from satrap.serving.catalog import Catalog
from satrap.serving.default_versions import DefaultVersions
from satrap.serving.forks import Template
from satrap.serving.metrics.definitions import Definition
from satrap.serving.model_service import ModelService
from satrap.serving.observer import Ignore, Observer
from satrap.serving.registration_record import RegistrationRecord
from satrap.serving.registry import Registry
from satrap.serving.settings import ServingSettings
from satrap.serving.shard_watch import ShardWatch
from satrap.serving.snapshot_files import SnapshotFiles
from satrap.serving.version import Version
from satrap.serving.version_builder import VersionBuilder

__all__ = ["build_model_service"]


def build_model_service(
    settings: ServingSettings,
    template: Template,
    observer: Observer | None = None,
    metrics: Sequence[Definition] = (),
) -> ModelService:
    """Start nothing; `observer` is told about every request, `metrics` are declared to handlers.

    Raises:
        ConfigError: one of `serving.allowed_urls` is no regular expression.
    """
    builder = VersionBuilder(settings, template, observer or Ignore(), metrics)
    registry: Registry[Version] = Registry()
    files = SnapshotFiles(
        _snapshot_folder(settings), settings.properties, is_written=settings.write_snapshots
    )
    record = RegistrationRecord(registry, files)
    defaults = DefaultVersions(registry, builder.model_config, record.save_soon)
    shards = ShardWatch(settings.shard_addresses, defaults.shards_said, settings.shard_tls)
    catalog = Catalog(registry, shards, defaults)
    return ModelService(settings.config, builder, registry, record, defaults, shards, catalog)


def _snapshot_folder(settings: ServingSettings) -> Path | None:
    if settings.config.snapshot_directory is not None:
        return Path(settings.config.snapshot_directory)
    return settings.model_store / ".satrap" if settings.model_store is not None else None
