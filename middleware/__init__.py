"""Ids to tensors, one file per arrow: `slots`, `plan`, `shards`, `fanout`, `assemble`.

`open_lookup` gives whoever needs embeddings a way to them: the library in this process (`Middleware`), or a
`satrap middleware` elsewhere (`MiddlewareClient`). Both answer the same; what is here is all that other parts use.
"""

from satrap.middleware.assemble import Embedding, Embeddings, RawEmbedding, SumEmbedding
from satrap.middleware.client import MiddlewareClient
from satrap.middleware.library import Middleware
from satrap.middleware.lookup import LOCAL_ADDRESS, EmbeddingLookup, open_lookup
from satrap.middleware.marks import Marks, hear

__all__ = [
    "Embedding",
    "EmbeddingLookup",
    "Embeddings",
    "LOCAL_ADDRESS",
    "Marks",
    "Middleware",
    "MiddlewareClient",
    "RawEmbedding",
    "SumEmbedding",
    "hear",
    "open_lookup",
]
