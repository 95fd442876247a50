"""Memory that goes back to the operating system once it is free."""

import asyncio
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


def keep_what_is_loaded() -> None:
    """Excludes everything made so far from later garbage collections: modules and clients stay until the end, and a
    collection that looks at them holds up all requests for more than 50 ms."""
    gc.collect()
    gc.freeze()


async def trim() -> None:
    """Frees what only cycles keep, such as the last large request, and returns free pages between used ones. Takes some
    50 ms, mostly in a thread: for use beside work on megabytes."""
    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        await asyncio.to_thread(malloc_trim, 0)
