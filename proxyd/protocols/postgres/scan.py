"""Walking both directions of a session chunk by chunk: headers are read, bodies mostly skipped.

Rule 1: what a scanner gives back, in order, is what is to be sent on; it ends at a message's end or inside a body
        that is passed as it comes, never inside a header.
Rule 2: the body of a row, of COPY data, of a notice and of a notification is never looked at nor cut out.
Rule 3: at most HELD bytes of a message are held back until it is complete, `judged` where statements must be judged
        whole; a longer one passes as it comes, and what is kept of it is bounded.
Rule 4: what the protocol does not allow raises WireError; nothing is allocated by a length from the wire.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

from proxyd.protocols.postgres.wire import (
    BIND,
    BIND_COMPLETE,
    BIND_COMPLETE_MESSAGE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_BOTH,
    COPY_DATA,
    COPY_DONE,
    COPY_IN,
    COPY_OUT,
    DATA_ROW,
    EMPTY_QUERY,
    ERROR,
    FROM_CLIENT,
    FROM_SERVER,
    FUNCTION_RESULT,
    HEADER_BYTES,
    LEAST_LENGTH,
    NO_DATA,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    PARSE,
    PARSE_COMPLETE,
    PARSE_COMPLETE_MESSAGE,
    QUERY,
    READY,
    ROW_DESCRIPTION,
    SUSPENDED,
    USUAL_BATCHES,
    WireError,
    header,
)

HELD: Final = 64 << 10  # what statements and values mostly fit in, and what is kept of longer ones
MAX_LENGTH: Final = 0x7FFFFFFF  # PostgreSQL's lengths are signed
(PLAIN_BATCH, PLAIN_REST), (DESCRIBED_BATCH, DESCRIBED_REST) = USUAL_BATCHES.items()
MAX_ANSWER: Final = 4 + 2 + 4 * 65535  # the longest answer that is read whole: the types of 65,535 parameters


class Fate(enum.Enum):
    """What becomes of a client's message."""

    PASS = enum.auto()
    REFUSE = enum.auto()
    WAIT = enum.auto()  # until `decided`


class Large(Protocol):
    """A message over the limit, while it arrives."""

    def piece(self, view: memoryview, *, last: bool) -> bytes | memoryview:
        """Take the next piece of its body and give what is sent in its place."""


class Judge(Protocol):
    """Who is asked about a client's messages."""

    @property
    def refusing(self) -> bool:
        """Whether COPY data is thrown away now."""

    def message(self, kind: int, body: bytes) -> Fate:
        """Decide about a complete message; raises WireError."""

    def batch(self, body: bytes, kinds: bytes) -> bool:
        """Let a Bind and what usually follows it pass as one; False: each message is to be decided about."""

    def large(self, kind: int, size: int) -> Large | None:
        """Decide about a message whose body of `size` bytes is too large to be held; None to throw it away."""


