"""The accept loop, and the story of a connection: greet, choose, open, serve; one firewall around each.

Rule 1: a connection that admission refuses costs an accept and a close.
Rule 2: the grace deadline covers everything before the login; nobody holds a slot without proving who they are.
Rule 3: whatever goes wrong in one conversation ends that one: ProxydError is said to the client in its own words,
        anything else is a bug, logged with its traceback, and the client gets one plain sentence.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import trio

from proxyd import log, metrics
from proxyd.config import split_address
from proxyd.engine import Caller
from proxyd.errors import ClientError, ConfigError, Denied, ProtocolBroken, ProxydError
from proxyd.session import opened

if TYPE_CHECKING:
    from proxyd.admission import Ticket
    from proxyd.engine import Core, Engine, MakeEngine

BACKLOG = 512
"""Connections the kernel holds for us; a burst of an automation tool's forks fits."""

FULL_S = 0.1
"""Seconds to wait when the process or the host is out of descriptors, as trio's own accept loop does."""

_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = log.get("listener")


class Listener:
    """One listening socket of one protocol."""

    def __init__(self, core: Core, protocol: str, address: str, make_engine: MakeEngine) -> None:
        self._core = core
        self._protocol = protocol
        self._make_engine = make_engine
        self._accepting = trio.CancelScope()
        self._sock = _listen(protocol, address)
        host, port = self._sock.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Accept no more; the conversations go on."""
        self._accepting.cancel()

    async def run(self) -> None:
        """Accept until cancelled; the conversations live in this task's nursery."""
        async with trio.open_nursery() as nursery:
            with self._sock, self._accepting:
                await self._accept(nursery, trio.socket.from_stdlib_socket(self._sock))

    async def _accept(self, nursery: trio.Nursery, accepting: trio.socket.SocketType) -> None:
        while True:
            try:
                connection, peer = await accepting.accept()
            except OSError as error:
                if error.errno not in _FULL:
                    continue  # the client was gone before we looked
                _log.error("out of descriptors or memory for new connections", error=error.strerror)
                await trio.sleep(FULL_S)
                continue
            self._admit(nursery, socket.socket(fileno=connection.detach()), peer[0], peer[1])

    def _admit(self, nursery: trio.Nursery, sock: socket.socket, ip: str, port: int) -> None:
        sock.setblocking(False)
        ip = ip.removeprefix("::ffff:")
        try:
            ticket = self._core.admission.arrive(ip)
        except Denied as refusal:
            metrics.ADMISSION_REFUSED.labels(reason=getattr(refusal, "reason", "refused")).inc()
            sock.close()
            return
        nursery.start_soon(self._converse_admitted, Caller(sock, ip, port), ticket)

    async def _converse_admitted(self, caller: Caller, ticket: Ticket) -> None:
        try:
            await self.converse(self._make_engine(caller, self.converse), ticket)
        finally:
            ticket.close()

    async def converse(self, engine: Engine, ticket: Ticket | None = None) -> None:
        """Hold one conversation; never raises (rule 3). `ticket`: None for the inner side of an admitted one."""
        try:
            await self._story(engine, ticket)
        except* ClientError as errors:
            for error in errors.exceptions:
                _log.info("client gone before a session", protocol=self._protocol, why=str(error))
        except* ProxydError as errors:
            await self._say(engine, errors)
        except* Exception:  # noqa: BLE001 - rule 3
            _log.exception("a bug ended a conversation", protocol=self._protocol)
            await engine.refuse(ProxydError("The session proxy has failed; an administrator has been told."))
        finally:
            with trio.CancelScope(shield=True):
                await engine.aclose()

    async def _story(self, engine: Engine, ticket: Ticket | None) -> None:
        core = self._core
        try:
            with trio.fail_after(core.config.admission.grace_seconds):
                login = await engine.greet()
        except trio.TooSlowError:
            metrics.LOGINS.labels(protocol=self._protocol, result="grace").inc()
            if ticket is not None:
                ticket.failed("grace")
            raise ClientError("The login took too long.") from None
        except ClientError as error:
            broke = isinstance(error, ProtocolBroken)
            if broke:
                metrics.LOGINS.labels(protocol=self._protocol, result="invalid").inc()
            if ticket is not None:
                ticket.failed("authfail" if engine.failures else "invalid" if broke else "noauth")
            raise
        if ticket is not None:
            ticket.authenticated()
            metrics.LOGINS.labels(protocol=self._protocol, result="ok").inc()
        permit = await engine.choose(login)
        if permit is None:
            return
        async with opened(core, login, permit, self._protocol) as session:
            await engine.serve(session)

    async def _say(self, engine: Engine, errors: ExceptionGroup[ProxydError]) -> None:
        error = errors.exceptions[0]
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, Denied):
            metrics.LOGINS.labels(protocol=self._protocol, result="denied").inc()
        _log.info("refused", protocol=self._protocol, why=str(error))
        await engine.refuse(error)


def _listen(protocol: str, address: str) -> socket.socket:
    """Open a listening socket; raises ConfigError naming the listener."""
    host, port = split_address(address)
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][
            0
        ]
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"listen.{protocol}: can't listen on {address}: {error.strerror or error}"
        ) from None
    sock.setblocking(False)
    return sock
