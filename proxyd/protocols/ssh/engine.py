"""The SSH engine: greet the user, find out where they want to go, dial the target, relay until either side ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

import asyncssh
import trio
from asyncssh.connection import SSHServerConnectionOptions
from asyncssh.constants import DISC_BY_APPLICATION

from proxyd import __version__
from proxyd.errors import ClientError, ConfigError
from proxyd.host import loop, on_host
from proxyd.protocols.ssh import back
from proxyd.protocols.ssh.front import CHACHA, CTR, GCM, KEX, MACS, FrontConnection, FrontOwner
from proxyd.protocols.ssh.lobby import Lobby
from proxyd.protocols.ssh.relay import Relay
from proxyd.protocols.ssh.transport import Wire

if TYPE_CHECKING:
    from proxyd.access import Permit
    from proxyd.config import SshListen
    from proxyd.engine import Caller, Converse, Core
    from proxyd.errors import ProxydError
    from proxyd.session import Login, Session

LEAVE_S = 1.0
"""Seconds a refused client gets to read why."""

KEEPALIVES_MISSED = 3
"""Keepalives without an answer after which a peer counts as gone."""

asyncssh.set_log_level("ERROR")


async def front_options(listen: SshListen) -> SSHServerConnectionOptions:
    """Prepare what all client connections of a listener share; raises ConfigError when a host key can't be read."""
    try:
        keys = [asyncssh.read_private_key(path) for path in listen.host_keys]
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise ConfigError(f"listen.ssh.host_keys: {error}") from None
    return await on_host(
        SSHServerConnectionOptions.construct(
            config=None,
            server_factory=FrontOwner,
            server_version=f"proxyd_{__version__}".replace("-", "_"),
            server_host_keys=keys,
            kex_algs=list(KEX),
            encryption_algs=[*GCM, *CTR, *(CHACHA if listen.chacha else ())],
            mac_algs=list(MACS),
            compression_algs=["none"],
            signature_algs=(),
            gss_host=None,
            encoding=None,
            line_editor=False,
            login_timeout=0,
            rekey_bytes=listen.rekey_bytes,
            rekey_seconds=listen.rekey_seconds,
            keepalive_interval=listen.keepalive_seconds,
            keepalive_count_max=KEEPALIVES_MISSED,
        )
    )


class SshEngine:
    """One client connection; satisfies `proxyd.engine.Engine`."""

    name: ClassVar[str] = "ssh"

    def __init__(
        self,
        core: Core,
        options: SSHServerConnectionOptions,
        caller: Caller,
        converse: Converse,
        *,
        inner: FrontConnection | None = None,
    ) -> None:
        self._core = core
        self._options = options
        self._caller = caller
        self._converse = converse
        self._inner = inner
        self._front = inner or FrontConnection(loop(), options)
        self._lobby: Lobby | None = None

    async def greet(self) -> Login:
        """Run the handshake and the login; raises ClientError when the client leaves or breaks the protocol."""
        front = self._front
        if self._inner is None:
            front.prepare(self._core, self._caller.ip)
            await on_host(loop().connect_accepted_socket(lambda: Wire(front), self._caller.sock))
        await front.proved.wait()
        if front.login is None or front.left.is_set():
            raise front.why_left()
        return front.login

    @property
    def failures(self) -> int:
        """How many factors failed."""
        return self._front.failures

    async def choose(self, login: Login) -> Permit | None:
        """Give the permit for the target the user name names, or that is chosen in the lobby; raises Denied."""
        front = self._front
        wanted = front.wanted
        if wanted is not None and wanted.target is not None:
            return self._core.access.authorize(login.user, wanted.login, wanted.target, login.user_ip)
        async with trio.open_nursery() as nursery:

            def start_inner(inner: FrontConnection) -> None:
                engine = SshEngine(self._core, self._options, self._caller, self._converse, inner=inner)
                nursery.start_soon(self._converse_inside, engine)

            self._lobby = front.lobby = Lobby(front, start_inner)
            front.admit(None)
            nursery.start_soon(self._until_left, self._lobby)
            await self._lobby.picked.wait()
            nursery.cancel_scope.cancel()
        permit = self._lobby.permit
        if permit is None:
            return None
        return self._core.access.authorize(login.user, permit.account, permit.target.name, login.user_ip)

    async def _converse_inside(self, engine: SshEngine) -> None:
        assert self._lobby is not None  # noqa: S101 - the lobby starts it
        self._lobby.inners += 1
        try:
            await self._converse(engine)
        finally:
            self._lobby.inners -= 1

    async def _until_left(self, lobby: Lobby) -> None:
        await self._front.left.wait()
        lobby.picked.set()

    async def serve(self, session: Session) -> None:
        """Connect to the target and relay; returns when either side has ended.

        Raises ClientError when the client leaves before that, TargetError and its kin.
        """
        front = self._front
        session.farewell = lambda text: front.say_goodbye(DISC_BY_APPLICATION, text)
        target_side = await self._dial(session)
        handing: asyncio.Task[None] | None = None
        try:
            relay = Relay(session, front, target_side)
            target_side.relay = relay
            session.attach(relay)
            front.admit(relay)
            if self._lobby is not None:
                handing = loop().create_task(self._lobby.hand_over(relay))
            if front.left.is_set():
                relay.client_gone()
            if target_side.is_closed():  # before it knew its relay
                relay.target_gone("")
            await relay.over.wait()
            await relay.told()
        finally:
            if handing is not None:
                handing.cancel()
            target_side.abort()

    async def _dial(self, session: Session) -> back.BackConnection:
        """Connect to the target, for as long as the client is there to want it."""
        front = self._front
        listen = self._core.config.listen.ssh
        assert listen is not None  # noqa: S101 - this connection came through it
        with trio.CancelScope() as scope:
            front.when_left = scope.cancel
            if front.left.is_set():
                scope.cancel()
            try:
                return await back.connect(session, listen, self._show_banner)
            finally:
                front.when_left = None
        raise ClientError("The client left while its target was being connected.")

    def _show_banner(self, text: str) -> None:
        if self._lobby is None and not self._front.is_live():
            self._front.send_auth_banner("".join(c for c in text if c.isprintable() or c in "\n\t"))

    async def refuse(self, error: ProxydError) -> None:
        """Say why, and give the client a moment to read it."""
        self._front.say_goodbye(DISC_BY_APPLICATION, str(error))
        with trio.move_on_after(LEAVE_S):
            await self._front.left.wait()

    async def aclose(self) -> None:
        """Close the client's side; what is queued gets its moment."""
        self._front.say_goodbye(DISC_BY_APPLICATION, "")
        if self._inner is None and self._caller.sock.fileno() >= 0 and self._front._transport is None:
            with trio.move_on_after(LEAVE_S, shield=True):
                await self._front.left.wait()
            if not self._front.left.is_set():  # cut off before the connection was made of it
                self._caller.sock.close()
