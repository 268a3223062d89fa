"""Surface commands: from their bitmaps to what the screen shows.

Rule 1: what can't be read is a WireError, and what can't be inside of the desktop is refused before it is decoded.
Rule 2: of the codecs that clients number, RemoteFX alone is left in what both sides know of each other
        (`capabilities.limited`): any number but that of no codec is its.

MS-RDPBCGR 2.2.9.2, MS-RDPRFX 3.1.8; decoded by `gfx_codecs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxyd.index.rdp import bitmap
from proxyd.index.rdp.bitmap import check_size
from proxyd.index.rdp.gfx import Painted
from proxyd.index.rdp.gfx_codecs import Codec, Codecs, Rectangle, Surface
from proxyd.protocols.rdp.updates import SurfaceBits
from proxyd.protocols.rdp.wire import WireError

_NO_CODEC: Final = 0  # codecID, 2.2.9.2.1.1


class Surfaces:
    """The surface of a desktop of one size. Raises FormatError when nothing can decode it, WireError for a size."""

    def __init__(self, width: int, height: int) -> None:
        check_size(width, height)
        self._codecs = Codecs()
        self._codecs.reset(width, height)
        self._surface = Surface(0, width, height)

    def paint(self, bits: SurfaceBits) -> Iterator[Painted]:
        """Decode one bitmap; yields what the desktop shows of it. Raises WireError."""
        surface = self._surface
        if bits.codec == _NO_CODEC:
            if bits.width > surface.wide or bits.height > surface.deep:
                raise WireError("a bitmap is larger than the desktop")
            pixels = bitmap.pixels(bits.width, bits.height, bits.depth, bits.data, compressed=False)
            yield Painted(bits.left, bits.top, bits.width, bits.height, bytes(pixels))
            return
        right, bottom = min(bits.right, surface.wide), min(bits.bottom, surface.deep)
        where = Rectangle(bits.left, bits.top, right, bottom)
        for each in self._decoded(where, bits.data):
            if part := surface.shown(each):
                size = part.right - part.left, part.bottom - part.top
                yield Painted(part.left, part.top, *size, surface.cut(part))

    def _decoded(self, where: Rectangle, data: bytes) -> list[Rectangle]:
        try:
            return self._codecs.paint(self._surface, Codec.CAVIDEO, where, data, 0)
        except WireError:
            self._codecs.reset(self._surface.width, self._surface.height)  # it would refuse what follows
            raise
