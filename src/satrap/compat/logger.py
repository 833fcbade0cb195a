"""PERSIA's loggers, by name; where they write is the server's or the script's business, not theirs."""

import logging

__all__ = ["get_default_logger", "get_logger"]


def get_logger(name: str) -> logging.Logger:
    """The logger of that name."""
    return logging.getLogger(name)


def get_default_logger(name: str = "persia") -> logging.Logger:
    """The logger that PERSIA's own code and examples use."""
    return logging.getLogger(name)
