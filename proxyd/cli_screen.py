"""`proxyctl screen`: what the terminal of an SSH session showed at any moment, as text, with colours, as SVG or PNG.

Rule 1: a screen is a view: the daemon allows it, and writes it into the ledger, as it does a replay.
Rule 2: what emulates the recording's bytes runs apart (cli_derive): here only cells arrive, and nothing of them acts on
        who reads them.
Rule 3: it is read from the nearest keyframe of the index; without one, or where that can't be gone on from, from the
        beginning, with the same result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from proxyd.cli_app import Command, Run, session_argument
from proxyd.cli_desktop import At, When, keyframe_of
from proxyd.cli_output import ID_SHOWN, position, size
from proxyd.cli_recordings import open_recording, take_channel, take_identity, warn_of_damage, write_private
from proxyd.errors import FormatError, ProxydError

if TYPE_CHECKING:
    from proxyd.indexing.frames import Printed
    from proxyd.page import Page
    from proxyd.recorder.replay import Recording

PROTOCOL: Final = "ssh"  # of sessions that have terminals
FORMS: Final = ("text", "ansi", "svg", "png")
PICTURES: Final = ("svg", "png")
_BY_SUFFIX: Final = {".svg": "svg", ".png": "png", ".ans": "ansi", ".ansi": "ansi"}


@click.command(cls=Command, short_help="Print the screen of a terminal session at a moment.")
@session_argument()
@click.option("--at", "when", type=At(), metavar="TIME",
              help="At 83s, 1:23, or 2026-11-21T14:00:05; else the last moment.")  # fmt: skip
@take_channel
@click.option("--format", "form", type=click.Choice(FORMS),
              help="text, ansi (with colours), svg or png; else by FILE's name, and on a terminal ansi.")  # fmt: skip
@click.option("-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False),
              metavar="FILE", help="Where to; else standard output, but no picture.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE.")
@take_identity
@click.pass_obj
def screen(
    run: Run, session: str, *, when: When | None, channel: int | None, form: str | None, target: Path | None,
    force: bool, identity: Path | None,
) -> None:  # fmt: skip
    """Print what the terminal of an SSH session showed, live or ended, at any moment.

    A TIME like 1:23 is counted from the session's beginning; a time of day needs its date. Of a live session there is
    what is on disk, a quarter of a second ago. A file is for your eyes only (0600).
    """
    from proxyd.cli_reading import moment_us

    form = _form(run, form, target)
    if target is not None and target.exists() and not force:
        raise ProxydError(f"{target} exists: add --force to replace it")
    row = run.call("show", session=session)["session"]
    _refuse_others(row)
    at_us = when.within(row) if when else None
    shown_us = moment_us(row, at_us)
    recording, answer, _ = open_recording(
        run, "replay", session, identity, first_us=shown_us, last_us=shown_us
    )
    printed = _printed(run, recording, at_us, channel)
    if printed.page is None:
        raise FormatError(_nothing(printed, channel))
    reached_us = recording.duration_us if at_us is None else min(at_us, recording.duration_us)
    _give(run, row, printed, form=form, target=target, at_us=reached_us)
    if answer["session"]["state"] != "live":
        warn_of_damage(run, recording)


def _form(run: Run, form: str | None, target: Path | None) -> str:
    """Say how it is written. Raises UsageError."""
    if form is None and target is not None:
        form = _BY_SUFFIX.get(target.suffix.lower(), "text")
    if form is None:
        return "ansi" if sys.stdout.isatty() and run.output.color else "text"
    if form in PICTURES and target is None:
        raise click.UsageError(f"{form} is a picture: name a file for it with -o")
    return form


def _refuse_others(row: Mapping[str, Any]) -> None:
    """Raise UsageError for a session that has no terminal."""
    name = row["id"][:ID_SHOWN]
    if row["protocol"] == "rdp":
        raise click.UsageError(f"this session is a desktop: proxyctl screenshot {name} -o FILE draws it")
    if row["protocol"] != PROTOCOL:
        raise click.UsageError(
            f"this {row['protocol']} session has statements and no screen: see proxyctl log {name}"
        )


def _printed(run: Run, recording: Recording, at_us: int | None, channel: int | None) -> Printed:
    """Have the screen emulated (rule 3)."""
    from proxyd.cli_decoder import Undecoded
    from proxyd.cli_derive import TERMINAL, Decoder

    keyframe = keyframe_of(run, recording, at_us)
    if keyframe is not None:
        try:
            with Decoder(TERMINAL) as decoder:
                return decoder.shown_at(recording, keyframe, at_us, channel)
        except Undecoded:
            name = recording.path.name
            run.output.remark(f"the index can't be gone on from; proxyd index {name} --force makes it anew")
    with Decoder(TERMINAL) as decoder:
        return decoder.shown_at(recording, None, at_us, channel)


def _nothing(printed: Printed, channel: int | None) -> str:
    if channel is None:
        return "no terminal showed anything up to then"
    there = ", ".join(map(str, printed.channels)) or "none"
    return f"channel {channel} showed nothing up to then; channels that did: {there}"


def _give(
    run: Run, row: Mapping[str, Any], printed: Printed, *, form: str, target: Path | None, at_us: int
) -> None:
    """Print it, or write it and say where to."""
    from proxyd.index.terminal import forms

    writers: dict[str, Callable[[Page], str | bytes]] = {
        "text": forms.text, "ansi": forms.ansi, "svg": forms.svg, "png": forms.png
    }  # fmt: skip
    page = printed.page
    assert page is not None  # noqa: S101 - it was looked at
    about = {
        "session": row["id"], "channel": printed.channel, "channels": printed.channels, "at_us": at_us,
        "columns": page.columns, "rows": page.rows, "title": page.title, "full_screen": page.alternate,
        "cursor": page.cursor._asdict(),
    }  # fmt: skip
    if target is None:
        if run.output.json:
            run.output.document(about | {"lines": page.text()})
        else:
            click.echo(writers[form](page), nl=False, color=form == "ansi")
        return
    written = writers[form](page)
    data = written.encode() if isinstance(written, str) else written
    write_private(target, [data])
    if run.output.json:
        run.output.document(about | {"path": str(target), "format": form, "bytes": len(data)})
    at = f"{position(at_us)}, {run.output.time(row['started_at'] + at_us / 1e6)}"
    title = f", {page.title}" if page.title else ""
    run.output.line(f"{target}: {page.columns} x {page.rows}, at {at}, {size(len(data))}{title}")
