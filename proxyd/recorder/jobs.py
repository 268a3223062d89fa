"""The catalog's list of exports: which files are to be made of recordings, are being made, and were made.

Rule 1: a job goes from queued to running to one of the ends, and from an end nowhere else; NEXT has it all.
Rule 2: what a daemon that stopped left unfinished is lost, and is said so at its next start: who did the work had asked it.
Rule 3: every method may be called from any thread, and waits for storage: call it through `trio.to_thread`.

Times are seconds since 1970; sizes are bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from proxyd.recorder.catalog import Catalog, NotFound
from proxyd.recorder.schema import EXPORTS

STOPPED: Final = "the daemon stopped before it was finished"
NAMED: Final = 5  # ids an ambiguous beginning is answered with


class State(StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


ENDS: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.LOST})
NEXT: Final[Mapping[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELLED, State.LOST}),
    State.RUNNING: ENDS,
} | dict.fromkeys(ENDS, frozenset())


@dataclass(frozen=True, slots=True)
class JobRow:
    """One export. `who` asked for it; `error` says why there is no file, for people."""

    id: str
    node: str
    session: str
    who: str
    form: str
    path: str
    state: str
    queued_at: float
    started_at: float | None = None
    ended_at: float | None = None
    size: int = 0
    duration_us: int = 0
    sha256: str = ""
    error: str = ""


class Jobs:
    """Exports in a catalog's database; `node` is the one whose daemon this is."""

    def __init__(self, catalog: Catalog, node: str, *, clock: Callable[[], float] = time.time) -> None:
        self.node = node
        self._database = catalog.database
        self._clock = clock

    def add(self, name: str, *, session: str, who: str, form: str, path: str) -> JobRow:
        """Keep a new job. Raises CatalogError."""
        row = JobRow(name, self.node, session, who, form, path, State.QUEUED, self._clock())
        values = {column.name: getattr(row, column.name) for column in EXPORTS.columns}
        with self._database.write() as connection:
            connection.execute(EXPORTS.insert().values(values))
        return row

    def move(self, name: str, state: State, **values: Any) -> bool:
        """Keep that a job is further; False when it may not go there (rule 1). Raises CatalogError."""
        before = [one for one, then in NEXT.items() if state in then]
        values["ended_at" if state in ENDS else "started_at"] = self._clock()
        change = EXPORTS.update().where(EXPORTS.c.id == name, EXPORTS.c.state.in_(before))
        with self._database.write() as connection:
            return bool(connection.execute(change.values(state=state, **values)).rowcount)

    def lose(self) -> int:
        """Say that what this node has not finished is lost; gives how many (rule 2). Raises CatalogError."""
        unfinished = EXPORTS.c.state.in_([State.QUEUED, State.RUNNING])
        change = EXPORTS.update().where(EXPORTS.c.node == self.node, unfinished)
        values = {"state": State.LOST, "ended_at": self._clock(), "error": STOPPED}
        with self._database.write() as connection:
            return connection.execute(change.values(values)).rowcount

    def newest(self, limit: int, session: str = "") -> list[JobRow]:
        """List jobs, the newest first; those of one session if it is named."""
        query = sa.select(EXPORTS).order_by(EXPORTS.c.queued_at.desc(), EXPORTS.c.id).limit(limit)
        if session:
            query = query.where(EXPORTS.c.session == session)
        with self._database.read() as connection:
            return [JobRow(**row) for row in connection.execute(query).mappings()]

    def find(self, name: str) -> JobRow:
        """Give the job with this id, or the only one whose id begins so. Raises NotFound."""
        begins = EXPORTS.c.id.startswith(name, autoescape=True)
        query = sa.select(EXPORTS).where(begins).order_by(EXPORTS.c.id).limit(NAMED + 1)
        with self._database.read() as connection:
            rows = [JobRow(**row) for row in connection.execute(query).mappings()]
        if not rows or not name:
            raise NotFound(f"no export {name}: proxyctl exports lists them")
        if len(rows) > 1 and rows[0].id != name:
            names = ", ".join(row.id for row in rows[:NAMED])
            raise NotFound(f"{name} is the beginning of more than one export: {names}")
        return rows[0]
