"""What the watches of all file transfers share: a stream that is parsed until it breaks, and events that may be late.

Rule 1: a watch never raises for what a peer sent: it turns `broken`, says so in one Finding, and parses no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from proxyd.digest import Body, Deliver, Room
from proxyd.events import Emit, Finding, Transfer
from proxyd.protocols.ssh.wire import WireError


class StreamWatch:
    """What the watches of all protocols share: a stream that is parsed until it breaks, and events that may be late.

    `emit` is called on the loop's thread: at once, or through `deliver` when a hash has to be waited for.
    `omitted_input`, `omitted_output`: bytes that passed and are not to be on the tape. The call in which the watch
    turns `broken` is not among them: the engine puts that data on the tape, and all that follows; before it go
    `held_input` and `held_output`, the beginnings of a packet or line that were not yet understood by then.
    """

    code = ""

    def __init__(self, emit: Emit, deliver: Deliver) -> None:
        self.emit = emit
        self.broken = False
        self.omitted_input = 0
        self.omitted_output = 0
        self.held_input = b""
        self.held_output = b""
        self._deliver = deliver
        self._room = Room()
        self._hashing = 0
        self._ended = False
        self._status: int | None = None
        self._settled: Callable[[], None] | None = None

    def from_client(self, data: bytes) -> None:
        """Take what is being forwarded to the target; never raises, never waits."""
        if self.broken:
            return
        try:
            self._client(data)
        except WireError as error:
            self._break("client", error)
        else:
            self.omitted_input += len(data)

    def from_target(self, data: bytes) -> None:
        """Take what is being forwarded to the client; never raises, never waits."""
        if self.broken:
            return
        try:
            self._target(data)
        except WireError as error:
            self._break("target", error)
        else:
            self.omitted_output += len(data)

    def close(self, status: int | None = None, settled: Callable[[], None] | None = None) -> None:
        """End the stream: what is unfinished is told as "incomplete".

        `status`: the exit status, where one was sent. `settled` is called on the loop's thread once no event is due.
        """
        self._settled = settled
        if not self._ended:
            self._ended, self._status = True, status
            if not self.broken:
                self._unfinished()
        self._settle()

    def _client(self, data: bytes) -> None:
        raise NotImplementedError

    def _target(self, data: bytes) -> None:
        raise NotImplementedError

    def _held(self) -> tuple[bytes, bytes]:
        """Give what came in earlier calls, of client and target, and is still waiting for its rest."""
        raise NotImplementedError

    def _unfinished(self) -> None:
        """Tell what has not ended, and forget it."""
        raise NotImplementedError

    def _tell(self, transfer: Transfer, body: Body) -> None:
        """Emit `transfer` with the size and hash of `body`, now or when the hash is there."""
        self._hashing += 1
        sized = replace(transfer, size=body.size)
        body.finish(lambda sha256, why: self._hashed(replace(sized, sha256=sha256, why=why)))

    def _hashed(self, transfer: Transfer) -> None:
        self._hashing -= 1
        self.emit(transfer)
        self._settle()

    def _settle(self) -> None:
        if self._hashing == 0 and self._ended and self._settled is not None:
            settled, self._settled = self._settled, None
            settled()

    def _break(self, side: str, error: WireError) -> None:
        self.broken = True
        self.held_input, self.held_output = self._held()
        self.omitted_input -= len(self.held_input)
        self.omitted_output -= len(self.held_output)
        self.emit(
            Finding(
                f"not-{self.code}", "high", f"a stream that claims to be {self.code} is not: {side}: {error}"
            )
        )
        self._unfinished()
