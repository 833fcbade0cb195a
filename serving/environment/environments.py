"""The frontend's side: asks a child process for the environment of an archive."""

import logging
import os
from pathlib import Path

from satrap.config.global_config import ServingConfig
from satrap.errors import RequirementsError
from satrap.serving.environment.value import Environment
from satrap.serving.errand import ErrandError, run_errand
from satrap.serving.forks import Template
from satrap.serving.frames import Frame, Kind
from satrap.serving.version_spec import VersionSpec

__all__ = ["Environments", "default_cache"]

log = logging.getLogger("satrap.serving")


def default_cache() -> Path:
    """Where environments are kept unless the configuration says otherwise: the user's own cache directory.

    Raises:
        RuntimeError: this user has none.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "satrap" / "environments"


class Environments:
    """Gives archives with a requirements file their environment."""

    def __init__(self, template: Template, config: ServingConfig) -> None:
        """Make nothing."""
        self._template, self._config = template, config

    async def find(self, spec: VersionSpec) -> Environment | None:
        """The environment of that version, built now if it is the first of its kind; None if it needs none.

        If the caller is cancelled the installer is killed and nothing of the environment stays.

        Raises:
            RequirementsError: it cannot be built, and why.
            UnavailableError: no process could be had.
        """
        requirements = spec.manifest.requirements_file
        if not requirements:
            return None
        if not self._config.install_requirements:
            log.warning(
                "%s: its requirements file %s is not installed: serving.install_requirements is false "
                "(install_py_dep_per_model in a config.properties)",
                *(spec.url, requirements),
            )
            return None
        try:
            cache = self._cache()
        except RuntimeError as error:  # no home directory
            raise RequirementsError(
                spec.url,
                spec.model,
                f"{error} Name a directory for environments: serving.environments_directory",
            ) from error
        head = {
            "requirements": str(spec.directory / requirements),
            "directory": str(spec.directory),
            "cache": str(cache),
            "timeout": self._config.install_timeout_seconds,
        }
        log.info("%s: looking for the environment of its requirements file %s", spec.url, requirements)
        answer = await self._ask(spec, head)
        if "reason" in answer.head:
            raise RequirementsError(spec.url, spec.model, answer.head["reason"], answer.head["log"])
        environment = Environment(
            Path(answer.head["directory"]),
            Path(answer.head["packages"]),
            Path(answer.head["python"]),
            tuple(answer.head["replaced"]),
        )
        log.info(
            "%s: its workers are %s with the packages of %s%s",
            spec.url,
            "fresh processes" if environment.is_fresh else "forked",
            environment.directory,
            f", which replaces {', '.join(environment.replaced)}" if environment.is_fresh else "",
        )
        return environment

    def _cache(self) -> Path:
        configured = self._config.environments_directory
        return Path(configured) if configured else default_cache()

    async def _ask(self, spec: VersionSpec, head: dict[str, object]) -> Frame:
        name = f"installing packages of {spec.model}"
        try:
            # Not killed: when we hang up it ends its installer, then itself.
            return await run_errand(self._template, "environment", Kind.INSTALL, head, name, is_killed=False)
        except ErrandError as error:
            raise RequirementsError(spec.url, spec.model, f"the installing process {error}") from error
