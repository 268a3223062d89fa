"""Windows keyboard layouts: the text a key gives, and the keys that wait for another one (dead keys).

Rule 1: a layout nobody knows is answered by the first of its language, else by US English; `exact` tells.
Rule 2: a number from the wire only ever selects one of the layouts that are there.

The tables are aardwolf's (0.2.16): modules `aardwolf.keyboard.layouts.layout_XXXXXXXX`, by layout id in hex, each with
`layoutdata`, base64 of JSON. `sc_to_char` is {scancode: {modifiers: text}}, control characters as four hex digits, and
`sc_to_vk` {scancode: name of the virtual key}; scancodes behind the prefix E0 have 0xE000 added, modifiers are `Held`.
A dead key is there as its accent, and nothing tells it from a key that types the accent: which are dead is said here,
after Microsoft's sample layouts (French, German) and the behaviour of Windows. The package's own loader is not used: it
names a file that does not exist.
"""
# ruff: noqa: RUF001 - accents that look like quotes are what this is about

from __future__ import annotations

import base64
import enum
import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from proxyd.protocols.rdp import accents

US_ENGLISH: Final = 0x0409
EXTENDED: Final = 0xE000  # added to the scancode of a key behind the prefix E0
EXTENDED1: Final = 0xE100  # behind the prefix E1: Pause
_PACKAGE: Final = "aardwolf.keyboard.layouts"
_HEX_TEXT: Final = re.compile(r"00[0-9A-F]{2}")


class Held(enum.IntFlag):
    """Modifiers of a layout's table; the locks count as held while they are on."""

    NOTHING = 0
    SHIFT = 1
    CONTROL = 2
    ALT = 4
    CAPS = 8
    NUM = 64


_TYPED_CONTROLS: Final = "\n\t"  # of the controls a key gives, those that are text: Enter and Tab
ALT_GR: Final = Held.CONTROL | Held.ALT

_DEAD_ANYWHERE: Final = "´¨¸ˇ˘˛˙˝΄"  # nobody types these alone: where a layout has one, it is dead
_DEAD: Final[Mapping[int, str]] = {
    0x0405: "´ˇ¨°^˘˛`˙˝¸",  # Czech
    0x0406: "´`¨^~",  # Danish
    0x0407: "´`^",  # German
    0x0807: "´`^¨~",  # Swiss German
    0x040A: "´`^¨~",  # Spanish
    0x080A: "´`^¨",  # Latin American
    0x040B: "´`¨^~",  # Finnish
    0x040C: "^¨`~",  # French
    0x080C: "^¨´`~",  # Belgian French
    0x0C0C: "^¸¨`´",  # Canadian French
    0x100C: "´`^¨~",  # Swiss French
    0x040E: "ˇ^˘°˛˙´˝¨¸",  # Hungarian
    0x040F: "´¨°^`",  # Icelandic
    0x0413: "´`¨^~¸",  # Dutch
    0x0813: "^¨´`~",  # Belgian Dutch
    0x0414: "´`¨^~",  # Norwegian
    0x0415: "~",  # Polish (Programmers)
    0x0416: "´`~^¨",  # Portuguese (Brazil ABNT)
    0x0816: "´`~^¨",  # Portuguese
    0x041B: "´ˇ^˘°˛`˙˝¨¸",  # Slovak
    0x041D: "´`¨^~",  # Swedish
    0x041F: "^¨~´`",  # Turkish Q
    0x0001_0416: "´`~^¨",  # Portuguese (Brazil ABNT2)
    0x0001_080C: "^¨´`~",  # Belgian (Comma)
    0x0002_0409: "'\"`~^",  # United States-International
}
_NOT_DEAD: Final = {
    (0x040C, 0x0A, ALT_GR),  # ^ on the key 9
    (0x080C, 0x07, ALT_GR),  # ^ on the key 6
    (0x0813, 0x07, ALT_GR),
    (0x0001_080C, 0x07, ALT_GR),
}
_NAMES: Final[Mapping[str, str]] = {
    "BACK": "Backspace",
    "RETURN": "Enter",
    "PRIOR": "Page Up",
    "NEXT": "Page Down",
    "APPS": "Menu",
    "SNAPSHOT": "Print Screen",
    "LCONTROL": "Ctrl",
    "RCONTROL": "Right Ctrl",
    "LSHIFT": "Shift",
    "RSHIFT": "Right Shift",
    "LMENU": "Alt",
    "RMENU": "Right Alt",
    "LWIN": "Win",
    "RWIN": "Right Win",
    "CAPITAL": "Caps Lock",
    "NUMLOCK": "Num Lock",
    "SCROLL": "Scroll Lock",
}