class ClientScanner:
    """The direction from the client."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.judged = HELD  # bytes of a Query or Parse that are held
        self._part = bytearray()  # the beginning of a message
        self._left = 0  # bytes of the current large body still to come
        self._large: Large | None = None
        self._waiting: bytes | None = None  # the message that is being decided
        self._backlog: list[bytes] = []

    @property
    def held_bytes(self) -> int:
        """Bytes that have arrived and neither been passed nor thrown away."""
        return len(self._part) + len(self._waiting or b"") + sum(map(len, self._backlog))

    @property
    def inside_large(self) -> bool:
        """Whether the last byte given back is in the middle of a message."""
        return self._left > 0 and self._large is not None

    def feed(self, data: bytes) -> list[bytes | memoryview]:
        """Take what has arrived and give what to send on; raises WireError."""
        if self._waiting is not None:
            self._backlog.append(data)
            return []
        out: list[bytes | memoryview] = []
        at = start = 0
        if self._left:
            at = start = self._go_on(memoryview(data), out)
        elif self._part:
            at = start = self._complete(data, out)
        end = len(data)
        while self._waiting is None and not self._part and end - at >= HEADER_BYTES:
            kind, length = header(data, at)
            behind = at + length + 1
            if kind == COPY_DATA and LEAST_LENGTH <= length <= MAX_LENGTH and not self._judge.refusing:
                if behind > end:
                    break  # large or not, what follows takes it
                at = behind
                continue
            self._check(kind, length)
            if behind > end:
                break
            kinds = _usual(data, behind) if kind == BIND else b""
            if kinds and self._judge.batch(data[at + HEADER_BYTES : behind], kinds):
                at = behind + len(USUAL_BATCHES[kinds])
                continue
            fate = self._judge.message(kind, data[at + HEADER_BYTES : behind])
            if fate is not Fate.PASS:
                _add(out, data, start, at)
                start = behind
                if fate is Fate.WAIT:
                    self._waiting = data[at:behind]
            at = behind
        _add(out, data, start, at)
        if at < end:
            self._begin(data, at, out)
        return out

    def decided(self, fate: Fate) -> list[bytes | memoryview]:
        """Take the decision about the message that waits, and go on; gives and raises as `feed`."""
        out: list[bytes | memoryview] = []
        if self._waiting is not None and fate is Fate.PASS:
            out.append(self._waiting)
        self._waiting = None
        backlog, self._backlog = self._backlog, []
        for data in backlog:
            out += self.feed(data)
        return out

    def _begin(self, data: bytes, at: int, out: list[bytes | memoryview]) -> None:
        """Take the beginning of a message that goes on in the next chunk, or what waits behind a decision."""
        rest = memoryview(data)[at:]
        if self._waiting is not None:
            self._backlog.append(bytes(rest))
        elif len(rest) < HEADER_BYTES:
            self._part += rest
        else:
            self._open(rest, out)

    def _open(self, rest: memoryview, out: list[bytes | memoryview]) -> None:
        """Take a message's beginning with its whole header: hold it, or begin to pass it."""
        kind, length = header(rest)
        self._check(kind, length)
        if kind != COPY_DATA and length + 1 <= self._limit(kind):
            self._part += rest
            return
        self._large = self._judge.large(kind, length - LEAST_LENGTH)
        self._left = length - LEAST_LENGTH
        if self._large is not None:
            out.append(rest[:HEADER_BYTES])
        self._go_on(rest[HEADER_BYTES:], out)

    def _go_on(self, data: memoryview, out: list[bytes | memoryview]) -> int:
        """Pass or throw away more of a large body; gives how much of `data` it took."""
        take = min(self._left, len(data))
        self._left -= take
        if self._large is not None and take:
            out.append(self._large.piece(data[:take], last=not self._left))
        if not self._left:
            self._large = None
        return take

    def _complete(self, data: bytes, out: list[bytes | memoryview]) -> int:
        """Go on with the message whose beginning is held; gives how much of `data` it took."""
        part = self._part
        took = max(0, min(HEADER_BYTES - len(part), len(data)))
        part += data[:took]
        if len(part) < HEADER_BYTES:
            return took
        kind, length = header(part)
        self._check(kind, length)
        if kind == COPY_DATA or length + 1 > self._limit(kind):
            whole = bytes(part)
            part.clear()
            self._open(memoryview(whole), out)
            return took + (self._go_on(memoryview(data)[took:], out) if self._left else 0)
        more = min(length + 1 - len(part), len(data) - took)
        part += data[took : took + more]
        if len(part) == length + 1:
            whole = bytes(part)
            part.clear()
            fate = self._judge.message(kind, whole[HEADER_BYTES:])
            if fate is Fate.PASS:
                out.append(whole)
            elif fate is Fate.WAIT:
                self._waiting = whole
        return took + more

    def _limit(self, kind: int) -> int:
        return self.judged if kind in (QUERY, PARSE) else HELD

    @staticmethod
    def _check(kind: int, length: int) -> None:
        if kind not in FROM_CLIENT:
            raise WireError("sent a message of unknown kind")
        if not LEAST_LENGTH <= length <= MAX_LENGTH:
            raise WireError("sent a message of impossible length")


def _usual(data: bytes, at: int) -> bytes:
    """Give the kinds of the batch that ends behind a Bind as most do, b"" when it goes on in another way."""
    if data.startswith(DESCRIBED_REST, at):
        return DESCRIBED_BATCH
    return PLAIN_BATCH if data.startswith(PLAIN_REST, at) else b""


