"""The RDP engine: take the user in, find out where they want to go, log in there, relay until either side ends."""

from __future__ import annotations

import functools
import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import trio

from proxyd import host, log, metrics
from proxyd.access import Wanted
from proxyd.characters import printable
from proxyd.decoders import usable
from proxyd.errors import Denied, Dropped, ProxydError, RecordingFailed
from proxyd.protocols.rdp import back, gcc, mcs
from proxyd.protocols.rdp.conduit import Conduit
from proxyd.protocols.rdp.crossing import Desk, Handover, numbers
from proxyd.protocols.rdp.front import Front, Wants, broken, shown
from proxyd.protocols.rdp.proof import Proofs
from proxyd.protocols.rdp.share import ErrorInfo
from proxyd.protocols.rdp.static import USER, StaticChannels, policy
from proxyd.protocols.rdp.wire import WireError
from proxyd.recorder.record import Kind
from proxyd.relay import while_wanted
from proxyd.session import Login

if TYPE_CHECKING:
    from proxyd.access import Permit
    from proxyd.config import RdpListen
    from proxyd.engine import Caller, Core
    from proxyd.protocols.rdp.lobby import Lobby
    from proxyd.session import Session
    from proxyd.stream import Stream

_log = log.get("rdp")


class RdpEngine:
    """One client connection; satisfies `proxyd.engine.Engine`."""

    name: ClassVar[str] = "rdp"

    def __init__(
        self, core: Core, listen: RdpListen, tls: ssl.SSLContext, key: bytes, caller: Caller
    ) -> None:
        self._core = core
        self._listen = listen
        self._front = Front(caller, listen, tls, key)
        self._wants: Wants | None = None
        self._wanted = Wanted("")
        self._lobby: Lobby | None = None  # while it is what the client shows

    @property
    def failures(self) -> int:
        """How many proofs failed."""
        return self._front.failures

    async def greet(self) -> Login:
        """Take the client in. Raises ClientError, as ProtocolBroken; Denied."""
        try:
            login = await self._proof()
        except WireError as error:
            raise await broken(self._front, error) from None
        except trio.Cancelled:
            self._front.say(ErrorInfo.LOGON_TIMEOUT)
            raise
        assert self._wants is not None  # noqa: S101 - the proof came with them
        return Login(login.user, login.user_ip, login.how, client=shown(self._wants))

    async def _proof(self) -> Login:
        """Find out who it is, by NLA, by Client Info or by the login screen; raises ClientError, WireError."""
        front, proofs = self._front, Proofs(self._core.access, self._core.tokens)
        proven = await front.begin(proofs)
        wants = await front.confer()
        said, password = proven or wants.info.user, wants.info.password
        self._wants = Wants(wants.blocks, replace(wants.info, password=""))  # kept for as long as the session
        if not proven and self._listen.login_screen and not (said and password):
            said, login = await (await self._entered()).log_in(proofs)
        else:
            name = self._meant(said).user
            login = await front.prove(proofs, name, password) or await (await self._entered()).code(
                proofs, name
            )
        self._wanted = self._meant(said)
        return login

    def _meant(self, said: str) -> Wanted:
        return self._core.access.parse_username(said).at(self._listen.target)

    async def _entered(self) -> Lobby:
        """Give the login screen, which is shown from when it is first needed; raises ClientError, WireError."""
        assert self._wants is not None  # noqa: S101 - the conference came before
        if self._lobby is None:
            self._lobby = self._front.lobby(self._wants, self._core.config.node)
            await self._lobby.open()
        return self._lobby

    async def choose(self, login: Login) -> Permit:
        """Give the permit for the target that was named, or picked from a list; raises Denied, ClientError."""
        if self._listen.target not in ("", self._wanted.target):
            raise Denied(f"This address leads to {self._listen.target} only.")
        wanted = self._wanted
        if self._listen.login_screen and wanted.login is None:
            try:
                wanted = await self._picked(login, wanted)
            except WireError as error:
                raise await broken(self._front, error) from None
        permit = self._core.access.authorize(
            login.user, wanted.login, wanted.target, login.user_ip, protocol="rdp"
        )
        token = self._front.token
        if token is not None and token.target != permit.target.name:
            raise Denied(f"This session token leads to {token.target} only.")
        return permit

    async def _picked(self, login: Login, wanted: Wanted) -> Wanted:
        """Let the user pick, where several ways are open to them; raises Denied, ClientError, WireError."""
        token = self._front.token
        ways = [
            permit
            for permit in self._core.access.reachable(login.user, login.user_ip, protocol="rdp")
            if wanted.target in (None, permit.target.name)
            and (token is None or token.target == permit.target.name)
        ]
        if not ways and wanted.target is None:
            raise Denied("There is no desktop you may reach now; ask for a grant.")
        if not ways:
            return wanted  # an address, or nothing of theirs
        permit = ways[0] if len(ways) == 1 else await (await self._entered()).choose(ways)
        return Wanted(wanted.user, permit.account, permit.target.name)

    async def serve(self, session: Session) -> None:
        """Log in to the target and relay; returns when either side has ended. Raises TargetError and its kin."""
        tokens, token = self._core.tokens, self._front.token
        if token is not None:
            session.on_drop = functools.partial(tokens.revoke, token)
        with tokens.opening(token, time.monotonic):
            await self._serve(session)

    async def _serve(self, session: Session) -> None:
        wants = self._wants
        assert wants is not None  # noqa: S101 - `greet` has found them out
        if self._lobby is not None:
            await self._lobby.wait(f"Connecting to {session.target}.")
        client = self._front.done()
        graphics = usable(session.permit.target.graphics)
        static = StaticChannels(policy(session.permit), session.tape.add, host.loop().call_soon_threadsafe)
        admitted = static.policy.admits(channel.name for channel in gcc.channels(wants.blocks))
        asked = wants._replace(blocks=gcc.keep_channels(wants.blocks, admitted))
        target = await while_wanted(
            client, back.connect(session.permit.target, session.login, asked, graphics)
        )
        try:
            core = gcc.client_core(wants.blocks)
            desk = Desk(core.width, core.height, graphics=graphics, static=static)
            if self._lobby is not None:
                desk.handover = Handover.WAITING
                self._lobby = None  # it is the session's screen now
            conduit = self._joined(session, client, target, wants, desk)
            session.attach(conduit)
            metrics.RDP_GRAPHICS.labels(policy=graphics).inc()
        except BaseException:
            target.stream.abort()
            raise
        await conduit.run()

    @staticmethod
    def _joined(session: Session, client: Stream, target: back.Back, wants: Wants, desk: Desk) -> Conduit:
        """Put on the tape how the session was negotiated, and join the two sides."""
        chosen = session.permit.target
        if chosen.tls == "require" and not chosen.tls_pins:
            text = f"{chosen.name} is believed whatever certificate it shows: its tls is require."
            session.finding("certificate-unchecked", "medium", text)
        core = gcc.client_core(wants.blocks)
        names = [channel.name.lower() for channel in gcc.channels(wants.blocks)]
        ids, admitted = iter(target.channels), desk.static.policy.admits(names)
        numbered = numbers(names, target.user, target.io, [next(ids) if one else None for one in admitted])
        session.tape.add(
            Kind.REQUEST,
            {"name": "rdp", "width": core.width, "height": core.height, "depth": target.depth,
             "layout": core.layout, "channels": {str(key): name for key, name in numbered.passing.items()},
             "io": mcs.GLOBAL_CHANNEL, "user": USER, "graphics": desk.graphics},
        )  # fmt: skip
        refused = [printable(name) for name, passes in zip(names, admitted, strict=True) if not passes]
        for name in refused:
            session.tape.add(Kind.CHANNEL, {"event": "refused", "type": name})
        if refused:
            _log.info("channels refused", session=session.id, target=session.target, channels=refused)
        return Conduit(session, client, target.stream, numbered, desk)

    async def refuse(self, error: ProxydError) -> None:
        """Say why, by Set Error Info: clients show words of their own for each code; on the login screen in ours."""
        ended = isinstance(error, Dropped | RecordingFailed)
        if self._lobby is not None and not ended:
            await self._lobby.tell(str(error))
        self._front.say(ErrorInfo.RPC_INITIATED_DISCONNECT if ended else ErrorInfo.SERVER_DENIED_CONNECTION)

    async def aclose(self) -> None:
        """Close the client's side; what was said gets its moment."""
        await self._front.aclose()
