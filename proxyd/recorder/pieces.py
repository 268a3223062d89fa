"""A segment's file read frame by frame: what `segment.scan` finds in its bytes, found without holding them.

Rule 1: memory holds one frame, and bytes are read only from where reading starts.
Rule 2: a frame is believed as in a scan: when its length, number and chain fit; the first that does not ends the segment.
Rule 3: a start in the middle comes from INDEX, and is believed when the frame there fits the chain that INDEX names;
        else reading starts at the beginning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, Final

import msgpack

from proxyd.errors import FormatError
from proxyd.recorder.layout import (
    HEAD,
    HEAD_BYTES,
    MAX_HEADER,
    MAX_PAYLOAD,
    SEAL,
    TRAILER,
    TRAILER_MAGIC,
    FrameHead,
    FrameInfo,
    FrameType,
    Mark,
    SegmentHeader,
    read_header,
)
from proxyd.recorder.segment import FrameWalk, after_seal

HEADER_ROOM: Final = 64 << 10  # read for a header at first: hundreds of recipients fit


def read_header_from(file: BinaryIO) -> tuple[SegmentHeader, bytes, int]:
    """Read a segment file's header, H_0 and the offset of the first frame. Raises FormatError, OSError."""
    file.seek(0)
    data = file.read(HEADER_ROOM)
    try:
        return read_header(data)
    except FormatError:
        if len(data) < HEADER_ROOM:
            raise
    return read_header(data + file.read(MAX_HEADER))


def marks_of(file: BinaryIO, end: int) -> list[Mark]:
    """Read a sealed segment's INDEX through its trailer; none where there is none that can be read. Raises OSError.

    What it says is proved by the chain alone (rule 3).
    """
    place = _index_of(file, end)
    if place is None:
        return []
    at, head = place
    file.seek(at + HEAD_BYTES)
    try:
        entries = msgpack.unpackb(file.read(min(head.length, end - at)))
        marks = [Mark(*entry) for entry in entries]
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        return []
    return marks if all(_is_sane(mark, end) for mark in marks) else []


def _is_sane(mark: Mark, end: int) -> bool:
    numbers = all(type(number) is int and number >= 0 for number in mark[:4])
    return numbers and mark.offset < end and type(mark.chain_before) is bytes


def _index_of(file: BinaryIO, end: int) -> tuple[int, FrameHead] | None:
    """Find the INDEX a trailer names."""
    if end < TRAILER.size:
        return None
    file.seek(end - TRAILER.size)
    raw = file.read(TRAILER.size)
    if len(raw) < TRAILER.size:
        return None
    magic, offset = TRAILER.unpack(raw)
    if magic != TRAILER_MAGIC or offset + HEAD_BYTES > end:
        return None
    file.seek(offset)
    raw = file.read(HEAD_BYTES)
    if len(raw) < HEAD_BYTES:
        return None
    head = FrameHead._make(HEAD.unpack(raw))
    return (offset, head) if head.type == FrameType.INDEX and head.length <= MAX_PAYLOAD else None


class Pieces:
    """One segment's frames; after the last of them `chain`, `problem` and `sealed` are as a scan's."""

    def __init__(self, file: BinaryIO, limit: int | None = None) -> None:
        """Read the header; what counts ends at `limit`. Raises FormatError, OSError."""
        self._file = file
        size = file.seek(0, os.SEEK_END)
        self._end = size if limit is None else min(size, limit)
        self.header, self.chain, offset = read_header_from(file)
        self._first = Mark(offset, 0, self.header.start_ms, self.header.first_seq, self.chain)
        self.problem: str | None = None
        self.sealed = False

    def t1_ms(self) -> int:
        """Give the session time of the last record: as the end of a sealed segment says it, else by reading them."""
        if place := _index_of(self._file, self._end):
            return self.header.start_ms + place[1].t1_ms
        return max((frame.t1_ms for frame, _ in self.frames()), default=self.header.start_ms)

    def frames(self, start_us: int = 0) -> Iterator[tuple[FrameInfo, memoryview]]:
        """Yield the frames, with their bytes, from the last place before a session time where decoding can start."""
        walk = self._walk_from(start_us)
        self.problem, self.sealed, index_at = None, False, 0
        while walk.offset < self._end and not self.sealed:
            found = self._frame(walk)
            if found is None:
                self.problem = f"bytes from offset {walk.offset} on are torn or altered"
                break
            frame, raw = found
            yield frame, raw
            if frame.type is FrameType.INDEX:
                index_at = frame.offset
            elif frame.type is FrameType.SEAL:
                self.sealed = True
                self._check_end(frame, raw, index_at)
        self.chain = walk.chain

    def _walk_from(self, start_us: int) -> FrameWalk:
        marks = marks_of(self._file, self._end) if start_us > self.header.start_ms * 1000 else []
        before = [
            mark for mark in marks if mark.t0_ms * 1000 <= start_us and mark.offset > self._first.offset
        ]
        if before:
            found = self._frame(self._walk_at(before[-1]))
            if found is not None and found[0].fresh:
                return self._walk_at(before[-1])
        return self._walk_at(self._first)

    def _walk_at(self, mark: Mark) -> FrameWalk:
        return FrameWalk(self.header, mark.offset, mark.chain_before, mark.number, mark.first_seq)

    def _frame(self, walk: FrameWalk) -> tuple[FrameInfo, memoryview] | None:
        """Step over the next frame; None when it can't be believed (rule 2)."""
        self._file.seek(walk.offset)
        raw = self._file.read(HEAD_BYTES)
        head = walk.head(raw) if len(raw) == HEAD_BYTES else None
        if head is None or walk.offset + head.whole > self._end:
            return None
        view = memoryview(raw + self._file.read(head.whole - HEAD_BYTES))
        frame = walk.take(head, view) if len(view) == head.whole else None
        return None if frame is None else (frame, view)

    def _check_end(self, seal: FrameInfo, raw: memoryview, index_at: int) -> None:
        said = bytes(raw[HEAD_BYTES : HEAD_BYTES + 8]) if seal.length == SEAL.size else b""
        self._file.seek(seal.end)
        after = self._file.read(min(TRAILER.size + 1, self._end - seal.end))
        _, self.problem = after_seal(seal, said, index_at, after)
