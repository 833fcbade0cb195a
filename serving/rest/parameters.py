"""Parameters of the management API as TorchServe reads them: what is no number or word counts as not given."""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from satrap.errors import InvalidInputError
from satrap.serving.rest.request import RestRequest
from satrap.serving.version_spec import RegisterParameters

__all__ = ["boolean", "number", "register_parameters", "warn_about_misspelled"]

log = logging.getLogger("satrap.serving")

_NUMBER = re.compile(r"[+-]?[0-9]+")
_GREATEST = 2**31 - 1

_KNOWN = frozenset(
    (
        "batch_size",
        "customized",
        "handler",
        "initial_workers",
        "limit",
        "max_batch_delay",
        "max_worker",
        "min_worker",
        "model_name",
        "model_version",
        "next_page_token",
        "number_gpu",
        "response_timeout",
        "runtime",
        "s3_sse_kms",
        "startup_timeout",
        "synchronous",
        "timeout",
        "url",
    )
)


def number(request: RestRequest, name: str) -> int | None:
    """That parameter as a number of 32 bits; None if it is not given, or is none, which is logged."""
    return _number(name, request.parameter(name))


def boolean(request: RestRequest, name: str, default: bool) -> bool:
    """That parameter; `true` in any case is true, any other text is false."""
    return _boolean(request.parameter(name), default)


def register_parameters(request: RestRequest, body: bytes) -> RegisterParameters:
    """A registration's, from the query string or, when the content type says so, from a JSON object.

    Raises:
        InvalidInputError: the body is not a JSON object, or something in it is not a word or a number.
    """
    given: Mapping[str, Any]
    if request.media_type.lower() == "application/json":
        given = _object(body)
    else:
        given = {name: values[0] for name, values in request.parameters.items()}
    warn_about_misspelled(given)
    return RegisterParameters(
        url=_text(given, "url"),
        model_name=_text(given, "model_name"),
        handler=_text(given, "handler"),
        runtime=_text(given, "runtime"),
        batch_size=_positive(given, "batch_size"),
        max_batch_delay=_at_least(given, "max_batch_delay", 0),
        initial_workers=_number_at_least_zero(given, "initial_workers"),
        response_timeout=_positive(given, "response_timeout"),
        startup_timeout=_positive(given, "startup_timeout"),
        synchronous=_boolean(given.get("synchronous"), True),
        s3_sse_kms=_boolean(given.get("s3_sse_kms"), False),
    )


def warn_about_misspelled(names: Iterable[str]) -> None:
    """Unknown parameters are ignored, as TorchServe does; one that looks like a known one is logged with it."""
    for name in names:
        if name not in _KNOWN:
            meant = _resembled(name)
            if meant:
                log.warning("the parameter %r is ignored: there is %r", name, meant)


def _resembled(name: str) -> str:
    """The known parameter that an unknown one may stand for: `min_workers`, `minWorker` and `MIN_WORKER` alike."""
    plain = _plain(name)
    return next((known for known in sorted(_KNOWN) if _plain(known) == plain), "")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").rstrip("s")


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InvalidInputError("the body is not a JSON object with a registration's parameters")
    for name, value in given.items():
        if isinstance(value, list | dict):
            raise InvalidInputError(f"{name} is {type(value).__name__}, not a text or a number")
    return {name: value for name, value in given.items() if value is not None}


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    return None if value is None else str(value)


def _number(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    if _NUMBER.fullmatch(text) and -_GREATEST - 1 <= int(text) <= _GREATEST:
        return int(text)
    log.warning("the parameter %s is ignored: %r is not a whole number of 32 bits", name, text[:80])
    return None


def _at_least(given: Mapping[str, Any], name: str, least: int) -> int | None:
    value = _number(name, given.get(name))
    return value if value is not None and value >= least else None


def _positive(given: Mapping[str, Any], name: str) -> int | None:
    return _at_least(given, name, 1)


def _number_at_least_zero(given: Mapping[str, Any], name: str) -> int | None:
    value = _number(name, given.get(name))
    return None if value is None else max(value, 0)


def _boolean(value: Any, default: bool) -> bool:
    return default if value is None else str(value).lower() == "true"
