"""What a server paints: bitmap, palette and pointer updates, as both paths carry them once inflated.

Rule 1: whatever a peer sends is a value or a WireError.
Rule 2: pixels are given as they came; sizes are those of the message and have been compared with nothing but its end.
        Whoever decodes compares them with the screen.

MS-RDPBCGR 2.2.9.1.1.3 (graphics updates), 2.2.9.1.1.4 (pointer updates), 2.2.9.1.2.1 (the same on the fast path),
2.2.9.2 (surface commands, on the fast path alone).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import Reader, WireError, u16

_BITMAP: Final = Struct("<9H")  # TS_BITMAP_DATA, 2.2.9.1.1.3.1.2.2
_CD_HEADER: Final = 8  # TS_CD_HEADER, 2.2.9.1.1.3.1.2.3
_PALETTE_ENTRY: Final = 3
MAX_PALETTE: Final = 256  # NUM_8BPP_PAL_ENTRIES
MAX_POINTER: Final = 384  # LARGE_POINTER_FLAG_384x384, 2.2.7.2.7: width and height of the largest pointer
_COLOR: Final = Struct("<HHHHHHH")  # TS_COLORPOINTERATTRIBUTE, 2.2.9.1.1.4.4
_LARGE: Final = Struct("<HHHHHHII")  # TS_FP_LARGEPOINTERATTRIBUTE, 2.2.9.1.2.1.11
_SURFACE: Final = Struct(
    "<4HBBBBHHI"
)  # TS_SURFCMD_SET_SURF_BITS, 2.2.9.2.1, and its TS_BITMAP_DATA_EX, 2.2.9.2.1.1
_EX_HEADER: Final = 24  # TS_COMPRESSED_BITMAP_HEADER_EX, 2.2.9.2.1.1.1: times, which no picture needs
_EX_HEADER_PRESENT: Final = 0x01
_MARKER: Final = 6  # frameAction and frameId of TS_FRAME_MARKER, 2.2.9.2.3
COLOR_POINTER_DEPTH: Final = 24  # 2.2.9.1.1.4.4: a color pointer says no depth


class UpdateType(enum.IntEnum):
    """updateType, 2.2.9.1.1.3.1: the first field of what it holds."""

    ORDERS = 0
    BITMAP = 1
    PALETTE = 2
    SYNCHRONIZE = 3


class BitmapFlag(enum.IntFlag):
    """Flags of TS_BITMAP_DATA, 2.2.9.1.1.3.1.2.2."""

    COMPRESSION = 0x0001
    NO_COMPRESSION_HDR = 0x0400


# As numbers: `&` with a flag's name takes longer than all else that is read of a rectangle, and screens have thousands.
_COMPRESSION: Final = int(BitmapFlag.COMPRESSION)
_NO_COMPRESSION_HDR: Final = int(BitmapFlag.NO_COMPRESSION_HDR)


class PointerType(enum.IntEnum):
    """messageType of a slow-path Pointer PDU, 2.2.9.1.1.4."""

    SYSTEM = 0x0001
    POSITION = 0x0003
    COLOR = 0x0006
    CACHED = 0x0007
    POINTER = 0x0008


SYSTEM_NULL: Final = 0x00000000  # SYSPTR_NULL, 2.2.9.1.1.4.3
SYSTEM_DEFAULT: Final = 0x00007F00  # SYSPTR_DEFAULT


class Bitmap(NamedTuple):
    """TS_BITMAP_DATA, 2.2.9.1.1.3.1.2.2; right and bottom are inside. `data` has no TS_CD_HEADER."""

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int
    depth: int
    flags: int
    data: bytes

    @property
    def compressed(self) -> bool:
        """Whether the pixels are RLE (up to 24 bits) or planar (32 bits)."""
        return bool(self.flags & _COMPRESSION)


class SurfaceCommand(enum.IntEnum):
    """cmdType, 2.2.9.2."""

    SET_SURFACE_BITS = 0x0001
    FRAME_MARKER = 0x0004
    STREAM_SURFACE_BITS = 0x0006


class SurfaceBits(NamedTuple):
    """TS_SURFCMD_SET_SURF_BITS or TS_SURFCMD_STREAM_SURF_BITS, 2.2.9.2.1; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int
    depth: int
    codec: int  # as the client numbers it; 0: not compressed
    width: int
    height: int
    data: bytes


class SystemPointer(NamedTuple):
    """The pointer is hidden, or the system's own."""

    kind: int


class PointerPosition(NamedTuple):
    """The server moved the pointer."""

    x: int
    y: int


class PointerShape(NamedTuple):
    """A new pointer, 2.2.9.1.1.4.4, 2.2.9.1.1.4.5 or 2.2.9.1.2.1.11: its masks, bottom row first."""

    depth: int
    cache: int
    hot_x: int
    hot_y: int
    width: int
    height: int
    xor_mask: bytes
    and_mask: bytes


class CachedPointer(NamedTuple):
    """A pointer that came before."""

    cache: int


PointerUpdate = SystemPointer | PointerPosition | PointerShape | CachedPointer


def update_type(data: bytes) -> int:
    """Read what kind a slow-path Update PDU is; raises WireError."""
    return Reader(data, what="an update").u16()


def parse_bitmaps(data: bytes) -> list[Bitmap]:
    """Read TS_UPDATE_BITMAP_DATA, 2.2.9.1.1.3.1.2, with its updateType; raises WireError."""
    reader = Reader(data, what="a bitmap update")
    if reader.u16() != UpdateType.BITMAP:
        raise WireError("a bitmap update is none")
    return [_bitmap(reader) for _ in range(reader.u16())]


