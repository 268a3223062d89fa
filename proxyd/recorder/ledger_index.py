"""Where in a ledger the views of a session are: asking who saw one reads those entries, not the whole ledger.

Rule 1: it is never evidence: what it says is looked up in the ledger, and it is made anew from there when it is missing,
        damaged, or of a ledger that has changed under it.
Rule 2: an answer is what reading the whole ledger would give: the index is brought up to the ledger's end first.
Rule 3: memory holds a batch of lines at most, however long the ledger.
Rule 4: it belongs to the process that writes the ledger; any of its threads may ask, one at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

INDEXED: Final = "view"  # the kind of entry that is looked up
DAMAGED: Final = ""  # instead of a session: a line that says of no session whether it is about it
BATCH: Final = 1000  # lines of one transaction: some hundred kilobytes
VERSION: Final = 1  # of the tables: a file of another one is made anew
FILE_MODE: Final = 0o600  # as the ledger's: it names sessions

_TABLES: Final = f"""
CREATE TABLE views (session TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (session, offset)) WITHOUT ROWID;
CREATE TABLE place (last INTEGER NOT NULL, end INTEGER NOT NULL, hash BLOB NOT NULL);
PRAGMA user_version = {VERSION};
"""
_NEWEST: Final = "SELECT offset FROM views WHERE session IN (?, ?) ORDER BY offset DESC LIMIT ?"


class _Place(NamedTuple):
    """How far the ledger is indexed: where its last indexed line begins and ends, and that line's SHA-256."""

    last: int = 0
    end: int = 0
    hash: bytes = hashlib.sha256(b"").digest()


class Unindexed(Exception):
    """The index can't be kept; the ledger has it all."""


class LedgerIndex:
    """The index of one ledger, in a file beside it."""

    def __init__(self, ledger: Path, longest: int) -> None:
        """Prepare the index of the ledger at `ledger`, of lines of at most `longest` bytes; nothing is read yet."""
        self._ledger, self._longest = ledger, longest
        self._path = ledger.with_name(ledger.name + ".views")
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the file; idempotent."""
        with self._lock:
            self._shut()

    def newest(self, session: str, limit: int) -> list[bytes]:
        """Give the newest lines that may be views of this session, oldest first; -1: all of them.

        Raises Unindexed, OSError when the ledger can't be read.
        """
        with self._lock:
            try:
                return self._newest(session, limit)
            except sqlite3.DatabaseError:
                self._discard()  # rule 1
            try:
                return self._newest(session, limit)
            except sqlite3.Error as error:
                self._shut()
                raise Unindexed(str(error)) from error

    def _newest(self, session: str, limit: int) -> list[bytes]:
        with self._ledger.open("rb") as ledger:
            database = self._opened(ledger)
            self._catch_up(database, ledger)
            offsets = [row[0] for row in database.execute(_NEWEST, (session, DAMAGED, limit))]
            lines = []
            for offset in reversed(offsets):
                ledger.seek(offset)
                lines.append(ledger.readline(self._longest))
        return lines

    # ------------------------------------------------------------------ the file

    def _opened(self, ledger: Any) -> sqlite3.Connection:
        """Give the database, made anew when it is not this ledger's."""
        if self._database is None:
            self._database = self._connect()
            if not self._is_of(ledger, _place_of(self._database)):
                self._discard()
                self._database = self._connect()
        return self._database

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")  # after power loss older, never torn
            _make_tables(database)
        except BaseException:
            database.close()
            raise
        return database

    def _shut(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None

    def _discard(self) -> None:
        with suppress(sqlite3.Error):
            self._shut()
        self._database = None
        for end in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    # ------------------------------------------------------------------ what it holds

    def _is_of(self, ledger: Any, place: _Place) -> bool:
        """Tell whether the ledger still has, where it was, the line that was indexed last."""
        ledger.seek(max(place.last, 0))
        line = ledger.read(min(max(place.end - place.last, 0), self._longest))
        return hashlib.sha256(line).digest() == place.hash

    def _catch_up(self, database: sqlite3.Connection, ledger: Any) -> None:
        """Index what was appended since; a line that is being written is for the next time."""
        lines = self._whole_lines(ledger, _place_of(database).end)
        while group := list(islice(lines, BATCH)):
            found = [(session, offset) for offset, line in group if (session := _viewed(line)) is not None]
            offset, line = group[-1]
            place = _Place(offset, offset + len(line), hashlib.sha256(line).digest())
            database.execute("BEGIN IMMEDIATE")
            try:
                database.executemany("INSERT INTO views VALUES (?, ?)", found)
                database.execute("DELETE FROM place")
                database.execute("INSERT INTO place VALUES (?, ?, ?)", place)
                database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise

    def _whole_lines(self, ledger: Any, begin: int) -> Iterator[tuple[int, bytes]]:
        """Yield the lines from `begin` on, each with its offset; one too long to be an entry in pieces."""
        offset = begin
        ledger.seek(begin)
        while (line := ledger.readline(self._longest)).endswith(b"\n") or len(line) == self._longest:
            yield offset, line
            offset += len(line)


def _make_tables(database: sqlite3.Connection) -> None:
    """Make what an empty file lacks. Raises DatabaseError for a file of another version."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        database.executescript(f"BEGIN;{_TABLES}COMMIT;")
    elif version != VERSION:
        raise sqlite3.DatabaseError("the index is of another version")


def _place_of(database: sqlite3.Connection) -> _Place:
    row = database.execute("SELECT last, end, hash FROM place").fetchone()
    return _Place(*row) if row else _Place()


def _viewed(line: bytes) -> str | None:
    """Give the session an entry says was seen; DAMAGED for what is no entry, None for one about something else."""
    try:
        entry = json.loads(line)
        session = entry["fields"].get("session") if entry["kind"] == INDEXED else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return DAMAGED
    return session if isinstance(session, str) and session else None
