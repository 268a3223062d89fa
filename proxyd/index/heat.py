"""The heat map of a session: what passed in each second, and what was found."""

from __future__ import annotations

from typing import Any, Final

from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item

SECOND_US: Final = 1_000_000
_INPUT: Final = frozenset({Kind.INPUT, Kind.INPUT_PDU})
_OUTPUT: Final = frozenset({Kind.OUTPUT, Kind.ERROR_OUTPUT, Kind.PDU})
_COUNTED: Final = _INPUT | _OUTPUT | {Kind.FINDING, Kind.STATEMENT}


class Heat:
    """Counts bytes and findings second by second."""

    def __init__(self) -> None:
        self._second = 0
        self._input = self._output = self._findings = 0

    def feed(self, record: Record) -> list[Item]:
        """Take a record; gives the second that ended with it."""
        if record.kind not in _COUNTED:
            return []
        second = record.at_us // SECOND_US
        ended = self.end() if second != self._second else []
        self._second = second
        if record.kind is Kind.FINDING:
            self._findings += 1
        elif record.kind is Kind.STATEMENT:
            self._count(record.body)
        elif record.kind in _OUTPUT:
            self._output += len(record.body)
        else:
            self._input += len(record.body)
        return ended

    def _count(self, body: dict[str, Any]) -> None:
        """Count a statement's bytes, or the rows of its answer: those rows are on no tape."""
        length, rows = body.get("length", len(body.get("text") or "")), body.get("rows")
        if body.get("event") == "result":
            self._output += rows if isinstance(rows, int) else 1
        else:
            self._input += length

    def end(self) -> list[Item]:
        """Give the second that is being counted, if anything passed in it."""
        if not (self._input or self._output or self._findings):
            return []
        item = Item(Derived.HEAT, self._second * SECOND_US, [self._input, self._output, self._findings])
        self._input = self._output = self._findings = 0
        return [item]
