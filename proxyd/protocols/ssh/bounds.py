"""What a peer can make a connection hold, bounded, whatever it sends or leaves unread.

Rule 1: a peer that does not read is not served: the transport's back-pressure stops every channel (stock asyncssh
        ignores it; a client with a 2 GiB window grew a proxy by 70 MB a second), and who leaves UNREAD_MAX of answers
        unread is given up.
Rule 2: channels send nothing while keys are exchanged: an exchange need not end, and stock asyncssh keeps it all.
Rule 3: key exchanges for their own sake end the connection; those that traffic pays for do not.
Rule 4: reading stops while a message is worked on; before the login, who says more than a login takes is sent away.
Rule 5: the cost of parsing grows with what arrives, not with its square.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from asyncssh.connection import SSHConnection
from asyncssh.misc import ConnectionLost, ProtocolError

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacket

WRITE_HIGH = 256 * 1024
"""Bytes queued in one transport before its channels stop: 8 packets of 32 KiB, a millisecond of a fast link."""

UNREAD_MAX = 4 * 1024 * 1024
"""Bytes a peer may leave unread: data stops at WRITE_HIGH, so the rest are answers to a flood nobody waits for."""

EARLY_PACKETS = 1024
"""Messages a peer may send before the login is over; one with six keys and a code takes thirty."""

AHEAD_MAX = 256 * 1024
"""Bytes kept while a message is worked on before reading stops; one read of uvloop's is that long."""

SLICE = 16 * 1024
"""Bytes given to asyncssh's parser at a time: it copies all it holds twice a packet, a second for 256 KiB of tiny ones."""

REKEY_BURST = 128
"""Key exchanges a peer may ask for in a row before they must be earned, 3 ms of work each."""

REKEY_RATE = 8.0
"""Key exchanges a second that come back of those: 2 % of a core."""

REKEY_EARNED_BYTES = 256 * 1024
"""Bytes that have crossed since the last key exchange and pay for the next one."""

DEFERRED_COST = 64
"""Bytes a packet that waits for the end of a key exchange costs beside its own."""


class Bounded(SSHConnection):
    """The bounds both links share; `Hardened` is made on it."""

    transport_full = False
    """Channels may send nothing now: the peer does not read, or keys are being exchanged."""

    _unread = False
    _waiting_paused = False
    _received = 0
    _rekeys_left = float(REKEY_BURST)
    _rekey_at = 0.0
    _deferred_bytes = 0
    _kex_name = b""
    _closing_transport: asyncio.Transport | None = None

    # ------------------------------------------------------------------ rule 1: back-pressure

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound the transport's queue, then begin the handshake."""
        set_limits = getattr(transport, "set_write_buffer_limits", None)
        if set_limits is not None:
            set_limits(high=WRITE_HIGH)
        super().connection_made(transport)

    def pause_writing(self) -> None:
        """Stop every channel's sending: the peer does not read."""
        self._unread = self.transport_full = True

    def resume_writing(self) -> None:
        """Let every channel send what it holds."""
        self._unread = False
        self._let_channels_send()

    def _let_channels_send(self) -> None:
        self.transport_full = self._unread or not self._kex_complete
        for channel in list(self._channels.values()):
            if self.transport_full:
                break
            channel._flush_send_buf()

    # ------------------------------------------------------------------ rules 2 and 3: keys, and what waits for them

    def _send_kexinit(self) -> None:
        """Begin a key exchange; channels wait for its end, or what they send would pile up here."""
        self.transport_full = True
        super()._send_kexinit()

    async def _process_kexinit(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Answer a key exchange, unless the peer asks for one after the other."""
        if self._session_id and not self._kexinit_sent:
            self._pay_for_rekey()
        await super()._process_kexinit(_pkttype, _pktid, packet)
        if self._kex is not None:
            self._kex_name = self._kex.algorithm

    def _pay_for_rekey(self) -> None:
        if not self._auth_complete:
            raise ProtocolError("A new key exchange before the login")
        crossed, self._received = self._received + self._rekey_bytes_sent, 0
        before, self._rekey_at = self._rekey_at, time.monotonic()
        if crossed >= REKEY_EARNED_BYTES:
            return
        self._rekeys_left = min(REKEY_BURST, self._rekeys_left + REKEY_RATE * (self._rekey_at - before)) - 1
        if self._rekeys_left < 0:
            raise ProtocolError("Too many key exchanges")

    def _defer(self, pkttype: int, args: tuple[bytes, ...]) -> None:
        self._deferred_packets.append((pkttype, args))
        self._deferred_bytes += DEFERRED_COST + sum(map(len, args))
        if self._deferred_bytes > UNREAD_MAX:
            self._deferred_bytes = 0
            self._give_up()

    def _send_deferred_packets(self) -> None:
        """Send what had to wait."""
        self._deferred_bytes = 0
        super()._send_deferred_packets()

    # ------------------------------------------------------------------ rule 1: what is left unread

    def _send(self, data: bytes) -> None:
        """Give a packet to the transport; a peer that leaves UNREAD_MAX unread is given up."""
        transport = self._transport
        if transport is None:
            return
        try:
            transport.write(data)
        except ConnectionError:  # the channel under an inner connection has closed
            return
        if self._unread and transport.get_write_buffer_size() > UNREAD_MAX:
            self._unread = False
            self._give_up()

    def _give_up(self) -> None:
        self._force_close(ConnectionLost("The peer does not read"))
        if self._closing_transport is not None:
            self._closing_transport.abort()

    # ------------------------------------------------------------------ rules 4 and 5: what arrives

    def _recv_data(self) -> None:
        """Parse what asyncssh's path is to parse, in slices; stop reading while a message is worked on."""
        data, self._inpbuf = self._inpbuf, b""
        at = 0
        while at < len(data) and self._transport and not self._is_working():
            self._inpbuf += data[at : at + SLICE]
            at += SLICE
            super()._recv_data()
            if not self._auth_complete and self._recv_seq > EARLY_PACKETS:
                self._force_close(ProtocolError("Too many messages before the login was over"))
        if not self._transport:
            return
        self._inpbuf += data[at:]
        if not self._is_working() or len(self._inpbuf) <= AHEAD_MAX or self._transport.is_closing():
            return
        if not self._auth_complete:  # nobody has so much to say before the answer
            self._force_close(ProtocolError("Too much before the login was over"))
            return
        self._waiting_paused = True
        self._transport.pause_reading()

    def _is_working(self) -> bool:
        return self._recv_handler not in (self._recv_version, self._recv_pkthdr, self._recv_packet)

    def _finish_recv_packet(self, pkttype: int, seq: int, _task: Any = None, is_async: bool = False) -> None:  # noqa: FBT001, FBT002 - asyncssh's signature
        """Go on reading when a message that took its time is done."""
        paused, self._waiting_paused = self._waiting_paused, False
        super()._finish_recv_packet(pkttype, seq, _task, is_async)
        if paused and not self._waiting_paused and self._transport and not self._transport.is_closing():
            self._transport.resume_reading()
