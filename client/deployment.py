"""Bringing a new version of a model to its callers: register it, wait, make it the default, remove the older ones.

Nothing is taken away before the new version answers, so a deployment that fails in the middle leaves the model served
by the version before it.
"""

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from satrap.client.descriptions import ModelDescription
from satrap.errors import DeadlineError, NotFoundError, SatrapError, UnexpectedAnswerError

__all__ = ["Deployed", "Managed", "deploy", "older_versions", "registered_version"]

_POLL_SECONDS = 0.2
_REGISTERED = re.compile(
    r'Model "(?P<model>.*)" Version: (?P<version>.*) registered with \d+ initial workers'
)


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deployment did: the version that is the default now, and the versions that were removed, oldest first."""

    model: str
    version: str
    removed: tuple[str, ...]


class Managed(Protocol):
    """What a deployment needs of `ManagementClient`."""

    timeout: float

    def register(
        self, url: str, *, model_name: str, initial_workers: int, batch_size: int, max_batch_delay: int
    ) -> str:
        """Register a version and wait for its workers; the server's sentence."""

    def describe(self, model: str, version: str = "") -> tuple[ModelDescription, ...]:
        """The named version, or `all`."""

    def scale(self, model: str, *, min_workers: int, max_workers: int, version: str) -> str:
        """Change how many workers a version has, and wait for them."""

    def set_default(self, model: str, version: str) -> str:
        """Make a version the default."""

    def unregister(self, model: str, version: str = "") -> str:
        """Remove a version."""


def registered_version(sentence: str) -> tuple[str, str]:
    """Model and version out of the server's answer to RegisterModel.

    Raises:
        UnexpectedAnswerError: it says something else.
    """
    found = _REGISTERED.search(sentence)
    if found is None:
        raise UnexpectedAnswerError(f"the server did not say which version it registered: {sentence!r}")
    return found["model"], found["version"]


def older_versions(described: Sequence[ModelDescription], version: str, keep: int) -> tuple[str, ...]:
    """The versions to remove, in the server's order: all but `version` and the last `keep` of the others."""
    others = [each.version for each in described if each.version != version]
    return tuple(others[: max(len(others) - keep, 0)])


def deploy(
    management: Managed,
    url: str,
    *,
    model_name: str,
    workers: int,
    batch_size: int,
    max_batch_delay: int,
    keep: int,
    on_step: Callable[[str], None],
) -> Deployed:
    """See `ManagementClient.deploy`."""
    deadline = time.monotonic() + management.timeout
    sentence = management.register(
        url,
        model_name=model_name,
        initial_workers=workers,
        batch_size=batch_size,
        max_batch_delay=max_batch_delay,
    )
    on_step(sentence)
    model, version = registered_version(sentence)
    # Asked for here: a version that somebody else registers from now on is not an older one.
    described = management.describe(model, "all")
    removable = older_versions(described, version, keep)
    if workers == 0:
        _give_workers(management, model, version, described, on_step)
    _wait_for_embeddings(management, model, version, deadline, on_step)
    on_step(management.set_default(model, version))
    removed = []
    for older in removable:
        try:
            on_step(f"{management.unregister(model, older)} (version {older})")
        except NotFoundError:
            continue  # somebody else was quicker
        removed.append(older)
    return Deployed(model, version, tuple(removed))


def _give_workers(
    management: Managed,
    model: str,
    version: str,
    described: Sequence[ModelDescription],
    on_step: Callable[[str], None],
) -> None:
    """No fewer than the version that it replaces has: its traffic comes all at once."""
    (new,) = management.describe(model, version)
    (replaced,) = management.describe(model)
    others = [each for each in described if each.version != version]
    if replaced.version == version and others:  # a server may make the newest the default by itself
        replaced = others[-1]
    least = max(new.min_workers, replaced.min_workers, 1)
    if new.min_workers == least:
        return
    most = max(new.max_workers, replaced.max_workers, least)
    try:
        on_step(management.scale(model, min_workers=least, max_workers=most, version=version))
    except SatrapError:
        with contextlib.suppress(SatrapError):  # why it failed counts, not that the server is gone
            management.unregister(model, version)  # as a registration that cannot load its handler
        raise


def _wait_for_embeddings(
    management: Managed, model: str, version: str, deadline: float, on_step: Callable[[str], None]
) -> None:
    """A version whose archive names a sequence of its embeddings answers when every embedding server is there."""
    said = False
    while True:
        (described,) = management.describe(model, version)
        if not described.is_waiting:
            return
        if not said:
            on_step(f"version {version} waits for sequence {described.sparse_sequence} of its embeddings")
            said = True
        if time.monotonic() > deadline:
            raise DeadlineError(
                f'version {version} of model "{model}" still waits for sequence {described.sparse_sequence} of its '
                "embeddings after the client's timeout: it stays registered, and is not the default"
            )
        time.sleep(_POLL_SECONDS)
