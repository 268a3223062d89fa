"""The catalog: which sessions there are and were, and who is blocked from what.

Rule 1: what a method answered is on disk; a session or a block survives kill -9 and power loss.
Rule 2: every method may be called from any thread, and waits for storage: call it through `trio.to_thread`.
Rule 3: the catalog is an index, not evidence: what it says of a session can be rebuilt from the recordings.
Rule 4: times are seconds since 1970; sizes are bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import sqlalchemy as sa

from proxyd.recorder.database import CatalogError, Database
from proxyd.recorder.schema import BLOCKS, FINDINGS, SESSIONS
from proxyd.recorder.summary import Finding

LIMIT = 100  # sessions a list shows when nobody says how many: a screenful or two
NAMED_CANDIDATES = 5  # ids an ambiguous prefix is answered with: enough to choose, short enough for one line
LIVE = "live"

State = Literal["live", "ended", "recovered", "failed"]
Order = Literal["newest", "oldest", "largest"]

_BLOCK = (BLOCKS.c.user, BLOCKS.c.target, BLOCKS.c.author, BLOCKS.c.at, BLOCKS.c.reason)
_BLOCKED = BLOCKS.c.released_at.is_(None)
_NEEDED = ("id", "node", "started_at")
_UNKNOWN = dict.fromkeys(("protocol", "user", "user_ip", "target", "host", "login", "how"), "")


class NotFound(CatalogError):
    """No session has that id, or more than one begins like that."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session as the list shows it (mission M1, M10)."""

    id: str
    node: str
    protocol: str
    user: str
    user_ip: str
    target: str
    host: str
    login: str
    how: str
    started_at: float
    ended_at: float | None
    state: str
    reason: str
    by: str
    error: str
    size: int
    input_bytes: int
    output_bytes: int
    findings: int
    channels: Mapping[str, int]
    chain: str
    path: str
    purged_at: float | None
    purged_why: str
    stored_at: float | None
    reviewed_at: float | None
    reviewed_by: str


