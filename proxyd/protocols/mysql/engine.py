"""The MySQL and MariaDB engine: greet the user, dial the target, join the two until either side ends."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

import trio

from proxyd import log
from proxyd.errors import (
    ClientError,
    Denied,
    Dropped,
    ProtocolBroken,
    ProxydError,
    TargetError,
    TargetUnreachable,
)
from proxyd.protocols.mysql.back import Link, TargetSaidNo
from proxyd.protocols.mysql.back import Login as BackLogin
from proxyd.protocols.mysql.conduit import Conduit
from proxyd.protocols.mysql.front import Front
from proxyd.protocols.mysql.greetings import Greetings
from proxyd.protocols.mysql.login_packets import PASSED, ok_payload
from proxyd.protocols.mysql.rules import CATCH_UP_SECONDS, Rules
from proxyd.protocols.mysql.words import ACCESS_DENIED, FAILED, KILLED, UNREACHABLE
from proxyd.session import DISCONNECTED, TIME_OVER

if TYPE_CHECKING:
    from proxyd.access import Permit
    from proxyd.config import MysqlListen
    from proxyd.engine import Caller, Core
    from proxyd.session import Login, Session

__all__ = ["Greetings", "MysqlEngine"]

KILL_SECONDS: Final = (
    2.0  # a drop has closed both sides by then; the target gets this long to end the statement
)
LEAVE_SECONDS: Final = 1.0  # a refused client gets to read why


_log = log.get("mysql")


class MysqlEngine:
    """One client connection; satisfies `proxyd.engine.Engine`."""

    name: ClassVar[str] = "mysql"

    def __init__(
        self, core: Core, listen: MysqlListen, tls: ssl.SSLContext, caller: Caller, greetings: Greetings
    ) -> None:
        self._core = core
        self._greetings = greetings
        self._front = Front(core, listen, tls, caller, greetings)

    @property
    def failures(self) -> int:
        """How many proofs of identity failed so far."""
        return self._front.failures

    async def greet(self) -> Login:
        """Find out who the client is; raises ClientError."""
        return await self._front.login()

    async def choose(self, login: Login) -> Permit | None:
        """Give the permit for the target the user name or the listener names; raises Denied."""
        account, target = self._front.account()
        return self._core.access.authorize(login.user, account, target, login.user_ip, protocol="mysql")

    async def serve(self, session: Session) -> None:
        """Connect to the target and relay; returns when either side has ended.

        Raises ClientError when the client leaves before that, TargetError and its kin.
        """
        front = self._front
        session.farewell = lambda text: front.say(*KILLED, text)
        back = BackLogin(session, self._greetings)
        try:
            link = await self._dial(back)
        except ProxydError:
            session.farewell = None  # `refuse` will say it, with the code that belongs to it
            raise
        client = front.stream
        assert client is not None  # noqa: S101 - the client has logged in on it
        rules = Rules(session, self._core.config)
        front.succeed(ok_payload(link.status))
        threads = self._greetings.threads
        conduit = Conduit(session, client, link, front.answer.charset, rules, threads=threads)
        threads.began(front.thread, session, link.thread)
        session.attach(conduit)
        try:
            await self._relay(session, conduit, rules, back, link)
        finally:
            with trio.move_on_after(CATCH_UP_SECONDS, shield=True):
                await rules.catch_up()
            conduit.close()
            threads.ended(front.thread)

    async def _dial(self, back: BackLogin) -> Link:
        """Connect to the target, for as long as the client is there to want it."""
        front = self._front
        answer = front.answer
        client = front.stream
        assert client is not None  # noqa: S101 - the client has logged in on it
        failure: ProxydError | None = None
        link: Link | None = None

        async def watch(scope: trio.CancelScope) -> None:
            nonlocal failure
            try:
                early = await client.receive()
                client.unread(early)
                failure = ProtocolBroken("The client spoke before its turn.") if early else None
            except ProxydError as error:
                failure = error
            failure = failure or ClientError("The client left while its target was being connected.")
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            try:
                wanted = answer.flags & (front.promised & PASSED)
                link = await back.connect(replace(answer, flags=wanted))
            except ProxydError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if link is None:
            raise failure or ClientError("The client left while its target was being connected.")
        return link

    async def _relay(
        self, session: Session, conduit: Conduit, rules: Rules, back: BackLogin, link: Link
    ) -> None:
        """Join until the end; what ends the session from outside is said to the client in the protocol's words."""
        failures: list[ProxydError] = []
        joined = trio.Event()

        async def join() -> None:
            with trio.CancelScope(shield=True):  # a drop has words to say first, and ends it then
                try:
                    await conduit.relay.join()
                except Dropped:
                    pass
                except ProxydError as error:
                    failures.append(error)
            joined.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(join)
            nursery.start_soon(conduit.judge)
            nursery.start_soon(conduit.hear)
            nursery.start_soon(conduit.see_leave)
            nursery.start_soon(rules.run)
            try:
                await joined.wait()
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await self._part(session, conduit, back, link)
                raise
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _part(self, session: Session, conduit: Conduit, back: BackLogin, link: Link) -> None:
        """Say why, and end on the target what still runs."""
        ending = session.ending
        text = (ending.error if ending else TIME_OVER) or DISCONNECTED
        running = conduit.running
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conduit.see_off, text)
            if running:
                with trio.move_on_after(KILL_SECONDS):
                    try:
                        await back.kill(link.thread)
                    except ProxydError as error:
                        _log.warning(
                            "a statement was left running",
                            session=session.id,
                            target=session.target,
                            why=str(error),
                        )

    async def refuse(self, error: ProxydError) -> None:
        """Say no in the protocol's own words."""
        if isinstance(error, TargetSaidNo):
            said = (error.code, error.state)
        elif isinstance(error, Denied):
            said = ACCESS_DENIED
        elif isinstance(error, Dropped):
            said = KILLED
        else:
            said = UNREACHABLE if isinstance(error, TargetError | TargetUnreachable) else FAILED
        self._front.say(*said, str(error))

    async def aclose(self) -> None:
        """Close the client's side; never raises."""
        await self._front.aclose()