class Given(enum.Enum):
    """What pressing a key did."""

    NOTHING = enum.auto()
    TEXT = enum.auto()
    ACCENT = enum.auto()  # a dead key: the next key says what it becomes


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout. `id` is that of the table used; `exact`: it is the one that was asked for."""

    id: int
    exact: bool
    alt_gr: bool  # the right Alt key is Control and Alt at once
    shift_ends_caps: bool
    texts: Mapping[int, Mapping[int, str]]
    keys: Mapping[int, str]

    def press(self, scancode: int, held: Held) -> tuple[Given, str]:
        """Say what a key gives while `held` are held, and the locks in it are on."""
        table = self.texts.get(scancode)
        if table is None:
            return Given.NOTHING, ""
        shifts = held & (Held.SHIFT | ALT_GR)
        if Held.NUM in table:  # a key of the number pad that types
            digit = table[Held.NUM] if Held.NUM in held and not shifts else ""
            return (Given.TEXT, digit) if digit else (Given.NOTHING, "")
        text = table.get(shifts | Held.CAPS) if Held.CAPS in held else None
        text = table.get(shifts, "") if text is None else text
        if shifts & ALT_GR not in {Held.NOTHING, ALT_GR}:  # Ctrl or Alt alone is no way to type
            return Given.NOTHING, ""
        if not text or (text < " " and text not in _TYPED_CONTROLS):
            return Given.NOTHING, ""
        return (Given.ACCENT if self._is_dead(scancode, shifts, text) else Given.TEXT), text

    def _is_dead(self, scancode: int, shifts: Held, text: str) -> bool:
        if len(text) != 1:
            return False
        return text in _DEAD.get(self.id, _DEAD_ANYWHERE) and (self.id, scancode, shifts) not in _NOT_DEAD

    def compose(self, accent: str, text: str) -> str:
        """Give what an accent and the key after it become: one letter, or both of them where there is none."""
        return accents.compose(self.id, accent, text)

    def name(self, scancode: int) -> str:
        """Name a key in English; keys of text by what they type alone."""
        key = self.keys.get(scancode, "").removeprefix("VK_")
        if key in _NAMES:
            return _NAMES[key]
        alone = self.texts.get(scancode, {}).get(0, "")
        if alone.strip() and alone.isprintable():
            return alone.upper() if len(alone.upper()) == len(alone) else alone
        return key.replace("_", " ").title() or f"scancode {scancode:X}"


@lru_cache(maxsize=16)  # a table is some 100 KiB, read in 25 ms; sessions of one site share few
def layout(number: int) -> Layout:
    """Find the layout with this id (CS_CORE keyboardLayout, MS-RDPBCGR 2.2.1.3.2)."""
    candidates = (*accents.candidates(number), US_ENGLISH)
    known, table = next((one, found) for one in candidates if (found := _read(one)))
    return _layout(known, table, exact=known == number)


def _read(number: int) -> dict[str, Any] | None:
    name = f"{_PACKAGE}.layout_{number:08x}"
    try:
        data = importlib.import_module(name).layoutdata
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
    table: dict[str, Any] = json.loads(base64.b64decode(data))
    return table


def _layout(number: int, table: Mapping[str, Any], *, exact: bool) -> Layout:
    texts = {
        int(code): {int(held): _text(text) for held, text in by_held.items()}
        for code, by_held in table["sc_to_char"].items()
    }
    keys = {int(code): str(name) for code, name in table["sc_to_vk"].items()}
    alt_gr, ends = bool(table["RightAltIsAltGr"]), bool(table["ShiftCancelsCapsLock"])
    return Layout(number, exact, alt_gr, ends, texts, keys)


def _text(text: str) -> str:
    """Undo the hex of control characters; Enter is a new line."""
    if not _HEX_TEXT.fullmatch(text):
        return text
    return chr(int(text, 16)).replace("\r", "\n")
