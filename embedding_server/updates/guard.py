"""What a packet's rows must be like before they become visible.

Every replica and every replay must come to the same judgement, so it is made of the packet, the configuration and the
limits that the checkpoint's manifest carries, and of nothing else: not of the rows in the table, whose number depends
on what was half applied before a crash and on where a replay began, and not of a clock. A packet that was accepted
once is accepted again when it is replayed.

A shard judges its own part. Where a bound has nothing to be compared with (no checkpoint was loaded, or one of
PERSIA's, which says nothing of norms) it is not applied, and `unjudged` says so.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from satrap._core import rows as row_kernels
from satrap.config import GuardrailsConfig
from satrap.embedding_server.origin import MAX_ORDINAL
from satrap.embedding_server.tables import RowDType
from satrap.embedding_server.updates.packet import PacketPart, VerifiedPacket
from satrap.errors import ForeignConfigError, GuardrailError, MisroutedSignError, OrdinalRangeError
from satrap.formats.persia_checkpoint import ShardRoute

__all__ = ["Limits", "check_values", "judge", "unjudged"]

_FLOAT16_END = 65520.0
"""The least magnitude that float16 rounds to infinity."""


class Limits(Protocol):
    """What a checkpoint's manifest says of one dim: its rows in all shards, and the norm that 99.9 % of them keep."""

    @property
    def rows(self) -> int:
        """Rows in all shards together."""

    @property
    def norm_p999(self) -> float:
        """The Euclidean norm that 99.9 % of the rows do not exceed."""


def judge(
    packet: VerifiedPacket,
    *,
    route: ShardRoute,
    row_dtype: RowDType,
    dims: Collection[int] | None,
    limits: Mapping[int, Limits],
    config: GuardrailsConfig,
) -> None:
    """Refuse a packet whose rows must not be served; `dims` are the embedding config's, None if it is not known.

    Raises:
        OrdinalRangeError: its ordinal does not fit into a row.
        ForeignConfigError: it has rows of a dim that the embedding config lacks, or of another width than their dim.
        MisroutedSignError: it has a sign of another shard.
        GuardrailError: a row is not finite (or would not be, as the tables keep it), a norm or the share of rows
            changed is beyond its bound.
    """
    if not 0 <= packet.ordinal <= MAX_ORDINAL:
        raise OrdinalRangeError(
            packet.name, f"the ordinal {packet.ordinal} does not fit into a row (2^32 and more)"
        )
    for part in packet.parts:
        if dims is not None and part.dim not in dims:
            raise ForeignConfigError(
                packet.name,
                f"has rows of dim {part.dim}; the embedding config has {_listed(dims)}: give the servers the "
                "embedding_config.yml of the training job",
            )
        _judge_rows(packet.name, part, route, row_dtype, _norm_bound(part.dim, limits, config))
    if config.max_changed_share is not None:
        for dim in sorted({part.dim for part in packet.parts}):
            known = limits.get(dim)
            if known is not None and known.rows:
                share = config.max_changed_share
                _judge_share(packet, dim, share * known.rows / route.replica_size, share)


def check_values(name: str, part: PacketPart, row_dtype: RowDType) -> None:
    """Refuse rows of a checkpoint that no packet might bring; `name` is the file's.

    Raises:
        GuardrailError: a row is not finite, or would not be, as the tables keep it.
    """
    if part.rows is not None:
        _, bad_row, max_norm = row_kernels.inspect(part.signs, part.rows)
        _judge_values(name, part, part.rows, row_dtype, bad_row, max_norm, _sign_of)


def unjudged(config: GuardrailsConfig, limits: Mapping[int, Limits]) -> list[str]:
    """A sentence for each bound of the configuration that nothing can be compared with."""
    sentences = []
    relative = {
        "max_norm_over_checkpoint": config.max_norm_over_checkpoint,
        "max_changed_share": config.max_changed_share,
    }
    for name, value in relative.items():
        if value is not None and not limits:
            sentences.append(
                f"updates.guardrails.{name} is not applied: no checkpoint was loaded whose manifest says how many rows "
                "it has and how large they are (those of satrap.trainer do); max_norm needs none"
            )
    return sentences


