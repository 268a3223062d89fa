"""The client's side until its session begins: how it asks for TLS, what it says of itself, how it proves it.

Rule 1: nothing that came before TLS is taken for said inside it (CVE-2021-23214): what is there too early ends the login.
Rule 2: a password in clear is asked for inside TLS alone.
Rule 3: a user that is not there is asked for the same as one that is, always the same for the same name, and is
        refused in the same words.
Rule 4: what a client may set for its connection is passed; what would make it somebody else on the target is not.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import trio
from cryptography import x509
from cryptography.x509.oid import NameOID

from proxyd import log, metrics
from proxyd.characters import printable
from proxyd.errors import ClientError, ConfigError, Denied, ProtocolBroken, ProxydError
from proxyd.preamble import Side, read_preamble
from proxyd.protocols.postgres import auth, wire
from proxyd.protocols.postgres.reader import Reader
from proxyd.protocols.postgres.wire import WireError
from proxyd.session import Login
from proxyd.stream import Stream, adopt_server
from proxyd.tls import Tls

if TYPE_CHECKING:
    from proxyd.access import Access
    from proxyd.config import PostgresListen, User
    from proxyd.engine import Caller, Core

TLS_RECORD: Final = b"\x16"  # a ClientHello: TLS at once, without asking (PostgreSQL 17)
GREETING_SECONDS: Final = 60.0  # the listener's grace is shorter, or as long
LEAVE_S: Final = 1.0  # a refused client gets to read why
ALPN: Final = "postgresql"
MAX_REQUESTS: Final = 3  # before a startup packet: GSS, TLS, and one to spare
CODE_DIGITS: Final = 6  # of a one-time code, behind the password

PASSWORD: Final = frozenset({"password"})
BECOMING: Final = frozenset({b"user", b"role", b"session_authorization"})  # rule 4
DOOMED: Final = (
    b"proxyd: PostgreSQL users that are not there"  # what the listener's key is asked to vouch for
)


_log = log.get("postgres")


class Wants(NamedTuple):
    """What a client's first packet inside its connection asks for: a session's parameters, or a cancel key."""

    parameters: dict[bytes, bytes]
    cancel: bytes = b""


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """What a listener is known by: its certificate's hash, and a secret for rule 3 that outlives a restart."""

    binding: bytes | None
    doom: bytes


@functools.lru_cache(maxsize=8)
def identity(listen: PostgresListen, tls: ssl.SSLContext) -> Identity:
    """Find out the listener's identity; reads its key, call it in a thread. Raises ConfigError."""
    try:
        doom = hmac.digest(listen.key.read_bytes(), DOOMED, "sha256")
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", listen.key) from None
    return Identity(auth.certificate_hash(_shown(tls)), doom)


def _shown(tls: ssl.SSLContext) -> bytes:
    """Give the certificate clients are shown: a handshake with ourselves, as a context does not tell it."""
    curious = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    curious.check_hostname, curious.verify_mode = False, ssl.CERT_NONE
    server = Tls(tls, server_hostname=None, server_side=True)
    client = Tls(curious, server_hostname=None, server_side=False)
    client.shake()
    done = False
    while not done:
        server.shake(client.outgoing())
        done = client.shake(server.outgoing())
    return client.peer_certificate or b""


