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
        # A method's schema begins with self, which is not among the arguments.
        schema = getattr(function, "schema", None)
        declared = schema.arguments[-len(args) :] if schema is not None and args else [None] * len(args)
        fitted = [_fit(value, argument) for value, argument in zip(args, declared, strict=False)]
        return function(*fitted, **{name: _fit(value, None) for name, value in (kwargs or {}).items()})


def _fit(value: Any, argument: Any) -> Any:
    if not isinstance(value, DenseFeatures):
        return value
    if argument is not None and str(argument.type) == "Tensor" and len(value) == 1:
        return value[0]
    return list(value)
