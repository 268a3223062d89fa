"""One terminal: bytes and sizes go in, what its screen shows comes out. libghostty does the emulation, in this process.

Rule 1: nothing that is fed raises; a terminal asks nothing of the world: no answer, clipboard, file, sound or picture.
Rule 2: a screen can be left and gone on with: what `saved` gives holds both of its screens, the modes and an unfinished
        sequence, and a screen made of it shows what this one will show. It can't be left inside a sequence longer than
        UNFINISHED, nor where the next letter wraps at a margin that is not the screen's edge.
Rule 3: memory is the screen, no history: a size is cut to MAX_COLUMNS and MAX_ROWS, however large a client says it is.
Rule 4: text is what the target sent: whoever shows it to a terminal or a browser makes it harmless first.

pyghostty is cffi over libghostty-vt; `lib` names are ghostty/vt/*.h's. Only this module and cells know it.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Any, Final

from pyghostty._ffi import ffi, lib, union_fn
from pyghostty.core import init_sized

from proxyd.index.terminal.cells import View, check
from proxyd.page import DEFAULT, Cursor, Page, Run

COLUMNS, ROWS = 80, 24  # a terminal that never said its size
MAX_COLUMNS: Final = 1000  # wider than any monitor shows in letters one can read
MAX_ROWS: Final = 500
UNFINISHED: Final = 1 << 16  # bytes of a sequence that has not ended: titles and colours are far shorter

_grid_ref: Final = union_fn(
    "ghostty_terminal_grid_ref", "GhosttyResult(*)(GhosttyTerminal, GhosttyPointS, GhosttyGridRef*)"
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
_SHAPES: Final = {  # DECSCUSR
    int(lib.GHOSTTY_RENDER_STATE_CURSOR_VISUAL_STYLE_BAR): b"\x1b[6 q",
    int(lib.GHOSTTY_RENDER_STATE_CURSOR_VISUAL_STYLE_UNDERLINE): b"\x1b[4 q",
}
_ANSI: Final = 1 << 15  # in a mode's number: it is ANSI's, not DEC's


class ScreenModel:
    """A terminal and what its screen shows now."""

    def __init__(self, columns: int = COLUMNS, rows: int = ROWS, *, saved: bytes | None = None) -> None:
        """Begin with an empty screen (a size of 0 is the usual one), or go on where another stood. Raises ScreenError."""
        terminal = _made(*_bounded(columns, rows)) if saved is None else _decoded(saved)
        self._terminal = terminal
        self._free = weakref.finalize(self, lib.ghostty_terminal_free, terminal)
        self._view: View | None = None
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
            check(lib.ghostty_terminal_resize(self._terminal, *wanted, 0, 0))

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
    def waits(self) -> bool:
        """Whether the cursor stands behind the last letter of a row that is full: the next letter goes to the next row."""
        return bool(self._get(_CURSOR_WAITS)[0])

    def mode(self, number: int, *, ansi: bool = False) -> bool:
        """Whether a mode is set: one of DEC's, or one of ANSI's."""
        asked = ffi.new("GhosttyTerminalModeConfig*")
        asked.mode = number | (_ANSI if ansi else 0)
        check(lib.ghostty_terminal_get(self._terminal, lib.GHOSTTY_TERMINAL_DATA_MODE, asked))
        return bool(asked.value)

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
        check(format_(self._terminal, ffi.NULL, options[0], data, length))
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
        check(_grid_ref(self._terminal, point[0], ffi.addressof(selection[0], end)))

    def text(self) -> list[str]:
        """Give the rows as text, without blanks at their ends."""
        view = self._looked()
        return [view.line(row) for row in range(self.size[1])]

    def rows(self, wanted: Collection[int] | None = None) -> dict[int, list[Run]]:
        """Give rows, all or those that are wanted, as runs; blank cells of the usual style at their ends are left out."""
        return self._looked().rows(wanted)

    def exact(self) -> list[list[Run]]:
        """Give the rows as runs; those of cells nothing was ever written to have no text, and plain ones are left out."""
        return self._looked().exact()

    def wraps(self) -> list[bool]:
        """Say of each row whether its text goes on in the next."""
        return self._looked().wraps()

    def shape(self) -> bytes:
        """Give the sequence that sets the cursor's shape; none for the usual block."""
        return _SHAPES.get(self._looked().shape(), b"")

    def margins(self) -> bytes:
        """Give the sequence that sets the margins as they are; none where they are the screen's edges."""
        return self._beyond("scrolling_region")

    def pen(self) -> bytes:
        """Give the sequences that have the next letter written as it would be here: attributes, colours, character sets."""
        return self._beyond("style", "charsets")

    def page(self) -> Page:
        """Give all it shows."""
        lines = list(self.rows().values())
        foreground, background = self.colours()
        return Page(
            *self.size, lines, self.cursor, self.alternate, self.title, self.palette, foreground, background
        )

    def saved(self) -> bytes | None:
        """Give what another one goes on from; None where it can't be left (rule 2)."""
        columns, _ = self.size
        if self.waits and self._get(_CURSOR_COLUMN)[0] < columns - 1:
            return None  # at a right margin, about to wrap: the library's snapshot does not bring that back
        data, length = ffi.new("uint8_t**"), ffi.new("size_t*")
        if lib.ghostty_snapshot_encode_alloc(self._terminal, ffi.NULL, data, length):
            return None
        try:
            return bytes(ffi.buffer(data[0], length[0]))
        finally:
            lib.ghostty_free(ffi.NULL, data[0], length[0])

    def _beyond(self, *names: str) -> bytes:
        """Give what the library writes of the terminal's state behind its text."""
        text = self._written(())
        return self._written(names)[len(text) :]

    def _written(self, names: Collection[str]) -> bytes:
        """Have the library write the first cell, and so much of the terminal's state."""
        options, part = init_sized("GhosttyFormatterTerminalOptions"), init_sized("GhosttySelection")
        self._place(part, "start", 0, 0)
        self._place(part, "end", 0, 0)
        options.emit, options.selection = lib.GHOSTTY_FORMATTER_FORMAT_VT, part
        for name in names:
            extra = options.extra if name == "scrolling_region" else options.extra.screen
            setattr(extra, name, True)
        formatter, data, length = ffi.new("GhosttyFormatter*"), ffi.new("uint8_t**"), ffi.new("size_t*")
        check(lib.ghostty_formatter_terminal_new(ffi.NULL, formatter, self._terminal, options[0]))
        try:
            check(lib.ghostty_formatter_format_alloc(formatter[0], ffi.NULL, data, length))
            try:
                return bytes(ffi.buffer(data[0], length[0]))
            finally:
                lib.ghostty_free(ffi.NULL, data[0], length[0])
        finally:
            lib.ghostty_formatter_free(formatter[0])

    def _looked(self) -> View:
        """Look at the screen as it is now."""
        if self._view is None:
            self._view = View()
        self._view.update(self._terminal)
        return self._view

    def _colour(self, field: tuple[int, Any]) -> int:
        found = ffi.new(field[1])
        if lib.ghostty_terminal_get(self._terminal, field[0], found):
            return DEFAULT  # no value: the target has not set it
        return int(found.r << 16 | found.g << 8 | found.b)

    def _get(self, field: tuple[int, Any]) -> Any:
        found = ffi.new(field[1])
        check(lib.ghostty_terminal_get(self._terminal, field[0], found))
        return found

    def _set(self, name: str, value: Any) -> None:
        check(lib.ghostty_terminal_set(self._terminal, getattr(lib, f"GHOSTTY_TERMINAL_OPT_{name}"), value))


def _made(columns: int, rows: int) -> Any:
    made = ffi.new("GhosttyTerminal*")
    check(lib.ghostty_terminal_new(ffi.NULL, made, columns, rows))
    return made[0]


def _decoded(saved: bytes) -> Any:
    """Make the terminal that was saved."""
    decoder, made = ffi.new("GhosttySnapshotDecoder*"), ffi.new("GhosttyTerminal*")
    check(lib.ghostty_snapshot_decoder_new_buf(ffi.NULL, decoder, saved, len(saved)))
    try:
        limit, kept = ffi.new("size_t*", UNFINISHED), ffi.new("bool*", True)
        option = lib.GHOSTTY_SNAPSHOT_DECODER_OPT_MAX_CONTINUATION_BYTES
        check(lib.ghostty_snapshot_decoder_set(decoder[0], option, limit))
        option = lib.GHOSTTY_SNAPSHOT_DECODER_OPT_RETAIN_CONTINUATION
        check(lib.ghostty_snapshot_decoder_set(decoder[0], option, kept))
        check(lib.ghostty_snapshot_decoder_decode(decoder[0], made))
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
