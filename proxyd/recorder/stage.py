"""A session's records as what paints on its terminals: which channel, which bytes, and which of them is to be shown.

Rule 1: what is shown is one channel: the one that was asked for, else the terminal the session has (the newest while
        none is open), else whatever speaks.
Rule 2: bytes come out as a terminal must get them: without a pty nobody has turned line feeds into new lines.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from proxyd.characters import UNSAFE
from proxyd.recorder.record import Kind, Record


class Painted(NamedTuple):
    """Bytes for the terminal of a channel."""

    channel: int
    data: bytes


class Stage:
    """What is known of a session's channels. `shown`: the channel to show; None while nothing was painted."""

    def __init__(self, wanted: int | None = None) -> None:
        self._wanted = wanted
        self.shown = wanted
        self.terminals: set[int] = set()  # channels that have a pty
        self.closed: set[int] = set()
        self._sizes: dict[int, tuple[int, int]] = {}

    def size(self, channel: int | None) -> tuple[int, int]:
        """Columns and rows of a channel's terminal; (0, 0) while nobody said."""
        return self._sizes.get(channel or 0, (0, 0))

    def take(self, record: Record) -> Painted | None:
        """Learn from a record, and give what it paints."""
        body, channel = record.body, record.channel
        match record.kind:
            case Kind.OUTPUT | Kind.ERROR_OUTPUT:
                return self._output(channel, body)
            case Kind.REQUEST if body.get("name") == "pty-req" and "refused" not in body:
                self._opened(channel, body)
            case Kind.RESIZE:
                self._sizes[channel] = (body[0], body[1])
            case Kind.CHANNEL if body.get("event") == "close":
                self.closed.add(channel)
            case Kind.NOTICE:
                shown = UNSAFE.sub("\N{REPLACEMENT CHARACTER}", body)
                return Painted(channel or self.shown or 0, f"\r\n{shown}\r\n".encode())
        return None

    def shows(self, record: Record) -> bytes:
        """Learn from a record, and give what it paints on the terminal that is shown."""
        painted = self.take(record)
        return painted.data if painted and painted.channel in (0, self.shown) else b""

    def _opened(self, channel: int, body: dict[str, Any]) -> None:
        self.terminals.add(channel)
        self._sizes[channel] = (body.get("columns") or 0, body.get("rows") or 0)
        shown = self.shown
        if self._wanted is None and (shown is None or shown in self.closed or shown not in self.terminals):
            self.shown = channel

    def _output(self, channel: int, data: bytes) -> Painted:
        if self.shown is None or (self._wanted is None and self.shown in self.closed):
            self.shown = channel
        if channel not in self.terminals:
            data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        return Painted(channel, data)

    def saved(self) -> list[Any]:
        """Give what `resumed` needs."""
        sizes = [[channel, list(size)] for channel, size in sorted(self._sizes.items())]
        return [self.shown, sorted(self.terminals), sorted(self.closed), sizes]

    @classmethod
    def resumed(cls, saved: Any) -> Self:
        """Make one that goes on where another stood. Raises ValueError, TypeError for what is no such thing."""
        stage = cls()
        stage.shown, terminals, closed, sizes = saved
        stage.terminals, stage.closed = set(terminals), set(closed)
        stage._sizes = {channel: (columns, rows) for channel, (columns, rows) in sizes}
        return stage
