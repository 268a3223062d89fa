"""From a desktop session's records to the pictures of a film: one when something changed, the pointer drawn into it.

Rule 1: a picture shows all that had come by its time, and nothing that came later.
Rule 2: at most RATE pictures a second. What changes in between is in the next one, never left out.
Rule 3: a picture is valid until the next record goes in: its pixels are the decoder's own, not a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxyd.export.bursts import Bursts
from proxyd.export.shot import SETTLE_US, STEP_US, Caption, Shot, Sprite
from proxyd.index.area import Area
from proxyd.index.rdp.audio import Audio
from proxyd.index.rdp.frames import is_session
from proxyd.index.rdp.pointer import Shape
from proxyd.index.rdp.screen import Screen
from proxyd.index.sound import Sound
from proxyd.protocols.rdp import sound
from proxyd.recorder.record import Record

_ARROW: Final = (  # the client's own pointer, which no message holds: X black, O white
    "X           ", "XX          ", "XOX         ", "XOOX        ", "XOOOX       ", "XOOOOX      ", "XOOOOOX     ",
    "XOOOOOOX    ", "XOOOOOOOX   ", "XOOOOOOOOX  ", "XOOOOOOOOOX ", "XOOOOOOXXXXX", "XOOOXOOX    ", "XOOX XOOX   ",
    "XOX  XOOX   ", "XX    XOOX  ", "X     XOOX  ", "       XX   ",
)  # fmt: skip
_DYNAMIC: Final = "drdynvc"
_NOWHERE: Final = (0, 0)  # where it is before anybody said
_INK: Final = {" ": bytes(4), "X": b"\0\0\0\xff", "O": b"\xff\xff\xff\xff"}
ARROW: Final = Shape(
    len(_ARROW[0]), len(_ARROW), 0, 0, b"".join(_INK[mark] for line in _ARROW for mark in line)
)


class Desktop:
    """The desktop of one session as far as its records were fed."""

    least = (0, 0)

    def __init__(self) -> None:
        self.sound = False
        self._screen, self._audio, self._bursts = Screen(), Audio(), Bursts()
        self._dirty: list[Area] = []
        self._pointer: Sprite | None = None
        self._next_us = 0  # before that no picture is due
        self._due_us: int | None = None

    @property
    def faults(self) -> int:
        """How many frames, rectangles and pieces of sound could not be read."""
        return self._screen.faults + self._audio.faults

    def feed(self, record: Record) -> Iterator[Shot]:
        """Take the next record; gives the picture that was due before it (rule 3)."""
        yield from self.until(record.at_us)
        if is_session(record):
            self.sound = bool(set(record.body["channels"].values()) & {*sound.CHANNELS, _DYNAMIC})
        painted = self._screen.feed(record)
        self._dirty += painted
        if self._due_us is None and (painted or self._pointed() != self._pointer):
            self._due_us = max(record.at_us + SETTLE_US, self._next_us)

    def until(self, at_us: int) -> Iterator[Shot]:
        """Give the picture that is due before `at_us`."""
        if self._due_us is not None and self._due_us < at_us:
            yield from self._shot(self._due_us)

    def end(self, at_us: int) -> Iterator[Shot]:
        """Give the last picture, at the session's end."""
        yield from self.until(at_us)
        yield from self._shot(max(0, at_us - STEP_US))  # seen for as long as any other

    def heard(self, record: Record) -> list[Sound]:
        """Give what a record sounds like."""
        return list(self._audio.feed(record))

    def typed(self, record: Record) -> Iterator[Caption]:
        """Give what was typed, and over, before a record."""
        return self._bursts.feed(record)

    def typed_last(self) -> Iterator[Caption]:
        """Give what was typed last."""
        return self._bursts.end()

    def _shot(self, at_us: int) -> Iterator[Shot]:
        canvas = self._screen.canvas
        self._due_us = None
        if canvas is None:
            return
        pointer, dirty = self._pointed(), self._dirty
        self._dirty, self._pointer = [], pointer
        self._next_us = at_us + STEP_US
        yield Shot(at_us, canvas.width, canvas.height, canvas.pixels, dirty, pointer)

    def _pointed(self) -> Sprite | None:
        pointer = self._screen.pointer
        if not pointer.visible or (pointer.x, pointer.y) == _NOWHERE:
            return None
        shape = pointer.shape or ARROW
        return Sprite(pointer.x - shape.hot_x, pointer.y - shape.hot_y, shape)
