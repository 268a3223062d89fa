"""The C library's memory: threads share heaps."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from proxyd.memory import HEAPS

THREADS = 12
HEAPS_OF_THREADS = """
import ctypes, threading
from proxyd.memory import settle
if {settled}:
    settle()
library = ctypes.CDLL(None)
library.fopen.restype = library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
library.fclose.argtypes = [ctypes.c_void_p]
together = threading.Barrier({threads} + 1)
def work():
    library.malloc(100_000)
    together.wait()
for _ in range({threads}):
    threading.Thread(target=work, daemon=True).start()
together.wait()
out = library.fopen(b"/dev/stdout", b"w")
library.malloc_info(0, out)
library.fclose(out)
"""


def heaps(*, settled: bool) -> int:
    """Heaps a process has when THREADS of its threads have each asked for memory."""
    program = HEAPS_OF_THREADS.format(settled=settled, threads=THREADS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc: nothing is set in it"
)
def test_threads_share_heaps_where_each_would_have_its_own() -> None:
    assert heaps(settled=True) <= HEAPS
    assert heaps(settled=False) > HEAPS
