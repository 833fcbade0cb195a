"""satrap: distributed sparse-embedding inference.

Sub-packages: `satrap.client` (batches and clients), `satrap.serving`, `satrap.middleware`,
`satrap.embedding_server`, `satrap.trainer`. Importing `satrap` itself imports none of them.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
