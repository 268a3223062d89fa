"""The mouse pointer: where it is and what it looks like, MS-RDPBCGR 2.2.9.1.1.4 and 2.2.9.1.2.1.5 to 2.2.9.1.2.1.11.

Rule 1: a shape's masks are there whole before it is kept; it is drawn only when somebody asks for it.
Rule 2: shapes are kept by the index the target gives them, so many of them as a cache may have.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from proxyd.protocols.rdp.updates import (
    SYSTEM_NULL,
    CachedPointer,
    PointerPosition,
    PointerShape,
    PointerUpdate,
    SystemPointer,
)
from proxyd.protocols.rdp.wire import WireError

MAX_CACHED: Final = (
    128  # FreeRDP offers a cache of 20, mstsc of 25, xrdp uses 32: an index above it is shown, not kept
)
_DEPTHS: Final = (1, 16, 24, 32)
_TRANSPARENT: Final = bytes(4)
_BLACK: Final = b"\0\0\0\xff"
_WHITE: Final = b"\xff\xff\xff\xff"
_MASKED: Final = {
    _BLACK: _TRANSPARENT,
    _WHITE: _BLACK,
}  # 2.2.9.1.1.4.4: the screen's own colour, and its inverse


class Shape(NamedTuple):
    """A pointer drawn: red, green, blue, alpha of each pixel, the top row first; the hot spot is where it points."""

    width: int
    height: int
    hot_x: int
    hot_y: int
    rgba: bytes


class Pointer:
    """The pointer of one session. `x` and `y` are where it points; `shape` None is the client's own arrow.

    `midway`: what was sent before is not known, so a shape that is only named again is no fault, and shown as the arrow.
    """

    def __init__(self, *, midway: bool = False) -> None:
        self._midway = midway
        self.x = self.y = 0
        self.visible = True
        self._sent: PointerShape | None = None
        self._cache: dict[int, PointerShape] = {}

    @property
    def shape(self) -> Shape | None:
        """Draw it."""
        return _draw(self._sent) if self._sent else None

    def move(self, x: int, y: int) -> None:
        """Point there: the user moved it, or the target did."""
        self.x, self.y = x, y

    def take(self, update: PointerUpdate) -> None:
        """Take what the target says of it; raises WireError."""
        match update:
            case PointerPosition(x, y):
                self.move(x, y)
            case SystemPointer(kind):
                self.visible = kind != SYSTEM_NULL
                self._sent = None
            case CachedPointer(index):
                if index not in self._cache and not self._midway:
                    raise WireError("a pointer was not sent before")
                self.visible, self._sent = True, self._cache.get(index)
            case PointerShape():
                _check(update)
                if update.cache < MAX_CACHED:
                    self._cache[update.cache] = update
                self.visible, self._sent = True, update


def _check(shape: PointerShape) -> None:
    if shape.depth not in _DEPTHS or not shape.width or not shape.height:
        raise WireError("a pointer has an impossible depth or size")
    if len(shape.xor_mask) < _row(shape.width, shape.depth) * shape.height:
        raise WireError("a pointer is cut short")
    if shape.and_mask and len(shape.and_mask) < _row(shape.width, 1) * shape.height:
        raise WireError("a pointer is cut short")


def _row(width: int, bits: int) -> int:
    """Bytes of a row of a mask: padded to two."""
    return (width * bits + 15) // 16 * 2


@lru_cache(maxsize=16)  # the few a user moves between; the largest takes 600 KB
def _draw(shape: PointerShape) -> Shape:
    """Put the masks together. Where they invert the screen it is black, as there is no screen below it here."""
    xor_row, and_row = _row(shape.width, shape.depth), _row(shape.width, 1)
    drawn = bytearray()
    for y in range(shape.height):
        # One bit a pixel comes with the top row first, colours with the bottom row first.
        line = y if shape.depth == 1 else shape.height - 1 - y
        for x in range(shape.width):
            pixel = _pixel(shape, line * xor_row, x)
            masked = _bit(shape.and_mask, line * and_row, x) if shape.and_mask else 0
            drawn += _MASKED.get(pixel, pixel) if masked else pixel
    return Shape(shape.width, shape.height, shape.hot_x, shape.hot_y, bytes(drawn))


def _bit(mask: bytes, row: int, x: int) -> int:
    return mask[row + x // 8] >> (7 - x % 8) & 1


def _pixel(shape: PointerShape, row: int, x: int) -> bytes:
    mask = shape.xor_mask
    if shape.depth == 1:
        return _WHITE if _bit(mask, row, x) else _BLACK
    size = shape.depth // 8
    at = row + x * size
    if size == 2:
        value = mask[at] | mask[at + 1] << 8
        red, green, blue = value >> 11, value >> 5 & 0x3F, value & 0x1F
        return bytes((red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2, 0xFF))
    alpha = mask[at + 3] if size == 4 else 0xFF
    return bytes((mask[at + 2], mask[at + 1], mask[at], alpha))
