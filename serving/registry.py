"""Which versions of which models there are, and which version answers when none is named.

The rules are TorchServe's: the first registered version of a model is its default, later ones become it by
`set_default` only, and the default cannot be removed while there are others. A model may ask instead that each
version becomes the default when it is ready (`became_ready`); then a version that was registered earlier never
displaces one that was registered later.

A version may wait for a sequence of its embeddings. While it does it answers nothing; made the default meanwhile, it
becomes it when the sequence is there (`reached`), and the default before it goes on. Only a model's first version is
the default though it waits: there is no other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from satrap.errors import (
    DefaultVersionError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    VersionRegisteredError,
    VersionWaitsError,
)

__all__ = ["Reached", "Registry"]

V = TypeVar("V")


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    order: int
    waits_for: int  # a sequence; 0: nothing


@dataclass(slots=True)
class _Model(Generic[V]):
    default: str
    versions: dict[str, _Entry[V]] = field(default_factory=dict)
    next_default: str = ""  # a version that waits

    def make_default(self, version: str) -> None:
        self.default, self.next_default = version, ""


class Reached(NamedTuple, Generic[V]):
    """A version that waits no more, and whether that made it the default."""

    model: str
    version: str
    value: V
    became_default: bool


class Registry(Generic[V]):
    """Versions by model and version name. `V` is whatever serves a version. Not thread-safe."""

    def __init__(self) -> None:
        """Start empty."""
        self._models: dict[str, _Model[V]] = {}
        self._leaving: set[V] = set()
        self._registered = 0

    def add(self, model: str, version: str, value: V, *, waits_for: int = 0) -> None:
        """Register a version; it may wait for a sequence.

        Raises:
            VersionRegisteredError: there is one of that name.
        """
        known = self._models.setdefault(model, _Model(version))
        if version in known.versions:
            raise VersionRegisteredError(model, version)
        self._registered += 1
        known.versions[version] = _Entry(value, self._registered, waits_for)

    def get(self, model: str, version: str = "") -> V:
        """The version of that name, or the default one when `version` is empty.

        Raises:
            ModelNotFoundError: no model of that name.
            ModelVersionNotFoundError: the model has no such version.
        """
        known = self._model(model)
        return self._entry(model, known, version or known.default).value

    def answering(self, model: str, version: str = "") -> V:
        """The same, for a request.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: as `get`.
            VersionWaitsError: it does not answer yet.
        """
        known = self._model(model)
        name = version or known.default
        entry = self._entry(model, known, name)
        if entry.waits_for:
            raise VersionWaitsError(model, name, entry.waits_for)
        return entry.value

    def default(self, model: str) -> str:
        """The name of the model's default version.

        Raises:
            ModelNotFoundError: no model of that name.
        """
        return self._model(model).default

    def find_default(self, model: str) -> V | None:
        """The model's default version; None if there is no model of that name."""
        known = self._models.get(model)
        return known.versions[known.default].value if known else None

    def set_default(self, model: str, version: str) -> None:
        """Make a version the default, when it waits no more. The last call counts.

        Raises:
            ModelNotFoundError: no model of that name.
            ModelVersionNotFoundError: the model has no such version.
        """
        known = self._model(model)
        if self._entry(model, known, version).waits_for and version != known.default:
            known.next_default = version
        else:
            known.make_default(version)

    def next_default(self, model: str) -> str:
        """The version that becomes the default when it waits no more; empty: none.

        Raises:
            ModelNotFoundError: no model of that name.
        """
        return self._model(model).next_default

    def is_waiting(self, model: str, version: str) -> bool:
        """Whether that version waits for its sequence.

        Raises:
            ModelNotFoundError: no model of that name.
            ModelVersionNotFoundError: the model has no such version.
        """
        return bool(self._entry(model, self._model(model), version).waits_for)

    def anything_waits(self) -> bool:
        """Whether any version waits for its sequence."""
        return any(entry.waits_for for known in self._models.values() for entry in known.versions.values())

    def reached(self, sequence: int) -> list[Reached[V]]:
        """Every embedding server has applied `sequence`: let the versions answer that waited for it, or for less."""
        answering = []
        for model, known in self._models.items():
            for version, entry in known.versions.items():
                if 0 < entry.waits_for <= sequence:
                    entry.waits_for = 0
                    chosen = version == known.next_default
                    if chosen:
                        known.make_default(version)
                    answering.append(Reached(model, version, entry.value, chosen))
        return answering

    def became_ready(self, model: str, version: str, value: V) -> bool:
        """For models whose newest version is the default: make it so, unless a later one already is, or it waits.

        `value` says which registration is meant; one that is gone by now changes nothing. Returns whether the
        default changed.
        """
        known = self._models.get(model)
        entry = known.versions.get(version) if known else None
        if known is None or entry is None or entry.value is not value or known.default == version:
            return False
        if entry.waits_for or known.versions[known.default].order > entry.order:
            return False
        chosen = known.versions.get(known.next_default)
        known.default = version
        if chosen is not None and chosen.order <= entry.order:
            known.next_default = ""
        return True

    def remove(self, model: str, version: str = "") -> V:
        """Take a version out: the named one, or the default. It leaves until it is `gone`.

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
        """Take out a version that could not be started, if that registration is still there. It leaves as well.

        Were it the default, the default becomes what it would be had it never been registered: the version
        registered first of those that are left.
        """
        known = self._models.get(model)
        entry = known.versions.get(version) if known else None
        if known is not None and entry is not None and entry.value is value:
            self._drop(model, known, version)

    def gone(self, value: V) -> None:
        """A version that was taken out has finished what it had accepted."""
        self._leaving.discard(value)

    def not_gone(self) -> set[V]:
        """All versions of all models, and those that leave."""
        return {*self, *self._leaving}

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
        self._leaving.add(known.versions.pop(version).value)
        if known.next_default == version:
            known.next_default = ""
        if not known.versions:
            del self._models[model]
        elif known.default == version:
            known.default = min(known.versions, key=lambda v: known.versions[v].order)
            if known.next_default == known.default:
                known.next_default = ""
