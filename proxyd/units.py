"""Numbers as people read them."""

from __future__ import annotations

from typing import Final

KB: Final = 1000  # as disks and `ls --si` count


def size(count: int) -> str:
    """Write a number of bytes in B, KB, MB or GB (thousands), as mission item M10 asks."""
    if count < KB:
        return f"{count} B"
    for unit, scale in (("KB", KB), ("MB", KB**2), ("GB", KB**3)):
        if count < scale * KB or unit == "GB":
            value = count / scale
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    raise AssertionError("a size has a unit")
