"""`proxyctl` on RDP sessions: a picture of the screen at any moment, and the log with what was typed.

Rule 1: a picture is a view: the daemon allows it, and writes it into the ledger, as it does a replay.
Rule 2: what reads the recording's bytes runs apart (cli_decoder); where it fails, a log still has all the rest, and says
        what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from proxyd.cli_app import Command, Run, session_argument
from proxyd.cli_output import ID_SHOWN, position, size
from proxyd.cli_recordings import Place, open_recording, take_identity, warn_of_damage, write_private
from proxyd.cli_sessions import Moment
from proxyd.errors import FormatError, ProxydError

if TYPE_CHECKING:
    from proxyd.cli_decoder import Drawn
    from proxyd.cli_log import Entry, Log
    from proxyd.control.client import Client
    from proxyd.recorder.record import Record
    from proxyd.recorder.replay import Recording
    from proxyd.recorder.sidecar import Keyframe

PROTOCOL = "rdp"


def is_desktop(session: Mapping[str, Any]) -> bool:
    """Say whether a session is one of a desktop, which no terminal shows."""
    return bool(session["protocol"] == PROTOCOL)


def refuse_desktop(session: Mapping[str, Any]) -> None:
    """Raise UsageError for a desktop where a terminal would show it."""
    if is_desktop(session):
        name = session["id"][:ID_SHOWN]
        text = (
            f"a terminal can't replay the desktop of this {PROTOCOL} session: proxyctl screenshot {name} -o FILE draws "
            f"it at any moment, and proxyctl log {name} says what was typed, once it has ended"
        )
        raise click.UsageError(text)


def live_desktop(client: Client, session: str) -> str:
    """Give the id of a live desktop's session; "" for others, and where the daemon refuses: `watch` is told more clearly.

    Raises UsageError for a desktop whose session has ended.
    """
    from proxyd.control.client import ControlError

    try:
        row = client.call("show", session=session)["session"]
    except ControlError:
        return ""
    if row["state"] != "live":
        refuse_desktop(row)
    return str(row["id"]) if is_desktop(row) else ""


# ---------------------------------------------------------------------------- a picture


class When(NamedTuple):
    """A moment of a session: microseconds since it began, or a time of day in seconds since 1970."""

    offset_us: int | None
    clock: float = 0.0

    def within(self, session: Mapping[str, Any]) -> int:
        """Give it in microseconds since the session began. Raises UsageError when it is outside of it."""
        began = session["started_at"]
        lasted_us = round(((session["ended_at"] or time.time()) - began) * 1e6)
        at_us = round((self.clock - began) * 1e6) if self.offset_us is None else self.offset_us
        if at_us < 0:
            raise click.UsageError("the session had not begun by then")
        if at_us > lasted_us:
            so_far = "" if session["ended_at"] else " so far"
            raise click.UsageError(f"the session was not that long: {position(lasted_us)}{so_far}")
        return at_us


class At(click.ParamType[When]):
    """A place in a recording, or a time."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> When:
        """Take what is a place in a recording as one, everything else as a time."""
        try:
            return When(Place().convert(value, param, ctx))
        except click.BadParameter:
            pass
        try:
            return When(None, Moment().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{value!r} is no moment: 83, 1:23, 1h2m3s or 2026-11-21T14:00", param, ctx)


@click.command(cls=Command, short_help="Draw the screen of a desktop session at a moment.")
@session_argument()
@click.option("--at", "when", type=At(), metavar="TIME",
              help="At 83s, 1:23, or 2026-11-21T14:00:05; else the last moment.")  # fmt: skip
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path, dir_okay=False),
              metavar="FILE", help="Where to, as PNG.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE.")
@take_identity
@click.pass_obj
def screenshot(
    run: Run, session: str, *, when: When | None, target: Path, force: bool, identity: Path | None
) -> None:
    """Draw the screen of an RDP session, live or ended, as PNG; the file is for your eyes only (0600).

    A TIME like 1:23 is counted from the session's beginning; a time of day needs its date. Of a live session there is
    what it shows now, or at TIME, as far as that is on disk.
    """
    from proxyd.cli_decoder import draw, require
    from proxyd.cli_derive import draw_from
    from proxyd.cli_reading import moment_us

    require()
    if target.exists() and not force:
        raise ProxydError(f"{target} exists: add --force to replace it")
    row = run.call("show", session=session)["session"]
    if not is_desktop(row):
        raise click.UsageError(
            f"this {row['protocol']} session has no desktop: see proxyctl replay {row['id'][:ID_SHOWN]}"
        )
    at_us = when.within(row) if when else None
    if at_us is None and not row["ended_at"] and _shot_live(run, row, target):
        return
    shown_us = moment_us(row, at_us)
    recording, answer, _ = open_recording(
        run, "replay", session, identity, first_us=shown_us, last_us=shown_us
    )
    keyframe = keyframe_of(run, recording, at_us)
    if keyframe is None:
        drawn = draw(_until(recording.records(), at_us))
    else:
        behind = (record for record in recording.records(keyframe.at_us) if record.seq > keyframe.seq)
        drawn = draw_from(keyframe, _until(behind, at_us))
    if not drawn.width:
        raise FormatError("the recording shows no screen up to then")
    write_private(target, [drawn.png])
    reached_us = recording.duration_us
    _say(run, row, target, drawn, reached_us if at_us is None else min(at_us, reached_us))
    if answer["session"]["state"] != "live":
        warn_of_damage(run, recording)


