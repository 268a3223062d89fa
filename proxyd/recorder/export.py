"""Export: a recording in the forms other tools read: asciicast v3 and v2, JSON lines, and CSV.

What was on a screen becomes a cast; a database session, which has none, becomes a line for each statement. Films of
screens and PyRDP replays are made by `proxyd.export` in a process of its own: here their names are known.

Rule 1: everything is yielded line by line; memory does not grow with the recording.
Rule 2: bytes become text only here: UTF-8 is decoded across records, one decoder a stream, and what is no UTF-8
        becomes U+FFFD.
Rule 3: a cast is one channel, begun when that channel was; what happened to the session stands in it as markers.
Rule 4: what was typed while a terminal echoed nothing, a password, is in no cast: of input it has the lines that were shown.
        The records themselves, where somebody asks for them with their keys, are what crossed.

Spec: docs.asciinema.org/manual/asciicast/v3 and /v2.
"""

from __future__ import annotations

import base64
import codecs
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from operator import attrgetter
from typing import Any

from proxyd.characters import as_json
from proxyd.errors import FormatError
from proxyd.recorder import queries
from proxyd.recorder.forms import DESKTOP, choose
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.replay import Recording

COLUMNS, ROWS = 80, 24  # a terminal that never said its size
SIZE_LIMIT = 0xFFFF  # the formats' readers hold a size in 16 bits
SIGNALLED = 128  # what a shell adds to a signal's number to make an exit status of it
UNKNOWN_SIGNAL = 255  # the exit status of an end by a signal that has no number here
_SCREEN = (Kind.OUTPUT, Kind.ERROR_OUTPUT)
_CHANNEL_SAYS = frozenset({*_SCREEN, Kind.CHANNEL, Kind.REQUEST, Kind.RESIZE})
_MARKED_CONTROLS = {"block": "interaction blocked", "unblock": "interaction released", "drop": "dropped"}


@dataclass(slots=True)
class Terminal:
    """What is known of a channel when its first output comes: who plays it back needs this first."""

    channel: int
    begin_us: int
    pty: bool = False
    type: str = ""
    columns: int = 0
    rows: int = 0
    command: str = ""
    shows: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, the usual ones when none were said."""
        return _size(self.columns, self.rows)


def find_terminal(records: Iterator[Record], channel: int | None = None) -> Terminal:
    """Choose what to show: `channel`, else the first that had a terminal, else the first that showed anything.

    Reads no further than it must. Raises FormatError when there is no such channel.
    """
    seen: dict[int, Terminal] = {}
    for record in records:
        if record.kind not in _CHANNEL_SAYS:
            continue
        terminal = seen.setdefault(record.channel, Terminal(record.channel, record.at_us))
        _learn(terminal, record)
        if terminal.shows and (record.channel == channel or (channel is None and terminal.pty)):
            return terminal
    shown = [terminal for terminal in seen.values() if terminal.shows or terminal.pty]
    if channel is not None:
        found = [terminal for terminal in shown if terminal.channel == channel]
        if not found:
            there = ", ".join(str(terminal.channel) for terminal in shown) or "none"
            raise FormatError(f"channel {channel} showed nothing; channels that did: {there}")
        return found[0]
    if not shown:
        raise FormatError("no channel of this recording showed anything")
    return next((terminal for terminal in shown if terminal.pty), shown[0])


def asciicast3(
    recording: Recording, *, channel: int | None = None, typed: Typed | None = None
) -> Iterator[str]:
    """Yield the lines of an asciicast v3 file of one channel. Raises FormatError when it has no such channel."""
    terminal = find_terminal(recording.records(), channel)
    columns, rows = terminal.size
    term: dict[str, Any] = {"cols": columns, "rows": rows}
    if terminal.type:
        term["type"] = terminal.type
    yield _line({"version": 3, "term": term} | _about(recording, terminal))
    last = 0
    for at, code, text in _Cast(terminal).events(_with_lines(recording.records(), terminal, typed)):
        yield f'[{_seconds(at - last)}, "{code}", {as_json(text)}]\n'
        last = at


def asciicast2(
    recording: Recording, *, channel: int | None = None, typed: Typed | None = None
) -> Iterator[str]:
    """Yield the lines of an asciicast v2 file of one channel: as v3, but times since the start and no exit status."""
    terminal = find_terminal(recording.records(), channel)
    columns, rows = terminal.size
    about = _about(recording, terminal) | ({"env": {"TERM": terminal.type}} if terminal.type else {})
    yield _line({"version": 2, "width": columns, "height": rows} | about)
    for at, code, text in _Cast(terminal).events(_with_lines(recording.records(), terminal, typed)):
        if code != "x":
            yield f'[{_seconds(at)}, "{code}", {as_json(text)}]\n'


def jsonl(recording: Recording, *, keys: bool = True) -> Iterator[str]:
    """Yield every record as one line of JSON; without `keys`, of what was typed in terminals only how much (rule 4)."""
    return map(json_line, recording.records() if keys else _without_keys(recording.records()))


def json_line(record: Record) -> str:
    """Give a record as one line of JSON: seq, at_us, kind, channel, body.

    Bytes anywhere in a body are {"base64": ..., "text": ...}; text only when they are UTF-8.
    """
    return _line(
        {
            "seq": record.seq,
            "at_us": record.at_us,
            "kind": record.kind.name.lower(),
            "channel": record.channel,
            "body": _plain(record.body),
        }
    )


def statements(recording: Recording, form: str) -> Iterator[str]:
    """Yield a database session's statements, each with its result, as the lines of `form`: "jsonl" or "csv"."""
    joined = queries.joined(recording.records())
    session = str(recording.meta.get("id", ""))
    lines = queries.csv_lines if form == "csv" else queries.json_lines
    return lines(joined, session, recording.started_at)


