"""The RDP engine: take the user in, find out where they want to go, log in there, relay until either side ends."""

from __future__ import annotations

import functools
import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from proxyd import host, log
from proxyd.access import Wanted
from proxyd.characters import printable
from proxyd.decoders import usable
from proxyd.errors import Denied, Dropped, ProxydError, RecordingFailed
from proxyd.protocols.rdp import back, gcc, mcs
from proxyd.protocols.rdp.conduit import Conduit
from proxyd.protocols.rdp.crossing import Desk, numbers
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

    @property
    def failures(self) -> int:
        """How many proofs failed."""
        return self._front.failures

    async def greet(self) -> Login:
        """Take the client in. Raises ClientError, as ProtocolBroken; Denied."""
        access = self._core.access
        proofs = Proofs(access, self._core.tokens)
        try:
            proven = await self._front.begin(proofs)
            wants = await self._front.confer()
        except WireError as error:
            raise await broken(self._front, error) from None
        self._wanted = access.parse_username(proven or wants.info.user).at(self._listen.target)
        login = await self._front.prove(proofs, self._wanted.user, wants.info.password)
        self._wants = Wants(wants.blocks, replace(wants.info, password=""))  # kept for as long as the session
        return Login(login.user, login.user_ip, login.how, client=shown(wants))

    async def choose(self, login: Login) -> Permit:
        """Give the permit for the target that was named; raises Denied."""
        wanted = self._wanted
        if self._listen.target not in ("", wanted.target):
            raise Denied(f"This address leads to {self._listen.target} only.")
        permit = self._core.access.authorize(
            login.user, wanted.login, wanted.target, login.user_ip, protocol="rdp"
        )
        token = self._front.token
        if token is not None and token.target != permit.target.name:
            raise Denied(f"This session token leads to {token.target} only.")
        return permit

    async def serve(self, session: Session) -> None:
        """Log in to the target and relay; returns when either side has ended. Raises TargetError and its kin."""
        tokens, token = self._core.tokens, self._front.token
        if token is not None:
            session.on_drop = functools.partial(tokens.revoke, token)
        with tokens.opening(token, time.monotonic):
            await self._serve(session)

    async def _serve(self, session: Session) -> None:
        client, wants = self._front.done(), self._wants
        assert wants is not None  # noqa: S101 - `greet` has found them out
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
            conduit = self._joined(session, client, target, wants, desk)
            session.attach(conduit)
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
        """Say why, by Set Error Info: clients show words of their own for each code."""
        ended = isinstance(error, Dropped | RecordingFailed)
        self._front.say(ErrorInfo.RPC_INITIATED_DISCONNECT if ended else ErrorInfo.SERVER_DENIED_CONNECTION)

    async def aclose(self) -> None:
        """Close the client's side; what was said gets its moment."""
        await self._front.aclose()
