"""The recorder: one writer for all live tapes, and what opens and seals them.

Rule 1: a record is in the kernel's hands at most BLOCK_SECONDS and one write after it was added, and on disk a sync
        later. The writer looks again BLOCK_SECONDS after a write, for waking it costs the key that does so its
        forwarding; a tape nobody adds to costs no wake-up after that.
Rule 2: one worker thread writes, for all due tapes in one go; another syncs; sealing has threads of its own. One
        tape's failure is its own.
Rule 3: `open` returns when META is on disk; `seal` returns within SEAL_SECONDS, whatever storage does.
Rule 4: strict: the first failed write or sync ends the recording and tells the session at once. best-effort: it is
        tried again every RETRY_SECONDS, and a LOST record counts what is missing. hold: a full disk is waited for.
"""

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from proxyd.errors import ProxydError, RecordingFailed
from proxyd.memory import Trimmer
from proxyd.recorder import store
from proxyd.recorder.keys import Signer, load_signer, new_dek, wrap
from proxyd.recorder.manifest import End, Manifest, sayable
from proxyd.recorder.partners import Catalog, Gauges, Ledger, Settings
from proxyd.recorder.record import Kind
from proxyd.recorder.reel import NEVER, Reel, SyncFailed
from proxyd.recorder.segment import new_packer
from proxyd.recorder.tape import Tape

__all__ = ["Catalog", "Follower", "Gauges", "Ledger", "Recorder", "Settings", "Tape", "ledger_fields"]

BLOCK_SECONDS = 0.25  # the crash-loss bound; 64 bytes of frame are spent each time
JOIN_SECONDS = (
    0.1  # a block due this soon is written with those due now, a younger one not: frames stay large
)
COALESCE_SECONDS = 0.01  # a full block waits this long for more: bulk traffic gets few, large frames
NEWS_SECONDS = 0.02  # viewers are told of what came at most this late
CHORE_SLACK = 1.0  # chores due this soon are done with those due now: fewer wake-ups
RETRY_SECONDS = 0.5  # after a write failed on a tape that may go on
LATE_SECONDS = 5.0  # a database that went away is back in seconds, or minutes
SEAL_SECONDS = 10.0  # a stuck storage must not keep a dead session listed
GIVE_UP_SECONDS = 2.0  # of them are kept for saying so
SEALERS = 8  # a drain seals hundreds; each waits for a few syncs
OPENERS = 8
CLOCK_JUMP_NS = 500_000_000  # a step this large would show in a replay's wall clock
TOO_SLOW = "The recording failed: the recording storage is too slow"


Failure = OSError | ProxydError


def said(error: Failure) -> RecordingFailed:
    """Put a failure into the sentence the user is shown."""
    if isinstance(error, RecordingFailed):
        return error
    if isinstance(error, OSError) and store.is_full(error):
        return RecordingFailed("The recording failed: the recording storage is full")
    text = (error.strerror or "error") if isinstance(error, OSError) else str(error)
    return RecordingFailed(f"The recording failed: the recording storage reports: {text}")


class Follower:
    """Who follows tapes from their beginning; this one does not. Called on trio's thread; must not wait or raise."""

    def beginning(self, session: str, meta: Mapping[str, Any], dek: bytes) -> None:
        """Take note of a recording whose session is about to begin; in a worker thread: may wait."""

    def begun(self, tape: Tape) -> None:
        """Take note of a tape that began."""

    def ended(self, tape: Tape) -> None:
        """Take note that nothing more comes on it."""


