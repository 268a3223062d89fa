"""Database statements as people ask for them: each with its parameters and what became of it.

A recording holds a STATEMENT record when a statement was sent, and another when it was answered; this joins the two.

Rule 1: nothing is guessed: a statement without an answer is `unanswered`, an answer without its statement has no text.
Rule 2: records of any shape are taken: what is not there, or of another type, is left out and never raises.
Rule 3: memory holds the statements still to be answered, at most WAITING of them.
Rule 4: JSON is exact. CSV is for eyes and spreadsheets: no cell is a formula, none holds a control character.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from proxyd.characters import as_json, visible
from proxyd.recorder.record import Kind, Record

PROTOCOLS = frozenset({"postgres", "mysql"})  # sessions that have statements, and no screen
WAITING = (
    10_000  # a driver's deepest pipeline is some thousands; answers that never come must not fill memory
)

OK, ERROR, REFUSED, UNANSWERED = "ok", "error", "refused", "unanswered"

# What a spreadsheet takes for a formula (OWASP, CSV injection); the full-width forms count in East Asian ones.
_FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


_MEANINGS = {
    "suspended": "more rows to come",
    "aborted": "skipped, a statement before it failed",
    "cut": "the session ended first",
}


class Parameter(NamedTuple):
    """A value bound to a statement: its type, its bytes on the wire, and as much of itself as policy keeps.

    `value` None: NULL where `kind` says so, else not on the tape. `digest` stands for the value: equal values of one
    session have equal digests. `masked`: the statement names a secret. `truncated`: `value` is the beginning of it.
    """

    kind: str
    size: int | None = None
    value: Any = None
    digest: str = ""
    masked: bool = False
    truncated: bool = False

    def document(self) -> dict[str, Any]:
        """Give it as JSON holds it: what there is."""
        kept = {
            "kind": self.kind,
            "size": self.size,
            "value": _finite(self.value),
            "hash": self.digest or None,
        }
        flags = {"masked": self.masked or None, "truncated": self.truncated or None}
        return {name: value for name, value in (kept | flags).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Result:
    """How the target answered a statement; `us`: microseconds it took, `rows`: returned or affected."""

    at_us: int
    us: int | None = None
    tag: str = ""
    rows: int | None = None
    severity: str = ""
    code: str = ""
    message: str = ""
    transaction: str = ""
    outcome: str = ""

    @property
    def failed(self) -> bool:
        """Whether the target answered with an error."""
        return bool(self.severity or self.code or self.message)


@dataclass(frozen=True, slots=True)
class Query:
    """A statement, number `n` of its session, with its result once there is one.

    `text` is what the target's level keeps: all of it, its head and from character `cut_at` on its tail, a masked or
    fingerprinted form (`fingerprint`: the digest of that), or nothing, then there is its first word as `verb`.
    `length` (bytes) and `sha256` are of the whole where it is not here. `bound`: how many parameters there were where
    not all are here. `refused`: why it never reached the target.
    """

    n: int
    at_us: int
    text: str = ""
    how: str = ""
    name: str = ""
    channel: int = 0
    parameters: tuple[Parameter, ...] = ()
    bound: int | None = None
    verb: str = ""
    truncated: bool = False
    cut_at: int | None = None
    length: int | None = None
    sha256: str = ""
    fingerprint: str = ""
    redacted: bool = False
    refused: str = ""
    result: Result | None = None

    @property
    def shown(self) -> str:
        """The text, with a word in brackets where something of it is missing."""
        if not self.text and self.length is not None:
            return f"{self.verb} [{self.length:,} bytes, not recorded]".lstrip()
        if not self.truncated:
            return self.text
        head, tail = (self.text[: self.cut_at], self.text[self.cut_at :]) if self.cut_at else (self.text, "")
        return f"{head} [... cut, {self.length or 0:,} bytes in all ...] {tail}".rstrip()

    @property
    def status(self) -> str:
        """Say in a word what became of it: ok, error, refused, unanswered, or what the result's outcome says."""
        if self.refused:
            return REFUSED
        if self.result is None:
            return UNANSWERED
        return ERROR if self.result.failed else self.result.outcome or OK

    @property
    def outcome(self) -> str:
        """Say in a few words what became of it: the target's tag, `ERROR 42P01: no such table`, why it was refused."""
        result = self.result
        if self.refused or result is None:
            return self.refused or "no answer"
        if result.failed:
            return f"{' '.join(filter(None, (result.severity or 'ERROR', result.code)))}: {result.message}"
        return _MEANINGS.get(result.outcome) or _verb(result) or result.outcome or OK

    def document(self) -> dict[str, Any]:
        """Give it as JSON holds it, with all that was recorded, and without times of day."""
        result = self.result or Result(self.at_us)
        failure = {"severity": result.severity, "code": result.code, "message": result.message}
        document = {
            "n": self.n,
            "at_us": self.at_us,
            "channel": self.channel,
            "how": self.how,
            "name": self.name,
            "statement": self.text,
            "parameters": [one.document() for one in self.parameters],
            "status": self.status,
            "tag": result.tag,
            "rows": result.rows,
            "error": failure if result.failed else None,
            "us": result.us,
            "transaction": result.transaction,
        }
        seldom = {name: getattr(self, name) for name in _SELDOM}
        return document | {name: value for name, value in seldom.items() if value not in ("", None, False)}


_SELDOM = (
    "refused", "verb", "bound", "truncated", "cut_at", "length", "sha256", "fingerprint", "redacted"
)  # fmt: skip


