"""`proxyctl`'s commands about recordings: log, replay, verify; export is cli_export, those of desktops only cli_desktop.

Rule 1: all but `verify` ask the daemon, which allows it and writes it into the ledger; then this process opens the
        recording itself, with the operator's identity file. The daemon has no key that could.
Rule 2: `verify` believes nobody: it needs the files, the ledger and the public keys. What the store alone has it reads
        through the daemon, which can't make up what is signed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import click

from proxyd.cli_app import Command, CommandLine, Run, session_argument, who
from proxyd.cli_output import FAILED, ID_SHOWN, Column, duration, place_us, size
from proxyd.cli_sessions import views_of
from proxyd.errors import ConfigError, ProxydError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from proxyd.cli_reading import Pieces
    from proxyd.control.client import Client
    from proxyd.recorder.record import Record
    from proxyd.recorder.replay import Recording
    from proxyd.recorder.source import Source
    from proxyd.recorder.verify import Report

PRIVATE = 0o600  # an export holds what the recording held, in the clear


def add_to(group: CommandLine) -> None:
    """Add these commands, in the order the help shows them."""
    from proxyd.cli_desktop import screenshot
    from proxyd.cli_export import export
    from proxyd.cli_exports import exports
    from proxyd.cli_screen import screen
    from proxyd.cli_search import search

    for command in (search, log, replay, screen, screenshot, export, exports, verify):
        group.add_command(command)


class Place(click.ParamType[int]):
    """A place in a recording: 12 (seconds), 1:30, 1:02:03, or 1h2m3s."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Give microseconds."""
        if (found := place_us(str(value))) is None:
            self.fail(f"{value!r} is no time in a recording: 12, 1:30, 1:02:03 or 1h2m3s", param, ctx)
        return found


class Opened(NamedTuple):
    """A recording this operator may see, and what the daemon said of its session."""

    recording: Recording
    answer: dict[str, Any]
    identity: Path


def open_recording(
    run: Run, kind: str, session: str, identity: Path | None, *, first_us: int = 0, last_us: int | None = None
) -> Opened:
    """Ask the daemon for a piece (Rule 1), then open the recording. Raises ControlError, ConfigError, FormatError."""
    from proxyd.cli_reading import ask_to_read

    key = identity_of(run, identity)
    return opened(run, ask_to_read(run, kind, session, first_us, last_us), key)


def opened(run: Run, answer: dict[str, Any], identity: Path) -> Opened:
    """Open the recording that the daemon allowed. Raises ConfigError, FormatError."""
    from proxyd.recorder.replay import Recording

    return Opened(Recording.open(source_of(run.client(), answer), identity), answer, identity)


def identity_of(run: Run, identity: Path | None) -> Path:
    """Find the identity file, before the ledger says that someone saw a recording. Raises ConfigError, ProxydError."""
    key = identity or run.config().recording.identity
    if key is None:
        text = (
            "a recording opens only with its identity file: name it with --identity, or as recording.identity"
        )
        raise ConfigError(text, run.find_config())
    if not os.access(key, os.R_OK):
        raise ProxydError(f"the identity file {key} can't be read by you: recordings open only with it")
    return key


def source_of(client: Client, answer: Mapping[str, Any]) -> Path | Source:
    """Say where a recording the daemon has opened for us is read: in its directory, or through the daemon."""
    from proxyd.recorder.source import Elsewhere

    path = Path(answer["path"])
    if (elsewhere := answer.get("elsewhere")) is None:
        return path

    def fetch(file: str, start: int, length: int) -> bytes:
        asked = {"file": file, "start": start, "length": length}
        data: bytes = client.call("fetch", ticket=elsewhere["ticket"], **asked)["data"]
        return data

    return Elsewhere(path, elsewhere["files"], fetch)


take_identity = click.option(
    "--identity",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The age identity that opens recordings; else the one the configuration names.",
)
take_channel = click.option(
    "--channel", type=click.IntRange(min=0), help="This channel, not the first terminal."
)


