"""What ran and what was typed in a session's terminals, for `log` and for exports: from its index, else from its records.

Rule 1: what was typed while nothing was echoed, a password, is in none of it: only what the screen showed is (proxyd.index).
Rule 2: what reads the recording's bytes runs apart (cli_derive); nothing it says is believed but its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from proxyd.characters import UNSEEN
from proxyd.cli_decoder import Undecoded
from proxyd.cli_derive import Decoder
from proxyd.cli_log import LEAST_DETAILS, Entry, Log, entries
from proxyd.cli_output import ID_SHOWN, Column, Output, duration, position
from proxyd.errors import FormatError
from proxyd.recorder.sidecar import Derived, Item

if TYPE_CHECKING:
    from proxyd.recorder.replay import Recording

PROTOCOL: Final = "ssh"  # of sessions that have terminals
_NEW_LINE: Final = " \N{DOWNWARDS ARROW WITH CORNER LEFTWARDS} "  # in a command of several lines


class Ran(NamedTuple):
    """A command; `ended_us` and `exit` are None where the shell did not say."""

    at_us: int
    channel: int
    line: str
    ended_us: int | None
    exit: int | None


def has_terminals(session: Mapping[str, Any]) -> bool:
    """Say whether a session is one of terminals."""
    return bool(session["protocol"] == PROTOCOL)


def refuse_others(session: Mapping[str, Any]) -> None:
    """Raise UsageError for a session that has no terminal, so no commands."""
    if not has_terminals(session):
        name = session["id"][:ID_SHOWN]
        raise click.UsageError(
            f"commands are of terminals, and this is a session of {session['protocol']}: see proxyctl log {name}"
        )


def log_of(recording: Recording, session: Mapping[str, Any]) -> Log:
    """Read the log of a session: what was typed or asked, and everything else that happened."""
    from proxyd import cli_desktop

    if cli_desktop.is_desktop(session):
        return cli_desktop.log_of(recording)
    found = list(entries(recording.records()))
    try:
        found += typed(derived(recording)) if has_terminals(session) else []
    except (Undecoded, FormatError) as error:
        return Log(found, error=str(error))
    return Log(found)


def derived(recording: Recording) -> list[Item]:
    """Give the lines and commands of a session, from its index, else made anew. Raises Undecoded, FormatError."""
    try:
        return list(filter(_wanted, recording.sidecar().items()))
    except FormatError:
        return list(_made(recording, None))


def _made(recording: Recording, channel: int | None) -> Iterator[Item]:
    """Derive them from the records, all or those of one channel. Raises Undecoded."""
    records = (one for one in recording.records() if channel is None or one.channel in (0, channel))
    with Decoder(PROTOCOL) as decoder:
        for items in decoder.fed(records):
            yield from filter(_wanted, items)
        yield from filter(_wanted, decoder.finish())


def _wanted(item: Item) -> bool:
    return item.kind in (Derived.TYPED, Derived.COMMAND)


def typed_at(recording: Recording) -> Callable[[int], Iterable[tuple[int, str]]]:
    """Give what yields the typed lines of a channel with their times. That raises Undecoded."""

    def of(channel: int) -> Iterable[tuple[int, str]]:
        lines = (_line(item) for item in _made(recording, channel) if item.kind == Derived.TYPED)
        return sorted((line.at_us, line.text) for line in lines if line.text != UNSEEN)

    return of


def typed(items: Iterable[Item]) -> list[Entry]:
    """Give the lines of a log. Raises FormatError."""
    return [_line(item) for item in items if item.kind == Derived.TYPED]


def commands(items: Iterable[Item]) -> list[Ran]:
    """Give the commands in the order they began. Raises FormatError."""
    return sorted(
        map(_ran, (item for item in items if item.kind == Derived.COMMAND)), key=attrgetter("at_us")
    )


def _line(item: Item) -> Entry:
    match item.body:
        case [bool(), str(text), int(channel)]:
            return Entry(item.at_us, channel, "typed", text or UNSEEN)
    raise FormatError("the index has a line that can't be read")


def _ran(item: Item) -> Ran:
    match item.body:
        case {
            "line": str(line),
            "ended_us": int() | None as ended,
            "exit": int() | None as status,
            "channel": int(number),
        }:
            return Ran(item.at_us, number, line, ended, status)
    raise FormatError("the index has a command that can't be read")


def print_commands(output: Output, ran: Iterable[Ran]) -> None:
    """Print commands: a row for each."""
    columns = [
        Column("AT", lambda row: position(row["at_us"]), right=True),
        Column("CH", lambda row: row["channel"], keep=1, right=True),
        Column("TOOK", _took, keep=3, right=True),
        Column("EXIT", lambda row: "" if row["exit"] is None else row["exit"], keep=4, right=True),
        Column("COMMAND", lambda row: row["line"].replace("\n", _NEW_LINE), fold=LEAST_DETAILS),
    ]
    output.table(columns, (one._asdict() for one in ran), "No command was run.")


def _took(row: Mapping[str, Any]) -> str:
    return "" if row["ended_us"] is None else duration((row["ended_us"] - row["at_us"]) / 1e6)
