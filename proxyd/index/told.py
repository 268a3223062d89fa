"""What records of every protocol tell in words: transfers, findings, text that was pasted."""

from __future__ import annotations

from typing import Any

from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item


def told(record: Record) -> list[Item]:
    """Give the text of a record that tells of a transfer, of the clipboard, or of a finding."""
    body: Any = record.body
    match record.kind:
        case Kind.TRANSFER:
            text = " ".join(_text(body[name]) for name in ("operation", "path", "to") if body.get(name))
            return [text_of(record.at_us, "transfer", text)]
        case Kind.CLIPBOARD if body.get("text"):
            return [text_of(record.at_us, "transfer", _text(body["text"]))]
        case Kind.FINDING:
            return [text_of(record.at_us, "finding", _text(body.get("text") or body.get("code", "")))]
    return []


def text_of(at_us: int, source: str, text: str) -> Item:
    """Give text for searches, seen at `at_us`; see sidecar.SOURCES."""
    return Item(Derived.TEXT, at_us, [source, text])


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
