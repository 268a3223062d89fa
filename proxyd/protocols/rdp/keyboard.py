"""What a user types, as text and as the keys a form knows: from scancodes by their keyboard's layout, or from Unicode.

Rule 1: whatever events come in whatever order, there is an answer, and nothing of what was typed is kept but one accent
        and half a surrogate pair.
Rule 2: a layout that is not known is answered by its language's, or else by US English; `name` says which it is, for the
        user to see.

MS-RDPBCGR 2.2.8.1.1.3.1.1 (keyboard events, toggle keys), 2.2.1.3.2 (keyboardLayout).
"""

from __future__ import annotations

import enum
from functools import cache
from typing import Final

from proxyd.protocols.rdp import accents
from proxyd.protocols.rdp.events import Event, Scancode, Sync, Toggle, Unicode
from proxyd.protocols.rdp.keymaps import KEYMAPS, KEYS, NOTHING, Keymap

US_ENGLISH: Final = 0x0409
EXTENDED: Final = 0xE000  # added to the scancode of a key behind the prefix E0
SHIFTS: Final = frozenset({0x2A, 0x36})
CONTROLS: Final = frozenset({0x1D, EXTENDED | 0x1D})
ALTS: Final = frozenset({0x38})
ALT_GR: Final = EXTENDED | 0x38
CAPS_LOCK, NUM_LOCK, SPACE, DECIMAL = 0x3A, 0x45, 0x39, 0x53
_PAD_DIGITS: Final = dict(
    zip((0x52, 0x4F, 0x50, 0x51, 0x4B, 0x4C, 0x4D, 0x47, 0x48, 0x49), "0123456789", strict=True)
)
_PAD_SIGNS: Final = {0x37: "*", 0x4A: "-", 0x4E: "+", EXTENDED | 0x35: "/"}
_HIGH: Final = range(0xD800, 0xDC00)  # surrogates, UTF-16
_LOW: Final = range(0xDC00, 0xE000)
_PLANE: Final = 0x10000


class Key(enum.Enum):
    """A key that acts."""

    ENTER = enum.auto()
    ESCAPE = enum.auto()
    TAB = enum.auto()
    BACK_TAB = enum.auto()
    BACKSPACE = enum.auto()
    DELETE = enum.auto()
    LEFT = enum.auto()
    RIGHT = enum.auto()
    UP = enum.auto()
    DOWN = enum.auto()
    HOME = enum.auto()
    END = enum.auto()
    PAGE_UP = enum.auto()
    PAGE_DOWN = enum.auto()


Stroke = Key | str
"""What pressing a key did: a key that acts, or text."""

_MOVES: Final = {
    0x47: Key.HOME, 0x48: Key.UP, 0x49: Key.PAGE_UP, 0x4B: Key.LEFT, 0x4D: Key.RIGHT,
    0x4F: Key.END, 0x50: Key.DOWN, 0x51: Key.PAGE_DOWN, 0x53: Key.DELETE,
}  # fmt: skip
_ACTS: Final = {0x01: Key.ESCAPE, 0x0E: Key.BACKSPACE, 0x1C: Key.ENTER, EXTENDED | 0x1C: Key.ENTER}
_CONTROL_CHARACTERS: Final = {
    "\r": Key.ENTER,
    "\n": Key.ENTER,
    "\t": Key.TAB,
    "\b": Key.BACKSPACE,
    "\x1b": Key.ESCAPE,
}


class _Table:
    """A layout, ready to be asked."""

    def __init__(self, number: int, keymap: Keymap) -> None:
        self.number, self.name, self.decimal = number, keymap.name, keymap.decimal
        self.alt_gr = keymap.alt_gr
        rows = [row.split() or [NOTHING] * len(KEYS) for row in keymap.rows]
        rows += [[NOTHING] * len(KEYS)] * (4 - len(rows))
        plain, shifted = rows[0], rows[1]
        if len(rows) == 4:
            letters = [
                one.isalpha() and one.upper() == other for one, other in zip(plain, shifted, strict=True)
            ]
            pairs = list(zip(letters, plain, shifted, strict=True))
            rows += [[s if swap else p for swap, p, s in pairs], [p if swap else s for swap, p, s in pairs]]
        self._rows = [dict(zip(KEYS, row, strict=True)) for row in rows]

    def press(self, code: int, *, shift: bool, alt_gr: bool, caps: bool) -> str:
        """Give what a key types: "" for nothing, the accent twice for a dead key."""
        row = 2 * alt_gr + shift if alt_gr or not caps else 4 + shift
        found = self._rows[row].get(code, NOTHING)
        return "" if found == NOTHING else found


