"""Exports as the daemon knows them: who waits, who works, how far, and what became of each.

The daemon makes no file: it holds no key that opens a recording. Whoever asked runs the work in a process of their own,
with the identity, niced, and holds a connection to the control socket for as long as it lives; here it waits for its turn,
says how far it is, and learns that it was cancelled.

Rule 1: at most `[export] jobs` of the heavy forms are worked on at once, in the order they were asked for; the others, which
        take a moment, wait for nobody.
Rule 2: a job whose process goes without a word has failed; one that the daemon's end cut off is lost, which is said at the
        next start. Neither leaves a file under its final name.
Rule 3: only who began a job says how far it is, and that it ended.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from proxyd import log, metrics
from proxyd.errors import ProxydError
from proxyd.recorder.forms import APART
from proxyd.recorder.jobs import ENDS, STOPPED, JobRow, Jobs, State

WENT: Final = "its process ended without a word"

_log = log.get("exports")


class NoJob(ProxydError):
    """There is no such job at work here, or it is another's."""


@dataclass(eq=False)
class Job:
    """A job that is not over."""

    row: JobRow
    percent: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def heavy(self) -> bool:
        """Whether it takes one of the places (rule 1)."""
        return self.row.form in APART


class Exports:
    """The jobs of one daemon."""

    def __init__(self, jobs: Jobs, at_once: int) -> None:
        self._places = trio.CapacityLimiter(at_once)
        self._jobs = jobs
        self._live: dict[str, Job] = {}
        self._closing = False

    def close(self) -> None:
        """Say that the daemon stops: whoever holds on to it now has lost."""
        self._closing = True

    def allow(self, at_once: int) -> None:
        """Let so many be at work at once from now on."""
        self._places.total_tokens = at_once

    async def lose(self) -> None:
        """Say what the daemon before this one left unfinished (rule 2)."""
        if lost := await trio.to_thread.run_sync(self._jobs.lose):
            metrics.EXPORTS_ENDED.labels(result=State.LOST).inc(lost)
            _log.warning("exports were lost: the daemon stopped before they were finished", count=lost)

    @asynccontextmanager
    async def begun(self, *, session: str, who: str, form: str, path: str) -> AsyncIterator[Job]:
        """Keep a new job for as long as its process holds on; without a word of its end it has failed."""
        name = uuid.uuid4().hex
        row = await trio.to_thread.run_sync(
            lambda: self._jobs.add(name, session=session, who=who, form=form, path=path)
        )
        job = self._live[name] = Job(row)
        self._tell()
        try:
            yield job
        finally:
            if self._closing:
                await self._settle(job, State.LOST, error=STOPPED)
            else:
                await self._settle(job, State.FAILED, error=WENT)

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
            job.row = replace(job.row, state=State.RUNNING)
        self._tell()

    def told(self, name: str, who: str, percent: int) -> None:
        """Take in how far a job is. Raises NoJob."""
        self.mine(name, who).percent = percent

    def mine(self, name: str, who: str) -> Job:
        """Give the job that `who` has at work (rule 3). Raises NoJob."""
        job = self._live.get(name)
        if job is None or job.row.who != who:
            raise NoJob(f"export {name} is not at work here")
        return job

    async def end(self, job: Job, error: str, **made: str | int) -> None:
        """Keep that a job is done, or why it is not; `made`: of its file. Waits for storage."""
        await self._settle(job, State.FAILED if error else State.DONE, error=error, **made)

    async def cancel(self, name: str, by: str) -> JobRow:
        """End a job that waits or works. Raises NotFound, NoJob."""
        row = await trio.to_thread.run_sync(self._jobs.find, name)
        job = self._live.get(row.id)
        if job is None:
            raise NoJob(f"export {row.id} is not at work here: it is {row.state}")
        await self._settle(job, State.CANCELLED, error=f"cancelled by {by}")
        return job.row

    async def find(self, name: str) -> JobRow:
        """Give a job by its id, or the beginning of it. Raises NotFound."""
        return await trio.to_thread.run_sync(self._jobs.find, name)

    async def newest(self, limit: int, session: str) -> list[tuple[JobRow, int]]:
        """List jobs, the newest first, with how far each is, per cent."""
        rows = await trio.to_thread.run_sync(self._jobs.newest, limit, session)
        return [(row, self._percent(row)) for row in rows]

    def _percent(self, row: JobRow) -> int:
        if row.state == State.DONE:
            return 100
        job = self._live.get(row.id)
        return job.percent if job else 0

    async def _settle(self, job: Job, state: State, **values: str | int) -> None:
        """End a job once; what is said of it later says nothing."""
        if self._live.pop(job.row.id, None) is None:
            return
        job.row = replace(job.row, state=state, **values)  # type: ignore[arg-type]
        metrics.EXPORTS_ENDED.labels(result=state).inc()
        self._tell()
        job.scope.cancel()
        with trio.CancelScope(shield=True):  # as long as the catalog takes
            await trio.to_thread.run_sync(lambda: self._jobs.move(job.row.id, state, **values))
        _log.info("export ended", export=job.row.id, session=job.row.session, form=job.row.form, result=str(state),
                  who=job.row.who, why=values.get("error", ""))  # fmt: skip

    def _tell(self) -> None:
        states = [one.row.state for one in self._live.values()]
        for state in set(State) - ENDS:
            metrics.EXPORTS.labels(state=state).set(states.count(state))
