"""What a terminal's screen shows, as cells: read by whoever draws or prints it, wherever it was emulated.

Rule 1: its text is what the target sent: whoever shows it to a terminal or a browser makes it harmless first.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Annotated, Final, NamedTuple

import msgspec

COLOURS: Final = 256  # of a palette
DEFAULT: Final = -1  # a colour: the terminal's own
DIRECT: Final = (
    1 << 24
)  # a colour at or above this: 0xRRGGBB without the mark; below: a number of the palette

_Count = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Shade = Annotated[int, msgspec.Meta(ge=DEFAULT, lt=2 * DIRECT)]
_Colour = Annotated[int, msgspec.Meta(ge=0, lt=DIRECT)]


class Attribute(IntFlag):
    """How letters are drawn."""

    BOLD = 1
    ITALIC = 2
    FAINT = 4
    BLINK = 8
    INVERSE = 16
    INVISIBLE = 32
    STRIKETHROUGH = 64
    OVERLINE = 128
    UNDERLINE = 256


class Style(NamedTuple):
    """How a run of cells is drawn: colours (DEFAULT, a number of the palette, or DIRECT | 0xRRGGBB), and Attributes.

    `line`: of what is underlined, 2 twice, 3 in waves, 4 in dots, 5 in dashes; `line_colour`: its colour, if not the text's.
    """

    foreground: _Shade = DEFAULT
    background: _Shade = DEFAULT
    attributes: _Count = 0
    line: _Count = 0
    line_colour: _Shade = DEFAULT


PLAIN: Final = Style()


class Run(NamedTuple):
    """Neighbouring cells of one style. Either each character has a cell, or `text` is one character, wide or of parts.

    Where it is wide `cells` is 2.
    """

    column: _Count
    cells: _Count
    text: str
    style: Style


class Cursor(NamedTuple):
    """Where it is, from 0, and whether it shows."""

    column: _Count
    row: _Count
    visible: bool


class Page(msgspec.Struct, frozen=True, array_like=True):
    """A screen; `lines` are its rows from the top. `foreground`, `background`: what the target made of the usual colours."""

    columns: _Count
    rows: _Count
    lines: list[list[Run]]
    cursor: Cursor
    alternate: bool
    title: str
    palette: Annotated[tuple[_Colour, ...], msgspec.Meta(min_length=COLOURS, max_length=COLOURS)]
    foreground: _Shade
    background: _Shade

    def text(self) -> list[str]:
        """Give the rows as text, without blanks at their ends."""
        return [_text(line) for line in self.lines]


def _text(line: list[Run]) -> str:
    text, column = "", 0
    for run in line:
        text += " " * (run.column - column) + run.text
        column = run.column + run.cells
    return text.rstrip()
