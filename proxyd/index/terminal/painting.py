"""A terminal's cells as a picture: letters from the system's monospaced font, colours as the target set them.

Rule 1: any text can be painted: what the fonts do not have is a box, what moves or hides text is a blank.
Rule 2: only rows that differ from what is painted already are painted; a row that was painted lately is copied.
Rule 3: nothing here emulates: cells come in (proxyd.page), pixels go out, so whoever has cells may paint.

DejaVu Sans Mono (Debian's fonts-dejavu-core) has Latin, Greek, Cyrillic, lines and blocks; wide letters come from the first
of _WIDE the system has. Where there is none of them Pillow's own font paints ASCII, letter by letter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from proxyd.characters import UNSAFE
from proxyd.index.area import Area
from proxyd.page import DEFAULT, DIRECT, PLAIN, Attribute, Cursor, Page, Run, Style

FOREGROUND: Final = 0xD8D8D8  # where the target has not said: readable for hours, and in print
BACKGROUND: Final = 0x181818
LETTERS_PX: Final = 16  # size of letters in a picture of its own: 10 x 19 pixels a cell
LEAST_PX, MOST_PX = 6, 40  # sizes of letters that fit a picture: smaller ones can't be read
ROWS_KEPT: Final = 256  # painted rows: 15 MB of 160 columns
GLYPHS_KEPT: Final = 4096
_REGULAR, _BOLD = "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"
_WIDE: Final = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "unifont.otf", "unifont.ttf")
_NO_LETTER: Final = "\uffff"  # a noncharacter (Unicode 23.7): every font shows it as what it does not have
_FAINT: Final = 0.5  # of the foreground, the rest is background
_UNDER, _OVER = Attribute.UNDERLINE, Attribute.OVERLINE

Colour = tuple[int, int, int]


class _Face(NamedTuple):
    """The fonts of one size: regular, bold, and for wide letters; a cell's width and height; where letters stand."""

    regular: ImageFont.FreeTypeFont
    bold: ImageFont.FreeTypeFont
    wide: ImageFont.FreeTypeFont | None
    width: int
    height: int
    ascent: int


@cache
def _face(size: int) -> _Face:
    """Give the fonts of a size; reads files once."""
    try:
        regular, bold = ImageFont.truetype(_REGULAR, size), ImageFont.truetype(_BOLD, size)
    except OSError:
        found = ImageFont.load_default(size)
        assert isinstance(found, ImageFont.FreeTypeFont)  # noqa: S101 - with a size it is one
        regular = bold = found
    ascent, descent = regular.getmetrics()
    width = max(round(regular.getlength("M")), 1)
    return _Face(regular, bold, _wide(size), width, ascent + descent, ascent)


def _wide(size: int) -> ImageFont.FreeTypeFont | None:
    for name in _WIDE:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None


def fitting(columns: int, rows: int, width: int, height: int) -> int:
    """Give the largest size of letters with which so many cells fit into a picture; LEAST_PX where none does."""
    for size in range(MOST_PX, LEAST_PX, -1):
        face = _face(size)
        if face.width * columns <= width and face.height * rows <= height:
            return size
    return LEAST_PX


def picture(page: Page, width: int, height: int) -> Image.Image:
    """Paint a page into so many pixels at most: letters no larger than usual, and one that has none so small scaled down."""
    sheet = Sheet(page.columns, page.rows, min(fitting(page.columns, page.rows, width, height), LETTERS_PX))
    sheet.show(page)
    ratio = min(width / sheet.image.width, height / sheet.image.height)
    if ratio >= 1:
        return sheet.image
    size = max(round(sheet.image.width * ratio), 1), max(round(sheet.image.height * ratio), 1)
    return sheet.image.resize(size, Image.Resampling.BOX)


