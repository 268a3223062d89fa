"""What was typed, as lines a person reads.

Rule 1: a line ends with Enter, at a pause, when it is full, and where a block begins or ends.
Rule 2: a key that types nothing stands in it by its name: ‹Backspace›, ‹Ctrl+C›. None of them is applied, for nobody
        knows where the caret was or what was selected.
Rule 3: what stands between ‹ and › is always a key: where those were typed themselves, they are written as escapes.
"""
# ruff: noqa: RUF001, RUF002 - marks that hardly anybody types are what this needs

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from proxyd.index.rdp.keys import Keystroke

PAUSE_US: Final = 10_000_000  # who stops for longer has done something else meanwhile
LONGEST: Final = 4096  # characters; as long as a line of a terminal's log

_ACCENT: Final = re.compile(
    r"(?:AltGr\+)?(?:Shift\+)?."
)  # a key of one character, and what people hold to type it
_ESCAPED: Final = str.maketrans({"‹": r"\u2039", "›": r"\u203a"})
_NAMED: Final = {"\n": "Enter", "\t": "Tab"}  # text that is shown as a key


class Line(NamedTuple):
    """A line; `refused`: a block kept it from the target."""

    at_us: int
    refused: bool
    text: str


class _Open:
    """The line that is being typed."""

    def __init__(self, first: Keystroke) -> None:
        self.at_us = self._last_us = first.at_us
        self._refused = first.refused
        self._text = ""
        self._key, self._times = "", 0  # what was pressed last, if it types nothing, and how often

    def fits(self, stroke: Keystroke) -> bool:
        """Say whether a press belongs to this line (rule 1)."""
        in_time = stroke.at_us - self._last_us <= PAUSE_US
        return in_time and stroke.refused == self._refused and len(self._text) < LONGEST

    def take(self, stroke: Keystroke) -> bool:
        """Add a press; True when it ends the line."""
        self._last_us = stroke.at_us
        if len(stroke.text) > 1 and stroke.text[-1] in _NAMED:  # an accent that waited, and Enter or Tab
            self._end_key()
            self._text += stroke.text[:-1].translate(_ESCAPED)
            stroke = stroke._replace(text=stroke.text[-1])
        key = _key(stroke)
        if key != self._key:
            self._end_key()
        if key:
            self._key = key
            self._times += 1
        else:
            self._text += stroke.text.translate(_ESCAPED)
        return stroke.text == "\n"

    def done(self) -> Line:
        """Give it."""
        self._end_key()
        return Line(self.at_us, self._refused, self._text)

    def _end_key(self) -> None:
        if self._key:
            self._text += f"‹{self._key}›" if self._times == 1 else f"‹{self._key} x{self._times}›"
        self._key, self._times = "", 0


def _key(stroke: Keystroke) -> str:
    """Name a press that is shown as a key; "" for one that is shown as its text."""
    if stroke.text in _NAMED:
        return stroke.name if stroke.name.isprintable() else _NAMED[stroke.text]
    return "" if stroke.text else stroke.name


def _waits(stroke: Keystroke) -> bool:
    """Tell a dead key: it would type, and its accent comes with the letter behind it."""
    return not stroke.text and _ACCENT.fullmatch(stroke.name) is not None


class Lines:
    """Puts presses together to lines as they come."""

    def __init__(self) -> None:
        self._line: _Open | None = None

    def feed(self, stroke: Keystroke) -> list[Line]:
        """Take a press; gives the lines that ended."""
        if _waits(stroke):
            return []
        ended = [] if self._line is None or self._line.fits(stroke) else self.end()
        self._line = self._line or _Open(stroke)
        if self._line.take(stroke):
            ended += self.end()
        return ended

    def end(self) -> list[Line]:
        """End the line that is being typed, if there is one."""
        line, self._line = self._line, None
        return [line.done()] if line else []


def lines(strokes: Iterable[Keystroke]) -> Iterator[Line]:
    """Yield what was typed line by line, in order."""
    open_lines = Lines()
    for stroke in strokes:
        yield from open_lines.feed(stroke)
    yield from open_lines.end()
