"""`proxyctl export`: films and PyRDP replays, made by a process of their own and written here.

Rule 1: what reads the recording's bytes runs apart (`proxyd.export.process`); it is believed nothing but answers of the
        right shape, and killed at STALL_S without one, when whoever asked is interrupted, and when the disk is full.
Rule 2: FILE is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from proxyd.cli_decoder import Undecoded, packed, require, started
from proxyd.cli_output import duration, size
from proxyd.cli_recordings import private_file
from proxyd.errors import FormatError, ProxydError
from proxyd.export.task import Made, Task
from proxyd.recorder.forms import DESKTOP, FILMS

if TYPE_CHECKING:
    import subprocess

    from proxyd.cli_app import Run
    from proxyd.cli_exports import Job
    from proxyd.recorder.record import Record
    from proxyd.recorder.replay import Recording

MODULE: Final = "proxyd.export.process"
ENCODER: Final = "av"
NO_ENCODER: Final = "what makes films is not installed: pip install 'proxyd[video]'"
FAILED: Final = (
    "the film could not be made: the recording is damaged, hostile, or more than its maker may use"
)
STALL_S: Final = 120.0  # without a word; it says how far it is five times a second
LARGEST_FILE: Final = 64 << 30  # bytes: a day of the busiest screen
LARGEST_ANSWER: Final = 1 << 24
READ_BYTES: Final = 1 << 18
PASSES: Final = 2  # the second one when a desktop grew beyond its first size


class _Answer(msgspec.Struct, frozen=True):
    """One answer of the maker; what it does not speak of is None."""

    at: int | None = None
    data: bytes = b""
    at_us: int | None = None
    again: tuple[int, int] | None = None
    done: Made | None = None


def check(form: str, protocol: str, target: Path | None) -> None:
    """Refuse what can't be made. Raises UsageError, Undecoded."""
    if target is None:
        raise click.UsageError(f"{form} is no text for a terminal: add -o FILE")
    if protocol == DESKTOP:
        require()
    if form in FILMS and importlib.util.find_spec(ENCODER) is None:
        raise Undecoded(NO_ENCODER)


def make(run: Run, recording: Recording, task: Task, target: Path, job: Job | None = None) -> Made:
    """Make a file of a recording, and say meanwhile how far it is. Raises Undecoded, FormatError, ProxydError."""
    lasts_us = task.duration_us

    def seal(made: Path) -> None:
        if job is not None:
            job.seal(target, lasts_us, keys=task.keys)(made)

    try:
        with private_file(target, seal) as file, _progress(run, recording.duration_us, job) as tell:
            for _ in range(PASSES):
                answer = _one(task, recording.records(), file.fileno(), tell)
                if answer.again is None:
                    break
                file.truncate(0)
                task = msgspec.structs.replace(task, width=answer.again[0], height=answer.again[1])
            if answer.done is None:
                raise Undecoded(FAILED)
            if not answer.done.pictures and task.form in FILMS:
                raise FormatError("the recording shows no screen")
            lasts_us = _lasts_us(task, answer.done)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ProxydError(f"{target}: {reason}: nothing of it was kept") from None
    return answer.done


def _lasts_us(task: Task, made: Made) -> int:
    """Say how long a film is: as long as its session at that speed, unless pauses were cut."""
    whole_us = task.duration_us // task.speed
    return whole_us if task.pause_us is None else max(0, min(made.lasts_us, whole_us))


def _one(task: Task, records: Iterable[Record], file: int, tell: Callable[[int], None]) -> _Answer:
    """Let it be made once; gives the last answer. Raises Undecoded, OSError."""
    with started(MODULE, msgspec.json.encode(task).decode()) as process:
        feeder = _Feeder(process, records)
        try:
            answer = _written(process, file, tell)
        finally:
            process.kill()
            feeder.join()
    feeder.blame()
    return answer or _Answer()


def _written(process: subprocess.Popen[bytes], file: int, tell: Callable[[int], None]) -> _Answer | None:
    """Write what comes; gives the last answer, None when it ends without one. Raises Undecoded, OSError."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        for answer in _answers(process.stdout.fileno()):
            if answer.at is not None:
                if not 0 <= answer.at <= LARGEST_FILE - len(answer.data):
                    return None
                _write(file, answer.data, answer.at)
            elif answer.at_us is not None:
                tell(answer.at_us)
            else:
                return answer
    except (msgspec.MsgspecError, ValueError):
        raise Undecoded(FAILED) from None
    return None


def _answers(descriptor: int) -> Iterator[_Answer]:
    """Yield answers as they come; raises ValueError, msgspec.MsgspecError for what is none."""
    import msgpack

    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=LARGEST_ANSWER)
    while select.select([descriptor], [], [], STALL_S)[0] and (data := os.read(descriptor, READ_BYTES)):
        unpacker.feed(data)
        for one in unpacker:
            yield msgspec.convert(one, _Answer)


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        count = os.pwrite(file, data, at)
        data, at = data[count:], at + count


class _Feeder(threading.Thread):
    """Sends the records meanwhile; what goes wrong with them is its own error, not the maker's."""

    def __init__(self, process: subprocess.Popen[bytes], records: Iterable[Record]) -> None:
        super().__init__(daemon=True)
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        self._pipe = process.stdin
        self._records = records
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        """Send them all, or as many as are taken."""
        try:
            with contextlib.suppress(BrokenPipeError), self._pipe:
                self._pipe.writelines(packed(self._records))
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits
            self._error = error

    def blame(self) -> None:
        """Raise what went wrong with the records, if something did."""
        if self._error is not None:
            raise self._error


@contextlib.contextmanager
def _progress(run: Run, duration_us: int, job: Job | None) -> Iterator[Callable[[int], None]]:
    """Show how far it is: a bar in a terminal, with --json one line for each per cent, else nothing; and tell the daemon."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, no_color=None if run.output.color else True)
    last = -1
    with Progress(console=console, transient=True, disable=run.output.json or not console.is_terminal) as bar:
        work = bar.add_task("export", total=100)

        def tell(at_us: int) -> None:
            nonlocal last
            percent = min(100, at_us * 100 // max(1, duration_us))
            if job is not None:
                job.reached(percent)
            bar.update(work, completed=max(percent, last))
            if run.output.json and percent > last:
                run.output.document({"percent": percent})
            last = max(percent, last)

        yield tell


def say(run: Run, about: Mapping[str, Any], task: Task, target: Path, made: Made) -> None:
    """Say what was made; `about`: what a program is told beside it."""
    written, form, lasted_us = target.stat().st_size, task.form, _lasts_us(task, made)
    if run.output.json:
        told = {"format": form, "path": str(target), "bytes": written, "duration_us": lasted_us}
        run.output.document({**about, **told, **msgspec.structs.asdict(made)})
    film = f"{made.width} x {made.height}, " if form in FILMS else ""
    run.output.line(f"{target}: {form}, {film}{duration(lasted_us / 1e6)}, {size(written)}")
    if made.blind:
        run.output.remark(
            "PyRDP knows no graphics pipeline, which this desktop had: the replay has keys and no picture"
        )
    if made.faults:
        run.output.remark(f"{made.faults} parts of the recording could not be read: the export lacks them")
