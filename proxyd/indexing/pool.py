"""`proxyd index` inside the daemon: the pool of processes that decode sessions while they live.

Rule 1: whatever happens to a process, sessions and their recordings do not notice; another one is started, after a wait
        that grows, and reads its sessions from the beginning of their files.
Rule 2: a session that ended is still read to its end: its tape, with the key, is kept until its sidecar has its name, for
        at most ENDED_S and ENDED_KEPT of them. After that `proxyd index` with the identity does it.
Rule 3: what is given up is said: in the log, in the metrics, and to who watches.
Rule 4: what the last life of the daemon left without an index is read next, one session after the other, beside those that
        live, where its key is still in memory (keyring).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from proxyd import log, metrics
from proxyd.errors import FormatError
from proxyd.indexing.child import Child
from proxyd.indexing.followed import Followed, Unreadable
from proxyd.indexing.frames import Failed, Fed, FromChild, Hello, Shown
from proxyd.indexing.keyring import Keyring
from proxyd.indexing.looking import Looker, NoPicture
from proxyd.recorder import store
from proxyd.recorder.ended import Ended
from proxyd.recorder.hub import Played
from proxyd.recorder.recorder import Follower
from proxyd.recorder.tape import Tape
from proxyd.search.feed import Feed

DESKTOP: Final = "rdp"  # the protocol of sessions that have one
PROTOCOLS: Final = frozenset({DESKTOP, "ssh", "postgres", "mysql"})  # whose sessions something is derived of
DECODER: Final = "aardwolf"  # of desktops
MISSING: Final = "the decoder of RDP recordings is not installed: pip install 'aardwolf>=0.2.16,<0.3'"
ENDED_S: Final = 900.0  # a session of hours is read in minutes
ENDED_KEPT: Final = 64
FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 10.0
CALM_S: Final = 10.0  # who lived so long did not die of its beginning
LOOK_S: Final = 1.0  # between two looks at lag and at what takes too long
SETTLE_S: Final = 5.0  # at a stop, for what ended just now

_log = log.get("index")


class Settings(Protocol):
    """What of the configuration counts here."""

    @property
    def workers(self) -> int:
        """Processes."""

    @property
    def enabled(self) -> bool:
        """Whether there are any."""

    @property
    def resume(self) -> bool:
        """Whether keys may be kept for the next life of the daemon (rule 4)."""


class Storage(Protocol):
    """Of the configuration of recordings: what must stay free where they are."""

    @property
    def reserve_bytes(self) -> int:
        """Bytes."""


class Indexer(Follower):
    """Follows every tape of a session that something is derived of."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._storage, self._resume = storage, settings.resume
        self.keyring: Keyring | None = None  # where keys may be kept; set before the first session begins
        self._left: dict[str, bytes] = {}  # by session: what was not indexed when the last daemon ended
        self.search: Feed | None = None  # where the texts of sessions go; set before the first session begins
        self._number = 0
        installed = importlib.util.find_spec(DECODER) is not None
        self.missing = "" if installed else MISSING  # why no desktop can be shown
        if not settings.enabled:
            self.missing = "this daemon makes no index: index.enabled is false in its configuration"
        self._protocols = PROTOCOLS if installed else PROTOCOLS - {DESKTOP}
        self._workers = [_Worker() for _ in range(settings.workers)] if settings.enabled else []

    # ------------------------------------------------------------------ what the recorder says

    def beginning(self, session: str, meta: Mapping[str, Any], dek: bytes) -> None:
        """Keep the key of a session that is indexed (rule 4)."""
        if self.keyring is not None and self._follows(meta):
            self.keyring.keep(session, dek)

    def begun(self, tape: Tape) -> None:
        """Follow a tape, if something is derived of its session."""
        if self._follows(tape.meta):
            self._follow(tape)

    def _follows(self, meta: Mapping[str, Any]) -> bool:
        return bool(self._workers) and meta.get("protocol") in self._protocols

    def _follow(self, tape: Played) -> Followed:
        self._number += 1
        whole = partial(self._forget, tape.id)
        followed = Followed(self._number, tape, partial(self._check_room, tape), whole, self.search)
        min(self._workers, key=lambda one: len(one.followed)).begin(followed)
        return followed

    def _forget(self, session: str) -> None:
        if self.keyring is not None:
            self.keyring.forget(session)

    def ended(self, tape: Tape) -> None:
        """Take note that nothing more comes on it."""
        if one := self._find(tape.id):
            one.ended_at = trio.current_time()
            one.hurry()

    def _check_room(self, tape: Played) -> None:
        if store.free_bytes(tape.reel.root) < self._storage.reserve_bytes:
            raise OSError("less than the reserve of the recordings is free")

    # ------------------------------------------------------------------ what operators ask

    def look(self, session: str) -> tuple[Followed, Looker]:
        """Begin to watch a live session from now on; raises NoPicture. Leave it with `Followed.leave`."""
        followed = self._find(session)
        if followed is None or followed.over or followed.tape.meta.get("protocol") != DESKTOP:
            raise NoPicture(
                self.missing or "nothing shows this session: it has ended, or its index was given up"
            )
        return followed, followed.look(followed.tape.seq)

    def _find(self, session: str) -> Followed | None:
        every = (one for worker in self._workers for one in worker.followed.values())
        return next((one for one in every if one.tape.id == session), None)

    def lag(self) -> float:
        """Give the age of the oldest record of a session of this daemon's no process has read yet, in seconds."""
        every = (one for worker in self._workers for one in worker.followed.values())
        return max((one.lag() for one in every if one.tape.id not in self._left), default=0.0)

    def left(self) -> int:
        """Count the sessions the last life of the daemon left that are still to be read (rule 4)."""
        return len(self._left)

    def status(self) -> dict[str, int | float]:
        """Say how it is."""
        every = [one for worker in self._workers for one in worker.followed.values()]
        return {
            "workers": len(self._workers),
            "sessions": len(every),
            "lag_seconds": round(self.lag(), 3),
            "left": self.left(),
            "restarts": sum(worker.restarts for worker in self._workers),
        }

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """Index until cancelled."""
        async with trio.open_nursery() as nursery:
            for worker in self._workers:
                nursery.start_soon(worker.run)
            while True:
                await trio.sleep(LOOK_S)
                self._look_around()

    def find_left(self) -> None:
        """Look for what the last life of the daemon left; before the first session begins. Waits for storage."""
        if self.keyring is None:
            return
        self._left = self.keyring.kept()
        if not (self._workers and self._resume):
            for session in self._left:
                self.keyring.forget(session)
            self._left, self.keyring = {}, None

    async def catch_up(self, root: Path) -> None:
        """Read what was left of the recordings below `root`, one after the other (rule 4)."""
        metrics.INDEX_LEFT.set(len(self._left))
        if self._left:
            _log.info("sessions of before the start are indexed now", sessions=len(self._left))
        for session, dek in list(self._left.items()):
            try:
                tape = await trio.to_thread.run_sync(Ended.open, root, session, dek)
            except FormatError as error:
                _log.warning(
                    "no index is made of a session of before the start", session=session, why=str(error)
                )
                self._forget(session)
            else:
                if self._follows(tape.meta):
                    followed = self._follow(tape)
                    followed.ended_at = trio.current_time()
                    await followed.done.wait()
            del self._left[session]
            metrics.INDEX_LEFT.set(len(self._left))

    async def settle(self) -> None:
        """Wait for what has ended, SETTLE_S at most."""
        with trio.move_on_after(SETTLE_S):
            for worker in self._workers:
                for one in [one for one in worker.followed.values() if one.ended_at is not None]:
                    await one.done.wait()

    def _look_around(self) -> None:
        """Keep the gauges, and rule 2."""
        every = [(worker, one) for worker in self._workers for one in worker.followed.values()]
        metrics.INDEX_SESSIONS.set(len(every))
        metrics.INDEX_LAG.set(self.lag())
        ended = sorted(
            ((worker, one) for worker, one in every if one.ended_at is not None),
            key=lambda pair: pair[1].ended_at or 0.0,
        )
        late = trio.current_time() - ENDED_S
        for place, (worker, one) in enumerate(ended):
            if len(ended) - place > ENDED_KEPT or (one.ended_at or 0.0) < late:
                worker.give_up(one, "late", "it took too long after the session's end")


