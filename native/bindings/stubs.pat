# What nanobind's stub generator cannot see.
satrap._core.DecodeError$:
    class DecodeError(ValueError):
        """Bytes are not what they should be."""
        message: str
        offset: int
        field: str

