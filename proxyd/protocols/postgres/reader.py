"""Reading a login's messages from a stream, one by one; what comes behind them goes back into the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.protocols.postgres import wire
from proxyd.protocols.postgres.wire import WireError

if TYPE_CHECKING:
    from proxyd.stream import Stream


class Reader:
    """Messages of a stream, while its session logs in."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._data = b""

    async def exactly(self, size: int) -> bytes:
        """Read `size` bytes; raises the side's error at an early end."""
        while len(self._data) < size:
            data = await self._stream.receive()
            if not data:
                raise self._stream.side.fault("closed the connection during the login")
            self._data += data
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    async def packet(self) -> wire.Startup:
        """Read a packet without a kind; raises WireError."""
        got = b""
        while missing := wire.startup_missing(got):
            got += await self.exactly(missing)
        return wire.parse_startup(got)

    async def message(self) -> tuple[int, bytes]:
        """Read a message; raises WireError when it is longer than any login's."""
        kind, length = wire.header(await self.exactly(wire.HEADER_BYTES))
        if not wire.LEAST_LENGTH <= length <= wire.MAX_LOGIN_MESSAGE:
            raise WireError("sent a message that is too long for a login")
        return kind, await self.exactly(length - wire.LEAST_LENGTH)

    def done(self) -> None:
        """Give back to the stream what has come behind the login."""
        self._stream.unread(self._data)
        self._data = b""
