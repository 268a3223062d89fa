"""Pictures of ours as bitmaps of an update, in the colours of a session.

Rule 1: a bitmap's width is a multiple of four; where the screen ends before it, its rectangle does.
Rule 2: no bitmap is larger than MAX_BITMAP, so each fits into a message of either path.
Rule 3: pictures go uncompressed, which every client shows; one colour goes as runs, or a backdrop would be megabytes.

MS-RDPBCGR 2.2.9.1.1.3.1.2.2 (TS_BITMAP_DATA), 2.2.9.1.1.3.1.2.4 (interleaved RLE); MS-RDPEGDI 2.2.2.5.1 (RDP 6.0 planar).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final

from PIL import Image, ImageChops

from proxyd.protocols.rdp.updates import Bitmap, BitmapFlag, build_bitmaps
from proxyd.protocols.rdp.wire import u16

MAX_BITMAP: Final = (
    15_000  # bytes of pixels: a fast-path frame within 14 bits, which clients of all ages read
)
ALIGN: Final = 4
DEPTH_16, DEPTH_32 = 16, 32
TILE: Final = 64  # pixels, each way
_HEADER: Final = 18  # of TS_BITMAP_DATA
_COLOR_RUN: Final = 0xF3  # MEGA_MEGA_COLOR_RUN: a length of two bytes, a pixel
_PLANAR: Final = 0x10  # FormatHeader: runs; with an alpha plane, for rdesktop reads no other
_OPAQUE: Final = 0xFF
_FIRST_16: Final = 0x1F  # a value, and 15 more of it
_RUN_24: Final = 0x81  # 16 and 8 more of the value before
_RUN_32: Final = 0x02
Colour = tuple[int, int, int]


def pixels(picture: Image.Image, depth: int) -> bytes:
    """Give a picture's pixels as they stand in an update, the bottom row first; `depth`: 16 or 32 bits."""
    upside_down = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if depth == DEPTH_32:
        return upside_down.convert("RGBX").tobytes("raw", "BGRX")
    red, green, blue = upside_down.split()
    low = ImageChops.add(green.point(lambda v: v << 3 & 0xE0), blue.point(lambda v: v >> 3))
    high = ImageChops.add(red.point(lambda v: v & 0xF8), green.point(lambda v: v >> 5))
    return Image.merge("LA", (low, high)).tobytes()


def strips(picture: Image.Image, left: int, top: int, depth: int) -> Iterator[Bitmap]:
    """Give a picture as bitmaps, from its top; its width is a multiple of four."""
    rows = max(1, MAX_BITMAP // (picture.width * depth // 8))
    for at in range(0, picture.height, rows):
        strip = picture.crop((0, at, picture.width, min(at + rows, picture.height)))
        right, bottom = left + strip.width - 1, top + at + strip.height - 1
        data = pixels(strip, depth)
        yield Bitmap(left, top + at, right, bottom, strip.width, strip.height, depth, 0, data)


def backdrop(colour: Colour, width: int, height: int, depth: int) -> Iterator[Bitmap]:
    """Give a screen of one colour."""
    flags = BitmapFlag.COMPRESSION | BitmapFlag.NO_COMPRESSION_HDR
    data = _runs(colour) if depth == DEPTH_16 else _planes(colour)
    for top, left in product(range(0, height, TILE), range(0, width, TILE)):
        right, bottom = min(left + TILE, width) - 1, min(top + TILE, height) - 1
        yield Bitmap(left, top, right, bottom, TILE, TILE, depth, flags, data)


def _runs(colour: Colour) -> bytes:
    """Write a tile of one colour as one run."""
    pixel = pixels(Image.new("RGB", (1, 1), colour), DEPTH_16)
    return bytes((_COLOR_RUN,)) + u16(TILE * TILE) + pixel


def _planes(colour: Colour) -> bytes:
    """Write a tile of one colour as planes: a row of it, and rows that do not differ from the one before."""
    same = bytes((_RUN_32, _RUN_32)) * (TILE - 1)
    planes = b"".join(bytes((_FIRST_16, value, _RUN_24, _RUN_24)) + same for value in (_OPAQUE, *colour))
    return bytes((_PLANAR,)) + planes


def updates(bitmaps: Iterable[Bitmap]) -> Iterator[bytes]:
    """Put bitmaps into as few updates as they fit into (rule 2); gives TS_UPDATE_BITMAP_DATA."""
    together: list[Bitmap] = []
    size = 0
    for bitmap in bitmaps:
        more = len(bitmap.data) + _HEADER
        if together and size + more > MAX_BITMAP + _HEADER:
            yield build_bitmaps(together)
            together, size = [], 0
        together.append(bitmap)
        size += more
    if together:
        yield build_bitmaps(together)
