"""TorchServe's names, as far as handlers use them, for satrap's own implementation."""

from ts.version import __version__

__all__ = ["__version__"]
