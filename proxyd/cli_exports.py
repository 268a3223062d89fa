"""Exports as jobs: what `proxyctl export` tells the daemon of its work, and the commands about them.

The work is done in the process of whoever asked, with their identity: the daemon holds no key that opens a recording. What
it has is the list, the turn, and the signature under the manifest. A job in the background is the same command in a process
of its own, niced, which no terminal holds.

Rule 1: a file is at its place only once its manifest is; when anything fails neither is, and the daemon is told why.
Rule 2: a job that is cancelled ends at its next word of how far it is.
Rule 3: one whose daemon has gone waits for the next daemon and goes on where it was, for PATIENCE_S; then it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from proxyd.cli_app import COMPLETION_LIMIT, Command, CommandLine, Run, ids_of, offered
from proxyd.cli_output import FAILED, ID_SHOWN, Column, duration, size
from proxyd.control.client import Code, ControlError
from proxyd.errors import ProxydError

if TYPE_CHECKING:
    from proxyd.control.client import Stream

NICE: Final = 10  # sessions go first
LOOK_LINES: Final = 1000  # of text between two looks whether somebody cancelled it
WHY_SHOWN: Final = 1000  # characters of an error that the daemon keeps
PATIENCE_S: Final = 600.0  # for the daemon: an upgrade of the machine's packages
AGAIN_S: Final = 0.5  # between two looks whether it is back
LAST_WORD_S: Final = 2.0  # for why a job ended, where the daemon knows it no more
INTERRUPTED: Final = "who made it was interrupted"
ENTRY: Final = "from proxyd.cli import proxyctl; proxyctl()"


# ---------------------------------------------------------------------------- one job, as its maker sees it


class Job:
    """One export at the daemon; `reached` and `lines` raise ProxydError when it is to end (rule 2)."""

    def __init__(self, run: Run, stream: Stream) -> None:
        """Wait for the daemon to take it. Raises ControlError."""
        self._run, self._stream = run, stream
        self._frames: list[dict[str, Any]] = []
        self._percent = 0
        first = self._frame()
        self.id = str(first["job"])
        self.before = int(first["before"])
        self.row: dict[str, Any] = first["export"]

    def wait(self) -> dict[str, Any]:
        """Wait for its turn; gives what the daemon says of the session. Raises ControlError."""
        while True:
            try:
                opened: dict[str, Any] = self._frame()["go"]
            except ControlError as error:
                self._rejoin(error)
            else:
                return opened

    def reached(self, percent: int) -> None:
        """Say how far it is."""
        self.look()
        if percent > self._percent:
            self._percent = percent
            self._call("export-told", percent=min(percent, 100))

    def look(self) -> None:
        """Raise ProxydError if it is to end; wait for the daemon where it has gone (rule 3)."""
        try:
            while select.select([self._stream], [], [], 0)[0]:
                self._frames += self._stream.receive()
                for frame in self._frames:
                    _refuse_cancelled(frame)
        except ControlError as error:
            self._rejoin(error)
            self.wait()

    def lines(self, given: Iterable[str]) -> Iterator[str]:
        """Yield these lines, as long as nobody ends it and the disk has room: how many there are nobody knows."""
        for count, line in enumerate(given):
            if count % LOOK_LINES == 0:
                self._call("export-told", percent=self._percent)
            yield line

    def seal(self, target: Path, duration_us: int, *, keys: bool) -> Callable[[Path], None]:
        """Give what signs for the file that is to be at `target`, before it is there (rule 1)."""
        from proxyd.cli_recordings import write_private
        from proxyd.recorder.exported import digest, manifest_of

        def sign(made: Path) -> None:
            file = {
                "sha256": digest(made),
                "size": made.stat().st_size,
                "duration_us": duration_us,
                "keys": keys,
            }
            write_private(manifest_of(target), [self._call("export-sign", **file)["manifest"]])

        return sign

    def end(self, error: str = "", *, again: bool = False) -> None:
        """Say that it is over; `again`: that the next maker is to begin it."""
        self._run.call("export-end", job=self.id, error=error[:WHY_SHOWN], again=again)

    def cancel(self) -> None:
        """Say that whoever it is for ended it."""
        self._run.call("export-cancel", job=self.id)

    def close(self) -> None:
        """Let go of the daemon; idempotent."""
        self._stream.close()

    def _call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Ask the daemon about this job; the next one, where it has gone (rule 3)."""
        while True:
            self.look()
            try:
                return self._run.call(name, job=self.id, **arguments)
            except ControlError as error:
                if error.code is not Code.UNREACHABLE:
                    self._last_word()
                    raise
                self._rejoin(error)
                self.wait()

    def _last_word(self) -> None:
        """Raise why it ended, where that is on its way: who cancels it may be faster than its next word."""
        with contextlib.suppress(ControlError):
            if select.select([self._stream], [], [], LAST_WORD_S)[0]:
                for frame in self._stream.receive():
                    _refuse_cancelled(frame)

    def _frame(self) -> dict[str, Any]:
        while not self._frames:
            self._frames += self._stream.receive()
        frame = self._frames.pop(0)
        _refuse_cancelled(frame)
        return frame

    def _rejoin(self, gone: ControlError) -> None:
        """Hold the job at the daemon that comes after the one that has gone. Raises ControlError, at last `gone` itself."""
        if gone.code is not Code.UNREACHABLE:
            raise gone
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            self._stream.close()
            self._frames = []
            try:
                self._stream = self._run.client().stream("export-resume", job=self.id)
                self._frame()
            except ControlError as error:
                if error.code is not Code.UNREACHABLE:
                    raise
                time.sleep(AGAIN_S)
            else:
                return
        raise gone


