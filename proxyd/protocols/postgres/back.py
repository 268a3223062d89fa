"""The target's side until its session begins: dial, TLS, the login with the account's credential; and cancelling.

Rule 1: the credential is fetched here, used here and kept nowhere.
Rule 2: a target's word never makes us less careful: it proves itself where its method can, gets no password in clear
        without TLS, and nothing it sent before TLS is read inside it.
Rule 3: what a target says of a failed login is for its operators' log; the user gets one sentence. What it says of
        the session (no such database, too many connections) the user gets in its own words.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from proxyd import log, vault
from proxyd.characters import printable
from proxyd.database_tls import TargetTls, ready_tls
from proxyd.errors import TargetError, TargetLoginFailed, TargetUnreachable
from proxyd.preamble import Side, read_preamble
from proxyd.protocols.postgres import auth, wire
from proxyd.protocols.postgres.reader import Reader
from proxyd.protocols.postgres.wire import WireError
from proxyd.stream import Stream, adopt_client
from proxyd.target import count_login, dial
from proxyd.verifiers import scram_keys

if TYPE_CHECKING:
    from proxyd.config import Account, Target
    from proxyd.statement import Failure

CANCEL_SECONDS: Final = 5.0  # a cancel that takes longer is too late to help anybody
MAX_GREETING: Final = 256 << 10  # parameters of a session: some 20 of 20 bytes


_log = log.get("postgres")


class TargetSaid(TargetError):
    """The target refused the session in its own words."""

    def __init__(self, target: str, failure: Failure) -> None:
        super().__init__(f"{target} says: {printable(failure.message, instead=' ')}")
        self.code = failure.code


@dataclass(frozen=True, slots=True)
class Back:
    """A target that is logged in to: its stream, its cancel key, its parameters as it sent them, its transaction."""

    stream: Stream
    key: bytes
    parameters: list[bytes]  # ParameterStatus bodies
    transaction: int


async def connect(target: Target, login: str, parameters: list[tuple[bytes, bytes]]) -> Back:
    """Dial the target and log in; raises TargetError and its kin, within the target's own deadlines."""
    try:
        back = await _connect(target, login, parameters)
    except TargetError as error:
        count_login("postgres", error)
        _log.warning("target not reached", target=target.name, why=getattr(error, "detail", str(error)))
        raise
    count_login("postgres", None)
    return back


async def _connect(target: Target, login: str, parameters: list[tuple[bytes, bytes]]) -> Back:
    account = target.accounts[login]
    password = (await vault.fetch(account.password)).text() if account.password else None
    tls = await _tls(target, account)
    sock = await dial(target)
    with trio.move_on_after(target.login_seconds):
        stream = await _open(sock, target, tls)
        try:
            return await _Login(stream, target, login, password).run(parameters)
        except WireError as error:
            stream.abort()
            raise TargetError(f"{target.name} {error}.") from None
        except BaseException:
            stream.abort()
            raise
    raise TargetUnreachable(f"{target.name} did not finish the login (waited {target.login_seconds:g} s).")


async def cancel(target: Target, login: str, key: bytes) -> None:
    """Ask the target to cancel what the session with that key does; raises TargetError. Waits CANCEL_SECONDS at most."""
    with trio.move_on_after(CANCEL_SECONDS):
        tls = await _tls(target, target.accounts[login])
        stream = await _open(await dial(target), target, tls)
        try:
            stream.send(wire.cancel_request(key))
            while await stream.receive():  # the target answers nothing, and closes once it has signalled
                pass
        finally:
            stream.abort()


# ---------------------------------------------------------------------------------------------- TLS


async def _tls(target: Target, account: Account) -> TargetTls | None:
    tls = await ready_tls(target)
    if tls is None or account.key is None or account.certificate is None:
        return tls
    certificate = (await vault.fetch(account.certificate)).data
    key = (await vault.fetch(account.key)).data
    word = (await vault.fetch(account.passphrase)).text() if account.passphrase else ""
    await trio.to_thread.run_sync(_show_certificate, tls.context, certificate, key, word)
    return tls


