"""Exports as the daemon knows them: who waits, who works, how far, and what became of each.

The daemon makes no file: it holds no key that opens a recording. A job has a maker, a process with the identity, niced: that
of whoever asked, or, of an unattended one, the console's. It holds a connection to the control socket for as long as it
works; here it waits for its turn, says how far it is, and learns that it was cancelled.

Rule 1: at most `[export] jobs` of the heavy forms are worked on at once, in the order they were asked for; the others, which
        take a moment, wait for nobody.
Rule 2: a job of somebody's own whose maker goes without a word has failed. An unattended one is queued again, under its
        number, for the next maker: TRIES times, for what kills one maker kills the next.
Rule 3: a daemon that stops, however it does, loses no job: after its next start the makers that are still there go on where
        they were. Of a job of somebody's own that is not back within REJOIN_S the maker is gone: it is lost.
Rule 4: none of these leaves a file under its final name, nor below `[export] directory` a part of one.
Rule 5: only who began a job says how far it is, and that it ended.
Rule 6: sessions come first: where an export would take the room that recordings need, it ends; and of one person MOST jobs
        wait or work at most.
Rule 7: what is below `[export] directory` goes after `keep_days`, and with its recording; what is elsewhere is its owner's.
Rule 8: the user an export is for is told when it is ready, and when it can't be: of each once, and of none they ended.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from proxyd import log, metrics
from proxyd.errors import ProxydError
from proxyd.governance.notices import ID_SHOWN, Event, Notice
from proxyd.recorder.exported import manifest_of
from proxyd.recorder.forms import APART
from proxyd.recorder.jobs import ENDS, JobRow, Jobs, State
from proxyd.recorder.store import free_bytes

if TYPE_CHECKING:
    from proxyd.config import Export

WENT: Final = "its process ended without a word"
FULL: Final = "the disk has no room for it beside the recordings of sessions"
STOPPED: Final = "the daemon stopped before it was finished, and its process is gone"
TRIES: Final = 5  # makers of an unattended job: a machine that is started anew four times on one day
MOST: Final = 20  # jobs of one person at a time: a day's sessions of somebody under review
ROOM: Final = 2  # times what recordings have in reserve: below once that sessions are refused
REJOIN_S: Final = 60.0  # its maker asks twice a second whether the daemon is back
LOOK_S: Final = 5.0
SWEEP_S: Final = 60.0  # between two looks for files whose time has come
DAY_S: Final = 86_400.0

_log = log.get("exports")


class NoJob(ProxydError):
    """There is no such job at work here, or it is another's."""


@dataclass(eq=False)
class Job:
    """A job that is not over. `scope`: of the maker that holds it; `until`: when it is lost without one.

    `user`: who is told of its end (rule 8); "": nobody, who asked is no user of the proxy.
    """

    row: JobRow
    user: str
    percent: int = 0
    scope: trio.CancelScope | None = None
    until: float | None = None

    @property
    def heavy(self) -> bool:
        """Whether it takes one of the places (rule 1)."""
        return self.row.form in APART


