"""Clients of `satrap middleware`: PERSIA batches of ids in, arrays out."""

from satrap.middleware import EmbeddingLookup, open_lookup

__all__ = ["LookupCaller"]


class LookupCaller:
    """What a model handler with `MIDDLEWARE_SERVICE=host:port` has: the client that satrap's names use."""

    def __init__(self, address: str) -> None:
        """Connect to `host:port`."""
        self._lookup: EmbeddingLookup = open_lookup([address], {})

    def prepare(self, payload: bytes) -> object:
        """The batch's bytes, as they are."""
        return payload

    def call(self, prepared: object) -> bytes:
        """Look up; the answer is the values of all features, float16, one after the other."""
        assert isinstance(prepared, bytes)
        embeddings = self._lookup.lookup(prepared)
        return b"".join(embedding.values.tobytes() for embedding in embeddings)

    def close(self) -> None:
        """Close the connection."""
        self._lookup.close()
