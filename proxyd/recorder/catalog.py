"""The catalog: which sessions there are and were, and who is blocked from what.

Rule 1: what a method answered is on disk; a session or a block survives kill -9 and power loss.
Rule 2: every method may be called from any thread, and waits for storage: call it through `trio.to_thread`.
Rule 3: the catalog is an index, not evidence: what it says of a session can be rebuilt from the recordings.
Rule 4: opening brings an older database to this program's schema, and refuses a newer one untouched.
Rule 5: times are seconds since 1970; sizes are bytes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from proxyd.errors import ProxydError

MIGRATIONS = "proxyd.recorder:migrations"
BUSY_MS = (
    10_000  # a writer of another process (a backup, a shell) may hold SQLite this long before we give up
)
LIMIT = 100  # sessions a list shows when nobody says how many: a screenful or two
NAMED_CANDIDATES = 5  # ids an ambiguous prefix is answered with: enough to choose, short enough for one line
LIVE = "live"

State = Literal["live", "ended", "recovered", "failed"]
Order = Literal["newest", "oldest", "largest"]

_schema = sa.MetaData()
_sessions = sa.Table(
    "sessions",
    _schema,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("node", sa.Text),
    sa.Column("protocol", sa.Text),
    sa.Column("user", sa.Text),
    sa.Column("user_ip", sa.Text),
    sa.Column("target", sa.Text),
    sa.Column("host", sa.Text),
    sa.Column("login", sa.Text),
    sa.Column("how", sa.Text),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("state", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("by", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("size", sa.BigInteger),
    sa.Column("input_bytes", sa.BigInteger),
    sa.Column("output_bytes", sa.BigInteger),
    sa.Column("findings", sa.Integer),
    sa.Column("channels", sa.JSON),
    sa.Column("chain", sa.Text),
    sa.Column("path", sa.Text),
)
_blocks = sa.Table(
    "blocks",
    _schema,
    sa.Column("user", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, primary_key=True),
    sa.Column("author", sa.Text),
    sa.Column("at", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("released_at", sa.Double),
    sa.Column("released_by", sa.Text),
)
_BLOCK = (_blocks.c.user, _blocks.c.target, _blocks.c.author, _blocks.c.at, _blocks.c.reason)
_BLOCKED = _blocks.c.released_at.is_(None)
_NEEDED = ("id", "node", "started_at")
_UNKNOWN = dict.fromkeys(("protocol", "user", "user_ip", "target", "host", "login", "how"), "")
_opening = threading.Lock()  # alembic keeps its context in a module: one catalog opens at a time


class CatalogError(ProxydError):
    """The catalog's storage failed, or is not what this program can use."""


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
    bound a window: a session counts when it lived at any moment of it. `limit` None is no limit.
    """

    user: str = ""
    target: str = ""
    protocol: str = ""
    state: str = ""
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
        self._writing = (
            threading.Lock()
        )  # writers of this process queue here, fairly, not in SQLite's busy loop
        try:
            self._url = sa.make_url(url)
        except SQLAlchemyError:
            raise CatalogError("the catalog's address is no database URL") from None
        if self._url.get_backend_name() == "sqlite":
            _make_private(self._url)
        self._engine = sa.create_engine(self._url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _on_sqlite_connect)
            sa.event.listen(self._engine, "begin", _on_sqlite_begin)
        self._reading = self._engine.execution_options(proxyd_reads=True)
        try:
            self._upgrade()
        except BaseException:
            self._engine.dispose()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; idempotent."""
        self._engine.dispose()

    def started(self, row: Mapping[str, Any]) -> None:
        """Keep a session that begins, or began; `row` needs `id`, `node` and `started_at`.

        Any field of SessionRow may be there; other keys are left out (the recording's META has them). Of a session
        that is listed already the fields given are written over. Raises CatalogError for a missing field.
        """
        if missing := [name for name in _NEEDED if row.get(name) is None]:
            raise CatalogError(f"a session's catalog row lacks {', '.join(missing)}")
        given = {column.name: row[column.name] for column in _sessions.columns if column.name in row}
        values = {"state": LIVE} | given
        with self._write() as connection:
            done = connection.execute(_sessions.update().where(_sessions.c.id == row["id"]).values(values))
            if not done.rowcount:
                connection.execute(_sessions.insert().values(_UNKNOWN | values))

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
        channels: Mapping[str, int] | None = None,
    ) -> None:
        """Keep how a session ended; `chain` is the last chain value, raw or hex. May be said again.

        `findings` and `channels` None leave what is known of them. Raises NotFound for an unknown id.
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
        self._update(id, values)

    def found(self, id: str, count: int = 1) -> None:  # noqa: A002  as in `ended`
        """Add `count` to a session's findings. Raises NotFound for an unknown id."""
        self._update(id, {"findings": _sessions.c.findings + count})

    def sessions(self, wanted: SessionFilter | None = None) -> list[SessionRow]:
        """List the sessions a filter wants, in its order."""
        wanted = wanted or SessionFilter()
        query = sa.select(_sessions).where(*_conditions(wanted)).order_by(*_ORDERS[wanted.order])
        with self._read() as connection:
            return [SessionRow(**row) for row in connection.execute(query.limit(wanted.limit)).mappings()]

    def session(self, id: str) -> SessionRow:  # noqa: A002  as in `ended`
        """Give the session with this id, or the only one whose id begins so. Raises NotFound."""
        if not id:
            raise NotFound("no session id given")
        begins = _sessions.c.id.startswith(id, autoescape=True)
        query = sa.select(_sessions).where(begins).order_by(_sessions.c.id).limit(NAMED_CANDIDATES + 1)
        with self._read() as connection:
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
        with self._write() as connection:
            if not connection.execute(_blocks.update().where(*_pair(user, target)).values(values)).rowcount:
                connection.execute(_blocks.insert().values(user=user, target=target, **values))
        return entry

    def unblock(self, user: str, target: str, by: str) -> bool:
        """Take a user off the list, keeping who did it and when; False when they were not on it."""
        values = {"released_at": self._clock(), "released_by": by}
        release = _blocks.update().where(*_pair(user, target), _BLOCKED).values(values)
        with self._write() as connection:
            return bool(connection.execute(release).rowcount)

    def blocks(self) -> list[Block]:
        """List the blocked users, newest first."""
        query = sa.select(*_BLOCK).where(_BLOCKED).order_by(_blocks.c.at.desc(), _blocks.c.user)
        with self._read() as connection:
            return [Block(**row) for row in connection.execute(query).mappings()]

    def blocked(self, user: str, target: str) -> Block | None:
        """Say who blocked this user from this target and when, or None."""
        query = sa.select(*_BLOCK).where(*_pair(user, target), _BLOCKED)
        with self._read() as connection:
            row = connection.execute(query).mappings().first()
        return Block(**row) if row else None

    def _update(self, session_id: str, values: Mapping[str, Any]) -> None:
        with self._write() as connection:
            done = connection.execute(_sessions.update().where(_sessions.c.id == session_id).values(values))
            if not done.rowcount:
                raise NotFound(f"no session {session_id}")

    def _upgrade(self) -> None:
        config = AlembicConfig()
        config.set_main_option("script_location", MIGRATIONS)
        config.set_main_option("path_separator", "os")
        with _opening, self._write() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                shown = self._url.render_as_string(hide_password=True)
                raise CatalogError(
                    f"the catalog {shown} was made by a newer proxyd; nothing was changed"
                ) from None

    @contextlib.contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._writing, _storage_errors(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with _storage_errors(), self._reading.begin() as connection:
            yield connection


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Fold the driver's errors into ours; SQL and its parameters stay out of the text."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or type(error).__name__
        raise CatalogError(f"the catalog's storage failed: {cause}") from error


def _make_private(url: sa.URL) -> None:
    if not url.database or url.database == ":memory:":
        raise CatalogError("the catalog needs a file: a database in memory is gone with the daemon")
    path = Path(url.database)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # -wal and -shm take its mode
    except OSError as error:
        raise CatalogError(f"the catalog {path} can't be opened: {error.strerror}") from error


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = (
        None  # transactions begin where `_on_sqlite_begin` says, not at the driver's guess
    )
    for setting in (
        "journal_mode = WAL",
        f"busy_timeout = {BUSY_MS}",
        "foreign_keys = ON",
        "synchronous = FULL",
        "case_sensitive_like = ON",  # as PostgreSQL, so that a glob means the same everywhere
    ):
        connection.execute(f"PRAGMA {setting}")


def _on_sqlite_begin(connection: sa.Connection) -> None:
    # A writer that began as a reader can meet SQLITE_BUSY at once, whatever the timeout.
    reads = connection.get_execution_options().get("proxyd_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _pair(user: str, target: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (_blocks.c.user == user, _blocks.c.target == target)


def _conditions(wanted: SessionFilter) -> Iterator[sa.ColumnElement[bool]]:
    table = _sessions.c
    if wanted.user:
        yield table.user.like(_as_like(wanted.user), escape="\\")
    if wanted.target:
        yield table.target.like(_as_like(wanted.target), escape="\\")
    if wanted.protocol:
        yield table.protocol == wanted.protocol
    if wanted.state:
        yield table.state == wanted.state
    if wanted.since is not None:
        yield sa.or_(table.ended_at.is_(None), table.ended_at >= wanted.since)
    if wanted.until is not None:
        yield table.started_at <= wanted.until


_LIKE = {ord("\\"): "\\\\", ord("%"): "\\%", ord("_"): "\\_", ord("*"): "%", ord("?"): "_"}


def _as_like(glob: str) -> str:
    return glob.translate(_LIKE)


_ORDERS: dict[Order, tuple[sa.ColumnElement[Any], ...]] = {
    "newest": (_sessions.c.started_at.desc(), _sessions.c.id),
    "oldest": (_sessions.c.started_at, _sessions.c.id),
    "largest": (_sessions.c.size.desc(), _sessions.c.id),
}
