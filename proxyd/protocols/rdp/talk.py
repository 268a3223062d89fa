"""A connection's messages one by one while a session begins; what comes behind them goes back into the stream.

MS-RDPBCGR 1.3.1.1: TPKT frames, and before them, under NLA, the TSRequests of CredSSP (MS-CSSP 2.2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.protocols.rdp import credssp, wire
from proxyd.protocols.rdp.wire import WireError

if TYPE_CHECKING:
    from proxyd.stream import Stream


def missing(got: bytes) -> int:
    """Tell how many bytes of a connection request or confirm are missing; for `read_preamble`. Raises WireError."""
    if got and got[0] != wire.TPKT_VERSION:
        raise WireError("began with something else than a connection request")
    if len(got) < wire.TPKT_HEADER:
        return wire.TPKT_HEADER - len(got)
    return wire.frame_length(got) - len(got)


class Talk:
    """One side's messages, in turn."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._got = b""

    async def frame(self, *, fast: bool = False) -> bytes:
        """Give the next frame, `fast`: also one of the fast path; raises WireError, and the side's error at an early end."""
        while not self._got:
            await self._more()
        if (
            self._got[0] != wire.TPKT_VERSION and not fast
        ):  # the fast path is a session's, or our own screen's
            raise WireError("sent what has no place in a login")
        while not (length := wire.frame_length(self._got)):
            await self._more()
        return await self.exactly(length)

    async def request(self) -> bytes:
        """Give the next TSRequest; raises as `frame`."""
        while (length := credssp.request_bytes(self._got)) is None:
            await self._more()
        return await self.exactly(length)

    async def exactly(self, size: int) -> bytes:
        """Give the next `size` bytes; raises the side's error at an early end."""
        while len(self._got) < size:
            await self._more()
        taken, self._got = self._got[:size], self._got[size:]
        return taken

    async def _more(self) -> None:
        data = await self.stream.receive()
        if not data:
            raise self.stream.side.fault("closed the connection during the login")
        self._got += data

    @property
    def waiting(self) -> bool:
        """Whether a whole frame is here already; raises WireError."""
        length = wire.frame_length(self._got) if self._got else 0
        return 0 < length <= len(self._got)

    def send(self, data: bytes) -> None:
        """Send at once; raises the side's error."""
        self.stream.send(data)

    def done(self) -> Stream:
        """Give the stream back, with what has come behind the login."""
        self.stream.unread(self._got)
        self._got = b""
        return self.stream
