"""The search index: which words were in which session, and when. One SQLite file, encrypted, of the node's own.

Rule 1: it is never evidence, and holds no recording: it is FTS5 without content, so words and where they stand, folded; a
        hit is a session, a moment and a source, and its text is read from the recording by who may open that.
Rule 2: the file is encrypted page by page (SQLite3 Multiple Ciphers, ChaCha20-Poly1305) under a key that the daemon is given
        at its start. Who has the disk and not the key learns its size, no word and no session. Who has both can put together
        nearly all that was typed and shown: with a key that is kept on the same disk, encrypt the disk.
Rule 3: what is purged is gone for searches when `forget` returns, and never comes back; the last traces of its words leave
        the file with the next `compact`.
Rule 4: every method may be called from any thread, and waits for storage: call it through `trio.to_thread`. Another process
        may write meanwhile (`proxyd index`): a write waits for it, BUSY_MS at most.
Rule 5: a text of a number that is there already is the same text, and left alone: `proxyd index` and the daemon may write
        one session at once. To write a session anew, `begin` it again.

A row's number is its session's number and the text's: sessions are numbered by the second they began in, counted backwards,
so rows in order are the newest session first, and a session's rows stand together. Times are seconds since 1970, but `*_us`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from queue import LifoQueue
from types import TracebackType
from typing import Final, NamedTuple, Self

import apsw

from proxyd.errors import ProxydError
from proxyd.recorder.store import FILE_MODE
from proxyd.search import SOURCES
from proxyd.search.query import Query
from proxyd.search.texts import Text

VERSION: Final = 1  # of the tables: a file of another one is made anew
BUSY_MS: Final = 10_000
READERS: Final = 2  # searches at once; each is milliseconds
KEY_LEAST: Final = 16  # bytes: what is shorter is a password somebody thought of
DELETED_AT_ONCE: Final = 5_000  # rows in one transaction, some 0.1 s: others write between two
MERGED_AT_ONCE: Final = 500  # pages that one step of `compact` reads and writes: some 20 ms
MERGED: Final = 2  # changes at least, where a step of a merge has done anything (FTS5's manual, 6.6)
FREED_AT_ONCE: Final = 2_000  # pages that one step gives back to the file system
SEARCH_S: Final = 10.0  # for one search; those that were measured take a hundredth of it
_EPOCH: Final = 1_577_836_800  # 2020-01-01: sessions' numbers count seconds from here, 31 bits of them
_SECONDS: Final = (1 << 31) - 2  # in the year 2088
_BUSY: Final = 1 << 16  # of these numbers are left at the end for sessions that began in the same second
_ROWS: Final = 32  # bits of a row's number that count the texts of its session
LEARNED: Final = 100  # sessions that are looked up at once
LEAP: Final = 500  # rows that are passed over before a search is begun anew behind them, which costs as much
CACHE_KIB: Final = 32 << 10  # of pages a reader keeps, so that it need not decrypt them again
_PROBE: Final = 64  # rows, then the time is looked at

LIVE, WHOLE, GONE = 0, 1, 2  # of a session's texts: more may come, all are here, purged

_TABLES: Final = f"""
CREATE TABLE sessions (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, protocol TEXT NOT NULL, user TEXT NOT NULL,
    target TEXT NOT NULL, login TEXT NOT NULL, began REAL NOT NULL, ended REAL NOT NULL, state INTEGER NOT NULL);
CREATE TABLE traces (at REAL NOT NULL);
CREATE TABLE texts (row INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, source INTEGER NOT NULL);
CREATE VIRTUAL TABLE words USING fts5({", ".join(SOURCES)}, content='', contentless_delete=1, prefix='3',
    tokenize='unicode61 remove_diacritics 2');
PRAGMA user_version = {VERSION};
"""


_WANTED: Final = """
SELECT number, id, protocol, user, target, login, began FROM sessions
    WHERE number >= :first AND state <> :gone
    AND user GLOB :user AND target GLOB :target AND protocol GLOB :protocol
    AND (:since IS NULL OR ended >= :since) AND (:until IS NULL OR began <= :until)
    ORDER BY number LIMIT :count
"""


class SearchError(ProxydError):
    """The search index can't be opened, read or written, or a search took too long."""


class About(NamedTuple):
    """Whose session it is, and when it began."""

    id: str
    protocol: str
    user: str
    target: str
    login: str
    started_at: float


