"""What a fuzzed input means: a small program of what client, target and operator do, the same for all protocols.

Rule 1: every input is a program; what is missing at its end is zero, so that a mutation moves little.
Rule 2: what is not to be recorded (rows, COPY data, details of errors) holds CANARY, which no input can write itself.
Rule 3: one input is bounded: BUDGET bytes in all, PIECES chunks for each step, so that a slow one is slow in proxyd.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from proxyd.errors import ProxydError
from proxyd.recorder import record

CANARY: Final = b"\xc3\xbfrow that nobody may keep\xc3\xbf"
BUDGET: Final = (
    192 << 10
)  # bytes both sides send in one input: twice what a scanner holds of a message, and more
PIECES: Final = 512
BULK_UNIT: Final = 1 << 10
MOST_AGAIN: Final = 32  # times: more make an input slow, and teach nothing
ALONE: Final = 255  # as a size of chunks: what each step says arrives by itself


class Op(enum.IntEnum):
    """What a step does; its number is the step's first byte modulo their count."""

    CLIENT_SENDS = 0  # bytes as they are
    TARGET_SENDS = 1
    CLIENT_SAYS = 2  # a message: its kind, and a body whose length is told right
    TARGET_SAYS = 3
    CLIENT_SAYS_MUCH = 4  # kind, the body's beginning, what its rest repeats, and how long that is
    TARGET_SAYS_MUCH = 5
    SHUT = 6
    OPEN = 7
    VERDICT = 8
    CHUNKS = 9  # how what follows is cut
    CLIENT_CANARY = 10  # as SAYS, with the canary behind the body
    TARGET_CANARY = 11
    CLIENT_AGAIN = 12  # what this side has said last, once more and more often
    TARGET_AGAIN = 13
    NOTIFY = 14
    PART = 15


BY_CLIENT: Final = frozenset(
    (Op.CLIENT_SENDS, Op.CLIENT_SAYS, Op.CLIENT_SAYS_MUCH, Op.CLIENT_CANARY, Op.CLIENT_AGAIN)
)
BY_TARGET: Final = frozenset(
    (Op.TARGET_SENDS, Op.TARGET_SAYS, Op.TARGET_SAYS_MUCH, Op.TARGET_CANARY, Op.TARGET_AGAIN)
)
DATA: Final = BY_CLIENT | BY_TARGET
WITHOUT_ARGUMENT: Final = frozenset((Op.SHUT, Op.OPEN, Op.NOTIFY, Op.PART))

Framing = Callable[[bool, int, bytes], bytes]  # by the client, kind, body -> a message


class Step(NamedTuple):
    """One step: what is sent, already cut; or `argument` of what else is done."""

    op: Op
    argument: int
    pieces: Sequence[bytes]


