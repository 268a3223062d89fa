"""The database behind the catalog: opened, brought to this program's schema, read and written by threads.

Rule 1: what was written is on disk when `write` ends, whole or not at all; it survives kill -9 and power loss.
Rule 2: everything may be called from any thread, and waits for storage: call it through `trio.to_thread`.
Rule 3: opening brings an older database to this program's schema, and refuses a newer one untouched.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
_UPGRADING = 0x70726F787964  # "proxyd": what its upgrades of one PostgreSQL database wait for
_opening = threading.Lock()  # alembic keeps its context in a module: one catalog opens at a time


class CatalogError(ProxydError):
    """The catalog's storage failed, or is not what this program can use."""


class Database:
    """One database, named by a SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        """Open the database at `url`, made or upgraded as needed; SQLite files are made 0600.

        Raises CatalogError when it can't be opened, is damaged, or was made by a newer proxyd.
        """
        self._writing = (
            threading.Lock()
        )  # writers of this process queue here, fairly, not in SQLite's busy loop
        try:
            self._url = sa.make_url(url)
        except SQLAlchemyError:
            raise CatalogError("the catalog's address is no database URL") from None
        if self._url.get_backend_name() == "sqlite":
            _make_private(self._url)
        try:
            self._engine = sa.create_engine(self._url, pool_pre_ping=True)
        except (ModuleNotFoundError, SQLAlchemyError):
            name = self._url.drivername
            raise CatalogError(
                f"the catalog's database can't be reached by {name}: use sqlite:///FILE, or postgresql+psycopg:// with "
                "pip install 'proxyd[postgresql]'"
            ) from None
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _on_sqlite_connect)
            sa.event.listen(self._engine, "begin", _on_sqlite_begin)
        self._reads = self._engine.execution_options(proxyd_reads=True)
        try:
            self._upgrade()
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close every connection; idempotent."""
        self._engine.dispose()

    def _upgrade(self) -> None:
        config = AlembicConfig()
        config.set_main_option("script_location", MIGRATIONS)
        config.set_main_option("path_separator", "os")
        with _opening, self.write() as connection:
            if connection.dialect.name == "postgresql":  # nodes that start at once would make the same tables
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADING)))
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                shown = self._url.render_as_string(hide_password=True)
                raise CatalogError(
                    f"the catalog {shown} was made by a newer proxyd; nothing was changed"
                ) from None

    def ask(self) -> None:
        """Return when the database answers. Raises CatalogError."""
        with self.read() as connection:
            connection.execute(sa.select(1))

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection for one transaction, committed at its end. Raises CatalogError."""
        with self._writing, _storage_errors(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one state of the database. Raises CatalogError."""
        with _storage_errors(), self._reads.begin() as connection:
            yield connection


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Fold the driver's errors into ours; SQL and its parameters stay out of the text."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or type(error).__name__
        told = str(cause).partition("\n")[0]  # libpq gives advice for others below
        raise CatalogError(f"the catalog's storage failed: {told}") from error


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
