"""PERSIA's embedding package: its `data` module."""
