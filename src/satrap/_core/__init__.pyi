"""satrap's native core."""

from satrap._core import (
    batch as batch,
    embedding_file as embedding_file,
    ids as ids,
    plan as plan,
    rows as rows,
    table as table
)


class DecodeError(ValueError):
    """Bytes are not what they should be."""
    message: str
    offset: int
    field: str
