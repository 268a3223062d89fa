"""A session's log, drawn from its records: what happened, what was run, moved and found.

Rule 1: this reads records and nothing else, so that the log is the same wherever it is drawn; what was typed and run in
        terminals is derived (cli_commands), what was typed at desktops too (cli_desktop).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from proxyd.cli_output import FAILED, Column, Output, position, size
from proxyd.recorder.queries import Queries, Query
from proxyd.recorder.record import Kind, Record

if TYPE_CHECKING:
    from proxyd.cli_app import Run

LEAST_DETAILS = 30  # columns in which a line of the log can be read
_NOT_SHOWN = frozenset({"env", "window-change", "eow@openssh.com", "keepalive@openssh.com"})


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


def told_by(record: Record) -> tuple[str, str] | None:
    """Say what a record tells by itself, as (kind, text); None for what is no event of a log."""
    body: Any = record.body
    match record.kind:
        case Kind.REQUEST:
            return _request(body)
        case Kind.CHANNEL:
            return "channel", " ".join(
                _text(body[key]) for key in ("event", "type", "host", "port", "path") if body.get(key)
            )
        case Kind.EXIT:
            return (
                "exit",
                f"status {body['status']}" if "status" in body else f"signal {_text(body.get('signal', ''))}",
            )
        case Kind.TRANSFER:
            return "transfer", _transfer(body)
        case Kind.FINDING:
            return "finding", f"{body.get('severity', '')}: {body.get('text') or body.get('code', '')}"
        case Kind.CONTROL:
            reason = f": {body['reason']}" if body.get("reason") else ""
            by = f" by {body['by']}" if body.get("by") else ""
            return "control", f"{body.get('action', '')}{by}{reason}"
        case Kind.REFUSED:
            return "refused", f"{size(len(body))} of input while blocked"
        case Kind.NOTICE:
            return "notice", _text(body)
        case Kind.CLIPBOARD:
            return "clipboard", _clip(body)
        case Kind.OMITTED:
            moved = f"{size(body.get('input', 0))} in, {size(body.get('output', 0))} out"
            return "omitted", f"{moved}: {_text(body.get('why', ''))}"
        case Kind.LOST:
            return "lost", f"{body.get('records', 0)} records: {_text(body.get('why', ''))}"
        case Kind.END:
            by = f" by {body['by']}" if body.get("by") else ""
            error = f": {_text(body['error'])}" if body.get("error") else ""
            return "end", f"{_text(body.get('reason', ''))}{by}{error}"
    return None


def _request(body: dict[str, Any]) -> tuple[str, str] | None:
    name = _text(body.get("name", ""))
    refused = " (refused)" if "refused" in body else ""
    if name == "exec":
        return "command", _text(body.get("command", "")) + refused
    if name == "subsystem":
        return "command", f"subsystem {_text(body.get('subsystem') or body.get('command') or '')}{refused}"
    if name in _NOT_SHOWN and not refused:
        return None
    return "request", name + refused


def _clip(body: dict[str, Any]) -> str:
    about = [_text(body.get("direction", "")), _text(body.get("format", ""))]
    result, text = _text(body.get("result", "")), _text(body.get("text") or "")
    if result != "denied":
        about.append(size(body.get("size", 0)))
        about.append(f"sha256 {body['sha256']}" if body.get("sha256") else "")
    about.append(result)
    shown = ", ".join(filter(None, about))
    return f"{shown}: {text}{' (goes on)' if body.get('cut') else ''}" if text or not result else shown


def _transfer(body: dict[str, Any]) -> str:
    to = _text(body.get("to", ""))
    parts = [_text(body.get("operation", "")), _text(body.get("path", "")), f"to {to}" if to else ""]
    if body.get("size") or body.get("operation") in ("put", "get"):
        parts.append(size(body["size"]))
    if digest := body.get("sha256"):
        parts.append(f"sha256 {digest.hex() if isinstance(digest, bytes) else digest}")
    if result := body.get("result"):
        parts.append(_text(result))
    return "  ".join(part for part in parts if part)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def print_entries(output: Output, lines: Iterable[Entry]) -> None:
    """Print the log of a session of screens: a row for each entry."""
    columns = [
        Column("AT", lambda entry: position(entry["at_us"]), right=True),
        Column("CH", lambda entry: entry["channel"] or "", keep=1, right=True),
        Column("WHAT", lambda entry: entry["kind"]),
        Column("DETAILS", lambda entry: entry["text"], fold=LEAST_DETAILS),
    ]
    output.table(columns, (entry.document() for entry in lines), "Nothing happened.")
