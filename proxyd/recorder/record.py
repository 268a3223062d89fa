"""What a recording is made of: the kinds of record every protocol shares, and their packed form.

Rule 1: a record holds what crossed the wire, raw; everything drawn from it is derived elsewhere.
Rule 2: numbers here are a file format: a kind is never renumbered, a body never changes its shape.
Rule 3: this module knows no clock: time comes in as microseconds since the session began.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack


class Kind(IntEnum):
    """What a record's body is; the comment gives its shape."""

    META = (
        0  # map: the session as it was when it began (id, user, user_ip, target, host, login, protocol, ...)
    )
    OUTPUT = 1  # bytes: target -> client, the screen
    INPUT = 2  # bytes: client -> target, as forwarded
    ERROR_OUTPUT = 3  # bytes: target -> client, standard error
    RESIZE = 4  # [columns, rows]
    REFUSED = 5  # bytes: client input that met a closed gate and was thrown away
    REQUEST = 6  # map: {name, side: "client"|"target", ...}: exec command, pty, env, signal, subsystem, ...
    CHANNEL = 7  # map: {event: "open"|"close", type, ...}
    EXIT = 8  # map: {status: int} or {signal: str}
    TRANSFER = 9  # map: {operation, path, size, sha256, result, ...}: a file that went through
    FINDING = 10  # map: {code, severity: "info"|"low"|"medium"|"high"|"critical", text}
    CONTROL = 11  # map: {action: "block"|"unblock"|"drop"|"watch"|"leave"|..., by, reason}
    CLOCK = 12  # int: wall clock, ns since 1970; when it jumps against the monotonic clock
    OMITTED = 13  # map: {why, input: int, output: int}: bytes that passed and are not on the tape, by policy
    LOST = 14  # map: {why, records: int}: best_effort only; what the recording does not know
    END = 15  # map: {reason, by, error}: the last record of a session
    NOTICE = 16  # str: what proxyd itself showed the user
    STATEMENT = 20  # map: a database statement: text, parameters, tag, rows, error, timing
    PDU = 30  # bytes: RDP, raw, target -> client
    INPUT_PDU = 31  # bytes: RDP, raw, client -> target
    AUDIO = 32  # map: {stream, codec, pts, data}
    CLIPBOARD = 33  # map: {direction, format, size, text}


class Record(NamedTuple):
    """One event. `at_us`: microseconds since the session began; `seq` counts from 1 within the session."""

    seq: int
    at_us: int
    kind: Kind
    channel: int
    body: Any


_packer = msgpack.Packer(autoreset=True, use_bin_type=True)


def pack(delta_us: int, kind: int, channel: int, body: Any) -> bytes:
    """Pack one record as the segment holds it: [delta_us, kind, channel, body].

    Call it from one thread only.
    """
    packed: bytes = _packer.pack((delta_us, kind, channel, body))
    return packed


def unpack(data: bytes, seq: int, at_us: int) -> Iterator[Record]:
    """Yield the records of one block; `seq` and `at_us` are those of the record before it.

    Raises ValueError when the bytes are no packed records.
    """
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=len(data) or 1)
    unpacker.feed(data)
    for delta_us, kind, channel, body in unpacker:
        seq += 1
        at_us += delta_us
        yield Record(seq, at_us, Kind(kind), channel, body)
