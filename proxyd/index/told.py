"""What records of every protocol tell in words: for searches, transfers, findings, text that was pasted; for a log, all."""

from __future__ import annotations

from typing import Any, Final

from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item
from proxyd.recorder.telling import told_by

LONGEST: Final = 1000  # characters of a line of the log: what a player has room for, twice


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


def logged(record: Record) -> list[Item]:
    """Give the line of the log a record tells by itself, for who would not read the recording for it."""
    told = told_by(record)
    return [Item(Derived.LOG, record.at_us, [record.channel, told[0], told[1][:LONGEST]])] if told else []


def text_of(at_us: int, source: str, text: str) -> Item:
    """Give text for searches, seen at `at_us`; see sidecar.SOURCES."""
    return Item(Derived.TEXT, at_us, [source, text])


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
