"""What of the recordings the store has, as the catalog notes it; and what it has yet to get.

Rule 1: a file is noted when the store has acknowledged it; a recording when its manifest, which goes last, was.
Rule 2: of a live recording the closed segments go, of one that has ended every file; a file that grows never does.
Rule 3: the local copy goes only when the store has all of the recording. What is derived of it goes there with that, not
        before: it is made while and after a session lives, and made anew at any time, and is no evidence.
Rule 4: every method waits for storage: call it through `trio.to_thread`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import sqlalchemy as sa

from proxyd.recorder import manifest as manifests
from proxyd.recorder import sidecar, store
from proxyd.recorder.catalog import LIVE, Catalog, SessionRow
from proxyd.recorder.remote import Remote
from proxyd.recorder.retention import DAY_S
from proxyd.recorder.schema import SESSIONS, STORED

GOING: Final = ".going"  # of a directory that is being removed: no session's id has a dot


class Pending(NamedTuple):
    """A file the store has yet to get; `last`: it is the manifest, and all else is there."""

    session: str
    path: Path
    last: bool


def evidence(folder: Path) -> list[Path]:
    """List what makes up a recording that has ended, the manifest last; not what is derived from it."""
    if not (folder / manifests.NAME).exists():
        return []
    return [*store.segments(folder), *sorted(folder.glob(f"*{store.TORN}")), folder / manifests.NAME]


class Stored:
    """The files of a catalog's recordings, in one store."""

    def __init__(
        self, root: Path, catalog: Catalog, remote: Remote, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._root = root
        self._database = catalog.database
        self.remote = remote
        self._clock = clock

    def pending(self) -> list[Pending]:
        """List what is to go now, the oldest recording first (rule 2)."""
        table = SESSIONS.c
        query = (
            sa.select(table.id, table.state, table.path)
            .where(table.stored_at.is_(None), table.purged_at.is_(None), table.path != "")
            .order_by(table.started_at, table.id)
        )
        with self._database.read() as connection:
            rows = [
                (str(row.id), self.folder(row.path), row.state == LIVE) for row in connection.execute(query)
            ]
        return [one for session, folder, live in rows for one in self._of(session, folder, live=live)]

    def folder(self, path: str) -> Path:
        """Give the directory of a recording below ours, by the one the catalog noted."""
        return self._root.joinpath(*Path(path).parts[-store.FOLDERS :])

    def _of(self, session: str, folder: Path, *, live: bool) -> list[Pending]:
        # What open/ names may still be written or mended: its last segment, and its manifest, are not final.
        growing = live or (self._root / store.OPEN / session).exists()
        files = store.segments(folder)[:-1] if growing else evidence(folder)
        if not files:
            return []
        done = self.files(session)
        last = folder / manifests.NAME
        return [
            Pending(session, path, path == last) for path in files if path.name not in done or path == last
        ]

    def files(self, session: str) -> dict[str, int]:
        """Give the files of a session that are noted, with their sizes."""
        query = sa.select(STORED.c.file, STORED.c.size).where(STORED.c.session == session)
        with self._database.read() as connection:
            return {row.file: row.size for row in connection.execute(query)}

    def put(self, one: Pending) -> int:
        """Store a file; gives its size. Raises StoreError, OSError."""
        return self.remote.put(self.key(one.path), one.path)

    def note(self, one: Pending, size: int) -> None:
        """Note that the store has acknowledged a file (rule 1). Raises CatalogError, StoreError.

        What was purged meanwhile goes again: the purge may have come before the file.
        """
        purged = sa.select(SESSIONS.c.purged_at).where(SESSIONS.c.id == one.session)
        mine = (STORED.c.session == one.session) & (STORED.c.file == one.path.name)
        with self._database.write() as connection:
            connection.execute(STORED.delete().where(mine))
            connection.execute(
                STORED.insert().values(session=one.session, file=one.path.name, size=size, at=self._clock())
            )
            if one.last:
                whole = SESSIONS.update().where(SESSIONS.c.id == one.session)
                connection.execute(whole.values(stored_at=self._clock()))
            is_purged = connection.execute(purged).scalar() is not None
        if is_purged:
            self.remote.delete(self.key(one.path.parent))

    def oldest(self, pending: Sequence[Pending]) -> float | None:
        """Say when the oldest of these files was closed, in seconds since 1970; None when there is none."""
        return min((one.path.stat().st_mtime for one in pending if one.path.exists()), default=None)

    def evict(self, keep_days: float) -> list[str]:
        """Take away local copies of what ended so long ago and is all in the store (rule 3); gives the sessions.

        Raises CatalogError, StoreError, OSError.
        """
        table = SESSIONS.c
        old = table.ended_at <= self._clock() - keep_days * DAY_S
        query = sa.select(table.id, table.path).where(
            table.stored_at.is_not(None), table.purged_at.is_(None), old
        )
        with self._database.read() as connection:
            kept = [(str(row.id), self.folder(row.path)) for row in connection.execute(query)]
        for left in self._root.glob(f"[0-9]*/[0-9]*/[0-9]*/*{GOING}"):
            shutil.rmtree(left)
        gone = []
        for session, folder in kept:
            if folder.exists() and self._is_there(folder):
                if (path := sidecar.path_of(folder)).exists():
                    self._store_sidecar(session, folder, path)
                self._remove(folder)
                gone.append(session)
        return gone

    def _store_sidecar(self, session: str, folder: Path, path: Path) -> None:
        one = Pending(session, sidecar.path_of(folder), last=False)
        self.note(one, self.remote.put(self.key(one.path), path, derived=True))

    def replace_sidecar(self, row: SessionRow, path: Path) -> None:
        """Store what was derived anew of a recording that is not here. Raises StoreError, CatalogError, OSError."""
        self._store_sidecar(row.id, self.folder(row.path), path)

    def _remove(self, folder: Path) -> None:
        """Remove a local copy; under its name there is all of it, or nothing."""
        going = folder.with_name(folder.name + GOING)
        folder.rename(going)
        store.sync_directory(folder.parent)
        shutil.rmtree(going)

    def _is_there(self, folder: Path) -> bool:
        """Ask the store itself whether it has all of a recording."""
        there = {found.key: found.size for found in self.remote.objects(self.key(folder))}
        return all(there.get(self.key(path)) == path.stat().st_size for path in evidence(folder))

    def key(self, path: Path) -> str:
        """Give the key of a file, or the prefix of a recording."""
        return path.relative_to(self._root).as_posix()

    def missing(self, row: SessionRow) -> list[Path]:
        """List the files of a local recording that are not noted, or were noted with another size."""
        noted = self.files(row.id)
        return [
            path for path in evidence(self.folder(row.path)) if noted.get(path.name) != path.stat().st_size
        ]

    def find(self, row: SessionRow) -> tuple[Path, dict[str, int]]:
        """Give a recording's directory, and, when the store alone has it, its files there."""
        folder = self.folder(row.path)
        here = folder.exists() or row.stored_at is None
        return folder, {} if here else self.files(row.id)

    def read(self, row: SessionRow, name: str, start: int, length: int) -> bytes:
        """Read a range of a file from the store. Raises StoreError."""
        key = f"{self.key(self.folder(row.path))}/{name}"
        return b"".join(self.remote.read(key, start, length))
