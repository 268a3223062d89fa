"""What was typed at a desktop as captions: one for each burst of keys.

A caption is given when its burst is over, so a player meets it in the file at most BURST_US after its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxyd.characters import visible
from proxyd.export.shot import SHOWN_US, Caption
from proxyd.index.rdp.keys import Keys, Keystroke
from proxyd.index.rdp.typed import lines
from proxyd.recorder.record import Record

BURST_US: Final = 1_500_000  # what is typed within that is read at once
REFUSED: Final = "(blocked) "


class Bursts:
    """Reads what was typed as captions; `feed` it the session's records in their order."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._burst: list[Keystroke] = []

    @property
    def faults(self) -> int:
        """How many messages of the client could not be read."""
        return self._keys.faults

    def feed(self, record: Record) -> Iterator[Caption]:
        """Take the next record; gives the caption that was over before it."""
        if self._burst and record.at_us - self._burst[0].at_us >= BURST_US:
            yield from self.end()
        self._burst += self._keys.feed(record)

    def end(self) -> Iterator[Caption]:
        """Give what was typed last."""
        typed, self._burst = self._burst, []
        text = " ".join(f"{REFUSED if line.refused else ''}{line.text}" for line in lines(typed))
        if text:
            yield Caption(typed[0].at_us, typed[-1].at_us + SHOWN_US, visible(text))
