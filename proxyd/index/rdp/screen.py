"""From a session's records to what its screen showed.

Rule 1: records go in once each, in order, from the first: compression and fragments build on what came before.
Rule 2: nothing a target sends raises: what cannot be read is counted in `faults` and left unpainted.
Rule 3: one update paints at most twice the desktop: a few bytes of runs are no way to keep the reader busy for minutes.
Rule 4: a screen can be left and gone on with: its picture and what `saved` gives are all that the next records need. With
        the graphics pipeline or surface commands it can't: nobody can take their codecs along.
Rule 5: memory is the desktop, one update in fragments, a history of 64 KiB and the pointers a cache may have; with the
        graphics pipeline its surfaces and cache (`gfx`), and one message of it.
Rule 6: the last that was painted shows, by whichever way it came: so clients do it.
Rule 7: who only looks now and then may have bitmaps decoded then (`held`), and is shown the same.

MS-RDPBCGR 2.2.9.1.1.3 (slow-path updates), 2.2.9.1.2 (fast-path), 2.2.1.13.1 (Demand Active: a desktop, or a new size).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from proxyd.errors import FormatError
from proxyd.index.area import Area
from proxyd.index.rdp import frames
from proxyd.index.rdp.canvas import Canvas, Picture
from proxyd.index.rdp.frames import Bitmaps, Graphics, Opened
from proxyd.index.rdp.gfx import Painted, Pipeline
from proxyd.index.rdp.held import Held, area_of, pixels
from proxyd.index.rdp.pointer import Pointer
from proxyd.index.rdp.surfaces import Surfaces
from proxyd.protocols.rdp.capabilities import Desktop
from proxyd.protocols.rdp.events import Mouse
from proxyd.protocols.rdp.updates import Bitmap, PointerUpdate, SurfaceBits
from proxyd.protocols.rdp.wire import WireError
from proxyd.recorder.record import Kind, Record

_DESKTOPS_PER_UPDATE: Final = (
    2  # servers repaint the screen once at most; tiles at its edges are larger than it
)
_TILE_BEYOND: Final = 64  # pixels a tile may be wider or higher than the desktop: servers pad to 4, 16 or 64


class Screen:
    """The screen of one session as far as its records were fed."""

    def __init__(self, *, lazily: bool = False) -> None:
        """Make one; `lazily`: bitmaps are decoded when somebody looks (rule 7)."""
        self.pointer = Pointer()
        self.missing = ""  # what must be installed to see all of it
        self._canvas: Canvas | None = None
        self._held = Held() if lazily else None
        self._inputs, self._outputs = frames.Inputs(), frames.Outputs()
        self._faults = 0
        self._pipeline: Pipeline | None = None
        self._surfaces: Surfaces | None = None  # once there were surface commands on a desktop of this size

    @property
    def faults(self) -> int:
        """How many frames and rectangles could not be read."""
        drawn = self._pipeline.faults if self._pipeline else 0
        return self._faults + drawn + self._inputs.faults + self._outputs.faults

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the desktop; (0, 0) before there is one."""
        return (self._canvas.width, self._canvas.height) if self._canvas else (0, 0)

    def feed(self, record: Record) -> list[Area]:
        """Take the next record; gives what it painted, all of the desktop when its size changed."""
        if frames.is_session(record):
            self._inputs.io = self._outputs.io = record.body["io"]
            self._outputs.dynamic = frames.dynamic_channel(record)
            return self._resize(record.body["width"], record.body["height"])
        if record.kind is Kind.PDU:
            return self._show(record.body)
        if record.kind is Kind.INPUT_PDU:
            self._follow(record.body)
        return []

    @property
    def canvas(self) -> Canvas | None:
        """The desktop itself, for who looks at it often; None before there is one. It is another after a new size."""
        return self._settled()

    def picture(self) -> Picture | None:
        """Give what it shows now, without the pointer; None before there is a desktop."""
        canvas = self._settled()
        return canvas.picture() if canvas else None

    def part(self, area: Area) -> bytes:
        """Give a rectangle of what it shows now: red, green, blue of each pixel, the top row first."""
        canvas = self._settled()
        return canvas.part(area) if canvas else b""

    def saved(self) -> dict[str, Any] | None:
        """Give what `resumed` needs beside the picture; None where there is nothing to go on with (rule 4)."""
        return self._outputs.saved() if self._canvas else None

    @classmethod
    def resumed(cls, picture: Picture, saved: dict[str, Any], *, lazily: bool = False) -> Screen:
        """Make a screen that goes on where another stood; pointers are not known on it. Raises WireError."""
        screen = cls(lazily=lazily)
        screen.pointer = Pointer(midway=True)
        screen._canvas = Canvas(picture.width, picture.height)
        screen._canvas.show(picture)
        screen._outputs = frames.Outputs.resumed(saved)
        screen._inputs.io = screen._outputs.io
        return screen

    def _settled(self) -> Canvas | None:
        """Paint what was held back."""
        if self._held is not None and self._canvas:
            self._faults += self._held.paint(self._canvas)
        return self._canvas

    def _show(self, body: bytes) -> list[Area]:
        painted: list[Area] = []
        for event in self._outputs.feed(body):
            match event:
                case Desktop(width=width, height=height):
                    painted += self._resize(width, height)
                case Bitmaps(tiles):
                    painted += self._paint(tiles)
                case frames.Surfaces(bits):
                    painted += self._spread(bits)
                case Opened():
                    self._open()
                case Graphics(message):
                    painted += self._draw(message)
                case _:
                    self._point(event)
        return painted

    def _open(self) -> None:
        if self._pipeline is not None:
            self._faults += self._pipeline.faults
        try:
            self._pipeline = Pipeline()
        except FormatError as error:
            self._pipeline, self.missing = None, str(error)

    def _draw(self, message: bytes) -> list[Area]:
        """Let the pipeline draw (rule 6)."""
        painted: list[Area] = []
        if self._pipeline is None:
            self._faults += 1
            return painted
        for event in self._pipeline.feed(message):
            if isinstance(event, Desktop):
                painted += self._resize(event.width, event.height)
            else:
                painted += self._put(event)
        return painted

    def _spread(self, bits: Iterable[SurfaceBits]) -> list[Area]:
        """Let surface commands draw (rules 3 and 6)."""
        painted: list[Area] = []
        try:
            self._surfaces = self._surfaces or Surfaces(*self.size)
        except FormatError as error:
            self.missing = str(error)
        except WireError:
            self._faults += 1
        left = self.size[0] * self.size[1] * _DESKTOPS_PER_UPDATE
        for one in bits:
            left -= max(0, one.right - one.left) * max(0, one.bottom - one.top)
            if left < 0 or self._surfaces is None:
                self._faults += 1
                break
            try:
                for part in self._surfaces.paint(one):
                    painted += self._put(part)
            except WireError:
                self._faults += 1
        return painted

    def _put(self, part: Painted) -> list[Area]:
        left, top, width, height, painted = part
        canvas = self._settled()  # what came before is below it
        area = canvas.paint(Area(left, top, width, height), painted, width) if canvas else None
        return [area] if area else []

    def _follow(self, body: bytes) -> None:
        """Follow the mouse: while the user moves it the target says nothing of it."""
        for event in self._inputs.feed(body):
            if isinstance(event, Mouse):
                self.pointer.move(event.x, event.y)

    def _point(self, update: PointerUpdate) -> None:
        try:
            self.pointer.take(update)
        except WireError:
            self._faults += 1

    def _resize(self, width: int, height: int) -> list[Area]:
        if self._canvas and (self._canvas.width, self._canvas.height) == (width, height):
            return []  # activated again as it was: clients leave the picture as it is
        try:
            self._canvas, self._surfaces = Canvas(width, height), None
            self._held = None if self._held is None else Held()
        except WireError:
            self._faults += 1
            return []
        return [Area(0, 0, width, height)]

    def _paint(self, tiles: Iterable[Bitmap]) -> list[Area]:
        canvas = self._canvas
        if canvas is None:
            self._faults += 1
            return []
        left = canvas.width * canvas.height * _DESKTOPS_PER_UPDATE
        painted: list[Area] = []
        for tile in tiles:
            left -= tile.width * tile.height
            if left < 0:
                self._faults += 1
                break
            try:
                area = self._tile(canvas, tile)
            except WireError:
                self._faults += 1
                continue
            if area:
                painted.append(area)
        return painted

    def _tile(self, canvas: Canvas, tile: Bitmap) -> Area | None:
        """Paint one, or hold it back; raises WireError."""
        if tile.width > canvas.width + _TILE_BEYOND or tile.height > canvas.height + _TILE_BEYOND:
            raise WireError("a bitmap is larger than the desktop")
        if self._held is None:
            return canvas.paint(area_of(tile), pixels(tile), tile.width)
        self._held.add(tile)
        if self._held.full:
            self._settled()
        return canvas.has(area_of(tile), tile.width, tile.height)


def screen(records: Iterable[Record], at_us: int) -> Picture:
    """Draw the screen as it was `at_us` microseconds into the session; raises FormatError when there was none yet."""
    shown = Screen()
    for record in records:
        if record.at_us > at_us:
            break
        shown.feed(record)
    picture = shown.picture()
    if picture is None:
        raise FormatError("the recording shows no screen up to then")
    return picture
