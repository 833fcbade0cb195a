"""What is registered before the ready line: the models that were named, or what the last snapshot says."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from satrap.errors import ArchiveNotFoundError, ConfigError, SatrapError
from satrap.serving.archive.store import fallback_name, startup_archives
from satrap.serving.model_service import ModelService
from satrap.serving.settings import ServingSettings
from satrap.serving.snapshot import KEY, Snapshot, VersionState, parse_snapshot
from satrap.serving.version_spec import RegisterParameters

__all__ = ["register_startup_models"]

log = logging.getLogger("satrap.serving")

_NOT_SERVED = "%s in the model store is not served: %s"


async def _nothing() -> None:
    pass


async def register_startup_models(
    settings: ServingSettings,
    service: ModelService,
    on_registered: Callable[[], Awaitable[None]] = _nothing,
) -> None:
    """Register them, wait until all are ready, and write down what is registered then.

    They load at the same time. `on_registered` is awaited when all are registered, and most of them load.
    A snapshot counts only where no models are named. An archive that is named, or that a snapshot names, must be there.

    Raises:
        ConfigError: a snapshot cannot be read, or names an archive that is not there.
        SatrapError: a model that was named cannot be served, and the settings say that it must.
    """
    if settings.model_snapshot is not None:
        origin = settings.snapshot_origin
        await _restore(service, parse_snapshot(settings.model_snapshot, origin), origin, on_registered)
    elif settings.startup_models:
        await _register_named(settings, service, on_registered)
    elif settings.restore and (newest := await asyncio.to_thread(service.record.files.newest)) is not None:
        path, snapshot = newest
        await _restore(service, snapshot, path, on_registered)
    else:
        await on_registered()
    await service.record.started()


async def _register_named(
    settings: ServingSettings, service: ModelService, on_registered: Callable[[], Awaitable[None]]
) -> None:
    """In their order, so that the first version of a model is its default; of `all` those that can be served are."""
    everything = (settings.startup_models or "").strip().lower() == "all"
    required = settings.strict_startup and not everything
    loading: list[tuple[str, str, str]] = []
    for name, url in startup_archives(settings.startup_models, service.store):
        known = _versions(service)
        parameters = RegisterParameters(url=url, model_name=name or None, fallback_name=fallback_name(url))
        try:
            await service.register(parameters, at_startup=True)
        except SatrapError as error:
            if required:
                raise
            log.error(_NOT_SERVED, url, error)
        loading += [(url, *version) for version in _versions(service) - known]
    await on_registered()
    waits = (service.wait_or_remove(model, version) for _, model, version in loading)
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    for (url, _, _), outcome in zip(loading, outcomes, strict=True):
        if outcome is None:
            continue
        if required or not isinstance(outcome, SatrapError):
            raise outcome
        log.error(_NOT_SERVED, url, outcome)


async def _restore(
    service: ModelService,
    snapshot: Snapshot,
    origin: Path | str,
    on_registered: Callable[[], Awaitable[None]],
) -> None:
    """Register every version with the workers that it had; who does not load is tried again, as it was before.

    What cannot be registered stays written down: the reason may pass. A version is what its archive says, as in
    TorchServe: people write snapshots by hand, and overwrite archives by newer versions.
    """
    for model, versions in snapshot.models.items():
        for state in versions:
            _check_archive(service, model, state, origin)
    restored: list[tuple[str, str]] = []
    for model, versions in snapshot.models.items():
        for state in versions:
            known = _versions(service)
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
                new = sorted(_versions(service) - known)
                restored += new
                if state.is_default:
                    _make_default(service, new)
    await on_registered()
    for model, version in restored:
        try:
            await service.wait_started(model, version)
        except SatrapError as error:
            log.error("model %s version %s: %s", model, version, error)
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


def _versions(service: ModelService) -> set[tuple[str, str]]:
    return {(each.model, each.version) for each in service.catalog.live_versions()}


def _make_default(service: ModelService, versions: list[tuple[str, str]]) -> None:
    for model, version in versions:
        try:
            service.set_default(model, version)
        except SatrapError as error:
            log.error("model %s version %s: %s", model, version, error)


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
