"""Where the embedding workers are, as PERSIA's handlers ask for it: from the environment.

In a satrap worker both variables are `satrap:local`, the middleware inside that process, unless the user has set
them to addresses of `satrap middleware`.
"""

import os

__all__ = ["get_embedding_worker_services", "get_middleware_services"]

_EMBEDDING_WORKER_DEFAULT = "embedding_worker:8887"
_MIDDLEWARE_DEFAULT = "middleware:8887"


def get_embedding_worker_services() -> list[str]:
    """Addresses in `EMBEDDING_WORKER_SERVICE`, with commas between if there are several; PERSIA's default otherwise."""
    return _addresses("EMBEDDING_WORKER_SERVICE", _EMBEDDING_WORKER_DEFAULT)


def get_middleware_services() -> list[str]:
    """The same from `MIDDLEWARE_SERVICE`, the variable's older name."""
    return _addresses("MIDDLEWARE_SERVICE", _MIDDLEWARE_DEFAULT)


def _addresses(variable: str, default: str) -> list[str]:
    return split_addresses([os.environ.get(variable) or default])


def split_addresses(given: list[str]) -> list[str]:
    """Single addresses out of what PERSIA's constructors take: a list whose elements may hold several."""
    return [address.strip() for text in given for address in text.split(",") if address.strip()]
