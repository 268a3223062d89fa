"""A screen drawn again in an empty terminal: every cell, both screens, and whatever follows, are those of the one it was."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxyd.cuts import _unfinished
from proxyd.index.terminal.redraw import _ends, redrawn
from proxyd.index.terminal.screen import ScreenModel
from proxyd.page import PLAIN
from proxyd.terminal import Harmless

pytestmark = pytest.mark.mission("M12")

ENTER = b"\x1b[?1049h"
PIECES = st.one_of(
    st.sampled_from(
        [b"\r\n", b"\n", b"\b", b"\t", ENTER, b"\x1b[?1049l", b"\x1b7", b"\x1b8", b"\x1b[2J", b"\x1b[H", b"\x1b[K",
         b"\x1b[1K", b"\x1b[L", b"\x1b[M", b"\x1b[3P", b"\x1b[4@", b"\x1b[2;4r", b"\x1b[3;7r", b"\x1b[r", b"\x1b[?6h", b"\x1b[?6l",
         b"\x1b[?7l", b"\x1b[?7h", b"\x1b[4h", b"\x1b[4l", b"\x1b(0", b"\x1b(B", b"\x0e", b"\x0f", b"\x1b)0", b"\x1bM", b"\x1bD",
         b"\x1bE", b"\x1b[S", b"\x1b[T", b"\x1b#8", b"\x1bc", b"\x1b[!p", b"\x1b[0m", b"\x1b[1;3;4;7m", b"\x1b[38;5;99m",
         b"\x1b[31;42m", b"\x1b[91;102m", b"\x1b[48;2;9;8;7m", b"\x1b[4:3m\x1b[58;5;9m", b"\x1b[58:2::1:2:3m", b"\x1b[53;9;2m",
         b"\x1b[?25l", b"\x1b[?25h", b"\x1b[3 q", b"\x1b[6 q", "字".encode(), "e\u0301".encode(), b"\xc3", b"\xe5\xad", b"\x1b[",
         b"\x1b]0;title\x07", b"\x1b]0;no end", b"\x1b[12;4H", b"\x1b[3;30H", b"\x1b[5;29Hxyz", b"\x1b[8;30H!"]
    ),
    st.text("abc │字", max_size=40).map(str.encode),
    st.integers(1, 40).map(lambda count: b"word " * count),
)  # fmt: skip


def seen(screen: ScreenModel) -> object:
    return (screen.exact(), screen.at, screen.waits, screen.cursor, screen.alternate,
            screen.margins(), re.sub(rb"\x1b[()]B", b"", screen.pen()), screen.shape())  # fmt: skip


class Pair:
    """A screen, and one that was drawn again from it; both get what a browser's terminal gets."""

    def __init__(self, columns: int = 30, rows: int = 8) -> None:
        self._filter, self._tail = Harmless(), b""
        self.one, self.other = ScreenModel(columns, rows), None

    def feed(self, data: bytes) -> None:
        shown = self._filter.feed(data)
        self._tail = (self._tail + shown)[-4:]
        self.one.feed(shown)
        if self.other:
            self.other.feed(shown)

    def split(self) -> None:
        data = redrawn(self.one)
        assert Harmless().feed(data) == data, "a viewer's terminal would not get all of it"
        self.other = ScreenModel(*self.one.size)
        self.other.feed(data + _unfinished(self._tail))
        self.equal()

    def equal(self) -> None:
        assert self.other
        assert seen(self.other) == seen(self.one)


def _beneath(screen: ScreenModel) -> ScreenModel | None:
    """Give the screen beneath a program, at the cursor that was saved there."""
    if not screen.alternate or (saved := screen.saved()) is None:
        return None
    beneath = ScreenModel(saved=saved)
    beneath.feed(b"\x18\x1b[?1047l\x1b8")
    return beneath


def _waits(screen: ScreenModel) -> bool:
    """Say whether it waits to wrap where nothing stands: rule 3."""
    return screen.waits and not _ends(screen.exact()[screen.at[1]], 30)


def _left_behind(screen: ScreenModel) -> bool:
    """Say whether a wide letter is gone that had no room where its attributes still are: rule 3."""
    return any(
        not run.text and run.style._replace(background=PLAIN.background) != PLAIN
        for runs, wraps in zip(screen.exact(), screen.wraps(), strict=True)
        for run in (runs[:-1] if wraps else runs)
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=40), st.lists(PIECES, max_size=15))
def test_what_is_drawn_again_is_what_it_was_and_stays_so(before: list[bytes], after: list[bytes]) -> None:
    pair = Pair()
    for data in before:
        pair.feed(data)
    rows = pair.one.exact()
    beneath = _beneath(pair.one)
    assume(not any(_waits(one) or _left_behind(one) for one in (pair.one, beneath) if one))
    # libghostty fills the other screen with the background that was set there when it was last left: no other emulator does.
    assume(ENTER not in before or ENTER not in after)
    # Written while line drawing is on, a wide letter is a blank as wide: no other emulator does that.
    assume(not any(run.cells > 1 and run.text == " " for runs in rows for run in runs))
    pair.split()
    for data in after:
        pair.feed(data)
        pair.equal()


def test_the_screen_beneath_and_saved_cursors_come_back() -> None:
    pair = Pair()
    pair.feed(
        b"first\r\n\x1b[31msecond \x1b(0q\x1b[?1049h\x1b[2Jin a program\x1b[5;5H\x1b[44m\x1b7\x1b[H\x1b[0mat home"
    )
    pair.split()
    pair.feed(b"\x1b8here\x1b[?1049l!")
    pair.equal()
    assert pair.one.text()[:2] == ["first", "second ─!"]


def test_a_saved_cursor_waits_to_wrap_as_it_did_even_where_its_letter_is_gone() -> None:
    for beneath in (b"", b"\x1b[2J", b"\x1b[?1049h\x1b[H"):
        pair = Pair()
        pair.feed(b"\x1b[31m" + b"x" * 30 + b"\x1b7" + beneath + b"\x1b[0m")
        pair.split()
        pair.feed(b"\x1b[?1049l\x1b8y")
        pair.equal()
        assert pair.one.at == (1, 1)


def test_a_line_of_several_rows_is_one_again() -> None:
    pair = Pair(10, 8)
    pair.feed(b"x" * 25 + b"\r\n\x1b[31m" + b"y" * 12 + b"\r\n")
    pair.split()
    assert pair.other
    assert pair.other.wraps() == pair.one.wraps() == [True, True, False, True, False, False, False, False]


def test_in_a_sequence_that_is_too_long_to_be_left_there_is_what_is_shown() -> None:
    made = ScreenModel(30, 4)
    made.feed(b"shell\x1b[?1049h\x1b[Hprogram\x1b]0;" + b"a" * (1 << 17))
    other = ScreenModel(30, 4)
    other.feed(redrawn(made))
    assert other.text()[0] == "program"
    assert other.alternate
