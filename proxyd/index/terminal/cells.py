"""What the cells of a screen hold, read from the library's own memory; see screen.

A cell is a number; what numbers mean is asked of the library once and kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pyghostty._ffi import ffi, lib
from pyghostty.core import init_sized

from proxyd.errors import FormatError
from proxyd.page import DEFAULT, DIRECT, PLAIN, Attribute, Run, Style

CACHED: Final = 1 << 15  # different cells whose meaning is kept: a screen of all colours has some thousand
PARTS_KEPT: Final = 32  # characters one cell is made of: no script and no family has more
_CELL: Final = 8  # bytes: GhosttyCell is a u64
_BLANK: Final = 0  # a cell nothing was written to

_ATTRIBUTES: Final = (
    ("bold", Attribute.BOLD),
    ("italic", Attribute.ITALIC),
    ("faint", Attribute.FAINT),
    ("blink", Attribute.BLINK),
    ("inverse", Attribute.INVERSE),
    ("invisible", Attribute.INVISIBLE),
    ("strikethrough", Attribute.STRIKETHROUGH),
    ("overline", Attribute.OVERLINE),
    ("underline", Attribute.UNDERLINE),
)


class ScreenError(FormatError):
    """The emulator could not do what was asked of it: no memory, or a saved state that is none."""


class View:
    """A look at a screen: the cells of its rows, read in one piece each; what they mean is asked of the library once."""

    def __init__(self) -> None:
        state, rows = ffi.new("GhosttyRenderState*"), ffi.new("GhosttyRenderStateRowIterator*")
        cells = ffi.new("GhosttyRenderStateRowCells*")
        check(lib.ghostty_render_state_new(ffi.NULL, state))
        weakref.finalize(self, lib.ghostty_render_state_free, state[0])
        check(lib.ghostty_render_state_row_iterator_new(ffi.NULL, rows))
        weakref.finalize(self, lib.ghostty_render_state_row_iterator_free, rows[0])
        check(lib.ghostty_render_state_row_cells_new(ffi.NULL, cells))
        weakref.finalize(self, lib.ghostty_render_state_row_cells_free, cells[0])
        self._state, self._rows, self._cells = state[0], rows, cells
        self._row, self._raw = ffi.new("uint16_t*"), ffi.new("GhosttyCellsView*")
        self._style = init_sized("GhosttyStyle")
        self._letters: list[list[int]] = []  # by row: its cells, as they were when it was last dirty
        self._dirty: set[int] = set()
        self._turned = False  # whether `_cells` is of the row the iterator is at

    def update(self, terminal: Any) -> None:
        """Look again."""
        check(lib.ghostty_render_state_update(self._state, terminal))
        count = self._count()
        if count != len(self._letters):
            self._letters = [[] for _ in range(count)]
            self._dirty = set()
        self._begin()
        while lib.ghostty_render_state_row_iterator_next_dirty(self._rows[0], self._row):
            row = self._row[0]
            self._letters[row] = self._read_row()
            self._dirty.add(row)
        check(lib.ghostty_render_state_clean(self._state))

    def changed(self) -> list[int]:
        """Give the rows that changed since this was last asked."""
        rows, self._dirty = sorted(self._dirty), set()
        return rows

    def line(self, row: int) -> str:
        """Give a row as text, without blanks at its end."""
        text = "".join([_meaning(cell).text for cell in self._letters[row]]).rstrip()
        return text if _PARTS not in text else "".join(run.text for run in self.rows((row,))[row]).rstrip()

    def rows(self, wanted: Collection[int] | None) -> dict[int, list[Run]]:
        """Give rows, all or those that are wanted, as runs."""
        self._begin()
        found: dict[int, list[Run]] = {}
        for row, letters in enumerate(self._letters):
            lib.ghostty_render_state_row_iterator_next(self._rows[0])
            if wanted is None or row in wanted:
                found[row] = list(self._runs(letters))
        return found

    def exact(self) -> list[list[Run]]:
        """Give all rows as runs, apart from cells nothing was ever written to."""
        self._begin()
        found = []
        for letters in self._letters:
            lib.ghostty_render_state_row_iterator_next(self._rows[0])
            found.append(list(self._runs(letters, exact=True)))
        return found

    def wraps(self) -> list[bool]:
        """Say of each row whether its text goes on in the next."""
        self._begin()
        found, row, flag = [], ffi.new("GhosttyRow*"), ffi.new("bool*")
        for _ in self._letters:
            lib.ghostty_render_state_row_iterator_next(self._rows[0])
            wanted = lib.GHOSTTY_RENDER_STATE_ROW_DATA_RAW
            check(lib.ghostty_render_state_row_get(self._rows[0], wanted, row))
            check(lib.ghostty_row_get(row[0], lib.GHOSTTY_ROW_DATA_WRAP, flag))
            found.append(bool(flag[0]))
        return found

    def shape(self) -> int:
        """Give the shape of the cursor, as the library numbers them."""
        found = ffi.new("int*")
        wanted = lib.GHOSTTY_RENDER_STATE_DATA_CURSOR_VISUAL_STYLE
        check(lib.ghostty_render_state_get(self._state, wanted, found))
        return int(found[0])

    def _count(self) -> int:
        check(lib.ghostty_render_state_get(self._state, lib.GHOSTTY_RENDER_STATE_DATA_ROWS, self._row))
        return int(self._row[0])

    def _begin(self) -> None:
        wanted = lib.GHOSTTY_RENDER_STATE_DATA_ROW_ITERATOR
        check(lib.ghostty_render_state_get(self._state, wanted, self._rows))

    def _read_row(self) -> list[int]:
        wanted = lib.GHOSTTY_RENDER_STATE_ROW_DATA_CELLS_RAW
        check(lib.ghostty_render_state_row_get(self._rows[0], wanted, self._raw))
        view = self._raw[0]
        return memoryview(ffi.buffer(view.ptr, view.len * _CELL)).cast("Q").tolist()

    def _runs(self, letters: list[int], *, exact: bool = False) -> Iterator[Run]:
        """Yield the runs of the row the iterator is at; `exact`: apart from cells nothing was ever written to."""
        used = len(letters)
        while used and letters[used - 1] == _BLANK:
            used -= 1
        meanings = [_meaning(cell) for cell in letters[:used]]
        drawn = self._styles(meanings)
        column = 0
        while column < used:
            means, style = meanings[column], drawn[column]
            if means.alone:
                end = column + 1
                while end < used and meanings[end].alone and (drawn[end] is style or drawn[end] == style):
                    if exact and meanings[end].empty is not means.empty:
                        break
                    end += 1
                if exact and means.empty:
                    if style != PLAIN:
                        yield Run(column, end - column, "", style)
                    column = end
                    continue
                text = "".join([one.text for one in meanings[column:end]])
                if end == used and style == PLAIN and not exact:
                    text = text.rstrip()
                if text:
                    yield Run(column, len(text), text, style)
                column = end
                continue
            if means.cells:
                yield Run(
                    column, means.cells, self._parts(column) if means.text == _PARTS else means.text, style
                )
            column += 1

    def _styles(self, meanings: list[_Meaning]) -> list[Style]:
        """Give the style of each cell."""
        styles = {0: PLAIN}
        self._turned = False
        for at, means in enumerate(meanings):
            if means.style not in styles:
                styles[means.style] = self._style_at(at)
        return [means.background or styles[means.style] for means in meanings]

    def _at(self, column: int) -> None:
        """Turn to a cell of the row the iterator is at."""
        if not self._turned:
            self._turned = True
            wanted = lib.GHOSTTY_RENDER_STATE_ROW_DATA_CELLS
            check(lib.ghostty_render_state_row_get(self._rows[0], wanted, self._cells))
        check(lib.ghostty_render_state_row_cells_select(self._cells[0], column))

    def _style_at(self, column: int) -> Style:
        self._at(column)
        wanted = lib.GHOSTTY_RENDER_STATE_ROW_CELLS_DATA_STYLE
        check(lib.ghostty_render_state_row_cells_get(self._cells[0], wanted, self._style))
        found = self._style[0]
        attributes = sum(bit for name, bit in _ATTRIBUTES if getattr(found, name))
        shades = _shade(found.fg_color), _shade(found.bg_color)
        if not found.underline:
            return Style(*shades, int(attributes))
        line = 0 if found.underline == lib.GHOSTTY_SGR_UNDERLINE_SINGLE else found.underline
        return Style(*shades, int(attributes), line, _shade(found.underline_color))

    def _parts(self, column: int) -> str:
        """Give a character of several parts: a letter with marks, a family."""
        self._at(column)
        count = ffi.new("uint32_t*")
        wanted = lib.GHOSTTY_RENDER_STATE_ROW_CELLS_DATA_GRAPHEMES_LEN
        check(lib.ghostty_render_state_row_cells_get(self._cells[0], wanted, count))
        points = ffi.new("uint32_t[]", max(count[0], 1))
        wanted = lib.GHOSTTY_RENDER_STATE_ROW_CELLS_DATA_GRAPHEMES_BUF
        check(lib.ghostty_render_state_row_cells_get(self._cells[0], wanted, points))
        return "".join(map(chr, points[0 : min(count[0], PARTS_KEPT)])) or " "


class _Meaning(NamedTuple):
    """What a cell's number means; `cells` 0: the second half of a wide character; `background`: it has nothing else."""

    text: str
    cells: int
    style: int
    background: Style | None
    alone: bool  # a character with a cell of its own
    empty: bool  # nothing was ever written there


