"""The scanner of what a server sends: which command has been answered, how, and how many rows went by.

Rule 1: as wire.py's. A row is stepped over by its header; nothing of it is ever looked at but its first byte.
Rule 2: of a message that is looked at no more than HEAD_BYTES is kept.
Rule 3: answers come in the order of the commands. What no command asked for may only be an error, the server's last word.

FIRST -> OK | ERR | 0xFB file wanted | number of columns -> COLUMNS -> [EOF] -> ROWS -> EOF or OK; while the status has
MORE_RESULTS it begins again. With CLIENT_DEPRECATE_EOF no EOF follows the columns, and an OK with 0xFE ends the rows.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from proxyd.protocols.mysql.wire import (
    HEADER,
    MAX_PACKET,
    Command,
    WireError,
    header_at,
    lenenc,
    uint16_at,
    uint32_at,
)

HEAD_BYTES: Final = 4096  # of an error: the longest message a server makes is 512 characters
MAX_COLUMNS: Final = 1 << 20  # they are only counted; a table has 4096, a SELECT of MariaDB's tests 68,001
MAX_TAGS: Final = 16  # results of one command told one by one; the rest is in the sum
STRAY: Final = "the server answered what nobody had asked"

IN_TRANSACTION: Final = 0x0001  # status flags
MORE_RESULTS: Final = 0x0008
CURSOR_EXISTS: Final = 0x0040
LAST_ROW_SENT: Final = 0x0080

OK, FILE_WANTED, EOF, ERR = 0x00, 0xFB, 0xFE, 0xFF  # the first byte of a packet
EOF_BYTES: Final = 9  # an EOF packet is shorter; a row that begins like it is not


class Fault(NamedTuple):
    """An ERR packet."""

    code: int
    state: str
    message: bytes


class Prepared(NamedTuple):
    """What a server said of a statement it has prepared."""

    identity: int
    parameters: int


@dataclass(slots=True)
class Reply:
    """The whole answer to one command; `at`: the offset in the chunk behind its last byte."""

    code: int
    at: int = 0
    sequence: int = 0  # of its last packet
    rows: int = 0
    affected: int = 0
    results: int = 0
    tags: list[str] = field(default_factory=list)
    fault: Fault | None = None
    prepared: Prepared | None = None
    status: int | None = None


FIRST, COLUMNS, COLUMNS_END, ROWS, DEFINITIONS = range(5)
"""Where an answer is; DEFINITIONS: of a prepared statement's parameters and columns, with the EOFs between. Plain numbers:
each packet is met with one or two of them, and a member of an Enum costs five times the comparison."""

_QUERY, _EXECUTE, _PREPARE = int(Command.QUERY), int(Command.STMT_EXECUTE), int(Command.STMT_PREPARE)
_STATISTICS = int(Command.STATISTICS)
_ROWS_AT_ONCE: Final = frozenset({int(Command.STMT_FETCH), int(Command.FIELD_LIST)})
_WITH_RESULT: Final = frozenset({_QUERY, _EXECUTE, int(Command.PROCESS_INFO)})


class _Asked(NamedTuple):
    """A command that waits for its answer."""

    code: int
    sequence: int  # of its last packet
    cursor: bool  # it may open one; a procedure's own cursor sets the same status, with rows behind it


class Responses:
    """Follows one server's answers; `expect` says what was asked."""

    __slots__ = (
        "_boundary", "_boundary_sequence", "_carry", "_continued", "_deprecate_eof", "_expected", "_file", "_late", "_left",
        "_reply", "_results", "_rows_told", "_sequence", "_skip", "_state", "wants_file",
    )  # fmt: skip

    def __init__(self, *, deprecate_eof: bool, local_infile: bool) -> None:
        self._deprecate_eof = deprecate_eof
        self._file = local_infile
        self.wants_file = False  # the server waits for a file of the client; set back by whoever passes it on
        self._expected: deque[_Asked] = deque()
        self._reply: Reply | None = None  # to the first of those, once it has begun
        self._rows_told = 0  # of its rows, those of results that are over
        self._results: list[Reply] = []
        self._state = FIRST
        self._left = 0  # definitions that have not arrived
        self._skip = 0  # bytes of a packet that have not arrived and are not looked at
        self._late = b""  # the head of a packet that is read once the last of those has arrived
        self._carry = b""  # what arrived of a header or of a packet that is looked at
        self._continued = False  # the next packet belongs to the message before it
        self._sequence = 0
        self._boundary = 0
        self._boundary_sequence = 0

    def expect(self, code: int, sequence: int, *, cursor: bool = True) -> None:
        """Note that a command has been sent: its first byte, and the sequence number of its last packet.

        `cursor`: what is executed asked for one; nothing but STMT_EXECUTE can.
        """
        self._expected.append(_Asked(code, sequence, cursor and code == _EXECUTE))

    @property
    def pending(self) -> int:
        """How many commands have not been answered to the end."""
        return len(self._expected)

    @property
    def between(self) -> bool:
        """Tell whether the last chunk ended where a message ended."""
        return not self._skip and not self._carry and not self._continued

    @property
    def boundary(self) -> int:
        """The last offset in the last chunk where a message ended, -1 when none did."""
        return self._boundary

    @property
    def next_sequence(self) -> int:
        """The sequence number of a packet put in at `boundary`: what the client waits for next."""
        if self._reply is not None:
            return self._boundary_sequence & 0xFF
        return (self._expected[0].sequence + 1) & 0xFF if self._expected else 1

    def feed(self, chunk: bytes) -> list[Reply]:
        """Follow what has arrived; give the answers that ended in it. Raises WireError."""
        self._results = []
        self._boundary = -1
        at = 0
        if self._carry:
            at = self._finish_carried(chunk)
        if self._skip:
            if self._skip > len(chunk) - at:
                self._skip -= len(chunk) - at
                return self._results
            at, self._skip = at + self._skip, 0
            if self._late:
                late, self._late = self._late, b""
                self._read(late, at)
        if at < len(chunk) or not self._carry:
            self._walk(chunk, at, 0)
        return self._results

    def _finish_carried(self, chunk: bytes) -> int:
        """Go on with the packet whose beginning came before; give where the rest of the chunk begins.

        Only what must be read of it is put together, so that rows behind it are not copied.
        """
        carried = len(self._carry)
        lead = self._carry + chunk[: max(0, HEADER - carried)]
        if len(lead) >= HEADER:
            wanted = HEADER + max(1, min(header_at(lead)[0] & 0xFFFFFF, HEAD_BYTES))
            lead = self._carry + chunk[: max(0, wanted - carried)]
        used = len(lead) - carried
        self._carry = b""
        self._walk(lead, 0, carried)
        if used < len(chunk) and self._carry:  # of the packet behind an empty one
            used -= len(self._carry)
            self._carry = b""
        return used

    def _walk(self, chunk: bytes, at: int, carried: int) -> None:
        """Go from packet to packet, and note where the last message ended."""
        end, begun = len(chunk), -1
        while at < end:
            if self._reply is None and self._expected:
                self._start()
            if self._state == ROWS:
                at, last_row = self._rows(chunk, at)
                begun = last_row if last_row >= 0 else begun
            if end - at <= HEADER:  # a packet's first byte says what it is
                break
            (header,) = header_at(chunk, at)
            size = header & 0xFFFFFF
            following = at + HEADER + size
            if self._continued or self._state == COLUMNS:
                self._step_over(chunk[at + HEADER], size)
            elif following <= end:
                self._sequence = header >> 24
                self._read(chunk[at + HEADER : min(following, at + HEADER + HEAD_BYTES)], following - carried)
            elif end - at < HEADER + HEAD_BYTES:
                break
            else:
                self._late = chunk[at + HEADER : at + HEADER + HEAD_BYTES]
            if not self._continued:
                begun = at
            self._continued = size == MAX_PACKET
            self._sequence = header >> 24
            at = following
        self._leave(chunk, at, begun, carried)

    def _leave(self, chunk: bytes, at: int, begun: int, carried: int) -> None:
        """Remember what of the last packet is missing, and where the last message ended or began."""
        end = len(chunk)
        if at < end:
            self._carry = chunk[at:]
        self._skip = max(0, at - end)
        if not self._skip and not self._continued:
            self._boundary, self._boundary_sequence = max(-1, at - carried), self._sequence + 1
        elif begun >= carried:
            self._boundary, self._boundary_sequence = begun - carried, header_at(chunk, begun)[0] >> 24

    def _rows(self, chunk: bytes, at: int) -> tuple[int, int]:
        """Step over rows; give where something else begins, and where the last row did (-1: there was none)."""
        last = len(chunk) - HEADER  # the first byte of a packet must be here
        rows, read_header = 0, header_at
        continued, eof_below = self._continued, MAX_PACKET if self._deprecate_eof else EOF_BYTES
        begun, header = -1, self._sequence << 24
        while at < last:
            (following,) = read_header(chunk, at)
            size = following & 0xFFFFFF
            if not continued:
                first = chunk[at + HEADER]
                if first >= EOF and (first == ERR or size < eof_below):
                    break
                rows += 1
                begun = at
            header = following
            continued = size == MAX_PACKET
            at += HEADER + size
        self._continued = continued
        self._sequence = header >> 24
        if self._reply is not None:
            self._reply.rows += rows
        return at, begun

    # ------------------------------------------------------------------ one packet

    def _start(self) -> None:
        """Begin the answer to the next command."""
        code = self._expected[0].code
        self._reply = Reply(code)
        self._rows_told = 0
        self._state = ROWS if code in _ROWS_AT_ONCE else FIRST

    def _step_over(self, first: int, size: int) -> None:
        """Count the definition of a column; the rest of a long message counts for nothing."""
        if self._continued:
            return
        if first == ERR or not size:
            raise WireError("an error where the definition of a column should be")
        self._left -= 1
        if not self._left:
            self._state = ROWS if self._deprecate_eof else COLUMNS_END

    def _read(self, head: bytes, at: int) -> None:
        """Take a packet that says more than that it is there; it ends at `at`."""
        reply = self._reply
        first = head[0] if head else OK
        if reply is None:
            if first != ERR:
                raise WireError(STRAY)
            return
        if not head:
            raise WireError("an empty packet where an answer should be")
        if self._state == DEFINITIONS:
            self._left -= 1
            if not self._left:
                self._done(at)
        elif first == ERR:
            reply.fault = fault_of(head)
            self._done(at)
        elif self._state == COLUMNS_END:
            reply.status = _eof_status(head)
            if reply.status & CURSOR_EXISTS and self._expected[0].cursor:
                self._result("CURSOR", reply.status, at)
            else:
                self._state = ROWS
        elif self._state == ROWS:
            status = ok_of(head)[1] if self._deprecate_eof else _eof_status(head)
            tag = (
                "CURSOR"
                if status & CURSOR_EXISTS and self._expected[0].cursor and not reply.rows
                else f"ROWS {reply.rows - self._rows_told}"
            )
            self._rows_told = reply.rows
            self._result(tag, status, at)
        else:
            self._first(reply, head, at)

    def _first(self, reply: Reply, head: bytes, at: int) -> None:
        """Take the first packet of an answer or of one of its results."""
        first = head[0]
        if reply.code == _STATISTICS:
            self._done(at)
        elif reply.code == _PREPARE:
            self._prepared(reply, head, at)
        elif first == OK:
            affected, status = ok_of(head)
            reply.affected += affected
            self._result(f"OK {affected}", status, at)
        elif first == EOF and len(head) < EOF_BYTES:
            self._result("OK", _eof_status(head), at)
        elif reply.code not in _WITH_RESULT:
            raise WireError("an answer of a kind the command has not")
        elif first == FILE_WANTED:
            if not self._file:
                raise WireError("the server asked for a file of the client")
            self.wants_file = True
        else:
            self._left, _ = lenenc(head, 0)
            if not 0 < self._left <= MAX_COLUMNS:
                raise WireError("a result without columns, or with too many")
            self._state = COLUMNS

    def _prepared(self, reply: Reply, head: bytes, at: int) -> None:
        """COM_STMT_PREPARE_OK: 00, int<4> statement, int<2> columns, int<2> parameters, 00, int<2> warnings."""
        if head[0] != OK or len(head) < 9:
            raise WireError("an answer of a kind the command has not")
        columns, parameters = uint16_at(head, 5)[0], uint16_at(head, 7)[0]
        reply.prepared = Prepared(uint32_at(head, 1)[0], parameters)
        self._left = columns + parameters
        if not self._deprecate_eof:
            self._left += bool(columns) + bool(parameters)
        if self._left:
            self._state = DEFINITIONS
        else:
            self._done(at)

    def _result(self, tag: str, status: int, at: int) -> None:
        """End one result; the answer with it, unless more are said to follow."""
        reply = self._reply
        assert reply is not None  # noqa: S101 - whoever calls has one
        reply.results += 1
        reply.status = status
        if len(reply.tags) < MAX_TAGS:
            reply.tags.append(tag)
        if status & MORE_RESULTS:
            self._state = FIRST
        else:
            self._done(at)

    def _done(self, at: int) -> None:
        reply = self._reply
        assert reply is not None  # noqa: S101 - whoever calls has one
        reply.at, reply.sequence = at, self._sequence
        self._results.append(reply)
        self._expected.popleft()
        self._reply = None
        self._state = FIRST


def ok_of(head: bytes) -> tuple[int, int]:
    """Read an OK packet: rows affected and status. Raises WireError."""
    affected, at = lenenc(head, 1)
    _, at = lenenc(head, at)
    return affected, uint16_at(head, at)[0] if len(head) >= at + 2 else 0


def fault_of(head: bytes) -> Fault:
    """Read an ERR packet: FF, int<2> code, "#" and five characters of SQLSTATE, message. Raises WireError."""
    if len(head) < 3:
        raise WireError("an error cut short")
    code = uint16_at(head, 1)[0]
    if head[3:4] == b"#":
        return Fault(code, head[4:9].decode("ascii", "replace"), head[9:])
    return Fault(code, "", head[3:])


def _eof_status(head: bytes) -> int:
    """Read the status of an EOF packet: FE, int<2> warnings, int<2> status."""
    return int(uint16_at(head, 3)[0]) if len(head) >= 5 else 0
