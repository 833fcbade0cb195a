"""One shard of the embeddings: rows by sign, loaded from checkpoints, answered over gRPC.

checkpoint directory ─ loading ─▶ tables (one generation) ─ state ─▶ service ─▶ server (ports, health, stop)
"""

from satrap.embedding_server.server import EmbeddingServerSettings, run

__all__ = ["EmbeddingServerSettings", "run"]