_PARTS: Final = "\0"  # no character of a screen: the text must be asked for


@lru_cache(CACHED)
def _meaning(cell: int) -> _Meaning:
    tag = _of_cell(cell, "CONTENT_TAG", "GhosttyCellContentTag")
    wide = _of_cell(cell, "WIDE", "GhosttyCellWide")
    cells = {lib.GHOSTTY_CELL_WIDE_WIDE: 2, lib.GHOSTTY_CELL_WIDE_SPACER_TAIL: 0}.get(wide, 1)
    if tag == lib.GHOSTTY_CELL_CONTENT_BG_COLOR_PALETTE:
        number = _of_cell(cell, "COLOR_PALETTE", "GhosttyColorPaletteIndex")
        return _Meaning(" ", 1, 0, Style(background=int(number)), alone=True, empty=True)
    if tag == lib.GHOSTTY_CELL_CONTENT_BG_COLOR_RGB:
        colour = _direct(_of_cell(cell, "COLOR_RGB", "GhosttyColorRgb"))
        return _Meaning(" ", 1, 0, Style(background=colour), alone=True, empty=True)
    point = _of_cell(cell, "CODEPOINT", "uint32_t")
    text = _PARTS if tag == lib.GHOSTTY_CELL_CONTENT_CODEPOINT_GRAPHEME else chr(point or 0x20)
    style = int(_of_cell(cell, "STYLE_ID", "uint16_t"))
    alone = cells == 1 and text != _PARTS
    return _Meaning(text if cells else "", cells, style, None, alone=alone, empty=alone and not point)


def _of_cell(cell: int, name: str, kind: str) -> Any:
    found = ffi.new(f"{kind}*")
    check(lib.ghostty_cell_get(cell, getattr(lib, f"GHOSTTY_CELL_DATA_{name}"), found))
    return found[0]


def _shade(colour: Any) -> int:
    if colour.tag == lib.GHOSTTY_STYLE_COLOR_PALETTE:
        return int(colour.value.palette)
    return _direct(colour.value.rgb) if colour.tag == lib.GHOSTTY_STYLE_COLOR_RGB else DEFAULT


def _direct(rgb: Any) -> int:
    return int(DIRECT | rgb.r << 16 | rgb.g << 8 | rgb.b)


def check(result: int) -> None:
    """Raise ScreenError where the library could not do something."""
    if result:
        raise ScreenError(f"the terminal could not be emulated ({int(result)})")
