"""Where output says what a shell is doing: the marks of bracketed paste (readline, zle, fish) and of OSC 133.

Rule 1: output may be cut anywhere: a mark is told where it ends, and nothing that was fed is held back for it.
Rule 2: nothing is kept but the beginning of a sequence, of at most LONGEST bytes.

Spec: xterm's ctlseqs (DECSET 2004); gitlab.freedesktop.org/Per_Bothner/specifications, semantic prompts (OSC 133).
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final, NamedTuple

LONGEST: Final = 256  # bytes of a sequence that has not ended; marks are far shorter

_MARKS: Final = (
    rb"\x1b(?:\[\?(?P<modes>[0-9;]{1,64}+)(?P<set>[hl])"
    rb"|\]133;(?P<what>[A-D])(?P<more>[^\x07\x1b]{0,200}+)(?:\x07|\x1b\\))"
)
_MARK: Final = re.compile(_MARKS)
_MARK_OR_NEWLINE: Final = re.compile(_MARKS + rb"|\n")
_BEGUN: Final = re.compile(
    rb"\x1b(?:\[(?:\?[0-9;]{0,64})?|\](?:1(?:3(?:3(?:;[^\x07\x1b]{0,200}\x1b?)?)?)?)?)?\Z"
)
_PASTE: Final = b"2004"
_STATUS: Final = re.compile(rb";(\d{1,9})(?:;|\Z)")


class What(Enum):
    """What a mark says."""

    EDITING = auto()  # a line editor begins to read a line
    EDITED = auto()  # it has ended: the line was accepted, or given up
    PROMPT = auto()  # 133;A: a prompt begins
    INPUT = auto()  # 133;B: it ends here, what is typed begins
    RUNNING = auto()  # 133;C: the line runs
    DONE = auto()  # 133;D: it has ended
    NEWLINE = auto()


_SEMANTIC: Final = {b"A": What.PROMPT, b"B": What.INPUT, b"C": What.RUNNING, b"D": What.DONE}


class Mark(NamedTuple):
    """A mark. `begin` and `end`: where it stands in what was fed; `exit`: the status DONE tells."""

    begin: int
    end: int
    what: What
    exit: int | None = None


class Marks:
    """Finds the marks in the output of one terminal, piece by piece."""

    def __init__(self) -> None:
        self._begun = b""

    def find(self, data: bytes, at: int, *, newlines: bool) -> Mark | None:
        """Give the first mark at or behind `at`; None at the end of `data`, whose unfinished sequence is remembered."""
        held, self._begun = self._begun, b""
        text, begin, shift = (held + data[at:], 0, at - len(held)) if held else (data, at, 0)
        for match in (_MARK_OR_NEWLINE if newlines else _MARK).finditer(text, begin):
            if what := _what(match):
                return Mark(max(match.start() + shift, at), match.end() + shift, what, _exit(match))
        if begun := _BEGUN.search(text, max(len(text) - LONGEST, begin)):
            self._begun = begun[0]
        return None


def _what(match: re.Match[bytes]) -> What | None:
    if match["modes"] is not None:
        if _PASTE not in match["modes"].split(b";"):
            return None
        return What.EDITING if match["set"] == b"h" else What.EDITED
    return _SEMANTIC[match["what"]] if match["what"] else What.NEWLINE


def _exit(match: re.Match[bytes]) -> int | None:
    status = _STATUS.match(match["more"]) if match["what"] == b"D" else None
    return int(status[1]) if status else None
