"""What is asked of rows before a table has them."""

from typing import Any

import numpy
import numpy.typing


def inspect(signs: numpy.typing.NDArray[numpy.uint64], rows: numpy.typing.NDArray[Any] | None, replica_index: int = 0, replica_size: int = 1) -> tuple[int, int, float]:
    """
    Read signs (u64 [n]) and rows ([n, dim] of float32 or float16, or None) once: (misrouted, bad_row, max_norm).

    How many signs another shard owns; the first row with a value that is not finite, or -1; the greatest Euclidean
    norm of the finite rows, 0.0 without any. Sums are made in one order, so every machine finds the same.

    Raises ValueError: another number of rows, another dtype, no such shard. The GIL is released.
    """

def norms(rows: numpy.typing.NDArray[Any]) -> numpy.typing.NDArray[numpy.float64]:
    """
    The Euclidean norm of each row ([n, dim] of float32 or float16), not finite where a value is not: f64 [n].

    As `inspect` finds them. The GIL is released.
    """

def select(signs: numpy.typing.NDArray[numpy.uint64], rows: numpy.typing.NDArray[Any] | None, replica_index: int, replica_size: int) -> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[Any] | None]:
    """
    The signs (u64 [m], in order) that a shard owns, and their rows ([m, dim] of the same dtype; None if None).

    The shard of a sign is farmhash64(sign) % replica_size.

    Raises ValueError as `inspect` does. The GIL is released.
    """
