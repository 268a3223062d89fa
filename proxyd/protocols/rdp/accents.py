"""Dead keys, and which layout stands in for one that is not known: what all who read a user's keys must do alike.

Rule 1: an accent and a letter become what Windows makes of them with that layout: one letter where its language's code
        page has it, otherwise both.
"""
# ruff: noqa: RUF001 - accents that look like quotes are what this is about

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Final

_LANGUAGE: Final = 0x3FF  # of a layout's low half: the language without its region
_REGION: Final = 0x0400  # SUBLANG_DEFAULT, shifted to its place: the region a language is named after

_COMBINING: Final = {
    "´": "\u0301",
    "'": "\u0301",
    "΄": "\u0301",
    "`": "\u0300",
    "^": "\u0302",
    "¨": "\u0308",
    '"': "\u0308",
    "~": "\u0303",
    "¸": "\u0327",
    "ˇ": "\u030c",
    "°": "\u030a",
    "˘": "\u0306",
    "˛": "\u0328",
    "˙": "\u0307",
    "˝": "\u030b",
}
_OWN_WAYS: Final[Mapping[tuple[int, str], Mapping[str, str]]] = {
    (0x0415, "~"): dict(zip("acelnoszxACELNOSZX", "ąćęłńóśżźĄĆĘŁŃÓŚŻŹ", strict=True)),
    (0x0002_0409, "'"): {"c": "ç", "C": "Ç"},
}
# Layouts compose what their language's ANSI code page has (LANGID's primary language -> code page), else 1252.
_CODE_PAGES: Final[Mapping[int, str]] = {
    **dict.fromkeys((0x05, 0x0E, 0x15, 0x18, 0x1A, 0x1B, 0x1C, 0x24), "cp1250"),
    0x08: "cp1253",
    **dict.fromkeys((0x1F, 0x2C), "cp1254"),
    **dict.fromkeys((0x25, 0x26, 0x27), "cp1257"),
}


def compose(layout: int, accent: str, text: str) -> str:
    """Give what an accent and the key after it become: one letter, or both of them where there is none."""
    if text == " ":
        return accent
    if own := _OWN_WAYS.get((layout, accent), {}).get(text):
        return own
    one = unicodedata.normalize("NFC", text + _COMBINING.get(accent, ""))
    page = _CODE_PAGES.get(layout & _LANGUAGE, "cp1252")
    fits = len(one) == 1 and one != text and one.encode(page, "ignore")
    return one if fits else accent + text


def candidates(number: int) -> tuple[int, ...]:
    """Give the layouts to look for where this one is meant: itself, its language's in its region, its language's own."""
    return (number, number & 0xFFFF, _REGION | number & _LANGUAGE)