def _refuse_cancelled(frame: Mapping[str, Any]) -> None:
    if "cancelled" in frame:
        raise ProxydError(f"the export was {frame['cancelled']}")


@contextlib.contextmanager
def job_of(run: Run, asked: Mapping[str, Any], target: Path, *, detached: bool) -> Iterator[Job]:
    """Be a new job of the daemon's; what goes wrong in it is told there too. Raises ControlError."""
    with contextlib.closing(Job(run, run.client().stream("export-job", **asked))) as job:
        if detached:
            _let_go(job)
        try:
            yield job
        except BaseException as error:
            with contextlib.suppress(
                ProxydError
            ):  # cancelled, or the daemon has gone: nobody is there to be told
                stopped = isinstance(error, KeyboardInterrupt) and not detached  # by who sits at the terminal
                job.cancel() if stopped else job.end(_why(error))
            raise
        try:
            job.end()
        except ProxydError as error:
            run.output.remark(f"{target} is there, and the daemon's list does not say so: {error}")


@contextlib.contextmanager
def _held(run: Run, name: str) -> Iterator[Job]:
    """Be the maker of an unattended job; what it is left for goes to the next one. Raises ControlError."""
    with contextlib.closing(Job(run, run.client().stream("export-resume", job=name, afresh=True))) as job:
        try:
            yield job
            job.end()
        except BaseException as error:
            left = isinstance(error, KeyboardInterrupt) or getattr(error, "code", "") == Code.UNREACHABLE
            with contextlib.suppress(ProxydError):
                job.end(_why(error), again=left)
            raise


def _why(error: BaseException) -> str:
    if isinstance(error, ProxydError):
        return str(error)
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return (
        INTERRUPTED if isinstance(error, KeyboardInterrupt) else f"a fault of its own: {type(error).__name__}"
    )


# ---------------------------------------------------------------------------- in the background


def start(run: Run, words: Sequence[str]) -> str:
    """Run `proxyctl export WORDS` apart from this terminal; gives the job's id, or ends as that does when it can't begin."""
    about = [*(["--config", str(run.config_path)] if run.config_path else []),
             *(["--socket", str(run.socket)] if run.socket else [])]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", ENTRY, *about, "export", *words, "--detached"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - they are pipes
    assert process.stderr is not None  # noqa: S101
    line = process.stdout.readline()
    if not line:
        with process:
            said = process.stderr.read().decode(errors="replace").strip().removeprefix("proxyctl: ")
        run.output.fail(said or "the export could not begin", "failed", process.returncode or FAILED)
    return str(json.loads(line)["job"])


def _let_go(job: Job) -> None:
    """Tell who started it that the daemon has the job, and go on alone, behind everybody else."""
    sys.stdout.write(json.dumps({"job": job.id}) + "\n")
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(nothing, descriptor)
    os.close(nothing)
    os.nice(NICE)


# ---------------------------------------------------------------------------- the commands


class JobName(click.ParamType[str]):
    """An export's id, or its beginning; completed with those the daemon knows."""

    name = "job"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer exports, newest first; nothing when no daemon answers."""
        del param
        rows = offered(ctx, "exports", limit=COMPLETION_LIMIT)
        return ids_of(
            rows, incomplete, lambda row: f"{row['form']} of {row['session'][:ID_SHOWN]}, {row['state']}"
        )


class _Exports(CommandLine):
    """`exports` by itself lists them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [one for one in Command("x").params if one.name in {"json", "utc"}]


