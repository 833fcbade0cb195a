"""Calls as data: what is sent, and what is waited for between two of them.

A text may contain `$STORE`, `$FILES` (the URL of a file server), `$INFERENCE_KEY`, `$MANAGEMENT_KEY` and `$API_KEY`,
which are known only when the call is sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Api", "Call", "Ready", "Rest", "Rpc", "Scenario", "Step", "name_calls"]

Api = Literal["inference", "management", "metrics"]


@dataclass(frozen=True)
class Rest:
    """One HTTP request, sent byte for byte: no header is added but Host and, with a body, Content-Length."""

    api: Api
    method: str
    target: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    note: str = ""

    @property
    def title(self) -> str:
        """What tells this call from others."""
        return f"{self.api} {self.method} {_short(self.target)}{_bracketed(self.note)}"


@dataclass(frozen=True)
class Rpc:
    """One gRPC call; several messages are a stream of requests."""

    method: str
    messages: Sequence[Mapping[str, Any]] = ({},)
    metadata: Sequence[tuple[str, str]] = ()
    note: str = ""

    @property
    def title(self) -> str:
        """What tells this call from others."""
        fields = self.messages[0] if self.messages else {}
        said = " ".join(f"{key}={value}" for key, value in fields.items() if key != "input")
        return f"gRPC {self.method} {_short(said)}".rstrip() + _bracketed(self.note)


Call = Rest | Rpc


@dataclass(frozen=True)
class Ready:
    """Wait until a version has so many workers, each ready. Nothing is recorded."""

    model: str
    workers: int
    version: str = ""


Step = Call | Ready


@dataclass(frozen=True)
class Scenario:
    """Calls to one freshly started server, in order."""

    name: str
    steps: Sequence[Step]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of `config.properties`, besides what every server gets."""
    tokens: bool = False
    """Whether callers need a token."""


def name_calls(steps: Sequence[Step]) -> list[tuple[str, Step]]:
    """Each step with a name that no other has; "" for those that are no calls."""
    seen: dict[str, int] = {}
    named: list[tuple[str, Step]] = []
    for step in steps:
        if isinstance(step, Ready):
            named.append(("", step))
            continue
        seen[step.title] = seen.get(step.title, 0) + 1
        number = seen[step.title]
        named.append((step.title if number == 1 else f"{step.title} ({number})", step))
    return named


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _bracketed(note: str) -> str:
    return f" [{note}]" if note else ""


_LONGEST = 120