class Input:
    """Bytes read from the front; zeros behind their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def counted(self) -> bytes:
        """Take a length and as many bytes; lengths from 224 on count in steps of 64."""
        size = self.byte()
        return self.take(size if size < 224 else 224 + 64 * (size - 223))

    def rest(self) -> bytes:
        return self.take(max(0, self.left))


def steps(source: Input, frame: Framing) -> Iterator[Step]:
    """Read a program. What a side says in steps that follow each other arrives as one, unless CHUNKS says otherwise."""
    room, chunk, joined = BUDGET, 0, b""
    last = {True: b"", False: b""}
    side = Op.CLIENT_SENDS
    while source.left > 0:
        op = Op(source.byte() % len(Op))
        if joined and (op not in DATA or (op in BY_CLIENT) != (side in BY_CLIENT) or chunk == ALONE):
            yield Step(side, 0, tuple(cut(joined, chunk)))
            joined = b""
        if op in WITHOUT_ARGUMENT:
            yield Step(op, 0, ())
        elif op is Op.CHUNKS:
            chunk = source.byte()
        elif op is Op.VERDICT:
            yield Step(op, source.byte(), ())
        else:
            side = op
            data = _said(source, op, frame, last[op in BY_CLIENT])[:room]
            room -= len(data)
            joined += data
            if op not in (Op.CLIENT_AGAIN, Op.TARGET_AGAIN):
                last[op in BY_CLIENT] = data
    yield Step(side, 0, tuple(cut(joined, chunk)))


def _said(source: Input, op: Op, frame: Framing, last: bytes) -> bytes:
    if op in (Op.CLIENT_SENDS, Op.TARGET_SENDS):
        return source.counted()
    if op in (Op.CLIENT_AGAIN, Op.TARGET_AGAIN):
        return last * (source.byte() % MOST_AGAIN + 1)
    kind, body = source.byte(), source.counted()
    if op in (Op.CLIENT_SAYS_MUCH, Op.TARGET_SAYS_MUCH):
        pattern, size = source.counted() or b"\0", source.byte() * BULK_UNIT
        body += (pattern * (size // len(pattern) + 1))[:size] + source.counted()
    elif op in (Op.CLIENT_CANARY, Op.TARGET_CANARY):
        body += CANARY
    return frame(op in BY_CLIENT, kind, body)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Cut what is sent into chunks of `size` bytes, or larger ones where they would be too many; 0, ALONE: not at all."""
    size = len(data) if size in (0, ALONE) else max(size, len(data) // PIECES)
    if not data:
        return
    for at in range(0, len(data), size):
        yield data[at : at + size]


# ---------------------------------------------------------------------------------------------- writing programs


def sends(by_client: bool, data: bytes) -> bytes:
    """Write the steps that send these bytes as they are; for seeds."""
    op = Op.CLIENT_SENDS if by_client else Op.TARGET_SENDS
    return b"".join(
        bytes((op, len(piece))) + piece for piece in (data[at : at + 223] for at in range(0, len(data), 223))
    )


def says(by_client: bool, kind: int, body: bytes, canary: bool = False) -> bytes:
    """Write a step that says a message; its body is at most 223 bytes long."""
    assert len(body) < 224
    ops = (Op.CLIENT_CANARY, Op.TARGET_CANARY) if canary else (Op.CLIENT_SAYS, Op.TARGET_SAYS)
    return bytes((ops[not by_client], kind, len(body))) + body


def says_much(
    by_client: bool, kind: int, head: bytes, pattern: bytes, units: int, tail: bytes = b""
) -> bytes:
    """Write a step that says a long message of `units` times BULK_UNIT bytes."""
    op = Op.CLIENT_SAYS_MUCH if by_client else Op.TARGET_SAYS_MUCH
    counted = [bytes((len(part),)) + part for part in (head, pattern, tail)]
    return bytes((op, kind)) + counted[0] + counted[1] + bytes((units,)) + counted[2]


def does(op: Op, *argument: int) -> bytes:
    """Write any other step."""
    return bytes((op, *argument))


# ---------------------------------------------------------------------------------------------- what is looked at


class Tape:
    """Stands for a session's tape: packs what it is given as the recorder does, and keeps it."""

    def __init__(self) -> None:
        self.packed: list[bytes] = []
        self.bodies: list[Any] = []

    def add(self, kind: int, body: Any, channel: int = 0, weight: int = 0) -> None:
        self.packed.append(record.pack(0, kind, channel, body))
        self.bodies.append(body)

    def check_canary(self) -> None:
        """What crossed and is not to be kept is in no record, neither as it was nor escaped."""
        text = CANARY.decode()
        for packed in self.packed:
            assert CANARY not in packed, "a row's bytes are on the tape"
            assert text.encode("ascii", "backslashreplace") not in packed, (
                "a row's bytes are on the tape, escaped"
            )
            assert b"row that nobody may keep" not in packed, "a part of a row is on the tape"

    def check_outcomes(self) -> None:
        """Every statement that passed has its outcome once, and nothing else has one."""
        told = [body for body in self.bodies if isinstance(body, dict)]
        begun = [body["n"] for body in told if body.get("event") == "statement" and "refused" not in body]
        ended = [body["n"] for body in told if body.get("event") == "result"]
        assert sorted(begun) == sorted(ended), "a statement without an outcome, or with two"


class Peer:
    """Stands for a stream: gives what was sent in chunks, keeps what it is told."""

    def __init__(self, data: bytes, chunk: int, *, certificate: bytes | None = None) -> None:
        self._pieces = list(cut(data, chunk))[::-1]
        self.peer_certificate = certificate
        self.side = SimpleNamespace(fault=ProxydError)
        self.told = b""

    async def receive(self) -> bytes:
        return self._pieces.pop() if self._pieces else b""

    def send(self, data: bytes) -> None:
        self.told += data

    def unread(self, data: bytes) -> None:
        self._pieces.append(data)


def in_order(sent: Sequence[bytes], got: Sequence[bytes], ours: Callable[[bytes], bool]) -> bool:
    """Tell whether each message of `got` is one of `sent` behind the one before it, or is one of `ours`."""
    places: dict[bytes, list[int]] = {}
    for place, one in enumerate(sent):
        places.setdefault(one, []).append(place)
    at = 0
    for one in got:
        found = places.get(one, [])
        place = bisect.bisect_left(found, at)
        if place < len(found):
            at = found[place] + 1
        elif not ours(one):
            return False
    return True


def driven(work: Coroutine[Any, Any, Any]) -> Any:
    """Run what awaits nothing but stand-ins that answer at once."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    finally:
        work.close()
    raise AssertionError("it waits for something else than its peer")
