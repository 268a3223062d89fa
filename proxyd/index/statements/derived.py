"""Everything that is derived of one database session, record by record.

Rule 1: what comes out depends on the records alone, not on when or in what pieces they came: made anew it is equal.
Rule 2: a statement's text comes when it was sent, with the values that were bound to it as far as the recording has them;
        what became of it comes when it was answered, where that says more than that it went well.
"""

from __future__ import annotations

from typing import Final

from proxyd.index.area import Area
from proxyd.index.heat import Heat
from proxyd.index.told import text_of, told
from proxyd.recorder.queries import Queries, Query
from proxyd.recorder.record import Record
from proxyd.recorder.sidecar import Derived, Item, Keyframe

SOURCE: Final = "sql"


class Session:
    """One database session; it has no screen, so nothing to go on from but its beginning."""

    def __init__(self, keyframe: Keyframe | None = None) -> None:
        """Begin; a database session has no keyframes."""
        del keyframe
        self.seq = self.at_us = self.faults = 0
        self._heat, self._queries = Heat(), Queries()

    def feed(self, record: Record) -> tuple[list[Item], list[Area]]:
        """Take the next record; gives what was derived, and no rectangle of a desktop."""
        self.seq, self.at_us = record.seq, record.at_us
        items = self._heat.feed(record) + told(record)
        if query := self._queries.take(record):
            items += _answered(query) if query.result else _sent(query)
        return items, []

    def finish(self) -> list[Item]:
        """Give what is derived at the end."""
        summary = {"seq": self.seq, "faults": self.faults}
        return [*self._heat.end(), Item(Derived.SUMMARY, self.at_us, summary)]


def _sent(query: Query) -> list[Item]:
    values = [str(one.value) for one in query.parameters if one.value is not None]
    lines = [query.shown, ", ".join(values), query.refused]
    return [text_of(query.at_us, SOURCE, "\n".join(filter(None, lines)))]


def _answered(query: Query) -> list[Item]:
    result = query.result
    return [text_of(result.at_us, SOURCE, query.outcome)] if result and result.failed else []
