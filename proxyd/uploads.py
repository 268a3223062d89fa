"""Copies recordings to the store elsewhere while they are written; `control.fetching` reads there what is gone here.

Rule 1: a store that is slow or away costs no session anything: files wait on the local disk, and metrics say how long.
Rule 2: one file after the other, the oldest recording first; a failure is tried again after 1 s, then 2, up to a minute.
        A file that alone can't go, as when the store has other bytes under its name, holds up its own recording only.
Rule 3: what was under way at a restart goes on: what the store has acknowledged is noted in the catalog.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

from proxyd import log, metrics, vault
from proxyd.errors import ProxydError
from proxyd.recorder.ledger import STORED
from proxyd.recorder.remote import Conflict, Remote
from proxyd.recorder.stored import Pending, Stored

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from proxyd.config import Store
    from proxyd.recorder.catalog import Catalog
    from proxyd.recorder.ledger import Ledger

LOOK_S: Final = 2.0  # between two looks for what is to go: segments roll once in minutes
EVICT_S: Final = 3600.0
FIRST_S: Final = 1.0  # behind the first failure; each further one waits twice as long
LONGEST_S: Final = 60.0

_log = log.get("store")


async def open_store(store: Store, root: Path, catalog: Catalog) -> Stored:
    """Make a store ready for the recordings below `root`. Raises VaultError, StoreError; asks no network."""
    options = dict(store.options)
    for name, reference in store.secrets.items():
        options[name] = (await vault.fetch(reference)).text()
    return Stored(root, catalog, Remote(store.url, options))


class Uploads:
    """What keeps a store up to date."""

    def __init__(self, stored: Stored, ledger: Ledger, keep_local_days: float) -> None:
        self.stored = stored
        self._ledger = ledger
        self._keep_local_days = keep_local_days
        self._oldest: float | None = None  # seconds since 1970: when the oldest file that waits was closed
        self.failing_since: float | None = None  # trio's seconds: since when nothing, or not all, goes
        metrics.STORE_LAG.set_function(self.lag_s)

    async def run(self) -> None:
        """Copy until cancelled (rules 1 to 3)."""
        wait, evicted = FIRST_S, -EVICT_S
        while True:
            try:
                await self._send_all()
                if self._keep_local_days and trio.current_time() - evicted >= EVICT_S:
                    await self._evict()
                    evicted = trio.current_time()
            except (ProxydError, OSError) as error:
                metrics.STORE_FAILURES.inc()
                if self.failing_since is None:
                    self.failing_since = trio.current_time()
                _log.error("the store did not take a file; it is tried again", why=str(error), seconds=wait)
                await trio.sleep(wait)
                wait = min(2 * wait, LONGEST_S)
            else:
                wait, self.failing_since = FIRST_S, None
                await trio.sleep(LOOK_S)

    async def _send_all(self) -> None:
        """Send what is to go. Raises StoreError, CatalogError, LedgerError; OSError or Conflict once all others went."""
        while True:
            pending = await trio.to_thread.run_sync(self.stored.pending)
            self._tell(pending)
            stuck: dict[str, Conflict | OSError] = {}
            for one in pending:
                if one.session in stuck:
                    continue
                try:
                    metrics.STORED_BYTES.inc(await trio.to_thread.run_sync(self._send, one))
                except (Conflict, OSError) as error:
                    stuck[one.session] = error
            if stuck:
                raise next(iter(stuck.values()))
            if not pending:
                return

    def _tell(self, pending: Sequence[Pending]) -> None:
        metrics.STORE_PENDING.set(len(pending))
        self._oldest = self.stored.oldest(pending)

    def lag_s(self) -> float:
        """Give the age of the oldest file the store has yet to get, in seconds; 0 when there is none."""
        return 0.0 if self._oldest is None else max(0.0, time.time() - self._oldest)

    def _send(self, one: Pending) -> int:
        closed = one.path.stat().st_mtime
        size = self.stored.put(one)
        if one.last:  # before the catalog has it: an entry twice is better than none
            self._ledger.append(STORED, session=one.session, url=self.stored.remote.url)
        self.stored.note(one, size)
        metrics.STORE_DELAY.observe(max(0.0, time.time() - closed))
        return size

    async def _evict(self) -> None:
        for session in await trio.to_thread.run_sync(self.stored.evict, self._keep_local_days):
            _log.info("the local copy has gone, the store has it", session=session)
