"""What the commands of a session say on the tape: their texts, what was prepared, what they are bound to.

Rule 1: a command is told before it is sent, its outcome once it is answered; rows are a number.
Rule 2: the text of a prepared statement is told again with each execution: a viewer needs no other record.
Rule 3: memory is bounded: PREPARED_BYTES of prepared texts a session, MAX_PREPARED of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from proxyd.protocols.mysql.parameters import LONG_DATA, Binding
from proxyd.protocols.mysql.responses import CURSOR_EXISTS, IN_TRANSACTION, Reply
from proxyd.protocols.mysql.wire import Command, uint16_at, uint32_at
from proxyd.statement import Cutting, Described, Failure, Parameter, Statements

if TYPE_CHECKING:
    from proxyd.session import Session

MAX_PREPARED: Final = 16_384  # of one session; servers stop at as many for all sessions together
PREPARED_BYTES: Final = 16 << 20  # kept of their texts; of what comes later SHORT_BYTES are
SHORT_BYTES: Final = 1 << 10
LAST_PREPARED: Final = 0xFFFFFFFF  # MariaDB: the statement prepared last, perhaps not answered yet
MAX_NAME: Final = 1024  # bytes of a database's or a table's name

UNTOLD: Final = frozenset({Command.QUIT, Command.PING, Command.STATISTICS, Command.STMT_CLOSE, Command.STMT_RESET,
                           Command.STMT_SEND_LONG_DATA})  # fmt: skip
"""What reads and changes nothing; long data is told with the execution that uses it."""

NAMED: Final = frozenset({Command.INIT_DB, Command.FIELD_LIST, Command.CREATE_DB, Command.DROP_DB})
OF_STATEMENT: Final = frozenset({Command.STMT_EXECUTE, Command.STMT_FETCH, Command.STMT_RESET, Command.STMT_CLOSE,
                                 Command.STMT_SEND_LONG_DATA})  # fmt: skip

# Plain numbers: a member of an Enum costs more to reach than the rest of what is done with it here.
_QUERY, _PREPARE, _EXECUTE = int(Command.QUERY), int(Command.STMT_PREPARE), int(Command.STMT_EXECUTE)
_TEXTS: Final = frozenset({_QUERY, _PREPARE})
_RUNS: Final = frozenset({_EXECUTE, int(Command.STMT_SEND_LONG_DATA)})
_KNOWN: Final = frozenset(int(code) for code in Command)
_HOW: Final = {_QUERY: "simple", _PREPARE: "prepare", _EXECUTE: "execute"}

_SET_NAMES: Final = re.compile(rb"\s*set\s+(?:names|character\s+set|charset)\s+['\"]?(\w+)", re.IGNORECASE)
_CHARSETS: Final = {
    "latin1": (5, 8, 15, 31, 47, 48, 49, 94), "latin2": (2, 9, 21, 27, 77), "ascii": (11, 65), "ujis": (12, 91),
    "sjis": (13, 88), "big5": (1, 84), "euckr": (19, 85), "gb2312": (24, 86), "gbk": (28, 87), "latin5": (30, 78),
    "cp1251": (14, 23, 50, 51, 52), "cp1250": (26, 34, 44, 66, 99), "cp1256": (57, 67), "win1257": (29, 58, 59),
    "binary": (63,), "cp932": (95, 96), "eucjpms": (97, 98), "koi8r": (7, 74), "koi8u": (22, 75), "latin7": (20, 41, 42, 79),
    "gb18030": (248, 249, 250),
}  # fmt: skip
_CHARSET_OF: Final = {number: name for name, numbers in _CHARSETS.items() for number in numbers}


class Text(NamedTuple):
    """A statement's text as it is kept, and what the whole was."""

    kept: bytes
    total: int
    sha256: bytes | None


@dataclass(slots=True)
class Statement:
    """A statement the target has prepared."""

    text: Text
    binding: Binding
    long_data: dict[int, int] = field(default_factory=dict)  # parameter -> bytes sent before
    described: Described | None = None  # once it has run
    spoiled: bool = False  # long data of it was thrown away: to run it would be to run something else


@dataclass(slots=True)
class Told:
    """A command that was sent, or a refusal that waits for its turn."""

    code: int
    n: int = 0  # on the tape; 0: not told
    text: Text | None = None  # of what is prepared
    charset: str = ""  # what the client's text is in once this has succeeded
    refusal: bytes = b""  # the packet to answer with, when the target is not asked