@dataclass(frozen=True, slots=True)
class Block:
    """One entry of the list of blocked users: `user` may not start sessions to `target`."""

    user: str
    target: str
    author: str
    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions a list wants; empty fields want all.

    `user` and `target` are globs (`*` any text, `?` one character; capitals differ). `since` and `until`
    bound a window: a session counts when it lived at any moment of it. `limit` None is no limit. Of those that are not
    `reviewed`, only such count as have ended.
    """

    user: str = ""
    target: str = ""
    protocol: str = ""
    state: str = ""
    reviewed: bool | None = None
    since: float | None = None
    until: float | None = None
    limit: int | None = LIMIT
    order: Order = "newest"


class Catalog:
    """Keeps sessions and blocks in a database named by a SQLAlchemy URL."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        """Open the database at `url`, made or upgraded as needed; SQLite files are made 0600.

        Raises CatalogError when it can't be opened, is damaged, or was made by a newer proxyd.
        """
        self._clock = clock
        self.database = Database(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; idempotent."""
        self.database.close()

    def started(self, row: Mapping[str, Any]) -> None:
        """Keep a session that begins, or began; `row` needs `id`, `node` and `started_at`.

        Any field of SessionRow may be there; other keys are left out (the recording's META has them). Of a session
        that is listed already the fields given are written over. Raises CatalogError for a missing field.
        """
        if missing := [name for name in _NEEDED if row.get(name) is None]:
            raise CatalogError(f"a session's catalog row lacks {', '.join(missing)}")
        given = {column.name: row[column.name] for column in SESSIONS.columns if column.name in row}
        values = {"state": LIVE} | given
        with self.database.write() as connection:
            done = connection.execute(SESSIONS.update().where(SESSIONS.c.id == row["id"]).values(values))
            if not done.rowcount:
                connection.execute(SESSIONS.insert().values(_UNKNOWN | values))

    def ended(
        self,
        id: str,  # noqa: A002  the column's own name, as callers say it
        *,
        ended_at: float,
        reason: str,
        by: str = "",
        error: str = "",
        size: int,
        input_bytes: int,
        output_bytes: int,
        chain: str | bytes,
        state: State = "ended",
        findings: int | None = None,
        found: Sequence[Finding] | None = None,
        channels: Mapping[str, int] | None = None,
    ) -> None:
        """Keep how a session ended; `chain` is the last chain value, raw or hex. May be said again.

        `findings`: how many there are, `found`: those of them that are known, `channels`: how many of which type; None
        leaves what is known of them. Raises NotFound for an unknown id.
        """
        values: dict[str, Any] = {
            "ended_at": ended_at,
            "reason": reason,
            "by": by,
            "error": error,
            "size": size,
            "input_bytes": input_bytes,
            "output_bytes": output_bytes,
            "chain": chain.hex() if isinstance(chain, bytes) else chain,
            "state": state,
        }
        if findings is not None:
            values["findings"] = findings
        if channels is not None:
            values["channels"] = dict(channels)
        rows = [one._asdict() | {"session": id, "n": n} for n, one in enumerate(found or ())]
        with self.database.write() as connection:
            _update(connection, id, values)
            if found is not None:
                connection.execute(FINDINGS.delete().where(FINDINGS.c.session == id))
            if rows:
                connection.execute(FINDINGS.insert(), rows)

    def findings(self, id: str) -> list[Finding]:  # noqa: A002  as in `ended`
        """List the findings of the ended session with this whole id, in order."""
        columns = [FINDINGS.c[name] for name in Finding._fields]
        query = sa.select(*columns).where(FINDINGS.c.session == id).order_by(FINDINGS.c.n)
        with self.database.read() as connection:
            return [Finding(*row) for row in connection.execute(query)]

    def found(self, id: str, count: int = 1) -> None:  # noqa: A002  as in `ended`
        """Add `count` to a session's findings. Raises NotFound for an unknown id."""
        with self.database.write() as connection:
            _update(connection, id, {"findings": SESSIONS.c.findings + count})

    def sessions(self, wanted: SessionFilter | None = None) -> list[SessionRow]:
        """List the sessions a filter wants, in its order."""
        wanted = wanted or SessionFilter()
        query = sa.select(SESSIONS).where(*_conditions(wanted)).order_by(*_ORDERS[wanted.order])
        with self.database.read() as connection:
            return [SessionRow(**row) for row in connection.execute(query.limit(wanted.limit)).mappings()]

    def session(self, id: str) -> SessionRow:  # noqa: A002  as in `ended`
        """Give the session with this id, or the only one whose id begins so. Raises NotFound."""
        if not id:
            raise NotFound("no session id given")
        begins = SESSIONS.c.id.startswith(id, autoescape=True)
        query = sa.select(SESSIONS).where(begins).order_by(SESSIONS.c.id).limit(NAMED_CANDIDATES + 1)
        with self.database.read() as connection:
            rows = [SessionRow(**row) for row in connection.execute(query).mappings()]
        if not rows:
            raise NotFound(f"no session {id}")
        if len(rows) > 1 and rows[0].id != id:  # a whole id sorts before any longer one
            names = ", ".join(row.id for row in rows[:NAMED_CANDIDATES])
            more = ", ..." if len(rows) > NAMED_CANDIDATES else ""
            raise NotFound(f"{id} is the beginning of more than one session: {names}{more}")
        return rows[0]

    def block(self, user: str, target: str, by: str, reason: str = "") -> Block:
        """Put a user on the list of blocked users; the newest author of a pair is the one that is named."""
        entry = Block(user, target, by, self._clock(), reason)
        values = {"author": by, "at": entry.at, "reason": reason, "released_at": None, "released_by": None}
        with self.database.write() as connection:
            if not connection.execute(BLOCKS.update().where(*_pair(user, target)).values(values)).rowcount:
                connection.execute(BLOCKS.insert().values(user=user, target=target, **values))
        return entry

    def unblock(self, user: str, target: str, by: str) -> bool:
        """Take a user off the list, keeping who did it and when; False when they were not on it."""
        values = {"released_at": self._clock(), "released_by": by}
        release = BLOCKS.update().where(*_pair(user, target), _BLOCKED).values(values)
        with self.database.write() as connection:
            return bool(connection.execute(release).rowcount)

    def blocks(self) -> list[Block]:
        """List the blocked users, newest first."""
        query = sa.select(*_BLOCK).where(_BLOCKED).order_by(BLOCKS.c.at.desc(), BLOCKS.c.user)
        with self.database.read() as connection:
            return [Block(**row) for row in connection.execute(query).mappings()]

    def blocked(self, user: str, target: str) -> Block | None:
        """Say who blocked this user from this target and when, or None."""
        query = sa.select(*_BLOCK).where(*_pair(user, target), _BLOCKED)
        with self.database.read() as connection:
            row = connection.execute(query).mappings().first()
        return Block(**row) if row else None


def _update(connection: sa.Connection, session_id: str, values: Mapping[str, Any]) -> None:
    done = connection.execute(SESSIONS.update().where(SESSIONS.c.id == session_id).values(values))
    if not done.rowcount:
        raise NotFound(f"no session {session_id}")


def _pair(user: str, target: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (BLOCKS.c.user == user, BLOCKS.c.target == target)


def _conditions(wanted: SessionFilter) -> Iterator[sa.ColumnElement[bool]]:
    table = SESSIONS.c
    if wanted.user:
        yield table.user.like(_as_like(wanted.user), escape="\\")
    if wanted.target:
        yield table.target.like(_as_like(wanted.target), escape="\\")
    if wanted.protocol:
        yield table.protocol == wanted.protocol
    if wanted.state:
        yield table.state == wanted.state
    if wanted.reviewed:
        yield table.reviewed_at.is_not(None)
    elif wanted.reviewed is False:
        yield sa.and_(table.reviewed_at.is_(None), table.ended_at.is_not(None), table.purged_at.is_(None))
    if wanted.since is not None:
        yield sa.or_(table.ended_at.is_(None), table.ended_at >= wanted.since)
    if wanted.until is not None:
        yield table.started_at <= wanted.until


_LIKE = {ord("\\"): "\\\\", ord("%"): "\\%", ord("_"): "\\_", ord("*"): "%", ord("?"): "_"}


def _as_like(glob: str) -> str:
    return glob.translate(_LIKE)


_ORDERS: dict[Order, tuple[sa.ColumnElement[Any], ...]] = {
    "newest": (SESSIONS.c.started_at.desc(), SESSIONS.c.id),
    "oldest": (SESSIONS.c.started_at, SESSIONS.c.id),
    "largest": (SESSIONS.c.size.desc(), SESSIONS.c.id),
}
