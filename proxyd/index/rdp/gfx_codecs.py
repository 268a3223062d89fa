"""The codecs of the graphics pipeline and of surface commands, decoded by libfreerdp, 2 or 3, through ctypes.

Rule 1: every buffer handed over is ours, its size is handed with it, and what is to be painted lies inside of it: that
        is checked here, before the library is asked.
Rule 2: what the library refuses is a WireError. What it does beyond that, as bytes from a target may make it, ends this
        process and no other (proxyd.index.rdp.render).
Rule 3: the contexts are FreeRDP's own: one for all surfaces, but for H.264, which has one for each. They end with the
        session they are of.
Rule 4: the library says nothing: its log would have what a target sent.

MS-RDPEGFX 2.2.4 (bitmap streams), 3.3.8.3 (codecs); MS-RDPRFX. Traps of the library: `progressive_decompress` has another
signature in 2 (`progressive_decompress_ex` is the one of 3); the context for planar bitmaps must be as large as the
largest of them; what `zgfx_decompress` gives is the C library's to free.
"""

from __future__ import annotations

import ctypes
import enum
import os
import weakref
from collections.abc import Callable
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_int32, c_ubyte, c_uint16, c_uint32, c_void_p
from struct import Struct
from typing import Any, Final, NamedTuple

from proxyd.decoders import PACKAGES, freerdp
from proxyd.errors import FormatError
from proxyd.protocols.rdp.pipeline import MAX_SEGMENT, MULTIPART, SINGLE
from proxyd.protocols.rdp.wire import Reader, WireError

MAX_PLAIN: Final = 1 << 26  # bytes of one message decompressed: a desktop of 4K, uncompressed, twice
PIXEL: Final = 4
ALIGNED: Final = 16  # sides of a surface's memory are multiples of it: codecs work in blocks
_BGRX32: Final = 0x20040888  # PIXEL_FORMAT_BGRX32, freerdp/codec/color.h
_RECTANGLE: Final = Struct("<HHHH")
_QUALITY: Final = 2  # bytes of RDPGFX_AVC420_QUANT_QUALITY, 2.2.4.4.2
_MAX_RECTANGLES: Final = 8192  # regions of one picture: a 4K desktop in tiles of 64 has 2040
_LENGTH: Final = 0x3FFF_FFFF  # cbAvc420EncodedBitstream1, 2.2.4.5
_BOTH: Final = 0  # LC, 2.2.4.5
_CHROMA: Final = 2


class Codec(enum.IntEnum):
    """codecId, 2.2.2.1 and 2.2.2.2."""

    UNCOMPRESSED = 0x0000
    CAVIDEO = 0x0003
    CLEARCODEC = 0x0008
    CAPROGRESSIVE = 0x0009
    PLANAR = 0x000A
    AVC420 = 0x000B
    ALPHA = 0x000C
    CAPROGRESSIVE_V2 = 0x000D
    AVC444 = 0x000E
    AVC444_V2 = 0x000F


