"""One TLS session over bytes: what arrived goes in, cleartext and what must be sent come out.

Why not the host loop's own TLS: uvloop throws away what it has read but not yet delivered when the peer's FIN
arrives while reading is paused (measured with 0.23: 49,152 of 200,000 bytes came through), so a slow client would
lose the end of an answer. Neither uvloop nor asyncio can half-close TLS or tell a close_notify from a cut.

Rule 1: no socket, no clock, no loop. Rule 2: everything given to `decrypt` is decrypted at once, nothing stays
behind, so an end of stream never overtakes data. Rule 3: what `decrypt` or `shake` leave to send (alerts,
tickets, key updates) is in `outgoing`, and the caller sends it, also after they have raised.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Collection

READ_SIZE = 16 * 1024  # the largest TLS record carries this much, and one read never gives more
RECORD_BYTES = 8 * 1024
"""What a record of ours carries at most, as a PostgreSQL server's: libpq reads 8 KiB or more at a time and asks the socket
before it reads again, so the rest of a larger record would wait in its TLS for bytes that never come (measured: psycopg's
asyncio connections hang)."""


class Pinned(ssl.SSLContext):
    """A client's context that trusts certificates by their SHA-256 alone, in hex, whoever signed them for whatever name."""

    pins: frozenset[str]

    @classmethod
    def to(cls, pins: Collection[str]) -> Pinned:
        """Make one that trusts these certificates."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.pins = frozenset(pins)
        return context


class NotPinned(ssl.SSLError):
    """The peer's certificate is not one of the pinned; `shown`: its SHA-256, as people compare it."""

    def __init__(self, shown: str) -> None:
        super().__init__("the certificate is not a pinned one")
        self.shown = shown


class Tls:
    """A TLS session, server or client side; every method may raise ssl.SSLError."""

    def __init__(self, context: ssl.SSLContext, *, server_hostname: str | None, server_side: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._pins = context.pins if isinstance(context, Pinned) else None
        self.ended = False  # the peer's close_notify has been read: nothing more will come

    def shake(self, data: bytes = b"") -> bool:
        """Go on with the handshake; True once it is done. Cleartext behind it comes from `decrypt(b"")`.

        Raises NotPinned before anything of ours can be sent, under a context that is Pinned.
        """
        self._incoming.write(data)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        if self._pins is not None:
            shown = hashlib.sha256(self.peer_certificate or b"").hexdigest()
            if shown not in self._pins:
                raise NotPinned(shown)
        return True

    def decrypt(self, data: bytes) -> bytes:
        """Give the cleartext of what arrived; sets `ended` at the peer's close_notify."""
        self._incoming.write(data)
        parts = []
        try:
            while part := self._ssl.read(READ_SIZE):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the close_notify's name once ours has been sent
            self.ended = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def encrypt(self, data: bytes) -> bytes:
        """Give what to send for `data`, in records of RECORD_BYTES."""
        if len(data) <= RECORD_BYTES:
            self._ssl.write(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), RECORD_BYTES):
                self._ssl.write(view[start : start + RECORD_BYTES])
        return self._outgoing.read()

    def finish(self) -> bytes:
        """Give what to send at our end of stream: the close_notify. `decrypt` goes on working (RFC 8446, 6.1)."""
        with contextlib.suppress(ssl.SSLWantReadError):  # sent; the peer's own has not come yet
            self._ssl.unwrap()
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """Give what the other calls have left to send, b"" mostly."""
        return self._outgoing.read() if self._outgoing.pending else b""

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate in DER, None when it showed none."""
        return self._ssl.getpeercert(binary_form=True)

    @property
    def alpn(self) -> str | None:
        """The protocol agreed on (RFC 7301), None without one."""
        return self._ssl.selected_alpn_protocol()
