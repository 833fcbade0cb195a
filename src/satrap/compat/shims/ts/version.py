__all__ = ["__version__"]

__version__ = "0.12.0"
"""The TorchServe whose names these are."""
