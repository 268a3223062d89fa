"""What a terminal showed, written as text, with ANSI colours, as SVG or as PNG.

Rule 1: nothing of a page acts on who reads it: controls and what reorders text are replaced, XML is escaped.
Rule 2: columns stay: a blank stands for each cell nothing is in, and in pictures each run is where its column is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from proxyd.characters import UNSAFE
from proxyd.index.terminal.painting import Sheet, colours_of
from proxyd.page import DEFAULT, DIRECT, PLAIN, Attribute, Page, Run, Style

CELL_WIDTH, CELL_HEIGHT, LETTERS = (
    8,
    17,
    13.3,
)  # of SVG: letters are 0.6 of their size wide; whole pixels leave no seams
BASELINE: Final = 13
_SGR: Final = (
    (Attribute.BOLD, "1"),
    (Attribute.FAINT, "2"),
    (Attribute.ITALIC, "3"),
    (Attribute.UNDERLINE, "4"),
    (Attribute.BLINK, "5"),
    (Attribute.INVERSE, "7"),
    (Attribute.INVISIBLE, "8"),
    (Attribute.STRIKETHROUGH, "9"),
    (Attribute.OVERLINE, "53"),
)
_FIRST_BRIGHT, _BRIGHT_END = 8, 16  # numbers of the palette that have SGR codes of their own, from 90


def text(page: Page) -> str:
    """Give the rows as lines, without the empty ones at the end."""
    return _joined("".join(part for _, part in _parts(line)).rstrip() for line in page.lines)


def ansi(page: Page) -> str:
    """Give the rows as lines with SGR sequences (ECMA-48 8.3.117), which every terminal shows; each line ends plain."""
    return _joined(_coloured(line) for line in page.lines)


def svg(page: Page) -> str:
    """Give a picture that keeps its letters."""
    width, height = page.columns * CELL_WIDTH, page.rows * CELL_HEIGHT
    _, paper = colours_of(page, PLAIN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">',
        f"<title>{_safe(page.title)}</title>" if page.title else "",
        f'<rect width="100%" height="100%" fill="{_hex(paper)}"/>',
        f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{LETTERS}" shape-rendering="crispEdges">',
    ]
    for row, line in enumerate(page.lines):
        for run in line:
            parts += _drawn(page, run, row * CELL_HEIGHT)
    if page.cursor.visible:
        left, top = page.cursor.column * CELL_WIDTH, page.cursor.row * CELL_HEIGHT
        place = f'x="{left:g}" y="{top}" width="{CELL_WIDTH:g}" height="{CELL_HEIGHT}"'
        parts.append(f'<rect {place} fill="#ffffff" fill-opacity="0.5"/>')
    return "\n".join([*filter(None, parts), "</g>", "</svg>", ""])


def png(page: Page) -> bytes:
    """Give a picture, letters painted with the system's fonts."""
    sheet = Sheet(page.columns, page.rows)
    sheet.show(page)
    file = io.BytesIO()
    sheet.image.save(file, "PNG")
    return file.getvalue()


def _joined(lines: Iterator[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n"


def _safe(value: str) -> str:
    return escape(UNSAFE.sub("\N{REPLACEMENT CHARACTER}", value))


def _parts(line: list[Run]) -> Iterator[tuple[Style, str]]:
    """Yield a row's runs with blanks where nothing is."""
    column = 0
    for run in line:
        if run.column > column:
            yield PLAIN, " " * (run.column - column)
        yield run.style, UNSAFE.sub("\N{REPLACEMENT CHARACTER}", run.text)
        column = run.column + run.cells


def _coloured(line: list[Run]) -> str:
    shown, before = "", PLAIN
    for style, part in _parts(line):
        shown += ("" if style == before else f"\x1b[{sgr(style)}m") + part
        before = style
    return shown if before == PLAIN else f"{shown}\x1b[0m"


def sgr(style: Style) -> str:
    """Give the parameters of SGR (ECMA-48 8.3.117) that set a style, whatever was set before."""
    codes = ["0", *(code for bit, code in _SGR if style.attributes & bit)]
    codes += [f"4:{style.line}"] if style.line else []
    codes += _shade(style.foreground, 30) + _shade(style.background, 40) + _line_shade(style.line_colour)
    return ";".join(codes)


def _line_shade(colour: int) -> list[str]:
    if colour == DEFAULT:
        return []
    return _shade(colour, 50) if colour >= DIRECT else ["58", "5", str(colour)]


def _shade(colour: int, base: int) -> list[str]:
    if colour == DEFAULT:
        return []
    if colour >= DIRECT:
        return [str(base + 8), "2", str(colour >> 16 & 0xFF), str(colour >> 8 & 0xFF), str(colour & 0xFF)]
    if colour < _FIRST_BRIGHT:
        return [str(base + colour)]
    if colour < _BRIGHT_END:
        return [str(base + 60 + colour - _FIRST_BRIGHT)]
    return [str(base + 8), "5", str(colour)]


def _drawn(page: Page, run: Run, top: int) -> Iterator[str]:
    """Yield the elements of one run."""
    style, left, width = run.style, run.column * CELL_WIDTH, run.cells * CELL_WIDTH
    ink, paper = colours_of(page, style)
    if paper != colours_of(page, PLAIN)[1]:
        yield f'<rect x="{left:g}" y="{top}" width="{width:g}" height="{CELL_HEIGHT}" fill="{_hex(paper)}"/>'
    lines = (
        (Attribute.UNDERLINE, "underline"),
        (Attribute.STRIKETHROUGH, "line-through"),
        (Attribute.OVERLINE, "overline"),
    )
    decoration = " ".join(name for bit, name in lines if style.attributes & bit)
    if style.attributes & Attribute.INVISIBLE or (run.text.isspace() and not decoration):
        return
    marks = ' font-weight="bold"' if style.attributes & Attribute.BOLD else ""
    marks += ' font-style="italic"' if style.attributes & Attribute.ITALIC else ""
    marks += f" text-decoration={quoteattr(decoration)}" if decoration else ""
    place = f'x="{left:g}" y="{top + BASELINE}" textLength="{width:g}" fill="{_hex(ink)}"'
    yield f'<text {place}{marks} xml:space="preserve">{_safe(run.text)}</text>'  # browsers read it here alone


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
