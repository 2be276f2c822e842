"""What the C library does with memory that a batch has given back: it is kept for the next batch."""

import ctypes
import os

__all__ = ["keep_freed_memory"]

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # of mallopt, malloc.h
LARGEST = 2**31 - 1  # bytes; mallopt takes an int


def keep_freed_memory() -> None:
    """Large blocks come from the heap, and the heap does not shrink.

    glibc maps every large block anew and gives it back at once, so that each activation of each batch is a
    page fault for every 4 kB.  Nothing is done where there is no mallopt (macOS, Windows, musl), and where
    the environment says how memory is to be allocated.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows takes no None
        return
    mallopt(MMAP_MAX, 0)
    mallopt(TRIM_THRESHOLD, LARGEST)