def _check_options(run: Run, session: str, given: Mapping[str, bool], form: str = "") -> None:
    """Refuse what a session of its kind has not, before the ledger says that someone saw it. Raises UsageError."""
    from proxyd.cli_desktop import refuse_desktop
    from proxyd.cli_queries import refuse_screen_options

    row = run.call("show", session=session)["session"]
    if form != "jsonl":
        refuse_desktop(row)
    refuse_screen_options(row, given)


def print_records(records: Iterable[Record]) -> None:
    """Print records as JSON, one a line, each at once."""
    from proxyd.recorder.export import jsonl

    for line in jsonl(cast("Recording", _Records(records))):
        sys.stdout.write(line)
        sys.stdout.flush()


class _Records:
    """Records from elsewhere, for an export that asks nothing else of a recording."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = records

    def records(self) -> Iterable[Record]:
        return self._records


@click.command(cls=Command, short_help="Show what happened in an ended session.")
@session_argument()
@click.option(
    "--commands", "only_commands", is_flag=True, help="Only commands of terminals, with end and exit status."
)
@take_identity
@click.pass_obj
def log(run: Run, session: str, *, only_commands: bool, identity: Path | None) -> None:
    """Show the log of an ended session: events, commands, statements, transfers, findings, who watched.

    What a user typed is shown when the session showed it too; a password is not. What a desktop showed is a picture:
    there all keys are in the log, passwords too.
    """
    from proxyd import cli_commands
    from proxyd.cli_log import print_entries
    from proxyd.cli_queries import is_of_statements, print_log

    if only_commands:
        cli_commands.refuse_others(run.call("show", session=session)["session"])
    recording, answer, _ = open_recording(run, "log", session, identity)
    row = answer["session"]
    if only_commands:
        ran = cli_commands.commands(cli_commands.derived(recording))
        shown = {"commands": [one._asdict() for one in ran]}
        _say_log(run, answer, shown, lambda: cli_commands.print_commands(run.output, ran))
        warn_of_damage(run, recording)
        return
    read = cli_commands.log_of(recording, row)
    lines = sorted(read.entries, key=attrgetter("at_us"))
    printed = print_log if is_of_statements(row) else print_entries
    shown = {"entries": [entry.document() for entry in lines]}
    _say_log(run, answer, shown, lambda: printed(run.output, lines))
    warn_of_damage(run, recording)
    read.say(run)


def _say_log(run: Run, answer: Mapping[str, Any], shown: dict[str, Any], tell: Callable[[], None]) -> None:
    """Print a log: as JSON what is `shown`, else what `tell` prints, between whose session it was and who watched."""
    row = answer["session"]
    if run.output.json:
        run.output.document({"session": row, **shown, "views": answer["views"]})
        return
    began = run.output.time(row["started_at"])
    lasted = duration((row["ended_at"] or row["started_at"]) - row["started_at"])
    run.output.line(f"{who(row)}, {began}, {lasted}")
    run.output.line()
    tell()
    run.output.line()
    run.output.line("Watched by")
    for view in views_of(answer, run.output) or ["nobody"]:
        run.output.line(f"  {view}")


def warn_of_damage(run: Run, recording: Recording) -> None:
    """Say it when a recording is not whole."""
    if recording.damage:
        run.output.remark(
            f"the recording is not whole: {recording.damage}; see: proxyctl verify {recording.path.name}"
        )


@click.command(cls=Command, short_help="Replay a recording in the terminal.")
@session_argument()
@click.option("--speed", type=click.FloatRange(0.01, 1000), default=1.0, metavar="N", help="N times as fast.")
@click.option("--skip-idle", type=click.FloatRange(min=0), metavar="SECONDS", help="Cut pauses to this.")
@click.option(
    "--from", "start_us", type=Place(), default="0", metavar="TIME", help="Begin at 12, 1:30 or 1h2m3s."
)
@click.option("--follow", is_flag=True, help="At the end of what there is, wait for more: a live session.")
@take_channel
@take_identity
@click.pass_obj
def replay(
    run: Run,
    session: str,
    *,
    speed: float,
    skip_idle: float | None,
    start_us: int,
    follow: bool,
    channel: int | None,
    identity: Path | None,
) -> None:
    """Replay a recording in the terminal, in its own time: the screen, or a database session's statements.

    Keys: space pauses, . shows the next record, left and right go 5 s, up and down double and halve the speed,
    q leaves. Into a pipe goes the raw output, at once; with --json every record, one a line.
    """
    from proxyd.cli_queries import scene_of, view_of
    from proxyd.cli_reading import PIECE_US, Pieces
    from proxyd.cli_view import Pace, Player, replay_plainly
    from proxyd.terminal import showing

    _check_options(run, session, {"--channel": channel is not None}, "jsonl" if run.output.json else "")
    found = open_recording(run, "replay", session, identity, first_us=start_us, last_us=start_us + PIECE_US)
    recording, answer, key = found
    pieces = Pieces(run, recording, answer, start_us)
    growing = follow and answer["session"]["state"] == "live"
    more = _follower(recording.path, key, pieces) if growing else None
    if run.output.json:
        print_records(_followed(pieces.records(start_us), more))
    else:
        pace = Pace(speed, None if skip_idle is None else round(skip_idle * 1e6), start_us)
        with showing() as screen:
            if screen is None:
                scene = scene_of(answer["session"], channel)
                replay_plainly(_followed(pieces.records(start_us), more), scene, sys.stdout.buffer)
            else:
                view = view_of(run.output, channel)(screen, answer["session"], who(answer["session"]))
                Player(pieces.records, view, pace, recording.duration_us, more).play()
    if answer["session"]["state"] != "live":
        warn_of_damage(run, recording)


def _follower(path: Path, identity: Path, pieces: Pieces) -> Callable[[int, int], Iterator[Record]]:
    """Give what reads the records after a seq and its time, as far as they are on disk by then."""
    from proxyd.recorder.replay import Recording

    def more(after_seq: int, at_us: int) -> Iterator[Record]:
        grown = Recording.open(path, identity).records(at_us)
        return pieces.allowed(record for record in grown if record.seq > after_seq)

    return more


def _followed(
    records: Iterator[Record], more: Callable[[int, int], Iterator[Record]] | None
) -> Iterator[Record]:
    """Yield records, and with `more` those that come later, to the session's end."""
    from proxyd.cli_view import FOLLOW_SECONDS
    from proxyd.recorder.record import Kind

    seq = at_us = 0
    while True:
        for record in records:
            seq, at_us = record.seq, record.at_us
            yield record
            if record.kind is Kind.END:
                return
        if more is None:
            return
        time.sleep(FOLLOW_SECONDS)
        records = more(seq, at_us)


