"""Where the recording of a terminal session can be cut into pieces, and a piece of it as a player gets it.

Rule 1: a piece is some 60 seconds or CUT_BYTES of output, whichever is less: a player asks for what it shows, and the
        ledger says which seconds that were.
Rule 2: pieces put together are the recording: each begins with the filter and the choice of channel as the one before
        left them, so that a sequence cut between two is whole again.
Rule 3: what is read back comes from a process that reads hostile bytes: it is believed nothing but shapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from proxyd.errors import FormatError
from proxyd.recorder.record import Record
from proxyd.recorder.sidecar import Derived, Item
from proxyd.recorder.stage import Stage
from proxyd.terminal import Harmless

CUT_BYTES: Final = 256 << 10
CUT_US: Final = 60_000_000
LONGEST_LETTER: Final = 4  # bytes of UTF-8


class Cut(NamedTuple):
    """A piece begins at record `seq`; `stage` and `filter` are what they were saved as, `rest` is of a cut letter."""

    at_us: int
    seq: int
    stage: Any
    filter: Any
    rest: bytes

    def item(self) -> Item:
        """Give it as an index keeps it."""
        return Item(Derived.CUT, self.at_us, [self.seq, self.stage, self.filter, self.rest])


BEGINNING: Final = Cut(0, 0, Stage().saved(), Harmless().saved(), b"")


def cut_of(item: Item) -> Cut:
    """Read what an index has (rule 3). Raises FormatError."""
    try:
        seq, stage, held, rest = item.body
        cut = Cut(item.at_us, seq, stage, held, rest)
        Stage.resumed(stage)
        Harmless.resumed(held)
        good = type(seq) is int and seq > 0 and isinstance(rest, bytes) and len(rest) < LONGEST_LETTER
    except (TypeError, ValueError, IndexError):
        good = False
    if not good:
        raise FormatError("the index has a piece that can't be read")
    return cut


class Cuts:
    """Finds the cuts of one session."""

    def __init__(self) -> None:
        self._stage = Stage()
        self._filter: Harmless | None = None  # None: between two sequences
        self._tail = b""  # of what was shown
        self._bytes = self._at_us = 0

    def feed(self, record: Record) -> Cut | None:
        """Take the next record; gives the cut that is before it."""
        cut = None
        if self._bytes >= CUT_BYTES or record.at_us - self._at_us >= CUT_US:
            held = (self._filter or Harmless()).saved()
            rest = b"" if self._filter else _unfinished(self._tail)
            cut = Cut(record.at_us, record.seq, self._stage.saved(), held, rest)
            self._bytes, self._at_us = 0, record.at_us
        self._show(self._stage.shows(record))
        return cut

    def _show(self, data: bytes) -> None:
        self._bytes += len(data)
        self._tail = (self._tail + data)[-LONGEST_LETTER:]
        if self._filter is None and Harmless.stays(data):
            return
        self._filter = self._filter or Harmless()
        self._filter.feed(data)
        if self._filter.between:
            self._filter = None


def _unfinished(tail: bytes) -> bytes:
    """Give the bytes of a letter of UTF-8 that has not ended."""
    for back in range(1, min(len(tail), LONGEST_LETTER - 1) + 1):
        byte = tail[-back]
        if byte & 0xC0 != 0x80:
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return tail[-back:] if length > back else b""
    return b""


def piece(records: Iterable[Record], cut: Cut, end_seq: int | None) -> dict[str, Any]:
    """Give a piece as a player gets it: the size at its beginning, and what comes when; `records`: from the cut's time on.

    Raises FormatError.
    """
    stage, harmless = Stage.resumed(cut.stage), Harmless.resumed(cut.filter)
    channel, began = stage.shown, stage.size(stage.shown)
    size, events = began, list[tuple[int, str, Any]]()
    for record in records:
        if record.seq < cut.seq:
            continue
        if end_seq is not None and record.seq >= end_seq:
            break
        shown = harmless.feed(stage.shows(record))
        if stage.shown != channel:
            if channel is not None:
                events.append((record.at_us, "new", None))  # another terminal, on which nothing is yet
            channel = stage.shown
        if stage.size(channel) != size:
            size = stage.size(channel)
            events.append((record.at_us, "size", size))
        if shown:
            events.append((record.at_us, "out", shown))
    return {"size": began, "rest": cut.rest, "events": events}