class Exports:
    """The jobs of one daemon."""

    def __init__(self, jobs: Jobs, settings: Export, tell: Callable[..., None]) -> None:
        """`tell`: a notifier's."""
        self._places = trio.CapacityLimiter(settings.jobs)
        self._jobs, self._tell_people = jobs, tell
        self._settings = settings
        self._live: dict[str, Job] = {}
        self._closing = False

    def close(self) -> None:
        """Say that the daemon stops: makers go on with the next one (rule 3)."""
        self._closing = True

    def reconfigure(self, settings: Export) -> None:
        """Let so many be at work at once, and keep files so long, from now on."""
        self._settings = settings
        self._places.total_tokens = settings.jobs

    async def take_up(self) -> None:
        """Take up what the daemon before this one left unfinished (rule 3)."""
        until = trio.current_time() + REJOIN_S
        for row in await trio.to_thread.run_sync(self._jobs.left):
            mine = (row.person, None) if row.unattended else ("", until)
            self._live[row.id] = Job(row, mine[0], until=mine[1])
            _log.info("export waits for its maker", export=row.id, session=row.session, form=row.form)
        self._tell()

    async def run(self) -> None:
        """Lose what has no maker any more, and remove files whose time has come, until cancelled."""
        swept = -SWEEP_S
        while True:
            try:
                await self.lose()
                if trio.current_time() - swept >= SWEEP_S:
                    swept = trio.current_time()
                    await self.sweep()
            except (ProxydError, OSError) as error:
                _log.error("exports can't be looked after; it is tried again", why=str(error))
            await trio.sleep(LOOK_S)

    async def lose(self) -> None:
        """Give up the jobs whose makers did not come back (rule 3)."""
        now = trio.current_time()
        for job in [one for one in self._live.values() if one.until is not None and now >= one.until]:
            await self._settle(job, State.LOST, error=STOPPED)

    async def sweep(self) -> None:
        """Remove files whose time has come (rule 7)."""
        before = time.time() - self._settings.keep_days * DAY_S if self._settings.keep_days else 0.0
        for row in await trio.to_thread.run_sync(self._jobs.due, before):
            if self._is_ours(row) and await self._remove(row):
                await trio.to_thread.run_sync(self._jobs.removed, row.id)
                _log.info("export removed", export=row.id, session=row.session, form=row.form)

    async def lacks_room(self, job: Job, reserve: int) -> bool:
        """Tell whether a job leaves too little of the disk to recordings, which have so many bytes in reserve (rule 6)."""
        if not self._is_ours(job.row):
            return False
        try:
            return await trio.to_thread.run_sync(_free_bytes, self._settings.directory) < ROOM * reserve
        except OSError:
            return False  # not there: the maker will say so

    def goes_at(self, row: JobRow) -> float | None:
        """Say when the file of a job is removed by itself; None: with its recording, or not by us."""
        days = self._settings.keep_days
        if row.state != State.DONE or row.ended_at is None or not days or not self._is_ours(row):
            return None
        return row.ended_at + days * DAY_S

    async def ask(self, **asked: Any) -> JobRow:
        """Keep a new unattended job, for the next maker; `asked`: session, who, person, address, form, settings.

        Raises NoJob when this person has too many (rule 6).
        """
        if sum(job.row.person == asked["person"] for job in self._live.values()) >= MOST:
            raise NoJob(f"{MOST} exports of yours wait or are at work: let some end, or cancel them")
        name = uuid.uuid4().hex
        path = self._settings.directory / asked["session"] / f"{name}.{asked['form']}"
        return (await self._add(name, asked["person"], path=str(path), unattended=True, **asked)).row

    def waiting(self) -> list[JobRow]:
        """List the unattended jobs that have no maker, oldest first."""
        return [job.row for job in self._live.values() if job.row.unattended and job.scope is None]

    @asynccontextmanager
    async def begun(self, user: str, **asked: Any) -> AsyncIterator[Job]:
        """Keep a new job for as long as its maker holds on; `asked`: session, who, person, form, path, settings."""
        async with self._held(await self._add(uuid.uuid4().hex, user, **asked)) as job:
            yield job

    @asynccontextmanager
    async def resumed(self, name: str, who: str, user: str, *, afresh: bool) -> AsyncIterator[Job]:
        """Give a job that has no maker to one; `afresh`: who begins it from the beginning. Raises NoJob."""
        job = self._live.get(name)
        if job is None or job.row.who != who or job.scope is not None:
            raise NoJob(f"export {name} is not to be made here")
        job.user = user
        if afresh:
            job.percent, job.row = 0, replace(job.row, sha256="")
        async with self._held(job):
            yield job

    def before(self, job: Job) -> int:
        """Say how many wait or work before it."""
        if not job.heavy:
            return 0
        heavy = [one for one in self._live.values() if one.heavy]
        return heavy.index(job) if job in heavy and not self._places.available_tokens else 0

    @asynccontextmanager
    async def place(self, job: Job) -> AsyncIterator[None]:
        """Wait for the job's turn (rule 1)."""
        if not job.heavy:
            yield
            return
        async with self._places:
            yield

    async def started(self, job: Job) -> None:
        """Keep that it is at work."""
        if await trio.to_thread.run_sync(self._jobs.move, job.row.id, State.RUNNING):
            job.row = replace(job.row, state=State.RUNNING, started_at=time.time())
        self._tell()

    def told(self, name: str, who: str, percent: int) -> None:
        """Take in how far a job is. Raises NoJob."""
        self.mine(name, who).percent = percent

    def mine(self, name: str, who: str) -> Job:
        """Give the job that `who` has at work (rule 5). Raises NoJob."""
        job = self._live.get(name)
        if job is None or job.row.who != who or job.scope is None:
            raise NoJob(f"export {name} is not at work here")
        return job

    async def made(self, job: Job, **file: str | int) -> None:
        """Keep what is to be its file, before it is there. Waits for storage."""
        job.row = replace(job.row, **file)  # type: ignore[arg-type]
        await trio.to_thread.run_sync(lambda: self._jobs.keep(job.row.id, **file))

    async def end(self, job: Job, error: str, *, again: bool = False, **made: str | int) -> None:
        """Keep that a job is done, or why it is not; `again`: its maker leaves it to the next. Waits for storage."""
        if again and job.row.unattended:
            await self._queue(job, job.row.tries)
            return
        await self._settle(job, State.FAILED if error else State.DONE, error=error, **made)

    async def cancel(self, row: JobRow, by: str) -> JobRow:
        """End a job that waits or works. Raises NoJob."""
        job = self._live.get(row.id)
        if job is None:
            raise NoJob(f"export {row.id} is not at work here: it is {row.state}")
        await self._settle(job, State.CANCELLED, error=f"cancelled by {by}")
        return job.row

    async def find(self, name: str) -> JobRow:
        """Give a job by its id, or the beginning of it. Raises NotFound."""
        return await trio.to_thread.run_sync(self._jobs.find, name)

    async def newest(self, limit: int, session: str, person: str) -> list[JobRow]:
        """List jobs, the newest first; for one person, where one is named."""
        return await trio.to_thread.run_sync(self._jobs.newest, limit, session, person)

    async def about(self, rows: Iterable[JobRow]) -> dict[str, str]:
        """Say of the sessions of jobs whose they are, by their ids."""
        return await trio.to_thread.run_sync(self._jobs.about, {row.session for row in rows})

    async def refuse(self, row: JobRow, why: str) -> None:
        """End an unattended job that nobody may make."""
        if (job := self._live.get(row.id)) is not None:
            await self._settle(job, State.FAILED, error=why)

    def percent(self, row: JobRow) -> int:
        """Say how far a job is."""
        if row.state == State.DONE:
            return 100
        job = self._live.get(row.id)
        return job.percent if job else 0

    # ----------------------------------------------------------------------------------------

    async def _add(self, name: str, user: str, **asked: Any) -> Job:
        row = await trio.to_thread.run_sync(lambda: self._jobs.add(name, **asked))
        job = self._live[name] = Job(row, user)
        self._tell()
        return job

    @asynccontextmanager
    async def _held(self, job: Job) -> AsyncIterator[Job]:
        """Be its maker; who leaves without a word has gone (rule 2)."""
        scope = job.scope = trio.CancelScope()
        job.until = None
        try:
            yield job
        finally:
            if job.scope is scope and self._live.get(job.row.id) is job:
                job.scope = None
                if not self._closing:
                    with trio.CancelScope(shield=True):
                        await self._gone(job)

    async def _gone(self, job: Job) -> None:
        tries = job.row.tries + 1
        if job.row.unattended and tries < TRIES:
            await self._queue(job, tries)
            return
        often = f", {tries} times" if job.row.unattended else ""
        await self._settle(job, State.FAILED, error=WENT + often)

    async def _queue(self, job: Job, tries: int) -> None:
        """Queue it again, for the next maker."""
        if job.scope is not None:
            job.scope.cancel()
        job.scope, job.percent = None, 0
        job.row = replace(job.row, state=State.QUEUED, started_at=None, tries=tries, sha256="")
        await trio.to_thread.run_sync(
            lambda: self._jobs.move(job.row.id, State.QUEUED, tries=tries, sha256="")
        )
        self._tell()
        _log.info("export is begun again", export=job.row.id, session=job.row.session, tries=tries)

    async def _remove(self, row: JobRow) -> bool:
        """Remove the file of a job; False when storage refuses: its maker may be another user of this machine."""
        try:
            await trio.to_thread.run_sync(_remove, Path(row.path))
        except OSError as error:
            _log.warning("an export can't be removed", export=row.id, why=error.strerror or str(error))
            return False
        return True

    def _is_ours(self, row: JobRow) -> bool:
        return Path(row.path).is_relative_to(self._settings.directory)

    async def _settle(self, job: Job, state: State, **values: str | int) -> None:
        """End a job once; what is said of it later says nothing."""
        if self._live.pop(job.row.id, None) is None:
            return
        job.row = replace(job.row, state=state, **values)  # type: ignore[arg-type]
        metrics.EXPORTS_ENDED.labels(result=state).inc()
        self._tell()
        if job.scope is not None:
            job.scope.cancel()
        with trio.CancelScope(shield=True):  # as long as the catalog takes
            await trio.to_thread.run_sync(lambda: self._jobs.move(job.row.id, state, **values))
            if state is not State.DONE and self._is_ours(job.row):
                await self._remove(job.row)
        _log.info("export ended", export=job.row.id, session=job.row.session, form=job.row.form, result=str(state),
                  who=job.row.who, why=values.get("error", ""))  # fmt: skip
        if job.user and (notice := notice_of(job.row, job.user)) is not None:
            self._tell_people(notice, again=job.row.id)

    def _tell(self) -> None:
        states = [one.row.state for one in self._live.values()]
        for state in set(State) - ENDS:
            metrics.EXPORTS.labels(state=state).set(states.count(state))


