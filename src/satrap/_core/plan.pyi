"""A batch's lookups, and its tensors from rows."""

from collections.abc import Sequence


class Slot:
    """How one feature is looked up."""

    def __init__(self, *, name: str, dim: int, summation: bool = True, sqrt_scaling: bool = False, sample_fixed_size: int = 10, hash_stack_rounds: int = 0, embedding_size: int = 0, prefix: int = 0) -> None: ...

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int:
        """Floats in a row."""

    @property
    def summation(self) -> bool:
        """Summed, or raw."""

    @property
    def sqrt_scaling(self) -> bool: ...

    @property
    def sample_fixed_size(self) -> int:
        """Columns of a raw feature's index."""

    @property
    def hash_stack_rounds(self) -> int:
        """0: no hash stack."""

    @property
    def embedding_size(self) -> int:
        """Buckets of a round."""

    @property
    def prefix(self) -> int:
        """Added to signs; 0: none, and no modulus either."""

class SlotTable:
    """The slots by name. Raises ValueError for slots that cannot be."""

    def __init__(self, prefix_bits: int, slots: Sequence[Slot]) -> None: ...

    def __contains__(self, arg: str, /) -> bool: ...

class Plan:
    """
    The lookups of a request, and its tensors from the rows.

    `batches` are DecodedBatch objects or lists of (name, values u64[nnz], offsets u32[samples + 1]); every distinct sign of a dim is asked once for all of them. Raises KeyError with the name of a feature that has no slot, DecodeError for offsets that are none. The GIL is released.
    """

    def __init__(self, slots: SlotTable, batches: Sequence, replica_size: int) -> None: ...

    def groups(self) -> list:
        """
        [(shard, dim, signs as packed little-endian u64)], by shard; shards without signs are not there.
        """

    def assemble(self, rows: Sequence) -> list:
        """
        Tensors from rows, [(dtype, bytes)] in the order of groups(); dtype is 1 (float32) or 2 (float16).

        Returns for each batch a list with, for each feature, (name, dim, values f16[samples, dim]) if it is summed, else (name, dim, values f16[distinct + 1, dim], index i64[samples, sample_fixed_size], sample_id_num u64[samples], sample_fixed_size). Raises ValueError for rows of the wrong size. The GIL is released.
        """