class Sheet:
    """The picture of a terminal of one size; `image` is what was painted last. For one terminal, and one thread."""

    def __init__(self, columns: int, rows: int, size: int = LETTERS_PX) -> None:
        self._face = face = _face(size)
        self._columns, self._rows = columns, rows
        self.image = Image.new("RGB", (columns * face.width, rows * face.height), _rgb(BACKGROUND))
        self._lines: dict[int, list[Run]] = {}
        self._cursor: Cursor | None = None
        self._colours: tuple[Sequence[int], int, int] = ((), DEFAULT, DEFAULT)
        self._painted: OrderedDict[tuple[Run, ...], Image.Image] = OrderedDict()
        self._glyphs: dict[tuple[str, int, bool], Image.Image] = {}

    def show(self, page: Page) -> list[Area]:
        """Paint a page of this size; gives what it changed."""
        lines = dict(enumerate(page.lines))
        return self.paint(lines, page.cursor, page.palette, page.foreground, page.background)

    def paint(
        self,
        lines: Mapping[int, list[Run]],
        cursor: Cursor,
        palette: Sequence[int],
        foreground: int = DEFAULT,
        background: int = DEFAULT,
    ) -> list[Area]:
        """Paint rows that changed, and the cursor; gives the rectangles that are new in the picture."""
        colours = (palette, foreground, background)
        stale = {row for row, line in lines.items() if self._lines.get(row) != line}
        self._lines.update(lines)
        if colours != self._colours:
            self._colours = colours
            self._painted.clear()
            stale = set(range(self._rows))
        if cursor != self._cursor:
            stale |= {one.row for one in (cursor, self._cursor) if one and one.visible}
            self._cursor = cursor
        face = self._face
        areas = []
        for row in sorted(row for row in stale if row < self._rows):
            self.image.paste(self._row(self._lines.get(row, [])), (0, row * face.height))
            areas.append(Area(0, row * face.height, self.image.width, face.height))
        if (
            cursor.visible
            and cursor.row in stale
            and cursor.row < self._rows
            and cursor.column < self._columns
        ):
            self._point(cursor)
        return areas

    def _point(self, cursor: Cursor) -> None:
        """Show the cursor's cell with its colours turned."""
        face = self._face
        left, top = cursor.column * face.width, cursor.row * face.height
        box = (left, top, left + face.width, top + face.height)
        self.image.paste(self.image.crop(box).point(lambda value: 0xFF - value), box)

    def _row(self, line: list[Run]) -> Image.Image:
        """Give a row's picture (rule 2)."""
        key = tuple(line)
        if key in self._painted:
            self._painted.move_to_end(key)
            return self._painted[key]
        face = self._face
        row = Image.new("RGB", (self._columns * face.width, face.height), self._inks(PLAIN)[1])
        for run in line:
            self._run(row, run)
        self._painted[key] = row
        if len(self._painted) > ROWS_KEPT:
            self._painted.popitem(last=False)
        return row

    def _run(self, row: Image.Image, run: Run) -> None:
        face, attributes = self._face, run.style.attributes
        left, width = run.column * face.width, run.cells * face.width
        ink, paper = self._inks(run.style)
        row.paste(paper, (left, 0, left + width, face.height))
        if attributes & Attribute.INVISIBLE:
            return
        if not run.text.isspace():
            row.paste(ink, (left, 0), self._mask(run, bold=bool(attributes & Attribute.BOLD)))
        if attributes & (_UNDER | _OVER | Attribute.STRIKETHROUGH):
            draw = ImageDraw.Draw(row)
            marks = ((_UNDER, face.ascent + 1), (_OVER, 0), (Attribute.STRIKETHROUGH, face.ascent * 2 // 3))
            for mark, top in marks:
                if attributes & mark:
                    draw.line((left, top, left + width - 1, top), ink)

    def _mask(self, run: Run, *, bold: bool) -> Image.Image:
        """Give where a run has ink."""
        if len(run.text) != run.cells:
            return self._glyph(run.text, run.cells, bold=bold)
        mask = Image.new("L", (run.cells * self._face.width, self._face.height))
        for at, letter in enumerate(run.text):
            if letter != " ":
                mask.paste(self._glyph(letter, 1, bold=bold), (at * self._face.width, 0))
        return mask

    def _glyph(self, letter: str, cells: int, *, bold: bool) -> Image.Image:
        key = (letter, cells, bold)
        if key not in self._glyphs:
            if len(self._glyphs) >= GLYPHS_KEPT:
                self._glyphs.clear()
            self._glyphs[key] = self._lettered(letter, cells, bold=bold)
        return self._glyphs[key]

    def _lettered(self, letter: str, cells: int, *, bold: bool) -> Image.Image:
        face = self._face
        glyph = Image.new("L", (cells * face.width, face.height))
        shown = UNSAFE.sub("", letter)
        if not any(one.isprintable() for one in shown):
            return glyph
        font = face.bold if bold else face.regular
        if face.wide is not None and cells > 1 and not _has(font, shown[0]):
            font = face.wide
        try:
            ImageDraw.Draw(glyph).text((0, face.ascent), shown, 0xFF, font=font, anchor="ls")
        except (
            ValueError,
            OSError,
            UnicodeError,
        ):  # what FreeType or the layout engine can't do with a letter
            ImageDraw.Draw(glyph).rectangle((1, 2, cells * face.width - 2, face.ascent), outline=0xFF)
        return glyph

    def _inks(self, style: Style) -> tuple[Colour, Colour]:
        return inks(style, *self._colours)


def colours_of(page: Page, style: Style) -> tuple[Colour, Colour]:
    """Give the colours of letters and of what is behind them on a page."""
    return inks(style, page.palette, page.foreground, page.background)


def inks(style: Style, palette: Sequence[int], foreground: int, background: int) -> tuple[Colour, Colour]:
    """Give the colours of letters and of what is behind them, as the target set the palette and the usual ones."""
    ink = _shade(style.foreground, palette, FOREGROUND if foreground == DEFAULT else foreground)
    paper = _shade(style.background, palette, BACKGROUND if background == DEFAULT else background)
    if style.attributes & Attribute.INVERSE:
        ink, paper = paper, ink
    if style.attributes & Attribute.FAINT:
        red, green, blue = (round(a * _FAINT + b * (1 - _FAINT)) for a, b in zip(ink, paper, strict=True))
        ink = (red, green, blue)
    return ink, paper


def _shade(colour: int, palette: Sequence[int], usual: int) -> Colour:
    if colour >= DIRECT:
        return _rgb(colour)
    return _rgb(palette[colour] if 0 <= colour < len(palette) else usual)


def _rgb(value: int) -> Colour:
    return value >> 16 & 0xFF, value >> 8 & 0xFF, value & 0xFF


def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Say whether a font has a letter: what it does not have looks as what no font has."""
    return bytes(font.getmask(letter)) != bytes(font.getmask(_NO_LETTER))
