"""The link to the target: dialled, inside TLS, logged in with a credential the user never sees.

Rule 1: both sides of a session have agreed on the same layouts (`SHAPING`), or there is no session.
Rule 2: what a target says about a failed login never reaches the user, but for what the user asked for: a database.
Rule 3: a cleartext password leaves inside TLS only; what decides about TLS is the target's configuration.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from proxyd import log, metrics, vault
from proxyd.characters import printable
from proxyd.database_tls import TargetTls, target_tls
from proxyd.errors import ConfigError, TargetError, TargetLoginFailed, TargetUnreachable
from proxyd.preamble import Side, read_preamble
from proxyd.protocols.mysql import auth
from proxyd.protocols.mysql.login_packets import (
    ED25519,
    NATIVE,
    OURS,
    PASSED,
    SHA2,
    SHAPING,
    Answer,
    Cap,
    Greeting,
    answer_payload,
    read_greeting,
    read_switch,
    ssl_request,
)
from proxyd.protocols.mysql.responses import ERR, OK, Fault, fault_of, ok_of
from proxyd.protocols.mysql.talk import LOGIN_BYTES, Talk, missing, payload_of
from proxyd.protocols.mysql.wire import Command, WireError, packet
from proxyd.stream import Stream, adopt_client
from proxyd.target import dial

if TYPE_CHECKING:
    from proxyd.config import Target
    from proxyd.protocols.mysql.greetings import Greetings
    from proxyd.session import Session

MAX_ROUNDS: Final = 8  # packets of a target inside a login; the longest honest one has four
ABOUT_DATABASES: Final = frozenset({1044, 1049, 1102, 1300})
"""No right to it, no such database, no name for one, or not in these characters: the user's own doing."""
MAX_TEXT: Final = 512  # characters of a server's error

_log = log.get("mysql")


class TargetSaidNo(TargetLoginFailed):
    """The target ended the login with an error that is for the user to know."""

    def __init__(self, text: str, code: int, state: str) -> None:
        super().__init__(text)
        self.code, self.state = code, state


@dataclass(frozen=True, slots=True)
class Link:
    """A session's connection to its target."""

    stream: Stream
    thread: int  # what KILL wants to know
    flags: Cap  # in force on both sides
    status: int


