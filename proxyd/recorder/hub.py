"""Watching a live tape: history from the file up to a record, then live from the next.

Rule 1: no gap, no duplicate: a viewer's place is the seq of the last record it was given, and nothing else.
Rule 2: a viewer takes when it wants to; the tape never waits for one and keeps no more than its ring for all of them.
        One that lags behind the ring reads the file again until it has caught up.
Rule 3: the file is read and decrypted in a worker thread, with the data key the live session holds in memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Protocol, Self, TypeVar

import msgpack
import trio

from proxyd.errors import FormatError
from proxyd.recorder.layout import HEAD_BYTES, TRAILER_MAGIC
from proxyd.recorder.pieces import marks_of, read_header_from
from proxyd.recorder.record import Record
from proxyd.recorder.reel import Extent, weigh
from proxyd.recorder.segment import BlockDecoder, FrameType, FrameWalk, Mark

READ_BYTES = 256 << 10  # of records decoded in one thread hop
READERS = 4  # history is read by this many threads at most: viewers never starve the writer of processors
PACKED_KEPT = 8  # batches shared between viewers: those at the live edge need one, late ones a few

_readers = trio.CapacityLimiter(READERS)
Batch = TypeVar("Batch")


class Shelf(Protocol):
    """Where a recording's segments are: a reel, or what stands for one that has ended; `shelf`: replaced whole."""

    shelf: list[Extent]

    @property
    def root(self) -> Path:
        """The directory of all recordings."""

    @property
    def folder(self) -> Path:
        """That of this one."""

    @property
    def dek(self) -> bytes:
        """The data key."""

    def marks(self) -> list[Mark]:
        """Give the places in the last segment where decoding can start."""


class Played(Protocol):
    """A tape, live or ended, as who reads it knows it; see Tape."""

    @property
    def id(self) -> str:
        """The session's."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """What META says."""

    @property
    def started_ns(self) -> int:
        """Wall clock, ns since 1970."""

    @property
    def reel(self) -> Shelf:
        """Its segments."""

    @property
    def seq(self) -> int:
        """The last record."""

    @property
    def written(self) -> int:
        """The last record in a file."""

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""

    @property
    def news(self) -> trio.Event:
        """Set, and replaced, when something comes."""

    @property
    def packed(self) -> dict[int, tuple[int, bytes]]:
        """Batches that viewers share."""

    def watch_packed(self, after_seq: int = 0, *, counted: bool = True) -> PackedViewer:
        """Read it, each batch packed."""

    def join(self, *, counted: bool = True) -> None:
        """Take note of a viewer."""

    def leave(self, *, counted: bool = True) -> None:
        """Take note that one has gone."""

    def remembers(self, seq: int) -> bool:
        """Say whether the record after `seq` is in memory, or in no file either."""

    def recall(self, seq: int) -> list[Record]:
        """Give the records after `seq` that memory has."""


class History:
    """Reads a recording's files onwards from a record; worker threads only."""

    def __init__(self, reel: Shelf, after_seq: int) -> None:
        self._reel = reel
        self._after = after_seq
        self._position = -1  # in reel.shelf
        self._walk: FrameWalk | None = None
        self._decoder: BlockDecoder | None = None

    def batch(self) -> list[Record]:
        """Give the next records, about READ_BYTES of them; [] at the end of what is written. Raises FormatError."""
        found: list[Record] = []
        size = 0
        try:
            while size < READ_BYTES:
                extent = self._extent()
                if extent is None:
                    break
                with extent.path.open("rb") as file:
                    if self._walk is None:
                        self._open(extent, file)
                    size += self._read(file.fileno(), extent.size, found, READ_BYTES - size)
        except OSError as error:
            raise FormatError(f"a segment can't be read: {error.strerror}") from error
        if found:
            self._after = found[-1].seq
        return found

    def _extent(self) -> Extent | None:
        """Give the segment to read on in; None when all that is written was read."""
        shelf = list(self._reel.shelf)
        if self._position < 0:
            begun = [
                n for n, extent in enumerate(shelf) if extent.first_seq <= self._after + 1 and extent.size
            ]
            self._position = begun[-1] if begun else 0
        while self._position < len(shelf):
            extent = shelf[self._position]
            if extent.size and (self._walk is None or self._walk.offset < extent.size):
                return extent
            if self._position == len(shelf) - 1:
                return None
            self._position += 1
            self._walk = self._decoder = None
        return None

    def _open(self, extent: Extent, file: BinaryIO) -> None:
        """Begin at the last fresh frame before the wanted record."""
        header, chain, offset = read_header_from(file)
        start = Mark(offset, 0, header.start_ms, header.first_seq, chain)
        for mark in self._marks(extent, file):
            if mark.first_seq <= self._after + 1 and mark.offset < extent.size:
                start = mark
        self._walk = FrameWalk(header, start.offset, start.chain_before, start.number, start.first_seq)
        self._decoder = BlockDecoder(header, self._reel.dek)

    def _marks(self, extent: Extent, file: BinaryIO) -> Sequence[Mark]:
        if self._after < extent.first_seq:
            return ()
        if self._position == len(self._reel.shelf) - 1:
            return self._reel.marks()
        return marks_of(file, extent.size)

    def _read(self, fd: int, end: int, found: list[Record], wanted: int) -> int:
        """Read frames up to offset `end`, until `wanted` bytes of records are there; give how many came."""
        walk, decoder, size = self._walk, self._decoder, 0
        if walk is None or decoder is None:
            return 0
        while walk.offset < end and size < wanted:
            raw = os.pread(fd, HEAD_BYTES, walk.offset)
            if raw.startswith(TRAILER_MAGIC):
                walk.offset = end
                break
            head = walk.head(raw) if len(raw) == HEAD_BYTES else None
            view = memoryview(os.pread(fd, head.whole, walk.offset) if head else b"")
            frame = walk.take(head, view) if head and len(view) == head.whole else None
            if frame is None:
                raise FormatError(f"a live segment was altered at offset {walk.offset}")
            if frame.type is FrameType.EVENTS:
                records = [record for record in decoder.records(frame, view) if record.seq > self._after]
                found += records
                size += sum(weigh(record.body) for record in records)
        return size


