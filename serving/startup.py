"""What is registered before the ready line: the models that were named, or what the last snapshot says."""

import asyncio
import logging
from pathlib import Path

from satrap.errors import ArchiveNotFoundError, ConfigError, SatrapError
from satrap.serving.archive.store import fallback_name, startup_archives
from satrap.serving.model_service import ModelService
from satrap.serving.settings import ServingSettings
from satrap.serving.snapshot import KEY, Snapshot, VersionState, parse_snapshot
from satrap.serving.version_spec import RegisterParameters

__all__ = ["register_startup_models"]

log = logging.getLogger("satrap.serving")


async def register_startup_models(settings: ServingSettings, service: ModelService) -> None:
    """Register them, and write down what is registered then.

    A snapshot counts only where no models are named. An archive that is named, or that a snapshot names, must be there.

    Raises:
        ConfigError: a snapshot cannot be read, or names an archive that is not there.
        SatrapError: a model that was named cannot be served, and the settings say that it must.
    """
    if settings.model_snapshot is not None:
        origin = settings.snapshot_origin
        await _restore(service, parse_snapshot(settings.model_snapshot, origin), origin)
    elif settings.startup_models:
        await _register_named(settings, service)
    elif settings.restore and (newest := await asyncio.to_thread(service.record.files.newest)) is not None:
        path, snapshot = newest
        await _restore(service, snapshot, path)
    await service.record.started()


async def _register_named(settings: ServingSettings, service: ModelService) -> None:
    """One after the other; of `all` those that can be served are."""
    everything = (settings.startup_models or "").strip().lower() == "all"
    required = settings.strict_startup and not everything
    for name, url in startup_archives(settings.startup_models, service.store):
        parameters = RegisterParameters(
            url=url, model_name=name or None, fallback_name=fallback_name(url), synchronous=True
        )
        try:
            await service.register(parameters, at_startup=True)
        except SatrapError as error:
            if required:
                raise
            log.error("%s in the model store is not served: %s", url, error)


async def _restore(service: ModelService, snapshot: Snapshot, origin: Path | str) -> None:
    """Register every version with the workers that it had; who does not load is tried again, as it was before.

    What cannot be registered stays written down: the reason may pass. A version is what its archive says, as in
    TorchServe: people write snapshots by hand, and overwrite archives by newer versions.
    """
    for model, versions in snapshot.models.items():
        for state in versions:
            _check_archive(service, model, state, origin)
    restored: list[tuple[str, str, bool]] = []
    for model, versions in snapshot.models.items():
        for state in versions:
            known = _versions(service, model)
            others = frozenset(each.version for each in versions) - {state.version}
            try:
                await service.register(_parameters(model, state, others), at_startup=True)
            except SatrapError as error:
                service.record.unrestored.add(model, state)
                log.error(
                    "%s: model %s version %s is not restored: %s. The next start tries again unless it is unregistered",
                    *(origin, model, state.version, error),
                )
            else:
                new = _versions(service, model) - known
                restored += [(model, version, state.is_default) for version in new]
    for model, version, is_default in restored:
        await _finish(service, model, version, is_default=is_default)
    log.info("restored what was registered from %s", origin)


def _check_archive(service: ModelService, model: str, state: VersionState, origin: Path | str) -> None:
    try:
        service.store.find(state.archive)
    except ArchiveNotFoundError as error:
        reason = (
            f"{error}, which is model {model} version {state.version}: put it into the model store, or start with "
            "--ncs or --models"
        )
        raise ConfigError(origin, KEY, 0, reason) from error


def _versions(service: ModelService, model: str) -> set[str]:
    return {each.version for each in service.catalog.live_versions() if each.model == model}


def _parameters(model: str, state: VersionState, others: frozenset[str]) -> RegisterParameters:
    return RegisterParameters(
        url=state.archive,
        model_name=model,
        handler=state.handler or None,
        runtime=state.runtime,
        batch_size=state.batch_size,
        max_batch_delay=state.max_batch_delay,
        workers=(state.min_workers, state.max_workers),
        response_timeout=state.response_timeout,
        startup_timeout=state.startup_timeout,
        other_versions=others,
    )


async def _finish(service: ModelService, model: str, version: str, *, is_default: bool) -> None:
    """Make it the default if it was, and wait for its workers."""
    try:
        if is_default:
            service.set_default(model, version)
        await service.wait_started(model, version)
    except SatrapError as error:
        log.error("model %s version %s: %s", model, version, error)
