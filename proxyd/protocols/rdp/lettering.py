"""Writing into pictures: the font there is, and texts made fit for it.

Rule 1: any text can be written: what acts on a line instead of showing is a space, what the font does not have is written
        as its nearest letter or a question mark, and a word that is too wide is broken.
Rule 2: where the system has DejaVu Sans it is used: it has Latin, Greek, Cyrillic, Hebrew and Arabic; Pillow's own font
        has ASCII alone. Right-to-left text is ordered by Pillow's layout engine, where that finds FriBidi.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Final, NamedTuple

from PIL import ImageFont

from proxyd.characters import UNSAFE

_REGULAR: Final = "DejaVuSans.ttf"  # Debian's fonts-dejavu-core; found where the system keeps its fonts
_BOLD: Final = "DejaVuSans-Bold.ttf"
_MORE: Final = "…"  # both fonts have it


class Face(NamedTuple):
    """A font of one size."""

    font: ImageFont.FreeTypeFont
    ascii_only: bool

    @property
    def step(self) -> int:
        """Pixels from one line to the next."""
        return sum(self.font.getmetrics())

    def width(self, text: str) -> int:
        """Pixels a text takes."""
        return int(self.font.getlength(text))


@cache
def face(size: int, *, bold: bool = False) -> Face:
    """Give the font of a size in pixels; reads files once (rule 2)."""
    try:
        return Face(ImageFont.truetype(_BOLD if bold else _REGULAR, size), ascii_only=False)
    except OSError:
        found = ImageFont.load_default(size)
        assert isinstance(found, ImageFont.FreeTypeFont)  # noqa: S101 - with a size it is one
        return Face(found, ascii_only=True)


def legible(text: str, by: Face) -> str:
    """Give a text as it can be written with this font (rule 1)."""
    shown = "".join(mark if mark.isprintable() else " " for mark in UNSAFE.sub(" ", text))
    if not by.ascii_only:
        return shown
    bare = (mark for mark in unicodedata.normalize("NFKD", shown) if not unicodedata.combining(mark))
    return "".join(mark if mark.isascii() else "?" for mark in bare)


def wrapped(text: str, by: Face, most: int) -> list[str]:
    """Give the lines of a text that are no wider than `most` pixels."""
    lines = [""]
    for word in legible(text, by).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and by.width(longer) > most:
            lines.append(word)
        else:
            lines[-1] = longer
        while (fits := fitting(lines[-1], by, most)) < len(lines[-1]):
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def shortened(text: str, by: Face, most: int) -> str:
    """Give a text on one line, its end left out where it is wider than `most` pixels."""
    shown = legible(text, by)
    if by.width(shown) <= most:
        return shown
    return shown[: fitting(shown, by, most - by.width(_MORE))] + _MORE


def fitting(line: str, by: Face, most: int) -> int:
    """Count the characters of a line that fit into `most` pixels, one at least."""
    if by.width(line) <= most:
        return len(line)
    low, high = 1, len(line)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if by.width(line[:middle]) <= most else (low, middle)
    return low
