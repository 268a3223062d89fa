"""A recorded desktop as somebody looks at it: what it shows and plays, and nothing that is kept.

Rule 1: what is covered before anybody looks is not decoded, so the way to a moment is short.
Rule 2: it begins with the session, or goes on behind a keyframe; a sound that was under way there is left out.
"""

from __future__ import annotations

from proxyd.index.area import Area
from proxyd.index.rdp.audio import Audio
from proxyd.index.rdp.derived import resumed
from proxyd.index.rdp.screen import Screen
from proxyd.indexing.frames import HEARD
from proxyd.recorder.record import Record
from proxyd.recorder.sidecar import Item, Keyframe


class Session:
    """One desktop; `screen` is what it shows now."""

    def __init__(self, keyframe: Keyframe | None = None) -> None:
        """Begin, or go on behind a keyframe; raises FormatError, WireError."""
        begun = (Screen(lazily=True), Audio())
        self.screen, self._audio = resumed(keyframe, lazily=True) if keyframe else begun
        self.seq = self.at_us = 0

    @property
    def faults(self) -> int:
        """How much could not be read."""
        return self.screen.faults + self._audio.faults

    def feed(self, record: Record) -> tuple[list[Item], list[Area]]:
        """Take the next record; gives the sound in it, and what it painted."""
        self.seq, self.at_us = record.seq, record.at_us
        heard = [
            Item(HEARD, piece.at_us, [piece.rate, piece.channels, piece.bits, piece.data])
            for piece in self._audio.feed(record)
        ]
        return heard, self.screen.feed(record)

    def finish(self) -> list[Item]:
        """Give what is left: nothing."""
        return []
