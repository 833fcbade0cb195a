from satrap.compat.embedding_client import PersiaEmbeddingClientPyClass, PyPersiaBatchData

__all__ = ["PersiaEmbeddingClientPyClass", "PyPersiaBatchData"]
