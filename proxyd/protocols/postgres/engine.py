"""The PostgreSQL engine: greet the user, find out where they want to go, log in there, relay until either side ends."""

from __future__ import annotations

import hmac
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from proxyd.access import Wanted
from proxyd.characters import printable
from proxyd.errors import (
    ClientError,
    Denied,
    Dropped,
    ProxydError,
    RecordingFailed,
    TargetLoginFailed,
    TargetUnreachable,
)
from proxyd.policy import Policy
from proxyd.protocols.postgres import back, wire
from proxyd.protocols.postgres.conduit import Conduit
from proxyd.protocols.postgres.dialogue import Dialogue
from proxyd.protocols.postgres.front import Front, Wants, broken, passed_on, replicates
from proxyd.protocols.postgres.wire import WireError
from proxyd.relay import while_wanted
from proxyd.session import Login
from proxyd.statement import Statements

if TYPE_CHECKING:
    from proxyd.access import Permit
    from proxyd.config import PostgresListen
    from proxyd.engine import Caller, Core
    from proxyd.session import Session
    from proxyd.stream import Stream

SECRET_BYTES: Final = 4  # protocol 3.0
MAX_APPLICATION: Final = 64  # a server cuts the name there as well
MAX_PID: Final = 0x7FFFFFFF  # clients show it as a signed number

CODES: Final[tuple[tuple[type[ProxydError], str], ...]] = (
    (Denied, "28000"),
    (Dropped, "57P01"),
    (RecordingFailed, "58000"),
    (TargetLoginFailed, "08004"),
    (TargetUnreachable, "08001"),
    (ClientError, "08P01"),
    (ProxydError, "08006"),
)
"""The SQLSTATE of each kind of refusal; the first that fits."""


@dataclass(frozen=True, slots=True)
class _Cancellable:
    secret: bytes
    conduit: Conduit
    user: str


class Cancels:
    """The cancel keys proxyd hands out, and the sessions they belong to; one for a listener."""

    def __init__(self) -> None:
        self._sessions: dict[int, _Cancellable] = {}

    @contextmanager
    def issued(self, conduit: Conduit, user: str, pid: int) -> Iterator[bytes]:
        """Hand out a key for as long as the session lives; gives the BackendKeyData.

        `pid`: the target's own, if it gave one: clients compare it with NOTIFY's sender and name it in SQL
        (pg_terminate_backend). Another only where a session at another target has it; the secret is always ours.
        """
        while not pid or pid in self._sessions:
            pid = secrets.randbelow(MAX_PID) + 1
        secret = secrets.token_bytes(SECRET_BYTES)
        self._sessions[pid] = _Cancellable(secret, conduit, user)
        try:
            yield wire.key_data(pid, secret)
        finally:
            del self._sessions[pid]

    def find(self, key: bytes) -> tuple[Conduit, str] | None:
        """Give the session of a key and its user."""
        found = self._sessions.get(int.from_bytes(key[:4], "big"))
        if found is None or not hmac.compare_digest(found.secret, key[4:]):
            return None
        return found.conduit, found.user


class PostgresEngine:
    """One client connection; satisfies `proxyd.engine.Engine`."""

    name: ClassVar[str] = "postgres"

    def __init__(
        self, core: Core, listen: PostgresListen, tls: ssl.SSLContext, caller: Caller, cancels: Cancels
    ) -> None:
        self._core = core
        self._listen = listen
        self._caller = caller
        self._cancels = cancels
        self._front = Front(caller, listen, tls)
        self._wants = Wants({})
        self._wanted = Wanted("")

    @property
    def failures(self) -> int:
        """How many proofs failed."""
        return self._front.failures

    async def greet(self) -> Login:
        """Take the client in; a CancelRequest is done here. Raises ClientError, as ProtocolBroken; Denied."""
        try:
            self._wants = await self._front.begin()
            if self._wants.cancel:
                return await self._cancel(self._wants.cancel)
            self._wanted = self._aim()
            login = await self._front.prove(self._core, self._wanted.user)
        except WireError as error:
            raise await broken(self._front, error) from None
        application = self._wants.parameters.get(b"application_name", b"")[:MAX_APPLICATION]
        return Login(
            login.user, login.user_ip, login.how, client=printable(application.decode("utf-8", "replace"))
        )

    async def _cancel(self, key: bytes) -> Login:
        found = self._cancels.find(key)
        if found is None:
            raise ClientError("A cancel request had no session's key.")
        conduit, user = found
        await conduit.cancel()
        return Login(user, self._caller.ip, "cancel key")

    def _aim(self) -> Wanted:
        """Read from the user's name who it is and where they want to go; raises WireError."""
        try:
            name = self._wants.parameters.get(b"user", b"").decode()
        except UnicodeDecodeError:
            raise WireError("sent a user name that is not UTF-8") from None
        if not name:
            raise WireError("sent no user name")
        return self._core.access.parse_username(name).at(self._listen.target)

    async def choose(self, login: Login) -> Permit | None:
        """Give the permit for the target that was named; raises Denied."""
        if self._wants.cancel:
            return None
        wanted = self._wanted
        if self._listen.target not in ("", wanted.target):
            raise Denied(f"This address leads to {self._listen.target} only.")
        permit = self._core.access.authorize(
            login.user, wanted.login, wanted.target, login.user_ip, protocol="postgres"
        )
        if replicates(self._wants.parameters) and "replication" not in permit.channels:
            raise Denied(f"Your grant on {permit.target.name} does not allow replication.")
        return permit

    async def serve(self, session: Session) -> None:
        """Log in to the target and relay; returns when either side has ended. Raises TargetError and its kin."""
        client = self._front.done()
        target = await self._dial(session, client)
        permit = session.permit
        policy = Policy(self._core.config.rules, self._core.access.user(session.user), permit.target.name)
        dialogue = Dialogue(
            Statements(session),
            session.gate,
            replication=replicates(self._wants.parameters),
            judged=policy.decides,
        )
        dialogue.transaction = target.transaction
        conduit = Conduit(session, client, target, dialogue, policy)
        pid = int.from_bytes(target.key[:4], "big")
        with self._cancels.issued(conduit, session.user, pid) as key:
            try:
                for status in target.parameters:
                    dialogue.status(status)
                greeting = [wire.message(wire.PARAMETER_STATUS, status) for status in target.parameters]
                client.send(b"".join([*greeting, key, wire.ready(target.transaction)]))
                session.attach(conduit)
            except BaseException:
                target.stream.abort()
                raise
            await conduit.run()

    async def _dial(self, session: Session, client: Stream) -> back.Back:
        """Connect to the target, as the client asks for it."""
        parameters = passed_on(self._wants.parameters, session.login)
        return await while_wanted(client, back.connect(session.permit.target, session.login, parameters))

    async def refuse(self, error: ProxydError) -> None:
        """Say why, as a FATAL error."""
        code = error.code if isinstance(error, back.TargetSaid) else ""
        code = code or next(code for kind, code in CODES if isinstance(error, kind))
        self._front.send(wire.error("FATAL", code, str(error)))

    async def aclose(self) -> None:
        """Close the client's side; what was said gets its moment."""
        await self._front.aclose()
