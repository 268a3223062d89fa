"""A session's log, drawn from its records: what happened, what was run, moved and found.

Rule 1: this reads records and nothing else, so that the log is the same wherever it is drawn; what was typed and run in
        terminals is derived (cli_commands), what was typed at desktops too (cli_desktop).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from proxyd.cli_output import FAILED, Column, Output, position
from proxyd.recorder.queries import Queries, Query
from proxyd.recorder.record import Record
from proxyd.recorder.telling import told_by

if TYPE_CHECKING:
    from proxyd.cli_app import Run

LEAST_DETAILS = 30  # columns in which a line of the log can be read


class Entry(NamedTuple):
    """One line of the log; `kind` is command, typed, statement, request, transfer, finding, control, exit, ..."""

    at_us: int
    channel: int
    kind: str
    text: str
    query: Query | None = None

    def document(self) -> dict[str, Any]:
        """Give it as JSON holds it."""
        shown = {"at_us": self.at_us, "channel": self.channel, "kind": self.kind, "text": self.text}
        return shown | {"query": self.query.document()} if self.query else shown


class Log(NamedTuple):
    """A log of which a part is derived. `unread` messages of a client could not be read; `error`: nothing could, and why."""

    entries: list[Entry]
    unread: int = 0
    error: str = ""

    def say(self, run: Run) -> None:
        """Say what is missing; ends the run as failed when it is all that was typed."""
        if self.error:
            run.output.remark(f"what was typed is not shown: {self.error}")
            sys.exit(FAILED)
        if self.unread:
            run.output.remark(f"{self.unread} messages of the client could not be read: keys may be missing")


def entries(records: Iterable[Record]) -> Iterator[Entry]:
    """Yield the log of a session, in the order things were known."""
    queries = Queries()
    for record in records:
        if told := told_by(record):
            yield Entry(record.at_us, record.channel, *told)
        if (query := queries.take(record)) and (query.result or query.refused):
            yield _statement(query)
    yield from map(_statement, queries.unanswered())


def _statement(query: Query) -> Entry:
    return Entry(query.at_us, query.channel, "statement", query.shown, query)


def print_entries(output: Output, lines: Iterable[Entry]) -> None:
    """Print the log of a session of screens: a row for each entry."""
    columns = [
        Column("AT", lambda entry: position(entry["at_us"]), right=True),
        Column("CH", lambda entry: entry["channel"] or "", keep=1, right=True),
        Column("WHAT", lambda entry: entry["kind"]),
        Column("DETAILS", lambda entry: entry["text"], fold=LEAST_DETAILS),
    ]
    output.table(columns, (entry.document() for entry in lines), "Nothing happened.")
