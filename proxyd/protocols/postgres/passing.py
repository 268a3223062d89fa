"""A message too large to be held, while it passes: of its text is kept what a Cutting keeps, of values the beginning.

Rule 1: what is recorded of it is recorded before its last piece is given back to be sent.
Rule 2: once `fill` has been called nothing of the client's goes on: each byte is replaced by FILLER, one for one.
"""

from __future__ import annotations

from typing import Final, Protocol

from proxyd.protocols.postgres import wire
from proxyd.protocols.postgres.wire import WireError
from proxyd.statement import Cutting

FILLER: Final = b"\1"
"""Of a query: its string does not end. Of COPY data: a CopyFail follows. Of a function call: an impossible result
format. Of a Bind: nothing executes it."""

MAX_NAME: Final = 16 << 10  # a server cuts names at 63 bytes
MAX_TYPES: Final = 2 + 4 * 65535
KEPT_VALUES: Final = 64 << 10


class Owner(Protocol):
    """Who takes what a large message was."""

    def query(self, cutting: Cutting) -> None:
        """Take a whole Query."""

    def prepare_large(self, name: bytes, cutting: Cutting, types: tuple[int, ...]) -> None:
        """Take a whole Parse."""

    def bind(self, bound: wire.Bind) -> None:
        """Take a Bind; of its values the beginning."""

    def call(self, function: int) -> None:
        """Take a FunctionCall."""

    def passed(self) -> None:
        """Take notice that the message is over."""

    def filled(self, kind: int, cutting: Cutting | None) -> bytes:
        """Take notice that it is over and was filled up; gives what must be sent behind it."""


class Passing:
    """One large message."""

    def __init__(self, owner: Owner, kind: int) -> None:
        self._owner = owner
        self._kind = kind
        self._filling = False
        self._head = bytearray()  # a Parse's name, a Bind's or function call's beginning
        self._named = kind != wire.PARSE
        self._cutting = Cutting() if kind in (wire.QUERY, wire.PARSE) else None
        self._ended = False  # the text has
        self._types = bytearray()
        self.refused_bytes = 0

    def fill(self) -> None:
        """Let no more of it through."""
        self._filling = True

    def piece(self, view: memoryview, *, last: bool) -> bytes | memoryview:
        """Take a piece and give what is sent in its place; raises WireError."""
        if self._filling:
            self.refused_bytes += len(view)
            filler = FILLER * len(view)
            return filler + self._owner.filled(self._kind, self._cutting) if last else filler
        if self._cutting is not None:
            self._read(bytes(view), self._cutting)
        elif self._kind != wire.COPY_DATA:
            self._head += view[: KEPT_VALUES - len(self._head)]
        if last:
            self._tell()
            self._owner.passed()
        return view

    def _read(self, data: bytes, cutting: Cutting) -> None:
        """Take a piece of a Query or Parse."""
        if not self._named:
            end = data.find(b"\0")
            self._head += data if end < 0 else data[:end]
            if len(self._head) > MAX_NAME:
                raise WireError("prepared a statement whose name is no name")
            if end < 0:
                return
            self._named, data = True, data[end + 1 :]
        if not self._ended:
            end = data.find(b"\0")
            cutting.feed(data if end < 0 else memoryview(data)[:end])
            if end < 0:
                return
            self._ended, data = True, data[end + 1 :]
        self._types += data
        if len(self._types) > MAX_TYPES:
            raise WireError("prepared a statement with too many types")

    def _tell(self) -> None:
        owner, head = self._owner, bytes(self._head)
        if self._cutting is not None and not self._ended:
            raise WireError("a string does not end")
        if self._kind == wire.QUERY and self._cutting is not None:
            if self._types:
                raise WireError("a query goes on behind its text")
            owner.query(self._cutting)
        elif self._kind == wire.PARSE and self._cutting is not None:
            owner.prepare_large(head, self._cutting, wire.parse_types(bytes(self._types)))
        elif self._kind == wire.BIND:
            owner.bind(wire.parse_bind(head))
        elif self._kind == wire.FUNCTION:
            owner.call(wire.parse_function(head))
