"""One terminal: bytes and sizes go in, what its screen shows comes out. libghostty does the emulation, in this process.

Rule 1: nothing that is fed raises; a terminal asks nothing of the world: no answer, clipboard, file, sound or picture.
Rule 2: a screen can be left and gone on with: what `saved` gives holds both of its screens, the modes and an unfinished
        sequence, and a screen made of it shows what this one will show. It can't be left inside a sequence longer than
        UNFINISHED, nor where the next letter wraps at a margin that is not the screen's edge.
Rule 3: memory is the screen, no history: a size is cut to MAX_COLUMNS and MAX_ROWS, however large a client says it is.
Rule 4: text is what the target sent: whoever shows it to a terminal or a browser makes it harmless first.

pyghostty is cffi over libghostty-vt; `lib` names are ghostty/vt/*.h's. Only this module knows it.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pyghostty._ffi import ffi, lib, union_fn
from pyghostty.core import init_sized

from proxyd.errors import FormatError
from proxyd.page import DEFAULT, DIRECT, PLAIN, Attribute, Cursor, Page, Run, Style

COLUMNS, ROWS = 80, 24  # a terminal that never said its size
MAX_COLUMNS: Final = 1000  # wider than any monitor shows in letters one can read
MAX_ROWS: Final = 500
UNFINISHED: Final = 1 << 16  # bytes of a sequence that has not ended: titles and colours are far shorter
CACHED: Final = 1 << 15  # different cells whose meaning is kept: a screen of all colours has some thousand
_CELL: Final = 8  # bytes: GhosttyCell is a u64
_BLANK: Final = 0  # a cell nothing was written to

_grid_ref: Final = union_fn(
    "ghostty_terminal_grid_ref", "GhosttyResult(*)(GhosttyTerminal, GhosttyPointS, GhosttyGridRef*)"
)
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


def _field(name: str, kind: str) -> tuple[int, Any]:
    """Give what is asked of a terminal: its number, and where the answer goes."""
    return getattr(lib, f"GHOSTTY_TERMINAL_DATA_{name}"), ffi.typeof(
        kind if kind.endswith("]") else f"{kind}*"
    )


_COLUMN_COUNT, _ROW_COUNT = _field("COLS", "uint16_t"), _field("ROWS", "uint16_t")
_CURSOR_COLUMN, _CURSOR_ROW = _field("CURSOR_X", "uint16_t"), _field("CURSOR_Y", "uint16_t")
_CURSOR_WAITS = _field("CURSOR_PENDING_WRAP", "bool")
_CURSOR_VISIBLE, _SCREEN = _field("CURSOR_VISIBLE", "bool"), _field("ACTIVE_SCREEN", "GhosttyTerminalScreen")
_TITLE, _PALETTE = _field("TITLE", "GhosttyString"), _field("COLOR_PALETTE", "GhosttyColorRgb[256]")
_FOREGROUND = _field("COLOR_FOREGROUND", "GhosttyColorRgb")
_BACKGROUND = _field("COLOR_BACKGROUND", "GhosttyColorRgb")
_ALTERNATE: Final = int(lib.GHOSTTY_TERMINAL_SCREEN_ALTERNATE)


class ScreenError(FormatError):
    """The emulator could not do what was asked of it: no memory, or a saved state that is none."""


class ScreenModel:
    """A terminal and what its screen shows now."""

    def __init__(self, columns: int = COLUMNS, rows: int = ROWS, *, saved: bytes | None = None) -> None:
        """Begin with an empty screen (a size of 0 is the usual one), or go on where another stood. Raises ScreenError."""
        terminal = _made(*_bounded(columns, rows)) if saved is None else _decoded(saved)
        self._terminal = terminal
        self._free = weakref.finalize(self, lib.ghostty_terminal_free, terminal)
        self._view: _View | None = None
        self._format = _as_text()
        self._set(
            "KITTY_IMAGE_STORAGE_LIMIT", ffi.new("uint64_t*", 0)
        )  # no picture, so no file is read for one
        self._set("SCROLLBACK_MAX_LINES", ffi.new("size_t*", 0))
        self._set("CONTINUATION_MAX_BYTES", ffi.new("size_t*", UNFINISHED))

    # ------------------------------------------------------------------ what goes in

    def feed(self, data: bytes) -> None:
        """Take output as it came; it may be cut anywhere."""
        lib.ghostty_terminal_vt_write(self._terminal, data, len(data))

    def resize(self, columns: int, rows: int) -> None:
        """Take a new size; 0 is the usual one. Raises ScreenError when there is no memory."""
        wanted = _bounded(columns, rows)
        if wanted != self.size:
            _check(lib.ghostty_terminal_resize(self._terminal, *wanted, 0, 0))

    # ------------------------------------------------------------------ what comes out

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self._get(_COLUMN_COUNT)[0], self._get(_ROW_COUNT)[0]

    @property
    def cells(self) -> int:
        """How many cells it has."""
        columns, rows = self.size
        return columns * rows

    @property
    def cursor(self) -> Cursor:
        """The cursor."""
        column, row = self._get(_CURSOR_COLUMN)[0], self._get(_CURSOR_ROW)[0]
        return Cursor(column, row, bool(self._get(_CURSOR_VISIBLE)[0]))

    @property
    def at(self) -> tuple[int, int]:
        """The cursor's column and row."""
        return self._get(_CURSOR_COLUMN)[0], self._get(_CURSOR_ROW)[0]

    @property
    def alternate(self) -> bool:
        """Whether a full-screen program shows on the alternate screen."""
        return int(self._get(_SCREEN)[0]) == _ALTERNATE

    @property
    def title(self) -> str:
        """The window's title as the target set it."""
        text = self._get(_TITLE)[0]
        return bytes(ffi.buffer(text.ptr, text.len)).decode(errors="replace") if text.len else ""

    @property
    def palette(self) -> tuple[int, ...]:
        """The 256 colours as 0xRRGGBB, as the target left them."""
        colours = self._get(_PALETTE)
        return tuple(one.r << 16 | one.g << 8 | one.b for one in colours)

    def colours(self) -> tuple[int, int]:
        """Give what the target made of the usual foreground and background: 0xRRGGBB, or DEFAULT."""
        return self._colour(_FOREGROUND), self._colour(_BACKGROUND)

    def changed(self) -> list[int]:
        """Give the rows that changed since this was last asked: all of them at first and after a new size."""
        return self._looked().changed()

    def paragraphs(self, *, without_cursor: bool) -> list[str]:
        """Give the text, wrapped lines made one and no empty ones; on wish without the row the cursor is in."""
        columns, rows = self.size
        if not without_cursor:
            return self._formatted(0, rows - 1, columns)
        at = self.cursor.row
        return self._formatted(0, at - 1, columns) + self._formatted(at + 1, rows - 1, columns)

    def between(self, first: tuple[int, int], last: tuple[int, int]) -> list[str]:
        """Give the lines from one place (column, row) to another, both included, with wrapped ones made one."""
        options, selection = self._format
        self._place(selection, "start", *first)
        self._place(selection, "end", *last)
        data, length = ffi.new("uint8_t**"), ffi.new("size_t*")
        format_ = lib.ghostty_terminal_selection_format_alloc
        _check(format_(self._terminal, ffi.NULL, options[0], data, length))
        try:
            return bytes(ffi.buffer(data[0], length[0])).decode(errors="replace").split("\n")
        finally:
            lib.ghostty_free(ffi.NULL, data[0], length[0])

    def _formatted(self, first: int, last: int, columns: int) -> list[str]:
        if first > last:
            return []
        return [line for line in self.between((0, first), (columns - 1, last)) if line]

    def _place(self, selection: Any, end: str, column: int, row: int) -> None:
        point = ffi.new("GhosttyPointS*")
        point.tag, point.value.x, point.value.y = lib.GHOSTTY_POINT_TAG_ACTIVE, column, row
        _check(_grid_ref(self._terminal, point[0], ffi.addressof(selection[0], end)))

    def text(self) -> list[str]:
        """Give the rows as text, without blanks at their ends."""
        view = self._looked()
        return [view.line(row) for row in range(self.size[1])]

    def rows(self, wanted: Collection[int] | None = None) -> dict[int, list[Run]]:
        """Give rows, all or those that are wanted, as runs; blank cells of the usual style at their ends are left out."""
        return self._looked().rows(wanted)

    def page(self) -> Page:
        """Give all it shows."""
        lines = list(self.rows().values())
        foreground, background = self.colours()
        return Page(
            *self.size, lines, self.cursor, self.alternate, self.title, self.palette, foreground, background
        )

    def saved(self) -> bytes | None:
        """Give what another one goes on from; None where it can't be left (rule 2)."""
        waits, (columns, _) = self._get(_CURSOR_WAITS)[0], self.size
        if waits and self._get(_CURSOR_COLUMN)[0] < columns - 1:
            return None  # at a right margin, about to wrap: the library's snapshot does not bring that back
        data, length = ffi.new("uint8_t**"), ffi.new("size_t*")
        if lib.ghostty_snapshot_encode_alloc(self._terminal, ffi.NULL, data, length):
            return None
        try:
            return bytes(ffi.buffer(data[0], length[0]))
        finally:
            lib.ghostty_free(ffi.NULL, data[0], length[0])

    def _looked(self) -> _View:
        """Look at the screen as it is now."""
        if self._view is None:
            self._view = _View()
        self._view.update(self._terminal)
        return self._view

    def _colour(self, field: tuple[int, Any]) -> int:
        found = ffi.new(field[1])
        if lib.ghostty_terminal_get(self._terminal, field[0], found):
            return DEFAULT  # no value: the target has not set it
        return int(found.r << 16 | found.g << 8 | found.b)

    def _get(self, field: tuple[int, Any]) -> Any:
        found = ffi.new(field[1])
        _check(lib.ghostty_terminal_get(self._terminal, field[0], found))
        return found

    def _set(self, name: str, value: Any) -> None:
        _check(lib.ghostty_terminal_set(self._terminal, getattr(lib, f"GHOSTTY_TERMINAL_OPT_{name}"), value))