class Login:
    """One login at a target, for a session or to end what one left running."""

    def __init__(self, session: Session, greetings: Greetings) -> None:
        self._session, self._greetings = session, greetings
        self._target: Target = session.permit.target
        self._name = session.permit.target.name

    async def connect(self, answer: Answer) -> Link:
        """Dial and log in with what the client asked for; raises TargetError and its kin."""
        try:
            with trio.fail_after(self._target.login_seconds + self._target.connect_seconds):
                link = await self._connect(answer)
        except trio.TooSlowError:
            self._count("failed")
            raise TargetUnreachable(f"{self._name} did not finish the login in time.") from None
        except WireError as error:
            self._count("failed")
            raise TargetError(f"{self._name} broke the MySQL protocol: {error}.") from None
        except TargetUnreachable:
            self._count("unreachable")
            raise
        except TargetError as error:
            self._count("failed" if isinstance(error, TargetLoginFailed) else "untrusted")
            raise
        self._count("ok")
        return link

    def _count(self, result: str) -> None:
        metrics.TARGET_LOGINS.labels(protocol="mysql", result=result).inc()

    async def _connect(self, answer: Answer) -> Link:
        try:
            tls = await trio.to_thread.run_sync(target_tls, self._target)
        except ConfigError as error:
            _log.error("a target's TLS can't be set up", target=self._name, why=str(error))
            raise TargetError(
                f"The TLS settings of {self._name} can't be used; tell your administrator."
            ) from None
        account = self._target.accounts[self._session.permit.account]
        if account.password is None:
            raise TargetLoginFailed(f"No password is configured for {self._session.login} on {self._name}.")
        secret = await vault.fetch(account.password)
        sock = await dial(self._target)
        try:
            greeting = await self._greeted(sock)
            flags = self._flags(greeting, answer, tls)
        except BaseException:
            sock.close()
            raise
        stream = await self._stream(sock, tls, flags, answer)
        try:
            talk = Talk(stream, 1 if tls is None else 2)
            status = await self._log_in(
                talk, greeting, flags, answer, secret.text(), inside_tls=tls is not None
            )
            talk.leave()
        except BaseException:
            stream.abort()
            raise
        return Link(stream, greeting.thread, flags, status)

    async def _greeted(self, sock: socket.socket) -> Greeting:
        """Read the greeting, and remember it."""
        raw = await read_preamble(
            sock, missing, side=Side.TARGET, limit=LOGIN_BYTES, seconds=self._target.login_seconds
        )
        payload = payload_of(raw, 0)
        if payload[:1] == bytes((ERR,)):
            raise self._refused(fault_of(payload))
        greeting = read_greeting(payload)
        self._greetings.learn(self._name, greeting)
        return greeting

    def _flags(self, greeting: Greeting, answer: Answer, tls: TargetTls | None) -> Cap:
        """Choose the flags (rule 1); raises TargetError."""
        if tls is not None and Cap.SSL not in greeting.flags:
            raise TargetError(f"{self._name} does not offer TLS, and its configuration asks for it.")
        lacking = answer.flags & SHAPING & ~greeting.flags
        if lacking:
            raise TargetError(f"{self._name} is older than the proxy thought; connect once more.")
        flags = answer.flags & PASSED & greeting.flags
        if "local-infile" not in self._session.permit.channels:
            flags &= ~Cap.LOCAL_FILES
        if not answer.database:
            flags &= ~Cap.CONNECT_WITH_DB
        login = OURS & greeting.flags | Cap.PROTOCOL_41 | Cap.SECURE_CONNECTION
        return flags | (login if tls is not None else login & ~Cap.SSL)

    async def _stream(self, sock: socket.socket, tls: TargetTls | None, flags: Cap, answer: Answer) -> Stream:
        seconds = self._target.login_seconds
        if tls is None:
            return await adopt_client(sock, seconds=seconds)
        try:
            sock.send(packet(1, ssl_request(flags, answer.charset)))  # a new socket takes 36 bytes at once
        except OSError as error:
            sock.close()
            raise TargetError(f"{self._name} broke the connection: {error.strerror}.") from None
        return await adopt_client(sock, tls.context, tls.server_hostname, seconds=seconds)

    async def _log_in(
        self, talk: Talk, greeting: Greeting, flags: Cap, answer: Answer, password: str, *, inside_tls: bool
    ) -> int:
        """Answer the greeting and whatever the target asks then; give the session's status."""
        plugin, nonce = greeting.plugin, greeting.nonce
        try:
            proof = auth.proof_of(plugin, password, nonce, inside_tls=inside_tls)
        except WireError:  # the server's favourite is not the account's: it will say which
            plugin, proof = NATIVE, b""
        login = self._session.login.encode()
        mine = Answer(flags, answer.charset, login, proof, answer.database, plugin, answer.attributes)
        talk.send(answer_payload(mine))
        for _ in range(MAX_ROUNDS):
            payload = await talk.receive()
            head = payload[:1]
            if head == bytes((OK,)):
                return ok_of(payload)[1]
            if head == bytes((ERR,)):
                raise self._refused(fault_of(payload))
            if head == b"\xfe":
                plugin, data = read_switch(payload)
                nonce = data if plugin == ED25519 else data.rstrip(b"\0")
                talk.send(auth.proof_of(plugin, password, nonce, inside_tls=inside_tls))
            elif plugin == SHA2 and payload == auth.SEND_PASSWORD:
                await self._send_password(talk, password, nonce, inside_tls=inside_tls)
            elif payload != auth.FAST_OK:
                raise WireError("an answer to a login that has no meaning")
        raise WireError("a login without end")

    async def _send_password(self, talk: Talk, password: str, nonce: bytes, *, inside_tls: bool) -> None:
        """Give the password itself: inside TLS, or to the target's RSA key."""
        if inside_tls:
            talk.send(password.encode() + b"\0")
            return
        talk.send(auth.ASK_RSA_KEY)
        key = await talk.receive()
        if key[:1] != auth.MORE:
            raise WireError("a public key that can't be read")
        talk.send(auth.rsa_password(key[1:], password, nonce))

    def _refused(self, fault: Fault) -> TargetError:
        _log.warning(
            "a target refused a login", target=self._name, login=self._session.login, error=fault.code
        )
        if fault.code in ABOUT_DATABASES:
            text = fault.message.decode("utf-8", "replace")[:MAX_TEXT]
            return TargetSaidNo(
                printable(text),
                fault.code,
                fault.state or "HY000",
            )
        return TargetLoginFailed(
            f"{self._name} refused the login as {self._session.login} (error {fault.code})."
        )

    async def kill(self, thread: int) -> None:
        """End a connection of this account on the target, and the statement it runs; raises TargetError.

        Not KILL QUERY: MySQL's SLEEP answers that without an error, and statements behind it would go on.
        """
        link = await self.connect(Answer(Cap.PROTOCOL_41, 45, b"", b""))
        try:
            talk = Talk(link.stream, 0)
            talk.send(bytes((Command.QUERY,)) + b"KILL %d" % thread)
            await talk.receive()
        except WireError as error:
            raise TargetError(f"{self._name} broke the MySQL protocol: {error}.") from None
        finally:
            link.stream.abort()