def refuse_existing(target: Path, *, force: bool) -> None:
    """Raise ProxydError when a file is there that nobody said may be replaced."""
    if target.exists() and not force:
        raise ProxydError(f"{target} exists: add --force to replace it")


def write_private(
    target: Path, parts: Iterable[str | bytes], seal: Callable[[Path], None] | None = None
) -> None:
    """Write a file whole or not at all, readable by its owner only; `seal`: see `private_file`."""
    with private_file(target, seal) as file:
        file.writelines(part.encode() if isinstance(part, str) else part for part in parts)


@contextmanager
def private_file(target: Path, seal: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """Open a file that is at `target` once it is whole, readable by its owner only; of a part nothing is left.

    `seal` is called with the whole file before it is at its place; when that raises, it never is.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    ends = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = [(one, signal.signal(one, _interrupted)) for one in ends]
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        if seal is not None:
            seal(aside)
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)  # of an export that was cancelled the daemon has removed it
        raise
    finally:
        for one, handler in before:
            signal.signal(one, handler)


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


@click.command(cls=Command, short_help="Prove that recordings and exported files are unaltered.")
@click.argument("what", required=False, metavar="[SESSION|PATH|FILE]")
@click.option(
    "--all", "everything", is_flag=True, help="Every recording, the ledger, and that none is missing."
)
@click.option("--public-key", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
              help="The node's public keys (PEM) as you keep them; else those beside the ledger.")  # fmt: skip
@click.pass_obj
def verify(run: Run, what: str | None, *, everything: bool, public_key: Path | None) -> None:
    """Prove that recordings are whole and unaltered; needs no key that opens them, and no daemon.

    Of an exported FILE: that it is the one its manifest, FILE.manifest.json, was signed for, and of which recording.
    """
    from proxyd.recorder import ledger as ledgers
    from proxyd.recorder.verify import verify as verify_one
    from proxyd.recorder.verify import verify_all

    if (what is None) is not everything:
        raise click.UsageError("name one SESSION or PATH, or say --all")
    keys = ledgers.read_public_keys(public_key) if public_key else None
    if what is not None and Path(what).is_file():
        reports = [_verify_file(run, Path(what), keys)]
    elif what is not None and public_key and Path(what).is_dir():
        reports = [verify_one(Path(what), keys or ())]  # on another machine: no configuration, no ledger
    else:
        recording = run.config().recording
        ledger = ledgers.LedgerReader(recording.ledger, keys)
        if what is None:
            reports = verify_all(recording.directory, ledger)
        else:
            source = _recording_of(run, what, recording.directory)
            reports = [verify_one(source, ledger.public_keys(), ledger=ledger)]
    _report(run, reports)
    if not all(report.ok for report in reports):
        sys.exit(FAILED)


def _recording_of(run: Run, what: str, root: Path) -> Path | Source:
    """Find a recording here, or have the daemon read it from the store (rule 2). Raises ProxydError."""
    try:
        return recording_at(what, root)
    except NoRecording:
        if run.config().store is None:
            raise
        return source_of(run.client(), run.call("verify", session=what))


class NoRecording(ProxydError):
    """No recording of that name is here."""


def _verify_file(run: Run, file: Path, keys: Sequence[Ed25519PublicKey] | None) -> Report:
    """Verify an exported file; with --public-key where no configuration is, by its manifest alone."""
    from proxyd.recorder.exported import manifest_of, verify_export
    from proxyd.recorder.ledger import LedgerReader

    try:
        ledger = LedgerReader(run.config().recording.ledger, keys)
    except ConfigError:
        if keys is None:
            raise
        run.output.remark("no configuration, so no ledger: compared with its manifest alone")
        return verify_export(file, manifest_of(file), keys)
    return verify_export(file, manifest_of(file), keys or ledger.public_keys(), ledger=ledger)


def recording_at(what: str, root: Path) -> Path:
    """Find a recording's directory by its path, its session's id, or the beginning of that."""
    if Path(what).is_dir():
        return Path(what)
    found = [path for path in root.glob("[0-9]*/[0-9]*/[0-9]*/*") if path.name.startswith(what)]
    if not found:
        raise NoRecording(f"no recording {what} below {root}: see proxyctl sessions")
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise ProxydError(f"{what} is the beginning of more than one recording: {names}")
    return found[0]


def _report(run: Run, reports: Sequence[Report]) -> None:
    """Print what was verified: one line each, then every problem."""
    ok = all(report.ok for report in reports)
    if run.output.json:
        shown = [asdict(report) | {"path": str(report.path), "ok": report.ok} for report in reports]
        run.output.document({"ok": ok, "reports": shown})
        return
    columns = [
        Column("RESULT", lambda row: "ok" if row["ok"] else "damaged"),
        Column(
            "RECORDING", lambda row: row["session"] or ("(ledger)" if row["state"] == "ledger" else "(none)")
        ),
        Column("STATE", lambda row: row["state"], keep=8),
        Column("SEGMENTS", lambda row: row["segments"] or "", keep=3, right=True),
        Column("RECORDS", lambda row: row["records"], keep=4, right=True),
        Column("SIZE", lambda row: size(row["bytes"]) if row["bytes"] else "", keep=5, right=True),
    ]
    run.output.table(columns, (asdict(report) | {"ok": report.ok} for report in reports), "No recordings.")
    for report in reports:
        for problem in report.problems:
            place = f" {problem.file}" + (f" at byte {problem.offset}" if problem.offset is not None else "")
            name = report.session[:ID_SHOWN] or ("ledger" if report.state == "ledger" else report.path.name)
            run.output.remark(f"{name}{place if problem.file else ''}: {problem.text}")
        if report.about:
            run.output.line()
            run.output.line(f"{report.path.name}: {report.about}.")
    bad = sum(not report.ok for report in reports)
    run.output.line()
    run.output.line(f"{bad} of {len(reports)} damaged." if bad else "Whole and unaltered.")