def _shot_live(run: Run, row: Mapping[str, Any], target: Path) -> bool:
    """Take the picture the daemon's indexer has now; False when it has none, and the recording is to be read."""
    from proxyd.cli_decoder import Drawn
    from proxyd.cli_derive import png_of
    from proxyd.control.client import Code, ControlError
    from proxyd.recorder.sidecar import inflated

    try:
        shown = run.call("picture", session=row["id"])
    except ControlError as error:
        if error.code is Code.DENIED:
            raise
        return False
    if not shown["patches"]:
        raise FormatError("the session shows no screen yet")
    width, height = shown["width"], shown["height"]
    png = png_of(width, height, inflated(shown["patches"][0]["rgb"], width * height * 3))
    write_private(target, [png])
    _say(run, row, target, Drawn(width, height, png, 0), shown["at_us"])
    return True


def keyframe_of(run: Run, recording: Recording, at_us: int | None) -> Keyframe | None:
    """Give the last keyframe before a moment that a decoder can go on from; None without one, or without an index."""
    from proxyd.recorder.sidecar import path_of

    try:
        keyframe = recording.keyframes().keyframe(recording.duration_us if at_us is None else at_us)
    except FormatError as error:
        if path_of(recording.path).exists():
            run.output.remark(
                f"the index is not used: {error}; proxyd index {recording.path.name} makes it anew"
            )
        return None
    return keyframe if keyframe is not None and keyframe.saved else None


def _say(run: Run, session: Mapping[str, Any], target: Path, drawn: Drawn, at_us: int) -> None:
    """Say what was drawn, and where to."""
    written = len(drawn.png)
    if run.output.json:
        about = {"session": session["id"], "path": str(target), "width": drawn.width, "height": drawn.height,
                 "at_us": at_us, "bytes": written, "unread": drawn.faults}  # fmt: skip
        run.output.document(about)
    at = f"{position(at_us)}, {run.output.time(session['started_at'] + at_us / 1e6)}"
    run.output.line(f"{target}: {drawn.width} x {drawn.height}, at {at}, {size(written)}")
    if drawn.faults:
        run.output.remark(
            f"{drawn.faults} updates of the screen could not be read: the picture may lack them"
        )


def _until(records: Iterable[Record], at_us: int | None) -> Iterator[Record]:
    return takewhile(lambda record: at_us is None or record.at_us <= at_us, records)


# ---------------------------------------------------------------------------- the log


def log_of(recording: Recording) -> Log:
    """Read the log of a desktop session: what was typed, and everything else that happened (rule 2)."""
    from proxyd.cli_decoder import Undecoded, read_typed
    from proxyd.cli_log import Entry, Log

    found = list(_events(recording.records()))
    try:
        typed = read_typed(record for record in recording.records() if record.kind in _input_kinds())
    except Undecoded as error:
        return Log(found, error=str(error))
    found += [
        Entry(at_us, 0, "refused" if refused else "typed", text) for at_us, refused, text in typed.lines
    ]
    return Log(found, typed.faults)


def _input_kinds() -> frozenset[int]:
    """Give the kinds of record that say what was typed: the negotiation, input, and what a block refused."""
    from proxyd.recorder.record import Kind

    return frozenset({Kind.REQUEST, Kind.INPUT_PDU, Kind.REFUSED})


def _events(records: Iterable[Record]) -> Iterator[Entry]:
    """Yield what records tell by themselves; of input refused during one block how much it was, at its beginning."""
    from proxyd.cli_log import Entry
    from proxyd.recorder.record import Kind
    from proxyd.recorder.telling import told_by

    refused_us = refused = 0
    for record in records:
        if record.kind is Kind.REFUSED:
            refused_us = refused_us if refused else record.at_us
            refused += len(record.body)
            continue
        if refused and (record.kind is Kind.END or _action(record) == "unblock"):
            yield Entry(refused_us, 0, "refused", f"{size(refused)} of input while blocked")
            refused = 0
        if told := told_by(record):
            yield Entry(record.at_us, record.channel, *told)
    if refused:
        yield Entry(refused_us, 0, "refused", f"{size(refused)} of input while blocked")


def _action(record: Record) -> str:
    from proxyd.recorder.record import Kind

    return str(record.body.get("action", "")) if record.kind is Kind.CONTROL else ""
