"""The records of one session, as a process that reads them apart gets them on its standard input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

import msgpack

from proxyd.recorder.record import Kind, Record

LARGEST_RECORD: Final = 1 << 24  # bytes; engines write frames of at most 64 KiB


def records(stream: IO[bytes]) -> Iterator[Record]:
    """Yield the records a stream has; raises ValueError."""
    unpacker = msgpack.Unpacker(stream, raw=False, strict_map_key=False, max_buffer_size=LARGEST_RECORD)
    at_us = 0
    for seq, (delta_us, kind, channel, body) in enumerate(unpacker, 1):
        at_us += delta_us
        yield Record(seq, at_us, Kind(kind), channel, body)