class _View:
    """A look at a screen: the cells of its rows, read in one piece each; what they mean is asked of the library once."""

    def __init__(self) -> None:
        state, rows = ffi.new("GhosttyRenderState*"), ffi.new("GhosttyRenderStateRowIterator*")
        cells = ffi.new("GhosttyRenderStateRowCells*")
        _check(lib.ghostty_render_state_new(ffi.NULL, state))
        weakref.finalize(self, lib.ghostty_render_state_free, state[0])
        _check(lib.ghostty_render_state_row_iterator_new(ffi.NULL, rows))
        weakref.finalize(self, lib.ghostty_render_state_row_iterator_free, rows[0])
        _check(lib.ghostty_render_state_row_cells_new(ffi.NULL, cells))
        weakref.finalize(self, lib.ghostty_render_state_row_cells_free, cells[0])
        self._state, self._rows, self._cells = state[0], rows, cells
        self._row, self._raw = ffi.new("uint16_t*"), ffi.new("GhosttyCellsView*")
        self._style = init_sized("GhosttyStyle")
        self._letters: list[list[int]] = []  # by row: its cells, as they were when it was last dirty
        self._dirty: set[int] = set()
        self._turned = False  # whether `_cells` is of the row the iterator is at

    def update(self, terminal: Any) -> None:
        """Look again."""
        _check(lib.ghostty_render_state_update(self._state, terminal))
        count = self._count()
        if count != len(self._letters):
            self._letters = [[] for _ in range(count)]
            self._dirty = set()
        self._begin()
        while lib.ghostty_render_state_row_iterator_next_dirty(self._rows[0], self._row):
            row = self._row[0]
            self._letters[row] = self._read_row()
            self._dirty.add(row)
        _check(lib.ghostty_render_state_clean(self._state))

    def changed(self) -> list[int]:
        rows, self._dirty = sorted(self._dirty), set()
        return rows

    def line(self, row: int) -> str:
        text = "".join([_meaning(cell).text for cell in self._letters[row]]).rstrip()
        return text if _PARTS not in text else "".join(run.text for run in self.rows((row,))[row]).rstrip()

    def rows(self, wanted: Collection[int] | None) -> dict[int, list[Run]]:
        self._begin()
        found: dict[int, list[Run]] = {}
        for row, letters in enumerate(self._letters):
            lib.ghostty_render_state_row_iterator_next(self._rows[0])
            if wanted is None or row in wanted:
                found[row] = list(self._runs(letters))
        return found

    def _count(self) -> int:
        _check(lib.ghostty_render_state_get(self._state, lib.GHOSTTY_RENDER_STATE_DATA_ROWS, self._row))
        return int(self._row[0])

    def _begin(self) -> None:
        wanted = lib.GHOSTTY_RENDER_STATE_DATA_ROW_ITERATOR
        _check(lib.ghostty_render_state_get(self._state, wanted, self._rows))

    def _read_row(self) -> list[int]:
        wanted = lib.GHOSTTY_RENDER_STATE_ROW_DATA_CELLS_RAW
        _check(lib.ghostty_render_state_row_get(self._rows[0], wanted, self._raw))
        view = self._raw[0]
        return memoryview(ffi.buffer(view.ptr, view.len * _CELL)).cast("Q").tolist()

    def _runs(self, letters: list[int]) -> Iterator[Run]:
        """Yield the runs of the row the iterator is at."""
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
                    end += 1
                text = "".join([one.text for one in meanings[column:end]])
                if end == used and style == PLAIN:
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
            _check(lib.ghostty_render_state_row_get(self._rows[0], wanted, self._cells))
        _check(lib.ghostty_render_state_row_cells_select(self._cells[0], column))

    def _style_at(self, column: int) -> Style:
        self._at(column)
        wanted = lib.GHOSTTY_RENDER_STATE_ROW_CELLS_DATA_STYLE
        _check(lib.ghostty_render_state_row_cells_get(self._cells[0], wanted, self._style))
        found = self._style[0]
        attributes = sum(bit for name, bit in _ATTRIBUTES if getattr(found, name))
        return Style(_shade(found.fg_color), _shade(found.bg_color), int(attributes))

    def _parts(self, column: int) -> str:
        """Give a character of several parts: a letter with marks, a family."""
        self._at(column)
        count = ffi.new("uint32_t*")
        wanted = lib.GHOSTTY_RENDER_STATE_ROW_CELLS_DATA_GRAPHEMES_LEN
        _check(lib.ghostty_render_state_row_cells_get(self._cells[0], wanted, count))
        points = ffi.new("uint32_t[]", max(count[0], 1))
        wanted = lib.GHOSTTY_RENDER_STATE_ROW_CELLS_DATA_GRAPHEMES_BUF
        _check(lib.ghostty_render_state_row_cells_get(self._cells[0], wanted, points))
        return "".join(map(chr, points[0 : count[0]])) or " "


