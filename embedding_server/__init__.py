"""embedding_server."""
