"""Memory that goes back to the operating system once it is free."""

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
BLOCK_BYTES = 512 * 1024
ARENAS = 2


def return_freed_blocks() -> None:
    """Has glibc map large blocks one by one. By default it keeps blocks of up to 32 MB once one was freed, so a process
    that has worked on a large message would stay large. Does nothing with another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES)
        mallopt(M_TRIM_THRESHOLD, BLOCK_BYTES)
        mallopt(M_ARENA_MAX, ARENAS)


def trim() -> None:
    """Frees what only cycles keep, such as the last large request, and returns free pages between used ones. Takes some
    50 ms: for use beside work on megabytes."""
    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
