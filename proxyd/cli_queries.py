"""Database sessions in the terminal: a feed of statements and what became of them, live, replayed, or as a table.

Rule 1: whatever a statement holds, it stays in its own columns: the left ones, with times, numbers and outcomes, are
        ours, and control characters are shown as escapes.
Rule 2: an outcome has the number of its statement, because pipelined ones overlap; into a pipe go the same lines,
        neither wrapped nor shortened.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import click

from proxyd.characters import visible
from proxyd.cli_log import Entry
from proxyd.cli_output import Column, Output, duration, position
from proxyd.cli_view import Scene, View
from proxyd.recorder.queries import (
    ERROR,
    OK,
    PROTOCOLS,
    REFUSED,
    UNANSWERED,
    Parameter,
    Queries,
    Query,
    Result,
)
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.telling import told_by
from proxyd.terminal import CLEAR, RESTORE, Screen

LABEL, NUMBER = 10, 6  # columns for 1:02:03.000, and for #99999
GUTTER = LABEL + 1 + NUMBER + 1
LEAST_ROOM = 20  # columns of text on the narrowest terminal: below it lines break anyhow
LINES_SHOWN = 16  # of one statement on a screen or in a table; its export has it all
CHARACTERS_SHOWN, CHARACTERS_LOGGED = 800, 400  # likewise; a column of the table is half as wide as a screen
KEPT = 5000  # entries, to paint the screen anew: many screens full
TAB = 4  # columns, as people indent SQL
LEAST_DETAILS, LEAST_OUTCOME = 32, 14  # columns of the log's table that fold

_SAYS_ITSELF = frozenset({OK, ERROR, UNANSWERED})  # outcomes that need no word before them
_UNREMARKABLE = frozenset({"simple", "execute"})  # ways to send a statement that go without saying
_MYSQL_ROWS = "ROWS"  # its engine's tag of a result set, which the number of rows says better
_NOT_IN_FEED = frozenset(
    {"watch", "leave", "settled"}
)  # the log has them; in the feed they'd be about itself
_COLORS = {OK: "32", ERROR: "1;31", REFUSED: "33", "finding": "33", "time": "2"}  # SGR, ECMA-48 8.3.117
_UNSEEN_IN_FEED = frozenset({Kind.CHANNEL, Kind.REQUEST})


class Line(NamedTuple):
    """One thing the feed shows: a label and a number in the gutter, the text beside them; `look` picks a colour."""

    label: str
    number: str
    text: str
    look: str = ""


class Feed:
    """Draws the feed of a session from its records."""

    def __init__(self) -> None:
        self._queries = Queries()
        self._transactions: dict[int, str] = {}
        self.end: dict[str, Any] | None = None

    def take(self, record: Record) -> list[Line]:
        """Give what a record adds."""
        if query := self._queries.take(record):
            return list(self._statement(query) if query.result is None else self._result(query, query.result))
        told = told_by(record)
        if told is None or record.kind in _UNSEEN_IN_FEED:
            return []
        if record.kind is Kind.CONTROL and record.body.get("action") in _NOT_IN_FEED:
            return []
        lines = [Line(position(record.at_us), "", f"{told[0]}: {told[1]}", told[0])]
        if record.kind is Kind.END:
            self.end = record.body
            return [Line("no answer", f"#{query.n}", "") for query in self._queries.unanswered()] + lines
        return lines

    def raw(self, record: Record) -> bytes:
        """Give what a record adds as text for a pipe."""
        return "".join(f"{text}\n" for line in self.take(record) for text in laid_out(line)).encode()

    def _statement(self, query: Query) -> Iterator[Line]:
        yield Line(position(query.at_us), f"#{query.n}", _sent(query), "time")
        if query.parameters:
            yield Line("with", "", bound(query))
        if query.refused:
            yield Line("refused", f"#{query.n}", query.refused, REFUSED)

    def _result(self, query: Query, result: Result) -> Iterator[Line]:
        status = query.status
        outcome = _outcome(query)
        parts = [
            outcome.removeprefix("ERROR ") if result.failed else outcome,
            lasted(result.us),
        ]  # the label says it
        if result.transaction not in ("", self._transactions.get(query.channel, "idle")):
            ended = result.transaction == "idle"
            parts.append("transaction ended" if ended else f"transaction {result.transaction}")
        if result.transaction:
            self._transactions[query.channel] = result.transaction
        yield Line(
            status.upper() if status == ERROR else status,
            f"#{query.n}",
            ", ".join(filter(None, parts)),
            status,
        )


def _sent(query: Query) -> str:
    """Give a statement's text, with the way it was sent where that says something."""
    if query.how in _UNREMARKABLE or not query.how:
        return query.shown
    return f"({' '.join(filter(None, (query.how, query.name)))}) {query.shown}"


