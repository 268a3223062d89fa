"""Whether the daemon does what it is there for: what /health says, and what that means.

Rule 1: "failing" (503): no session can begin: its recording could not be kept, or the catalog can't be asked who is
        blocked. Send nobody here. Sessions that live go on, as their recording's policy says.
Rule 2: "degraded" (200): sessions begin and are recorded, and something behind them is late or away, as a line each says.
Rule 3: who asks waits for nothing: it is looked at every LOOK_S seconds, by threads of its own, LIMIT_S at most; storage
        that does not answer counts as away.
Rule 4: anybody who reaches the port may ask: no line holds an address, a name, or what an error said.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from proxyd import log, metrics
from proxyd.errors import ProxydError

if TYPE_CHECKING:
    from proxyd.archive import Archive
    from proxyd.engine import Core
    from proxyd.indexing.pool import Indexer

LOOK_S: Final = 5.0  # load balancers ask every 5 to 10 s
LIMIT_S: Final = 4.0  # local storage answers in milliseconds, a database in the same place in tens of them
LATE_S: Final = 60.0  # a store or an indexer may be behind for a while: one retry, one restart
STORE_LATE_S: Final = 300.0  # ... and has this long for one file: 16 MiB at half a Mbit/s
RECORDER_LATE_S: Final = 5.0  # records are written within 0.25 s

_log = log.get("health")


class Level(StrEnum):
    """How it is."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"


_SHOWN: Final = {Level.OK: 2, Level.DEGRADED: 1, Level.FAILING: 0}


class _Failing(Exception):
    """No session can begin; says why."""


class Fault(NamedTuple):
    """One thing that is not as it should be."""

    level: Level
    text: str


class Health(NamedTuple):
    """All that was found."""

    faults: tuple[Fault, ...] = ()

    @property
    def level(self) -> Level:
        """Give the worst of it."""
        levels = {fault.level for fault in self.faults}
        return next((level for level in (Level.FAILING, Level.DEGRADED) if level in levels), Level.OK)

    @property
    def failing(self) -> bool:
        """Say whether no session can begin."""
        return self.level is Level.FAILING

    @property
    def text(self) -> str:
        """Say it: the level, then one line for each fault."""
        return "".join(f"{line}\n" for line in (self.level, *(fault.text for fault in self.faults)))


class Watch:
    """Looks at one daemon; `now` is what was seen last."""

    def __init__(self, core: Core, archive: Archive, indexer: Indexer) -> None:
        self._core, self._archive, self._indexer = core, archive, indexer
        self._disk, self._database = (
            trio.CapacityLimiter(1),
            trio.CapacityLimiter(1),
        )  # one look of each may hang
        self.now = Health()

    async def run(self) -> None:
        """Look every LOOK_S seconds until cancelled."""
        while True:
            before, self.now = self.now, await self.look()
            if self.now.level is not before.level:
                tell = _log.info if self.now.level is Level.OK else _log.warning
                tell("health", level=str(self.now.level), why=[fault.text for fault in self.now.faults])
            metrics.HEALTH.set(_SHOWN[self.now.level])
            await trio.sleep(LOOK_S)

    async def look(self) -> Health:
        """Look at everything once."""
        disk = await self._asked(self._check_disk, self._disk, "recordings: their disk does not answer")
        catalog = await self._asked(self._check_catalog, self._database, "catalog: it does not answer")
        metrics.RECORDABLE.set(not disk)
        metrics.CATALOG_REACHABLE.set(not catalog)
        return Health((*disk, *catalog, *self._recorder(), *self._store(), *self._behind()))

    async def _asked(
        self, check: Callable[[], None], limiter: trio.CapacityLimiter, silent: str
    ) -> tuple[Fault, ...]:
        """Give what a check that waits for storage says, or that it says nothing."""
        text = silent
        with trio.move_on_after(LIMIT_S):
            try:
                await trio.to_thread.run_sync(check, limiter=limiter, abandon_on_cancel=True)
            except _Failing as failing:
                text = str(failing)
            else:
                return ()
        return (Fault(Level.FAILING, text),)

    def _check_disk(self) -> None:
        recording = self._core.config.recording
        try:
            place = os.statvfs(recording.directory)
        except OSError:
            raise _Failing("recordings: their directory can't be read") from None
        if place.f_flag & os.ST_RDONLY:
            raise _Failing("recordings: their disk is read-only")
        if place.f_bavail * place.f_frsize < recording.reserve_bytes:
            raise _Failing("recordings: their disk has less free than recording.reserve_bytes")

    def _check_catalog(self) -> None:
        try:
            self._core.catalog.database.ask()
        except ProxydError:
            raise _Failing("catalog: it can't be reached") from None

    def _recorder(self) -> Iterator[Fault]:
        recorder = self._core.recorder
        late = recorder.behind_s()
        if late > RECORDER_LATE_S:
            yield Fault(Level.DEGRADED, f"recordings: records wait for {late:.0f} s to be written")
        if gaps := sum(tape.outage for tape in recorder.live.values()):
            yield Fault(Level.DEGRADED, f"recordings: sessions that go on and are not recorded now: {gaps}")
        if held := sum(tape.held for tape in recorder.live.values()):
            yield Fault(Level.DEGRADED, f"recordings: sessions that wait for room on the disk: {held}")
        if untold := recorder.untold:
            yield Fault(Level.DEGRADED, f"catalog: sessions whose end it lacks: {untold}")

    def _store(self) -> Iterator[Fault]:
        uploads = self._archive.uploads
        if uploads is None:
            return
        since = uploads.failing_since
        metrics.STORE_REACHABLE.set(since is None)
        if since is not None and trio.current_time() - since > LATE_S:
            lasting = trio.current_time() - since
            yield Fault(Level.DEGRADED, f"store: for {lasting:.0f} s it has not taken all it was given")
        elif uploads.lag_s() > STORE_LATE_S:
            yield Fault(Level.DEGRADED, f"store: it has yet to get what is {uploads.lag_s():.0f} s old")

    def _behind(self) -> Iterator[Fault]:
        if (lag := self._indexer.lag()) > LATE_S:
            yield Fault(Level.DEGRADED, f"index: it is {lag:.0f} s behind live sessions")
        if left := self._indexer.left():
            yield Fault(Level.DEGRADED, f"index: sessions of before the start it has yet to read: {left}")
        if self._archive.purges_fail:
            yield Fault(Level.DEGRADED, "retention: the last purge failed")
