"""Reading what a recording says one client sent and saw."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from proxyd.recorder.record import Kind, Record


@dataclass
class Heard:
    """The bytes of one channel, by direction."""

    sent: bytearray = field(default_factory=bytearray)
    shown: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)
    refused: bytearray = field(default_factory=bytearray)
    exit: dict[str, Any] = field(default_factory=dict)


def channels(records: list[Record]) -> dict[int, Heard]:
    """Sort records by channel; channels that carried nothing are there too when they were opened."""
    heard: dict[int, Heard] = defaultdict(Heard)
    for record in records:
        into = heard[record.channel]
        match record.kind:
            case Kind.INPUT:
                into.sent += record.body
            case Kind.OUTPUT:
                into.shown += record.body
            case Kind.ERROR_OUTPUT:
                into.errors += record.body
            case Kind.REFUSED:
                into.refused += record.body
            case Kind.EXIT:
                into.exit = record.body
    return heard


def of_kind(records: list[Record], kind: Kind) -> list[Any]:
    """The bodies of one kind."""
    return [record.body for record in records if record.kind is kind]
