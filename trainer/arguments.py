"""What a training job gives to `TrainCtx`, checked, and completed by the configuration."""

import logging
import re
import secrets
import time
from pathlib import Path

import numpy as np

from satrap.config import EmbeddingConfig, GlobalConfig, load_embedding_config, load_global_config
from satrap.errors import InvalidInputError
from satrap.formats.manifest import manifest_name, parse_manifest_name
from satrap.storage import Storage, open_storage
from satrap.trainer.packets import Identity

__all__ = [
    "checkpoint_storage",
    "event_time",
    "identity_of",
    "packet_storage",
    "read_embedding_config",
    "read_global_config",
]

log = logging.getLogger(__name__)


def read_global_config(given: Path | str | GlobalConfig) -> GlobalConfig:
    """The file's values, or those that were read already.

    Raises:
        ConfigError: the file is wrong.
    """
    return given if isinstance(given, GlobalConfig) else load_global_config(given, log.warning)


def read_embedding_config(given: Path | str | EmbeddingConfig) -> tuple[EmbeddingConfig, Path | str]:
    """The file's values, or those that were read already, and what to call where they are from.

    Raises:
        ConfigError: the file is wrong.
    """
    if isinstance(given, EmbeddingConfig):
        return given, "embedding config"
    return load_embedding_config(given, log.warning), given


def identity_of(
    config: GlobalConfig,
    embedding_config: EmbeddingConfig,
    stream: str | None,
    writer: str | None,
    num_shards: int | None,
) -> Identity:
    """Who publishes, and in what shape; None takes what the configuration says, or a random writer.

    Raises:
        InvalidInputError: a name, or the number of shards, is none that files can have.
    """
    return Identity(
        stream=_stream_name(config.trainer.stream if stream is None else stream),
        writer=_writer_name(writer),
        num_shards=_num_shards(config, num_shards),
        row_dtype=config.trainer.row_dtype,
        embedding_config=embedding_config.digest,
    )


def packet_storage(config: GlobalConfig, given: Path | str | None) -> Storage | None:
    """Where packets go, None for nowhere.

    Raises:
        InvalidInputError: the location's scheme is not known.
    """
    location = given or config.packet_directory
    return open_storage(location, config.embedding_parameter_server_config.storage) if location else None


def checkpoint_storage(config: GlobalConfig, given: Path | str | None) -> Storage | None:
    """Where embedding servers look for checkpoints, None if that is not known; errors are those of `packet_storage`."""
    location = given or config.common_config.infer_config.embedding_checkpoint
    return open_storage(location) if location else None


def event_time(value: int | None) -> int:
    """Nanoseconds since the epoch; now if none are given.

    Raises:
        InvalidInputError: it is no such number.
    """
    if value is None:
        return time.time_ns()
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**63:
        raise InvalidInputError(
            f"event_time_ns is {value!r}: it is whole nanoseconds since the epoch, as time.time_ns() gives them"
        )
    return int(value)


def _stream_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InvalidInputError(
            f"the stream {name!r} must have up to 64 letters, digits, '.', '_' and '-', and begin with a letter or "
            "digit (trainer.stream)"
        )
    return name


def _writer_name(name: str | None) -> str:
    if name is None:
        return secrets.token_hex(8)
    if parse_manifest_name(manifest_name(1, name)) is None:
        raise InvalidInputError(
            f"the writer {name!r} must have up to 64 letters, digits, '_' and '-', and begin with a letter or digit"
        )
    return name


def _num_shards(config: GlobalConfig, given: int | None) -> int:
    """Files per dim: as the caller says, or the trainer's section, or as many as there are servers, or one."""
    shards = config.trainer.num_shards if given is None else given
    if shards is None:
        shards = max(len(config.common_config.infer_config.servers), 1)
    if not 1 <= shards <= 65_536:
        raise InvalidInputError(f"num_shards must be 1 to 65,536, not {shards}")
    return shards