def _show_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes, word: str) -> None:
    """Give a context our certificate; the library wants files, so it gets some that are on no disk."""
    with _in_memory(certificate) as certificate_path, _in_memory(key) as key_path:
        try:
            context.load_cert_chain(certificate_path, key_path, password=lambda: word)
        except (OSError, ssl.SSLError):
            raise TargetLoginFailed(
                "The certificate of the account can't be used; an administrator must mend it."
            ) from None


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    fd = os.memfd_create("credential", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


async def _open(sock: socket.socket, target: Target, tls: TargetTls | None) -> Stream:
    """Make a stream of a dialled socket, with TLS where the target has it."""
    if tls is None:
        return await adopt_client(sock)
    try:
        await _ask_for_tls(sock, target)
    except OSError as error:
        sock.close()
        raise TargetError(f"{target.name} broke the connection: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return await adopt_client(sock, tls.context, tls.server_hostname)


async def _ask_for_tls(sock: socket.socket, target: Target) -> None:
    sock.send(wire.untyped(wire.SSL_REQUEST))  # eight bytes into an empty buffer
    answer = await read_preamble(
        sock, lambda got: 1 - len(got), side=Side.TARGET, limit=1, seconds=target.login_seconds
    )
    if answer != b"S":
        raise TargetError(f"{target.name} does not offer TLS, and its configuration asks for it.")
    with contextlib.suppress(BlockingIOError):
        if sock.recv(1, socket.MSG_PEEK):
            raise TargetError(f"{target.name} sent something before TLS began.")


# ---------------------------------------------------------------------------------------------- the login


class _Login:
    """One login at a target."""

    def __init__(self, stream: Stream, target: Target, login: str, password: str | None) -> None:
        self._stream = stream
        self._reader = Reader(stream)
        self._target = target
        self._login = login
        self._password = password
        self._scram: auth.ScramClient | None = None
        self._proved = True  # the target has shown that it knows the password, where its method can show that

    async def run(self, parameters: list[tuple[bytes, bytes]]) -> Back:
        """Log in; raises WireError, TargetError."""
        self._stream.send(wire.startup(parameters))
        while True:
            kind, body = await self._reader.message()
            if kind == wire.AUTHENTICATION:
                if await self._authenticate(body):
                    return await self._greeting()
            elif kind == wire.ERROR:
                raise self._refused(body)
            elif kind not in (wire.NOTICE, wire.NEGOTIATE):
                raise WireError("sent what no login has")

    async def _authenticate(self, body: bytes) -> bool:
        """Take an Authentication request; True when it was the last."""
        method, rest = int.from_bytes(body[:4], "big"), body[4:]
        match method:
            case 0:
                if not self._proved:
                    raise WireError("lets us in without knowing the password it asked for")
                return True
            case 3:
                if self._stream.peer_certificate is None:
                    raise WireError("asks for a password in clear without TLS")
                self._say(self._secret().encode() + b"\0")
            case 5:
                self._say(auth.md5_answer(self._login, self._secret(), rest[:4]) + b"\0")
            case 10:
                self._begin_scram(frozenset(rest.split(b"\0")))
            case 11 if self._scram is not None:
                salt, iterations = self._scram.challenge(rest)
                keys = await trio.to_thread.run_sync(scram_keys, self._secret(), salt, iterations)
                self._say(self._scram.final(keys))
            case 12 if self._scram is not None:
                self._scram.check(rest)
                self._proved = True
            case _:
                raise WireError("asks for a login by a method that is not supported")
        return False

    def _begin_scram(self, offered: frozenset[bytes]) -> None:
        if self._scram is not None:
            raise WireError("begins its login again")
        der = self._stream.peer_certificate
        self._scram = auth.ScramClient(offered, auth.certificate_hash(der) if der is not None else None)
        self._proved = False
        first = self._scram.first()
        self._say(self._scram.mechanism + b"\0" + len(first).to_bytes(4, "big") + first)

    def _say(self, body: bytes) -> None:
        self._stream.send(wire.message(wire.PASSWORD, body))

    def _secret(self) -> str:
        if self._password is None:
            raise TargetLoginFailed(f"{self._target.name} asks for a password, and its account has none.")
        return self._password

    def _refused(self, body: bytes) -> TargetError:
        failure = wire.parse_error(body)
        if failure.code.startswith("28"):  # invalid authorization, invalid password
            _log.warning(
                "a target refused its account",
                target=self._target.name,
                login=self._login,
                sqlstate=failure.code,
            )
            return TargetLoginFailed(f"{self._target.name} refused the login of its account.")
        return TargetSaid(self._target.name, failure)

    async def _greeting(self) -> Back:
        """Read what a server says between the login and its first ReadyForQuery."""
        parameters: list[bytes] = []
        key, size = b"", 0
        while True:
            kind, body = await self._reader.message()
            size += len(body)
            if size > MAX_GREETING:
                raise WireError("has too much to say before its first query")
            match kind:
                case wire.PARAMETER_STATUS:
                    wire.parse_status(body)
                    parameters.append(body)
                case wire.KEY_DATA:
                    key = body
                case wire.ERROR:
                    raise self._refused(body)
                case wire.READY if len(body) == 1 and body[0] in wire.TRANSACTIONS:
                    self._reader.done()
                    return Back(self._stream, key, parameters, body[0])
                case wire.NOTICE | wire.NEGOTIATE:
                    pass
                case _:
                    raise WireError("sent what no login has")
