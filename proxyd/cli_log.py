"""A session's log, drawn from its records: what happened, what was typed, what was run, moved and found.

Rule 1: a typed line is shown only when the session showed it too; what was typed unseen, a password, is a count.
Rule 2: what an editor or another full-screen program was told is not a line, and is left out.
Rule 3: this reads records and nothing else, so that the log is the same wherever it is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxyd.cli_output import Column, Output, position, size
from proxyd.recorder.queries import Queries, Query
from proxyd.recorder.record import Kind, Record

LEAST_DETAILS = 30  # columns in which a line of the log can be read
LINE_LIMIT = 4096  # characters of one typed line; the kernel's own line editor stops there
ECHO_LIMIT = 1 << 16  # bytes of output in which the echo of a typed line is looked for
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|O.|[ -/]*[0-~])")
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


@dataclass(slots=True)
class _Line:
    """A line being typed, or waiting for its echo."""

    at_us: int = 0
    keys: int = 0
    text: str = ""
    entered: bool = False


class _Typing:
    """Reads lines off one terminal channel: what was typed, and whether it was seen."""

    def __init__(self) -> None:
        self._line = _Line()
        self._waiting: list[_Line] = []
        self._echo = bytearray()
        self._full_screen = False

    def typed(self, at_us: int, data: bytes) -> Iterator[_Line]:
        """Take input; gives lines whose echo can no longer come."""
        if self._full_screen:
            return
        if self._waiting and self._newline_since():
            yield from self.flush()
        for char in _ESCAPES.sub(b"", data).decode(errors="replace"):
            line = self._line
            if not line.keys:
                line.at_us = at_us
                if not self._waiting:
                    self._echo.clear()
            line.keys += 1
            if char in "\r\n":
                line.entered = True
                self._waiting.append(line)
                self._line = _Line()
            else:
                line.text = _edited(line.text, char)

    def shown(self, data: bytes) -> Iterator[_Line]:
        """Take output; gives lines that were seen in it."""
        for switch in re.findall(rb"\x1b\[\?(?:1049|1047|47)([hl])", data):
            self._full_screen = switch == b"h"
        self._echo += data[:ECHO_LIMIT]
        del self._echo[:-ECHO_LIMIT]
        if not self._waiting:
            return
        seen = _rubbed_out(_ESCAPES.sub(b"", bytes(self._echo)).decode(errors="replace"))
        while self._waiting and self._waiting[0].text.strip() and self._waiting[0].text.strip() in seen:
            yield self._waiting.pop(0)

    def flush(self) -> Iterator[_Line]:
        """Give what still waits: typed, entered, and never seen."""
        for line in self._waiting:
            if line.text:
                yield _Line(line.at_us, line.keys - 1)
        self._waiting.clear()
        self._echo.clear()

    def _newline_since(self) -> bool:
        return b"\n" in self._echo


def _rubbed_out(text: str) -> str:
    """Give what is left on the screen where a shell has gone back and erased."""
    if "\b" not in text:
        return text
    first, *rest = text.split("\b")
    left = [*first]
    for part in rest:
        del left[-1:]
        left += part
    return "".join(left)


def _edited(text: str, char: str) -> str:
    """Apply a key to a line as a shell does: erase, kill word, kill line, give up."""
    if char in "\x7f\b":
        return text[:-1]
    if char == "\x17":
        return text.rstrip().rpartition(" ")[0] + " " if " " in text.rstrip() else ""
    if char in "\x15\x03\x04":
        return ""
    return (text + char)[:LINE_LIMIT] if char.isprintable() else text


def entries(records: Iterable[Record]) -> Iterator[Entry]:
    """Yield the log of a session, in the order things were known."""
    typing: dict[int, _Typing] = {}
    queries = Queries()
    for record in records:
        body, channel = record.body, record.channel
        if record.kind is Kind.REQUEST and body.get("name") == "pty-req" and "refused" not in body:
            typing[channel] = _Typing()
        elif record.kind is Kind.INPUT and channel in typing:
            yield from _lines(typing[channel].typed(record.at_us, body), channel)
        elif record.kind in (Kind.OUTPUT, Kind.ERROR_OUTPUT) and channel in typing:
            yield from _lines(typing[channel].shown(body), channel)
        if told := told_by(record):
            yield Entry(record.at_us, channel, *told)
        if (query := queries.take(record)) and (query.result or query.refused):
            yield _statement(query)
    yield from map(_statement, queries.unanswered())
    for channel, rest in typing.items():
        yield from _lines(rest.flush(), channel)


def _lines(lines: Iterable[_Line], channel: int) -> Iterator[Entry]:
    for line in lines:
        if line.text:
            yield Entry(line.at_us, channel, "typed", line.text)
        else:
            yield Entry(line.at_us, channel, "typed", f"({line.keys} keys, not shown on the screen)")


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
