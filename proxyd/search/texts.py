"""What of the things that are derived of a session is text to search. Pure: daemon, `proxyd index` and snippets share it.

Rule 1: a text's number counts from the first item of its session: equal items give equal numbers, whoever reads them.
Rule 2: items came from a process that read hostile bytes: what has no right shape is no text, and never raises.
Rule 3: each line of a screen is a text, so that words which are found together stand together.
Rule 4: a text longer than PIECE is several: a piece of memory and of an answer is never larger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from proxyd.recorder.sidecar import Derived, Item

KEYS: Final = "keys"
SCREEN: Final = "screen"
PIECE: Final = 16_384  # characters: a long statement
_WORD: Final = 256  # characters: no word is longer, so a piece ends between two

_OF_ITEMS: Final = {
    "command": "commands", "screen": SCREEN, "sql": "sql", "keys": KEYS, "title": "titles", "transfer": "transfers",
    "finding": "findings",
}  # fmt: skip


class Text(NamedTuple):
    """A piece of text of a session: its number, when it was there, and where it comes from."""

    number: int
    at_us: int
    source: str
    text: str


class Texts:
    """Numbers the texts of one session's items."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, items: Iterable[Item]) -> Iterator[Text]:
        """Yield the texts of the next items."""
        for item in items:
            source, text = _text_of(item)
            if not source or not text.strip():
                continue
            for line in text.split("\n") if source == SCREEN else (text,):
                for piece in _pieces(line):
                    yield Text(self._count, item.at_us, source, piece)
                    self._count += 1


def _text_of(item: Item) -> tuple[str, str]:
    """Give an item's source and text, or nothing (rule 2)."""
    match item.kind, item.body:
        case Derived.TEXT, [str(source), str(text)]:
            return _OF_ITEMS.get(source, ""), text
        case Derived.TYPED, [_, str(text), *_]:
            return KEYS, text
    return "", ""


def _pieces(text: str) -> Iterator[str]:
    """Cut a text where there is a space, if there is one (rule 4)."""
    begin = 0
    while len(text) - begin > PIECE:
        end = begin + PIECE
        spaces = [at for at in range(end - _WORD, end) if text[at].isspace()]
        end = spaces[-1] if spaces else end
        yield text[begin:end]
        begin = end
    yield text[begin:]