class Script:
    """The commands of one session."""

    def __init__(self, session: Session, charset: int) -> None:
        """`charset`: the number the client gave at its login."""
        self.statements = Statements(session)
        self.statements.encoding = _CHARSET_OF.get(charset, "utf8mb4")
        self.prepared: dict[int, Statement] = {}
        self._bytes = 0

    # ------------------------------------------------------------------ before it is sent

    def told(self, code: int, payload: bytes, cutting: Cutting | None = None) -> Told:
        """Record a command; `payload` is all of it, or its head where `cutting` was fed its text."""
        if code in UNTOLD:
            return Told(code)
        if code == _EXECUTE and (statement := self.statement_of(payload)) is not None:
            return Told(code, self._run(statement, payload))
        text = self.text_of(code, payload, cutting)
        n = self.statements.begin(
            text.kept,
            how=_HOW.get(code, "command"),
            total=text.total,
            sha256=text.sha256,
            parameters=self._parameters(code, payload),
        )
        told = Told(code, n)
        if code == _PREPARE:
            told.text = text
        elif code == _QUERY and (found := _SET_NAMES.match(text.kept)):
            told.charset = found[1].decode("ascii", "replace")
        return told

    def _run(self, statement: Statement, payload: bytes) -> int:
        """Record a prepared statement's run; what its text says is found out once."""
        described, text = statement.described, statement.text
        if described is None:
            described = statement.described = self.statements.describe(text.kept, text.total, text.sha256)
        return self.statements.run(
            described, _HOW.get(_EXECUTE, "command"), self._parameters(_EXECUTE, payload)
        )

    def refused(self, code: int, payload: bytes, why: str, cutting: Cutting | None = None) -> None:
        """Record a command that will not be sent."""
        text = self.text_of(code, payload, cutting)
        self.statements.refused(
            text.kept,
            how="long-data" if code == Command.STMT_SEND_LONG_DATA else _HOW.get(code, "command"),
            why=why,
            total=text.total,
            sha256=text.sha256,
            parameters=self._parameters(code, payload),
        )

    def text_of(self, code: int, payload: bytes, cutting: Cutting | None = None) -> Text:
        """Give the text a command is known by: its own, that of its statement, or its name."""
        if code in _TEXTS:
            if cutting is not None:
                return Text(cutting.text, cutting.total, cutting.sha256)
            return Text(payload[1:], len(payload) - 1, None)
        statement = self.statement_of(payload) if code in _RUNS else None
        if statement is not None:
            return statement.text
        name = b"COM_" + (Command(code).name.encode() if code in _KNOWN else b"%d" % code)
        if code in NAMED:
            name += b" " + payload[1 : 1 + MAX_NAME].rstrip(b"\0")
        elif (code in OF_STATEMENT or code == Command.PROCESS_KILL) and len(payload) >= 5:
            name += b" %d" % int(uint32_at(payload, 1)[0])
        return Text(name, len(name), None)

    def statement_of(self, payload: bytes) -> Statement | None:
        """Give the prepared statement a command is about, if it is one we know."""
        if len(payload) < 5:
            return None
        (identity,) = uint32_at(payload, 1)
        if identity == LAST_PREPARED and self.prepared:
            identity = next(reversed(self.prepared))
        return self.prepared.get(identity)

    def _parameters(self, code: int, payload: bytes) -> list[Parameter]:
        statement = self.statement_of(payload) if code == _EXECUTE else None
        if statement is None:
            return []
        found = statement.binding.decode(payload, self.statements.encoding, statement.long_data)
        return [
            one._replace(size=statement.long_data[place]) if one.kind == LONG_DATA else one
            for place, one in enumerate(found)
        ]

    def note_silent(self, code: int, payload: bytes, size: int) -> None:
        """Follow a command that is not answered; `size`: of the whole payload."""
        statement = self.statement_of(payload)
        if statement is None:
            return
        if code == Command.STMT_CLOSE:
            self._forget(uint32_at(payload, 1)[0])
        elif code == Command.STMT_SEND_LONG_DATA and len(payload) >= 7:
            place = int(uint16_at(payload, 5)[0])
            if place < statement.binding.count:
                statement.long_data[place] = statement.long_data.get(place, 0) + size - 7

    def note_sent(self, code: int, payload: bytes) -> None:
        """Follow a command that uses up, or resets, what was sent before."""
        statement = self.statement_of(payload) if code in OF_STATEMENT else None
        if statement is not None and code in (Command.STMT_EXECUTE, Command.STMT_RESET):
            statement.long_data.clear()
            if code == Command.STMT_RESET:
                statement.spoiled = False

    # ------------------------------------------------------------------ once it is answered

    def answered(self, told: Told, reply: Reply) -> None:
        """Record the outcome, and follow what the answer changes."""
        fault, status = reply.fault, reply.status
        if fault is None:
            self._follow(told, reply)
        if not told.n:
            return
        error = None
        if fault is not None:
            code = f"{fault.code} ({fault.state})" if fault.state else str(fault.code)
            error = Failure("ERROR", code, self._decoded(fault.message))
        transaction = "" if status is None else "open" if status & IN_TRANSACTION else "idle"
        self.statements.end(
            told.n,
            tag="; ".join(reply.tags),
            rows=reply.rows or reply.affected if reply.results else None,
            error=error,
            transaction=transaction,
            outcome="suspended" if status is not None and status & CURSOR_EXISTS and not reply.rows else "",
        )

    def _follow(self, told: Told, reply: Reply) -> None:
        if told.charset:
            self.statements.encoding = told.charset
        if told.code == Command.RESET_CONNECTION:
            self.prepared.clear()
            self._bytes = 0
        if reply.prepared is None or told.text is None or len(self.prepared) >= MAX_PREPARED:
            return
        text = told.text
        if self._bytes + len(text.kept) > PREPARED_BYTES:
            text = text._replace(kept=text.kept[:SHORT_BYTES])
        self._bytes += len(text.kept)
        self.prepared[reply.prepared.identity] = Statement(text, Binding(reply.prepared.parameters))

    def _forget(self, identity: int) -> None:
        gone = self.prepared.pop(identity, None)
        if gone is not None:
            self._bytes -= len(gone.text.kept)

    def _decoded(self, message: bytes) -> str:
        return message.decode("utf-8", "backslashreplace")  # errors come in the client's charset; mostly this

    def cut(self, told: Told) -> None:
        """Record that the session ended before the answer came."""
        if told.n:
            self.statements.end(told.n, outcome="cut")