def bound(query: Query) -> str:
    """Write a statement's parameters: $1 = 5 (int4), $2 = 'bob' (text)."""
    shown = [f"${place} = {_value(one)}" for place, one in enumerate(query.parameters, 1)]
    if query.bound:
        shown.append(f"{query.bound:,} in all")
    return ", ".join(shown)


def _value(one: Parameter) -> str:
    about = one.kind
    if one.truncated and one.size is not None:
        about = f"{one.kind}, {one.size:,} bytes"
    if one.kind == "null":
        return "NULL"
    if one.masked:
        return f"masked ({one.kind})"
    if one.digest:
        return f"hash {one.digest} ({one.kind})"
    match one.value:
        case None:
            return f"({one.kind}, {one.size or 0:,} bytes)"
        case bool():
            return f"{str(one.value).lower()} ({about})"
        case str():
            quoted = one.value.replace("'", "''")
            return f"'{quoted}'{'...' if one.truncated else ''} ({about})"
    return f"{one.value} ({about})"


def _outcome(query: Query) -> str:
    """Say what became of a statement, and how many rows it was about where that is known."""
    count = query.result.rows if query.result else None
    if count is None:
        return query.outcome
    rows = f"{count:,} row{'' if count == 1 else 's'}"
    return rows if query.outcome == _MYSQL_ROWS else f"{query.outcome}, {rows}"


def lasted(us: int | None) -> str:
    """Write how long a statement took: 0.4 ms, 120 ms, 1.5 s, 3 min 05 s."""
    if us is None:
        return ""
    if us < 1_000_000:
        return f"{us / 1000:.1f} ms" if us < 10_000 else f"{us / 1000:.0f} ms"
    return duration(us / 1e6)


def laid_out(line: Line, width: int | None = None, *, color: bool = False) -> list[str]:
    """Give a line of the feed as lines of text: as they are, or shortened and wrapped to `width` columns (Rule 1)."""
    head = f"{line.label:>{LABEL}} {line.number:<{NUMBER}} "
    texts = [visible(text) for text in _lines_of(line.text if width is None else shortened(line.text))]
    if width is not None:
        texts = list(_wrapped(texts, max(width - len(head), LEAST_ROOM)))
    if color and line.look in _COLORS:
        paint = f"\x1b[{_COLORS[line.look]}m{{}}\x1b[0m"
        head = paint.format(head)
        texts = texts if line.number else [paint.format(text) for text in texts]
    return [(head if place == 0 else " " * GUTTER) + text for place, text in enumerate(texts)]


def _lines_of(text: str) -> list[str]:
    return [line.expandtabs(TAB).rstrip() for line in text.replace("\r\n", "\n").strip("\n").split("\n")]


