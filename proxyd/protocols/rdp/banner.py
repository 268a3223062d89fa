"""Notices drawn over a session: text as uncompressed bitmap updates, which every client shows without any agreement.

The graphics pipeline paints over bitmap updates: `pipeline` shows the same pixels there.

MS-RDPBCGR 2.2.9.1.1.3.1.2 (bitmap data) and 2.2.9.1.2.1.2 (its fast-path update).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

from proxyd.protocols.rdp import painting
from proxyd.protocols.rdp.fastpath import Fragment, Update, UpdateCode, build_output
from proxyd.protocols.rdp.lettering import face, wrapped
from proxyd.protocols.rdp.painting import ALIGN, DEPTH_32
from proxyd.protocols.rdp.updates import build_bitmaps

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
    picture = _write(text[:_MAX_TEXT], max(ALIGN, width - ALIGN))
    picture = picture.crop((0, 0, picture.width, min(picture.height, max(1, height))))
    left = max(0, (width - picture.width) // 2)
    top = min(_TOP, max(0, height - picture.height))
    pixels = picture.convert("RGBX").tobytes("raw", "BGRX")
    return Banner(left, top, picture.width, picture.height, show(picture, left, top), pixels)


def show(picture: Image.Image, left: int, top: int) -> tuple[bytes, ...]:
    """Give the frames that show a picture; its width is a multiple of four."""
    return tuple(
        build_output([Update(UpdateCode.BITMAP, Fragment.SINGLE, 0, build_bitmaps([strip]))])
        for strip in painting.strips(picture, left, top, DEPTH_32)
    )


def _write(text: str, most: int) -> Image.Image:
    """Draw lines of text no wider than `most` pixels."""
    by = face(_FONT_SIZE)
    lines = wrapped(text, by, most - 2 * _MARGIN)
    wanted = max(by.width(line) for line in lines) + 2 * _MARGIN
    size = (min(most, -(-wanted // ALIGN) * ALIGN) // ALIGN * ALIGN, by.step * len(lines) + 2 * _MARGIN)
    picture = Image.new("RGB", size, _BACKGROUND)
    draw_on = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw_on.text((_MARGIN, _MARGIN + number * by.step), line, fill=_INK, font=by.font)
    return picture
