"""The catalog's list of exports: which files are to be made of recordings, are being made, and were made.

Rule 1: a job goes from queued to running to one of the ends, and from an end nowhere else; NEXT has it all.
        A job whose maker has gone is queued again, with the number it had.
Rule 2: what a daemon that stopped left unfinished waits for a maker at its next start.
Rule 3: every method may be called from any thread, and waits for storage: call it through `trio.to_thread`.

Times are seconds since 1970; sizes are bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from proxyd.recorder.catalog import Catalog, NotFound
from proxyd.recorder.schema import EXPORTS, SESSIONS

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
    State.RUNNING: ENDS | {State.QUEUED},
} | dict.fromkeys(ENDS, frozenset())


@dataclass(frozen=True, slots=True)
class JobRow:
    """One export. `who` asked for it; `error` says why there is no file, for people.

    `person`: whom it is for; `address`: where they sit, as a console says; `settings`: JSON of forms.Settings;
    `unattended`: no process of theirs makes it, whoever keeps the identity for everybody does; `tries`: how many makers it
    has lost; `removed_at`: since when its file is gone.
    """

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
    person: str = ""
    address: str = ""
    settings: str = "{}"
    unattended: bool = False
    tries: int = 0
    removed_at: float | None = None


class Jobs:
    """Exports in a catalog's database; `node` is the one whose daemon this is."""

    def __init__(self, catalog: Catalog, node: str, *, clock: Callable[[], float] = time.time) -> None:
        self.node = node
        self._database = catalog.database
        self._clock = clock

    def add(self, name: str, **asked: Any) -> JobRow:
        """Keep a new job; `asked`: session, who, form, path, and what else a row says of it. Raises CatalogError."""
        row = JobRow(id=name, node=self.node, state=State.QUEUED, queued_at=self._clock(), **asked)
        values = {column.name: getattr(row, column.name) for column in EXPORTS.columns}
        with self._database.write() as connection:
            connection.execute(EXPORTS.insert().values(values))
        return row

    def move(self, name: str, state: State, **values: Any) -> bool:
        """Keep that a job is further; False when it may not go there (rule 1). Raises CatalogError."""
        before = [one for one, then in NEXT.items() if state in then]
        if state is State.QUEUED:
            values["started_at"] = None
        else:
            values["ended_at" if state in ENDS else "started_at"] = self._clock()
        change = EXPORTS.update().where(EXPORTS.c.id == name, EXPORTS.c.state.in_(before))
        with self._database.write() as connection:
            return bool(connection.execute(change.values(state=state, **values)).rowcount)

    def keep(self, name: str, **values: Any) -> None:
        """Keep something of a job that does not change its state. Raises CatalogError."""
        with self._database.write() as connection:
            connection.execute(EXPORTS.update().where(EXPORTS.c.id == name).values(**values))

    def removed(self, name: str) -> None:
        """Keep that the file of a job is gone. Raises CatalogError."""
        self.keep(name, removed_at=self._clock())

    def left(self) -> list[JobRow]:
        """Queue what this node has not finished again, and give it, oldest first (rule 2). Raises CatalogError."""
        mine = (EXPORTS.c.node == self.node, EXPORTS.c.state.in_([State.QUEUED, State.RUNNING]))
        with self._database.write() as connection:
            connection.execute(EXPORTS.update().where(*mine).values(state=State.QUEUED, started_at=None))
            return _rows(connection.execute(sa.select(EXPORTS).where(*mine).order_by(EXPORTS.c.queued_at)))

    def due(self, before: float) -> list[JobRow]:
        """List what this node finished before a time, or made of what is purged, and nobody removed. Raises CatalogError."""
        over = sa.or_(EXPORTS.c.ended_at < before, SESSIONS.c.purged_at.is_not(None))
        found = sa.select(EXPORTS).join(SESSIONS, SESSIONS.c.id == EXPORTS.c.session)
        mine = (EXPORTS.c.node == self.node, EXPORTS.c.state == State.DONE, EXPORTS.c.removed_at.is_(None))
        with self._database.read() as connection:
            return _rows(connection.execute(found.where(*mine, over)))

    def newest(self, limit: int, session: str = "", person: str = "") -> list[JobRow]:
        """List jobs, the newest first; of one session, and for one person, where these are named. Raises CatalogError."""
        query = sa.select(EXPORTS).order_by(EXPORTS.c.queued_at.desc(), EXPORTS.c.id).limit(limit)
        if session:
            query = query.where(EXPORTS.c.session == session)
        if person:
            query = query.where(EXPORTS.c.person == person)
        with self._database.read() as connection:
            return _rows(connection.execute(query))

    def about(self, sessions: Collection[str]) -> dict[str, str]:
        """Say of sessions whose they are: alice on root@db1. Raises CatalogError."""
        named = sa.select(SESSIONS.c.id, SESSIONS.c.user, SESSIONS.c.login, SESSIONS.c.target)
        with self._database.read() as connection:
            found = connection.execute(named.where(SESSIONS.c.id.in_(sessions)))
            return {row.id: f"{row.user} on {row.login}@{row.target}" for row in found}

    def find(self, name: str) -> JobRow:
        """Give the job with this id, or the only one whose id begins so. Raises NotFound."""
        begins = EXPORTS.c.id.startswith(name, autoescape=True)
        query = sa.select(EXPORTS).where(begins).order_by(EXPORTS.c.id).limit(NAMED + 1)
        with self._database.read() as connection:
            rows = _rows(connection.execute(query))
        if not rows or not name:
            raise NotFound(f"no export {name}: proxyctl exports lists them")
        if len(rows) > 1 and rows[0].id != name:
            names = ", ".join(row.id for row in rows[:NAMED])
            raise NotFound(f"{name} is the beginning of more than one export: {names}")
        return rows[0]


def _rows(found: sa.CursorResult[Any]) -> list[JobRow]:
    return [JobRow(**row) for row in found.mappings()]