class Recorder:
    """One per daemon; `follower` may be set before the first tape; `live` has the tapes being recorded, by session id."""

    def __init__(
        self,
        settings: Settings,
        node: str,
        *,
        catalog: Catalog,
        ledger: Ledger,
        gauges: Gauges | None = None,
        signer: Signer | None = None,
    ) -> None:
        """Read the signing key, unless given; raises ConfigError."""
        self.live: dict[str, Tape] = {}
        self.follower = Follower()
        self._settings, self._node = settings, node
        self._root = settings.directory
        self._catalog, self._ledger = catalog, ledger
        self._gauges = gauges or Gauges()
        self._signer = signer or load_signer(settings.signing_key)
        self._openers = trio.CapacityLimiter(OPENERS)
        self._sealers = trio.CapacityLimiter(SEALERS)
        self._writers = trio.CapacityLimiter(1)
        self._syncers = trio.CapacityLimiter(1)
        self._viewers = 0
        self._dirty: dict[Tape, float] = {}  # monotonic seconds: when each became dirty, the oldest first
        self._full: set[Tape] = set()  # of them: not to be waited for
        self._due = NEVER  # monotonic seconds: when the writer is to write
        self._chores: dict[Tape, float] = {}
        self._bell = trio.Event()  # rung when `_due` moves forward
        self._unsynced: set[Tape] = set()
        self._sync_bell = trio.Event()
        self._newsy: set[Tape] = set()
        self._news_bell = trio.Event()
        self._late: dict[str, Callable[[], None]] = {}  # ends the catalog could not take
        self._trimmer = Trimmer()
        self._packer = new_packer()  # the writer's

    @property
    def untold(self) -> int:
        """Count the sessions whose end the catalog could not take so far."""
        return len(self._late)

    def behind_s(self) -> float:
        """Give how long the oldest record that is not written waits, in seconds; 0 when there is none."""
        return max(0.0, time.monotonic() - min(self._dirty.values(), default=NEVER))

    # ------------------------------------------------------------------ sessions

    async def open(
        self,
        session_id: str,
        meta: Mapping[str, Any],
        *,
        strict: bool,
        hold: bool = False,
        on_pressure: Callable[[bool], None],
        on_failure: Callable[[RecordingFailed], None],
    ) -> Tape:
        """Begin a recording: manifest, header and META are on disk when this returns.

        The callbacks are called on trio's thread, never from `open`: `on_pressure(True)` asks the session to stop
        reading, False to go on; `on_failure` comes once, and the session must end; they must not raise. Raises
        RecordingFailed, also when less than `reserve_bytes` is free, and ValueError for an id that is no file name.
        """
        dek = new_dek()
        manifest = Manifest(
            session=session_id,
            node=self._node,
            started_ns=time.time_ns(),
            state="open",
            strict=strict,
            meta=sayable(meta),
            keys=wrap(dek, self._settings.recipients),
        )
        reel = Reel(self._root, manifest, dek, self._signer)
        tape = Tape(
            self,
            reel,
            meta,
            manifest.started_ns,
            strict=strict,
            hold=hold,
            on_pressure=on_pressure,
            on_failure=on_failure,
        )
        tape.add(Kind.META, dict(meta))
        tape.take()
        self._dirty.pop(tape, None)
        row = {**meta, "id": session_id, "node": self._node, "path": str(reel.folder)}
        row.setdefault("started_at", manifest.started_ns / 1e9)
        try:
            await trio.to_thread.run_sync(self._begin, reel, meta, row, limiter=self._openers)
        except (OSError, ProxydError) as error:
            self._gauges.failed("strict" if strict else "best_effort")
            self._gauges.trouble("a recording can't begin", session_id, str(error))
            raise said(error) from error
        tape.settle()
        self.live[session_id] = tape
        self.follower.begun(tape)
        self._gauges.unsealed(len(self.live))
        return tape

    def _begin(self, reel: Reel, meta: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        if store.free_bytes(self._root) < self._settings.reserve_bytes:
            raise OSError(errno.ENOSPC, "below the reserve")
        try:
            reel.begin(new_packer())
            self._catalog.started(row)
        except BaseException:
            reel.close()
            raise
        self.follower.beginning(reel.session, meta, reel.dek)

    async def seal(self, tape: Tape, reason: str, by: str, error: str) -> None:
        """End a tape whose last block is queued; Tape.seal calls this, nobody else."""
        deadline = trio.current_time() + SEAL_SECONDS
        trouble = f"storage did not answer in {SEAL_SECONDS:g} s"
        try:
            with trio.CancelScope(shield=True, deadline=deadline):
                trouble = await self._sealed(tape, End(time.time_ns(), reason, by, error), deadline)
        finally:
            self.live.pop(tape.id, None)
            for places in (self._full, self._unsynced):
                places.discard(tape)
            for times in (self._dirty, self._chores):
                times.pop(tape, None)
            self._gauges.unsealed(len(self.live))
            self.follower.ended(tape)
            if trouble:
                self._gauges.failed("strict" if tape.strict else "best_effort")
                self._gauges.trouble("a recording is not sealed", tape.id, trouble)

    async def _sealed(self, tape: Tape, end: End, deadline: float) -> str:
        """Seal; a full disk is waited for when the tape holds. Gives what went wrong, or nothing."""
        patience = deadline - GIVE_UP_SECONDS
        while True:
            failure = await trio.to_thread.run_sync(
                self._finish, tape, end, limiter=self._sealers, abandon_on_cancel=True
            )
            tape.settle()
            if failure is None:
                if tape.id in self._late:
                    self._gauges.trouble(
                        "a session's end is not in the catalog", tape.id, "told as soon as it answers"
                    )
                return ""
            if not (tape.hold and _may_pass(failure) and trio.current_time() < patience):
                await trio.to_thread.run_sync(
                    self._give_up, tape, end, failure, limiter=self._sealers, abandon_on_cancel=True
                )
                return str(failure)
            await trio.sleep(RETRY_SECONDS)

    def _finish(self, tape: Tape, end: End) -> Failure | None:
        """Seal on disk, then in the ledger, then in the catalog; what is done is not done twice."""
        reel = tape.reel
        try:
            manifest = reel.finish(new_packer(), end, failed=tape.failed is not None)
            self._ledger.append("sealed", **ledger_fields(manifest, reel.folder, self._root))
        except (OSError, ProxydError) as error:
            return error
        state = "failed" if manifest.state == "failed" else "ended"
        tell = functools.partial(
            self._end_row, tape, end, size=manifest.size, chain=manifest.chain, state=state
        )
        if self._told(tape.id, tell):
            self._late[tape.id] = tell
        return None

    def _told(self, session: str, tell: Callable[[], None]) -> str:
        """Tell the catalog how a session ended that is sealed; gives what went wrong, or nothing."""
        try:
            tell()
            store.unmark_open(self._root, session)
        except (OSError, ProxydError) as error:
            return str(error)  # the mark stays: after a restart recovery tells it
        return ""

    def _tell_late(self) -> None:
        for session, tell in list(self._late.items()):
            if not self._told(session, tell):
                del self._late[session]

    def _give_up(self, tape: Tape, end: End, failure: Failure) -> None:
        """Leave a recording to recovery, and let the list of sessions say so."""
        end = End(end.at_ns, end.reason, end.by, end.error or str(said(failure)))
        tape.reel.close()
        try:
            path = str(tape.reel.folder.relative_to(self._root))
            self._ledger.append("unsealed", session=tape.id, path=path, error=str(failure))
            self._end_row(tape, end, size=tape.reel.size, chain=b"", state="failed")
        except (OSError, ProxydError):
            return  # the mark in open/ stays: recovery tells the catalog

    def _end_row(self, tape: Tape, end: End, *, size: int, chain: bytes, state: str) -> None:
        self._catalog.ended(
            tape.id,
            ended_at=end.at_ns / 1e9,
            reason=end.reason,
            by=end.by,
            error=end.error,
            size=size,
            input_bytes=tape.input_bytes,
            output_bytes=tape.output_bytes,
            chain=chain,
            state=state,
            findings=tape.summary.count,
            found=tape.summary.findings,
            channels=tape.summary.channels,
        )

    # ------------------------------------------------------------------ what tapes say; called from `add`

    def dirty(self, tape: Tape) -> None:
        """Note a tape with something to write."""
        self._move_due(self._dirty.setdefault(tape, time.monotonic()) + BLOCK_SECONDS)

    def full(self, tape: Tape, *, now: bool) -> None:
        """Note a tape with much to write: soon, or now."""
        at = time.monotonic()
        self._dirty.setdefault(tape, at)
        self._full.add(tape)
        self._move_due(at + (0 if now else COALESCE_SECONDS))

    def overflow(self, tape: Tape) -> None:
        """End a tape whose session can't hold while storage is behind."""
        self._fail(tape, RecordingFailed(TOO_SLOW))

    def hurry(self, tape: Tape) -> None:
        """Note a tape somebody waits for."""
        self.full(tape, now=True)

    def newsy(self, tape: Tape) -> None:
        """Note a tape with something new for its viewers."""
        self._newsy.add(tape)
        self._news_bell.set()

    def viewers(self, change: int) -> None:
        """Count viewers."""
        self._viewers += change
        self._gauges.viewers(self._viewers)

    def _move_due(self, due: float) -> None:
        if due < self._due:
            self._due = due
            self._bell.set()

    # ------------------------------------------------------------------ the loops

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; starts when the store is this process's alone.

        Cancel it when every tape is sealed. Raises RecordingFailed when another process has the store, or it can't be used.
        """
        with store.claim(self._root):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sync_loop)
                nursery.start_soon(self._news_loop)
                nursery.start_soon(self._late_loop)
                task_status.started()
                while True:
                    await self._until_due()
                    await self._write()

    async def _until_due(self) -> None:
        """Sleep until something is to be written or done; for ever, when nobody adds anything."""
        while True:
            due = min(self._due, min(self._chores.values(), default=NEVER))
            left = due - time.monotonic()
            if left <= 0:
                return
            self._bell = trio.Event()
            with trio.move_on_after(left):
                await self._bell.wait()

    async def _write(self) -> None:
        """Write and do what is due, all in one thread job."""
        tapes, oldest = self._take_due(time.monotonic())
        if not tapes:
            return
        for tape in tapes:
            self._note_clock(tape)
            tape.take()
            self._dirty.pop(tape, None)  # a CLOCK record is in the block just taken
        self._gauges.queue(sum(tape.queued for tape in tapes))
        before = sum(tape.reel.size for tape in tapes)
        results = await trio.to_thread.run_sync(
            self._write_reels, [tape.reel for tape in tapes], limiter=self._writers
        )
        self._gauges.written(sum(tape.reel.size for tape in tapes) - before)
        if oldest != NEVER:
            self._gauges.lag(time.monotonic() - oldest)
        for tape, failure in zip(tapes, results, strict=True):
            self._settle(tape, failure)
            if failure is None and tape.reel.queue:
                self.hurry(tape)
        self._move_due(
            time.monotonic() + BLOCK_SECONDS
        )  # rule 1: who goes on typing need not wake the writer
        self._gauges.queue(sum(tape.queued for tape in tapes))

    def _take_due(self, now: float) -> tuple[list[Tape], float]:
        """Give the tapes to see to now, and since when the first of them is dirty."""
        due = {tape: NEVER for tape, at in self._chores.items() if at <= now + CHORE_SLACK}
        young = now + JOIN_SECONDS - BLOCK_SECONDS
        due |= {tape: since for tape, since in self._dirty.items() if since <= young or tape in self._full}
        tapes = [tape for tape in due if not tape.over]
        for tape in due:
            self._dirty.pop(tape, None)
        self._full.clear()
        self._due = next(iter(self._dirty.values()), NEVER) + BLOCK_SECONDS
        return tapes, min((due[tape] for tape in tapes), default=NEVER)

    def _write_reels(self, reels: Sequence[Reel]) -> list[Failure | None]:
        results: list[Failure | None] = []
        rested = 0
        for reel in reels:
            try:
                rested += reel.write(self._packer)
                results.append(None)
            except (OSError, RecordingFailed) as error:
                results.append(error)
        self._trimmer.freed(rested)
        return results

    def _settle(self, tape: Tape, failure: Failure | None) -> None:
        """Draw the consequences of a write for one tape."""
        if tape.over:
            return
        if failure is None:
            tape.held = tape.outage = False
            self._set_chore(tape, tape.reel.next_chore)
        elif tape.hold and _may_pass(failure):
            tape.held = True
            tape.press()
            self._set_chore(tape, time.monotonic() + RETRY_SECONDS)
        elif tape.strict:
            self._fail(tape, failure)
        else:
            if not tape.outage:
                self._gauges.failed("best_effort")
                self._gauges.trouble("a recording has a gap", tape.id, str(failure))
            tape.outage = True
            self._set_chore(tape, time.monotonic() + RETRY_SECONDS)
        tape.settle()
        if tape.reel.dirty:
            self._unsynced.add(tape)
            self._sync_bell.set()

    def _set_chore(self, tape: Tape, at: float) -> None:
        if at == NEVER or tape.over:
            self._chores.pop(tape, None)
        else:
            self._chores[tape] = at

    def _fail(self, tape: Tape, failure: Failure) -> None:
        self._chores.pop(tape, None)
        if tape.failed is None and not tape.closed:
            self._gauges.failed("strict")
            self._gauges.trouble("a strict recording failed", tape.id, str(failure))
        tape.fail(said(failure))

    def _note_clock(self, tape: Tape) -> None:
        """Record the wall clock when it has been set since last looked at."""
        skew = time.time_ns() - time.monotonic_ns()
        if abs(skew - tape.clock_skew_ns) > CLOCK_JUMP_NS:
            tape.clock_skew_ns = skew
            tape.add(Kind.CLOCK, time.time_ns())

    async def _late_loop(self) -> None:
        """Tell the catalog what it could not take before."""
        while True:
            await trio.sleep(LATE_SECONDS)
            if self._late:
                await trio.to_thread.run_sync(self._tell_late, limiter=self._sealers)

    async def _sync_loop(self) -> None:
        """Sync dirty tapes, once every `sync_seconds` at most."""
        while True:
            await self._sync_bell.wait()
            await trio.sleep(self._settings.sync_seconds)
            tapes, self._unsynced = list(self._unsynced), set()
            self._sync_bell = trio.Event()
            reels = [tape.reel for tape in tapes]
            results = await trio.to_thread.run_sync(_sync_reels, reels, limiter=self._syncers)
            for tape, (seconds, failure) in zip(tapes, results, strict=True):
                self._gauges.synced(seconds)
                if failure is not None:
                    self._settle(tape, failure)

    async def _news_loop(self) -> None:
        """Tell viewers of what came, at most every NEWS_SECONDS."""
        while True:
            await self._news_bell.wait()
            await trio.sleep(NEWS_SECONDS)
            tapes, self._newsy = self._newsy, set()
            self._news_bell = trio.Event()
            for tape in tapes:
                tape.announce()


def _may_pass(failure: Failure) -> bool:
    """Say whether waiting may help: storage is full, and nothing written is in doubt."""
    return isinstance(failure, OSError) and not isinstance(failure, SyncFailed) and store.is_full(failure)


def _sync_reels(reels: Sequence[Reel]) -> list[tuple[float, Failure | None]]:
    results: list[tuple[float, Failure | None]] = []
    for reel in reels:
        began = time.monotonic()
        failure: Failure | None = None
        try:
            reel.sync()
        except SyncFailed as error:
            failure = error
        results.append((time.monotonic() - began, failure))
    return results


def ledger_fields(manifest: Manifest, folder: Path, root: Path) -> dict[str, Any]:
    """Give what the ledger keeps of a recording that is complete on disk."""
    end = manifest.end
    return {
        "session": manifest.session,
        "path": str(folder.relative_to(root)),
        "state": manifest.state,
        "segments": len(manifest.segments),
        "size": manifest.size,
        "chain": manifest.chain.hex(),
        "user": manifest.meta.get("user", ""),
        "target": manifest.meta.get("target", ""),
        "reason": end.reason if end else "",
        "by": end.by if end else "",
    }
