"""What is kept of what passes on a channel: its size, its SHA-256, and the beginning of what can be read.

Rule 1: nothing is collected but a beginning of known length; the rest is counted, hashed beside the loop and forgotten.
Rule 2: what is told is told once, when the hash is there, through `Told`; `Ledger.settle` says when the last is out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from proxyd.digest import Body, Deliver, Room
from proxyd.events import Transfer
from proxyd.recorder.record import Kind

Told = Callable[[Kind, dict[str, Any]], None]

INCOMPLETE: Final = "incomplete"


@dataclass
class Ledger:
    """Where bodies are measured, and where what is found goes."""

    tell: Told
    deliver: Deliver
    room: Room = field(default_factory=Room)
    _due: int = 0
    _settled: Callable[[], None] | None = None

    def body(self) -> Body:
        """Begin to measure a body."""
        return Body(self.deliver, self.room)

    def finish(self, body: Body, then: Callable[[str | None, str], None]) -> None:
        """End a body: `then` gets its SHA-256, or None and why there is none, perhaps later."""
        self._due += 1

        def hashed(sha256: str | None, why: str) -> None:
            self._due -= 1
            then(sha256, why)
            self._tell_settled()

        body.finish(hashed)

    def moved(self, transfer: Transfer, body: Body) -> None:
        """Tell of a file whose body is over."""
        sized = replace(transfer, size=body.size)

        def hashed(sha256: str | None, why: str) -> None:
            self.tell(Kind.TRANSFER, replace(sized, sha256=sha256, why=why).as_map())

        self.finish(body, hashed)

    def settle(self, settled: Callable[[], None]) -> None:
        """Have `settled` called once nothing is due any more."""
        self._settled = settled
        self._tell_settled()

    def _tell_settled(self) -> None:
        if self._due == 0 and self._settled is not None:
            settled, self._settled = self._settled, None
            settled()


class Portion:
    """The part of a message that begins `skip` bytes into it and is `size` long, as it comes in."""

    def __init__(self, skip: int, size: int) -> None:
        self._skip = skip
        self._left = size

    def of(self, data: bytes) -> bytes:
        """Give what of the message's next bytes belongs to it."""
        over, self._skip = data[self._skip :], max(0, self._skip - len(data))
        mine = over[: self._left]
        self._left -= len(mine)
        return mine


class Block:
    """A sink for a message that carries a piece of a file."""

    def __init__(self, body: Body, offset: int, portion: Portion, done: Callable[[bool], None]) -> None:
        self._body = body
        self._portion = portion
        self._done = done
        body.begin(offset)

    def piece(self, data: bytes) -> None:
        """Measure what is the file's of it."""
        if mine := self._portion.of(data):
            self._body.piece(mine)

    def end(self, *, whole: bool) -> None:
        """End the block; a hash is not made over what did not pass."""
        if not whole:
            self._body.lose("did not pass whole")
        self._body.end()
        self._done(whole)


class Beginning:
    """A sink that measures a message's content and keeps its first `keep` bytes."""

    def __init__(self, body: Body, keep: int, portion: Portion, done: Callable[[bytes, bool], None]) -> None:
        self._body = body
        self._keep = keep
        self._portion = portion
        self._done = done
        self._kept = bytearray()
        body.begin(0)

    def piece(self, data: bytes) -> None:
        """Measure what is content of it, and keep its beginning."""
        if mine := self._portion.of(data):
            self._body.piece(mine)
            self._kept += mine[: max(0, self._keep - len(self._kept))]

    def end(self, *, whole: bool) -> None:
        """Give what was kept."""
        if not whole:
            self._body.lose("did not pass whole")
        self._body.end()
        self._done(bytes(self._kept), whole)
