"""What a worker is told when it starts: the head of a `LOAD` frame."""

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Assignment"]


@dataclass(frozen=True)
class Assignment:
    """One version of one model, and how to run it.

    Attributes:
        model: its name.
        version: its version.
        directory: the unpacked archive.
        handler: as the manifest or the registration says: `module[:function]`, see `handler_loading`.
        manifest: the archive's manifest, or what stands for it.
        batch_size: the greatest number of requests in one call of the handler.
        threads: torch's threads for one op.
        max_response_bytes: a longer prediction is an error.
        decode_inputs: whether inputs of type `application/json` and `text/*` reach the handler as objects and text.
        limit_max_image_pixels: whether image handlers refuse images that unpack to gigabytes.
        ours_first: whether satrap's packages named `ts` and `persia` win over installed ones.
        environment: variables to set.
        packages: the site-packages of its environment, which come before the installed ones; empty: it has none.
        python: the interpreter to run it in, a fresh process; empty: it is forked from the template.
        gpu: index of the device, or None for the CPU.
        warmup: the file of the archive whose requests are answered first, see `archive.warmup`; empty: none.
        metrics: what handlers find declared: type, name, unit and names of dimensions of each.
        output_mark: what stands before the level of a line that is logged, see `serving.output`.
    """

    model: str
    version: str
    directory: str
    handler: str
    manifest: dict[str, Any]
    batch_size: int = 1
    threads: int = 1
    max_response_bytes: int = 6_553_500
    decode_inputs: bool = True
    limit_max_image_pixels: bool = True
    ours_first: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    packages: str = ""
    python: str = ""
    gpu: int | None = None
    warmup: str = ""
    metrics: list[tuple[str, str, str, list[str]]] = field(default_factory=list)
    output_mark: str = ""

    def to_head(self) -> dict[str, Any]:
        """The frame's head."""
        return asdict(self)

    @classmethod
    def from_head(cls, head: dict[str, Any]) -> "Assignment":
        """The inverse of `to_head`."""
        return cls(**head)
