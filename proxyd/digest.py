"""What is measured of a file that passes: its size, and its SHA-256 made beside the event loop.

Rule 1: the event loop never hashes. One daemon thread of the process does; only when more than QUEUED_LIMIT bytes
        wait for it does the caller hash its own file's bytes itself, which slows the sender down.
Rule 2: a body is never collected: it is counted, handed to the hash in slices, and forgotten. Bytes that come ahead of
        their place are kept up to REORDER_LIMIT a stream; beyond that the file has no hash, and the event says why.
Rule 3: a hash is told only for a body that passed once, in sequence, from offset 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from queue import SimpleQueue

QUEUED_LIMIT = 8 * 1024 * 1024
"""Bytes of all files that may wait for the hashing thread: 5 ms of its work."""

REORDER_LIMIT = 4 * 1024 * 1024
"""Bytes kept ahead of their place in one stream: OpenSSH asks for 64 blocks of 32 KiB at once, 2 MiB."""

JOIN_LIMIT = 128 * 1024
"""Bytes joined for one call of the hash, 70 us of work with the interpreter let go; joining more holds it too long."""

GATHER_S = 0.002
"""What the thread lets gather before it looks again: at full rate a wake-up then serves some 20 packets."""

PIECE_COST = 128
"""Bytes a kept slice costs beside its content: its object and its place in a list or map."""

EMPTY = hashlib.sha256(b"").hexdigest()

Deliver = Callable[[Callable[[], None]], object]
"""Calls its argument later on the event loop's thread; safe to use from any thread (`loop.call_soon_threadsafe`)."""


class _HashThread:
    """The one thread of the process that hashes; started with the first file."""

    def __init__(self) -> None:
        # Over waiting_bytes and every digest's list; held for a few instructions.
        self.lock = threading.Lock()
        self.waiting_bytes = 0
        self._due: SimpleQueue[Digest] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def wake(self, digest: Digest) -> None:
        """Have the thread hash what waits in `digest`."""
        self._due.put(digest)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="proxyd-sha256", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._due.get().drain()
            if self._due.empty():
                # Not a wait for anything: a wake-up per packet would cost more than the hash.
                time.sleep(GATHER_S)


_thread = _HashThread()


class Digest:
    """The SHA-256 of one body; used from the event loop's thread, hashed by another."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._hash = hashlib.sha256()
        self._waiting: deque[bytes | memoryview] = deque()
        self._queued = False
        self._finished: Callable[[str], None] | None = None
        self._turn = threading.Lock()  # held by the one who hashes

    def update(self, data: bytes | memoryview) -> None:
        """Append `data`; it must not change afterwards. Hashes itself when QUEUED_LIMIT is reached."""
        with _thread.lock:
            self._waiting.append(data)
            _thread.waiting_bytes += len(data) + PIECE_COST
            full = _thread.waiting_bytes > QUEUED_LIMIT
            wake, self._queued = not self._queued, True
        if full:
            self.step()
        if wake:
            _thread.wake(self)

    def finish(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called once with the hex digest, later, on the event loop's thread."""
        with _thread.lock:
            self._finished = callback
        _thread.wake(self)

    def abandon(self) -> None:
        """Forget what waits: nobody will ask."""
        with _thread.lock:
            _thread.waiting_bytes -= _cost(self._waiting)
            self._waiting.clear()

    def drain(self) -> None:
        """Hash all that waits, and deliver the result when the body has ended."""
        while self.step():
            pass

    def step(self) -> bool:
        """Hash up to JOIN_LIMIT bytes, from any thread; False when nothing waited: then the result is delivered."""
        with self._turn:
            batch, finished = self._take()
            if batch:
                self._hash.update(batch[0] if len(batch) == 1 else b"".join(batch))
                with _thread.lock:
                    _thread.waiting_bytes -= _cost(batch)
                return True
        if finished is not None:
            told, result = finished, self._hash.hexdigest()
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to be told
                self._deliver(lambda: told(result))
        return False

    def _take(self) -> tuple[list[bytes | memoryview], Callable[[str], None] | None]:
        batch: list[bytes | memoryview] = []
        gathered = 0
        with _thread.lock:
            while self._waiting and gathered < JOIN_LIMIT:
                batch.append(self._waiting.popleft())
                gathered += len(batch[-1]) + PIECE_COST
            if batch:
                return batch, None
            self._queued = False
            finished, self._finished = self._finished, None
            return batch, finished


def _cost(waiting: Collection[bytes | memoryview]) -> int:
    return sum(map(len, waiting)) + PIECE_COST * len(waiting)


class Room:
    """How many bytes one stream keeps ahead of their place."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Body:
    """What passed of one file in one direction: counted, and hashed while it comes in sequence from offset 0.

    A block is `begin`, any number of `piece`, `end`; blocks may come out of order as far as `room` goes.
    """

    __slots__ = ("_ahead", "_block", "_block_at", "_deliver", "_digest", "_next", "_room", "size", "why")

    def __init__(self, deliver: Deliver, room: Room) -> None:
        self.size = 0
        self.why = ""
        self._deliver = deliver
        self._room = room
        self._next = 0
        self._digest: Digest | None = None
        self._ahead: dict[int, bytearray] = {}
        self._block: bytearray | None = None
        self._block_at = 0

    def begin(self, offset: int) -> None:
        """Begin a block at `offset`."""
        if offset == self._next or self.why:
            return
        if offset < self._next or offset in self._ahead:
            self.lose("passed more than once")
        elif offset - self._next > REORDER_LIMIT:
            self.lose(self._gap())
        else:
            self._block, self._block_at = bytearray(), offset
            self._room.used += PIECE_COST

    def piece(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the block."""
        size = len(data)
        self.size += size
        if self.why:
            return
        if self._block is None:
            self._next += size
            if self._digest is None:
                self._digest = Digest(self._deliver)
            self._digest.update(data)
        elif self._room.used + size > REORDER_LIMIT:
            self.lose(self._gap())
        else:
            self._room.used += size
            self._block += data

    def end(self) -> None:
        """End the block; blocks that waited for it follow."""
        if self._block is not None:
            if self._block:
                self._ahead[self._block_at] = self._block
            else:
                self._room.used -= PIECE_COST
            self._block = None
        elif self._ahead:
            self._follow()

    def lose(self, why: str) -> None:
        """Give the hash up; the first reason stays."""
        self.why = self.why or why
        if self._digest is not None:
            self._digest.abandon()
            self._digest = None
        kept = list(self._ahead.values()) if self._block is None else [*self._ahead.values(), self._block]
        self._room.used -= sum(len(block) + PIECE_COST for block in kept)
        self._ahead, self._block = {}, None

    def finish(self, callback: Callable[[str | None, str], None]) -> None:
        """End the body: `callback` gets the hex digest and "", later on the loop's thread; or None and why, at once.

        What comes afterwards is only counted.
        """
        if self._ahead or self._block is not None:
            self.lose(self._gap())
        why, self.why = self.why, self.why or "closed"
        digest, self._digest = self._digest, None
        if digest is not None:
            digest.finish(lambda sha256: callback(sha256, ""))
        else:
            callback(None if why else EMPTY, why)

    def _gap(self) -> str:
        return "out of sequence" if self._next else "does not begin at offset 0"

    def _follow(self) -> None:
        if self._digest is None:  # the hash was given up, or the block was empty
            return
        while (block := self._ahead.pop(self._next, None)) is not None:
            self._next += len(block)
            self._room.used -= len(block) + PIECE_COST
            self._digest.update(bytes(block))
        if self._ahead and min(self._ahead) < self._next:
            self.lose("passed more than once")
