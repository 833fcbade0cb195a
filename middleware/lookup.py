"""What every way to embeddings can do, and the choice between them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from satrap.batch import Bytes, Decoded, IdFeature
from satrap.config import GlobalConfig, load_embedding_config, load_global_config
from satrap.errors import InvalidInputError
from satrap.middleware.assemble import Embeddings
from satrap.middleware.client import MiddlewareClient
from satrap.middleware.library import Middleware

__all__ = ["LOCAL_ADDRESS", "EmbeddingLookup", "open_lookup"]

config_log = logging.getLogger("satrap.config")
"""Workers silence it: their frontend has read the same files."""

LOCAL_ADDRESS = "satrap:local"
"""The address that means the library in this process."""


class EmbeddingLookup(Protocol):
    """Ids in, tensors out. Any number of threads may look up at once."""

    def lookup(self, batch: Bytes | Decoded) -> Embeddings:
        """The embeddings of a batch's id features, in the batch's order."""

    def lookup_many(self, batches: Sequence[Bytes | Decoded]) -> list[Embeddings]:
        """The same for several batches at once; if one cannot be answered, its error is raised for all."""

    def lookup_features(self, features: Sequence[IdFeature]) -> Embeddings:
        """The same for ids that are arrays already."""

    def wait_ready(self, timeout: float) -> None:
        """Wait until lookups can be answered, `timeout` seconds at most. Raises `UnavailableError`."""

    def close(self) -> None:
        """Close the connections; lookups in flight fail."""


def open_lookup(addresses: Sequence[str], environ: Mapping[str, str]) -> EmbeddingLookup:
    """A lookup for these addresses. Nothing is connected before it is used.

    `satrap:local` means the library in this process, with the files that PERSIA_EMBEDDING_CONFIG and
    PERSIA_GLOBAL_CONFIG name; the embedding servers are those of SATRAP_SHARDS (comma-separated), otherwise of
    infer_config.servers. Any other addresses are those of `satrap middleware`, used in turn.

    Raises:
        ConfigError: a file cannot be used.
        InvalidInputError: `satrap:local` among other addresses, or something that it needs is not named.
    """
    path = environ.get("PERSIA_GLOBAL_CONFIG")
    config = load_global_config(path, config_log.warning) if path else GlobalConfig()
    if LOCAL_ADDRESS not in addresses:
        return MiddlewareClient(
            addresses,
            lookup_timeout=config.middleware.lookup_timeout_seconds,
            tls=config.internal_tls.files,
        )
    if len(addresses) > 1:
        raise InvalidInputError(
            f"{LOCAL_ADDRESS} cannot be used together with other addresses: {', '.join(addresses)}"
        )
    return _local(config, environ)


def _local(config: GlobalConfig, environ: Mapping[str, str]) -> Middleware:
    path = environ.get("PERSIA_EMBEDDING_CONFIG")
    if not path:
        raise InvalidInputError(
            f"{LOCAL_ADDRESS} needs an embedding config: set PERSIA_EMBEDDING_CONFIG to the embedding_config.yml "
            "of the training job"
        )
    named = environ.get("SATRAP_SHARDS")
    servers = named.split(",") if named else config.common_config.infer_config.servers
    return Middleware(
        load_embedding_config(path, config_log.warning),
        [address.strip() for address in servers if address.strip()],
        lookup_timeout=config.middleware.lookup_timeout_seconds,
        local=config.middleware.local_lookup,
        orphan_grace_seconds=config.middleware.orphan_grace_seconds,
        source=Path(path),
        tls=config.internal_tls.files,
    )