class _Meaning(NamedTuple):
    """What a cell's number means; `cells` 0: the second half of a wide character; `background`: it has nothing else."""

    text: str
    cells: int
    style: int
    background: Style | None
    alone: bool  # a character with a cell of its own


_PARTS: Final = "\0"  # no character of a screen: the text must be asked for


@lru_cache(CACHED)
def _meaning(cell: int) -> _Meaning:
    tag = _of_cell(cell, "CONTENT_TAG", "GhosttyCellContentTag")
    wide = _of_cell(cell, "WIDE", "GhosttyCellWide")
    cells = {lib.GHOSTTY_CELL_WIDE_WIDE: 2, lib.GHOSTTY_CELL_WIDE_SPACER_TAIL: 0}.get(wide, 1)
    if tag == lib.GHOSTTY_CELL_CONTENT_BG_COLOR_PALETTE:
        number = _of_cell(cell, "COLOR_PALETTE", "GhosttyColorPaletteIndex")
        return _Meaning(" ", 1, 0, Style(background=int(number)), alone=True)
    if tag == lib.GHOSTTY_CELL_CONTENT_BG_COLOR_RGB:
        colour = _direct(_of_cell(cell, "COLOR_RGB", "GhosttyColorRgb"))
        return _Meaning(" ", 1, 0, Style(background=colour), alone=True)
    if tag == lib.GHOSTTY_CELL_CONTENT_CODEPOINT_GRAPHEME:
        text = _PARTS
    else:
        text = chr(_of_cell(cell, "CODEPOINT", "uint32_t") or 0x20)
    style = int(_of_cell(cell, "STYLE_ID", "uint16_t"))
    return _Meaning(text if cells else "", cells, style, None, alone=cells == 1 and text != _PARTS)


