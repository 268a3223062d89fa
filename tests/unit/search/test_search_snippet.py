"""The line of text beside a hit: around what was found, one line, and what was found marked where it is."""

from __future__ import annotations

import pytest

from proxyd.search.query import parse
from proxyd.search.snippet import snippet


@pytest.mark.parametrize(
    ("text", "typed", "shown", "marked"),
    [
        ("rm -rf /var", "rm rf", "rm -rf /var", ["rm", "rf"]),
        ("SELECT\n  1\n", "select", "SELECT 1", ["SELECT"]),
        ("one " * 30 + "needle " + "two " * 30, "needle", "...one one one one one one one one one one needle two two two t...", ["needle"]),
        ("needle " + "two " * 60, "needle", "needle two two two two two two two two two two two two two t...", ["needle"]),
        ("x" * 200 + "needle", "needle", "x" * 60 + "...", []),
        ("nothing of it", "needle", "nothing of it", []),
        ("", "needle", "", []),
    ],
)  # fmt: skip
def test_a_snippet_is_around_what_was_found(text: str, typed: str, shown: str, marked: list[str]) -> None:
    found = snippet(text, parse(typed), 60)
    assert [found.text[span.begin : span.end] for span in found.spans] == marked
    assert found.text == shown