def export(
    recording: Recording, form: str = "", *, channel: int | None = None, typed: Typed | None = None
) -> Iterator[str]:
    """Yield the lines of `form`, one of FORMS, else of what `choose` gives for it. Raises FormatError.

    `jsonl` is of every record, of a database session of every statement. `typed`: with what was typed, too;
    what it raises is raised.
    """
    protocol = str(recording.meta.get("protocol", ""))
    form = choose(form, protocol)
    if protocol in queries.PROTOCOLS:
        return statements(recording, form)
    if form == "jsonl":
        return jsonl(recording, keys=typed is not None or protocol == DESKTOP)
    return _CASTS[form](recording, channel=channel, typed=typed)


Typed = Callable[[int], Iterable[tuple[int, str]]]  # the lines typed in a channel, by their times
_CASTS: dict[str, Callable[..., Iterator[str]]] = {"asciicast": asciicast3, "asciicast2": asciicast2}


def _with_lines(records: Iterator[Record], terminal: Terminal, typed: Typed | None) -> Iterator[Record]:
    """Yield records with the lines that were typed in place of the keys (rule 4)."""
    lines = typed(terminal.channel) if typed else ()
    entered = (Record(0, at_us, Kind.INPUT, terminal.channel, f"{text}\r".encode()) for at_us, text in lines)
    kept = (record for record in records if record.kind is not Kind.INPUT)
    return merge(kept, entered, key=attrgetter("at_us"))


def _without_keys(records: Iterator[Record]) -> Iterator[Record]:
    """Yield records; what was typed in a terminal as its number of bytes."""
    terminals: set[int] = set()
    for record in records:
        if record.kind is Kind.REQUEST and record.body.get("name") == "pty-req":
            terminals.add(record.channel)
        if record.kind in (Kind.INPUT, Kind.REFUSED) and record.channel in terminals:
            yield record._replace(body={"bytes": len(record.body)})
        else:
            yield record


