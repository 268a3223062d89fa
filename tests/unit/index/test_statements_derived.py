"""What is derived of database sessions: the text of statements, what failed, the heat of both."""

from __future__ import annotations

from typing import Any

import pytest

from proxyd.index.statements.derived import Session
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item

pytestmark = pytest.mark.mission("M14")

SENT: tuple[tuple[int, dict[str, Any]], ...] = (
    (100_000, {"n": 1, "how": "simple", "text": "SELECT * FROM salaries"}),
    (200_000, {"event": "result", "n": 1, "tag": "SELECT 12", "rows": 12, "us": 900}),
    (
        1_300_000,
        {
            "n": 2,
            "how": "execute",
            "text": "INSERT INTO people VALUES ($1, $2)",
            "parameters": [{"kind": "int4", "value": 7}, {"kind": "text", "value": "bob"}, {"kind": "text", "hash": "ab"}],
        },
    ),
    (1_400_000, {"event": "result", "n": 2, "error": {"severity": "ERROR", "code": "23505", "message": "duplicate key"}}),
    (1_500_000, {"n": 3, "text": "", "kind": "SELECT", "length": 9000}),
    (1_600_000, {"n": 4, "text": "DROP TABLE people", "refused": "not allowed here"}),
)  # fmt: skip


def fed(*pieces: tuple[int, Kind, Any]) -> list[Item]:
    session = Session()
    items: list[Item] = []
    for seq, (at_us, kind, body) in enumerate(pieces, 1):
        found, painted = session.feed(Record(seq, at_us, kind, 0, body))
        assert painted == []
        items += found
    return items + session.finish()


def test_statements_their_values_and_what_failed_are_text() -> None:
    finding = (1_700_000, Kind.FINDING, {"code": "x", "severity": "high", "text": "certificate changed"})
    items = fed(*((at, Kind.STATEMENT, body) for at, body in SENT), finding)
    assert [(item.at_us, *item.body) for item in items if item.kind == Derived.TEXT] == [
        (100_000, "sql", "SELECT * FROM salaries"),
        (1_300_000, "sql", "INSERT INTO people VALUES ($1, $2)\n7, bob"),
        (1_400_000, "sql", "ERROR 23505: duplicate key"),
        (1_500_000, "sql", "SELECT [9,000 bytes, not recorded]"),
        (1_600_000, "sql", "DROP TABLE people\nnot allowed here"),
        (1_700_000, "finding", "certificate changed"),
    ]
    heat = [(item.at_us, item.body) for item in items if item.kind == Derived.HEAT]
    assert heat == [(0, [22, 12, 0]), (1_000_000, [34 + 9000 + 17, 1, 1])]
    assert items[-1] == Item(Derived.SUMMARY, 1_700_000, {"seq": 7, "faults": 0})


def test_a_session_of_nothing_has_an_end() -> None:
    assert fed() == [Item(Derived.SUMMARY, 0, {"seq": 0, "faults": 0})]