class _Worker:
    """One process after the other, and the sessions it reads."""

    def __init__(self) -> None:
        self.followed: dict[int, Followed] = {}
        self.restarts = 0
        self._child: Child | None = None
        self._nursery: trio.Nursery | None = None
        self._wanted = trio.Event()
        self._scopes: dict[int, trio.CancelScope] = {}

    def begin(self, one: Followed) -> None:
        """Read one more session."""
        self.followed[one.number] = one
        self._wanted.set()
        if self._nursery is not None:
            self._nursery.start_soon(self._follow, one)

    def give_up(self, one: Followed, why: str, text: str) -> None:
        """Read a session no more; a session's own sidecar is then for `proxyd index` to make."""
        if self.followed.pop(one.number, None) is None:
            return
        _log.warning("an index was given up", session=one.tape.id, why=text,
                     then=f"proxyd index {one.tape.id} makes it, with the identity")  # fmt: skip
        metrics.INDEX_ENDED.labels(result=why).inc()
        one.forget()
        one.end(f"the index of this session was given up: {text}")
        one.done.set()
        if scope := self._scopes.get(one.number):
            scope.cancel()

    async def run(self) -> None:
        """Have a process while there is anything to read (rule 1)."""
        wait = FIRST_WAIT_S
        while True:
            if not self.followed:
                self._wanted = trio.Event()
                await self._wanted.wait()
            began = trio.current_time()
            why = await self._live()
            if trio.current_time() - began >= CALM_S:
                wait = FIRST_WAIT_S
            self.restarts += 1
            metrics.INDEX_RESTARTS.inc()
            _log.warning("an indexer ended", why=why, sessions=len(self.followed), next_s=wait)
            await trio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    async def _live(self) -> str:
        """Live one process's life; gives why it ended."""
        try:
            child = await Child.started()
        except OSError as error:
            return f"it can't be started: {error.strerror}"
        self._child = child
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for one in list(self.followed.values()):
                    nursery.start_soon(self._follow, one)
                await child.run(self._take)
                self._blame(child)
                nursery.cancel_scope.cancel()
        finally:
            self._child = self._nursery = None
        return child.why

    async def _follow(self, one: Followed) -> None:
        """Read one session to this process; how that ends is this session's own affair."""
        assert self._child is not None  # noqa: S101 - the nursery is its life
        with trio.CancelScope() as scope:
            self._scopes[one.number] = scope
            try:
                while await self._try(one, self._child):
                    pass
            finally:
                self._scopes.pop(one.number, None)

    async def _try(self, one: Followed, child: Child) -> bool:
        """Read it from the beginning; True to try again."""
        try:
            await one.follow(child)
        except Unreadable as error:
            if not one.strike():
                return True
            self.give_up(one, "unreadable", str(error))
        except FormatError as error:
            self.give_up(one, "format", str(error))
        except OSError as error:
            self.give_up(one, "storage", error.strerror or str(error))
        else:
            self.followed.pop(one.number, None)
            metrics.INDEX_ENDED.labels(result="whole").inc()
            if one.faults:
                metrics.INDEX_FAULTS.inc(one.faults)
            _log.info("indexed", session=one.tape.id, records=one.fed_seq, faults=one.faults, bytes=one.size)
            one.end()
            one.done.set()
        return False

    def _blame(self, child: Child) -> None:
        """Note what the process was at when it ended: it answers in order, so that is what waits longest."""
        if child.killed:
            return
        waiting = [one for one in self.followed.values() if one.awaiting]
        one = min(waiting, key=lambda one: one.asked, default=None)
        if one is not None and one.strike():
            self.give_up(one, "deadly", f"it ended the process that read it: {child.why}")

    def _take(self, frame: FromChild) -> None:
        match frame:
            case Fed(session=number) | Failed(session=number) if one := self.followed.get(number):
                one.answered(frame)
            case Shown(session=number) if one := self.followed.get(number):
                one.shown(frame)
            case Hello(isolated, filtered):
                _log.info("an indexer began", network=not isolated, filtered=filtered)
            case _:
                return