class _Cast:
    """Turns a channel's records into events of a cast: (µs since the channel began, code, text)."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._size = terminal.size
        self._streams = {
            kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in (*_SCREEN, Kind.INPUT)
        }
        self._after_return = False
        self._exit = ""

    def events(self, records: Iterator[Record]) -> Iterator[tuple[int, str, str]]:
        at = 0
        for (
            record
        ) in records:  # from the session's start: what was found before the channel opened is marked at 0
            at = max(at, record.at_us - self._terminal.begin_us)
            for code, text in self._events(record):
                yield at, code, text
        for kind in _SCREEN:
            if text := self._streams[kind].decode(b"", final=True):  # it ended within a character
                yield at, "o", text
        if self._exit:
            yield (
                at,
                "x",
                self._exit,
            )  # the format's last event, though output may follow the status on the wire

    def _events(self, record: Record) -> Iterator[tuple[str, str]]:
        if mark := marker(record):
            yield "m", mark
        if record.channel != self._terminal.channel:
            return
        if record.kind in self._streams:
            yield from self._text(record)
        elif record.kind is Kind.NOTICE:
            yield "o", f"\r\n{record.body}\r\n"  # as it was shown: on a line of its own
        elif record.kind is Kind.RESIZE:
            size = _size(*record.body)
            if size != self._size:
                self._size = size
                yield "r", f"{size[0]}x{size[1]}"
        elif record.kind is Kind.EXIT:
            self._exit = _exit_status(record.body)

    def _text(self, record: Record) -> Iterator[tuple[str, str]]:
        text = self._streams[record.kind].decode(record.body)
        if not text:
            return  # the beginning of a character: it comes with its end
        if record.kind is not Kind.INPUT:
            yield "o", self._shown(text)
        else:
            yield "i", text

    def _shown(self, text: str) -> str:
        """Give text as a terminal must get it: without a pty nobody has turned line feeds into new lines."""
        if self._terminal.pty:
            return text
        begin = text[0] if self._after_return and text[0] == "\n" else ""
        self._after_return = text[-1] == "\r"
        return begin + text[len(begin) :].replace("\r\n", "\n").replace("\n", "\r\n")


def _learn(terminal: Terminal, record: Record) -> None:
    body = record.body
    if record.kind in _SCREEN:
        terminal.shows = True
    elif record.kind is Kind.RESIZE:
        terminal.columns, terminal.rows = body
    elif record.kind is not Kind.REQUEST or "refused" in body:
        return
    elif body.get("name") == "pty-req":
        terminal.pty = True
        terminal.type = _text(body.get("term", ""))
        terminal.columns = body.get("columns") or terminal.columns
        terminal.rows = body.get("rows") or terminal.rows
    elif body.get("name") == "exec":
        terminal.command = _text(body.get("command", ""))


def _about(recording: Recording, terminal: Terminal) -> dict[str, Any]:
    meta = recording.meta
    about: dict[str, Any] = {"timestamp": int(recording.started_at + terminal.begin_us / 1e6)}
    if terminal.command:
        about["command"] = terminal.command
    who, login, target = (str(meta.get(name, "")) for name in ("user", "login", "target"))
    return about | {"title": f"{who} as {login} on {target}"}


def marker(record: Record) -> str:
    """Say what happened to the session, if this record tells of it; else ""."""
    body = record.body
    if record.kind is Kind.FINDING:
        return f"finding ({body.get('severity', '')}): {body.get('text') or body.get('code', '')}"
    if record.kind is Kind.CONTROL and body.get("action") in _MARKED_CONTROLS:
        reason = f": {body['reason']}" if body.get("reason") else ""
        return f"{_MARKED_CONTROLS[body['action']]} by {body.get('by', '')}{reason}"
    if record.kind is Kind.LOST:
        return f"not recorded: {body.get('records', 0)} records ({body.get('why', '')})"
    return ""


def _exit_status(body: dict[str, Any]) -> str:
    if "status" in body:
        return str(body["status"])
    name = f"SIG{_text(body.get('signal', ''))}"
    known = name in signal.Signals.__members__
    return str(SIGNALLED + signal.Signals[name] if known else UNKNOWN_SIGNAL)


def _size(columns: int, rows: int) -> tuple[int, int]:
    """Give a size a player can use: a client may say 0, which means nothing, or nonsense."""
    return min(columns, SIZE_LIMIT) or COLUMNS, min(rows, SIZE_LIMIT) or ROWS


def _seconds(us: int) -> str:
    """Write microseconds as seconds, never in exponent form: readers parse digits and a dot."""
    return f"{us // 1_000_000}.{us % 1_000_000:06d}".rstrip("0").ljust(len(str(us // 1_000_000)) + 2, "0")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _plain(value: Any) -> Any:
    """Give a record's body as JSON holds it."""
    if isinstance(value, bytes):
        shown = {"base64": base64.b64encode(value).decode()}
        try:
            return shown | {"text": value.decode()}
        except UnicodeDecodeError:
            return shown
    if isinstance(value, dict):
        return {
            _text(key) if isinstance(key, str | bytes) else str(key): _plain(one)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _line(value: Any) -> str:
    return as_json(value) + "\n"