class Wanted(NamedTuple):
    """Which hits: from these sources; `user` and `target` are globs; empty fields want all.

    `since` and `until` bound the moment of the text itself. At most `limit` hits, `each` of one session (0: no bound).
    """

    sources: Sequence[str] = SOURCES
    user: str = ""
    target: str = ""
    protocol: str = ""
    since: float | None = None
    until: float | None = None
    limit: int = 100
    each: int = 0


class Hit(NamedTuple):
    """A text that fits: its session, and its number, time and source there."""

    session: About
    number: int
    at_us: int
    source: str

    @property
    def at(self) -> float:
        """Give the moment, seconds since 1970."""
        return self.session.started_at + self.at_us / 1e6


class Found(NamedTuple):
    """Hits, the newest session first and its first text first; `more`: there were more than were wanted."""

    hits: list[Hit]
    more: bool


class SearchIndex:
    """One index file, open."""

    def __init__(self, path: Path, key: bytes) -> None:
        """Open it, made if it is not there; raises SearchError."""
        if len(key.strip()) < KEY_LEAST:
            raise SearchError(f"the key of the search index has fewer than {KEY_LEAST} bytes")
        self.path = path
        self._key = sha256(b"proxyd search\0" + key.strip()).hexdigest()
        self._writing = threading.Lock()
        self._readers = LifoQueue[apsw.Connection]()
        with _told(path):
            self._writer = self._open()
            try:
                self._prepare()
                for _ in range(READERS):
                    self._readers.put(self._open())
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it; idempotent."""
        self._writer.close()
        while not self._readers.empty():
            self._readers.get().close()

    def _open(self) -> apsw.Connection:
        private = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(self.path, private, FILE_MODE))  # -wal and -shm take its mode
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(BUSY_MS)
        connection.pragma("key", f"raw:{self._key}")
        connection.pragma("auto_vacuum", "incremental")  # of a new file: pages can be given back
        connection.pragma("journal_mode", "wal")
        connection.pragma(
            "synchronous", "normal"
        )  # a machine's crash may cost the last moments: it is derived
        connection.pragma("secure_delete", True)
        connection.pragma("cache_size", -CACHE_KIB)
        return connection

    def _prepare(self) -> None:
        version = self._writer.pragma("user_version")
        if version == VERSION:
            return
        with self._transaction():
            for name, kind in list(self._writer.execute("SELECT name, type FROM sqlite_schema")):
                if name in {"sessions", "texts", "traces", "words"} and kind == "table":
                    self._writer.execute(f"DROP TABLE {name}")
            self._writer.execute(_TABLES)

    # ------------------------------------------------------------------ what comes in

    def begin(self, about: About) -> bool:
        """Take a session's texts from its beginning, whatever was here of it; False when it was purged."""
        with self._writing, _told(self.path):
            known = self._row(about.id)
            if known is not None:
                number, state = known
                if state == GONE:
                    return False
                self._clear(number)
                with self._transaction():
                    self._writer.execute("UPDATE sessions SET state = ? WHERE number = ?", (LIVE, number))
                return True
            with self._transaction():
                self._insert(about, LIVE)
            return True

    def write(self, texts: Mapping[str, Sequence[Text]]) -> None:
        """Take the next texts of sessions, by their ids; those of a session that was purged, or never begun, are dropped."""
        with self._writing, _told(self.path):
            known = {session: self._row(session) for session in texts}
            numbered = sorted(
                (row[0], name) for name, row in known.items() if row is not None and row[1] != GONE
            )
            with self._transaction():
                for number, name in numbered:
                    self._add(number, texts[name])

    def _add(self, number: int, texts: Sequence[Text]) -> None:
        first, last_us = number << _ROWS, 0
        for text in texts:
            row, last_us = first + text.number, max(last_us, text.at_us)
            column = SOURCES.index(text.source)
            self._writer.execute("INSERT OR IGNORE INTO texts VALUES (?, ?, ?)", (row, text.at_us, column))
            if not self._writer.changes():
                continue  # rule 5
            columns = [text.text if place == column else None for place in range(len(SOURCES))]
            self._writer.execute(
                "INSERT INTO words(rowid, commands, screen, sql, keys, titles, transfers, findings) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (row, *columns),
            )
        ended = "UPDATE sessions SET ended = max(ended, began + ?) WHERE number = ?"
        self._writer.execute(ended, (last_us / 1e6, number))

    def finish(self, session: str) -> None:
        """Note that all texts of a session are here."""
        self._set_state(session, WHOLE)

    def forget(self, session: str) -> None:
        """Remove a session for good (rule 3)."""
        with self._writing, _told(self.path):
            known = self._row(session)
            with self._transaction():
                if known is None:
                    self._insert(About(session, "", "", "", "", time.time()), GONE)
                    return
                nobody = "UPDATE sessions SET state = ?, protocol = '', user = '', target = '', login = '' WHERE number = ?"
                self._writer.execute(nobody, (GONE, known[0]))
                self._writer.execute(
                    "INSERT INTO traces SELECT ? WHERE NOT EXISTS (SELECT 1 FROM traces)", (time.time(),)
                )
            self._clear(known[0])

    def traces_since(self) -> float | None:
        """Say since when there may be traces of what was purged in the file; None: there are none."""
        with self._reader() as reader:
            at: float | None = reader.execute("SELECT min(at) FROM traces").get
            return at

    def compact(self) -> None:
        """Take all traces of texts that were removed out of the file; others write between its steps."""
        first = True
        while not self.compact_step(first):
            first = False

    def compact_step(self, first: bool) -> bool:  # noqa: FBT001 - called through a thread
        """Do a moment's work of `compact`; True when there is no more to do now."""
        with self._writing, _told(self.path):
            before = self._writer.total_changes()
            step = -MERGED_AT_ONCE if first else MERGED_AT_ONCE  # the first begins a merge of all there is
            with self._transaction():
                self._writer.execute("INSERT INTO words(words, rank) VALUES ('merge', ?)", (step,))
            if self._writer.total_changes() - before >= MERGED:
                return False
            if self._writer.pragma("freelist_count"):
                self._writer.pragma("incremental_vacuum", FREED_AT_ONCE)
                return False
            self._clean()
            return True

    def _clean(self) -> None:
        """Take what was overwritten out of the write-ahead log too, unless a search is in the way: then another time."""
        with suppress(apsw.BusyError):
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            with self._transaction():
                self._writer.execute("DELETE FROM traces")

    def states(self) -> dict[str, int]:
        """Give the state of every session that is known."""
        with self._reader() as reader:
            return dict(reader.execute("SELECT id, state FROM sessions"))

    def _set_state(self, session: str, state: int) -> None:
        with self._writing, _told(self.path), self._transaction():
            values = (state, session, GONE)
            self._writer.execute("UPDATE sessions SET state = ? WHERE id = ? AND state <> ?", values)

    def _row(self, session: str) -> tuple[int, int] | None:
        found = "SELECT number, state FROM sessions WHERE id = ?"
        row: tuple[int, int] | None = self._writer.execute(found, (session,)).get
        return row

    def _insert(self, about: About, state: int) -> None:
        number = _SECONDS - min(max(int(about.started_at) - _EPOCH, 0), _SECONDS - _BUSY)
        taken = "SELECT 1 FROM sessions WHERE number = ?"
        while self._writer.execute(taken, (number,)).get:
            number -= 1
        ended = about.started_at
        self._writer.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (number, *about, ended, state)
        )

    def _clear(self, number: int) -> None:
        """Remove a session's rows, some at once."""
        span = (number << _ROWS, (number + 1) << _ROWS, DELETED_AT_ONCE)
        some = "SELECT row FROM texts WHERE row >= ? AND row < ? LIMIT ?"
        while rows := list(self._writer.execute(some, span)):
            with self._transaction():
                self._writer.executemany("DELETE FROM words WHERE rowid = ?", rows)
                self._writer.executemany("DELETE FROM texts WHERE row = ?", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise
        self._writer.execute("COMMIT")

    # ------------------------------------------------------------------ what is asked

    def search(
        self, query: Query, wanted: Wanted, may_see: Callable[[About], bool] = lambda _: True
    ) -> Found:
        """Give the hits in sessions that `may_see` allows; nothing else of the others shows. Raises SearchError."""
        with self._reader() as reader:
            return _Search(reader, query, wanted, may_see).found()

    @contextmanager
    def _reader(self) -> Iterator[apsw.Connection]:
        with _told(self.path):
            reader = self._readers.get(timeout=BUSY_MS / 1000)
            try:
                yield reader
            finally:
                self._readers.put(reader)


class _Search:
    """One search: goes from the newest session to the oldest, and leaps over those that nobody wants or may see.

    Cursors that were not read to their end are closed: one that is open keeps writers from cleaning up.
    """

    def __init__(
        self, reader: apsw.Connection, query: Query, wanted: Wanted, may_see: Callable[[About], bool]
    ) -> None:
        self._reader, self._wanted, self._may_see = reader, wanted, may_see
        columns = " ".join(source for source in SOURCES if source in wanted.sources)
        self._match = f"{{{columns}}} : ({query.expression()})"
        self._deadline = time.monotonic() + SEARCH_S
        self._asked = {
            "gone": GONE,
            "user": _glob(wanted.user),
            "target": _glob(wanted.target),
            "protocol": _glob(wanted.protocol),
            "since": wanted.since,
            "until": wanted.until,
        }
        self._known: dict[int, About] = {}  # the sessions that are wanted, of those up to `_known_to`
        self._known_to = -1
        self._hits: list[Hit] = []
        self._more = False

    def found(self) -> Found:
        """Give the hits."""
        begin: int | None = 0
        while begin is not None and (number := self._first(begin)) is not None:
            begin = self._read(number)
        return Found(self._hits[: self._wanted.limit], self._more or self._full)

    @property
    def _full(self) -> bool:
        return len(self._hits) > self._wanted.limit

    def _read(self, number: int) -> int | None:
        """Read rows from the beginning of this session on; gives the number to go on from, None at the end."""
        rows = "SELECT rowid FROM words WHERE words MATCH ? AND rowid >= ? ORDER BY rowid"
        with closing(self._reader.cursor()) as cursor:
            return self._walk(cursor.execute(rows, (self._match, number << _ROWS)))

    def _walk(self, rows: apsw.Cursor) -> int | None:
        number, about = -1, None
        mine = passed = 0
        for count, (row,) in enumerate(rows):
            if count % _PROBE == 0 and time.monotonic() > self._deadline:
                raise SearchError(
                    f"the search took more than {SEARCH_S:g} s: add a word, or --user, --target, --since"
                )
            if row >> _ROWS != number:
                number, mine = row >> _ROWS, 0
                about = self._session(number)
            if about is None or mine == self._wanted.each > 0:
                self._more = self._more or about is not None
                passed += 1
                if passed == LEAP:
                    return number + 1
                continue
            if hit := self._hit(row, about):
                self._hits.append(hit)
                mine += 1
                if self._full:
                    break
        return None

    def _hit(self, row: int, about: About) -> Hit | None:
        place = self._reader.execute("SELECT at_us, source FROM texts WHERE row = ?", (row,)).get
        if place is None:
            return None
        at_us, source = place
        hit = Hit(about, row & ((1 << _ROWS) - 1), at_us, SOURCES[source])
        wanted = self._wanted
        early = wanted.since is not None and hit.at < wanted.since
        late = wanted.until is not None and hit.at > wanted.until
        return None if early or late else hit

    def _session(self, number: int) -> About | None:
        """Give a session, if it is wanted and may be seen; numbers come in order."""
        if number > self._known_to:
            self._learn(number)
        about = self._known.get(number)
        return about if about and self._may_see(about) else None

    def _first(self, number: int) -> int | None:
        """Give the first session from this number on that is wanted and may be seen."""
        while True:
            for found, about in self._known.items():
                if found >= number and self._may_see(about):
                    return found
            if self._known_to == _SECONDS:
                return None
            self._learn(max(number, self._known_to + 1))

    def _learn(self, first: int) -> None:
        """Learn which the next sessions are that are wanted."""
        rows = list(self._reader.execute(_WANTED, self._asked | {"first": first, "count": LEARNED}))
        self._known = {number: About(*fields) for number, *fields in rows}
        self._known_to = rows[-1][0] if len(rows) == LEARNED else _SECONDS


def _glob(text: str) -> str:
    """Write a glob as SQLite has it, where brackets mean something too."""
    return text.replace("[", "[[]") or "*"


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Fold SQLite's errors into ours; nothing of what was searched or written is in the text."""
    try:
        yield
    except apsw.NotADBError:
        raise SearchError(
            f"{path} does not open with this key: name the key it was made with, or remove the file and run "
            "proxyd index --all --search"
        ) from None
    except (apsw.Error, OSError) as error:
        what = getattr(error, "strerror", None) or type(error).__name__.removesuffix("Error")
        raise SearchError(f"the search index {path} can't be used: {what}") from None