@click.group(cls=_Exports, invoke_without_command=True, short_help="List exports: waiting, at work, done.")
@click.option("--session", default="", help="Of this session.")
@click.option(
    "--limit", default=50, type=click.IntRange(1, 1000), metavar="N", help="At most so many; else 50."
)
@click.pass_context
def exports(context: click.Context, session: str, limit: int) -> None:
    """List exports, newest first: those that wait for their turn, are at work, and what became of the others.

    Yours, and of administrators everybody's.
    """
    if context.invoked_subcommand is not None:
        return
    run = context.find_object(Run)
    assert run is not None  # noqa: S101 - the group above makes it
    if session:
        session = run.call("show", session=session)["session"]["id"]
    if (answer := run.ask("exports", session=session, limit=limit)) is None:
        return
    columns = [
        Column("EXPORT", lambda row: row["id"][:ID_SHOWN]),
        Column("STATE", _state_of, keep=9),
        Column("SESSION", lambda row: row["session"][:ID_SHOWN], keep=8),
        Column("FORMAT", lambda row: row["form"], keep=6),
        Column("SIZE", lambda row: size(row["size"]) if row["size"] else "", keep=5, right=True),
        Column(
            "TIME",
            lambda row: duration(row["duration_us"] / 1e6) if row["duration_us"] else "",
            keep=4,
            right=True,
        ),
        Column("BY", lambda row: row["who"], keep=3),
        Column("ASKED", lambda row: run.output.time(row["queued_at"], short=True), keep=2),
        Column("FILE", lambda row: row["error"] or row["path"], keep=7, fold=20),
    ]
    run.output.table(columns, answer["exports"], "No exports yet.")


def _state_of(row: Mapping[str, Any]) -> str:
    if row["state"] == "running":
        return f"{row['percent']} %"
    return "removed" if row["removed_at"] is not None else str(row["state"])


@exports.command(cls=Command, short_help="Cancel an export that waits or is at work.")
@click.argument("job", type=JobName(), metavar="EXPORT")
@click.pass_obj
def cancel(run: Run, job: str) -> None:
    """Cancel an export that waits or is at work; nothing of its file is left."""
    if (answer := run.ask("export-cancel", job=job)) is not None:
        run.output.line(
            f"Cancelled: {answer['id'][:ID_SHOWN]}, {answer['form']} of {answer['session'][:ID_SHOWN]}"
        )


@exports.command(cls=Command, short_help="Copy the file of a finished export.")
@click.argument("job", type=JobName(), metavar="EXPORT")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", required=True,
              help="Where to.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE.")
@click.pass_obj
def fetch(run: Run, job: str, *, target: Path, force: bool) -> None:
    """Copy the file of a finished export and its manifest; the ledger says that you saw it."""
    from proxyd.cli_recordings import private_file, refuse_existing, write_private
    from proxyd.recorder.exported import CHUNK_BYTES, digest, manifest_of

    refuse_existing(target, force=force)
    row = run.call("export-fetch", job=job)
    made, at = Path(row["path"]), 0

    def check(copied: Path) -> None:
        if digest(copied) != row["sha256"]:
            raise ProxydError(f"{made} is not the file that was exported: see proxyctl verify {made}")
        write_private(manifest_of(target), [manifest_of(made).read_bytes()])

    with made.open("rb") as source, private_file(target, check) as file:
        while data := source.read(CHUNK_BYTES):
            run.call("export-piece", ticket=row["ticket"], file="file", start=at, length=len(data))
            file.write(data)
            at += len(data)
    if run.output.json:
        run.output.document(row | {"path": str(target)})
    run.output.line(f"{target}: {row['form']}, {size(row['size'])}")


@exports.command(cls=Command, hidden=True)
@click.argument("job", metavar="EXPORT")
@click.option("--for", "person", required=True, metavar="USER")
@click.option("--from", "address", default="", metavar="ADDRESS")
@click.pass_obj
def make(run: Run, job: str, *, person: str, address: str) -> None:
    """Make an unattended export for the person it is for: what a console starts."""
    from proxyd.cli_export import produce

    run.acting_for = (person, address)
    signal.signal(signal.SIGTERM, _interrupted)
    os.nice(NICE)
    with _held(run, job) as held:
        produce(run, held)


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
