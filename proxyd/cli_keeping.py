"""`proxyctl`'s commands about keeping recordings: hold, release, holds, purge; and whether all of it is there: fsck."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from proxyd.cli_app import Command, CommandLine, Run, SessionName, session_argument, who
from proxyd.cli_output import FAILED, ID_SHOWN, Column, size

if TYPE_CHECKING:
    from collections.abc import Iterable


def add_to(group: CommandLine) -> None:
    """Add these commands, in the order the help shows them."""
    for command in (hold, release, holds, purge, fsck):
        group.add_command(command)


@click.command(cls=Command, short_help="Prevent the purge of a session's recording.")
@session_argument()
@click.option("--reason", required=True, help="Why; kept in the ledger.")
@click.pass_obj
def hold(run: Run, session: str, reason: str) -> None:
    """Prevent the purge of a session's recording, live or ended, until it is released."""
    if (answer := run.ask("hold", session=session, reason=reason)) is None:
        return
    run.output.line(
        f"Held: {answer['session'][:ID_SHOWN]}. Release it with: proxyctl release {answer['session'][:ID_SHOWN]}"
    )


@click.command(cls=Command, short_help="Let a held recording be purged in its time.")
@session_argument()
@click.option("--reason", default="", help="Why; kept in the ledger.")
@click.pass_obj
def release(run: Run, session: str, reason: str) -> None:
    """Let a recording that is held be purged when its time comes."""
    if (answer := run.ask("release", session=session, reason=reason)) is None:
        return
    run.output.line(
        f"Released: {answer['session'][:ID_SHOWN]}, held by {answer['by']} for: {answer['reason']}"
    )


@click.command(cls=Command, short_help="List what is held.")
@click.pass_obj
def holds(run: Run) -> None:
    """List the sessions whose recordings are held, by whom and why."""
    if (answer := run.ask("holds")) is None:
        return
    columns = [
        Column("SESSION", lambda row: row["session"][:ID_SHOWN]),
        Column("BY", lambda row: row["by"], keep=8),
        Column("SINCE", lambda row: run.output.time(row["at"]), keep=7),
        Column("REASON", lambda row: row["reason"], keep=6),
    ]
    run.output.table(columns, answer["holds"], "Nothing is held.")


@click.command(cls=Command, short_help="Take away recordings: by the policies, or those named.")
@click.argument("sessions", nargs=-1, type=SessionName(), metavar="[SESSION]...")
@click.option("--dry-run", is_flag=True, help="Say what would go, and why; touch nothing.")
@click.option("--reason", default="", help="Why those that are named go; kept in their tombstones.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def purge(run: Run, sessions: tuple[str, ...], *, dry_run: bool, reason: str, yes: bool) -> None:
    """Take away the recordings that [[retention]] of the configuration says, or those that are named.

    The daemon does the first by itself every hour. What is held stays. Each recording leaves a signed tombstone in the
    ledger.
    """
    if sessions and not reason:
        raise click.UsageError("say with --reason why these recordings go")
    if not (dry_run or yes):
        _confirm(run, sessions)
    asked: dict[str, Any] = {"sessions": list(sessions), "reason": reason, "dry_run": dry_run}
    with run.client().stream("purge", **asked) as stream:
        if run.output.json:
            for frame in stream:
                if "recording" in frame:
                    run.output.document(frame["recording"])
            return
        _tell(run, stream, dry_run=dry_run)


def _confirm(run: Run, sessions: tuple[str, ...]) -> None:
    if run.output.json or not sys.stdin.isatty():
        raise click.UsageError(
            "nobody here to confirm the purge: add --yes, or --dry-run to see what would go"
        )
    if not sessions:
        click.confirm("Purge what the policies say? (--dry-run shows it)", abort=True, err=True)
    for session in sessions:
        found = run.call("show", session=session)["session"]
        click.confirm(f"Purge the recording of {who(found)} for good?", abort=True, err=True)


def _tell(run: Run, stream: Iterable[dict[str, Any]], *, dry_run: bool) -> None:
    """Say what goes as it goes, and the sum."""
    count = taken = kept = due = 0
    for frame in stream:
        due = frame.get("due", due)
        if (one := frame.get("recording")) is None:
            continue
        kept += one["kept"]
        word = "would go" if dry_run else "kept, it is held by now" if one["kept"] else "purged"
        if not one["kept"]:
            count, taken = count + 1, taken + one["size"]
        run.output.line(f"{one['session'][:ID_SHOWN]}  {one['target']}  {run.output.time(one['ended_at'])}  "
                        f"{size(one['size'])}  {word}: {one['why']}")  # fmt: skip
    if not due:
        run.output.line("Nothing is due.")
        return
    run.output.line(f"{count} recordings, {size(taken)}{' would go' if dry_run else ' purged'}.")
    if kept and not dry_run:
        sys.exit(FAILED)


@click.command(cls=Command, short_help="Check that catalog, disk and store agree.")
@click.pass_obj
def fsck(run: Run) -> None:
    """Check that the catalog, the recordings on disk and those in the store agree; changes nothing.

    What the recordings hold is checked by `proxyctl verify`.
    """
    found = 0
    with run.client().stream("fsck") as stream:
        for frame in stream:
            if (problem := frame.get("problem")) is None:
                continue
            found += 1
            if run.output.json:
                run.output.document(problem)
            run.output.line(f"{problem['session'][:ID_SHOWN]}  {problem['code']}: {problem['text']}")
    if found:
        sys.exit(FAILED)
    run.output.line("Catalog, disk and store agree.")
