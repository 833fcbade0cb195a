"""Where a generation's rows began: the checkpoint's format, stream and watermark, and what its manifest promises.

What is applied since lies beside it, in the generation's control file; an origin changes only when a generation that
began with nothing adopts the stream of its first packet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["MAX_ORDINAL", "NO_ORIGIN", "PERSIA_STREAM", "DimLimits", "Origin", "OriginFormat"]

OriginFormat = Literal["", "satrap", "persia"]

MAX_ORDINAL = 2**32 - 1
"""Rows keep their ordinals in 32 bits."""

PERSIA_STREAM = "persia"
"""The stream that a generation from a PERSIA checkpoint follows: PERSIA's packets name none."""


@dataclass(frozen=True)
class DimLimits:
    """What a checkpoint's manifest says of all its rows of one dim: how many, and the norm that 99.9 % stay below."""

    rows: int
    norm_p999: float


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a generation was loaded from, or nothing.

    `format` and `stream` are empty as long as neither a checkpoint was loaded nor a stream adopted. `base_sequence` is
    the checkpoint's watermark: the ordinal of its rows. `base_event_ns` is its newest event, `published_ns` when it was
    written (nanoseconds since the epoch, the trainer's clock, 0: not known). `replay_from` is PERSIA's only: the
    unix_seconds from which packets are applied again. `limits` is by dim, `writer` the trainer run that wrote it.
    """

    format: OriginFormat = ""
    stream: str = ""
    base_sequence: int = 0
    base_event_ns: int = 0
    published_ns: int = 0
    replay_from: int = 0
    limits: Mapping[int, DimLimits] = field(default_factory=dict)
    writer: str = ""

    def reaches(self, applied: int) -> int:
        """The greatest sequence of which tables with the watermark `applied` may hold something.

        For PERSIA's also the second in which the checkpoint was written: its watermark is a margin before that.
        """
        return max(applied, self.published_ns // 10**9) if self.format == "persia" else applied

    @staticmethod
    def from_json(value: object) -> "Origin":
        """An origin from the JSON object of its fields; those that are missing are as by default.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(value, dict):
            raise ValueError(f"the origin is {value!r}, not an object")
        try:
            limits = {int(dim): DimLimits(**of_dim) for dim, of_dim in value.get("limits", {}).items()}
            origin = Origin(**{**value, "limits": limits})
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"the origin cannot be read: {error}") from error
        if origin.format not in ("", "satrap", "persia"):
            raise ValueError(f"the origin's format is {origin.format!r}")
        return origin


NO_ORIGIN = Origin()
