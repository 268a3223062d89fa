"""From a terminal session's records to the pictures of a film: one when something changed, at most RATE a second.

Rule 1: a picture shows all that had come by its time, and nothing that came later; what changes in between is in the next.
Rule 2: letters are as large as fits a film of WIDTH x HEIGHT; a terminal that changes its size gets other letters, the film
        stays. Only one with more cells than that has pixels makes it larger.
Rule 3: captions are the lines the command log reads off the screen: what had no echo is not in them.
Rule 4: a picture is valid until the next record goes in: its pixels are this module's own, painted over by the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxyd.characters import UNSEEN, visible
from proxyd.export.shot import PIXEL, SETTLE_US, SHOWN_US, Caption, Shot
from proxyd.index.area import Area
from proxyd.index.sound import Sound
from proxyd.index.terminal.commands import Commands
from proxyd.index.terminal.painting import Sheet, fitting
from proxyd.index.terminal.screen import ScreenModel
from proxyd.index.terminal.terminals import Terminals
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item

WIDTH, HEIGHT = 1280, 720
RATE: Final = 10  # pictures a second: nobody reads faster, and each costs an encoder a frame
STEP_US: Final = 1_000_000 // RATE
_SHOWS: Final = frozenset(
    {Kind.OUTPUT, Kind.ERROR_OUTPUT, Kind.NOTICE, Kind.RESIZE, Kind.REQUEST, Kind.CHANNEL}
)


class Terminal:
    """A session's terminal as far as its records were fed: that of `channel`, else the one the session has.

    `keys`: with captions.
    """

    least = (WIDTH, HEIGHT)
    sound = False

    def __init__(self, channel: int | None = None, *, keys: bool = False) -> None:
        self._terminals = Terminals()
        self._commands = Commands() if keys else None
        self._items: list[Item] = []  # read since captions were last asked for
        self._channel = channel
        self._screen: ScreenModel | None = None  # the one that is painted
        self._size = (0, 0)
        self._sheet = Sheet(1, 1)
        self._pixels = bytearray()
        self._next_us = 0  # before that no picture is due
        self._due_us: int | None = None

    @property
    def faults(self) -> int:
        """How many pieces of output could not be shown."""
        return self._terminals.faults

    def feed(self, record: Record) -> Iterator[Shot]:
        """Take the next record; gives the picture that was due before it (rule 4)."""
        if self._due_us is not None and self._due_us < record.at_us:
            yield from self._shot(self._due_us)
        self._show(record)
        if self._due_us is None and record.kind in _SHOWS:
            self._due_us = max(record.at_us + SETTLE_US, self._next_us)

    def end(self, at_us: int) -> Iterator[Shot]:
        """Give the last picture, at the session's end."""
        if self._commands is not None:
            self._items += self._commands.end(at_us)
        if self._due_us is not None:
            yield from self._shot(max(0, min(self._due_us, at_us - STEP_US)))

    def heard(self, _record: Record) -> list[Sound]:
        """Terminals make no sound."""
        return []

    def typed(self, _record: Record) -> Iterator[Caption]:
        """Give the lines that were entered by now."""
        return self.typed_last()

    def typed_last(self) -> Iterator[Caption]:
        """Give the lines that were entered and not yet given."""
        items, self._items = self._items, []
        for item in items:
            if item.kind == Derived.TYPED and self._channel in (None, item.body[2]):
                yield Caption(item.at_us, item.at_us + SHOWN_US, visible(item.body[1]) or UNSEEN)

    def _show(self, record: Record) -> None:
        """Take a record to the screen, and read what was entered off it."""
        if self._commands is None:
            self._terminals.feed(record)
            return
        self._items += self._commands.feed(record, self._terminals.screens.get(record.channel))
        if fed := self._terminals.take(record):
            for piece in self._commands.pieces(fed, record.at_us, self._items):
                fed.screen.feed(piece)

    def _shot(self, at_us: int) -> Iterator[Shot]:
        self._due_us = None
        screen = self._terminals.screen(self._channel)
        if screen is None:
            return
        painted = self._painted(screen)
        if not painted:
            return
        self._next_us = at_us + STEP_US
        width, height = self._sheet.image.size
        for area in painted:
            self._copy(area, width)
        yield Shot(at_us, width, height, memoryview(self._pixels), painted)

    def _painted(self, screen: ScreenModel) -> list[Area]:
        """Paint what changed; gives where that is."""
        size, changed = screen.size, screen.changed()
        whole = screen is not self._screen or size != self._size
        if whole:
            self._screen, self._size = screen, size
            self._sheet = Sheet(*size, fitting(*size, WIDTH, HEIGHT))
            self._pixels = bytearray(self._sheet.image.width * self._sheet.image.height * PIXEL)
        rows = screen.rows(None if whole else changed)
        return _joined(self._sheet.paint(rows, screen.cursor, screen.palette, *screen.colours()))

    def _copy(self, area: Area, width: int) -> None:
        """Take what was painted, rows of the whole width, over into the picture."""
        part = self._sheet.image.crop((0, area.top, width, area.top + area.height))
        start = area.top * width * PIXEL
        self._pixels[start : start + area.height * width * PIXEL] = part.tobytes("raw", "BGRX")


def _joined(rows: list[Area]) -> list[Area]:
    """Join neighbouring rows."""
    joined: list[Area] = []
    for row in rows:
        last = joined[-1] if joined else None
        if last and last.top + last.height == row.top:
            joined[-1] = last._replace(height=last.height + row.height)
        else:
            joined.append(row)
    return joined
