"""`proxyctl export`: a recording in a form other tools read. What makes films of desktops is cli_film's part.

Rule 1: the daemon allows it and writes it into the ledger, as it does a replay, once it is known that it can be made.
Rule 2: what goes into a file is a job of the daemon's list (cli_exports) and has a signed manifest beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Final, NamedTuple

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

if TYPE_CHECKING:
    from proxyd.cli_exports import Job
    from proxyd.recorder.forms import Settings
    from proxyd.recorder.replay import Recording

NAME_BYTES: Final = 4  # of the name of a file nobody named
SHORTEST_PAUSE_S, FASTEST = 0.5, 16  # as in recorder.forms, which takes a while to import
FORMATS = ("asciicast", "asciicast2", "jsonl", "csv", "webm", "mp4", "pyrdp")


def _choose(
    run: Run, session: str, form: str, target: Path | None, settings: Settings, *, background: bool
) -> tuple[str, str, Path | None]:
    """Choose the session's whole id, the form and the file, before the ledger says that someone saw it.

    Raises UsageError, Undecoded.
    """
    from proxyd import cli_film
    from proxyd.cli_queries import refuse_screen_options
    from proxyd.recorder.forms import APART, settle

    row = run.call("show", session=session)["session"]
    refuse_screen_options(row, {"--channel": settings.channel is not None, "--input": settings.keys})
    try:
        chosen = settle(form, row["protocol"], settings)
    except FormatError as error:
        raise click.UsageError(str(error)) from None
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
    settings: Settings


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
@click.option("--skip-idle", "pause_s", type=click.FloatRange(min=SHORTEST_PAUSE_S), metavar="SECONDS",
              help="Cut pauses of films to this.")  # fmt: skip
@click.option("--speed", type=click.IntRange(1, FASTEST), default=1, metavar="N",
              help="Of films: N times as fast, without sound.")  # fmt: skip
@click.option(
    "--half-size", "half", is_flag=True, help="Of films: half as wide and high, for a smaller file."
)
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
    pause_s: float | None,
    speed: int,
    half: bool,
    force: bool,
    background: bool,
    detached: bool,
    channel: int | None,
    identity: Path | None,
) -> None:
    """Write a recording in a form other tools read; the file is for your eyes only (0600).

    jsonl is every record; of a database session every statement with its result, as csv is, which escapes control
    characters and what a spreadsheet would take for a formula. webm and mp4 are films of a terminal, or of a desktop with
    its sound (AV1, of a terminal VP9, and Opus; H.264 and AAC), pyrdp is what PyRDP's player replays.

    Beside FILE stands FILE.manifest.json, signed by the node: proxyctl verify FILE says whether they still fit.
    """
    from proxyd.recorder.forms import Settings

    if run.output.json and target is None and not background:
        raise click.UsageError("--json says where the export is: add -o FILE")
    if target is not None:
        refuse_existing(target, force=force)
    settings = Settings(keys=with_input, channel=channel, pause_s=pause_s, speed=speed, half=half)
    whole, form, target = _choose(run, session, form or "", target, settings, background=background)
    if target is None:
        _print(run, whole, form, identity, channel, with_input=with_input)
        return
    wanted = _Wanted(whole, form, target, settings)
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
    settings = wanted.settings
    words += ["--input"] * settings.keys + ["--force"] * force
    words += ["--channel", str(settings.channel)] if settings.channel is not None else []
    words += ["--skip-idle", str(settings.pause_s)] if settings.pause_s is not None else []
    words += ["--speed", str(settings.speed)] + ["--half-size"] * settings.half
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
    import msgspec

    from proxyd import cli_exports

    asked = {"session": wanted.session, "form": wanted.form, "path": str(wanted.target.absolute()),
             "settings": msgspec.to_builtins(wanted.settings)}  # fmt: skip
    with cli_exports.job_of(run, asked, wanted.target, detached=detached) as job:
        if job.before:
            run.output.remark(f"{job.before} exports come first: see proxyctl exports")
        recording = _write(run, wanted, key, job)
    warn_of_damage(run, recording)


def produce(run: Run, job: Job) -> None:
    """Make the file of an unattended job, from its beginning. Raises ProxydError, OSError."""
    import msgspec

    from proxyd import cli_film
    from proxyd.recorder.forms import APART, Settings

    row = job.row
    target = Path(row["path"])
    wanted = _Wanted(row["session"], row["form"], target, msgspec.convert(row["settings"], Settings))
    key = identity_of(run, None)
    if wanted.form in APART:
        cli_film.check(wanted.form, run.call("show", session=wanted.session)["session"]["protocol"], target)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*"):  # of a maker that was killed
        left.unlink(missing_ok=True)
    _write(run, wanted, key, job)


def _write(run: Run, wanted: _Wanted, key: Path, job: Job) -> Recording:
    """Write the file of a job once it is its turn, and say what was made; gives the recording."""
    from proxyd import cli_film
    from proxyd.cli_commands import typed_at
    from proxyd.export.task import Task
    from proxyd.recorder.export import export as lines_of
    from proxyd.recorder.exported import manifest_of
    from proxyd.recorder.forms import APART

    form, target, settings = wanted.form, wanted.target, wanted.settings
    recording = opened(run, job.wait(), key).recording
    about = {"session": wanted.session, "export": job.id, "manifest": str(manifest_of(target))}
    if form in APART:
        began_ms, protocol = round(recording.started_at * 1000), str(recording.meta.get("protocol", ""))
        pause_us = None if settings.pause_s is None else round(settings.pause_s * 1e6)
        task = Task(form, protocol, recording.duration_us, began_ms, keys=settings.keys, channel=settings.channel,
                    pause_us=pause_us, speed=settings.speed, half=settings.half)  # fmt: skip
        cli_film.say(run, about, task, target, cli_film.make(run, recording, task, target, job))
        return recording
    typed = typed_at(recording) if settings.keys else None
    lines = lines_of(recording, form, channel=settings.channel, typed=typed)
    write_private(target, job.lines(lines), job.seal(target, recording.duration_us, keys=settings.keys))
    written = target.stat().st_size
    if run.output.json:
        run.output.document(about | {"format": form, "path": str(target), "bytes": written})
    run.output.line(f"{target}: {form}, {size(written)}")
    return recording
