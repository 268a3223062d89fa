"""The archive's keeper: purges what its time has come for, tells beforehand what that is, and keeps the store in step.

Rule 1: it looks once an hour, and every minute whether the disk has room; one purge at a time.
Rule 2: a purge that fails is logged and counted, and tried again; it never ends the daemon.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from proxyd import log, metrics
from proxyd.errors import ProxydError
from proxyd.recorder import store
from proxyd.recorder.fsck import Problem, check
from proxyd.recorder.holds import Hold, Holds
from proxyd.recorder.retention import Doomed, Undertaker, plan

if TYPE_CHECKING:
    from proxyd.engine import Core
    from proxyd.recorder.catalog import SessionRow
    from proxyd.search.feed import Feed
    from proxyd.uploads import Uploads

HOUR_S: Final = 3600.0
MINUTE_S: Final = 60.0
BY: Final = "proxyd"

_log = log.get("archive")


class Archive:
    """Holds and retention of one daemon."""

    def __init__(self, core: Core, uploads: Uploads | None = None, search: Feed | None = None) -> None:
        self._core = core
        self._purging = trio.Lock()
        self.purges_fail = False
        self.uploads = uploads
        self.holds = Holds(core.catalog)
        stored = uploads.stored if uploads else None
        config = core.config
        forget = search.index.forget if search else None
        self._undertaker = Undertaker(
            config.recording.directory,
            self.holds,
            core.ledger,
            stored,
            config.export.directory,
            forget=forget,
        )

    async def run(self) -> None:
        """Keep to the policies and fill the store until cancelled (rule 1)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            if self.uploads is not None:
                nursery.start_soon(self.uploads.run)

    async def _keep(self) -> None:
        swept = -HOUR_S
        while True:
            hourly = trio.current_time() - swept >= HOUR_S
            if hourly or await trio.to_thread.run_sync(self._pressed):
                self.purges_fail = not (await self._try(self._finish) and await self._try(self.sweep))
                swept = trio.current_time() if hourly else swept
            await trio.sleep(MINUTE_S)

    async def _try(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do it, and say whether it was done; what fails is logged and counted (rule 2)."""
        try:
            await work()
        except (ProxydError, OSError) as error:
            metrics.PURGES_FAILED.inc()
            _log.error("a purge failed; it is tried again", why=str(error))
            return False
        return True

    async def _finish(self) -> None:
        for session in await trio.to_thread.run_sync(self._undertaker.finish):
            _log.info("purged what was condemned before", session=session)
        metrics.HELD.set(len(await trio.to_thread.run_sync(self.holds.holds)))

    def _pressed(self) -> bool:
        wanted = max((policy.free_bytes for policy in self._core.config.retention), default=0)
        return bool(wanted) and self._free() < wanted

    def _free(self) -> int:
        return store.free_bytes(self._core.config.recording.directory)

    def _plan(self) -> list[Doomed]:
        policies = self._core.config.retention
        return plan(self.holds.kept(), policies, time.time(), self._free()) if policies else []

    def hold(self, session: str, by: str, reason: str) -> Hold:
        """Hold a session's recording; waits for storage. Raises NotFound, HoldRefused."""
        entry = self.holds.hold(session, by, reason)
        metrics.HELD.set(len(self.holds.holds()))
        return entry

    def release(self, session: str, by: str) -> Hold:
        """Release a session's recording; waits for storage. Raises NotFound, HoldRefused."""
        entry = self.holds.release(session, by)
        metrics.HELD.set(len(self.holds.holds()))
        return entry

    async def due(self) -> list[Doomed]:
        """Say what a purge would take now, and why."""
        return await trio.to_thread.run_sync(self._plan)

    async def find(self, row: SessionRow) -> tuple[Path, Mapping[str, int]]:
        """Give a recording's directory, and, when the store alone has it, its files there. Raises CatalogError."""
        if self.uploads is None:
            return Path(row.path), {}
        return await trio.to_thread.run_sync(self.uploads.stored.find, row)

    async def check(self) -> list[Problem]:
        """List what catalog, disk and store do not agree about. Raises CatalogError, StoreError."""
        root, node = self._core.config.recording.directory, self._core.config.node
        stored = self.uploads.stored if self.uploads else None
        return await trio.to_thread.run_sync(lambda: list(check(root, self._core.catalog, stored, node)))

    async def sweep(self) -> None:
        """Purge what the policies say."""
        for one in await self.due():
            await self.purge(one, BY)

    async def purge(self, one: Doomed, by: str) -> bool:
        """Purge this one; False when it may not go, as when it is held. Raises CatalogError, LedgerError, OSError."""
        async with self._purging:
            if not await trio.to_thread.run_sync(self._undertaker.purge, one, by):
                return False
        metrics.PURGED.labels(by="policy" if by == BY else "operator").inc()
        metrics.PURGED_BYTES.inc(one.size)
        _log.info("purged", session=one.session, target=one.target, size=one.size, why=one.why, by=by)
        return True
