"""The dense features that the older `TrainCtx` hands out, for models of both of PERSIA's ages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["DenseFeatures"]


class DenseFeatures(list[torch.Tensor]):
    """A list of dense tensors that also fits a TorchScript model which takes the one tensor of a batch.

    The older PERSIA passed models a single dense tensor, the later one a list. A TorchScript model says which
    of them it wants, so torch's own protocol for arguments (`__torch_function__`) can pass the right one.
    """

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `function` with plain lists, or with the one tensor where its schema asks for a tensor."""
        schema = getattr(function, "schema", None)
        declared = [(a.name, str(a.type)) for a in schema.arguments] if schema is not None else []
        if declared and declared[0][1].startswith("__torch__."):  # the module itself: not among the arguments
            declared = declared[1:]
        types_by_place = dict(enumerate(kind for _, kind in declared))
        types_by_name = dict(declared)
        return function(
            *(_fit(value, types_by_place.get(place)) for place, value in enumerate(args)),
            **{name: _fit(value, types_by_name.get(name)) for name, value in (kwargs or {}).items()},
        )


def _fit(value: Any, declared: str | None) -> Any:
    if not isinstance(value, DenseFeatures):
        return value
    return value[0] if declared == "Tensor" and len(value) == 1 else list(value)
