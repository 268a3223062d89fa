"""The graphics pipeline: from its messages to what the screen shows.

Rule 1: whatever a target sends, what cannot be read is counted in `faults` and left unpainted; nothing raises.
Rule 2: sizes are looked at before anything is made of that size: surfaces, how many there are, the cache, and how much one
        message may paint.
Rule 3: what has been painted shows when a frame ends, as at clients; outside of frames at once.

MS-RDPEGFX 2.2.2 (messages), 3.3.5 (how a client processes them); decoded by `gfx_codecs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from proxyd.index.rdp.bitmap import MAX_PIXELS, check_size
from proxyd.index.rdp.gfx_codecs import PIXEL, Codecs, Rectangle, Surface, aligned
from proxyd.protocols.rdp import graphics
from proxyd.protocols.rdp.capabilities import DEPTH_32, Desktop
from proxyd.protocols.rdp.graphics import Command, Pdu
from proxyd.protocols.rdp.wire import Reader, WireError

MAX_SURFACES: Final = 256  # at once; Windows has one for each monitor and a few more
CACHE_BYTES: Final = 100 << 20  # 3.3.1.4: the bitmap cache of a client
CACHE_SLOTS: Final = 25_600
WORK: Final = 32  # desktops that one message may paint: scrolling copies much of one several times
_MOST_DIRTY: Final = 256  # rectangles of one frame; more are shown as the one around them
_IGNORED: Final = frozenset(
    {
        Command.CAPSCONFIRM,
        Command.CACHEIMPORTREPLY,
        Command.DELETEENCODINGCONTEXT,  # FreeRDP keeps them as well: the next stream begins with its own
    }
)


class Painted(NamedTuple):
    """A part of the desktop as it is now: rows of blue, green, red and nothing, the top one first."""

    left: int
    top: int
    width: int
    height: int
    pixels: bytes


class _Entry(NamedTuple):
    """A picture in the cache."""

    width: int
    height: int
    pixels: bytes


@dataclass
class _Shown:
    """A surface: where the desktop shows it, None while it does not, and what of it was painted since it last did."""

    surface: Surface
    at: tuple[int, int] | None = None
    dirty: list[Rectangle] = field(default_factory=list)


class Pipeline:
    """One graphics channel from its opening on. Raises FormatError when nothing can decode it."""

    def __init__(self) -> None:
        self.faults = 0
        self._codecs = Codecs()
        self._surfaces: dict[int, _Shown] = {}
        self._cache: dict[int, _Entry] = {}
        self._cached = 0  # bytes
        self._frame = 0
        self._drawing = False
        self._work = 0  # pixels this message may still paint
        self._desktop = MAX_PIXELS
        self._does: dict[int, Callable[[Reader], None]] = {
            Command.WIRETOSURFACE_1: self._wire,
            Command.WIRETOSURFACE_2: self._wire_progressive,
            Command.SOLIDFILL: self._fill,
            Command.SURFACETOSURFACE: self._copy,
            Command.SURFACETOCACHE: self._keep,
            Command.CACHETOSURFACE: self._bring,
            Command.EVICTCACHEENTRY: self._evict,
            Command.CREATESURFACE: self._create,
            Command.DELETESURFACE: self._delete,
            Command.STARTFRAME: self._start,
            Command.ENDFRAME: self._end,
            Command.MAPSURFACETOOUTPUT: self._map,
            Command.MAPSURFACETOSCALEDOUTPUT: self._map_scaled,
        }

    def feed(self, message: bytes) -> Iterator[Desktop | Painted]:
        """Take a message; yields the desktop's new size and what it shows of it."""
        self._work = self._desktop * WORK
        try:
            for pdu in graphics.split(self._codecs.decompress(message)):
                yield from self._take(pdu)
        except WireError:
            self.faults += 1
        if not self._drawing:
            yield from self._show()

    def _take(self, pdu: Pdu) -> Iterator[Desktop | Painted]:
        try:
            reader = Reader(pdu.body, what="a message of the graphics pipeline")
            if pdu.command == Command.RESETGRAPHICS:
                yield self._reset(reader)
            elif pdu.command in self._does:
                self._does[pdu.command](reader)
            else:
                self.faults += pdu.command not in _IGNORED
        except WireError:
            self.faults += 1
        if pdu.command == Command.ENDFRAME:
            yield from self._show()

    # ------------------------------------------------------------------ the desktop and its surfaces

    def _reset(self, reader: Reader) -> Desktop:
        width, height = reader.u32(), reader.u32()
        check_size(width, height)
        self._desktop = width * height
        self._codecs.reset(width, height)
        for one in self._surfaces.values():
            one.dirty.clear()
        return Desktop(width, height, DEPTH_32)

    def _create(self, reader: Reader) -> None:
        number, width, height = reader.u16(), reader.u16(), reader.u16()
        check_size(width, height)
        self._forget(number)
        held = sum(one.surface.wide * one.surface.deep for one in self._surfaces.values())
        if len(self._surfaces) == MAX_SURFACES or held + aligned(width) * aligned(height) > 2 * MAX_PIXELS:
            raise WireError("too many surfaces")
        surface = Surface(number, width, height)
        self._codecs.created(surface)
        self._surfaces[number] = _Shown(surface)

    def _delete(self, reader: Reader) -> None:
        self._forget(reader.u16())

    def _forget(self, number: int) -> None:
        if self._surfaces.pop(number, None) is not None:
            self._codecs.deleted(number)

    def _map(self, reader: Reader) -> None:
        one = self._find(reader.u16())
        reader.u16()
        one.at = reader.u32(), reader.u32()
        one.dirty.clear()

    def _map_scaled(self, reader: Reader) -> None:
        """Show a surface in its own size; another was not agreed on."""
        number, _, left, top = reader.u16(), reader.u16(), reader.u32(), reader.u32()
        one = self._find(number)
        one.at = left, top
        one.dirty.clear()
        if (reader.u32(), reader.u32()) != (one.surface.width, one.surface.height):
            raise WireError("a surface is scaled, which was not agreed on")

    def _find(self, number: int) -> _Shown:
        if number not in self._surfaces:
            raise WireError("a surface is not there")
        return self._surfaces[number]

    def _start(self, reader: Reader) -> None:
        reader.u32()  # timestamp
        self._frame = reader.u32()
        self._drawing = True

    def _end(self, reader: Reader) -> None:
        self._drawing = False
        reader.u32()  # frameId

    def _show(self) -> Iterator[Painted]:
        for one in self._surfaces.values():
            dirty, one.dirty = one.dirty, []
            if one.at is None:
                continue
            for each in dirty if len(dirty) <= _MOST_DIRTY else [_around(dirty)]:
                if part := one.surface.shown(each):
                    size = part.right - part.left, part.bottom - part.top
                    at = one.at[0] + part.left, one.at[1] + part.top
                    yield Painted(*at, *size, one.surface.cut(part))

    # ------------------------------------------------------------------ painting

    def _spend(self, pixels: int) -> None:
        self._work -= pixels
        if self._work < 0:
            raise WireError("a message paints too much")

    def _wire(self, reader: Reader) -> None:
        one, codec, _ = self._find(reader.u16()), reader.u16(), reader.u8()
        where = _rectangle(reader)
        data = reader.take(reader.u32())
        self._spend(max(0, where.right - where.left) * max(0, where.bottom - where.top))
        one.dirty += self._codecs.paint(one.surface, codec, where, data, self._frame)

    def _wire_progressive(self, reader: Reader) -> None:
        one, codec = self._find(reader.u16()), reader.u16()
        reader.u32()  # codecContextId
        reader.u8()  # pixelFormat
        data = reader.take(reader.u32())
        self._spend(one.surface.width * one.surface.height)
        one.dirty += self._codecs.paint(one.surface, codec, Rectangle(0, 0, 0, 0), data, self._frame)

    def _fill(self, reader: Reader) -> None:
        one, pixel = self._find(reader.u16()), reader.take(PIXEL)
        for _ in range(reader.u16()):
            where = _rectangle(reader)
            right, bottom = min(where.right, one.surface.wide), min(where.bottom, one.surface.deep)
            if where.left >= right or where.top >= bottom:
                raise WireError("a rectangle is not inside of its surface")
            width, height = right - where.left, bottom - where.top
            self._spend(width * height)
            self._put(one, where.left, where.top, _Entry(width, height, pixel * (width * height)))

    def _copy(self, reader: Reader) -> None:
        source, one = self._find(reader.u16()), self._find(reader.u16())
        entry = _taken(source.surface, _rectangle(reader))
        self._put_all(one, entry, reader)

    def _keep(self, reader: Reader) -> None:
        source = self._find(reader.u16())
        reader.skip(8)  # cacheKey
        slot = reader.u16()
        where = _rectangle(reader)
        self._drop(slot)
        size = max(0, where.right - where.left) * max(0, where.bottom - where.top) * PIXEL
        if len(self._cache) == CACHE_SLOTS or self._cached + size > CACHE_BYTES:
            raise WireError("the cache is full")
        entry = _taken(source.surface, where)
        self._spend(entry.width * entry.height)
        self._cache[slot] = entry
        self._cached += len(entry.pixels)

    def _bring(self, reader: Reader) -> None:
        entry, one = self._cache.get(reader.u16()), self._find(reader.u16())
        if entry is None:
            raise WireError("the cache has no such picture")
        self._put_all(one, entry, reader)

    def _evict(self, reader: Reader) -> None:
        self._drop(reader.u16())

    def _drop(self, slot: int) -> None:
        entry = self._cache.pop(slot, None)
        self._cached -= len(entry.pixels) if entry else 0

    def _put_all(self, one: _Shown, entry: _Entry, reader: Reader) -> None:
        """Put a picture to every point of a list, RDPGFX_POINT16 2.2.1.1."""
        for _ in range(reader.u16()):
            self._spend(entry.width * entry.height)
            self._put(one, reader.u16(), reader.u16(), entry)

    def _put(self, one: _Shown, left: int, top: int, entry: _Entry) -> None:
        where = Rectangle(left, top, left + entry.width, top + entry.height)
        surface = one.surface
        if not surface.inside(where):
            raise WireError("a picture is not inside of its surface")
        row, at = entry.width * PIXEL, top * surface.stride + left * PIXEL
        for start in range(0, len(entry.pixels), row):
            surface.data[at : at + row] = entry.pixels[start : start + row]
            at += surface.stride
        one.dirty.append(where)


def _rectangle(reader: Reader) -> Rectangle:
    return Rectangle(reader.u16(), reader.u16(), reader.u16(), reader.u16())


def _taken(surface: Surface, where: Rectangle) -> _Entry:
    if not surface.inside(where):
        raise WireError("a rectangle is not inside of its surface")
    return _Entry(where.right - where.left, where.bottom - where.top, surface.cut(where))


def _around(rectangles: Iterable[Rectangle]) -> Rectangle:
    """Give the rectangle around all of them."""
    lefts, tops, rights, bottoms = zip(*rectangles, strict=True)
    return Rectangle(min(lefts), min(tops), max(rights), max(bottoms))
