"""The desktop as the target painted it so far.

Rule 1: nothing is painted outside of it, whatever a rectangle says.
Rule 2: it is as large as bitmap.check_size allows at most; a picture is a copy, later painting does not change it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from PIL import Image

from proxyd.index.area import Area
from proxyd.index.rdp.bitmap import PIXEL, check_size

RGB: Final = 3  # bytes of a pixel that is given out


class Picture(NamedTuple):
    """What the screen showed: red, green and blue of each pixel, the top row first."""

    width: int
    height: int
    rgb: bytes


class Canvas:
    """Pixels of a desktop, black before anything is painted."""

    __slots__ = ("_pixels", "height", "width")

    def __init__(self, width: int, height: int) -> None:
        """Make one of this size; raises WireError."""
        check_size(width, height)
        self.width = width
        self.height = height
        self._pixels = bytearray(width * height * PIXEL)

    def has(self, area: Area, width: int, height: int) -> Area | None:
        """Give what the desktop has of an area that so many columns and rows are painted to; None for nothing."""
        columns = min(area.width, width, self.width - area.left)
        rows = min(area.height, height, self.height - area.top)
        if columns <= 0 or rows <= 0 or area.left < 0 or area.top < 0:
            return None
        return Area(area.left, area.top, columns, rows)

    def paint(self, area: Area, pixels: bytes | bytearray, width: int) -> Area | None:
        """Paint `pixels` (rows of `width`) where `area` is; gives what of it the desktop has, None for nothing."""
        place = self.has(area, width, len(pixels) // (width * PIXEL))
        if place is None:
            return None
        _, _, columns, rows = place
        stride, row = self.width * PIXEL, width * PIXEL
        at = area.top * stride + area.left * PIXEL
        size = columns * PIXEL
        if columns == width == self.width:
            self._pixels[at : at + rows * row] = memoryview(pixels)[: rows * row]
        else:
            for start in range(0, rows * row, row):
                self._pixels[at : at + size] = pixels[start : start + size]
                at += stride
        return place

    def show(self, picture: Picture) -> None:
        """Take a whole picture of this size."""
        size = (picture.width, picture.height)
        self._pixels[:] = Image.frombytes("RGB", size, picture.rgb).tobytes("raw", "BGRX")

    def part(self, area: Area) -> bytes:
        """Give a rectangle that lies on it as it is now: red, green, blue, the top row first."""
        stride = self.width * PIXEL
        start = area.top * stride + area.left * PIXEL
        end = start + (area.height - 1) * stride + area.width * PIXEL
        whole = (start, end) == (0, len(self._pixels))
        return _rgb(area.width, area.height, self._pixels if whole else self._pixels[start:end], stride)

    @property
    def pixels(self) -> memoryview:
        """Look at it as it is painted: B, G, R and a byte of no meaning of each pixel, the top row first."""
        return memoryview(self._pixels).toreadonly()

    def picture(self) -> Picture:
        """Give what it shows now."""
        return Picture(
            self.width, self.height, _rgb(self.width, self.height, self._pixels, self.width * PIXEL)
        )


def _rgb(width: int, height: int, pixels: bytearray, stride: int) -> bytes:
    """Give rows that begin `stride` bytes apart as they are given out."""
    return Image.frombuffer("RGB", (width, height), pixels, "raw", "BGRX", stride, 1).tobytes()
