"""How the login screen looks, and where on it what is: a card in the middle of the screen.

Rule 1: a picture is no larger than a card at MAX_SCALE, whatever size a client says it has.
Rule 2: of a secret there are as many dots as characters were typed, and nothing else.
Rule 3: the picture's sides are at multiples of four, as bitmap updates need them (MS-RDPBCGR 2.2.9.1.1.3.1.2.2).

MS-RDPBCGR 2.2.1.3.2 (desktopScaleFactor).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from PIL import Image, ImageDraw

from proxyd.protocols.rdp.lettering import Face, face, legible, shortened, wrapped
from proxyd.protocols.rdp.loginscreen import SHOWN_ROWS, Line, Part, Spot, Step, View

WIDTH, HEIGHT = 480, 540  # of the largest card, in units; a unit is a pixel at a scale of 1
MAX_SCALE: Final = 3.0  # 1440 x 1620 pixels: 300 % on a 4K screen
MIN_SCALE: Final = 0.4  # below it nothing could be read; a screen that small shows a part
PERCENT: Final = 100
_ALIGN: Final = 4

BACKGROUND: Final = (24, 34, 48)
_CARD: Final = (255, 255, 255)
_INK: Final = (23, 32, 45)
_FAINT: Final = (88, 100, 116)  # 6:1 on the card
_EDGE: Final = (150, 160, 174)
_ACCENT: Final = (20, 92, 178)
_CHOSEN: Final = (224, 236, 250)
_WRONG: Final = (176, 24, 24)
_WARNING: Final = (140, 84, 0)

_SIDE: Final = 32  # between the card's edge and what is on it
_LABEL, _TEXT, _TITLE, _SMALL = 13, 15, 22, 12  # sizes of letters
_FIELD: Final = 38  # heights
_BUTTON: Final = 40
_ROW: Final = 44
_BUTTON_WIDTH: Final = 116
_DOT, _DOTS = 8, 13  # diameter of the dot of a secret, and the way from one to the next
_CARDS: Final = {Step.LOGIN: 412, Step.CODE: 340, Step.TARGET: HEIGHT, Step.WAIT: 240, Step.NOTICE: 300}
_FIRST: Final = 104  # where the first of a card stands, below its title
_LINES: Final = 4  # of a message, at most
_PARTS_ON_ONE_CARD: Final = 70  # units from one field to the next
_RECORDED: Final = "Sessions are recorded."


class Box(NamedTuple):
    """A rectangle in pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    def holds(self, x: int, y: int) -> bool:
        """Tell whether a pixel is inside."""
        return self.left <= x < self.right and self.top <= y < self.bottom


class Drawn(NamedTuple):
    """A picture, where on the screen it belongs, and what on it can be clicked, in the screen's pixels."""

    picture: Image.Image
    left: int
    top: int
    spots: tuple[tuple[Spot, Box], ...]

    def at(self, x: int, y: int) -> Spot | None:
        """Say what is at a place of the screen."""
        return next((spot for spot, box in self.spots if box.holds(x, y)), None)


class Place(NamedTuple):
    """Where a screen's card goes, and how large it is."""

    width: int  # of the screen
    height: int
    scale: float


def place(width: int, height: int, percent: int = PERCENT) -> Place:
    """Give the place on a screen of this size whose user wants things this large; whatever they say is bounded."""
    fits = min(width / WIDTH, height / HEIGHT)
    return Place(width, height, max(MIN_SCALE, min(percent / PERCENT, fits, MAX_SCALE)))


def draw(view: View, where: Place, proxy: str, keyboard: str) -> Drawn:
    """Draw the card; `proxy` and `keyboard` are names the user is told."""
    return _Card(view, where).drawn(proxy, keyboard)


