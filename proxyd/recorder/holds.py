"""Which recordings are held, and which go: the one place where both are decided, so that a hold always wins.

Rule 1: a hold and a purge of one session meet in the database's transactions: either it is held and stays, or it goes and
        can't be held any more.
Rule 2: a session may be held from its first moment, while it lives and after its end, until it is purged.
Rule 3: every method may be called from any thread, and waits for storage: call it through `trio.to_thread`.
Rule 4: times are seconds since 1970; sizes are bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import sqlalchemy as sa

from proxyd.errors import ProxydError
from proxyd.recorder.catalog import LIVE, Catalog, SessionRow
from proxyd.recorder.schema import HOLDS, SESSIONS

_HELD: Final = HOLDS.c.released_at.is_(None)
_HOLD: Final = (HOLDS.c.session, HOLDS.c.author, HOLDS.c.at, HOLDS.c.reason)


class HoldRefused(ProxydError):
    """The recording can't be held, or is held already; the text says by whom."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Who prevents the purge of a session since when, and why (mission M7)."""

    session: str
    author: str
    at: float
    reason: str


class Kept(NamedTuple):
    """A recording that has ended and is there."""

    session: str
    target: str
    ended_at: float
    size: int
    held: bool


class Holds:
    """Holds and purges of a catalog's sessions."""

    def __init__(self, catalog: Catalog, *, clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._database = catalog.database
        self._clock = clock

    def hold(self, session: str, by: str, reason: str) -> Hold:
        """Keep a session's recording until it is released. Raises NotFound, HoldRefused."""
        row = self._catalog.session(session)
        entry = Hold(row.id, by, self._clock(), reason)
        values = {"author": by, "at": entry.at, "reason": reason, "released_at": None, "released_by": None}
        with self._database.write() as connection:
            _lock(connection, row.id)
            if _one(connection, SESSIONS.c.id == row.id, SESSIONS.c.purged_at.is_not(None)):
                raise HoldRefused(f"the recording of session {row.id} is purged already")
            if _one(connection, HOLDS.c.session == row.id, _HELD):
                raise HoldRefused(f"session {row.id} is held already: see proxyctl holds")
            mine = HOLDS.c.session == row.id
            if not connection.execute(HOLDS.update().where(mine).values(values)).rowcount:
                connection.execute(HOLDS.insert().values(session=row.id, **values))
        return entry

    def release(self, session: str, by: str) -> Hold:
        """Let a session's recording go when its time comes. Raises NotFound, HoldRefused when it is not held."""
        row = self._catalog.session(session)
        held = sa.select(*_HOLD).where(HOLDS.c.session == row.id, _HELD)
        done = HOLDS.update().where(HOLDS.c.session == row.id, _HELD)
        with self._database.write() as connection:
            found = connection.execute(held).mappings().first()
            if found is None:
                raise HoldRefused(f"session {row.id} is not held: see proxyctl holds")
            connection.execute(done.values(released_at=self._clock(), released_by=by))
        return Hold(**found)

    def holds(self) -> list[Hold]:
        """List what is held, newest first."""
        query = sa.select(*_HOLD).where(_HELD).order_by(HOLDS.c.at.desc(), HOLDS.c.session)
        with self._database.read() as connection:
            return [Hold(**row) for row in connection.execute(query).mappings()]

    def of(self, session: str) -> Hold | None:
        """Give the hold of the session with this whole id."""
        query = sa.select(*_HOLD).where(HOLDS.c.session == session, _HELD)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
        return Hold(**row) if row else None

    def kept(self, session: str = "") -> list[Kept]:
        """List the recordings that have ended and are there, the oldest end first; of one session, if it is named."""
        table = SESSIONS.c
        held = sa.exists().where(HOLDS.c.session == table.id, _HELD)
        query = (
            sa.select(table.id, table.target, table.ended_at, table.size, held)
            .where(
                table.state != LIVE, table.ended_at.is_not(None), table.purged_at.is_(None), table.path != ""
            )
            .order_by(table.ended_at, table.id)
        )
        if session:
            query = query.where(table.id == session)
        with self._database.read() as connection:
            return [Kept(*row) for row in connection.execute(query)]

    def condemn(self, session: str, why: str) -> SessionRow | None:
        """Decide for good that a recording goes; None when it may not: it lives, is held, or was condemned before."""
        table = SESSIONS.c
        free = ~sa.exists().where(HOLDS.c.session == table.id, _HELD)
        goes = SESSIONS.update().where(
            table.id == session, table.state != LIVE, table.purged_at.is_(None), free
        )
        with self._database.write() as connection:
            _lock(connection, session)
            done = connection.execute(goes.values(purged_at=self._clock(), purged_why=why))
            if not done.rowcount:
                return None
            row = connection.execute(sa.select(SESSIONS).where(table.id == session)).mappings().one()
        return SessionRow(**row)

    def condemned(self) -> list[SessionRow]:
        """List the sessions that were condemned, and whose recordings may be there still."""
        query = sa.select(SESSIONS).where(SESSIONS.c.purged_at.is_not(None), SESSIONS.c.path != "")
        with self._database.read() as connection:
            return [SessionRow(**row) for row in connection.execute(query).mappings()]

    def gone(self, session: str) -> None:
        """Note that nothing of a condemned recording is left."""
        with self._database.write() as connection:
            connection.execute(SESSIONS.update().where(SESSIONS.c.id == session).values(path=""))


def _one(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> bool:
    return connection.execute(sa.select(sa.literal(1)).where(*conditions).limit(1)).first() is not None


def _lock(connection: sa.Connection, session: str) -> None:
    """Let nobody else decide on this session meanwhile (rule 1): SQLite's writers wait for each other anyway."""
    connection.execute(sa.select(SESSIONS.c.id).where(SESSIONS.c.id == session).with_for_update())
