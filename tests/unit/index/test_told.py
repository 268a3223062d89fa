"""What records tell in words: transfers, what was pasted, findings; and nothing of others."""

from __future__ import annotations

from typing import Any

import pytest

from proxyd.index.told import told
from proxyd.recorder.record import Kind, Record


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (Kind.TRANSFER, {"operation": "put", "path": b"/tmp/\xffa", "size": 3}, ["transfer", "put /tmp/\N{REPLACEMENT CHARACTER}a"]),
        (Kind.TRANSFER, {"operation": "rename", "path": "/a", "to": "/b"}, ["transfer", "rename /a /b"]),
        (Kind.CLIPBOARD, {"direction": "to-target", "format": "text", "text": "pasted"}, ["transfer", "pasted"]),
        (Kind.FINDING, {"code": "key-changed", "severity": "high", "text": "the key changed"}, ["finding", "the key changed"]),
        (Kind.FINDING, {"code": "key-changed", "severity": "high"}, ["finding", "key-changed"]),
    ],
)  # fmt: skip
def test_a_record_tells_its_text(kind: Kind, body: dict[str, Any], text: list[str]) -> None:
    (item,) = told(Record(1, 7, kind, 0, body))
    assert (item.at_us, item.body) == (7, text)


@pytest.mark.parametrize(
    ("kind", "body"),
    [(Kind.CLIPBOARD, {"size": 9}), (Kind.OUTPUT, b"x"), (Kind.CLOCK, 5), (Kind.NOTICE, "x")],
)
def test_other_records_tell_nothing(kind: Kind, body: Any) -> None:
    assert told(Record(1, 7, kind, 0, body)) == []
