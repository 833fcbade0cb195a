"""Why a request is refused before an API has it."""

from collections.abc import Mapping
from typing import Literal

__all__ = ["STATUS", "Refusal"]

Refusal = Literal["malformed", "too large", "late", "token", "unknown method", "stopping"]

STATUS: Mapping[Refusal, int] = {
    "malformed": 400,
    "too large": 413,
    "late": 408,
    "token": 400,
    "unknown method": 404,
    "stopping": 503,
}
"""What they are answered with over REST, or would be."""