@cache
def _table(number: int) -> _Table:
    return _Table(number, KEYMAPS[number])


class Keyboard:
    """A user's keyboard; `layout` is what the client said."""

    def __init__(self, layout: int) -> None:
        known = next((one for one in accents.candidates(layout) if one in KEYMAPS), US_ENGLISH)
        self._table = _table(known)
        self._held: set[int] = set()
        self._accent = ""
        self._high = 0
        self.caps = False
        self.num = False

    @property
    def name(self) -> str:
        """The layout's name in English."""
        return self._table.name

    def feed(self, event: Event) -> list[Stroke]:
        """Take an event; gives what it did."""
        match event:
            case Sync(toggles):
                self.caps, self.num = Toggle.CAPS_LOCK in toggles, Toggle.NUM_LOCK in toggles
                self._held.clear()  # a client says it when it gets the focus: it has seen no release before
                return []
            case Unicode(code, released):
                return [] if released else self._character(code)
            case Scancode(code, released, extended, extended1) if not extended1:
                return self._key(code | (EXTENDED if extended else 0), released=released)
        return []

    def _character(self, code: int) -> list[Stroke]:
        if code in _HIGH:
            self._high = code
            return []
        high, self._high = self._high, 0
        if code in _LOW:
            if not high:
                return []
            code = _PLANE + ((high - _HIGH.start) << 10) + (code - _LOW.start)
        text = chr(code)
        if text in _CONTROL_CHARACTERS:
            return [_CONTROL_CHARACTERS[text]]
        return [text] if text.isprintable() else []

    def _key(self, code: int, *, released: bool) -> list[Stroke]:
        if released:
            self._held.discard(code)
            return []
        again = code in self._held
        if code in SHIFTS | CONTROLS | ALTS | {ALT_GR, CAPS_LOCK, NUM_LOCK}:
            self._held.add(code)
            self.caps ^= code == CAPS_LOCK and not again
            self.num ^= code == NUM_LOCK and not again
            return []
        return self._acts(code) or self._types(code)

    def _acts(self, code: int) -> list[Stroke]:
        shift = bool(self._held & SHIFTS)
        key = _ACTS.get(code) or _MOVES.get(code & ~EXTENDED if not self.num else code - EXTENDED)
        if code == 0x0F:
            key = Key.BACK_TAB if shift else Key.TAB
        if key is None:
            return []
        self._accent = ""
        return [key]

    def _types(self, code: int) -> list[Stroke]:
        control, alt = bool(self._held & CONTROLS), bool(self._held & ALTS)
        right = ALT_GR in self._held
        alt_gr = self._table.alt_gr and (right or (control and alt))
        if not alt_gr and (control or alt or right):
            return []  # a command, not text
        if code in _PAD_SIGNS:
            return self._typed(_PAD_SIGNS[code])
        if code in _PAD_DIGITS or code == DECIMAL:
            return self._typed(_PAD_DIGITS.get(code, self._table.decimal)) if self.num else []
        if code == SPACE:
            return self._typed(" ")
        found = self._table.press(code, shift=bool(self._held & SHIFTS), alt_gr=alt_gr, caps=self.caps)
        if len(found) == 2 and not self._accent:
            self._accent = found[0]
            return []
        return self._typed(found[:1]) if found else []

    def _typed(self, text: str) -> list[Stroke]:
        accent, self._accent = self._accent, ""
        return [accents.compose(self._table.number, accent, text) if accent else text]
