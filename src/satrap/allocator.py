"""The C allocator's habits, for processes that pass large messages.

glibc returns blocks of more than 128 KiB, and the top of a heap beyond 256 KiB, to the kernel as soon as they are
freed. A lookup's answer is 200 KB and passes through several such blocks, so that every call pays for mapping,
clearing and unmapping pages.
"""

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_MIB = 1 << 20


def keep_freed_memory() -> bool:
    """Let glibc keep up to 64 MiB of freed memory, in one heap, instead of giving it back at once.

    For the whole process and for good, so a process calls it for itself at its start; a library does not. Returns
    whether it was done: False on other C libraries, where nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = {
        _M_TRIM_THRESHOLD: 64 * _MIB,
        _M_TOP_PAD: 4 * _MIB,
        _M_MMAP_THRESHOLD: 16 * _MIB,
        _M_ARENA_MAX: 1,
    }
    return all([mallopt(option, value) == 1 for option, value in options.items()])  # noqa: C419 (sets every one)
