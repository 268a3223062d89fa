"""The reel a tape is wound on: one session's segments on disk while they are written.

Rule 1: worker threads only; `lock` lets one at a time write. Blocks are written in the order they were queued,
        whichever thread takes them off.
Rule 2: a block leaves the queue when its frame is made; what storage did not take of a frame waits in the file and
        goes first: a retry writes the same bytes again, never the same nonce for other bytes.
Rule 3: after a failed sync nothing more goes into that segment; it is left as it is and the next one begins.
Rule 4: what can be read back is published in `shelf`, one immutable entry per segment, replaced whole.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgpack

from proxyd.errors import RecordingFailed
from proxyd.recorder import store
from proxyd.recorder.forms import DESKTOP
from proxyd.recorder.keys import Signer
from proxyd.recorder.layout import MAX_COUNT, NO_CHAIN
from proxyd.recorder.manifest import End, Manifest, SegmentEntry
from proxyd.recorder.segment import Item, Mark, SegmentHeader, SegmentWriter

BLOCK_BYTES = 1 << 20  # a frame opens whole: this is what a reader must hold at once
TURN_BYTES = 2 << 20  # written of one reel at a time: its session, and the other reels, wait no longer
SEGMENT_BYTES = 16 << 20  # parts of an object-store upload, and what a damaged disk block can cost
SEGMENT_MS = 600_000  # ... or ten minutes: what is sealed can be copied away
CHECKPOINT_SECONDS = 10.0  # how much of a live recording an intruder could replace unseen
REST_SECONDS = 5.0  # an idle stream is freed after this: measured, 1 % more bytes for an interactive session
NEVER = float("inf")


class SyncFailed(OSError):
    """A sync failed: what was written since the one before may or may not be on disk."""


class Block(NamedTuple):
    """Records that follow each other; `size` is what they weigh in memory."""

    first_seq: int
    items: list[Item]
    size: int

    @property
    def last_seq(self) -> int:
        """Give the seq of the last record."""
        return self.first_seq + len(self.items) - 1


class Extent(NamedTuple):
    """How far a segment can be read: `size` bytes, from record `first_seq` on."""

    number: int
    path: Path
    first_seq: int
    size: int


class _Good(NamedTuple):
    """The last frame boundary that is in the file."""

    size: int
    chain: bytes
    next_seq: int
    t1_ms: int


class _Segment(NamedTuple):
    """The segment being written."""

    file: store.SegmentFile
    writer: SegmentWriter


class Reel:
    """One session's segments. `written_seq`: the last record that is in a file; `lost`: records that never will be."""

    __slots__ = (
        "_abandon",
        "_checkpoint_at",
        "_dek",
        "_entries",
        "_fd_lock",
        "_forget_seq",
        "_good",
        "_manifest",
        "_rest_at",
        "_sealing",
        "_segment",
        "_signer",
        "folder",
        "lock",
        "lost",
        "queue",
        "root",
        "shelf",
        "sync_failed",
        "synced_seq",
        "written_seq",
    )

    def __init__(self, root: Path, manifest: Manifest, dek: bytes, signer: Signer) -> None:
        """Take an open manifest; raises ValueError when the session's id can't be a file name."""
        self.root = root
        self.folder = store.folder_of(root, manifest.session, manifest.started_ns)
        self.lock = threading.Lock()
        self.queue: deque[Block] = deque()
        self.shelf: list[Extent] = []
        self.written_seq = self.synced_seq = self.lost = 0
        self.sync_failed = False
        self._manifest, self._dek, self._signer = manifest, dek, signer
        self._fd_lock = (
            threading.Lock()
        )  # a sync and a close never meet, nor two threads counting what is lost
        self._entries: list[SegmentEntry] = []
        self._segment: _Segment | None = None
        self._good = _Good(0, NO_CHAIN, 0, 0)
        self._sealing = self._abandon = False
        self._forget_seq = 0
        self._checkpoint_at = self._rest_at = NEVER

    @property
    def session(self) -> str:
        """Give the session's id."""
        return self._manifest.session

    @property
    def dek(self) -> bytes:
        """Give the data key, for viewers of the live session."""
        return self._dek

    @property
    def size(self) -> int:
        """Give the bytes written to all segments."""
        return sum(extent.size for extent in list(self.shelf))

    @property
    def dirty(self) -> bool:
        """Say whether something written is not synced yet."""
        segment = self._segment
        return segment is not None and segment.file.dirty

    @property
    def next_chore(self) -> float:
        """Give when (monotonic seconds) `write` should come again though nothing is queued; NEVER: no need."""
        return min(self._checkpoint_at, self._rest_at)

    def marks(self) -> list[Mark]:
        """Give the places in the segment being written where decoding can start."""
        segment = self._segment
        return list(segment.writer.marks) if segment else []

    def begin(self, packer: msgpack.Packer) -> None:
        """Make the recording on disk, durably, with what is queued as its first records; raises OSError."""
        with self.lock:
            store.mark_open(self.root, self.session)
            store.make_directory(self.folder, self.root)
            store.write_manifest(self.folder, self._manifest.signed(self._signer))
            self._drain(packer)
            self._sync()

    def write(self, packer: msgpack.Packer) -> bool:
        """Write TURN_BYTES of what is queued, do what is due; raises OSError (what is left, stays) and RecordingFailed.

        Gives whether a zstd stream was freed.
        """
        with self.lock:
            self._drain(packer, TURN_BYTES)
            return self._chores()

    def sync(self) -> None:
        """Make what is written durable; raises SyncFailed."""
        with self._fd_lock:
            if self.dirty:
                self._sync_file()

    def fail(self, last_seq: int) -> None:
        """Give up the segment being written and every block up to `last_seq`; what comes later begins a new one."""
        self._forget_seq, self._abandon = last_seq, True

    def close(self) -> None:
        """Let go of the file, as it is: recovery sees to it."""
        with self.lock, self._fd_lock:
            if self._segment is not None:
                self._segment.file.close()
                self._segment = None

    def finish(self, packer: msgpack.Packer, end: End, *, failed: bool) -> Manifest:
        """Write what is queued, seal, and put the final manifest in place; raises OSError, may be called again."""
        with self.lock:
            self._drain(packer)
            if self._segment is not None:
                self._seal(self._segment)
            failed = failed or (self.sync_failed and self._manifest.strict)
            manifest = replace(
                self._manifest,
                state="failed" if failed else "sealed",
                segments=tuple(self._entries),
                end=end,
            ).signed(self._signer)
            store.write_manifest(self.folder, manifest)
            return manifest

    # ------------------------------------------------------------------ writing

    def _drain(self, packer: msgpack.Packer, most: int | None = None) -> None:
        """Write the queue, or about `most` bytes of it."""
        if self._abandon:
            self._abandon = False
            if self._segment is not None:
                self._leave(self._segment)
        if self._segment is not None and self._sealing:
            self._seal(self._segment)
        elif self._segment is not None:
            self._segment.file.push()
            self._settle(self._segment)
        taken = 0
        while self.queue and (most is None or taken < most):
            if self.queue[0].last_seq <= self._forget_seq:
                self.queue.popleft()
                continue
            self._cut_first()
            taken += self.queue[0].size
            segment = self._ready_for(self.queue[0])
            self._append(segment, self.queue.popleft(), packer)

    def _append(self, segment: _Segment, block: Block, packer: msgpack.Packer) -> None:
        try:
            frame = segment.writer.events(block.items, packer)
        except (ValueError, TypeError, OverflowError) as error:
            with self._fd_lock:
                self.lost += len(block.items)
            raise RecordingFailed("The recording failed: a record can't be packed") from error
        now = time.monotonic()
        self._rest_at = now + REST_SECONDS
        self._checkpoint_at = min(self._checkpoint_at, now + CHECKPOINT_SECONDS)
        segment.file.append(frame)
        self._settle(segment)

    def _cut_first(self) -> None:
        """Cut the first queued block into blocks of one frame each."""
        block = self.queue[0]
        if block.size > BLOCK_BYTES or len(block.items) > MAX_COUNT:
            parts = list(_cut(block))
            self.queue.popleft()
            self.queue.extendleft(reversed(parts))

    def _ready_for(self, block: Block) -> _Segment:
        """Have a segment open that may take the block."""
        if self._segment is not None:
            writer = self._segment.writer
            old = block.items[0][0] // 1000 - writer.header.start_ms >= SEGMENT_MS
            if old or writer.size >= SEGMENT_BYTES or block.first_seq != writer.next_seq:
                self._seal(self._segment)
        return self._segment or self._begin_segment(block)

    def _begin_segment(self, block: Block) -> _Segment:
        number = len(self._entries)
        header = SegmentHeader(
            session=self.session,
            number=number,
            prev_chain=self._good.chain,
            wall_ns=time.time_ns(),
            start_ms=block.items[0][0] // 1000,
            first_seq=block.first_seq,
            signer=self._signer.key_id,
            keys=self._manifest.keys,
        )
        path = store.segment_path(self.folder, number)
        file = store.SegmentFile(path)
        try:
            store.sync_directory(self.folder)
        except OSError:
            file.close()
            with suppress(OSError):  # the first error is the one to tell; recovery knows an empty segment
                path.unlink()
            raise
        pictures = self._manifest.meta.get("protocol") == DESKTOP
        writer = SegmentWriter(header, self._dek, self._signer, pictures=pictures)
        segment = self._segment = _Segment(file, writer)
        self._good = _Good(0, header.prev_chain, header.first_seq, header.start_ms)
        self.shelf.append(Extent(number, path, block.first_seq, 0))
        file.append(segment.writer.preamble)
        self._settle(segment)
        return segment

    def _settle(self, segment: _Segment) -> None:
        """Note that all frames made so far are in the file."""
        writer = segment.writer
        self._good = _Good(writer.size, writer.chain, writer.next_seq, writer.t1_ms)
        self.shelf[-1] = self.shelf[-1]._replace(size=writer.size)
        self.written_seq = max(self.written_seq, writer.next_seq - 1)

    def _chores(self) -> bool:
        """Sign and free what is due."""
        now, segment = time.monotonic(), self._segment
        if segment is None:
            self._checkpoint_at = self._rest_at = NEVER
            return False
        if now >= self._checkpoint_at:
            self._checkpoint_at = NEVER
            segment.file.append(segment.writer.checkpoint())
            self._settle(segment)
        if now < self._rest_at:
            return False
        self._rest_at = NEVER
        segment.writer.rest()
        return True

    # ------------------------------------------------------------------ the end of a segment

    def _seal(self, segment: _Segment) -> None:
        if self._sealing:
            segment.file.push()
        else:
            self._sealing = True
            segment.file.append(segment.writer.seal())
        self._settle(segment)
        self._sync()
        self._close(segment, sealed=True)

    def _leave(self, segment: _Segment) -> None:
        """Close the segment as it is, cut back to its last whole frame."""
        file = segment.file
        sealed = self._sealing and file.whole
        if not file.whole:
            with self._fd_lock, suppress(OSError):  # readers stop at the torn frame just the same
                file.cut(self._good.size)
        if self._good.size:
            self._close(segment, sealed=sealed)
            return
        with suppress(OSError):  # not even a header: recovery knows such a file too
            file.path.unlink()
        with self._fd_lock:
            file.close()
            self._segment = None
        self.shelf.pop()

    def _close(self, segment: _Segment, *, sealed: bool) -> None:
        header, good = segment.writer.header, self._good
        entry = SegmentEntry(
            number=header.number,
            size=good.size,
            first_seq=header.first_seq,
            records=good.next_seq - header.first_seq,
            start_ms=header.start_ms,
            end_ms=good.t1_ms,
            chain=good.chain,
            sealed=sealed,
        )
        self._entries.append(entry)
        with self._fd_lock:
            segment.file.close()
            self._segment = None
        self._sealing = False
        self._checkpoint_at = self._rest_at = NEVER

    def _sync(self) -> None:
        with self._fd_lock:
            self._sync_file()

    def _sync_file(self) -> None:
        if self._segment is None:
            return
        reached = self.written_seq
        try:
            self._segment.file.sync()
        except OSError as error:
            self.sync_failed = self._abandon = True
            self.lost += reached - self.synced_seq
            self.synced_seq = reached
            raise SyncFailed(error.errno, error.strerror) from error
        self.synced_seq = reached


