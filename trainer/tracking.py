"""Finds the rows of embedding modules that each optimizer step changes. Imported with torch only.

What a step changes is known when it has been made: the optimizer calls back, and the gradient's indices say which rows
it touched, whose values are final at that moment. Hooks on backward would come too early (the step changes values) and
too often (gradients of several backward passes accumulate, and some are thrown away).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.optimizer import register_optimizer_step_post_hook

from satrap.errors import InvalidInputError
from satrap.trainer.signs import FeatureSigns

__all__ = ["Change", "TrackedModule", "Tracker", "tracked_module"]

EmbeddingModule = torch.nn.Embedding | torch.nn.EmbeddingBag


@dataclass(frozen=True)
class Change:
    """Rows of a feature that changed: signs u64 [n], vectors f32 [n, dim]."""

    feature: FeatureSigns
    signs: NDArray[np.uint64]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class TrackedModule:
    """A module, the feature whose rows it holds, and the sign of each of its rows (u64 [num_embeddings])."""

    module: EmbeddingModule
    feature: FeatureSigns
    signs: NDArray[np.uint64]

    def rows(self, indices: torch.Tensor | slice) -> Change:
        """The present values of some rows."""
        weight = self.module.weight.detach()
        numbers = indices if isinstance(indices, slice) else indices.cpu().numpy()
        vectors = weight[indices].float().cpu().numpy()
        # A slice of a CPU weight would be a view of what the next step changes.
        return Change(self.feature, self.signs[numbers], np.array(vectors, np.float32))


def tracked_module(module: object, feature: FeatureSigns, ids: NDArray[Any] | None) -> TrackedModule:
    """Check that a module can be tracked as a feature's rows.

    Raises:
        InvalidInputError: no such module, of another dim, without sparse gradients, or `ids` that do not fit.
    """
    if not isinstance(module, EmbeddingModule):
        raise InvalidInputError(
            f"track() takes torch.nn.Embedding or torch.nn.EmbeddingBag, not {type(module).__name__}"
        )
    if not module.sparse:
        raise InvalidInputError(
            f"the module of feature {feature.name!r} has dense gradients, which do not say which rows a step touches: "
            "make it with sparse=True (and train it with SparseAdam, Adagrad or SGD), or commit() what changed"
        )
    if module.embedding_dim != feature.dim:
        raise InvalidInputError(
            f"the module of feature {feature.name!r} has rows of {module.embedding_dim} floats, the embedding config "
            f"says dim: {feature.dim}"
        )
    if module.max_norm is not None:
        raise InvalidInputError(
            f"the module of feature {feature.name!r} has max_norm, which changes rows in the forward pass, unseen by "
            "any optimizer: train without it"
        )
    numbers = (
        np.arange(module.num_embeddings, dtype=np.uint64) if ids is None else np.asarray(ids).reshape(-1)
    )
    if len(numbers) != module.num_embeddings:
        raise InvalidInputError(
            f"the module of feature {feature.name!r} has {module.num_embeddings} rows, but {len(numbers)} ids were "
            "given"
        )
    signs = feature.signs(numbers)
    if len(np.unique(signs)) != len(signs):
        raise InvalidInputError(
            f"two rows of the module of feature {feature.name!r} would have one sign: give each row an id of its own"
        )
    return TrackedModule(module, feature, signs)


class Tracker:
    """Hears of every optimizer step of this process, from the first module on, until it is closed."""

    def __init__(self, changed: Callable[[Sequence[Change]], None]) -> None:
        self._changed = changed
        self._modules: list[TrackedModule] = []
        self._hook: Any = None

    def add(self, module: TrackedModule) -> None:
        """Follow one more module."""
        if self._hook is None:
            self._hook = register_optimizer_step_post_hook(self._stepped)
        self._modules.append(module)

    def close(self) -> None:
        """Hear of no more steps."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _stepped(self, optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        changes = [
            tracked.rows(touched)
            for tracked in self._modules
            if id(tracked.module.weight) in trained
            and (touched := _touched_rows(tracked, optimizer)) is not None
        ]
        if changes:
            self._changed(changes)


def _touched_rows(tracked: TrackedModule, optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """Which rows the step changed, each once; None: it had no gradient.

    Those of the gradient, and those of sparse state of the optimizer: with momentum, a row goes on moving.
    """
    weight = tracked.module.weight
    if weight.grad is None:
        return None
    if not weight.grad.is_sparse:
        raise InvalidInputError(
            f"the gradient of feature {tracked.feature.name!r} was dense in this step (is its weight used by another "
            "layer as well?), so what changed is not known: nothing of the step was committed for it"
        )
    moving = [
        state
        for state in optimizer.state.get(weight, {}).values()
        if isinstance(state, torch.Tensor) and state.is_sparse
    ]
    touched: torch.Tensor = torch.unique(
        torch.cat([sparse._indices()[0] for sparse in (weight.grad, *moving)])
    )
    return touched
