"""Everything that is derived of one terminal session, record by record.

Rule 1: what comes out depends on the records alone, not on when or in what pieces they came: made anew it is equal.
Rule 2: a keyframe comes after SPACING bytes of output, or LONGEST_US, whichever is first, and at the end: so much of a
        recording is read at most to show any moment.
Rule 3: a keyframe holds all terminals of the session; it waits for the end of a sequence that is too long to be left.
"""

from __future__ import annotations

from typing import Final

from proxyd.cuts import Cuts
from proxyd.index.area import Area
from proxyd.index.heat import Heat
from proxyd.index.terminal.commands import Commands
from proxyd.index.terminal.terminals import Terminals
from proxyd.index.terminal.text import Text
from proxyd.index.told import logged, told
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item, Keyframe, packed

SPACING: Final = 256 << 10  # bytes: a few milliseconds of the slowest output there is
LONGEST_US: Final = 300_000_000  # half a segment of an idle session: at most one file more is read


class Session:
    """One terminal session; `terminals` are as they are now."""

    def __init__(self, keyframe: Keyframe | None = None) -> None:
        """Begin; or go on behind a keyframe, for who only looks: then nothing is derived. Raises FormatError."""
        self.terminals = Terminals.resumed(keyframe.state()) if keyframe else Terminals()
        self.seq = self.at_us = 0
        self._only_shows = keyframe is not None
        self._heat, self._text, self._commands, self._cuts = Heat(), Text(), Commands(), Cuts()
        self._keyframe_us = self._bytes = 0

    @property
    def faults(self) -> int:
        """How much could not be shown."""
        return self.terminals.faults

    def feed(self, record: Record) -> tuple[list[Item], list[Area]]:
        """Take the next record; gives what was derived, and no rectangle of a desktop."""
        self.seq, self.at_us = record.seq, record.at_us
        if self._only_shows:
            self.terminals.feed(record)
            return [], []
        items = self._heat.feed(record) + told(record) + logged(record)
        if cut := self._cuts.feed(record):
            items.append(cut.item())
        if record.kind is Kind.CHANNEL and record.body.get("event") == "close":
            items += self._closed(record.channel)
        items += self._commands.feed(record, self.terminals.screens.get(record.channel))
        if fed := self.terminals.take(record):
            for piece in self._commands.pieces(fed, record.at_us, items):
                items += self._text.feed(fed.channel, fed.screen, piece, record.at_us)
            self._bytes += len(fed.data)
        return items + self._keyframe(), []

    def finish(self) -> list[Item]:
        """Give what is derived at the end."""
        items = self._heat.end() + self._commands.end(self.at_us)
        for channel, screen in self.terminals.screens.items():
            items += self._text.end(channel, screen)
        items += self._taken() if self._bytes else []
        items.append(Item(Derived.SUMMARY, self.at_us, {"seq": self.seq, "faults": self.faults}))
        return items

    def _closed(self, channel: int) -> list[Item]:
        screen = self.terminals.screens.get(channel)
        return self._text.end(channel, screen) if screen else []

    def _keyframe(self) -> list[Item]:
        due = self._bytes >= SPACING or self.at_us - self._keyframe_us >= LONGEST_US
        return self._taken() if due and self.terminals.screens else []

    def _taken(self) -> list[Item]:
        saved, screen = self.terminals.saved(), self.terminals.screen()
        if saved is None:
            return []  # rule 3
        self._keyframe_us, self._bytes = self.at_us, 0
        width, height = screen.size if screen else (0, 0)
        body = {"seq": self.seq, "width": width, "height": height, "rgb": b"", "saved": packed(saved)}
        return [Item(Derived.TERMINAL, self.at_us, body)]
