"""From a parsed file to a frozen, typed value, with errors that name file, key and line.

Two kinds of section: `Section` is ours, an unknown key in it is an error; `PersiaSection` is one of PERSIA's,
whose readers ignore unknown keys (and whose own examples carry some): there it is a warning.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

import pydantic

from satrap.config import yaml12

__all__ = ["PersiaSection", "Section", "Warn", "validate"]

Warn = Callable[[str], None]
"""Takes one sentence."""


class Section(pydantic.BaseModel):
    """A section of ours: frozen, strictly typed, without unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="forbid")


class PersiaSection(pydantic.BaseModel):
    """One of PERSIA's sections: frozen, strictly typed, unknown keys ignored with a warning."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore")


ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


def validate(model: type[ModelT], document: yaml12.Document, warn: Warn) -> ModelT:
    """Check a document against a model.

    Raises:
        ConfigError: for the first key that is ill-typed, missing, or unknown in a section of ours.
    """
    if not isinstance(document.value, dict):
        raise document.error((), f"expected a mapping of sections, not {_kind(document.value)}")
    for place in _ignored(model, document.value, ()):
        warn(str(document.error(place, f"unknown key, ignored{_suggestion(model, place)}")))
    try:
        return model.model_validate(document.value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = first["loc"]
        reason = first["msg"]
        if first["type"] == "extra_forbidden":
            reason = f"unknown key{_suggestion(model, place)}"
        elif first["type"] == "missing":
            reason = "is required"
        elif first["type"] != "value_error" and _is_shown(model, place):
            reason = f"{reason}, not {first['input']!r}"
        raise document.error(place, reason.removeprefix("Value error, ")) from error


def _is_shown(model: type[pydantic.BaseModel], place: Sequence[str | int]) -> bool:
    """Whether what is written there may be in an error: of a secret's field, which says `repr=False`, not."""
    owner: object = model
    for key in place:
        if not (isinstance(owner, type) and issubclass(owner, pydantic.BaseModel)):
            return True
        field = owner.model_fields.get(str(key))
        if field is None:
            return True
        if not field.repr:
            return False
        owner = field.annotation
    return True


def _kind(value: yaml12.Value) -> str:
    return "nothing" if value is None else type(value).__name__


def _ignored(model: type[pydantic.BaseModel], value: object, place: yaml12.Place) -> list[yaml12.Place]:
    """The places of unknown keys in PERSIA's sections, recursively."""
    if not isinstance(value, Mapping):
        return []
    found: list[yaml12.Place] = []
    for key, inner in value.items():
        field = model.model_fields.get(key)
        if field is None:
            if issubclass(model, PersiaSection):
                found.append((*place, key))
            continue
        section, by_name = _section_of(field.annotation)
        if section is None:
            continue
        if by_name and isinstance(inner, Mapping):
            for name, item in inner.items():
                found += _ignored(section, item, (*place, key, name))
        else:
            found += _ignored(section, inner, (*place, key))
    return found


def _section_of(annotation: Any) -> tuple[type[pydantic.BaseModel] | None, bool]:
    """The model behind an annotation, and whether it stands in a mapping by name."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, pydantic.BaseModel):
            return argument, getattr(annotation, "__origin__", None) is dict
    return None, False


def _suggestion(model: type[pydantic.BaseModel], place: yaml12.Place) -> str:
    """`; did you mean ...` where a known key of the same section is close."""
    section: type[pydantic.BaseModel] | None = model
    names = iter(place[:-1])
    for key in names:
        if section is None or not isinstance(key, str) or key not in section.model_fields:
            return ""
        section, by_name = _section_of(section.model_fields[key].annotation)
        if by_name:
            next(names, None)
    if section is None:
        return ""
    close = difflib.get_close_matches(str(place[-1]), section.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