def _norm_bound(dim: int, limits: Mapping[int, Limits], config: GuardrailsConfig) -> tuple[float, str] | None:
    """The least of the bounds on a norm, and where it comes from."""
    bounds = []
    if config.max_norm is not None:
        bounds.append((config.max_norm, "updates.guardrails.max_norm"))
    known = limits.get(dim)
    if config.max_norm_over_checkpoint is not None and known is not None and known.rows:
        factor = config.max_norm_over_checkpoint
        bounds.append(
            (
                factor * known.norm_p999,
                f"updates.guardrails.max_norm_over_checkpoint: {factor:g} times the {known.norm_p999:g} that 99.9 % "
                "of the checkpoint's rows keep",
            )
        )
    return min(bounds, default=None)


def _judge_rows(
    name: str, part: PacketPart, route: ShardRoute, row_dtype: RowDType, bound: tuple[float, str] | None
) -> None:
    rows = part.rows
    if rows is not None and rows.shape != (len(part.signs), part.dim):
        raise ForeignConfigError(
            name, f"has rows of shape {rows.shape} for {len(part.signs)} signs of dim {part.dim}"
        )
    misrouted, bad_row, max_norm = row_kernels.inspect(
        part.signs, rows, route.replica_index, route.replica_size
    )
    if misrouted:
        raise MisroutedSignError(
            name,
            f"{misrouted:,} of its {len(part.signs):,} signs of dim {part.dim} are of another shard than "
            f"{route.replica_index} of {route.replica_size}",
        )
    if rows is None:
        return
    _judge_values(name, part, rows, row_dtype, bad_row, max_norm, _row_of)
    if bound is not None and max_norm > bound[0]:
        norms = row_kernels.norms(rows)
        worst = int(norms.argmax())
        raise GuardrailError(
            name, f"{_row_of(part, worst)} has norm {norms[worst]:g}, above {bound[0]:g} ({bound[1]})"
        )


def _judge_values(
    name: str,
    part: PacketPart,
    rows: NDArray[Any],
    row_dtype: RowDType,
    bad_row: int,
    max_norm: float,
    told: Callable[[PacketPart, int], str],
) -> None:
    """`bad_row` and `max_norm` are what `inspect` found."""
    if bad_row >= 0:
        raise GuardrailError(name, f"{told(part, bad_row)} is not finite")
    if row_dtype == "float16" and max_norm >= _FLOAT16_END:
        over = np.flatnonzero((np.abs(rows) >= _FLOAT16_END).any(axis=1))
        if len(over):
            raise GuardrailError(
                name,
                f"{told(part, int(over[0]))} has values that float16 (embedding_server.row_dtype) cannot hold",
            )


def _judge_share(packet: VerifiedPacket, dim: int, bound: float, share: float) -> None:
    parts = [part.signs for part in packet.parts if part.dim == dim]
    if sum(map(len, parts)) <= bound:
        return
    changed = len(np.unique(np.concatenate(parts)))
    if changed > bound:
        raise GuardrailError(
            packet.name,
            f"changes {changed:,} rows of dim {dim}, more than {share:.2%} of this shard's share of the checkpoint's "
            f"rows, which is {bound:,.0f} (updates.guardrails.max_changed_share)",
        )


def _row_of(part: PacketPart, row: int) -> str:
    return f"the row of sign {part.signs[row]} (dim {part.dim}, record {row})"


def _sign_of(part: PacketPart, row: int) -> str:
    """Of a page, whose first row may be any record of its file."""
    return f"the row of sign {part.signs[row]} (dim {part.dim})"


def _listed(dims: Collection[int]) -> str:
    return f"dims {', '.join(map(str, sorted(set(dims))))}" if dims else "none"
