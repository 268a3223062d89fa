"""Packets over a stream while a login goes on, and the one before it, read to the byte from the raw socket."""

from __future__ import annotations

from typing import Final

from proxyd.protocols.mysql.wire import HEADER, WireError, header_at, packet
from proxyd.stream import Stream

LOGIN_BYTES: Final = (
    10_000  # of one packet of a login: names, a proof, the attributes drivers tell of themselves
)


def missing(got: bytes) -> int:
    """Tell how many bytes of the packet that begins here are missing; for `read_preamble`."""
    if len(got) < HEADER:
        return HEADER - len(got)
    return max(0, HEADER + int(header_at(got)[0] & 0xFFFFFF) - len(got))


def payload_of(raw: bytes, sequence: int) -> bytes:
    """Take a packet's payload out of what `missing` found complete. Raises WireError."""
    if raw[HEADER - 1] != sequence:
        raise WireError("packets out of order")
    return raw[HEADER:]


class Talk:
    """One side's packets in turn; `sequence` is that of the next packet, whoever sends it."""

    def __init__(self, stream: Stream, sequence: int) -> None:
        self.stream = stream
        self.sequence = sequence
        self._got = b""

    async def receive(self) -> bytes:
        """Give the next packet's payload. Raises WireError, and the side's error at an early end."""
        while lacking := missing(self._got):
            if len(self._got) + lacking > LOGIN_BYTES:
                raise WireError("a packet of the login is too long")
            data = await self.stream.receive()
            if not data:
                raise self.stream.side.fault("closed the connection inside the login")
            self._got += data
        size = HEADER + (header_at(self._got)[0] & 0xFFFFFF)
        raw, self._got = self._got[:size], self._got[size:]
        payload = payload_of(raw, self.sequence & 0xFF)
        self.sequence += 1
        return payload

    def send(self, payload: bytes) -> None:
        """Send a packet."""
        self.stream.send(packet(self.sequence, payload))
        self.sequence += 1

    def leave(self) -> None:
        """Give what came behind the login back to the stream."""
        self.stream.unread(self._got)
        self._got = b""
