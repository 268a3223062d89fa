"""All terminals of one session: each channel of it that shows something has a screen.

Rule 1: records go in once each, in order, from the first, or behind those a saved state was made of.
Rule 2: nothing a target or a client sends raises; output that has no screen any more is counted in `faults`.
Rule 3: memory is bounded: closed channels beyond CLOSED_KEPT lose their screens, and all screens have at most CELLS.
Rule 4: of channels that are none of a session (forwards) nothing is shown: their bytes are no terminal's.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from proxyd.errors import FormatError
from proxyd.index.terminal.cells import ScreenError
from proxyd.index.terminal.screen import ScreenModel
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.stage import Stage

CLOSED_KEPT: Final = 16  # what they showed last can still be asked for
CELLS: Final = 1 << 21  # of all screens: a few hundred terminals as people have them; 20 bytes each at most
SESSION: Final = "session"  # the type of channels that have terminals (RFC 4254, 6)


class Fed(NamedTuple):
    """What a terminal is to get."""

    screen: ScreenModel
    channel: int
    data: bytes


class Terminals:
    """The terminals of a session as far as its records were fed."""

    def __init__(self) -> None:
        self.faults = 0  # pieces of output that no screen took
        self.screens: dict[int, ScreenModel] = {}
        self._stage = Stage()
        self._others: set[int] = set()  # channels that are no session's

    @property
    def shown(self) -> int | None:
        """The channel that is shown where none is asked for."""
        return self._stage.shown

    def screen(self, channel: int | None = None) -> ScreenModel | None:
        """Give a channel's screen, or that of the channel that is shown; None where nothing was on it."""
        wanted = self._stage.shown if channel is None else channel
        return None if wanted is None else self.screens.get(wanted)

    def take(self, record: Record) -> Fed | None:
        """Take the next record; gives what must be fed to which screen, where it shows anything."""
        body, channel = record.body, record.channel
        if record.kind is Kind.CHANNEL and body.get("event") == "open" and body.get("type") != SESSION:
            self._others.add(channel)
        if channel in self._others:
            return None
        painted = self._stage.take(record)
        if record.kind is Kind.CHANNEL:
            self._forget_old()
        if record.kind in (Kind.RESIZE, Kind.REQUEST) and channel in self.screens:
            self._resize(channel)
        if painted is None or not (painted.channel or self._stage.shown is not None):
            return None
        screen = self._of(painted.channel)
        return Fed(screen, *painted) if screen else None

    def feed(self, record: Record) -> None:
        """Take the next record, and show it."""
        if fed := self.take(record):
            fed.screen.feed(fed.data)

    def _of(self, channel: int) -> ScreenModel | None:
        if channel not in self.screens:
            try:
                self.screens[channel] = ScreenModel(*self._fitting(channel))
            except ScreenError:
                self.faults += 1
                return None
        return self.screens[channel]

    def _resize(self, channel: int) -> None:
        try:
            self.screens[channel].resize(*self._fitting(channel))
        except ScreenError:
            self.faults += 1

    def _fitting(self, channel: int) -> tuple[int, int]:
        """Give a channel's size, or the usual one where there is no room for its own (rule 3)."""
        columns, rows = self._stage.size(channel)
        others = sum(screen.cells for number, screen in self.screens.items() if number != channel)
        return (columns, rows) if columns * rows + others <= CELLS else (0, 0)

    def _forget_old(self) -> None:
        closed = [number for number in self.screens if number in self._stage.closed]
        for number in closed[:-CLOSED_KEPT]:
            del self.screens[number]

    # ------------------------------------------------------------------ left and gone on with

    def saved(self) -> bytes | None:
        """Give what `resumed` needs; None inside a sequence that is too long to be left."""
        screens = [(number, screen.saved()) for number, screen in self.screens.items()]
        if any(saved is None for _, saved in screens):
            return None
        packed: bytes = msgpack.packb([self._stage.saved(), sorted(self._others), screens])
        return packed

    @classmethod
    def resumed(cls, saved: bytes) -> Terminals:
        """Make terminals that go on where others stood. Raises FormatError."""
        made = cls()
        try:
            stage, others, screens = msgpack.unpackb(saved, strict_map_key=False)
            made._stage, made._others = Stage.resumed(stage), set(others)
            made.screens = {number: ScreenModel(saved=_bytes(one)) for number, one in screens}
        except (ValueError, TypeError, msgpack.exceptions.UnpackException):
            raise FormatError("an index has a keyframe that can't be gone on from") from None
        return made


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError
    return value