def _add(out: list[bytes | memoryview], data: bytes, start: int, end: int) -> None:
    """Add what passes unchanged, uncut if it is all."""
    if end > start:
        out.append(data if end - start == len(data) else memoryview(data)[start:end])


class Answers(Protocol):
    """Who is told what the target answered."""

    words: list[
        bytes
    ]  # what is to be said to the client at the next end of a message; emptied by who says it

    def answered(self, tag: bytes, rows: int, state: int, *, parsed: bool) -> bool:
        """Take a whole usual answer: ParseComplete perhaps, rows, CommandComplete, ReadyForQuery; False: not usual."""

    def completed(self, kind: int, body: bytes, rows: int) -> None:
        """Take the end of a command: CommandComplete, EmptyQuery, PortalSuspended, and the rows before it."""

    def failed(self, body: bytes) -> None:
        """Take an ErrorResponse, or its beginning."""

    def stepped(self, kind: int) -> None:
        """Take an answer without content: parsed, bound, closed, described, function done, COPY begun."""

    def described(self, body: bytes) -> None:
        """Take a ParameterDescription."""

    def ready(self, body: bytes) -> bool:
        """Take a ReadyForQuery; False to keep it from the client."""

    def status(self, body: bytes) -> None:
        """Take a ParameterStatus."""


STEPS: Final = frozenset((PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE, ROW_DESCRIPTION, NO_DATA, FUNCTION_RESULT,
                          COPY_IN, COPY_OUT, COPY_BOTH, COPY_DONE))  # fmt: skip
READ: Final = frozenset(
    (COMMAND_COMPLETE, EMPTY_QUERY, SUSPENDED, ERROR, READY, PARAMETER_DESCRIPTION, PARAMETER_STATUS)
)
ROWS: Final = (DATA_ROW, COPY_DATA)
QUIET: Final = frozenset(
    (ROW_DESCRIPTION, DATA_ROW, NO_DATA)
)  # before the end of an answer without surprises
READY_HEAD: Final = bytes((READY, 0, 0, 0, 5))
ENDINGS: Final = frozenset((COMMAND_COMPLETE, EMPTY_QUERY, SUSPENDED))


