"""The connections of browsers: who gets one, and where what is wrong with one ends.

Rule 1: a connection is let in by the address it comes from before a byte of it is read: so many a second (admission), so
        many at a time, and so many of all. Whoever is refused costs an accept and a close, no handshake.
Rule 2: every wait for a browser has an end: its handshake, the head of a request (KEEP_ALIVE_SECONDS), a form (forms.py), an
        answer it does not take (the kernel, STALL_MS), its word of leaving; one on which nothing moves (patience).
Rule 3: a connection's fault is its own: nothing a browser does, or a library makes of it, ends another or the process.
Rule 4: out of descriptors or memory it waits, and the connections there are go on.
Rule 5: TLS 1.2 or 1.3 only, HTTP/1.1 only: WebSockets need it, and it is the least there is to attack.
"""

from __future__ import annotations

import errno
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.abc
import msgspec
import trio
from anycorn import Config as ServerConfig
from anycorn import protocol
from anycorn.app_wrappers import ASGIWrapper
from anycorn.protocol.h11 import H11Protocol
from anycorn.tcp_server import tcp_server_handler
from anycorn.typing import ConnectionState
from anycorn.worker_context import WorkerContext
from anyio.streams.tls import TLSStream

from proxyd import config as configuration
from proxyd import log, metrics
from proxyd.admission import Admission, Refused, Ticket
from proxyd.config import Console
from proxyd.console.patience import Patient
from proxyd.database_tls import front_context
from proxyd.errors import ConfigError

BACKLOG: Final = 100
CONNECTIONS: Final = 1000  # a browser keeps six and one for each live view; some 100 KB each
OF_SOURCE: Final = 128  # an office behind one address; more of it: admission.exempt
SPARE_FILES: Final = 200  # descriptors for recordings and the control socket
HEADER_BYTES: Final = 16 << 10  # of a request, whole
SOCKET_MESSAGE_BYTES: Final = 4096  # browsers have next to nothing to say on a socket
PING_SECONDS: Final = 20.0  # a viewer that is gone is noticed, and a proxy between keeps the socket open
KEEP_ALIVE_SECONDS: Final = 30.0
STALL_MS: Final = 60_000  # as long as the daemon waits for a viewer who takes nothing
HANDSHAKE_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 5.0  # for a browser's own close_notify
GRACE_SECONDS: Final = 3.0
FULL_SECONDS: Final = 0.1  # as the daemon's own accept loop
_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = log.get("console")


class Settings(ServerConfig):
    """anycorn's settings for one console."""

    def __init__(self, settings: Console) -> None:
        super().__init__()
        self.certfile, self.keyfile = str(settings.certificate), str(settings.key)
        self.errorlog = log.standard("anycorn.error")
        self.h11_max_incomplete_size = HEADER_BYTES
        self.websocket_max_message_size = SOCKET_MESSAGE_BYTES
        self.websocket_ping_interval = PING_SECONDS
        self.websocket_permessage_deflate = (
            False  # what is worth it is compressed already; and memory for each socket
        )
        self.keep_alive_timeout = KEEP_ALIVE_SECONDS
        self.read_timeout = None  # Patient has it
        self.include_server_header = False


def tls(settings: Console) -> ssl.SSLContext:
    """Give the context every front of proxyd has, for HTTP/1.1. Raises ConfigError."""
    context = front_context(settings)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2; Mozilla's "intermediate" without DHE
    # Of its groups ssl can name one only (before Python 3.15): the one every client has, those of FIPS too.
    context.set_ecdh_curve("prime256v1")
    return context


def listen(address: str) -> socket.socket:
    """Open the listening socket. Raises ConfigError."""
    host, port = configuration.split_address(address)
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # What is accepted inherits both: keys of a live view at once, and an end for browsers that take nothing.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALL_MS)
            listening.bind(place)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ConfigError(f"the console can't listen at {address}: {error.strerror or error}") from None
    return listening