class Watch(Generic[Batch]):
    """A viewer's place on a tape; see Tape.watch. Subclasses say what a batch is."""

    def __init__(self, tape: Played, after_seq: int, *, counted: bool = True) -> None:
        self._tape = tape
        self._seq = after_seq
        self._history: History | None = None
        self._joined = True
        self._counted = counted
        tape.join(counted=counted)

    def close(self) -> None:
        """Stop watching; idempotent."""
        if self._joined:
            self._joined = False
            self._tape.leave(counted=self._counted)

    async def aclose(self) -> None:
        """Stop watching, for contextlib.aclosing."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        await trio.lowlevel.checkpoint()
        tape = self._tape
        while True:
            if tape.remembers(self._seq):
                self._history = None
                batch = self._recall()
            else:
                batch = await self._read()
            if batch is not None:
                return batch
            if tape.over and tape.remembers(self._seq):
                self.close()
                raise StopAsyncIteration
            if tape.remembers(self._seq):
                await tape.news.wait()

    async def _read(self) -> Batch | None:
        """Take the next batch from the file."""
        tape, goal = self._tape, self._tape.written
        history, self._history = self._history or History(tape.reel, self._seq), None
        records = await trio.to_thread.run_sync(history.batch, limiter=_readers, abandon_on_cancel=True)
        self._history = history  # not reached when cancelled: the thread may go on with it
        if not records:
            self._seq = max(self._seq, goal)  # up to there was lost, and the file says so further on
            return None
        self._seq = records[-1].seq
        return self._made(records)

    def _recall(self) -> Batch | None:
        """Take the next batch from memory."""
        records = self._tape.recall(self._seq)
        if not records:
            return None
        self._seq = records[-1].seq
        return self._made(records)

    def _made(self, records: list[Record]) -> Batch:
        raise NotImplementedError


class Viewer(Watch[list[Record]]):
    """An async iterator of lists of records."""

    def _made(self, records: list[Record]) -> list[Record]:
        return records


class PackedViewer(Watch[bytes]):
    """An async iterator of packed lists of records."""

    def _made(self, records: list[Record]) -> bytes:
        return pack_batch(records)

    def _recall(self) -> bytes | None:
        """Take the batch another viewer at this place has had packed, or pack it for the others."""
        shared, after = self._tape.packed, self._seq
        if after not in shared:
            batch = super()._recall()
            if batch is None:
                return None
            while len(shared) >= PACKED_KEPT:
                del shared[next(iter(shared))]
            shared[after] = (self._seq, batch)
        self._seq, batch = shared[after]
        return batch


def pack_batch(records: Sequence[Record]) -> bytes:
    """Pack records as [[seq, at_us, kind, channel, body], ...]."""
    packed: bytes = msgpack.packb(list(records), unicode_errors="backslashreplace")
    return packed


__all__ = ["History", "PackedViewer", "Played", "Shelf", "Viewer", "pack_batch"]
