"""From flags and configuration files to the settings of a serving process, and whether it may listen there."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from satrap.cli import options
from satrap.cli.serving_flags import ServingFlags
from satrap.config import GlobalConfig
from satrap.errors import InvalidInputError

if TYPE_CHECKING:
    from satrap.serving.settings import ServingSettings
    from satrap.serving.ts_properties import Properties

__all__ = ["serving_settings", "torchserve_settings", "ts_snapshots"]

log = logging.getLogger("satrap.config")


def serving_settings(flags: ServingFlags, ts_config: Path | None) -> "ServingSettings":
    """Settings of the configuration files and the flags.

    Raises:
        ConfigError: a value in a file that cannot be used.
        InvalidInputError: an address that may not be served like this, a certificate that cannot be used, or models
            without a store.
    """
    from satrap.serving.ts_properties import read_properties

    config = options.read_global_config(flags.global_config)
    options.read_embedding_config(flags.embedding_config)
    if ts_config is None:
        return _native_settings(flags, config, os.environ)
    return torchserve_settings(flags, config, read_properties(ts_config, os.environ), os.environ)


def _native_settings(
    flags: ServingFlags, config: GlobalConfig, environment: Mapping[str, str]
) -> "ServingSettings":
    from satrap.serving.exposure import asks_for_tokens, check_exposure, serving_tls
    from satrap.serving.listening import Listening
    from satrap.serving.settings import ServingSettings

    if flags.models and flags.model_store is None:
        raise InvalidInputError(
            f"--models {flags.models}: there is no model store: name the archives' directory by --model-store"
        )
    changed = _threads(config, environment)
    if flags.model_api is not None:
        changed["model_api"] = flags.model_api
    if flags.token_auth is not None:
        changed["token"] = config.serving.token.model_copy(update={"enabled": flags.token_auth})
    serving = config.serving.model_copy(update=changed)
    listening = flags.listening(Listening().with_tls(serving_tls(serving.tls) is not None))
    check_exposure(
        serving, listening, insecure=flags.insecure, remedy="pass --insecure if the network is yours"
    )
    return ServingSettings(
        config=serving,
        models_config=config.models,
        model_store=flags.model_store,
        startup_models=flags.models,
        listening=listening,
        restore=not flags.ncs,
        write_snapshots=not flags.ncs,
        token_authorization=asks_for_tokens(serving, listening, insecure=flags.insecure),
        global_config=flags.global_config,
        embedding_config=flags.embedding_config,
        shards=flags.shards,
        shard_addresses=options.shard_addresses(flags.shards, config),
        shard_tls=config.internal_tls.files,
    )


def torchserve_settings(
    flags: ServingFlags,
    config: GlobalConfig,
    properties: "Properties",
    environment: Mapping[str, str],
    *,
    quiet: bool = False,
) -> "ServingSettings":
    """Settings of a config.properties, with the flags and the environment on top as TorchServe puts them.

    `quiet`: without warnings.

    Raises:
        ConfigError: a value of the file or the environment that cannot be used.
        InvalidInputError: an address that may not be served like this, or a certificate that cannot be used.
    """
    from satrap.serving.exposure import asks_for_tokens, by_reach, check_exposure
    from satrap.serving.processors import available_gpus, available_processors
    from satrap.serving.settings import ServingSettings
    from satrap.serving.ts_config import Machine, translate
    from satrap.serving.ts_keys import KEYS, NO_EFFECT

    properties = properties.with_values(_as_properties(flags), "the command line")
    properties = properties.with_environment(environment, frozenset(KEYS) | frozenset(NO_EFFECT))
    machine = Machine(available_processors(), available_gpus())
    found = translate(properties, config.serving, config.models, machine, ts_snapshots(environment))
    for warning in () if quiet else found.warnings:
        log.warning("%s", warning)
    listening = flags.listening(found.listening)
    insecure = flags.insecure or found.insecure
    said = "enable_model_api" in properties.values or "model_api" in config.serving.model_fields_set
    serving = by_reach(found.config, listening, model_api_said=said)
    serving = serving.model_copy(update=_threads(config, environment))
    check_exposure(
        serving,
        listening,
        insecure=insecure,
        remedy=f"write satrap_insecure=true into {properties.path or 'config.properties'} if the network is yours",
    )
    return ServingSettings(
        config=serving,
        models_config=found.models,
        model_store=found.model_store,
        startup_models=found.startup_models,
        listening=listening,
        restore=False,  # TorchServe takes the newest snapshot in place of a configuration file, never beside one
        write_snapshots=not flags.ncs,
        model_snapshot=None if flags.ncs or flags.models is not None else found.model_snapshot,
        snapshot_origin=str(properties.path or "config.properties"),
        properties=found.properties,
        strict_startup=False,
        answers_while_loading=True,
        token_authorization=asks_for_tokens(serving, listening, insecure=insecure),
        # TorchServe's clients may read the key file, although on loopback they need no key here.
        tokens_offered=found.config.token.enabled is None,
        global_config=flags.global_config,
        embedding_config=flags.embedding_config,
        shards=flags.shards,
        shard_addresses=options.shard_addresses(flags.shards, config),
        shard_tls=config.internal_tls.files,
    )


def _threads(config: GlobalConfig, environment: Mapping[str, str]) -> dict[str, object]:
    """`threads_per_worker` from OMP_NUM_THREADS, where the configuration leaves it open, as in TorchServe.

    A list, for nested regions, counts by its first number; what is no count of threads is left to others to refuse.
    """
    first = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if "threads_per_worker" in config.serving.model_fields_set or not re.fullmatch(
        r"0*[1-9][0-9]{0,3}", first
    ):
        return {}
    return {"threads_per_worker": int(first)}


def ts_snapshots(environment: Mapping[str, str]) -> Path:
    """Where TorchServe keeps its snapshots."""
    return Path(environment.get("LOG_LOCATION", "logs")) / "config"


def _as_properties(flags: ServingFlags) -> dict[str, str]:
    """The flags that are keys of a config.properties as well."""
    given: dict[str, str] = {}
    if flags.model_store is not None:
        given["model_store"] = os.fspath(flags.model_store)
    if flags.models is not None:
        given["load_models"] = flags.models
    if flags.model_api is not None:
        given["enable_model_api"] = str(flags.model_api).lower()
    if flags.token_auth is not None:
        given["disable_token_authorization"] = str(not flags.token_auth).lower()
    return given