class Queries:
    """Joins a session's records; sans-IO."""

    def __init__(self) -> None:
        self._waiting: dict[int, Query] = {}

    def take(self, record: Record) -> Query | None:
        """Give the statement a record begins, or, whole, the one it answers; None for other records."""
        body = record.body
        if record.kind is not Kind.STATEMENT or not isinstance(body, dict):
            return None
        number = _count(body.get("n")) or 0
        if body.get("event") == "result":
            query = self._waiting.pop(number, None) or Query(number, record.at_us, channel=record.channel)
            return replace(query, result=_result(record.at_us, body))
        query = _query(record, number, body)
        if not query.refused:
            self._waiting[number] = query
            if len(self._waiting) > WAITING:
                del self._waiting[next(iter(self._waiting))]
        return query

    def unanswered(self) -> list[Query]:
        """Give the statements no answer has come for, oldest first."""
        return list(self._waiting.values())


def joined(records: Iterable[Record]) -> Iterator[Query]:
    """Yield every statement once, with what became of it, in the order they were sent."""
    queries, order = Queries(), dict[int, Query]()
    for record in records:
        if (query := queries.take(record)) is None:
            continue
        if query.result is not None and query.n not in order:
            yield query  # its statement is not in the recording, or was given up below
            continue
        if query.result is None and query.n in order:
            yield order.pop(query.n)  # numbered twice: no daemon does that
        order[query.n] = query
        while order and ((first := next(iter(order.values()))).status != UNANSWERED or len(order) > WAITING):
            yield order.pop(first.n)
    yield from order.values()


def _query(record: Record, number: int, body: dict[str, Any]) -> Query:
    sent = body.get("parameters")
    return Query(
        n=number,
        at_us=record.at_us,
        text=_text(body.get("text")),
        how=_text(body.get("how")),
        name=_text(body.get("name")),
        channel=record.channel,
        parameters=tuple(map(_parameter, sent)) if isinstance(sent, list) else (),
        bound=_count(body.get("parameters_total")),
        verb=_text(body.get("kind")),
        truncated=bool(body.get("truncated")),
        cut_at=_count(body.get("cut_at")),
        length=_count(body.get("length")),
        sha256=_hex(body.get("sha256")),
        fingerprint=_hex(body.get("fingerprint")),
        redacted=bool(body.get("redacted")),
        refused=_text(body.get("refused")),
    )


def _result(at_us: int, body: dict[str, Any]) -> Result:
    error = body.get("error")
    failure = error if isinstance(error, dict) else {}
    return Result(
        at_us=at_us,
        us=_count(body.get("us")),
        tag=_text(body.get("tag")),
        rows=_count(body.get("rows")),
        severity=_text(failure.get("severity")),
        code=_text(failure.get("code")),
        message=_text(failure.get("message")),
        transaction=_text(body.get("transaction")),
        outcome=_text(body.get("outcome")),
    )


def _parameter(sent: Any) -> Parameter:
    if not isinstance(sent, dict):
        return Parameter("")
    value = sent.get("value")
    return Parameter(
        kind=_text(sent.get("kind")),
        size=_count(sent.get("size")),
        value=value if isinstance(value, str | int | float) else None,
        digest=_text(sent.get("hash")),
        masked=bool(sent.get("masked")),
        truncated=bool(sent.get("truncated")),
    )


def _verb(result: Result) -> str:
    """Give a tag without the row count at its end, which is shown for itself: INSERT for INSERT 0 5."""
    words = result.tag.split()
    if result.rows is None or words[-1:] != [str(result.rows)]:
        return result.tag
    return " ".join(word for word in words if not word.isdigit())


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str) else ""


def _hex(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else _text(value)


def _finite(value: Any) -> Any:
    """Give a value as JSON can hold it: it has no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------------------- files

COLUMNS = (
    "session", "n", "at", "how", "statement", "length", "parameters", "status", "outcome", "rows",
    "error_severity", "error_code", "error_message", "duration_us", "transaction",
)  # fmt: skip


def json_lines(queries: Iterable[Query], session: str, started_at: float) -> Iterator[str]:
    """Yield each statement as one line of JSON. `started_at`: of the session, seconds since 1970."""
    for query in queries:
        yield as_json({"session": session, "at": _moment(started_at, query.at_us)} | query.document()) + "\n"


def csv_lines(queries: Iterable[Query], session: str, started_at: float) -> Iterator[str]:
    """Yield a heading and a line for each statement, as RFC 4180 has it; `length`: of the text where not all is here."""
    yield _csv_line(COLUMNS)
    for query in queries:
        result = query.result or Result(query.at_us)
        values = [one.document() for one in query.parameters]
        yield _csv_line(
            (
                session,
                query.n,
                _moment(started_at, query.at_us),
                query.how,
                query.shown,
                query.length,
                as_json(values) if values else None,
                query.status,
                query.outcome,
                result.rows,
                result.severity,
                result.code,
                result.message,
                result.us,
                result.transaction,
            )
        )


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(map(_cell, cells))
    return line.getvalue()


def _cell(value: Any) -> str:
    """Write a cell no spreadsheet takes for a formula: text that looks like one begins with an apostrophe."""
    if value is None or isinstance(value, int):
        return "" if value is None else str(value)
    text = visible(str(value))
    return f"'{text}" if text.lstrip().startswith(_FORMULAS) else text


def _moment(started_at: float, at_us: int) -> str:
    """Write a time as ISO 8601 in UTC, to the microsecond of the tape."""
    when = datetime.fromtimestamp(started_at, UTC) + timedelta(microseconds=at_us)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")
