"""What is in the memory of a process: for tests of what must never be there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"  # bech32's, BIP 173
CHECKSUM = 6  # of them
PAGE_READ = 64 << 20  # bytes looked at in one go
REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r")


def holds(pid: int, needle: bytes) -> bool:
    """Tell whether these bytes are in a process's memory."""
    return any(needle in pages for pages in _pages(pid))


def _pages(pid: int) -> Iterator[bytes]:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if (match := REGION.match(line)) is None or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            begin, end = (int(text, 16) for text in match.groups())
            for at in range(begin, end, PAGE_READ):
                with suppress(OSError):  # gone meanwhile, or a device's
                    memory.seek(at)
                    yield memory.read(min(PAGE_READ, end - at))


def scalar(identity: str) -> bytes:
    """Give the 32 bytes an age identity stands for (bech32)."""
    letters = identity.lower().rpartition("1")[2][:-CHECKSUM]
    number = 0
    for letter in letters:
        number = number << 5 | LETTERS.index(letter)
    return (number >> (len(letters) * 5 - 256)).to_bytes(32, "big")
