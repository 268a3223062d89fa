"""What is said on the raw socket, in trio, before the host loop takes it: a greeting, the TLS handshake.

Rule 1: a greeting is read to the byte. What the peer sends behind it stays in the kernel until TLS is up, so
        nothing sent before TLS can be taken for session data.
Rule 2: whose fault it was is the error's type, by `Side`; each wait is under one deadline for the whole.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
from collections.abc import Callable, Iterator

import trio

from proxyd.errors import ClientError, ProxydError, TargetError, TargetUntrusted
from proxyd.tls import NotPinned, Tls

HANDSHAKE_READ = 16 * 1024  # a ClientHello or a flight of certificates in one read


class Side(enum.Enum):
    """Whose connection a stream is, and so whose fault it is when it breaks."""

    CLIENT = "client"
    TARGET = "target"

    def fault(self, what: str) -> ProxydError:
        """Give the error that says "the client ..." or "the target ..."."""
        return (ClientError if self is Side.CLIENT else TargetError)(f"the {self.value} {what}")

    def untrusted(self, why: str) -> ProxydError:
        """Give the error for a certificate that could not be verified."""
        text = f"the {self.value} showed a certificate that is not trusted: {why}"
        return ClientError(text) if self is Side.CLIENT else TargetUntrusted(text)


async def read_preamble(
    sock: socket.socket, need: Callable[[bytes], int], *, side: Side, limit: int, seconds: float
) -> bytes:
    """Read a cleartext preamble from a raw non-blocking socket, and not one byte more.

    `need(got)` says how many bytes are still missing, 0 when the preamble is complete. The socket stays the
    caller's. Raises the side's error past `limit` bytes, after `seconds`, at an early end and at a reset.
    """
    got = b""
    with _deadline(seconds, side, "did not finish its greeting in time"):
        while missing := need(got):
            if len(got) + missing > limit:
                raise side.fault(f"announced a greeting of {len(got) + missing} bytes, the limit is {limit}")
            data = await _receive(sock, missing, side)
            if not data:
                raise side.fault("closed the connection before its greeting was complete")
            got += data
    return got


async def shake_hands(sock: socket.socket, tls: Tls, *, side: Side, seconds: float) -> bytes:
    """Do the TLS handshake; give the cleartext that came right behind it.

    Raises the side's error when it fails or is not done after `seconds`. The socket stays the caller's.
    """
    data = b""
    with _deadline(seconds, side, "did not finish its TLS handshake in time"):
        try:
            while not tls.shake(data):
                await _send(sock, tls.outgoing(), side)
                if not (data := await _receive(sock, HANDSHAKE_READ, side)):
                    raise side.fault("closed the connection inside its TLS handshake")
            early = tls.decrypt(b"")
        except NotPinned as error:
            shown = error.shown.upper()
            digits = ":".join(shown[at : at + 2] for at in range(0, len(shown), 2))
            raise TargetUntrusted(
                f"the target showed a certificate that is not the pinned one; its SHA-256 is {digits}",
                changed=True,
            ) from error
        except ssl.SSLError as error:
            with contextlib.suppress(OSError):
                sock.send(tls.outgoing())  # the alert, tried once: the handshake is over either way
            if isinstance(error, ssl.SSLCertVerificationError):
                raise side.untrusted(error.verify_message) from error
            raise side.fault(f"failed the TLS handshake: {error.reason}") from error
        await _send(sock, tls.outgoing(), side)
    return early


async def _receive(sock: socket.socket, size: int, side: Side) -> bytes:
    """Receive 1 to `size` bytes from a raw socket, b"" at its end."""
    while True:
        try:
            return sock.recv(size)
        except (BlockingIOError, InterruptedError):
            await trio.lowlevel.wait_readable(sock)
        except OSError as error:
            raise side.fault(f"broke the connection: {error.strerror}") from error


async def _send(sock: socket.socket, data: bytes, side: Side) -> None:
    """Send all of `data` on a raw socket."""
    while data:
        try:
            data = data[sock.send(data) :]
        except (BlockingIOError, InterruptedError):
            await trio.lowlevel.wait_writable(sock)
        except OSError as error:
            raise side.fault(f"broke the connection: {error.strerror}") from error


@contextlib.contextmanager
def _deadline(seconds: float, side: Side, what: str) -> Iterator[None]:
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise side.fault(what)
