"""The SSH transport, hardened: what asyncssh 2.24 leaves out for a proxy that strangers reach.

Rule 1: what a peer can make us hold is bounded: `bounds.py`.
Rule 2: no packet the cipher does not need: stock asyncssh sends an encrypted MSG_IGNORE before each packet, a
        counter-measure for CBC, which is never offered here.
Rule 3: a goodbye is sent, then flushed, then bounded: the peer gets the disconnect text if it reads at all, and the
        socket is gone after a deadline if it does not.
Rule 4: everything that is not AES-GCM after login takes asyncssh's own path; only that one is rewritten.

The private names of asyncssh used here and in this package are listed in `tests/unit/ssh/test_asyncssh_names.py`,
which fails when an update moves one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import struct
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_FIRST,
    MSG_CHANNEL_LAST,
    MSG_DEBUG,
    MSG_KEX_FIRST,
    MSG_KEX_LAST,
    MSG_NEWKEYS,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FIRST,
    MSG_USERAUTH_LAST,
)
from asyncssh.misc import CompressionError, DisconnectError, MACError, ProtocolError
from asyncssh.packet import PacketDecodeError, SSHPacket, UInt32
from cryptography.exceptions import InvalidTag

from proxyd.protocols.ssh.bounds import Bounded
from proxyd.protocols.ssh.ciphers import WEAK, CachedGCM, cached

if TYPE_CHECKING:
    from asyncssh.encryption import Encryption

GOODBYE_S = 0.8
"""Seconds a closing transport may take to flush; a drop promises closed within one second."""

READ_BYTES = 256 * 1024
"""What is read at a time, at most; an unfinished packet of it is a tenth of that."""

GCM_TAG = 16
_PLAIN_HEADER = 10  # padding length, message type, channel, data length: what precedes CHANNEL_DATA's data
_GCM_BLOCK = 16
_PADDINGS = tuple(
    os.urandom(size) for size in range(_GCM_BLOCK + 4)
)  # nobody sees them: the cipher is no CBC
_READ = memoryview(bytearray(READ_BYTES))
_PLAIN = memoryview(bytearray(READ_BYTES))
_data_head, _data_fields = struct.Struct(">BBII").pack, struct.Struct(">BBII").unpack_from
_chan_and_length = struct.Struct(">II").pack
_length = struct.Struct(">I")

_HELD_UNTIL_KEX = frozenset({MSG_DEBUG, MSG_SERVICE_REQUEST, MSG_SERVICE_ACCEPT})


class Hardened(Bounded):
    """The mixin both links share; comes before SSHServerConnection or SSHClientConnection in the bases."""

    _heard = False
    _goodbye: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ rule 2: sending

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        """Finish a key exchange; the new ciphers keep their AEAD objects."""
        super().send_newkeys(k, h)
        self._send_encryption = cached(self._send_encryption)
        self._next_recv_encryption = cached(self._next_recv_encryption)
        self._let_channels_send()

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:  # noqa: ARG002 - asyncssh's signature
        """Send one packet (RFC 4253, 6), or hold it until the key exchange or the login is over."""
        if self._auth_complete and self._kex_complete and self._rekey_due():
            self._send_kexinit()
            self._kexinit_sent = True
        if self._must_wait(pkttype):
            self._defer(pkttype, args)
            return
        payload_length = 1 + sum(map(len, args))
        if self._compressor and (self._auth_complete or not self._compress_after_auth):
            compressed = self._compressor.compress(b"".join((bytes((pkttype,)), *args)))
            if compressed is None:
                raise CompressionError("Compression failed")
            body: tuple[bytes, ...] = (compressed,)
            payload_length = len(compressed)
        else:
            body = (bytes((pkttype,)), *args)
        padding = -(self._send_enchdrlen + payload_length) % self._send_blocksize
        if padding < 4:  # RFC 4253, 6: at least four bytes
            padding += self._send_blocksize
        packet = b"".join((bytes((padding,)), *body, os.urandom(padding)))
        self._send_sealed(pkttype, UInt32(len(packet)), packet)

    def send_channel_data(self, channel: int, data: bytes | bytearray) -> None:
        """Send SSH_MSG_CHANNEL_DATA (RFC 4254, 5.2), in one pass where the cipher is AES-GCM and nothing else is due."""
        encryption = self._send_encryption
        size = len(data)
        if (
            type(encryption) is not CachedGCM
            or self._compressor
            or not (self._auth_complete and self._kex_complete)
            or self._rekey_due()
        ):
            self.send_packet(MSG_CHANNEL_DATA, _chan_and_length(channel, size), bytes(data))
            return
        padding = -(_PLAIN_HEADER + size) % _GCM_BLOCK
        if padding < 4:  # RFC 4253, 6: at least four bytes
            padding += _GCM_BLOCK
        length = _PLAIN_HEADER + size + padding
        packet = b"".join((_data_head(padding, MSG_CHANNEL_DATA, channel, size), data, _PADDINGS[padding]))
        self._send(encryption.seal(_length.pack(length), packet))
        self._send_seq = (self._send_seq + 1) & 0xFFFFFFFF
        self._rekey_bytes_sent += length

    def _rekey_due(self) -> bool:
        if self._rekey_bytes_sent >= self._rekey_bytes:
            return True
        return bool(self._rekey_seconds) and time.monotonic() >= self._rekey_time

    def _must_wait(self, pkttype: int) -> bool:
        if not self._kex_complete and (pkttype in _HELD_UNTIL_KEX or pkttype > MSG_KEX_LAST):
            return True
        if pkttype == MSG_USERAUTH_BANNER:
            return not (self._auth_in_progress or self._auth_complete)
        return pkttype > MSG_USERAUTH_LAST and not self._auth_complete

    def _send_sealed(self, pkttype: int, header: bytes, packet: bytes) -> None:
        sequence = self._send_seq
        if self._send_encryption is None:
            self._send(header + packet)
            if sequence == 0xFFFFFFFF:
                raise ProtocolError("Sequence rollover before kex complete")
        else:
            sealed, mac = self._send_encryption.encrypt_packet(sequence, header, packet)
            self._send(sealed + mac if mac else sealed)
        if pkttype == MSG_NEWKEYS and self._strict_kex:
            self._send_seq = 0
        else:
            self._send_seq = (sequence + 1) & 0xFFFFFFFF
        if self._kex_complete:
            self._rekey_bytes_sent += len(packet)

    # ------------------------------------------------------------------ rule 4: receiving

    def data_received(self, data: bytes | memoryview, datatype: int | None = None) -> None:  # noqa: ARG002 - asyncssh's signature
        """Parse what arrived; AES-GCM after login in one pass without re-slicing the buffer."""
        if not self._transport:
            return
        self._received += len(data)
        encryption = self._recv_encryption
        if not self._takes_packets(encryption):
            super().data_received(bytes(data))
            return
        if self._inpbuf:
            data = self._inpbuf + data
            self._inpbuf = b""
        self._take_packets(encryption, memoryview(data))

    def data_read(self, data: memoryview, kept: int) -> None:
        """Parse what was read behind the first `kept` bytes, which are those of `_inpbuf`; see Wire."""
        encryption = self._recv_encryption
        if kept and self._transport and self._takes_packets(encryption):
            self._received += len(data) - kept
            self._inpbuf = b""
            self._take_packets(encryption, data)
        else:
            self.data_received(data[kept:])

    def _takes_packets(self, encryption: Encryption | None) -> TypeGuard[CachedGCM]:
        return (
            type(encryption) is CachedGCM
            and self._auth_complete
            and not self._decompressor
            and self._recv_handler == self._recv_pkthdr
        )

    def _take_packets(self, encryption: CachedGCM, data: memoryview) -> None:
        """Process every whole packet in `data` and keep the rest, or hand it to asyncssh's path if the keys changed."""
        self._reset_keepalive_timer()
        try:
            done = self._parse(encryption, data)
        except DisconnectError as exc:
            self._send_disconnect(exc.code, exc.reason, exc.lang)
            self._force_close(exc)
        except Exception:  # noqa: BLE001 - asyncssh's own contract: a bug ends this connection, not the daemon
            self.internal_error()
        else:
            if not self._transport or done >= len(data):
                return
            self._inpbuf = bytes(data[done:])
            if self._recv_encryption is not encryption and self._recv_handler == self._recv_pkthdr:
                self._recv_data()

    def _parse(self, encryption: CachedGCM, data: memoryview) -> int:
        """Process every whole packet in `data`; give the offset of the first unfinished one.

        Raises DisconnectError (asyncssh's) on anything a peer may not send.
        """
        offset, end = 0, len(data)
        length: int
        decrypt_into, next_iv = encryption.decrypt_into, encryption.next_iv
        while end - offset >= 4:
            (length,) = _length.unpack_from(data, offset)
            if length > self._max_recv_pktlen:
                raise ProtocolError("Max packet size exceeded")
            body = offset + 4
            following = body + length + GCM_TAG
            if following > end:
                break
            packet = _PLAIN[:length]
            try:
                decrypt_into(next_iv(), data[body:following], data[offset:body], packet)
            except InvalidTag:
                raise MACError("MAC verification failed") from None
            offset = following
            if length > _PLAIN_HEADER and packet[1] == MSG_CHANNEL_DATA:
                self._channel_data(packet)
                self._recv_seq = (self._recv_seq + 1) & 0xFFFFFFFF
                self._auth_final = True
            elif not self._dispatch(bytes(packet)):
                return offset
            if not self._transport or self._recv_encryption is not encryption:
                return offset
        return offset

    def _channel_data(self, packet: memoryview) -> None:
        """Deliver SSH_MSG_CHANNEL_DATA (RFC 4254, 5.2) without building a packet object."""
        padding, _, number, length = _data_fields(packet)
        channel = self._channels.get(number)
        if channel is None:
            raise ProtocolError("Invalid channel number received")
        if _PLAIN_HEADER + length + padding != len(packet):
            raise ProtocolError("Incomplete packet")
        if channel._recv_state != "open":
            raise ProtocolError("Channel not open for sending")
        if length > channel._recv_window:
            raise ProtocolError("Window exceeded")
        channel._accept_data(bytes(packet[_PLAIN_HEADER : _PLAIN_HEADER + length]))

    def _dispatch(self, packet: bytes) -> bool:
        """Hand any other packet to its handler; False while an asynchronous one is at work."""
        payload = SSHPacket(packet[1 : -packet[0]])
        sequence = self._recv_seq
        pkttype = payload.get_byte()
        handler: Any = self
        try:
            if MSG_KEX_FIRST <= pkttype <= MSG_KEX_LAST:
                if self._kex and self._ignore_first_kex:  # a wrong guess (RFC 4253, 7)
                    self._ignore_first_kex = False
                    self._finish_recv_packet(pkttype, sequence)
                    return True
                handler = self._kex
            elif MSG_USERAUTH_FIRST <= pkttype <= MSG_USERAUTH_LAST:
                handler = self._auth
            elif MSG_CHANNEL_FIRST <= pkttype <= MSG_CHANNEL_LAST:
                handler = self._channels.get(payload.get_uint32())
            if handler is None:
                raise ProtocolError(f"Unexpected packet type {pkttype} received")
            result = handler.process_packet(pkttype, sequence, payload)
        except PacketDecodeError as exc:
            raise ProtocolError(str(exc)) from None
        if inspect.isawaitable(result):
            self._recv_handler = _wait_for_handler
            task = self.create_task(result)
            task.add_done_callback(
                functools.partial(self._finish_recv_packet, pkttype, sequence, is_async=True)
            )
            return False
        if not result:
            self.send_packet(MSG_UNIMPLEMENTED, UInt32(sequence))
        self._finish_recv_packet(pkttype, sequence)
        return True

    @contextlib.contextmanager
    def unheard(self) -> Iterator[None]:
        """Leave what the peer sends with the kernel while the block runs."""
        transport = self._transport
        if transport is None or transport.is_closing():
            yield
            return
        transport.pause_reading()
        try:
            yield
        finally:
            if not transport.is_closing() and not self._waiting_paused:
                transport.resume_reading()

    # ------------------------------------------------------------------ keepalives

    def _reset_keepalive_timer(self) -> None:
        """Note that the peer lives; asyncssh makes a new timer for every chunk that arrives."""
        self._heard = True

    def _keepalive_timer_callback(self) -> None:
        """Ask the peer for a sign of life, unless it gave one since the last time."""
        if self._heard:
            self._heard = False
            self._keepalive_count = 0
            self._set_keepalive_timer()
            return
        super()._keepalive_timer_callback()

    # ------------------------------------------------------------------ rule 3: goodbyes

    def say_goodbye(self, code: int, text: str) -> None:
        """Send a disconnect (RFC 4253, 11.1), flush for at most GOODBYE_S, then close; never waits."""
        if not self._transport:
            return
        self._send_disconnect(code, text, "")
        self._force_close(None)

    def _force_close(self, exc: Exception | None) -> None:
        """Close when what is queued has gone out and the peer has closed, or after GOODBYE_S; asyncssh aborts at once."""
        transport = self._transport
        if not transport:
            return
        self._transport = None
        self._closing_transport = transport
        self._goodbye = self._loop.call_later(GOODBYE_S, transport.abort)
        self._loop.call_soon(self._half_close, transport)
        self._loop.call_soon(self._cleanup, exc)

    def _half_close(self, transport: asyncio.Transport) -> None:
        """Send our end, and go on reading into nothing until the peer's.

        A socket closed with unread bytes is reset, and a reset takes the goodbye away from a peer that has not read it.
        """
        if transport.is_closing():
            return
        with contextlib.suppress(
            OSError, RuntimeError
        ):  # uvloop's word for a handle that the peer has just ended
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()

    def connection_lost(self, exc: Exception | None = None) -> None:
        """Note the end; a transport that has gone needs no deadline any more."""
        if self._goodbye is not None and self._closing_transport is not None:
            self._goodbye.cancel()
            self._goodbye = self._closing_transport = None
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close now; what is queued is lost."""
        transport = self._transport or self._closing_transport
        super().abort()
        if transport is not None:
            transport.abort()

    # ------------------------------------------------------------------ what the peer is

    def weaknesses(self) -> list[str]:
        """Name the weak algorithms this link was negotiated with; empty when there are none."""
        names = {self._kex_name, self._enc_alg_cs, self._enc_alg_sc, self._mac_alg_cs, self._mac_alg_sc}
        return sorted(name.decode("ascii", "replace") for name in names if WEAK.search(name))


def _wait_for_handler() -> bool:
    """Stand in for the parser while an asynchronous handler works; data is kept."""
    return False


class Wire(asyncio.BufferedProtocol):
    """Reads a socket for a connection, into memory that all share: a read and its parsing are never interrupted.

    What was kept of an unfinished packet is put in front of what is read next, so that whole packets are opened where
    they lie.
    """

    def __init__(self, connection: Hardened) -> None:
        self._connection = connection
        self._kept = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Give where the next bytes go."""
        kept = self._connection._inpbuf
        self._kept = len(kept) if len(kept) <= READ_BYTES // 2 else 0
        _READ[: self._kept] = kept[: self._kept]
        return _READ[self._kept :]

    def buffer_updated(self, nbytes: int) -> None:
        """Parse them."""
        self._connection.data_read(_READ[: self._kept + nbytes], self._kept)

    def eof_received(self) -> None:
        """Pass on the end of what the peer sends; the transport closes."""
        self._connection.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the peer does not read."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that it does again."""
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the end."""
        self._connection.connection_lost(exc)