def _cut(block: Block) -> Iterator[Block]:
    """Cut a block into blocks of at most BLOCK_BYTES and MAX_COUNT records; one record is never cut."""
    start, weight = 0, 0
    for position, item in enumerate(block.items):
        size = weigh(item[3])
        if position > start and (weight + size > BLOCK_BYTES or position - start == MAX_COUNT):
            yield Block(block.first_seq + start, block.items[start:position], weight)
            start, weight = position, 0
        weight += size
    yield Block(block.first_seq + start, block.items[start:], weight)


ITEM_BYTES = 64  # what a record weighs beside its body, so that a flood of empty ones is bounded too


def weigh(body: object) -> int:
    """Say what a record weighs in memory, roughly, in bytes; a statement's is weighed as it passes, so no detours."""
    if isinstance(body, bytes | str | bytearray | memoryview):
        return ITEM_BYTES + len(body)
    if isinstance(body, dict):
        values: Iterable[object] = body.values()
    elif isinstance(body, list | tuple):
        values = body
    else:
        return ITEM_BYTES
    total = ITEM_BYTES
    for value in values:
        kind = type(value)
        if kind is str or kind is bytes:
            total += ITEM_BYTES + len(value)  # type: ignore[arg-type]  # both have one
        elif kind is int or kind is bool:
            total += ITEM_BYTES
        else:
            total += weigh(value)
    return total
