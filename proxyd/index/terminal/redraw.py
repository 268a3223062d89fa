"""A terminal's state as the bytes that bring an empty terminal to it: where a player begins that jumps to a moment.

Rule 1: a terminal of this size that is as new shows behind these bytes what this one shows: every cell with its attributes,
        the cursor, its shape, margins, modes and character sets; and what follows does to it what it does to this one. The
        screen beneath a full-screen program is there too, and the cursors that were saved.
Rule 2: there are only sequences in it that proxyd.terminal.Harmless passes: title, palette, mouse, keyboard and tab stops
        are not a viewer's. What scrolled away is not in it.
Rule 3: no letter waits to wrap behind a cell that nothing was written to: a blank stands there, and the cursor saved beneath
        a full-screen program does not wait. The blank that a wide letter had no room in keeps its background alone, once
        that letter is gone from behind it. Where a screen can't be left (screen, rule 2) saved cursors, and the screen
        beneath, are not known and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxyd.index.terminal.forms import sgr
from proxyd.index.terminal.screen import ScreenModel
from proxyd.page import PLAIN, Run, Style

_ORIGIN, _WRAP, _INSERT = 6, 7, 4  # DECOM, DECAWM; ANSI's IRM
_ALTERNATE: Final = b"\x1b[?1049h"  # saves the cursor, and clears the other screen
_LEAVE: Final = b"\x18\x1b[?1047l"  # without the cursor that was saved; CAN ends a sequence that had not
_RESTORE, _SAVE = b"\x18\x1b8", b"\x1b7"
_NORMAL: Final = b"\x1b[0m\x1b(B\x1b)B\x0f"  # no attributes, ASCII


def redrawn(screen: ScreenModel) -> bytes:
    """Give the bytes; raises ScreenError when there is no memory."""
    parts = []
    if screen.alternate and (beneath := _copied(screen)):
        beneath.feed(_LEAVE)
        parts += [*_painted(beneath), *_saved(beneath, keep=False), _ALTERNATE]
    elif screen.alternate:
        parts.append(_ALTERNATE)
    parts += [_NORMAL, *_painted(screen), *_saved(screen, keep=True), *_state(screen)]
    return b"".join(parts)


def _copied(screen: ScreenModel) -> ScreenModel | None:
    saved = screen.saved()
    return None if saved is None else ScreenModel(saved=saved)


def _painted(screen: ScreenModel) -> Iterator[bytes]:
    """Yield what puts every cell in its place; a row that goes on in the next is written on into it: terminals know it."""
    rows, wraps, (columns, _) = screen.exact(), screen.wraps(), screen.size
    written_on = [False]
    for row, (wrapped, one, two) in enumerate(zip(wraps, rows, rows[1:], strict=False), 2):
        written_on.append(wrapped and _begins(two) and (_ends(one, columns) or _no_room(one, two, columns)))
        if wrapped and not written_on[-1]:
            yield _joining(row, columns)
    style = PLAIN
    for row, runs in enumerate(rows, 1):
        at = 0
        for run in runs:
            if run.style != style:
                style = run.style
                yield f"\x1b[{sgr(style)}m".encode()
            if not run.column and written_on[row - 1]:
                # A wide letter that had no room goes on by itself from the last column; behind the usual it does at once.
                yield b"" if _ends(rows[row - 2], columns) else b"\x1b[%d;%dH" % (row - 1, columns)
            elif run.column != at or not at:
                yield b"\x1b[%d;%dH" % (row, run.column + 1)
            yield run.text.encode(errors="replace") if run.text else b"\x1b[%dX" % run.cells
            # How wide a letter is, terminals do not agree on: behind others than the usual the place is said again.
            at = run.column + run.cells if len(run.text) == run.cells else 0
    if style != PLAIN:
        yield b"\x1b[0m"


def _ends(runs: list[Run], columns: int) -> bool:
    """Say whether usual letters stand up to a row's end."""
    return bool(runs) and len(runs[-1].text) == runs[-1].cells and runs[-1].column + runs[-1].cells == columns


def _written(runs: list[Run], column: int) -> bool:
    """Say whether a letter stands in a column."""
    return any(run.text and run.column <= column < run.column + run.cells for run in runs)


def _no_room(one: list[Run], two: list[Run], columns: int) -> bool:
    """Say whether the letter a row begins with had no room in the last column of the one before, which is blank."""
    blank = not one or not one[-1].text or one[-1].column + one[-1].cells < columns
    return blank and two[0].cells > 1 and len(two[0].text) == 1


def _begins(runs: list[Run]) -> bool:
    """Say whether a letter stands at a row's beginning."""
    return bool(runs) and bool(runs[0].text) and not runs[0].column


def _joining(row: int, columns: int) -> bytes:
    """Give what has a row be the one before it gone on, while both are empty."""
    last, first = b"\x1b[%d;%dH" % (row - 1, columns), b"\x1b[%d;1H" % row
    return last + b"  " + last + b"\x1b[X" + first + b"\x1b[X"


def _saved(screen: ScreenModel, *, keep: bool) -> Iterator[bytes]:
    """Yield what makes the saved cursor the terminal's own; on wish only where it stands, for a sequence that saves it."""
    copy = _copied(screen)
    if copy is None:
        return
    copy.feed(_RESTORE)
    column, row = copy.at
    place = b"\x1b[%d;%dH" % (row + 1, column + 1)
    yield place
    is_blank = copy.waits and not _written(copy.exact()[row], column)
    if copy.waits and (keep or not is_blank):
        yield from _full(copy, column, row)
    yield copy.pen()
    if keep:
        yield _SAVE + _NORMAL
    if keep and is_blank:
        yield place + b"\x1b[X"


def _state(screen: ScreenModel) -> Iterator[bytes]:
    """Yield the margins, the cursor and the modes."""
    yield screen.margins()
    column, row = screen.at
    top = 0
    if screen.mode(_ORIGIN):
        yield b"\x1b[?6h"
        top = _top(screen)
    yield b"\x1b[%d;%dH" % (row - top + 1, column + 1)
    if screen.waits:
        yield from _full(screen, column, row - top)
    yield screen.pen()
    yield b"" if screen.mode(_WRAP) else b"\x1b[?7l"
    yield b"\x1b[4h" if screen.mode(_INSERT, ansi=True) else b""
    yield b"" if screen.cursor.visible else b"\x1b[?25l"
    yield screen.shape()


def _top(screen: ScreenModel) -> int:
    """Give the row the margins begin at: cursors are placed from there in origin mode."""
    margins = screen.margins()
    return int(margins[2:].split(b";")[0]) - 1 if margins else 0


def _full(screen: ScreenModel, column: int, row: int) -> Iterator[bytes]:
    """Yield what writes the last letter of a full row again, so that the next one goes to the next row."""
    runs = screen.exact()[screen.at[1]]
    letter, style, at = " ", Style(), column
    for run in runs:
        if run.column <= column < run.column + run.cells and run.text:
            letter, style, at = _last(run, column)
    yield b"\x1b[%d;%dH" % (row + 1, at + 1)
    yield f"\x1b[{sgr(style)}m{letter}\x1b[0m".encode(errors="replace")


def _last(run: Run, column: int) -> tuple[str, Style, int]:
    """Give the letter of a run that is in a column, its style, and the column it begins in."""
    if len(run.text) == run.cells:
        return run.text[column - run.column], run.style, column
    return run.text, run.style, run.column