def _bitmap(reader: Reader) -> Bitmap:
    *place, depth, flags, size = _BITMAP.unpack(reader.take(_BITMAP.size))
    if flags & _COMPRESSION and not flags & _NO_COMPRESSION_HDR:
        reader.skip(_CD_HEADER)
        size -= _CD_HEADER
    left, top, right, bottom, width, height = place
    return Bitmap(left, top, right, bottom, width, height, depth, flags, reader.take(size))


def build_bitmaps(bitmaps: Iterable[Bitmap]) -> bytes:
    """Write TS_UPDATE_BITMAP_DATA; compressed ones must say NO_COMPRESSION_HDR."""
    written = [_BITMAP.pack(*bitmap[:8], len(bitmap.data)) + bitmap.data for bitmap in bitmaps]
    return u16(UpdateType.BITMAP) + u16(len(written)) + b"".join(written)


def parse_surface_commands(data: bytes) -> list[SurfaceBits]:
    """Read a surface commands update, 2.2.9.1.2.1.10, without the marks of frames; raises WireError."""
    reader = Reader(data, what="a surface command")
    found = []
    while reader.left:
        match reader.u16():
            case SurfaceCommand.SET_SURFACE_BITS | SurfaceCommand.STREAM_SURFACE_BITS:
                found.append(_surface_bits(reader))
            case SurfaceCommand.FRAME_MARKER:
                reader.skip(_MARKER)
            case _:
                raise WireError(f"{reader.what} is of unknown kind")
    return found


def _surface_bits(reader: Reader) -> SurfaceBits:
    *place, depth, flags, _, codec, width, height, size = _SURFACE.unpack(reader.take(_SURFACE.size))
    reader.skip(_EX_HEADER if flags & _EX_HEADER_PRESENT else 0)
    left, top, right, bottom = place
    return SurfaceBits(left, top, right, bottom, depth, codec, width, height, reader.take(size))


def build_surface_bits(bits: SurfaceBits) -> bytes:
    """Write a stream surface bits command, 2.2.9.2.2."""
    *place, depth, codec, width, height, data = bits
    body = _SURFACE.pack(*place, depth, 0, 0, codec, width, height, len(data))
    return u16(SurfaceCommand.STREAM_SURFACE_BITS) + body + data


def parse_palette(data: bytes) -> list[tuple[int, int, int]]:
    """Read TS_UPDATE_PALETTE_DATA, 2.2.9.1.1.3.1.1, with its updateType: red, green, blue; raises WireError."""
    reader = Reader(data, what="a palette update")
    if reader.u16() != UpdateType.PALETTE:
        raise WireError("a palette update is none")
    reader.u16()  # pad
    count = reader.u32()
    if count > MAX_PALETTE:
        raise WireError("a palette has too many colours")
    entries = reader.take(count * _PALETTE_ENTRY)
    return [(entries[at], entries[at + 1], entries[at + 2]) for at in range(0, len(entries), _PALETTE_ENTRY)]


def parse_pointer(data: bytes) -> PointerUpdate:
    """Read the body of a slow-path Pointer PDU, 2.2.9.1.1.4; raises WireError."""
    reader = Reader(data, what="a pointer update")
    kind = reader.u16()
    reader.u16()  # pad
    match kind:
        case PointerType.SYSTEM:
            return SystemPointer(reader.u32())
        case PointerType.POSITION:
            return pointer_position(reader.rest())
        case PointerType.COLOR:
            return color_pointer(reader.rest())
        case PointerType.CACHED:
            return cached_pointer(reader.rest())
        case PointerType.POINTER:
            return new_pointer(reader.rest())
    raise WireError("a pointer update is of unknown kind")


def pointer_position(data: bytes) -> PointerPosition:
    """Read TS_POINTERPOSATTRIBUTE, 2.2.9.1.1.4.2; raises WireError."""
    reader = Reader(data, what="a pointer update")
    return PointerPosition(reader.u16(), reader.u16())


def cached_pointer(data: bytes) -> CachedPointer:
    """Read TS_CACHEDPOINTERATTRIBUTE, 2.2.9.1.1.4.6; raises WireError."""
    return CachedPointer(Reader(data, what="a pointer update").u16())


def color_pointer(data: bytes) -> PointerShape:
    """Read TS_COLORPOINTERATTRIBUTE, 2.2.9.1.1.4.4; raises WireError."""
    return _color_pointer(Reader(data, what="a pointer update"), COLOR_POINTER_DEPTH)


def new_pointer(data: bytes) -> PointerShape:
    """Read TS_POINTERATTRIBUTE, 2.2.9.1.1.4.5; raises WireError."""
    reader = Reader(data, what="a pointer update")
    depth = reader.u16()
    return _color_pointer(reader, depth)


def large_pointer(data: bytes) -> PointerShape:
    """Read TS_FP_LARGEPOINTERATTRIBUTE, 2.2.9.1.2.1.11; raises WireError."""
    reader = Reader(data, what="a pointer update")
    *head, and_size, xor_size = _LARGE.unpack(reader.take(_LARGE.size))
    return _shape(reader, head, xor_size, and_size)


def _color_pointer(reader: Reader, depth: int) -> PointerShape:
    *head, and_size, xor_size = _COLOR.unpack(reader.take(_COLOR.size))
    return _shape(reader, [depth, *head], xor_size, and_size)


def _shape(reader: Reader, head: list[int], xor_size: int, and_size: int) -> PointerShape:
    depth, cache, hot_x, hot_y, width, height = head
    if width > MAX_POINTER or height > MAX_POINTER:
        raise WireError("a pointer is too large")
    return PointerShape(
        depth, cache, hot_x, hot_y, width, height, reader.take(xor_size), reader.take(and_size)
    )
