"""How the C library keeps the daemon's memory. With a library that is not glibc nothing here does anything.

Rule 1: threads share two heaps. Left alone, glibc gives every worker thread a heap of its own, and what a session leaves
        in each of them is counted to the next: half of what an idle session costs was such pages.
Rule 2: freed pages are given back when it pays, not one by one: fetching them anew cost half of a write.
"""

from __future__ import annotations

import ctypes
import time
from typing import Final

HEAPS: Final = 2  # as many threads as compute at the same time on a small machine; one was no smaller
KEPT_BYTES: Final = 16 << 20  # the library keeps this much for the next block
TRIM_STREAMS: Final = 32  # freed zstd streams (0.15 MB each) that make asking for the free pages worth it
TRIM_SECONDS: Final = 10.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)

_library = ctypes.CDLL(None)
_glibc = hasattr(_library, "malloc_trim")


def settle() -> None:
    """Set what holds for the whole process; before its threads begin."""
    if _glibc:
        _library.mallopt(_M_ARENA_MAX, HEAPS)
        _library.mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        _library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


class Trimmer:
    """Gives freed memory back; worker thread only."""

    def __init__(self) -> None:
        self._freed = 0
        self._last = 0.0

    def freed(self, streams: int) -> None:
        """Count freed streams, and trim when it pays."""
        self._freed += streams
        now = time.monotonic()
        if _glibc and self._freed >= TRIM_STREAMS and now - self._last >= TRIM_SECONDS:
            self._freed, self._last = 0, now
            _library.malloc_trim(0)
