"""The lines somebody enters at one terminal, in order, until it is known what became of them.

Rule 1: what was typed is believed for nothing but comparison: only what the screen showed is ever written (commands).
Rule 2: a line waits for the terminal's answer; one whose answer never came (an Enter that only made a new line, a ^C that
        nobody heeded) is stale once the terminal has been silent for STALE_US and somebody types on.
Rule 3: memory is bounded: at most WAITING lines wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxyd.editing import Editor, Piece

STALE_US: Final = (
    250_000  # a terminal that answers later than this has answered somebody else, or is on the moon
)
WAITING: Final = 4096  # lines: a script that was pasted into a terminal which does not know pastes

_END_OF_INPUT: Final = b"\x04"


class Prompt(NamedTuple):
    """What stood in the row when a line began: left of the cursor, and right of it; `column`: where the cursor was."""

    left: str
    column: int
    right: str = ""


@dataclass(slots=True)
class Entered:
    """A line that was entered, or given up. `editing`: a line editor read it; `prompt`: None where it is not known.

    `spoke_us`: when the terminal had shown anything last, as the line began.
    """

    at_us: int
    spoke_us: int
    entered_us: int
    text: str
    sure: bool
    keys: bool
    editing: bool
    prompt: Prompt | None
    given_up: bool
    stale: bool = False


class Typing:
    """What is typed at one terminal."""

    def __init__(self) -> None:
        self._editor = Editor()
        self._waiting: deque[Entered] = deque(maxlen=WAITING)
        self._begun: tuple[int, int, bool, Prompt | None] | None = None  # the line that is being typed

    @property
    def waiting(self) -> bool:
        """Whether a line waits for the terminal's answer."""
        return bool(self._waiting)

    @property
    def cooked(self) -> Entered | None:
        """The first line that waits and no line editor was there to read."""
        return next((entry for entry in self._waiting if not entry.editing), None)

    def typed(
        self, at_us: int, data: bytes, *, editing: bool, spoke_us: int, look: Callable[[], Prompt | None]
    ) -> None:
        """Take what was typed. `spoke_us`: when the terminal last showed anything; `look` gives its prompt as it is now."""
        for entry in self._waiting:
            answered = spoke_us >= entry.entered_us and at_us - spoke_us >= STALE_US
            entry.stale = entry.stale or (editing and answered)
        for piece in self._editor.feed(data):
            if self._begun is None:
                ahead = any(not entry.stale and not entry.given_up for entry in self._waiting)
                self._begun = (at_us, spoke_us, editing, None if ahead else look())
            if piece.given_up and not editing:
                self.forget()  # the kernel throws away what waits, too
            elif piece.given_up or _enters(piece):
                self._enter(at_us, piece)

    def _enter(self, at_us: int, piece: Piece) -> None:
        assert self._begun is not None  # noqa: S101 - the caller has begun it
        begun_us, spoke_us, editing, prompt = self._begun
        text = piece.line or ""
        keys = bool(text) or piece.unsure
        entry = Entered(
            begun_us, spoke_us, at_us, text, not piece.unsure, keys, editing, prompt, piece.given_up
        )
        self._waiting.append(entry)
        self._begun = None

    def first(self) -> Entered | None:
        """Give the line the terminal answers next."""
        return next((entry for entry in self._waiting if not entry.stale), None) or self._last()

    def texts(self) -> list[str]:
        """Give the lines that wait and are known for sure."""
        return [entry.text for entry in self._waiting if entry.sure and entry.text and not entry.given_up]

    def answered(self, text: str, at_us: int) -> tuple[Entered | None, list[Entered]]:
        """Say which line an editor has taken, showing `text`, and which before it were no lines of their own.

        A line that reads the same, or the same as the last of several, is; else the first that is not stale; else the last.
        """
        waiting = list(self._waiting)
        for entry in waiting[:-1]:
            entry.stale = entry.stale or (entry.given_up and at_us - entry.entered_us >= STALE_US)
        same = {text, text.rpartition("\n")[2]}
        known = (entry for entry in waiting if entry.text in same and entry.keys and entry.sure)
        chosen = next(known, None) or self.first()
        return chosen, self.take(chosen) if chosen else []

    def take(self, entry: Entered) -> list[Entered]:
        """Take a line from those that wait; gives those before it."""
        passed = []
        while (first := self._waiting.popleft()) is not entry:
            passed.append(first)
        return passed

    def forget(self) -> list[Entered]:
        """Forget what waits, and give it."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._editor.clear()
        self._begun = None
        return waiting

    def _last(self) -> Entered | None:
        return self._waiting[-1] if self._waiting else None


def _enters(piece: Piece) -> bool:
    """Tell an Enter; a ^D runs or deletes, and inside of a paste an Enter is a new line."""
    return piece.line is not None and not piece.pasted and piece.data != _END_OF_INPUT