def shortened(text: str, limit: int = CHARACTERS_SHOWN) -> str:
    """Leave out the middle of a text that would fill screens: what it does is at its beginning, its WHERE at its end."""
    if len(text) <= limit and text.count("\n") < LINES_SHOWN:
        return text
    head = "\n".join(text[: limit * 3 // 4].split("\n")[: LINES_SHOWN * 3 // 4])
    tail = "\n".join(text[len(head) :][-(limit // 4) :].split("\n")[-(LINES_SHOWN // 4) :])
    return f"{head} [... {len(text) - len(head) - len(tail):,} characters, see proxyctl export ...] {tail}"


def _wrapped(lines: Iterable[str], width: int) -> Iterator[str]:
    """Break lines at spaces where there are some; wide characters count for the two columns they take."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=width)
    for line in lines:
        if len(line) * 2 <= width:
            yield line
            continue
        for part in Text(line).wrap(console, width, overflow="fold"):
            yield part.plain


class QueryView(View):
    """The feed on the operator's screen."""

    def __init__(self, screen: Screen, about: str, *, color: bool) -> None:
        super().__init__(screen, about, None)
        self._feed = Feed()
        self._kept = deque[Line](maxlen=KEPT)
        self._color = color
        self._size = screen.size()

    def take(self, record: Record, *, paint: bool = True) -> None:
        """Show what a record adds below what is there; not over an open question."""
        self.scene.take(record)
        lines = self._feed.take(record)
        self._kept += lines
        asking = self._note is not None and self._note.answer is not None
        if lines and paint and not asking:
            self.screen.write(_on_screen(self._laid_out(lines)))

    def rewind(self) -> None:
        """Forget the feed, to draw it from the beginning."""
        self.scene = Scene()
        self._feed = Feed()
        self._kept.clear()

    def paint(self) -> None:
        """Paint whose session it is, and the end of the feed as far as the screen holds it."""
        self._note = None
        self._size = self.screen.size()
        columns, height = self._size
        latest: list[str] = []
        for line in reversed(self._kept):
            latest = self._laid_out([line]) + latest
            if len(latest) >= height - 2:  # the first row says whose it is, the last is for notes
                break
        head = visible(f"{self._about}, ? for keys")[:columns]
        title = f"\x1b[1m{head}\x1b[0m" if self._color else head
        self.screen.write(RESTORE + CLEAR + _on_screen([title, *latest[-max(height - 2, 1) :]]))

    def tick(self, status: str) -> None:
        """Take away an old note, keep the title true, and lay the feed out anew for a window of another size."""
        if self.screen.size() != self._size:
            self.paint()
        super().tick(status)

    def _laid_out(self, lines: Iterable[Line]) -> list[str]:
        return [text for line in lines for text in laid_out(line, self._size[0], color=self._color)]


def _on_screen(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\x1b[K\r\n" for line in lines).encode()


# ---------------------------------------------------------------------------- which kind of view a session has


def is_of_statements(session: Mapping[str, Any]) -> bool:
    """Say whether a session is one of statements, not of screens."""
    return session["protocol"] in PROTOCOLS


def refuse_screen_options(session: Mapping[str, Any], given: Mapping[str, bool]) -> None:
    """Raise UsageError when an option that is about terminals was given for a session of statements."""
    named = [name for name, is_given in given.items() if is_given]
    if named and is_of_statements(session):
        text = f"{named[0]} is about terminals, and this {session['protocol']} session has none: it has statements"
        raise click.UsageError(text)


def scene_of(session: Mapping[str, Any], channel: int | None) -> Scene | Feed:
    """Give what draws a session for a pipe. Raises UsageError."""
    refuse_screen_options(session, {"--channel": channel is not None})
    return Feed() if is_of_statements(session) else Scene(channel)


def view_of(output: Output, channel: int | None) -> Callable[[Screen, Mapping[str, Any], str], View]:
    """Give what makes a session's view on a screen; that raises UsageError."""

    def make(screen: Screen, session: Mapping[str, Any], about: str) -> View:
        refuse_screen_options(session, {"--channel": channel is not None})
        if is_of_statements(session):
            return QueryView(screen, about, color=output.color and not os.environ.get("NO_COLOR"))
        return View(screen, about, channel)

    return make


# ---------------------------------------------------------------------------- the log


def print_log(output: Output, entries: Iterable[Entry]) -> None:
    """Print the log of a database session: a row for each statement and for whatever else happened."""
    columns = [
        Column("AT", lambda row: position(row["entry"].at_us) if row["entry"] else "", right=True),
        Column("WHAT", lambda row: row["what"], keep=8),
        Column("DETAILS", lambda row: row["text"], fold=LEAST_DETAILS),
        Column("OUTCOME", lambda row: row["outcome"], fold=LEAST_OUTCOME, most=output.console().width // 4),
        Column("TOOK", lambda row: row["took"], keep=5, right=True),
    ]
    output.table(columns, (row for entry in entries for row in _rows(entry)), "Nothing happened.")


def _rows(entry: Entry) -> Iterator[dict[str, Any]]:
    """Give an entry's rows of the table: a statement's further lines and its parameters stand below it."""
    blank = {"entry": None, "what": "", "text": "", "outcome": "", "took": ""}
    query = entry.query
    if query is None:
        yield blank | {"entry": entry, "what": entry.kind, "text": entry.text}
        return
    result = query.result or Result(query.at_us)
    first, *others = [visible(line) for line in _lines_of(shortened(_sent(query), CHARACTERS_LOGGED))]
    status = "" if query.status in _SAYS_ITSELF else f"{query.status}: "
    outcome = visible(f"{status}{_outcome(query)}")
    yield blank | {
        "entry": entry,
        "what": f"#{query.n}",
        "text": first,
        "outcome": outcome,
        "took": lasted(result.us),
    }
    for line in others:
        yield blank | {"text": line}
    if query.parameters:
        yield blank | {"what": "with", "text": visible(shortened(bound(query), CHARACTERS_LOGGED))}
