"""Notices drawn over a session: text as uncompressed bitmap updates, which every client shows without any agreement.

MS-RDPBCGR 2.2.9.1.1.3.1.2 (bitmap data) and 2.2.9.1.2.1.2 (its fast-path update).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from proxyd.protocols.rdp.fastpath import Fragment, Update, UpdateCode, build_output
from proxyd.protocols.rdp.updates import Bitmap, build_bitmaps

MAX_STRIP: Final = 15_000  # bytes of pixels: a fast-path frame within 14 bits, which clients of all ages read
_ALIGN: Final = 4  # widths of bitmaps are multiples of it, 2.2.9.1.1.3.1.2.2
_DEPTH: Final = 32
_BYTES: Final = 4
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


def draw(text: str, width: int, height: int) -> Banner:
    """Draw a notice for a screen of this size, in its middle, near its upper edge."""
    picture = _write(text[:_MAX_TEXT], max(_ALIGN, width - _ALIGN))
    picture = picture.crop((0, 0, picture.width, min(picture.height, max(1, height))))
    left = max(0, (width - picture.width) // 2)
    top = min(_TOP, max(0, height - picture.height))
    return Banner(left, top, picture.width, picture.height, show(picture, left, top))


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
    font = ImageFont.load_default(_FONT_SIZE)
    lines = _wrap(text, font, most - 2 * _MARGIN)
    wanted = max(int(font.getlength(line)) for line in lines) + 2 * _MARGIN
    ascent, descent = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (_FONT_SIZE, 0)
    step = ascent + descent
    size = (min(most, -(-wanted // _ALIGN) * _ALIGN) // _ALIGN * _ALIGN, step * len(lines) + 2 * _MARGIN)
    picture = Image.new("RGB", size, _BACKGROUND)
    draw_on = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw_on.text((_MARGIN, _MARGIN + number * step), line, fill=_INK, font=font)
    return picture


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int) -> list[str]:
    lines = [""]
    for word in "".join(c if c.isprintable() else " " for c in text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > most:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
