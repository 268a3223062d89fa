"""The text that stood on a session's screens, piece by piece: what search finds.

Rule 1: a line is told once, when it was first seen, and not again while it is among the last RECENT lines.
Rule 2: what scrolls past is looked at screen by screen, so nothing is missed, until BULK bytes of a session have been
        looked at so; from then on, and of full-screen programs always, what stands LOOK_US on a screen is.
Rule 3: the line the cursor is in is still being written: it is told when the cursor has left it, or at the end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from proxyd.index.terminal.screen import ScreenModel
from proxyd.recorder.sidecar import Derived, Item

LOOK_US: Final = 250_000  # what is gone sooner nobody has read
RECENT: Final = 2000  # lines: some screens of a monitor's size
LONGEST: Final = 2000  # characters of one line that are kept
BULK: Final = 64 << 20  # bytes of a session that scroll past: weeks of work in a shell
_LEAST: Final = 2  # characters; a single one finds nothing


@dataclass(slots=True)
class _Seen:
    """What is known of one screen: when it was looked at, and what happened to it since then."""

    looked_us: int
    changed_us: int = 0
    changed: bool = False
    scrolled: int = 0  # rows, at most
    title: str = ""


class Text:
    """Tells the text of one session's screens."""

    def __init__(self) -> None:
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._seen: dict[int, _Seen] = {}  # by channel
        self._bulk = BULK

    def feed(self, channel: int, screen: ScreenModel, data: bytes, at_us: int) -> list[Item]:
        """Feed a screen, and give the text that was to be seen before and while it was."""
        items = []
        seen = self._seen.setdefault(channel, _Seen(at_us))
        if seen.changed and at_us - seen.looked_us >= LOOK_US:
            items += self._look(screen, seen)
            seen.looked_us = at_us
        columns, rows = screen.size
        for lines, piece in self._pieces(screen, data, columns, rows - 1, seen.scrolled):
            if seen.scrolled + lines >= rows:
                items += self._look(screen, seen)
            screen.feed(piece)
            seen.changed, seen.changed_us = True, at_us
            seen.scrolled += lines
        if (title := screen.title) != seen.title:
            seen.title = title
            items += self._told("title", [title], at_us)
        return items

    def end(self, channel: int, screen: ScreenModel) -> list[Item]:
        """Give the text that is still to be seen, of a channel that closes or a session that ends."""
        seen = self._seen.pop(channel, None)
        return self._look(screen, seen, last=True) if seen and seen.changed else []

    def _look(self, screen: ScreenModel, seen: _Seen, *, last: bool = False) -> list[Item]:
        seen.changed, seen.scrolled = False, 0
        lines = screen.paragraphs(without_cursor=not (last or screen.alternate))
        return self._told("screen", lines, seen.changed_us)

    def _told(self, source: str, lines: list[str], at_us: int) -> list[Item]:
        new = []
        for line in lines:
            text = line.strip()[:LONGEST]
            if len(text) < _LEAST:
                continue
            if text in self._recent:
                self._recent.move_to_end(text)
                continue
            self._recent[text] = None
            new.append(text)
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return [Item(Derived.TEXT, at_us, [source, "\n".join(new)])] if new else []

    def _pieces(
        self, screen: ScreenModel, data: bytes, columns: int, most: int, scrolled: int
    ) -> Iterator[tuple[int, bytes]]:
        """Cut what scrolls past into pieces of at most `most` rows, the first of what is left of them (rule 2)."""
        if screen.alternate or self._bulk <= 0:
            yield 0, data
            return
        self._bulk -= len(data)
        begin = at = used = 0
        room = most - scrolled
        while (end := data.find(b"\n", at)) >= 0:
            lines = 1 + (end - at) // columns
            if used + lines > room and begin < at:
                yield used, data[begin:at]
                begin, used, room = at, 0, most
            used += lines
            at = end + 1
        rest = (len(data) - at) // columns
        if used + rest > room and begin < at:
            yield used, data[begin:at]
            begin, used = at, 0
        if begin < len(data):
            yield used + rest, data[begin:]