def _of_cell(cell: int, name: str, kind: str) -> Any:
    found = ffi.new(f"{kind}*")
    _check(lib.ghostty_cell_get(cell, getattr(lib, f"GHOSTTY_CELL_DATA_{name}"), found))
    return found[0]


def _shade(colour: Any) -> int:
    if colour.tag == lib.GHOSTTY_STYLE_COLOR_PALETTE:
        return int(colour.value.palette)
    return _direct(colour.value.rgb) if colour.tag == lib.GHOSTTY_STYLE_COLOR_RGB else DEFAULT


def _direct(rgb: Any) -> int:
    return int(DIRECT | rgb.r << 16 | rgb.g << 8 | rgb.b)


def _made(columns: int, rows: int) -> Any:
    made = ffi.new("GhosttyTerminal*")
    _check(lib.ghostty_terminal_new(ffi.NULL, made, columns, rows))
    return made[0]


def _decoded(saved: bytes) -> Any:
    """Make the terminal that was saved."""
    decoder, made = ffi.new("GhosttySnapshotDecoder*"), ffi.new("GhosttyTerminal*")
    _check(lib.ghostty_snapshot_decoder_new_buf(ffi.NULL, decoder, saved, len(saved)))
    try:
        limit, kept = ffi.new("size_t*", UNFINISHED), ffi.new("bool*", True)
        option = lib.GHOSTTY_SNAPSHOT_DECODER_OPT_MAX_CONTINUATION_BYTES
        _check(lib.ghostty_snapshot_decoder_set(decoder[0], option, limit))
        option = lib.GHOSTTY_SNAPSHOT_DECODER_OPT_RETAIN_CONTINUATION
        _check(lib.ghostty_snapshot_decoder_set(decoder[0], option, kept))
        _check(lib.ghostty_snapshot_decoder_decode(decoder[0], made))
    finally:
        lib.ghostty_snapshot_decoder_free(decoder[0])
    return made[0]


def _bounded(columns: int, rows: int) -> tuple[int, int]:
    return min(columns, MAX_COLUMNS) or COLUMNS, min(rows, MAX_ROWS) or ROWS


def _as_text() -> tuple[Any, Any]:
    """Give how a part of a screen is written as text, and the part, still to be said."""
    options, part = init_sized("GhosttyTerminalSelectionFormatOptions"), init_sized("GhosttySelection")
    options.emit, options.unwrap, options.trim = lib.GHOSTTY_FORMATTER_FORMAT_PLAIN, True, True
    options.selection = part
    return options, part


def _check(result: int) -> None:
    if result:
        raise ScreenError(f"the terminal could not be emulated ({int(result)})")
