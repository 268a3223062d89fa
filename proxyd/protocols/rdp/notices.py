"""What proxyd itself draws over a desktop: when it may be drawn, and for how long it stands.

Rule 1: nothing is drawn before the client takes output, nor between the fragments of an update of the target's: clients
        end a session for that. What must wait is drawn with the next frame after which it may be.
Rule 2: what the target paints over a notice that still stands, and what a change of size takes away, is drawn again.
Rule 3: no clock and no stream; the bytes to send are given back.
Rule 4: where the target paints by the graphics pipeline, a notice comes and goes by it too, between two frames; where that
        can't be, as its stream is compressed, it is a bitmap update and goes when the target paints there.

MS-RDPBCGR 2.2.9.1.2.1 (fragmentation), 1.3.1.3 (deactivation and reactivation); MS-RDPEGFX.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from proxyd.gate import REVOKED
from proxyd.protocols.rdp import wire
from proxyd.protocols.rdp.banner import Banner, draw
from proxyd.protocols.rdp.fastpath import Fragment, parse_output
from proxyd.protocols.rdp.pipeline import Place, Watch
from proxyd.protocols.rdp.share import Rectangle
from proxyd.protocols.rdp.wire import WireError

if TYPE_CHECKING:
    from proxyd.protocols.rdp.crossing import Desk

SHOWN_S: Final = 5.0  # a short notice stands so long; a reader at work looks up within it
READ_PER_S: Final = 15.0  # characters a second are read without haste
_OPEN: Final = frozenset({Fragment.FIRST, Fragment.NEXT})  # more of the update follows


def standing_s(text: str) -> float:
    """Give for how many seconds a notice stands; infinite: until another takes its place."""
    return math.inf if text == REVOKED else max(SHOWN_S, len(text) / READ_PER_S)


class Notices:
    """The one notice that stands, if any."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._text = ""
        self._banner: Banner | None = None  # as drawn last
        self._size = (0, 0)  # of the desktop it was drawn for
        self._last = b""  # fast-path frame of the target
        self._covered = False
        self._bared: list[Place] = []  # that the pipeline is to paint again
        self.due = False  # it is to be drawn as soon as it may be

    def put(self, text: str) -> list[Rectangle]:
        """Let a notice stand from now on; gives what the one before it covered, which is to be painted again."""
        bared = self.take_away()
        self._text, self.due = text, True
        return bared

    def take_away(self) -> list[Rectangle]:
        """Let none stand any more; gives what it covered."""
        before, self._banner = self._banner, None
        self._text, self.due, self._covered = "", False, False
        if before is None or not self._desk.active or self._size != (self._desk.width, self._desk.height):
            return []
        if self._pipeline:
            self._bared.append(_place(before))
            return []
        right, bottom = before.left + before.width - 1, before.top + before.height - 1
        return [Rectangle(before.left, before.top, right, bottom)]

    def passed(self, frame: bytes) -> None:
        """Learn what the client got from the target."""
        if wire.is_fast_path(frame):
            self._last = frame
        self._covered = True
        wiped = self._pipeline is not None and self._pipeline.wiped
        if self._text and (wiped or not self._desk.active):
            self.due = True  # rule 2

    def again(self) -> None:
        """Have it drawn once more, if something was painted since."""
        if self._text and self._covered and self._pipeline is None:  # which sees to it with every frame
            self.due = True

    def frames(self) -> bytes:
        """Give what draws the notice that is due; nothing when none is, or when it may not be drawn now (rule 1)."""
        pipeline = self._pipeline
        if not self._desk.active or (pipeline is not None and not pipeline.ready):
            return b""
        bared, self._bared = self._bared, []
        drawn = b""
        if pipeline is not None:
            drawn = b"".join(map(pipeline.hidden, bared))
            drawn += pipeline.raised() if pipeline.covered and not self.due else b""
        if not self.due or self._inside():
            return drawn
        size = (self._desk.width, self._desk.height)
        if self._banner is None or size != self._size:
            self._banner, self._size = draw(self._text, *size), size
        self.due = self._covered = False
        if pipeline is not None:
            return drawn + pipeline.shown(_place(self._banner), self._banner.pixels)
        return b"".join(self._banner.frames)

    @property
    def waits(self) -> bool:
        """Whether something is to be drawn, or to go, as soon as that may be."""
        covered = self._pipeline is not None and self._pipeline.covered
        return self.due or covered or bool(self._bared)

    @property
    def _pipeline(self) -> Watch | None:
        """The graphics channel, where notices are shown on it (rule 4)."""
        watch = self._desk.watch
        return watch if watch is not None and watch.drawn_on else None

    def _inside(self) -> bool:
        """Tell whether the client waits for the rest of an update, as far as anybody can who reads what it was sent."""
        if not self._last:
            return False
        try:
            found = parse_output(self._last)
        except WireError:  # the fast path is passed unread: a notice is no place to learn that it is broken
            return True
        return bool(found) and found[-1].fragment in _OPEN


def _place(banner: Banner) -> Place:
    return Place(banner.left, banner.top, banner.width, banner.height)