class Rectangle(NamedTuple):
    """RDPGFX_RECT16, 2.2.1.2: right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int


class Surface:
    """A surface: what it shows, and the memory it is in, whose rows are `stride` bytes and whose sides are aligned."""

    __slots__ = ("data", "deep", "height", "number", "stride", "wide", "width")

    def __init__(self, number: int, width: int, height: int) -> None:
        self.number = number
        self.width, self.height = width, height
        self.wide, self.deep = aligned(width), aligned(height)
        self.stride = self.wide * PIXEL
        self.data = bytearray(self.stride * self.deep)

    def inside(self, rectangle: Rectangle) -> bool:
        """Whether it has all of a rectangle, and that is not empty."""
        left, top, right, bottom = rectangle
        return left < right <= self.wide and top < bottom <= self.deep

    def cut(self, where: Rectangle) -> bytes:
        """Give the pixels of a part of it."""
        size = (where.right - where.left) * PIXEL
        first = where.top * self.stride + where.left * PIXEL
        last = where.bottom * self.stride
        if size == self.stride:
            return bytes(self.data[first:last])
        return b"".join(self.data[at : at + size] for at in range(first, last, self.stride))

    def shown(self, where: Rectangle) -> Rectangle | None:
        """Give what of a rectangle it shows, None for nothing: its memory is larger."""
        left, top, right, bottom = where
        right, bottom = min(right, self.width), min(bottom, self.height)
        return Rectangle(left, top, right, bottom) if left < right and top < bottom else None


def aligned(side: int) -> int:
    """Give the side of a surface's memory."""
    return -(-side // ALIGNED) * ALIGNED


class _Region(ctypes.Structure):  # REGION16, freerdp/codec/region.h
    _fields_ = (("extents", c_uint16 * 4), ("data", c_void_p))


_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {  # result, then arguments; the same in 2.11 and 3
    "zgfx_context_new": (c_void_p, c_int),
    "zgfx_context_free": (None, c_void_p),
    "zgfx_decompress": (c_int, c_void_p, c_char_p, c_uint32, POINTER(c_void_p), POINTER(c_uint32), c_uint32),
    "rfx_context_new": (c_void_p, c_int),
    "rfx_context_free": (None, c_void_p),
    "rfx_context_reset": (c_int, c_void_p, c_uint32, c_uint32),
    "rfx_context_set_pixel_format": (None, c_void_p, c_uint32),
    "rfx_process_message": (
        c_int, c_void_p, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, c_uint32, c_void_p,
    ),
    "progressive_context_new": (c_void_p, c_int),
    "progressive_context_free": (None, c_void_p),
    "progressive_context_reset": (c_int, c_void_p),
    "progressive_create_surface_context": (c_int32, c_void_p, c_uint16, c_uint32, c_uint32),
    "progressive_delete_surface_context": (c_int, c_void_p, c_uint16),
    "clear_context_new": (c_void_p, c_int),
    "clear_context_free": (None, c_void_p),
    "clear_context_reset": (c_int, c_void_p),
    "clear_decompress": (
        c_int32, c_void_p, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, c_uint32, c_uint32,
        c_uint32, c_uint32, c_void_p,
    ),
    "freerdp_bitmap_planar_context_new": (c_void_p, c_uint32, c_uint32, c_uint32),
    "freerdp_bitmap_planar_context_free": (None, c_void_p),
    "planar_decompress": (
        c_int, c_void_p, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, c_uint32, c_uint32,
        c_uint32, c_uint32, c_int,
    ),
    "h264_context_new": (c_void_p, c_int),
    "h264_context_reset": (c_int, c_void_p, c_uint32, c_uint32),
    "h264_context_free": (None, c_void_p),
    "avc420_decompress": (
        c_int32, c_void_p, c_char_p, c_uint32, c_void_p, c_uint32, c_uint32, c_uint32, c_uint32, c_char_p, c_uint32,
    ),
    "avc444_decompress": (
        c_int32, c_void_p, c_ubyte, c_char_p, c_uint32, c_char_p, c_uint32, c_char_p, c_uint32, c_char_p, c_uint32,
        c_void_p, c_uint32, c_uint32, c_uint32, c_uint32, c_uint32,
    ),
    "region16_init": (None, c_void_p),
    "region16_uninit": (None, c_void_p),
    "region16_rects": (c_void_p, c_void_p, POINTER(c_uint32)),
}  # fmt: skip
_PROGRESSIVE: Final = (
    c_int32, c_void_p, c_char_p, c_uint32, c_void_p, c_uint32, c_uint32, c_uint32, c_uint32, c_void_p, c_uint16,
    c_uint32,
)  # fmt: skip


class _Library:
    """The functions that are used of it, with their signatures."""

    def __init__(self) -> None:
        path = freerdp()
        if path is None:
            raise FormatError(
                f"the recording has pictures that FreeRDP's library decodes: install {PACKAGES}"
            )
        os.environ["WLOG_LEVEL"] = "OFF"  # rule 4
        try:
            library = ctypes.CDLL(str(path))
            newer = path.name.startswith("libfreerdp3")
            name = "progressive_decompress" if newer else "progressive_decompress_ex"
            self.progressive = _typed(library, name, _PROGRESSIVE)
            self._functions = {each: _typed(library, each, kinds) for each, kinds in _SIGNATURES.items()}
            self.free = _typed(ctypes.CDLL(None), "free", (None, c_void_p))
        except (OSError, AttributeError):
            raise FormatError(f"FreeRDP's library at {path} can't be used: install {PACKAGES}") from None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._functions[name]


def _typed(library: ctypes.CDLL, name: str, kinds: tuple[Any, ...]) -> Callable[..., Any]:
    function = getattr(library, name)
    function.restype, function.argtypes = kinds[0], kinds[1:]
    return function  # type: ignore[no-any-return] # ctypes makes them by name


class Codecs:
    """The decoders of one session; raises FormatError without the library."""

    def __init__(self) -> None:
        self._library = library = _Library()
        self._zgfx = library.zgfx_context_new(0)
        self._rfx = library.rfx_context_new(0)
        library.rfx_context_set_pixel_format(self._rfx, _BGRX32)
        self._progressive = library.progressive_context_new(0)
        self._clear = library.clear_context_new(0)
        self._planar: dict[tuple[int, int], Any] = {}  # the one there is, by its size
        self._h264: dict[int, Any] = {}
        self._lost = False
        made = (self._zgfx, self._rfx, self._progressive, self._clear)
        weakref.finalize(self, _end, library, made, self._planar, self._h264)
        if not all(made):
            raise FormatError("FreeRDP's library can't be used: it has too little memory")

    def decompress(self, message: bytes) -> bytes:
        """Give what RDP_SEGMENTED_DATA holds, 2.2.5; raises WireError. After a fault nothing builds on anything."""
        if self._lost:
            raise WireError("graphics build on what could not be read")
        self._lost = True
        _check_segments(message)
        plain, size = c_void_p(), c_uint32()
        status = self._library.zgfx_decompress(
            self._zgfx, message, len(message), byref(plain), byref(size), 0
        )
        if status < 0 or not plain.value or size.value > MAX_PLAIN:
            raise WireError("compressed graphics can't be read")
        try:
            data = ctypes.string_at(plain.value, size.value)
        finally:
            self._library.free(plain)
        self._lost = False
        return data

    def reset(self, width: int, height: int) -> None:
        """Begin anew, as clients do at a Reset Graphics."""
        self._library.rfx_context_reset(self._rfx, aligned(width), aligned(height))
        self._library.progressive_context_reset(self._progressive)
        self._library.clear_context_reset(self._clear)

    def created(self, surface: Surface) -> None:
        """Make ready for a surface; raises WireError."""
        self.deleted(surface.number)
        status = self._library.progressive_create_surface_context(
            self._progressive, surface.number, surface.wide, surface.deep
        )
        if status < 0:
            raise WireError("a surface can't be made")

    def deleted(self, number: int) -> None:
        """Forget a surface."""
        self._library.progressive_delete_surface_context(self._progressive, number)
        context = self._h264.pop(number, None)
        if context is not None:
            self._library.h264_context_free(context)

    def paint(
        self, surface: Surface, codec: int, where: Rectangle, data: bytes, frame: int
    ) -> list[Rectangle]:
        """Decode a bitmap stream onto a surface; gives what was painted. Raises WireError."""
        match codec:
            case Codec.CAPROGRESSIVE | Codec.CAPROGRESSIVE_V2:
                return self._by_progressive(surface, data, frame)
            case _ if not surface.inside(where):
                raise WireError("a picture is not inside of its surface")
            case Codec.UNCOMPRESSED:
                _copy(surface, where, data)
            case Codec.ALPHA:
                return []  # 2.2.4.3: how much shows through, and there is nothing behind it
            case Codec.CAVIDEO:
                return self._by_rfx(surface, where, data)
            case Codec.CLEARCODEC:
                self._by_clear(surface, where, data)
            case Codec.PLANAR:
                self._by_planar(surface, where, data)
            case Codec.AVC420:
                return self._by_avc420(surface, data)
            case Codec.AVC444 | Codec.AVC444_V2:
                return self._by_avc444(surface, data, codec)
            case _:
                raise WireError("a picture is of a codec that is not known")
        return [where]

    # ------------------------------------------------------------------ codecs

    def _by_rfx(self, surface: Surface, where: Rectangle, data: bytes) -> list[Rectangle]:
        def decode(region: Any) -> bool:
            return bool(
                self._library.rfx_process_message(
                    self._rfx, data, len(data), where.left, where.top, _memory(surface), _BGRX32, surface.stride,
                    surface.deep, region,
                )
            )  # fmt: skip

        return self._in_regions(surface, decode)

    def _by_progressive(self, surface: Surface, data: bytes, frame: int) -> list[Rectangle]:
        def decode(region: Any) -> bool:
            status = self._library.progressive(
                self._progressive, data, len(data), _memory(surface), _BGRX32, surface.stride, 0, 0, region,
                surface.number, frame,
            )  # fmt: skip
            return int(status) >= 0

        return self._in_regions(surface, decode)

    def _in_regions(self, surface: Surface, decode: Callable[[Any], bool]) -> list[Rectangle]:
        """Let something be decoded that says itself where it has painted."""
        region, count = _Region(), c_uint32()
        self._library.region16_init(byref(region))
        try:
            if not decode(byref(region)):
                raise WireError("a picture can't be read")
            first = self._library.region16_rects(byref(region), byref(count))
            raw = ctypes.string_at(first, count.value * _RECTANGLE.size) if first and count.value else b""
        finally:
            self._library.region16_uninit(byref(region))
        return [_clipped(surface, Rectangle._make(each)) for each in _RECTANGLE.iter_unpack(raw)]

    def _by_clear(self, surface: Surface, where: Rectangle, data: bytes) -> None:
        status = self._library.clear_decompress(
            self._clear, data, len(data), where.right - where.left, where.bottom - where.top, _memory(surface),
            _BGRX32, surface.stride, where.left, where.top, surface.wide, surface.deep, None,
        )  # fmt: skip
        if status < 0:
            raise WireError("a picture can't be read")

    def _by_planar(self, surface: Surface, where: Rectangle, data: bytes) -> None:
        width, height = where.right - where.left, where.bottom - where.top
        ((wide, high), context) = next(iter(self._planar.items()), ((0, 0), None))
        if wide < width or high < height:
            self._planar.clear()
            self._library.freerdp_bitmap_planar_context_free(context)
            size = max(wide, width), max(high, height)
            self._planar[size] = context = self._library.freerdp_bitmap_planar_context_new(0, *size)
        if not context or not self._library.planar_decompress(
            context, data, len(data), width, height, _memory(surface), _BGRX32, surface.stride, where.left,
            where.top, width, height, 0,
        ):  # fmt: skip
            raise WireError("a picture can't be read")

    def _by_avc420(self, surface: Surface, data: bytes) -> list[Rectangle]:
        regions, raw, stream = _avc420(surface, data)
        status = self._library.avc420_decompress(
            self._h264_of(surface), stream, len(stream), _memory(surface), _BGRX32, surface.stride, surface.wide,
            surface.deep, raw, len(regions),
        )  # fmt: skip
        if status < 0:
            raise WireError("a picture can't be read")
        return regions

    def _by_avc444(self, surface: Surface, data: bytes, codec: int) -> list[Rectangle]:
        """Decode RDPGFX_AVC444_BITMAP_STREAM, 2.2.4.5: brightness and colour, or one of both."""
        reader = Reader(data, what="a picture")
        head = reader.u32()
        which = head >> 30
        size = head & _LENGTH
        first = reader.take(size) if which == _BOTH else reader.rest()
        regions, raw, stream = _avc420(surface, first)
        more, more_raw, more_stream = _avc420(surface, reader.rest()) if which == _BOTH else ([], b"", b"")
        if which > _CHROMA:
            raise WireError("a picture is of parts that are not known")
        status = self._library.avc444_decompress(
            self._h264_of(surface), which, raw, len(regions), stream, len(stream), more_raw, len(more), more_stream,
            len(more_stream), _memory(surface), _BGRX32, surface.stride, surface.wide, surface.deep, codec,
        )  # fmt: skip
        if status < 0:
            raise WireError("a picture can't be read")
        return [*regions, *more]

    def _h264_of(self, surface: Surface) -> Any:
        context = self._h264.get(surface.number)
        if context is None:
            context = self._library.h264_context_new(0)
            if not context:
                raise WireError("H.264 is a codec this FreeRDP was built without")
            self._h264[surface.number] = context
            self._library.h264_context_reset(context, surface.wide, surface.deep)
        return context


def _end(library: _Library, made: tuple[Any, ...], planar: dict[Any, Any], h264: dict[int, Any]) -> None:
    """Give back what the library made for a session."""
    kinds = ("zgfx_context_free", "rfx_context_free", "progressive_context_free", "clear_context_free")
    for kind, context in zip(kinds, made, strict=True):
        getattr(library, kind)(context)
    for context in planar.values():
        library.freerdp_bitmap_planar_context_free(context)
    for context in h264.values():
        library.h264_context_free(context)


def _check_segments(message: bytes) -> None:
    """Look at the sizes RDP_SEGMENTED_DATA says, 2.2.5, before anything is made of that size; raises WireError."""
    reader = Reader(message, what="compressed graphics")
    kind = reader.u8()
    if kind == MULTIPART:
        segments, size = reader.u16(), reader.u32()
        if size > min(MAX_PLAIN, segments * MAX_SEGMENT):
            raise WireError("compressed graphics are longer than they can be")
        for _ in range(segments):
            reader.skip(reader.u32())
    elif kind != SINGLE or not reader.left:
        raise WireError("compressed graphics can't be read")


def _memory(surface: Surface) -> Any:
    return (c_char * len(surface.data)).from_buffer(surface.data)


def _copy(surface: Surface, where: Rectangle, data: bytes) -> None:
    """Put pixels that are not compressed onto a surface; raises WireError."""
    size = (where.right - where.left) * PIXEL
    if len(data) < size * (where.bottom - where.top):
        raise WireError("a picture is cut short")
    at = where.top * surface.stride + where.left * PIXEL
    for start in range(0, size * (where.bottom - where.top), size):
        surface.data[at : at + size] = data[start : start + size]
        at += surface.stride


def _avc420(surface: Surface, data: bytes) -> tuple[list[Rectangle], bytes, bytes]:
    """Read RDPGFX_AVC420_BITMAP_STREAM, 2.2.4.4: where it paints, the same as bytes, and the H.264; raises WireError."""
    reader = Reader(data, what="a picture")
    count = reader.u32()
    if count > _MAX_RECTANGLES:
        raise WireError("a picture is of too many parts")
    raw = reader.take(count * _RECTANGLE.size)
    reader.skip(count * _QUALITY)
    regions = [Rectangle._make(each) for each in _RECTANGLE.iter_unpack(raw)]
    if not all(map(surface.inside, regions)):
        raise WireError("a picture is not inside of its surface")
    return regions, raw, reader.rest()


def _clipped(surface: Surface, one: Rectangle) -> Rectangle:
    return Rectangle(one.left, one.top, min(one.right, surface.wide), min(one.bottom, surface.deep))