class ServerScanner:
    """The direction from the target."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._part = bytearray()
        self._left = 0  # bytes of the current body still to come
        self._rows = 0

    @property
    def at_boundary(self) -> bool:
        """Whether the last byte given back ended a message."""
        return not self._left

    def feed(self, data: bytes) -> list[bytes | memoryview]:
        """Take what has arrived and give what to send on; raises WireError."""
        answers = self._answers
        if not (self._left or self._part or self._rows or answers.words) and self._whole(data):
            return [data]
        out: list[bytes | memoryview] = []
        end = len(data)
        at, start = self._left, 0
        if at > end:
            self._left -= end
            return [data]
        self._left = 0
        if self._part:
            at = start = self._complete(data, out)
        if answers.words and not self._left and not self._part:
            _add(out, data, start, at)
            start = at
            self._speak(out)
        rows = 0
        last = end - HEADER_BYTES
        read_header, row, copied, least, most = header, DATA_ROW, COPY_DATA, LEAST_LENGTH, MAX_LENGTH
        while at <= last:
            kind, length = read_header(data, at)
            if (kind == row or kind == copied) and least <= length <= most:  # noqa: SIM109, PLR1714 - `in` costs more
                rows += 1
                at += length + 1
                continue
            behind = at + length + 1
            self._check(kind, length)
            if kind in READ:
                if behind > end:
                    break
                self._rows += rows
                rows = 0
                if not self._take(kind, data[at + HEADER_BYTES : behind]):
                    _add(out, data, start, at)
                    start = behind
            elif kind in STEPS:
                answers.stepped(kind)
            at = behind
            if answers.words and at <= end:
                _add(out, data, start, at)
                start = at
                self._speak(out)
        self._rows += rows
        _add(out, data, start, min(at, end))
        if at > end:
            self._left = at - end
        elif at < end:
            self._begin(data[at:], out)
        return out

    def _whole(self, data: bytes) -> bool:
        """Take a chunk that is one answer without surprises, as most are; False, and nothing done, for all others."""
        stop = len(data) - len(READY_HEAD) - 1
        if not data.startswith(READY_HEAD, max(stop, 0)):
            return False
        parsed = data.startswith(PARSE_COMPLETE_MESSAGE)
        at = len(PARSE_COMPLETE_MESSAGE) if parsed else 0
        if data.startswith(BIND_COMPLETE_MESSAGE, at):
            at += len(BIND_COMPLETE_MESSAGE)
        rows = 0
        while at < stop:
            kind, length = header(data, at)
            if kind == COMMAND_COMPLETE and at + length + 1 == stop:
                return self._answers.answered(data[at + HEADER_BYTES : stop], rows, data[-1], parsed=parsed)
            if length < LEAST_LENGTH or kind not in QUIET:
                return False
            rows += kind == DATA_ROW
            at += length + 1
        return False

    def _begin(self, rest: bytes, out: list[bytes | memoryview]) -> None:
        """Hold the beginning of a message that is read whole, or of a header; of an overlong error only note it."""
        if len(rest) >= HEADER_BYTES:
            kind, length = header(rest)
            if kind == ERROR and length > HELD and len(rest) >= HELD:
                self._take(kind, rest[HEADER_BYTES:])
                self._left = length + 1 - len(rest)
                out.append(rest)
                return
        self._part += rest

    def _complete(self, data: bytes, out: list[bytes | memoryview]) -> int:
        """Go on with the message whose beginning is held; gives where in `data` it ends, perhaps behind its end."""
        part = self._part
        at = max(0, min(HEADER_BYTES - len(part), len(data)))
        part += data[:at]
        if len(part) < HEADER_BYTES:
            return at
        kind, length = header(part)
        self._check(kind, length)
        if kind not in READ:
            return self._skip(kind, length, data, at, out)
        more = min(length + 1 - len(part), len(data) - at)
        if kind == ERROR and length > HELD:
            more = min(more, max(0, HELD - len(part)))
        part += data[at : at + more]
        at += more
        if len(part) == length + 1:
            whole = bytes(part)
            part.clear()
            if self._take(kind, whole[HEADER_BYTES:]):
                out.append(whole)
        elif kind == ERROR and len(part) >= HELD:
            whole = bytes(part)
            part.clear()
            self._begin(whole, out)
            at += self._go_on(data, at, out)
        return at

    def _skip(self, kind: int, length: int, data: bytes, at: int, out: list[bytes | memoryview]) -> int:
        """Pass a header that came in two chunks, and of its body what is here."""
        if kind in ROWS:
            self._rows += 1
        elif kind in STEPS:
            self._answers.stepped(kind)
        out.append(bytes(self._part))
        self._left = length + 1 - len(self._part)
        self._part.clear()
        return at + self._go_on(data, at, out)

    def _go_on(self, data: bytes, at: int, out: list[bytes | memoryview]) -> int:
        take = min(self._left, len(data) - at)
        self._left -= take
        if take:
            out.append(memoryview(data)[at : at + take])
        return take

    def _take(self, kind: int, body: bytes) -> bool:
        """Hand a message on; False to keep it from the client."""
        answers = self._answers
        if kind == READY:
            self._rows = 0
            return answers.ready(body)
        if kind in ENDINGS:
            rows, self._rows = self._rows, 0
            answers.completed(kind, body, rows)
        elif kind == ERROR:
            answers.failed(body)
        elif kind == PARAMETER_DESCRIPTION:
            answers.described(body)
        else:
            answers.status(body)
        return True

    def _speak(self, out: list[bytes | memoryview]) -> None:
        out += self._answers.words
        self._answers.words.clear()

    @staticmethod
    def _check(kind: int, length: int) -> None:
        if kind not in FROM_SERVER:
            raise WireError("sent a message of unknown kind")
        if not LEAST_LENGTH <= length <= MAX_LENGTH:
            raise WireError("sent a message of impossible length")
        if kind in READ and kind != ERROR and length > MAX_ANSWER:
            raise WireError("sent an answer of impossible length")
