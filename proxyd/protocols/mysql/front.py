"""The client's login: greeting, TLS, and the proof of who they are.

Rule 1: what comes before TLS is read to the byte; a password in the clear is asked for inside TLS only.
Rule 2: an unknown user runs the whole exchange, by the method of some known one, the same one each time.
Rule 3: a user with a one-time code gives it behind the password, which only a password in the clear can carry.
Rule 4: the client gets its OK when the target has given its own; until then it has nothing to say.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import ssl
from typing import TYPE_CHECKING, Final

import trio
from cryptography import x509
from cryptography.x509.oid import NameOID

from proxyd import metrics, verifiers
from proxyd.access import Wanted
from proxyd.characters import printable
from proxyd.errors import ClientError, Denied, ProtocolBroken, ProxydError
from proxyd.preamble import Side, read_preamble
from proxyd.protocols.mysql import auth
from proxyd.protocols.mysql.login_packets import (
    CLEAR,
    ED25519,
    NATIVE,
    SHA2,
    SSL_REQUEST_BYTES,
    Answer,
    Cap,
    Greeting,
    attribute,
    error_payload,
    greeting_payload,
    read_answer,
    read_flags,
    switch_payload,
)
from proxyd.protocols.mysql.talk import LOGIN_BYTES, Talk, missing, payload_of
from proxyd.protocols.mysql.wire import WireError, packet
from proxyd.protocols.mysql.words import ACCESS_DENIED, BAD_HANDSHAKE, NEEDS_TLS
from proxyd.session import Login
from proxyd.stream import Stream, adopt_server

if TYPE_CHECKING:
    from proxyd.config import MysqlListen, User
    from proxyd.engine import Caller, Core
    from proxyd.protocols.mysql.greetings import Greetings

AUTOCOMMIT: Final = 2  # the status a new session has
CODE_DIGITS: Final = 6  # RFC 6238, and what every authenticator app shows
MAX_SHOWN: Final = 64  # characters of a name that came from a client
NO_PASSWORD: Final = (b"", b"\0")  # what clients without one send as their proof, and then wait for a verdict


_IMITATION: Final = secrets.token_bytes(32)


class Front:
    """One client, from the accepted socket to the stream of a session."""

    def __init__(
        self, core: Core, listen: MysqlListen, tls: ssl.SSLContext, caller: Caller, greetings: Greetings
    ) -> None:
        self._core, self._listen, self._tls, self._caller = core, listen, tls, caller
        self._greetings = greetings
        self._nonce = auth.new_nonce()
        self._talk: Talk | None = None
        self.failures = 0
        self.thread = greetings.threads.new()  # what the client is told
        self.answer: Answer
        self.promised: Cap
        self.wanted: Wanted
        self.finished = False  # the client has had its last word from us, or its OK
        self._without = False  # they log in without a password

    @property
    def stream(self) -> Stream | None:
        """The client's stream, once there is one."""
        return self._talk.stream if self._talk else None

    async def login(self) -> Login:
        """Greet and log in; raises ClientError."""
        try:
            return await self._login()
        except WireError as error:
            self.say(*BAD_HANDSHAKE, f"Bad handshake: {error}")
            raise ProtocolBroken(f"The client broke the MySQL protocol: {error}.") from None

    async def _login(self) -> Login:
        talk = self._talk = await self._begin()
        answer = self.answer = read_answer(self._first or await talk.receive())
        if not self._inside_tls and self._listen.tls == "require":
            self.say(*NEEDS_TLS, "Connections without TLS are prohibited here.")
            raise ClientError("The client does not use TLS.")
        name = answer.user.decode("utf-8", "replace")
        self.wanted = self._core.access.parse_username(name)
        how = await self._proved(self.wanted.user)
        if how is None:
            self.failures += 1
            metrics.LOGINS.labels(protocol="mysql", result="failed").inc()
            using = "NO" if self._without else "YES"
            self.say(*ACCESS_DENIED, f"Access denied for user '{_shown(name)}' (using password: {using})")
            raise ClientError("The login failed.")
        client = " ".join(
            filter(None, (attribute(answer.attributes, key) for key in (b"_client_name", b"_client_version")))
        )
        return Login(self.wanted.user, self._caller.ip, how, client=_shown(client))

    async def _begin(self) -> Talk:
        """Greet, and come to TLS if the client wants it."""
        sock, seconds = self._caller.sock, self._core.config.admission.grace_seconds
        promise = await self._greetings.promise(
            self._listen, self._core.config.targets.get(self._listen.target)
        )
        greeting = Greeting(
            promise.version, self.thread, self._nonce, promise.flags, promise.charset, AUTOCOMMIT, SHA2
        )  # fmt: skip
        self.promised = promise.flags
        try:
            sock.send(packet(0, greeting_payload(greeting)))  # a new socket takes a hundred bytes at once
        except OSError as error:
            raise ClientError(f"the client broke the connection: {error.strerror}") from None
        raw = await read_preamble(sock, missing, side=Side.CLIENT, limit=LOGIN_BYTES, seconds=seconds)
        payload = payload_of(raw, 1)
        self._inside_tls = Cap.SSL in read_flags(payload) and len(payload) == SSL_REQUEST_BYTES
        self._first = b"" if self._inside_tls else payload
        return Talk(await adopt_server(sock, self._tls if self._inside_tls else None, seconds=seconds), 2)

    # ------------------------------------------------------------------ the proof

    async def _proved(self, name: str) -> str | None:
        """Run the exchange; say by which factors they are logged in, None when they are not."""
        access = self._core.access
        done: frozenset[str] = frozenset({"publickey"} if self._certified(name) else ())
        if done and access.missing(name, done) == frozenset():
            return "certificate"
        left = access.missing(name, done | {"password"})
        method = self._method(name, coded=bool(left))
        if method == NATIVE:
            proved = await self._by_native(access.user(name))
        elif method == ED25519:
            proved = await self._by_ed25519(access.user(name))
        else:
            proved = await self._by_password(name, coded=left == frozenset({"totp"}))
        if not proved or (left and left != frozenset({"totp"})) or left is None:
            return None
        return "certificate+" * bool(done) + "password" + "+totp" * bool(left)

    def _certified(self, name: str) -> bool:
        """Tell whether the client's own certificate is this user's."""
        shown = self._talk.stream.peer_certificate if self._talk else None
        if shown is None:
            return False
        names = x509.load_der_x509_certificate(shown).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [attribute.value for attribute in names] == [name]

    def _method(self, name: str, *, coded: bool) -> str:
        """Choose how a user proves the password (rule 2, rule 3)."""
        users = self._core.config.users
        user = users.get(name)
        if user is None:
            if not users:
                return SHA2
            drawn = int.from_bytes(hmac.digest(_IMITATION, name.encode(), "sha256")[:8])
            imitated = sorted(users)[drawn % len(users)]
            user = users[imitated]
            coded = bool(self._core.access.missing(imitated, frozenset({"password"})))
        if not coded and user.mysql_native:
            return NATIVE
        return ED25519 if not coded and user.mariadb_ed25519 else SHA2

    async def _by_native(self, user: User | None) -> bool:
        proof, nonce = self.answer.proof, self._nonce
        if self.answer.plugin != NATIVE or not proof:
            nonce = auth.new_nonce()
            proof = await self._switched(NATIVE, nonce + b"\0")
        self._without = proof in NO_PASSWORD
        stored = user.mysql_native if user else None
        matches = auth.native_proves(stored or "*" + secrets.token_hex(20).upper(), nonce, proof)
        return matches and stored is not None

    async def _by_ed25519(self, user: User | None) -> bool:
        nonce = secrets.token_bytes(auth.ED25519_NONCE_BYTES)
        proof = await self._switched(ED25519, nonce)
        stored = user.mariadb_ed25519 if user else None
        return stored is not None and auth.ed25519_proves(stored, nonce, proof)

    async def _by_password(self, name: str, *, coded: bool) -> bool:
        """Have the password itself inside TLS, and check it; `coded`: a one-time code stands behind it."""
        given = await self._in_the_clear(name, coded=coded)
        if given is None:
            return True
        password = given.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        if not coded:
            matches = await self._is_password(name, password)
            user = self._core.access.user(name)
            if matches and user is not None and user.password:
                self._greetings.proofs.remember(name, user.password, auth.sha2_digest(password))
            return matches
        right = await self._is_password(name, password[:-CODE_DIGITS])
        return right and await self._core.access.verify_totp(name, password[-CODE_DIGITS:])

    async def _in_the_clear(self, name: str, *, coded: bool) -> bytes | None:
        """Have the password; None when its digest proves it already."""
        assert self._talk is not None  # noqa: S101 - set before anything is proved
        if not self._inside_tls:
            self.say(*NEEDS_TLS, "This login needs TLS.")
            raise ClientError("The client does not use TLS, and its user's login needs it.")
        if self.answer.plugin == CLEAR and self.answer.proof:
            return self.answer.proof
        proof, nonce = self.answer.proof, self._nonce
        if self.answer.plugin != SHA2:
            nonce = auth.new_nonce()
            proof = await self._switched(SHA2, nonce + b"\0")
        if proof in NO_PASSWORD:
            self._without = True
            return b""
        user = self._core.access.user(name)
        digest = self._greetings.proofs.digest(name, user.password) if user and not coded else None
        if digest is not None and auth.sha2_proves(digest, nonce, proof):
            self._talk.send(auth.FAST_OK)
            return None
        self._talk.send(auth.SEND_PASSWORD)
        return await self._talk.receive()

    async def _is_password(self, name: str, password: str) -> bool:
        """Check a password against what the user has of it: argon2, or else a database's own hash."""
        user = self._core.access.user(name)
        if user is None or user.password or not (user.mysql_native or user.mariadb_ed25519):
            return await self._core.access.verify_password(name, password)
        if user.mysql_native:
            return hmac.compare_digest(verifiers.mysql_native(password), user.mysql_native)
        return hmac.compare_digest(verifiers.mariadb_ed25519(password), user.mariadb_ed25519 or "")

    async def _switched(self, plugin: str, data: bytes) -> bytes:
        """Ask for another method; give its proof."""
        assert self._talk is not None  # noqa: S101 - set before anything is proved
        self._talk.send(switch_payload(plugin, data))
        return await self._talk.receive()

    # ------------------------------------------------------------------ where to, and the last words

    def account(self) -> tuple[str | None, str | None]:
        """Say which account and target the user name asks for; raises Denied."""
        bound, wanted = self._listen.target, self.wanted
        if not bound or wanted.target in (None, bound):
            return wanted.login, wanted.target or bound or None
        if wanted.login is None:  # USER+LOGIN
            return wanted.target, bound
        raise Denied(f"This listener leads to {bound} only; log in as USER or USER+LOGIN.")

    def succeed(self, payload: bytes) -> None:
        """Send the OK that ends the login."""
        assert self._talk is not None  # noqa: S101 - logged in
        self._talk.send(payload)
        self._talk.leave()
        self.finished = True

    def say(self, code: int, state: str, text: str) -> None:
        """End the login with an error, unless it has ended."""
        if self.finished:
            return
        self.finished = True
        with contextlib.suppress(
            ProxydError, OSError, trio.ClosedResourceError
        ):  # who has gone hears nothing
            if self._talk is not None:
                self._talk.send(error_payload(code, state, text))
            else:
                self._caller.sock.send(packet(2, error_payload(code, state, text)))

    async def aclose(self) -> None:
        """Close the client's side; never raises."""
        if self._talk is not None:
            await self._talk.stream.aclose()
        elif self._caller.sock.fileno() >= 0:
            self._caller.sock.close()


def _shown(text: str) -> str:
    """Make text from a client fit for a terminal and a log."""
    return printable(text[:MAX_SHOWN])
