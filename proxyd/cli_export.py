"""`proxyctl export`: a recording in a form other tools read. What makes films of desktops is cli_film's part.

Rule 1: the daemon allows it and writes it into the ledger, as it does a replay, once it is known that it can be made.
Rule 2: what goes into a file is a job of the daemon's list (cli_exports) and has a signed manifest beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Final, NamedTuple

import click

from proxyd.cli_app import Command, Run, session_argument
from proxyd.cli_output import ID_SHOWN, size
from proxyd.cli_recordings import (
    identity_of,
    open_recording,
    opened,
    refuse_existing,
    take_channel,
    take_identity,
    warn_of_damage,
    write_private,
)
from proxyd.errors import FormatError

NAME_BYTES: Final = 4  # of the name of a file nobody named
FORMATS = ("asciicast", "asciicast2", "jsonl", "csv", "webm", "mp4", "pyrdp")


def _choose(
    run: Run, session: str, form: str, target: Path | None, given: Mapping[str, bool], *, background: bool
) -> tuple[str, str, Path | None]:
    """Choose the session's whole id, the form and the file, before the ledger says that someone saw it.

    Raises UsageError, Undecoded.
    """
    from proxyd import cli_film
    from proxyd.cli_queries import refuse_screen_options
    from proxyd.recorder.export import DESKTOP, choose
    from proxyd.recorder.forms import APART, FILMS

    row = run.call("show", session=session)["session"]
    refuse_screen_options(row, given)
    try:
        chosen = choose(form, row["protocol"])
    except FormatError as error:
        raise click.UsageError(str(error)) from None
    if row["protocol"] == DESKTOP and (given["--channel"] or (given["--input"] and chosen not in FILMS)):
        raise click.UsageError(
            f"{chosen} of a desktop is all of the session: it has no channels and no --input"
        )
    if background and target is None:
        target = run.config().export.directory / row["id"] / f"{token_hex(NAME_BYTES)}.{chosen}"
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if chosen in APART:
        cli_film.check(chosen, row["protocol"], target)
    return row["id"], chosen, target


class _Wanted(NamedTuple):
    """What is to be made."""

    session: str  # its whole id
    form: str
    target: Path
    with_input: bool
    channel: int | None


@click.command(cls=Command, short_help="Write a recording in a form other tools read.")
@session_argument()
@click.option("--format", "form", type=click.Choice(FORMATS),
              help="Of terminals asciicast (version 3; the default), webm or mp4, of statements jsonl (the default) or "
                   "csv, of desktops webm (the default), mp4 or pyrdp.")  # fmt: skip
@click.option("-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Where to; else standard output, or [export] directory with --background.")  # fmt: skip
@click.option("--input", "--keys", "with_input", is_flag=True,
              help="With what the user typed: lines that were shown in casts, subtitles in films; jsonl then has the keys "
                   "themselves, passwords included.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE.")
@click.option("--background", is_flag=True, help="Make it while you do something else: see proxyctl exports.")
@click.option("--detached", is_flag=True, hidden=True)
@take_channel
@take_identity
@click.pass_obj
def export(
    run: Run,
    session: str,
    *,
    form: str | None,
    target: Path | None,
    with_input: bool,
    force: bool,
    background: bool,
    detached: bool,
    channel: int | None,
    identity: Path | None,
) -> None:
    """Write a recording in a form other tools read; the file is for your eyes only (0600).

    jsonl is every record; of a database session every statement with its result, as csv is, which escapes control
    characters and what a spreadsheet would take for a formula. webm and mp4 are films of a terminal, or of a desktop with
    its sound (AV1 and Opus, H.264 and AAC), pyrdp is what PyRDP's player replays.

    Beside FILE stands FILE.manifest.json, signed by the node: proxyctl verify FILE says whether they still fit.
    """
    if run.output.json and target is None and not background:
        raise click.UsageError("--json says where the export is: add -o FILE")
    if target is not None:
        refuse_existing(target, force=force)
    given = {"--channel": channel is not None, "--input": with_input}
    whole, form, target = _choose(run, session, form or "", target, given, background=background)
    if target is None:
        _print(run, whole, form, identity, channel, with_input=with_input)
        return
    wanted = _Wanted(whole, form, target, with_input, channel)
    key = identity_of(run, identity)
    if background:
        _start(run, wanted, key, force=force)
    else:
        _make(run, wanted, key, detached=detached)


def _print(
    run: Run, session: str, form: str, identity: Path | None, channel: int | None, *, with_input: bool
) -> None:
    """Print it; nothing is signed that nobody can keep an eye on."""
    from proxyd.cli_commands import typed_at
    from proxyd.recorder.export import export as lines_of

    recording = open_recording(run, "export", session, identity).recording
    typed = typed_at(recording) if with_input else None
    sys.stdout.writelines(lines_of(recording, form, channel=channel, typed=typed))
    warn_of_damage(run, recording)


def _start(run: Run, wanted: _Wanted, key: Path, *, force: bool) -> None:
    """Let it be made in the background."""
    from proxyd import cli_exports

    words = [wanted.session, "--format", wanted.form, "--output", str(wanted.target.absolute()),
             "--identity", str(key.absolute())]  # fmt: skip
    words += ["--input"] * wanted.with_input + ["--force"] * force
    words += ["--channel", str(wanted.channel)] if wanted.channel is not None else []
    job = cli_exports.start(run, words)
    if run.output.json:
        run.output.document(
            {"export": job, "session": wanted.session, "format": wanted.form, "path": str(wanted.target)}
        )
    shown = job[:ID_SHOWN]
    run.output.line(f"Begun: {shown}, {wanted.form} to {wanted.target}. See proxyctl exports; end it with: "
                    f"proxyctl exports cancel {shown}")  # fmt: skip


def _make(run: Run, wanted: _Wanted, key: Path, *, detached: bool) -> None:
    """Make the file, as a job the daemon knows of."""
    from proxyd import cli_exports, cli_film
    from proxyd.cli_commands import typed_at
    from proxyd.export.task import Task
    from proxyd.recorder.export import export as lines_of
    from proxyd.recorder.exported import manifest_of
    from proxyd.recorder.forms import APART

    session, form, target = wanted.session, wanted.form, wanted.target
    with cli_exports.job_of(run, session, form, target, detached=detached) as job:
        if job.before:
            run.output.remark(f"{job.before} exports come first: see proxyctl exports")
        recording = opened(run, job.wait(), key).recording
        about = {"session": session, "export": job.id, "manifest": str(manifest_of(target))}
        if form in APART:
            began_ms, protocol = round(recording.started_at * 1000), str(recording.meta.get("protocol", ""))
            task = Task(form, protocol, recording.duration_us, began_ms, keys=wanted.with_input,
                        channel=wanted.channel)  # fmt: skip
            cli_film.say(run, about, task, target, cli_film.make(run, recording, task, target, job))
        else:
            typed = typed_at(recording) if wanted.with_input else None
            lines = lines_of(recording, form, channel=wanted.channel, typed=typed)
            seal = job.seal(target, recording.duration_us, keys=wanted.with_input)
            write_private(target, job.lines(lines), seal)
            written = target.stat().st_size
            if run.output.json:
                run.output.document(about | {"format": form, "path": str(target), "bytes": written})
            run.output.line(f"{target}: {form}, {size(written)}")
    warn_of_damage(run, recording)
