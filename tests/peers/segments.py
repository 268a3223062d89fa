"""A segment's records from its bytes, as tests have them."""

from __future__ import annotations

import io
from collections.abc import Iterator

from proxyd.recorder.pieces import Pieces
from proxyd.recorder.record import Record
from proxyd.recorder.segment import BlockDecoder, FrameType, scan


class SegmentReader:
    """Reads a segment with the data key it was written with; raises FormatError when its header can't be believed."""

    def __init__(self, data: bytes, dek: bytes) -> None:
        self._data, self._dek = bytes(data), dek
        self.scan = scan(self._data)
        self.header = self.scan.header

    def records(self, start_us: int = 0, after_seq: int = 0) -> Iterator[Record]:
        """Yield the records at or after a session time and after a seq."""
        decoder = BlockDecoder(self.header, self._dek)
        for frame, raw in Pieces(io.BytesIO(self._data)).frames(start_us):
            if frame.type is FrameType.EVENTS:
                for record in decoder.records(frame, raw):
                    if record.at_us >= start_us and record.seq > after_seq:
                        yield record
