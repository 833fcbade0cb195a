"""Which versions of which models there are, and which version answers when none is named.

The rules are TorchServe's: the first registered version of a model is its default, later ones become it by
`set_default` only, and the default cannot be removed while there are others. A model may ask instead that each
version becomes the default when it is ready (`became_ready`); then a version that was registered earlier never
displaces one that was registered later.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from satrap.errors import (
    DefaultVersionError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    VersionRegisteredError,
)

__all__ = ["Registry"]

V = TypeVar("V")


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    order: int


@dataclass(slots=True)
class _Model(Generic[V]):
    default: str
    versions: dict[str, _Entry[V]] = field(default_factory=dict)


class Registry(Generic[V]):
    """Versions by model and version name. `V` is whatever serves a version. Not thread-safe."""

    def __init__(self) -> None:
        """Start empty."""
        self._models: dict[str, _Model[V]] = {}
        self._registered = 0

    def add(self, model: str, version: str, value: V) -> None:
        """Register a version.

        Raises:
            VersionRegisteredError: there is one of that name.
        """
        known = self._models.setdefault(model, _Model(version))
        if version in known.versions:
            raise VersionRegisteredError(model, version)
        self._registered += 1
        known.versions[version] = _Entry(value, self._registered)

    def get(self, model: str, version: str = "") -> V:
        """The version of that name, or the default one when `version` is empty.

        Raises:
            ModelNotFoundError: no model of that name.
            ModelVersionNotFoundError: the model has no such version.
        """
        known = self._model(model)
        return self._entry(model, known, version or known.default).value

    def default(self, model: str) -> str:
        """The name of the model's default version.

        Raises:
            ModelNotFoundError: no model of that name.
        """
        return self._model(model).default

    def set_default(self, model: str, version: str) -> None:
        """Make a version the default.

        Raises:
            ModelNotFoundError: no model of that name.
            ModelVersionNotFoundError: the model has no such version.
        """
        known = self._model(model)
        self._entry(model, known, version)
        known.default = version

    def became_ready(self, model: str, version: str, value: V) -> bool:
        """For models whose newest version is the default: make it so, unless a later one already is.

        `value` says which registration is meant; one that is gone by now changes nothing. Returns whether the
        default changed.
        """
        known = self._models.get(model)
        entry = known.versions.get(version) if known else None
        if known is None or entry is None or entry.value is not value or known.default == version:
            return False
        if known.versions[known.default].order > entry.order:
            return False
        known.default = version
        return True

    def remove(self, model: str, version: str = "") -> V:
        """Take a version out: the named one, or the default.

        Raises:
            ModelNotFoundError: no model of that name.
            ModelVersionNotFoundError: the model has no such version.
            DefaultVersionError: it is the default, and there are others.
        """
        known = self._model(model)
        name = version or known.default
        value = self._entry(model, known, name).value
        if name == known.default and len(known.versions) > 1:
            raise DefaultVersionError(model)
        self._drop(model, known, name)
        return value

    def discard(self, model: str, version: str, value: V) -> None:
        """Take out a version that could not be started, if that registration is still there.

        Were it the default, the default becomes what it would be had it never been registered: the version
        registered first of those that are left.
        """
        known = self._models.get(model)
        entry = known.versions.get(version) if known else None
        if known is not None and entry is not None and entry.value is value:
            self._drop(model, known, version)

    def versions(self, model: str) -> list[V]:
        """All versions of a model, in the order of their registration.

        Raises:
            ModelNotFoundError: no model of that name.
        """
        return [entry.value for entry in self._model(model).versions.values()]

    def models(self) -> list[str]:
        """The names of all models, sorted."""
        return sorted(self._models)

    def __iter__(self) -> Iterator[V]:
        """All versions of all models."""
        for known in self._models.values():
            for entry in known.versions.values():
                yield entry.value

    def _model(self, model: str) -> _Model[V]:
        try:
            return self._models[model]
        except KeyError:
            raise ModelNotFoundError(model) from None

    @staticmethod
    def _entry(model: str, known: _Model[V], version: str) -> _Entry[V]:
        try:
            return known.versions[version]
        except KeyError:
            raise ModelVersionNotFoundError(model, version) from None

    def _drop(self, model: str, known: _Model[V], version: str) -> None:
        del known.versions[version]
        if not known.versions:
            del self._models[model]
        elif known.default == version:
            known.default = min(known.versions, key=lambda v: known.versions[v].order)
