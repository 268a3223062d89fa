"""Bitmaps held back until somebody looks: those that others have covered by then are never decoded.

Rule 1: what is shown then is what it would be had each been painted when it came.
Rule 2: what cannot be decoded covers nothing. A bitmap nobody ever sees is not counted as a fault.
Rule 3: they are painted when they take more than MOST_BYTES, whether anybody looks or not.
"""

from __future__ import annotations

from typing import Final

from proxyd.index.area import Area
from proxyd.index.rdp import bitmap
from proxyd.index.rdp.canvas import Canvas
from proxyd.protocols.rdp.updates import Bitmap
from proxyd.protocols.rdp.wire import WireError

MOST_BYTES: Final = 48 << 20  # four seconds of text that scrolls by at 1080p
_OVERHEAD: Final = 200  # bytes that one takes beside its data
_PLACE: Final = 6  # fields of a bitmap that say what it covers


class Held:
    """The bitmaps that wait for one canvas."""

    def __init__(self) -> None:
        self._tiles: list[Bitmap] = []
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Say whether they are to be painted now (rule 3)."""
        return self._bytes > MOST_BYTES

    def add(self, tile: Bitmap) -> None:
        """Hold one back."""
        self._tiles.append(tile)
        self._bytes += len(tile.data) + _OVERHEAD

    def paint(self, canvas: Canvas) -> int:
        """Paint what can be seen; gives how many of those could not be read."""
        tiles, self._tiles, self._bytes = self._tiles, [], 0
        covered: set[tuple[object, ...]] = set()
        seen: list[tuple[Bitmap, bytes | bytearray]] = []
        faults = 0
        for tile in reversed(tiles):
            place = tile[:_PLACE]
            if place in covered:
                continue
            try:
                seen.append((tile, pixels(tile)))
                covered.add(place)
            except WireError:
                faults += 1
        for tile, painted in reversed(seen):
            canvas.paint(area_of(tile), painted, tile.width)
        return faults


def area_of(tile: Bitmap) -> Area:
    """Give where a bitmap goes."""
    return Area(tile.left, tile.top, tile.right - tile.left + 1, tile.bottom - tile.top + 1)


def pixels(tile: Bitmap) -> bytes | bytearray:
    """Decode one; raises WireError."""
    return bitmap.pixels(tile.width, tile.height, tile.depth, tile.data, compressed=tile.compressed)
