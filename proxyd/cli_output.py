"""What the command lines print: tables for people, one JSON document for programs, one line for an error.

Rule 1: text that came from a session, a user or a file never reaches the terminal with its control characters.
Rule 2: with --json nothing but JSON is on standard output, errors included; people's text is on standard error.
Rule 3: times are local unless --utc is given; JSON always has UTC.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from proxyd import units
from proxyd.characters import UNSAFE, as_json

if TYPE_CHECKING:
    from rich.console import Console

FAILED, MISUSED = 1, 2  # exit statuses: refused or failed; wrong use, or a broken configuration
WIDE = 10_000  # columns where no terminal sets any: nothing is cut in a pipe
GAP = 2  # spaces between columns
ID_SHOWN = 8  # of an id's 32 digits: 1 chance in 4 billion that two sessions share them
size = units.size  # tables have it beside the other ways to write a number


@dataclass(slots=True)
class Output:
    """How this run prints."""

    program: str
    json: bool = False
    color: bool = True
    utc: bool = False
    said: bool = field(default=False, repr=False)  # a JSON document has been printed

    def document(self, value: Any) -> None:
        """Print the one JSON document of this run."""
        self.said = True
        click.echo(as_json(_json_of(value)))

    def line(self, text: str = "") -> None:
        """Print one line for people, or an empty one; nothing with --json."""
        if not self.json:
            click.echo(clean(text))

    def remark(self, text: str) -> None:
        """Say something beside the result, on standard error."""
        click.echo(f"{self.program}: {clean(text)}", err=True)

    def fail(self, text: str, code: str, status: int = FAILED) -> NoReturn:
        """End with one line on standard error, and as JSON if that was asked for."""
        if self.json and not self.said:
            self.document({"error": {"code": code, "message": text}})
        self.remark(text)
        sys.exit(status)

    def time(self, at: float | None, *, short: bool = False) -> str:
        """Write seconds since 1970 as a local or UTC time; `short` leaves out what is obvious today."""
        if at is None:
            return "-"
        when = datetime.fromtimestamp(at, UTC)
        local = when if self.utc else when.astimezone()
        if short:
            today = datetime.now(local.tzinfo).date() == local.date()
            return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")
        return local.strftime("%Y-%m-%d %H:%M:%S %Z")

    def table(self, columns: Sequence[Column], rows: Iterable[Mapping[str, Any]], empty: str) -> None:
        """Print rows under headings; a terminal too narrow for all columns loses the least important ones."""
        from rich.table import Table
        from rich.text import Text

        cells = [[clean(str(column.value(row))) for column in columns] for row in rows]
        if not cells:
            self.line(empty)
            return
        console = self.console()
        shown = _fitting(columns, cells, console.width)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        for index in shown:
            column = columns[index]
            justify: Literal["left", "right"] = "right" if column.right else "left"
            table.add_column(
                column.heading,
                no_wrap=not column.fold,
                overflow="fold",
                justify=justify,
                max_width=column.most,
            )
        for line in cells:
            table.add_row(*(Text(line[index], style=STYLES.get(line[index], "")) for index in shown))
        with console.capture() as printed:
            console.print(table)
        for text in printed.get().splitlines():
            click.echo(text.rstrip())  # rich fills the last column; a file has no use for that

    def facts(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Print names and values, one a line, values aligned; empty values are left out."""
        kept = [(name, clean(value)) for name, value in pairs if value]
        width = max((len(name) for name, _ in kept), default=0)
        console = self.console()
        for name, value in kept:
            console.print(f"[bold]{name:<{width}}[/bold]  ", end="")
            console.print(value, style=STYLES.get(value, ""), markup=False, soft_wrap=True)

    def console(self) -> Console:
        """Give a rich console on standard output; without colours where nobody wants or sees them."""
        from rich.console import Console

        plain = None if sys.stdout.isatty() else WIDE
        return Console(file=sys.stdout, no_color=None if self.color else True, highlight=False, width=plain)


STYLES = {
    "live": "green",
    "blocked": "bold red",
    "failed": "bold red",
    "recovered": "yellow",
    "critical": "bold red",
    "high": "red",
    "medium": "yellow",
    "ok": "green",
    "damaged": "bold red",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `keep` says how long it stays on a narrow terminal, higher is longer; `fold` wraps it.

    `fold` is how many columns it needs at least to be readable, `most` what it may take.
    """

    heading: str
    value: Callable[[Mapping[str, Any]], Any]
    keep: int = 9
    right: bool = False
    fold: int = 0
    most: int | None = None


def _fitting(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    from rich.cells import cell_len

    widths = [
        max(cell_len(text) for text in (column.heading, *(line[index] for line in cells))) + GAP
        for index, column in enumerate(columns)
    ]
    widths = [
        min(width, column.fold) if column.fold else width
        for column, width in zip(columns, widths, strict=True)
    ]
    shown = list(range(len(columns)))
    while sum(widths[index] for index in shown) - GAP > width and len(shown) > 1:
        shown.remove(min(shown, key=lambda index: (columns[index].keep, -index)))
    return shown


def clean(text: str) -> str:
    """Replace control characters, so that text can't act on a terminal."""
    return UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def duration(seconds: float | None) -> str:
    """Write a duration in the two units that matter: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def position(us: int) -> str:
    """Write a place in a recording: 0:07.250, 1:02:03.000."""
    seconds, rest = divmod(us // 1000, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{seconds:02}.{rest:03}"


_CLOCK = re.compile(r"(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,9}(?:\.\d{1,9})?)", re.ASCII)
_UNITS = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s)?", re.ASCII)


def place_us(text: str) -> int | None:
    """Read a place in a recording, in microseconds: 12 (seconds), 1:30, 1:02:03.5, 1h2m3s; None for anything else."""
    text = text.strip().lower()
    match = _CLOCK.fullmatch(text) or _UNITS.fullmatch(text)
    if not (match and text):
        return None
    hours, minutes, seconds = match.groups(default="0")
    return round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1e6)


def _json_of(value: Any, name: str = "") -> Any:
    """Give times as ISO 8601 in UTC, and everything else as it is."""
    if isinstance(value, Mapping):
        return {key: _json_of(one, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json_of(one) for one in value]
    if isinstance(value, float) and (name == "at" or name.endswith("_at")):
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value
