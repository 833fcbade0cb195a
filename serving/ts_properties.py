"""TorchServe's config.properties: Java's format, `$$VARIABLE$$` in values, and what overrides the file.

From weakest to strongest, as in TorchServe: the file, the command line, and with `enable_envvars_config=true` the
environment, where the key `job_queue_size` is `TS_JOB_QUEUE_SIZE`.
"""

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import javaproperties

from satrap.errors import ConfigError

__all__ = ["Properties", "find_config_file", "newest_snapshot", "read_properties", "snapshots_in"]

_ENCODING = "iso-8859-1"  # Java's: other characters are written as \u escapes
_INTERPOLATED = re.compile(r"\$\$([^$]+)\$\$")
_SNAPSHOT = re.compile(r"\d{17}-\w+\.cfg")

_ENVIRONMENT = {
    "ts_open_inference_protocol": "TS_OPEN_INFERENCE_PROTOCOL",
    "ts_header_key_sequence_id": "TS_HEADER_KEY_SEQUENCE_ID",
    "ts_header_key_sequence_start": "TS_HEADER_KEY_SEQUENCE_START",
    "ts_header_key_sequence_end": "TS_HEADER_KEY_SEQUENCE_END",
    "token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN",
}
"""Keys whose variable is not `TS_` and the key."""

_NOT_FROM_ENVIRONMENT = frozenset(
    {
        "enable_envvars_config",
        "use_env_allowed_urls",
        "model_snapshot",
        "models",
        "use_native_io",
        "io_ratio",
        "metric_time_interval",
        "system_metrics_cmd",
    }
)

_BYTE_ORDER_MARK = codecs.BOM_UTF8.decode(_ENCODING)
"""What some editors put before the first line. It would be a part of that line's key, as it is in Java."""


@dataclass(frozen=True)
class Origin:
    """Where a value was given: a file (or what stands for one) and a line, 0 if there is none."""

    path: Path | str
    line: int = 0


@dataclass(frozen=True)
class Properties:
    """Values by key, and where each was given. The readers raise `ConfigError` with that place."""

    path: Path | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def error(self, key: str, reason: str) -> ConfigError:
        """What is wrong with a key's value."""
        origin = self.origins.get(key, Origin(self.path or "config.properties"))
        return ConfigError(origin.path, key, origin.line, reason)

    def with_values(self, values: Mapping[str, str], origin: str) -> "Properties":
        """The same with these on top."""
        return replace(
            self,
            values={**self.values, **values},
            origins={**self.origins, **dict.fromkeys(values, Origin(origin))},
        )

    def with_environment(self, environment: Mapping[str, str], keys: frozenset[str]) -> "Properties":
        """The same with the variables of `keys` on top, if the file allows it.

        `allowed_urls` comes from the environment only with `use_env_allowed_urls=true`, as in TorchServe.
        """
        if not self.boolean("enable_envvars_config"):
            return self
        found = self
        for key in sorted(keys - _NOT_FROM_ENVIRONMENT):
            variable = _ENVIRONMENT.get(key, f"TS_{key.upper()}")
            if key == "allowed_urls" and not self.boolean("use_env_allowed_urls"):
                continue
            if variable in environment:
                found = found.with_values(
                    {key: environment[variable]}, f"the environment variable {variable}"
                )
        return found

    def text(self, key: str, default: str = "") -> str:
        """The value without the blanks around it."""
        return self.values.get(key, default).strip()

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """`true`, in any case; every other word is false, as in Java."""
        return self.text(key).lower() == "true" if key in self.values else default

    def integer(self, key: str, default: int, *, least: int = 1, most: int = 2**31 - 1) -> int:
        """A whole number from `least` to `most`."""
        if key not in self.values:
            return default
        text = self.text(key)
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            comment = ". A comment needs a line of its own" if "#" in text else ""
            raise self.error(key, f"{text!r} is no whole number{comment}")
        if not least <= int(text) <= most:
            raise self.error(key, f"{text} is not from {least} to {most}")
        return int(text)

    def number(self, key: str, default: float) -> float:
        """A number above 0."""
        if key not in self.values:
            return default
        try:
            value = float(self.text(key))
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise self.error(key, f"{self.text(key)!r} is no number above 0")
        return value


def read_properties(path: Path, environment: Mapping[str, str]) -> Properties:
    """Read a file and put the environment's values where it says `$$VARIABLE$$`.

    Raises:
        ConfigError: it cannot be read, is no properties file, or names a variable that there is not.
    """
    try:
        text = path.read_text(encoding=_ENCODING).removeprefix(_BYTE_ORDER_MARK)
    except OSError as error:
        raise ConfigError(path, "", 0, f"cannot be read: {error.strerror or error}") from error
    values: dict[str, str] = {}
    origins: dict[str, Origin] = {}
    line = 1
    try:
        for entry in javaproperties.parse(text):
            if isinstance(entry, javaproperties.reading.KeyValue):
                values[entry.key] = entry.value
                origins[entry.key] = Origin(path, line)
            line += entry.source.count("\n")
    except ValueError as error:
        raise ConfigError(path, "", 0, str(error)) from error
    found = Properties(path, values, origins)
    return replace(found, values={key: _interpolate(found, key, environment) for key in values})


def _interpolate(properties: Properties, key: str, environment: Mapping[str, str]) -> str:
    def value_of(found: re.Match[str]) -> str:
        if found[1] not in environment:
            raise properties.error(key, f"there is no environment variable {found[1]}, which the value names")
        return environment[found[1]]

    return _INTERPOLATED.sub(value_of, properties.values[key])


def find_config_file(
    flag: Path | None, environment: Mapping[str, str], folder: Path, snapshots: Path | None
) -> Path | None:
    """The file that TorchServe would take; None: there is none.

    $TS_CONFIG_FILE, the flag, the newest in `snapshots` (None: not looked at), `config.properties` in `folder`.

    Raises:
        ConfigError: the one that was named is not there.
    """
    named = Path(environment["TS_CONFIG_FILE"]) if "TS_CONFIG_FILE" in environment else flag
    if named is not None:
        if not named.is_file():
            raise ConfigError(
                named, "", 0, "there is no such configuration file (--ts-config, TS_CONFIG_FILE)"
            )
        return named
    if snapshots is not None and (newest := newest_snapshot(snapshots)) is not None:
        return newest
    default = folder / "config.properties"
    return default if default.is_file() else None


def newest_snapshot(folder: Path) -> Path | None:
    """The snapshot with the latest time in its name; None: there is none."""
    return next(reversed(snapshots_in(folder)), None)


def snapshots_in(folder: Path) -> list[Path]:
    """All snapshots, by the times in their names."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if _SNAPSHOT.fullmatch(entry.name))
