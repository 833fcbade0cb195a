"""What is known of a built environment."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Environment"]


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees the server's packages behind its own.

    `replaced`: what it holds in another version than the worker template has loaded, one `name version (the server's:
    version)` each. A worker then has to be a fresh process; otherwise it is forked.
    """

    directory: Path
    packages: Path
    python: Path
    replaced: tuple[str, ...] = ()

    @property
    def is_fresh(self) -> bool:
        """Workers are fresh processes of its interpreter, not forks of the template."""
        return bool(self.replaced)

    def describe(self) -> dict[str, object]:
        """The document that DescribeModel shows for each worker."""
        return {
            "path": str(self.directory),
            "process": "fresh" if self.is_fresh else "forked",
            "replaced": list(self.replaced),
        }
