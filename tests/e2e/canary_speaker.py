"""How the random driver speaks PostgreSQL: expressions whose values are canaries, one call for each message, and a note of it.

libpq is called directly, so that exactly what was sent is known: `log.sent` is what the recording must tell.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.pq import DiagnosticField, ExecStatus

from tests.e2e.canary_style import Log, Sent, Style
from tests.peers.canary import Canaries

TYPES = {
    "word": "text",
    "number": "bigint",
    "blob": "bytea",
    "uuid": "uuid",
    "decimal": "numeric",
    "double": "double precision",
    "json": "jsonb",
    "list": "text[]",
}
REFUSED = 13  # an id that ends so meets the trigger's exception
QUOTED_FIELDS = (
    DiagnosticField.MESSAGE_DETAIL,
    DiagnosticField.MESSAGE_HINT,
    DiagnosticField.CONTEXT,
    DiagnosticField.COLUMN_NAME,
)


class Bound(NamedTuple):
    """A bound value as it crosses."""

    data: bytes
    type: int
    format: int


@dataclass
class Table:
    """A table: its quoted name, the kinds of its columns c0.., the last id given, the table that refers to it."""

    name: str
    kinds: list[str]
    last: int = 0
    child: str = ""

    @property
    def columns(self) -> str:
        return "id, " + ", ".join(f"c{place}" for place in range(len(self.kinds)))


class Speaker:
    """One session's."""

    def __init__(
        self, connection: psycopg.Connection[Any], canaries: Canaries, style: Style, draw: Random
    ) -> None:
        self.log = Log()
        self._pg = connection.pgconn
        self._canaries = canaries
        self._style = style
        self._draw = draw
        self._bound: list[Bound] | None = None  # of the statement being written, where it may bind
        self._pour: Iterable[bytes] = ()
        self._pour_ends: bytes | None = None
        self._pg.notice_handler = self._noticed

    # ------------------------------------------------------------------ values

    def value(self, kind: str) -> str:
        """Write an expression whose value is a new canary."""
        if kind == "json":
            return f"jsonb_build_object('a', {self.value('word')})"
        if kind == "list":
            return f"array['x', {self.value('word')}]"
        key = self._canaries.issue()
        if self._bound is not None and self._style.bind and self._draw.random() < 0.7:
            self._bound.append(self._as_bound(kind, key))
            return f"${len(self._bound)}::{TYPES[kind]}"
        if self._style.literal and self._draw.random() < 0.7:
            return self._as_literal(kind, key)
        return f"cn_{kind}({key})"

    def _as_literal(self, kind: str, key: int) -> str:
        made = self._canaries
        match kind:
            case "word":
                return self._draw.choice(("'{0}'", "E'{0}'", "$x${0}$x$", "'{0}'::text")).format(
                    made.word(key)
                )
            case "number" | "double":
                return f"{made.number(key)}"
            case "decimal":
                return f"{made.decimal(key)}"
            case "blob":
                return f"'\\x{made.hex(key)}'::bytea"
            case _:
                return f"'{made.uuid(key)}'::uuid"

    def _as_bound(self, kind: str, key: int) -> Bound:
        made, binary = self._canaries, self._draw.random() < 0.5
        match kind:
            case "word":
                return Bound(made.word(key).encode(), 25, int(binary))
            case "number":
                number = made.number(key)
                return (
                    Bound(struct.pack(">q", number), 20, 1) if binary else Bound(str(number).encode(), 20, 0)
                )
            case "blob":
                return (
                    Bound(made.blob(key), 17, 1) if binary else Bound(b"\\x" + made.hex(key).encode(), 17, 0)
                )
            case "uuid":
                return (
                    Bound(made.blob(key), 2950, 1) if binary else Bound(str(made.uuid(key)).encode(), 2950, 0)
                )
            case "decimal":
                return Bound(str(made.decimal(key)).encode(), 1700, 0)
            case _:
                number = made.number(key)
                return (
                    Bound(struct.pack(">d", number), 701, 1)
                    if binary
                    else Bound(repr(float(number)).encode(), 701, 0)
                )

    def row(self, table: Table, key: int | str | None = None) -> str:
        """Write the values of a row of a table."""
        if key is None:
            key = table.last = table.last + 1
            if key % 100 == REFUSED:
                key = table.last = table.last + 1
        return ", ".join([str(key), *(self.value(kind) for kind in table.kinds)])

    # ------------------------------------------------------------------ sending

    def simple(self, text: str) -> list[pq.abc.PGresult]:
        """Send a Query."""
        self._pg.send_query(text.encode())
        return self._take("simple", text)

    def extended(self, write: Callable[[], str]) -> list[pq.abc.PGresult]:
        """Send Parse, Bind, Execute of what `write` writes."""
        text, bound = self._written(write)
        self._send(text, bound)
        return self._take("execute", text)

    def either(self, write: Callable[[], str]) -> list[pq.abc.PGresult]:
        """Send it either way."""
        return self.extended(write) if self._draw.random() < 0.6 else self.simple(write())

    def one_of(self, *writers: Callable[[], str]) -> None:
        """Send what one of them writes."""
        self.either(self._draw.choice(writers))

    def _written(self, write: Callable[[], str]) -> tuple[str, list[Bound]]:
        bound: list[Bound] = []
        self._bound = bound
        text = write()
        self._bound = None
        return text, bound

    def _send(self, text: str, bound: Sequence[Bound]) -> None:
        self._pg.send_query_params(
            text.encode(),
            [one.data for one in bound],
            [one.type for one in bound],
            [one.format for one in bound],
            self._draw.randrange(2),
        )

    def _take(self, how: str, text: str) -> list[pq.abc.PGresult]:
        """Take the answers to the one statement that is under way, and note what became of it."""
        sent = Sent(how, text)
        self.log.sent.append(sent)
        results = []
        while (result := self._pg.get_result()) is not None:
            results.append(result)
            self._read(result, sent)
        self._notified()
        return results

    def _read(self, result: pq.abc.PGresult, sent: Sent) -> None:
        """Note what a result says."""
        match result.status:
            case ExecStatus.COPY_OUT:
                while (got := self._pg.get_copy_data(0))[0] != -1:
                    self.log.saw("copied", got[1])
            case ExecStatus.COPY_IN:
                for piece in self._pour:
                    self._pg.put_copy_data(piece)
                self._pg.put_copy_end(self._pour_ends)
            case ExecStatus.FATAL_ERROR:
                sent.code = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
                sent.message = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
                self.log.saw("message", sent.message)
                for part in QUOTED_FIELDS:
                    self.log.saw(part.name.lower(), result.error_field(part))
            case ExecStatus.PIPELINE_ABORTED:
                sent.outcome = "aborted"
            case ExecStatus.COMMAND_OK | ExecStatus.TUPLES_OK:
                self._count(result, sent)

    def _count(self, result: pq.abc.PGresult, sent: Sent) -> None:
        counted = result.command_tuples
        if counted is None:
            counted = result.ntuples or None
        if counted is not None:
            sent.rows = (sent.rows or 0) + counted
        for column in range(result.nfields):
            self.log.saw("column", result.fname(column))
            self.log.saw("row", *(result.get_value(row, column) for row in range(result.ntuples)))

    def _noticed(self, result: pq.abc.PGresult) -> None:
        for part in (DiagnosticField.MESSAGE_PRIMARY, *QUOTED_FIELDS):
            self.log.saw("notice", result.error_field(part))

    def _notified(self) -> None:
        while (told := self._pg.notifies()) is not None:
            self.log.saw("notify", told.extra)