def notice_of(row: JobRow, user: str) -> Notice | None:
    """Say to a user what became of their export; None of what was cancelled (rule 8)."""
    what, details = f"the {row.form} of session {row.session[:ID_SHOWN]}", {"format": row.form}
    if row.state == State.DONE:
        event, title = Event.VIDEO_READY, f"{what} is ready"
        details |= {"size": f"{row.size} B", "fetch": f"proxyctl exports fetch {row.id} -o FILE"}
    elif row.state in (State.FAILED, State.LOST):
        event, title = Event.VIDEO_FAILED, f"{what} could not be made"
        command = f"proxyctl export {row.session} --format {row.form} -o FILE"
        anew = f"ask for it again on the session's page, or with {command}"
        details |= {
            "why": row.error,
            "next": f"{anew}. If it fails again, tell an administrator its number: {row.id}",
        }
    else:
        return None
    return Notice(event, time.time(), row.session, title, (user,), details, f"/exports/{row.id}")


def _free_bytes(directory: Path) -> int:
    """Give the bytes that are free where a directory is, or will be. Raises OSError."""
    return free_bytes(next(one for one in (directory, *directory.parents) if one.exists()))


def _remove(path: Path) -> None:
    """Remove a file, its manifest, and what a maker left of it that was killed (rule 4)."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for part in (path, manifest_of(path), *path.parent.glob(f".{escape(path.name)}.*")):
            part.unlink(missing_ok=True)
