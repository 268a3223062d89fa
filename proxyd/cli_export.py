"""`proxyctl export`: a recording in a form other tools read. What makes films of desktops is cli_film's part.

Rule 1: the daemon allows it and writes it into the ledger, as it does a replay, once it is known that it can be made.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from proxyd.cli_app import Command, Run, session_argument
from proxyd.cli_output import size
from proxyd.cli_recordings import open_recording, take_channel, take_identity, warn_of_damage, write_private
from proxyd.errors import FormatError, ProxydError

FORMATS = ("asciicast", "asciicast2", "jsonl", "csv", "webm", "mp4", "pyrdp")


def _choose(run: Run, session: str, form: str, target: Path | None, given: Mapping[str, bool]) -> str:
    """Choose the form of an export, before the ledger says that someone saw it. Raises UsageError, Undecoded."""
    from proxyd import cli_film
    from proxyd.cli_queries import refuse_screen_options
    from proxyd.recorder.export import APART, DESKTOP, FILMS, choose

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
    if chosen in APART:
        cli_film.check(chosen, target)
    return chosen


@click.command(cls=Command, short_help="Write a recording in a form other tools read.")
@session_argument()
@click.option("--format", "form", type=click.Choice(FORMATS),
              help="Of screens asciicast (version 3; the default), of statements jsonl (the default) or csv, of desktops "
                   "webm (the default), mp4 or pyrdp.")  # fmt: skip
@click.option("-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Where to; else standard output.")  # fmt: skip
@click.option("--input", "--keys", "with_input", is_flag=True,
              help="With what the user typed, passwords included; in films as subtitles.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE.")
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
    channel: int | None,
    identity: Path | None,
) -> None:
    """Write a recording in a form other tools read; the file is for your eyes only (0600).

    jsonl is every record; of a database session every statement with its result, as csv is, which escapes control
    characters and what a spreadsheet would take for a formula. webm and mp4 are films of a desktop with its sound
    (AV1 and Opus, H.264 and AAC), pyrdp is what PyRDP's player replays.
    """
    from proxyd.recorder.export import APART
    from proxyd.recorder.export import export as lines_of

    if run.output.json and target is None:
        raise click.UsageError("--json says where the export is: add -o FILE")
    if target is not None and target.exists() and not force:
        raise ProxydError(f"{target} exists: add --force to replace it")
    given = {"--channel": channel is not None, "--input": with_input}
    form = _choose(run, session, form or "", target, given)
    recording, answer, _ = open_recording(run, "export", session, identity)
    name = answer["session"]["id"]
    if target is None:
        sys.stdout.writelines(lines_of(recording, form, channel=channel, with_input=with_input))
    elif form in APART:
        from proxyd.cli_film import make, say
        from proxyd.export.task import Task

        began_ms = round(recording.started_at * 1000)
        task = Task(form, recording.duration_us, began_ms, keys=with_input)
        say(run, name, task, target, make(run, recording, task, target))
    else:
        write_private(target, lines_of(recording, form, channel=channel, with_input=with_input))
        written = target.stat().st_size
        if run.output.json:
            run.output.document({"session": name, "format": form, "path": str(target), "bytes": written})
        run.output.line(f"{target}: {form}, {size(written)}")
    warn_of_damage(run, recording)