class Front:
    """A client's connection."""

    def __init__(self, caller: Caller, listen: PostgresListen, tls: ssl.SSLContext) -> None:
        self._caller = caller
        self._listen = listen
        self._tls = tls
        tls.set_alpn_protocols([ALPN])  # PostgreSQL 17 wants it answered when TLS comes first
        self._secure = False
        self._adopted = False
        self._reader: Reader
        self.stream: Stream | None = None
        self.failures = 0

    # ------------------------------------------------------------------ how it begins

    async def begin(self) -> Wants:
        """Do what comes before the login; raises ClientError, WireError."""
        if await self._peek() == TLS_RECORD:
            await self._adopt(self._tls)
            if self._spoken() != ALPN:
                raise WireError("began with TLS without naming its protocol")
            return await self._startup(await self._reader.packet())
        for _ in range(MAX_REQUESTS):
            packet = await self._raw_packet()
            if packet.code == wire.GSSENC_REQUEST:
                await self._answer(b"N")
            elif packet.code == wire.SSL_REQUEST:
                await self._answer(b"S")
                await self._adopt(self._tls)
                return await self._startup(await self._reader.packet())
            else:
                await self._adopt(None)
                return await self._startup(packet)
        raise WireError("asks for encryption again and again")

    def _spoken(self) -> str | None:
        """Give the protocol TLS was begun for: what another one's client sends here is not read (ALPACA)."""
        return self.stream.alpn if self.stream is not None else None

    async def _peek(self) -> bytes:
        while True:
            try:
                return self._caller.sock.recv(1, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_readable(self._caller.sock)
            except OSError as error:
                raise ClientError(f"the client broke the connection: {error.strerror}") from None

    async def _raw_packet(self) -> wire.Startup:
        got = await read_preamble(
            self._caller.sock,
            wire.startup_missing,
            side=Side.CLIENT,
            limit=wire.MAX_STARTUP,
            seconds=GREETING_SECONDS,
        )
        return wire.parse_startup(got)

    async def _answer(self, letter: bytes) -> None:
        """Answer a request for encryption, unless something has been sent behind it already (rule 1)."""
        sock = self._caller.sock
        try:
            early = sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            early = b""
        except OSError as error:
            raise ClientError(f"the client broke the connection: {error.strerror}") from None
        if early:
            raise WireError("sent something before its request for encryption was answered")
        try:
            sock.send(letter)  # one byte into an empty buffer
        except OSError as error:
            raise ClientError(f"the client broke the connection: {error.strerror}") from None

    async def _adopt(self, tls: ssl.SSLContext | None) -> None:
        self._secure = tls is not None
        self._adopted = True
        self.stream = await adopt_server(self._caller.sock, tls)
        self._reader = Reader(self.stream)

    async def _startup(self, packet: wire.Startup) -> Wants:
        if packet.code == wire.CANCEL_REQUEST:
            return Wants({}, packet.body)
        if packet.code in (wire.SSL_REQUEST, wire.GSSENC_REQUEST):
            raise WireError("asks for encryption inside its encryption")
        if packet.code >> 16 != wire.VERSION_3 >> 16:
            raise WireError("speaks a version of the protocol that is not supported")
        parameters = wire.parse_parameters(packet.body)
        if self._listen.tls == "require" and not self._secure:
            raise Denied("This proxy is reached by TLS only; connect with sslmode=require or better.")
        unknown = [name for name in parameters if name.startswith(b"_pq_.")]
        if packet.code != wire.VERSION_3 or unknown:
            self.send(wire.negotiate(unknown))
        return Wants({name: value for name, value in parameters.items() if name not in unknown})

    # ------------------------------------------------------------------ who it is

    async def prove(self, core: Core, name: str) -> Login:
        """Let the client prove that it is the user of that name; raises ClientError, WireError."""
        access = core.access
        user = access.user(name)
        certified = user is not None and self._certified() == name
        needed = _needed(user, certified=certified) if user is not None else None
        known = await self._identity()
        if needed == frozenset():
            how = "certificate"
        elif needed == PASSWORD and user is not None and user.scram:
            how = "password"
            await self._scram(auth.ScramVerifier.parse(user.scram), known, name)
        elif needed is None and not _asked_in_clear(core, known, name):
            how = ""
            await self._scram(
                auth.ScramVerifier.doomed(known.doom, name.encode(), _likely(core)), known, name
            )
        else:
            needed = PASSWORD if needed is None else needed
            how = "+".join(["certificate"] * certified + sorted(needed))
            await self._clear(access, user, name, needed)
        self.send(wire.authentication(0))
        return Login(name, self._caller.ip, how)

    async def _identity(self) -> Identity:
        try:
            return await trio.to_thread.run_sync(identity, self._listen, self._tls)
        except ConfigError as error:
            _log.error("a listener's key can't be read", why=str(error))
            raise ProxydError("This address can't be used now; tell your administrator.") from None

    def _certified(self) -> str:
        """Give the name the client's certificate is for; the handshake has checked whose it is."""
        der = self.stream.peer_certificate if self.stream is not None else None
        if der is None:
            return ""
        try:
            names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        except ValueError:  # good enough for TLS, not for us
            return ""
        return str(names[0].value) if len(names) == 1 else ""

    async def _scram(self, verifier: auth.ScramVerifier, known: Identity, name: str) -> None:
        exchange = auth.ScramServer(verifier, known.binding if self._secure else None)
        self.send(wire.authentication(10, exchange.mechanisms))
        first = wire.parse_sasl(await self._said())
        self.send(wire.authentication(11, exchange.first(first.mechanism, first.data)))
        try:
            last = exchange.final(await self._said())
        except auth.WrongPassword:
            self._failed(name)
        self.send(wire.authentication(12, last))

    async def _clear(self, access: Access, user: User | None, name: str, needed: frozenset[str]) -> None:
        if not self._secure:
            raise WireError("would send its password in clear; it must connect with TLS")
        self.send(wire.authentication(3))
        said = wire.parse_password(await self._said()).decode("utf-8", "surrogateescape")
        code = said[-CODE_DIGITS:] if "totp" in needed else ""
        password = said[:-CODE_DIGITS] if code else said
        right = "password" not in needed or await _is_password(access, user, name, password)
        if not (right and (not code or await access.verify_totp(name, code)) and said):
            self._failed(name)

    async def _said(self) -> bytes:
        kind, body = await self._reader.message()
        if kind != wire.PASSWORD:
            raise WireError("sent something else than the password it was asked for")
        return body

    def _failed(self, name: str) -> NoReturn:
        self.failures += 1
        metrics.LOGINS.labels(protocol="postgres", result="failed").inc()
        shown = printable(name[:64])
        self.send(wire.error("FATAL", "28P01", f'password authentication failed for user "{shown}"'))
        raise ClientError("The client did not prove who it is.")

    # ------------------------------------------------------------------ talking

    def send(self, data: bytes) -> None:
        """Send to the client, if it is still there to be talked to."""
        if self.stream is not None:
            with contextlib.suppress(ClientError, trio.ClosedResourceError):
                self.stream.send(data)

    def done(self) -> Stream:
        """Hand the stream on to the session."""
        assert self.stream is not None  # noqa: S101 - the login came through it
        self._reader.done()
        return self.stream

    async def aclose(self) -> None:
        """Close; what was said arrives if the client reads it within LEAVE_S."""
        if self.stream is not None:
            await self.stream.aclose(LEAVE_S)
        elif not self._adopted:
            self._caller.sock.close()


async def broken(front: Front, error: WireError) -> ProtocolBroken:
    """Say to the client how it broke the protocol, and give the error for it."""
    front.send(wire.error("FATAL", "08P01", f"The client {error}."))
    await trio.lowlevel.checkpoint()
    return ProtocolBroken(f"The client {error}.")


def _needed(user: User, *, certified: bool) -> frozenset[str] | None:
    """Give the factors a user must still show, the fewest that are possible here; None when none are."""
    ways = []
    for chain in user.chains:
        rest = chain - {"publickey"} if certified else chain
        can = {"password"} if user.password or user.scram else set()
        if rest <= can | {"totp"}:
            ways.append(rest)
    return min(ways, key=lambda rest: (len(rest), "totp" in rest), default=None)


async def _is_password(access: Access, user: User | None, name: str, password: str) -> bool:
    if user is not None and not user.password and user.scram:
        return await trio.to_thread.run_sync(auth.ScramVerifier.parse(user.scram).matches, password)
    return await access.verify_password(name, password)


def _asked_in_clear(core: Core, known: Identity, name: str) -> bool:
    """Choose what an unknown user is asked for: as often in clear as users are that are there (rule 3)."""
    asked = [_needed(user, certified=False) for user in core.config.users.values()]
    clear = [
        not (needed == PASSWORD and user.scram)
        for needed, user in zip(asked, core.config.users.values(), strict=True)
        if needed
    ]
    drawn = int.from_bytes(hmac.digest(known.doom, b"clear\0" + name.encode(), "sha256")[:8], "big")
    return bool(clear) and clear[drawn % len(clear)]


def _likely(core: Core) -> auth.ScramVerifier | None:
    """Give the first verifier there is: others were mostly made in the same way."""
    text = next((user.scram for user in core.config.users.values() if user.scram), None)
    return auth.ScramVerifier.parse(text) if text else None


# ---------------------------------------------------------------------------------------------- parameters


def passed_on(parameters: dict[bytes, bytes], account: str) -> list[tuple[bytes, bytes]]:
    """Give the parameters for the target: the account in the user's place, and what rule 4 lets through."""
    user = parameters.get(b"user", b"")
    kept = [(b"user", account.encode())]
    for name, value in parameters.items():
        lower = name.lower()
        if lower in BECOMING or (lower == b"database" and value == user):
            continue  # a client that names no database sends its user's name for one
        if lower == b"options":
            value = _options(value)  # noqa: PLW2901 - the same, filtered
            if not value:
                continue
        kept.append((name, value))
    return kept


def _options(text: bytes) -> bytes:
    """Keep what `options` sets and may set; spaces and backslashes are escaped by a backslash."""
    words: list[bytes] = []
    word, at = b"", 0
    while at < len(text):
        here = text[at : at + 1]
        if here == b"\\":
            word += text[at : at + 2]
            at += 2
            continue
        if here.isspace():
            words.append(word)
            word = b""
        else:
            word += here
        at += 1
    words = [one for one in [*words, word] if one]
    kept: list[bytes] = []
    while words:
        one = words.pop(0)
        setting = words.pop(0) if one == b"-c" and words else one.removeprefix(b"-c").removeprefix(b"--")
        name, found, _ = setting.partition(b"=")
        plain = name.replace(b"\\", b"").replace(b"-", b"_").strip().lower()
        if found and one.startswith((b"-c", b"--")) and plain not in BECOMING:
            kept.append(b"-c " + setting)
    return b" ".join(kept)


def replicates(parameters: dict[bytes, bytes]) -> bool:
    """Tell whether a client asks for a replication connection."""
    value = parameters.get(b"replication", b"").lower()
    return value not in (b"", b"0", b"f", b"false", b"fals", b"fal", b"fa", b"n", b"no", b"of", b"off")
