"""PERSIA's embedding package: its `data` module."""

from persia.embedding import data as data