class _Card:
    """One picture in the making. Lengths are in units until `_px` makes pixels of them."""

    def __init__(self, view: View, where: Place) -> None:
        self._view, self._where = view, where
        size = (self._aligned(self._px(WIDTH)), self._px(HEIGHT))
        self._picture = Image.new("RGB", size, BACKGROUND)
        self._on = ImageDraw.Draw(self._picture)
        self._left = max(0, (where.width - size[0]) // 2 // _ALIGN * _ALIGN)
        self._top = max(0, (where.height - size[1]) // 2)
        self._height = _CARDS[view.step]
        self._upper = (HEIGHT - self._height) / 2
        self._spots: list[tuple[Spot, Box]] = []

    @staticmethod
    def _aligned(size: int) -> int:
        return max(_ALIGN, size // _ALIGN * _ALIGN)

    def _px(self, units: float) -> int:
        return round(units * self._where.scale)

    def _box(self, left: float, top: float, right: float, bottom: float) -> Box:
        """Place a rectangle of the card into the picture."""
        upper = self._upper
        return Box(self._px(left), self._px(upper + top), self._px(right), self._px(upper + bottom))

    def _face(self, size: int, *, bold: bool = False) -> Face:
        return face(max(1, self._px(size)), bold=bold)

    def _clickable(self, spot: Spot, box: Box) -> None:
        left, top = self._left, self._top
        self._spots.append((spot, Box(left + box.left, top + box.top, left + box.right, top + box.bottom)))

    def _rectangle(
        self, box: Box, fill: tuple[int, int, int], edge: tuple[int, int, int], width: float = 1
    ) -> None:
        inside = (box.left, box.top, max(box.left, box.right - 1), max(box.top, box.bottom - 1))
        self._on.rectangle(inside, fill, edge, max(1, self._px(width)))

    def _write(
        self, at: tuple[float, float], text: str, by: Face, ink: tuple[int, int, int], anchor: str = "la"
    ) -> None:
        place = (self._px(at[0]), self._px(self._upper + at[1]))
        self._on.text(place, text, fill=ink, font=by.font, anchor=anchor)

    # ------------------------------------------------------------------ the card

    def drawn(self, proxy: str, keyboard: str) -> Drawn:
        view, right = self._view, WIDTH - _SIDE
        self._rectangle(self._box(0, 0, WIDTH, self._height), _CARD, _CARD)
        self._rectangle(self._box(0, 0, WIDTH, 6), _ACCENT, _ACCENT)
        by = self._face(_LABEL)
        self._write((_SIDE, 28), shortened(f"Session proxy {proxy}", by, self._px(right - _SIDE)), by, _FAINT)
        self._write((_SIDE, 52), view.step.value, self._face(_TITLE, bold=True), _INK)
        if view.step is Step.TARGET:
            self._list()
        else:
            self._fields()
        self._buttons()
        small, foot = self._face(_SMALL), self._height - 18
        self._write((_SIDE, foot), _RECORDED, small, _FAINT, "ls")
        if view.lines:
            self._write((right, foot), legible(f"Keyboard: {keyboard}", small), small, _FAINT, "rs")
        return Drawn(self._picture, self._left, self._top, tuple(self._spots))

    def _fields(self) -> None:
        at = float(_FIRST)
        for line in self._view.lines:
            by = self._face(_LABEL)
            self._write((_SIDE, at), legible(line.part.value, by), by, _INK)
            self._field(line, at + 20)
            at += _PARTS_ON_ONE_CARD
        plain = self._view.step in (Step.WAIT, Step.NOTICE)
        if self._view.caps:
            self._message("Caps Lock is on.", at - 4, _WARNING, 1)
            at += 20
        self._message(self._view.message, at, _INK if plain else _WRONG, _LINES)

    def _message(self, text: str, at: float, ink: tuple[int, int, int], most: int) -> None:
        by = self._face(_TEXT)
        lines = wrapped(text, by, self._px(WIDTH - 2 * _SIDE))
        for number, line in enumerate(lines[:most]):
            self._write((_SIDE, at + number * by.step / self._where.scale), line, by, ink)

    def _field(self, line: Line, top: float) -> None:
        box = self._box(_SIDE, top, WIDTH - _SIDE, top + _FIELD)
        focused = self._view.focus is line.part
        self._rectangle(box, _CARD, _ACCENT if focused else _EDGE, 2 if focused else 1)
        self._clickable(line.part, box)
        pad, by = self._px(10), self._face(_TEXT)
        inner = Image.new(
            "RGB", (max(1, box.right - box.left - 2 * pad), max(1, box.bottom - box.top - 8)), _CARD
        )
        caret = self._dots(inner, line) if line.secret else self._letters(inner, line, by)
        if focused:
            half = by.step // 2
            middle = inner.height // 2
            ImageDraw.Draw(inner).line(
                (caret, middle - half, caret, middle + half), _INK, max(1, self._px(1))
            )
        self._picture.paste(inner, (box.left + pad, box.top + 4))

    def _letters(self, inner: Image.Image, line: Line, by: Face) -> int:
        """Write what is in a field, as far left as its caret needs; gives the caret's place."""
        on, middle = ImageDraw.Draw(inner), inner.height // 2
        if not line.text and line.part is Part.SEARCH:
            on.text((self._px(3), middle), line.part.value, fill=_FAINT, font=by.font, anchor="lm")
        before = by.width(legible(line.text[: line.caret], by))
        left = min(0, inner.width - 2 - before)
        on.text((left, middle), legible(line.text, by), fill=_INK, font=by.font, anchor="lm")
        return left + before

    def _dots(self, inner: Image.Image, line: Line) -> int:
        on, middle = ImageDraw.Draw(inner), inner.height // 2
        step, size = max(1, self._px(_DOTS)), max(1, self._px(_DOT))
        left = min(0, inner.width - 2 - step * line.caret)
        for number in range(line.length):
            x = left + number * step
            on.ellipse((x, middle - size // 2, x + size, middle - size // 2 + size), _INK)
        return left + step * line.caret

    # ------------------------------------------------------------------ the list

    def _list(self) -> None:
        view, top = self._view, _FIRST - 8
        for line in view.lines:
            self._field(line, top)
        top += _FIELD + 8
        for number, row in enumerate(view.rows):
            box = self._box(_SIDE, top, WIDTH - _SIDE, top + _ROW)
            if number == view.selected:
                self._rectangle(box, _CHOSEN, _ACCENT)
            self._clickable(view.first + number, box)
            name, most = self._face(_TEXT), self._px(WIDTH - 2 * _SIDE - 20)
            self._write((_SIDE + 10, top + 5), shortened(row.name, name, most), name, _INK)
            detail = self._face(_SMALL)
            self._write((_SIDE + 10, top + 25), shortened(row.detail, detail, most), detail, _FAINT)
            top += _ROW
        if not view.found:
            self._message("Nothing you may reach has that name.", top + 8, _FAINT, _LINES)
        if view.found > SHOWN_ROWS:
            text = f"{view.first + 1} to {view.first + len(view.rows)} of {view.found}"
            self._write((_SIDE, self._height - 42 - _BUTTON / 2), text, self._face(_LABEL), _FAINT, "lm")

    # ------------------------------------------------------------------ buttons

    def _buttons(self) -> None:
        right, top = WIDTH - _SIDE, self._height - 42 - _BUTTON
        for part, text in ((Part.GO, self._view.go), (Part.CANCEL, self._view.cancel)):
            if not text:
                continue
            box = self._box(right - _BUTTON_WIDTH, top, right, top + _BUTTON)
            primary = part is Part.GO or not self._view.go
            focused = self._view.focus is part
            self._rectangle(
                box, _ACCENT if primary else _CARD, _INK if focused else _ACCENT, 3 if focused else 1
            )
            middle = ((box.left + box.right) // 2, (box.top + box.bottom) // 2)
            by = self._face(_TEXT)
            self._on.text(middle, text, fill=_CARD if primary else _ACCENT, font=by.font, anchor="mm")
            self._clickable(part, box)
            right -= _BUTTON_WIDTH + 12
