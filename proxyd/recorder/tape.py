"""A tape: what a session records to, and what its viewers watch.

Rule 1: `add` never waits, never raises and copies no bytes; it runs on the thread of trio and the host loop.
Rule 2: a record is in memory until it is in the file, so a viewer finds every record in one of the two.
Rule 3: the queue is bounded: above QUEUE_HIGH the session is told to hold, whatever storage does.
Rule 4: nothing is lost in silence: a strict tape fails, once, and says so; a best-effort tape keeps a LOST record.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import trio

from proxyd.errors import RecordingFailed
from proxyd.recorder.hub import PackedViewer, Viewer
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.reel import ITEM_BYTES, Block, Reel, weigh
from proxyd.recorder.segment import Item
from proxyd.recorder.summary import COUNTED, Summary

if TYPE_CHECKING:
    from proxyd.recorder.recorder import Recorder

BLOCK_FULL = 64 << 10  # a block this long is written soon, however young: what a crash may cost at full rate
BLOCK_HUGE = 1 << 20  # ... and this long, at once: a frame holds no more
BODY_BYTES = (
    4 << 20
)  # of one record: a frame holds twice that, and no message of any protocol here comes near
QUEUE_HIGH = 4 << 20  # storage is behind: the session holds
QUEUE_LOW = 3 << 20  # storage has caught up with some; less would let the session wait while storage works
QUEUE_MAX = 64 << 20  # a session that can't hold (bytes its library had read already) ends here
OUTAGE_KEEP = 1 << 20  # what a best-effort tape keeps while storage fails: a short failure costs nothing
RING_BYTES = 1 << 20  # written blocks kept for viewers, so that one a moment late need not read the file
BATCH_BYTES = 256 << 10  # what a viewer gets at once: fits a control frame, ends soon

_OUTGOING = (Kind.OUTPUT, Kind.ERROR_OUTPUT, Kind.PDU)
_INCOMING = (Kind.INPUT, Kind.INPUT_PDU)


class Tape:
    """One live session's recording; made by Recorder.open.

    `id`, `meta`; `started_ns`: wall clock, ns since 1970; `written`: the last record in a file; `failed`: why a
    strict tape ended early; `over`: sealed, or given up; `summary`: what the list of sessions says of it.
    """

    __slots__ = (
        "__weakref__",
        "_announced",
        "_closed",
        "_crossed",
        "_first_seq",
        "_items",
        "_limit",
        "_memory",
        "_memory_bytes",
        "_on_failure",
        "_on_pressure",
        "_open_bytes",
        "_recorder",
        "_sealing",
        "_told_lost",
        "_viewers",
        "_wanted",
        "_zero_ns",
        "clock_skew_ns",
        "failed",
        "held",
        "hold",
        "id",
        "lost",
        "meta",
        "news",
        "outage",
        "over",
        "packed",
        "pressed",
        "progress",
        "queued",
        "reel",
        "sealed",
        "started_ns",
        "strict",
        "summary",
        "written",
    )

    def __init__(
        self,
        recorder: Recorder,
        reel: Reel,
        meta: Mapping[str, Any],
        started_ns: int,
        *,
        strict: bool,
        hold: bool,
        on_pressure: Callable[[bool], None],
        on_failure: Callable[[RecordingFailed], None],
    ) -> None:
        self.id, self.meta, self.started_ns = reel.session, meta, started_ns
        self.strict, self.hold = strict, hold
        self.reel = reel
        self._recorder = recorder
        self._on_pressure, self._on_failure = on_pressure, on_failure
        self._zero_ns = time.monotonic_ns()
        self.clock_skew_ns = time.time_ns() - self._zero_ns
        self._items: list[Item] = []
        self._first_seq = 1
        self._open_bytes = 0
        self._limit = BLOCK_FULL
        self._wanted = True  # somebody is to be told of the next record: the writer, or viewers
        self._closed = self._sealing = False
        self._crossed = [0] * (max(Kind) + 1)
        self._memory: deque[Block] = (
            deque()
        )  # closed blocks not known to be written, and RING_BYTES for viewers
        self._memory_bytes = 0
        self._viewers = 0
        self._announced = 0
        self._told_lost = 0
        self.lost = 0
        self.written = self.queued = 0
        self.summary = Summary()
        self.failed: RecordingFailed | None = None
        self.held = self.outage = self.pressed = self.over = False
        self.news = trio.Event()  # replaced each time viewers are told
        self.progress = trio.Event()  # replaced each time something was written
        self.sealed = trio.Event()
        self.packed: dict[int, tuple[int, bytes]] = {}

    # ------------------------------------------------------------------ what sessions do

    def add(self, kind: Kind, body: Any, channel: int = 0, weight: int = 0) -> None:
        """Record `body` as it is now; a map or list must not be changed afterwards, and packs into 8 MiB at most.

        `weight`: bytes a map or list takes in memory, roughly, from callers that know; else it is weighed. Bytes
        longer than BODY_BYTES become several records. After the end, and after a failure, does nothing. Costs
        0.5 us, and what waking the writer costs once a block.
        """
        if self._closed:
            return
        if type(body) is bytes:
            size = len(body)
            if size > BODY_BYTES:
                for start in range(0, size, BODY_BYTES):
                    self.add(kind, body[start : start + BODY_BYTES], channel)
                return
            self._crossed[kind] += size
        elif isinstance(body, bytearray | memoryview):
            self.add(kind, bytes(body), channel)  # the caller's buffer will change
            return
        else:
            size = weight or self._weighed(kind, body)
        self._items.append(((time.monotonic_ns() - self._zero_ns) // 1000, kind, channel, body))
        size = self._open_bytes = self._open_bytes + size + ITEM_BYTES
        if self._wanted:
            self._tell()
        if size >= self._limit:
            self._full()

    @property
    def seq(self) -> int:
        """Give the seq of the last record added."""
        return self._first_seq + len(self._items) - 1

    @property
    def input_bytes(self) -> int:
        """Give the client bytes recorded as forwarded."""
        return sum(self._crossed[kind] for kind in _INCOMING)

    @property
    def output_bytes(self) -> int:
        """Give the target bytes recorded."""
        return sum(self._crossed[kind] for kind in _OUTGOING)

    @property
    def bytes_written(self) -> int:
        """Give the bytes in this recording's segments."""
        return self.reel.size

    async def flush(self) -> None:
        """Wait until everything added so far is in a file; raises RecordingFailed. Needs Recorder.run."""
        goal = self.seq
        while self.written < goal:
            if self.failed is not None:
                raise self.failed
            if not (self.held or self.outage):  # those are tried again in their own time
                self._recorder.hurry(self)
            await self.progress.wait()
        await trio.lowlevel.checkpoint()

    async def seal(self, reason: str, *, by: str = "", error: str = "") -> None:
        """End the recording: END, INDEX, SEAL, manifest, ledger, catalog.

        Idempotent; shielded; returns after SEAL_SECONDS at the latest. Never raises: what went wrong is in the
        catalog and the metrics, and recovery seals it at the next start.
        """
        if self._sealing:
            with trio.CancelScope(shield=True):
                await self.sealed.wait()
            return
        self._sealing = True
        if self.failed is not None:
            self._closed = False
            self._tell_lost(str(self.failed))
        elif self.outage or self.lost + self.reel.lost > self._told_lost:
            self._tell_lost("storage failed")
        self.add(Kind.END, {"reason": reason, "by": by, "error": error})
        self._closed = True
        self.take()
        try:
            await self._recorder.seal(self, reason, by, error)
        finally:
            self.over = True
            self.progressed()
            self.announce()
            self.sealed.set()

    def watch(self, after_seq: int = 0) -> Viewer:
        """Watch from the record after `after_seq` on: history, then live, without gap; ends after END.

        An async iterator of lists of records; a context manager, too: leave it, or `close()` it, when done.
        """
        return Viewer(self, after_seq)

    def watch_packed(self, after_seq: int = 0, *, counted: bool = True) -> PackedViewer:
        """Watch, each batch packed: msgpack [[seq, at_us, kind, channel, body], ...], shared between viewers.

        Not `counted`: nobody looks at it, as when an index is made.
        """
        return PackedViewer(self, after_seq, counted=counted)

    # ------------------------------------------------------------------ the slow side of add

    def _weighed(self, kind: Kind, body: Any) -> int:
        """Give the size of a body that is no bytes, and keep what the list of sessions says of it."""
        if kind in COUNTED:
            self.summary.take(kind, (time.monotonic_ns() - self._zero_ns) // 1000, body)
        return weigh(body) - ITEM_BYTES

    def _tell(self) -> None:
        self._wanted = False
        self._recorder.dirty(self)
        if self._viewers:
            self._recorder.newsy(self)

    def _full(self) -> None:
        """See to a block that has reached a limit, and set the next."""
        size, total = self._open_bytes, self._open_bytes + self.queued
        if total >= QUEUE_MAX:
            self._overflow()
            return
        if total >= QUEUE_HIGH and not self._loses():
            self.press()
        self._recorder.full(self, now=size >= BLOCK_HUGE)
        limits = (BLOCK_FULL, BLOCK_HUGE, QUEUE_HIGH - self.queued, QUEUE_MAX - self.queued)
        self._limit = min(limit for limit in limits if limit > size)

    def _loses(self) -> bool:
        """Say whether what can't be written now is given up, and the session goes on: best-effort while storage fails."""
        return self.outage and not self.strict and not self.hold

    def _overflow(self) -> None:
        if self.strict or self.hold:
            self._recorder.overflow(self)
        else:
            self._drop_open()

    def _drop_open(self) -> None:
        """Lose the open block, and keep count."""
        self.lost += len(self._items)
        self._first_seq += len(self._items)
        self._items, self._open_bytes, self._limit, self._wanted = [], 0, BLOCK_FULL, True

    def _tell_lost(self, why: str) -> None:
        total = self.lost + self.reel.lost
        self.add(Kind.LOST, {"why": why, "records": total - self._told_lost})
        self._told_lost = total

    # ------------------------------------------------------------------ what the recorder does

    @property
    def closed(self) -> bool:
        """Say whether nothing more is recorded."""
        return self._closed

    def take(self) -> None:
        """Close the open block and queue it for the writer."""
        if not self._items:
            return
        if self.outage and not self._closed and self.queued > OUTAGE_KEEP:
            self._drop_open()
            return
        block = Block(self._first_seq, self._items, self._open_bytes)
        self.reel.queue.append(block)
        self._memory.append(block)
        self._memory_bytes += block.size
        self.queued += block.size
        self._first_seq += len(block.items)
        self._items, self._open_bytes, self._limit, self._wanted = [], 0, BLOCK_FULL, True

    def settle(self) -> None:
        """Take note of what was written: memory, pressure, whoever waits for it."""
        self.written = self.reel.written_seq
        self.queued = sum(block.size for block in self._memory if block.last_seq > self.written)
        self._prune()
        if self.pressed and not self.held and (self._loses() or self.queued + self._open_bytes < QUEUE_LOW):
            self.pressed = False
            self._on_pressure(False)
        if not self.strict and not self.outage and self.lost + self.reel.lost > self._told_lost:
            self._tell_lost("storage failed")
        self.progressed()

    def progressed(self) -> None:
        """Wake whoever waits for something to be written."""
        self.progress.set()
        self.progress = trio.Event()

    def press(self) -> None:
        """Tell the session to hold."""
        if not self.pressed and not self._closed:
            self.pressed = True
            self._on_pressure(True)

    def fail(self, error: RecordingFailed) -> None:
        """End a strict recording here, and tell the session, once."""
        if self.failed is not None or self._sealing:
            return
        self.failed = error
        lost = self.seq - self.written
        self.reel.fail(self.seq)
        self.lost += lost
        self._first_seq += len(self._items)
        self._items, self._open_bytes = [], 0
        self._closed = True
        self.progressed()
        self._on_failure(error)

    def _prune(self) -> None:
        """Forget blocks that are in the file, but for the ring."""
        memory = self._memory
        spare = RING_BYTES if self._viewers else 0
        kept = self._memory_bytes
        while memory and memory[0].last_seq <= self.written:
            if self._viewers and kept - self.queued <= spare:
                break
            kept -= memory.popleft().size
        self._memory_bytes = kept

    # ------------------------------------------------------------------ what viewers do

    def join(self, *, counted: bool = True) -> None:
        """Take note of a viewer, and count it."""
        self._viewers += 1
        self._announced = max(self._announced, self.seq)
        self._wanted = True
        self._recorder.viewers(int(counted))

    def leave(self, *, counted: bool = True) -> None:
        """Take note that a viewer has gone, and count it off."""
        self._viewers -= 1
        self._recorder.viewers(-int(counted))
        if not self._viewers:
            self.packed.clear()
            self._prune()

    def announce(self) -> None:
        """Let viewers see everything added so far."""
        self._announced = self.seq
        self._wanted = True
        self.news.set()
        self.news = trio.Event()

    def remembers(self, seq: int) -> bool:
        """Say whether the record after `seq` is in memory, or in no file either."""
        first = self._memory[0].first_seq if self._memory else self._first_seq
        return seq + 1 >= first or self.written <= seq

    def recall(self, seq: int) -> list[Record]:
        """Give the announced records after `seq` that memory has, at most about BATCH_BYTES; [] when there are none."""
        found: list[Record] = []
        size = 0
        for first_seq, items in self._blocks(seq):
            start = max(0, seq + 1 - first_seq)
            for number, item in enumerate(items[start:], first_seq + start):
                if number > self._announced or size >= BATCH_BYTES:
                    return found
                found.append(Record(number, *item))  # type: ignore[arg-type]  # a tape's kinds are Kinds
                size += weigh(item[3])
        return found

    def _blocks(self, seq: int) -> list[tuple[int, list[Item]]]:
        blocks = [(block.first_seq, block.items) for block in self._memory if block.last_seq > seq]
        return [*blocks, (self._first_seq, self._items)]
