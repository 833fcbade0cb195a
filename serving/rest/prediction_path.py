"""Which model a path of the inference API means: TorchServe's own paths, those of SageMaker, and KServe's."""

from collections.abc import Sequence
from dataclasses import dataclass

from satrap.errors import ResourceNotFoundError

__all__ = ["Ping", "Predict", "Unsupported", "parse_path"]


@dataclass(frozen=True, slots=True)
class Ping:
    """Is the server healthy?"""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Something of TorchServe's that satrap does not do."""

    what: str


@dataclass(frozen=True, slots=True)
class Predict:
    """A prediction.

    Attributes:
        model: None: a parameter or a form's field names it.
        version: empty: the default one.
        url_path: what follows the version, which the handler gets as a header of this name; None: no such header.
        with_parameters: the query string's parameters are inputs.
    """

    model: str | None
    version: str = ""
    url_path: str | None = None
    with_parameters: bool = False


_EXPLANATIONS = Unsupported("explanations")
_WORKFLOWS = Unsupported("workflows")


def parse_path(segments: Sequence[str]) -> Ping | Predict | Unsupported | None:
    """What a path, split at its slashes, asks for; None: nothing of this API.

    Raises:
        ResourceNotFoundError: it begins as one of this API and is none.
    """
    match segments:
        case ["", "predictions", model, *rest]:
            return Predict(model, rest[0] if rest else "", "/".join(rest[1:]))
        case ["", "ping", *_]:
            return Ping()
        case ["", "explanations", _, *_]:
            return _EXPLANATIONS
        case ["", "wfpredict", _, *_]:
            return _WORKFLOWS
        case ["", "predictions" | "explanations" | "wfpredict"]:
            raise ResourceNotFoundError
        case ["", "invocations"]:
            return Predict(None, with_parameters=True)
        case ["", "models", model, "invoke"]:
            return Predict(model, with_parameters=True)
        case ["", "invocations", *_] | ["", "models", _, _]:
            raise ResourceNotFoundError
        case ["", model, "predict"]:
            return Predict(model, with_parameters=True)
        case ["", model, version, "predict"]:
            return Predict(model, version, with_parameters=True)
        case ["", "v1", "models", name] if ":predict" in name:
            return Predict(name.partition(":")[0])
        case ["", "v2", "models", model, "infer"]:
            return Predict(model.partition(":")[0])
        case ["", "v1", "models", name] if ":explain" in name:
            return _EXPLANATIONS
        case ["", "v2", "models", _, "explain"]:
            return _EXPLANATIONS
        case _:
            return None