def at_most() -> int:
    """Say how many connections there may be, with the descriptors this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + SPARE_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(CONNECTIONS, max(soft - SPARE_FILES, soft // 2))


class _Http1(H11Protocol):
    """HTTP/1.1 and nothing else (Rule 5): anycorn speaks HTTP/2 to whoever begins it so, whatever ALPN has settled."""

    async def _check_protocol(self, event: Any) -> None:
        """Let an offer of HTTP/2 be a header or a method like any other, which RFC 9110 7.8 allows."""


def handler(app: Any, settings: Settings) -> tuple[Callable[[Any], Awaitable[None]], WorkerContext]:
    """Give what serves an application on one connection, and what tells it that the end is near."""
    protocol.H11Protocol = _Http1  # type: ignore[attr-defined]  # there is no other place to say so
    context = WorkerContext(None)
    return tcp_server_handler(ASGIWrapper(app), settings, context, ConnectionState({})), context


class _Line(TLSStream):
    """A connection with TLS whose end waits for the browser no longer than CLOSE_SECONDS.

    What goes wrong with TLS once it is up means that the browser is gone: a library's own error would be one of ours.
    """

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            return await super().receive(max_bytes)
        except ssl.SSLError:
            raise anyio.BrokenResourceError from None

    async def send(self, item: bytes) -> None:
        try:
            await super().send(item)
        except ssl.SSLError:
            raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_SECONDS, shield=True):
            await super().aclose()


class Door:
    """Accepts the connections of one listening socket, and serves an application on each."""

    def __init__(self, app: Any, settings: Console, admission: configuration.Admission) -> None:
        """Read the certificate. Raises ConfigError."""
        self._context = tls(settings)
        self._serve, self._worker = handler(app, Settings(settings))
        self._limit = at_most()
        self._arrivals = Admission(_without_startups(admission))
        self._open: Counter[Any] = Counter()  # by source; None: exempt ones

    def reconfigure(self, admission: configuration.Admission) -> None:
        """Use other limits for connections to come."""
        self._arrivals.reconfigure(_without_startups(admission))

    async def run(
        self,
        listening: socket.socket,
        ended: trio.Event,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `ended`; then what runs has GRACE_SECONDS."""
        async with trio.open_nursery() as nursery:
            with listening, trio.CancelScope() as accepting:
                nursery.start_soon(_cancel_at, ended, accepting)
                task_status.started()
                await self._accept(nursery, trio.socket.from_stdlib_socket(listening))
            await self._worker.terminated.set()
            nursery.cancel_scope.deadline = trio.current_time() + GRACE_SECONDS

    async def _accept(self, nursery: trio.Nursery, accepting: trio.socket.SocketType) -> None:
        while True:
            try:
                connection, peer = await accepting.accept()
            except OSError as error:
                if error.errno not in _FULL:
                    continue  # the browser was gone before we looked
                metrics.CONSOLE_REFUSED.labels(reason="descriptors").inc()
                await trio.sleep(FULL_SECONDS)
                continue
            self._admit(nursery, socket.socket(fileno=connection.detach()), peer[0].removeprefix("::ffff:"))

    def _admit(self, nursery: trio.Nursery, sock: socket.socket, ip: str) -> None:
        source = self._arrivals.source_of(ip)
        why, ticket = "", None
        if self._open.total() >= self._limit:
            why = "full"
        elif source is not None and self._open[source] >= OF_SOURCE:
            why = "source"
        else:
            try:
                ticket = self._arrivals.arrive(ip)
            except Refused as refusal:
                why = refusal.reason
        if ticket is None:
            metrics.CONSOLE_REFUSED.labels(reason=why).inc()
            sock.close()
            return
        self._open[source] += 1
        metrics.CONSOLE_CONNECTIONS.set(self._open.total())
        nursery.start_soon(self._connection, sock, source, ticket)

    async def _connection(self, sock: socket.socket, source: Any, ticket: Ticket) -> None:
        """Serve one; the firewall around it. Never raises."""
        try:
            with sock:
                if (line := await self._handshake(sock)) is not None:
                    ticket.authenticated()  # the handshake is what arrivals are counted for
                    await self._serve(Patient(line))
        except Exception as error:  # noqa: BLE001  one browser's trouble is nobody else's
            metrics.CONSOLE_FAULTS.inc()
            _log.info("a connection broke", error=type(error).__name__)
        finally:
            ticket.close()
            self._open[source] -= 1
            if not self._open[source]:
                del self._open[source]
            metrics.CONSOLE_CONNECTIONS.set(self._open.total())

    async def _handshake(self, sock: socket.socket) -> _Line | None:
        """Give the connection with TLS, None where none comes of it."""
        line = None
        try:
            with trio.move_on_after(HANDSHAKE_SECONDS):
                plain = await anyio.abc.SocketStream.from_socket(sock)
                line = await _Line.wrap(plain, server_side=True, ssl_context=self._context)
        except (OSError, ValueError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            line = None  # no TLS, another version, or gone: ssl.SSLError is an OSError
        if line is None:
            metrics.CONSOLE_REFUSED.labels(reason="handshake").inc()
        return line  # type: ignore[return-value]  # wrap() makes what it is asked of


def _without_startups(admission: configuration.Admission) -> configuration.Admission:
    """Give the limits without sshd's on logins that have begun: a browser's handshakes come six at a time."""
    return msgspec.structs.replace(admission, max_startups=f"{CONNECTIONS}:100:{CONNECTIONS}")


async def _cancel_at(ended: trio.Event, scope: trio.CancelScope) -> None:
    await ended.wait()
    scope.cancel()
