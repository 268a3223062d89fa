"""Reads the texts that were found, from the sidecars of their recordings: for who holds the identity. Never the daemon."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final, NamedTuple

from proxyd.search.query import Query, Span
from proxyd.search.texts import Text, Texts

if TYPE_CHECKING:
    from proxyd.recorder.sidecar import Sidecar

BEFORE: Final = 40  # characters shown before the first word that fits: some words
WIDE: Final = 160  # characters of a snippet: two lines of a terminal
ELLIPSIS: Final = "..."


class Snippet(NamedTuple):
    """A line of text around what was found; `spans`: where in it the query fits."""

    text: str
    spans: list[Span]


def read(sidecar: Sidecar, numbers: Collection[int]) -> dict[int, Text]:
    """Give the texts with these numbers, those there are. Raises FormatError."""
    texts, found, last = Texts(), dict[int, Text](), max(numbers, default=-1)
    for item in sidecar.items():
        for text in texts.of([item]):
            if text.number in numbers:
                found[text.number] = text
            if text.number >= last:
                return found
    return found


def snippet(text: str, query: Query, wide: int = WIDE) -> Snippet:
    """Cut a line out of a text, around the first place where the query fits; spaces are made one."""
    line = " ".join(text.split())
    spans = query.spans(line)
    begin = max(0, spans[0].begin - BEFORE) if spans and spans[-1].end > wide else 0
    if begin:  # at a word, if there is one nearby
        begin = max(line.rfind(" ", 0, begin) + 1, begin - BEFORE)
    head = ELLIPSIS if begin else ""
    part = line[begin : begin + wide]
    tail = ELLIPSIS if begin + wide < len(line) else ""
    moved = len(head) - begin
    kept = [
        Span(span.begin + moved, min(span.end, begin + wide) + moved)
        for span in spans
        if begin <= span.begin < begin + wide
    ]
    return Snippet(f"{head}{part}{tail}", kept)
