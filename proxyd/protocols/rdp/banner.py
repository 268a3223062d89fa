"""Notices drawn over a session: text as uncompressed bitmap updates, which every client shows without any agreement.

Rule 1: any text can be drawn: what acts on a line instead of showing is a space, what a font does not have is shown as
        its nearest letter or a question mark, a word wider than the screen is broken.
Rule 2: where the system has DejaVu Sans it is used: it has Latin, Greek, Cyrillic, Hebrew and Arabic; Pillow's own font
        has ASCII alone. Right-to-left text is ordered by Pillow's layout engine, where that finds FriBidi.

The graphics pipeline paints over bitmap updates: `pipeline` shows the same pixels there.

MS-RDPBCGR 2.2.9.1.1.3.1.2 (bitmap data) and 2.2.9.1.2.1.2 (its fast-path update).
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from proxyd.characters import UNSAFE
from proxyd.protocols.rdp.fastpath import Fragment, Update, UpdateCode, build_output
from proxyd.protocols.rdp.updates import Bitmap, build_bitmaps

MAX_STRIP: Final = 15_000  # bytes of pixels: a fast-path frame within 14 bits, which clients of all ages read
_ALIGN: Final = 4  # widths of bitmaps are multiples of it, 2.2.9.1.1.3.1.2.2
_DEPTH: Final = 32
_BYTES: Final = 4
_FONT: Final = "DejaVuSans.ttf"  # Debian's fonts-dejavu-core; found where the system keeps its fonts
_FONT_SIZE: Final = 18
_MARGIN: Final = 16  # pixels around the text
_TOP: Final = 40  # pixels from the upper edge: below a connection bar
_MAX_TEXT: Final = 500  # characters
_BACKGROUND: Final = (160, 0, 0)
_INK: Final = (255, 255, 255)


@dataclass(frozen=True)
class Banner:
    """A notice that has been drawn: where it stands, and the frames that show it."""

    left: int
    top: int
    width: int
    height: int
    frames: tuple[bytes, ...]
    pixels: bytes  # blue, green, red and nothing, the top row first


def draw(text: str, width: int, height: int) -> Banner:
    """Draw a notice for a screen of this size, in its middle, near its upper edge."""
    picture = _write(text[:_MAX_TEXT], max(_ALIGN, width - _ALIGN))
    picture = picture.crop((0, 0, picture.width, min(picture.height, max(1, height))))
    left = max(0, (width - picture.width) // 2)
    top = min(_TOP, max(0, height - picture.height))
    pixels = picture.convert("RGBX").tobytes("raw", "BGRX")
    return Banner(left, top, picture.width, picture.height, show(picture, left, top), pixels)


def show(picture: Image.Image, left: int, top: int) -> tuple[bytes, ...]:
    """Give the frames that show a picture; its width is a multiple of four."""
    rows = max(1, MAX_STRIP // (picture.width * _BYTES))
    frames = []
    for at in range(0, picture.height, rows):
        strip = picture.crop((0, at, picture.width, min(at + rows, picture.height)))
        frames.append(_frame(strip, left, top + at))
    return tuple(frames)


def _frame(strip: Image.Image, left: int, top: int) -> bytes:
    upside_down = strip.transpose(Image.Transpose.FLIP_TOP_BOTTOM).convert("RGBX")
    pixels = upside_down.tobytes("raw", "BGRX")
    right, bottom = left + strip.width - 1, top + strip.height - 1
    bitmap = Bitmap(left, top, right, bottom, strip.width, strip.height, _DEPTH, 0, pixels)
    return build_output([Update(UpdateCode.BITMAP, Fragment.SINGLE, 0, build_bitmaps([bitmap]))])


def _write(text: str, most: int) -> Image.Image:
    """Draw lines of text no wider than `most` pixels."""
    font, ascii_only = _font()
    lines = _wrap(_nearest(text) if ascii_only else text, font, most - 2 * _MARGIN)
    wanted = max(int(font.getlength(line)) for line in lines) + 2 * _MARGIN
    ascent, descent = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (_FONT_SIZE, 0)
    step = ascent + descent
    size = (min(most, -(-wanted // _ALIGN) * _ALIGN) // _ALIGN * _ALIGN, step * len(lines) + 2 * _MARGIN)
    picture = Image.new("RGB", size, _BACKGROUND)
    draw_on = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw_on.text((_MARGIN, _MARGIN + number * step), line, fill=_INK, font=font)
    return picture


@functools.cache
def _font() -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, bool]:
    """Give the font to write with, and whether it has ASCII alone (rule 2); reads files once."""
    try:
        return ImageFont.truetype(_FONT, _FONT_SIZE), False
    except OSError:
        return ImageFont.load_default(_FONT_SIZE), True


def _nearest(text: str) -> str:
    """Write a text in ASCII: letters without their marks, a question mark for what has no other form."""
    bare = (mark for mark in unicodedata.normalize("NFKD", text) if not unicodedata.combining(mark))
    return "".join(mark if mark.isascii() else "?" for mark in bare)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int) -> list[str]:
    lines = [""]
    for word in "".join(c if c.isprintable() else " " for c in UNSAFE.sub(" ", text)).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > most:
            lines.append(word)
        else:
            lines[-1] = longer
        while (fits := _fitting(lines[-1], font, most)) < len(lines[-1]):
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def _fitting(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int) -> int:
    """Count the characters of a line that fit, one at least."""
    if font.getlength(line) <= most:
        return len(line)
    low, high = 1, len(line)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if font.getlength(line[:middle]) <= most else (low, middle)
    return low
