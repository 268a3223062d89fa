"""The link to the client: algorithms, login by several factors, and what the client opens and asks.

Rule 1: success is told only when the session can begin: permit given, tape open, target logged in. Until then a
        refusal is one disconnect sentence, and nothing of the target has been shown.
Rule 2: a user is proved by chains of factors (`publickey+totp`); each passed factor is answered with "partial success"
        until a chain is complete (RFC 4252, 5.1). A user name can't change on the way.
Rule 3: unknown users walk the same path at the same cost as known ones.
Rule 4: a client that can do AES-GCM is offered nothing else: OpenSSH would pick ctr or chacha20 first, at twice the cost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import asyncssh
import trio
from asyncssh.auth import ServerAuth
from asyncssh.connection import SSHServerConnection
from asyncssh.constants import (
    DISC_COMPRESSION_ERROR,
    DISC_KEY_EXCHANGE_FAILED,
    DISC_MAC_ERROR,
    DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
    DISC_PROTOCOL_ERROR,
    DISC_PROTOCOL_VERSION_NOT_SUPPORTED,
    MSG_CHANNEL_OPEN,
    MSG_DISCONNECT,
    MSG_GLOBAL_REQUEST,
    MSG_KEXINIT,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
    MSG_USERAUTH_REQUEST,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
)
from asyncssh.misc import ChannelOpenError, DisconnectError, PermissionDenied, ProtocolError
from asyncssh.public_key import CERT_TYPE_USER

from proxyd import metrics
from proxyd.access import Wanted
from proxyd.errors import ClientError, ProtocolBroken
from proxyd.host import in_trio
from proxyd.protocols.ssh.channel import LEAST_PACKET, RelayChannel
from proxyd.protocols.ssh.relay import FORWARD_REQUESTS, MAX_CHANNELS, Relay, global_request
from proxyd.protocols.ssh.transport import Hardened
from proxyd.protocols.ssh.wire import KexInit, Reader, WireError, printable
from proxyd.session import Login

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncssh.packet import SSHPacket

    from proxyd.access import Access
    from proxyd.engine import Core
    from proxyd.protocols.ssh.lobby import Lobby

KEX = ("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org")
GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
CTR = ("aes256-ctr", "aes192-ctr", "aes128-ctr")
CHACHA = ("chacha20-poly1305@openssh.com",)
PLAIN_MACS = (
    "hmac-sha2-256",
    "hmac-sha2-512",
)  # for clients that know neither GCM nor encrypt-then-MAC (dropbear)
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")

KEXINIT_WAIT_S = 0.2
"""Seconds we wait for the client to list its algorithms first (rule 4); every client measured does so at once."""

MAX_FAILURES = 12
"""Failed attempts of one connection: six passwords as OpenSSH allows, and an agent with as many keys."""

MAX_TRIES = 64
"""Requests of one login, with the questions whether a key would do; what is given up before its answer counts, too."""

WEAK_SIGNATURES = frozenset({b"ssh-rsa", b"ssh-dss"})
"""Signatures over SHA-1, which OpenSSH has not taken since 8.8; RSA keys sign with SHA-2 for every client since 2018."""

NOTHING_HELPS = frozenset({"an account"})
"""What is missing when no factor can log the user in any more: nobody can show it, so the login never succeeds."""

MAX_GLOBAL_REQUESTS = 64
"""Global requests that may wait for their answer."""

_EXTENSION_OF = {
    "local-forward": "permit-port-forwarding",
    "remote-forward": "permit-port-forwarding",
    "agent": "permit-agent-forwarding",
    "x11": "permit-X11-forwarding",
    "terminal": "permit-pty",
}
# What asyncssh ends a connection with when the client's bytes make no sense, or can lead to no keys (RFC 4253, 11.1).
_BROKEN = frozenset(
    {
        DISC_PROTOCOL_ERROR,
        DISC_KEY_EXCHANGE_FAILED,
        DISC_MAC_ERROR,
        DISC_COMPRESSION_ERROR,
        DISC_PROTOCOL_VERSION_NOT_SUPPORTED,
    }
)
_PLAIN_CHANNELS = frozenset({"shell", "exec", "sftp"})


class FrontOwner(asyncssh.SSHServer):
    """asyncssh's callbacks for the link to the client; the connection itself does the work."""

    def __init__(self) -> None:
        self.connection: FrontConnection | None = None

    def connection_made(self, conn: Any) -> None:
        """Remember the connection."""
        self.connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits that the client has gone."""
        if self.connection is not None:
            self.connection.gone(exc)

    def begin_auth(self, username: str) -> bool:
        """Begin a login; nobody gets in without one, but the inner side of `ssh -J`."""
        assert self.connection is not None  # noqa: S101 - asyncssh calls connection_made first
        return self.connection.begin_login(username)

    def public_key_auth_supported(self) -> bool:
        """Offer public keys where a chain of the user still lacks one."""
        return self.connection is not None and "publickey" in self.connection.missing

    def password_auth_supported(self) -> bool:
        """Offer passwords where a chain of the user still lacks one."""
        return self.connection is not None and "password" in self.connection.missing

    def kbdint_auth_supported(self) -> bool:
        """Offer keyboard-interactive for a password or a one-time code."""
        return self.connection is not None and bool({"password", "totp"} & self.connection.missing)


class FrontConnection(Hardened, SSHServerConnection):
    """asyncssh's server connection: logs a user in, then relays."""

    def prepare(self, core: Core, ip: str, *, carried: Login | None = None, destination: str = "") -> None:
        """Give what the connection needs to judge.

        `carried`: who the outer connection of `ssh -J` has proved, on the way to the target named `destination`.
        """
        self.core = core
        self.ip = ip
        self.carried = carried
        self.destination = destination
        self.wanted: Wanted | None = None
        self.done: tuple[str, ...] = ()
        self.missing: frozenset[str] = frozenset()
        self.failures = 0
        self.tries = 0
        self.when_left: Callable[[], None] | None = None
        self.proved = trio.Event()
        self.left = trio.Event()
        self.login: Login | None = None
        self.relay: Relay | None = None
        self.lobby: Lobby | None = None
        self.cause: Exception | None = None
        self._took_leave = False
        self._allowed: frozenset[str] | None = None
        self._presented: frozenset[str] | None = None
        self._admission: asyncio.Future[None] | None = None
        self._global_waiting: deque[asyncio.Future[bytes | None]] = deque()
        self._kexinit_timer: asyncio.TimerHandle | None = None

    @property
    def access(self) -> Access:
        """The rules in force now."""
        return self.core.access

    def is_live(self) -> bool:
        """Tell whether the client is logged in and still there."""
        return bool(self._auth_complete) and self._transport is not None

    def gone(self, exc: Exception | None) -> None:
        """Note that the client has gone, and wake everyone who waits for it."""
        self.cause = exc
        if self._kexinit_timer is not None:
            self._kexinit_timer.cancel()
        if self._admission is not None and not self._admission.done():
            self._admission.cancel()
        if self.relay is not None:
            self.relay.client_gone()
        if self.when_left is not None:
            self.when_left()
        self.left.set()
        self.proved.set()

    # ------------------------------------------------------------------ rule 4: algorithms

    def _send_kexinit(self) -> None:
        """Hold our first list of algorithms until the client's has come, or KEXINIT_WAIT_S is over."""
        if not self._session_id and not self._client_kexinit and self._kexinit_timer is None:
            self._kexinit_timer = self._loop.call_later(KEXINIT_WAIT_S, self._send_held_kexinit)
            return
        super()._send_kexinit()

    def _send_held_kexinit(self) -> None:
        if self._transport and not self._client_kexinit and not self._server_kexinit:
            super()._send_kexinit()

    async def _process_kexinit(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Choose what to offer by what the client lists, then go on as asyncssh does (RFC 4253, 7.1)."""
        try:
            lists = KexInit(bytes(packet.get_full_payload()))
        except WireError as error:
            raise ProtocolError(f"Malformed KEXINIT: {error}") from None
        if not self._session_id and not self._server_kexinit:
            self._offer_for(lists)
            self._kexinit_sent = False
        await super()._process_kexinit(_pkttype, _pktid, packet)
        if (
            lists.guess_follows
        ):  # asyncssh takes a guess for right that the client, as told to, takes for wrong
            ours = (self._kex_algs[0], next(iter(self._server_host_keys)))
            self._ignore_first_kex = ours != (lists.kex[0], lists.host_keys[0])

    def _offer_for(self, lists: KexInit) -> None:
        gcm = [name for name in self._enc_algs if b"gcm" in name]
        if any(name in lists.ciphers for name in gcm):
            self._enc_algs = gcm
        elif not any(name in lists.macs for name in self._mac_algs):
            self._mac_algs = [name.encode() for name in PLAIN_MACS]

    # ------------------------------------------------------------------ rule 2: factors

    def _process_userauth_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> Any:
        """Count the request, then judge it; one that follows too soon takes the place of the one before."""
        self._count_try()
        return super()._process_userauth_request(_pkttype, _pktid, packet)

    def _count_try(self) -> None:
        self.tries += 1
        if self.tries > MAX_TRIES:
            self.failures += 1
            raise PermissionDenied("Too many authentication requests")

    async def reload_config(self) -> None:
        """Nothing: asyncssh would read its options again, in a thread, for each login."""

    def begin_login(self, username: str) -> bool:
        """Take the user name; True when factors have to be shown. Raises ProtocolError when it changes."""
        if self.wanted is not None:
            raise ProtocolError("The user name can't change during the login")
        if self.carried is not None:
            self.wanted = Wanted(self.carried.user, username, self.destination)
            self.login = self.carried
            return False
        self.wanted = self.access.parse_username(username)
        self.missing = self._still_missing()
        banner = self.core.config.listen.ssh.banner if self.core.config.listen.ssh else ""
        if banner:
            self.send_auth_banner(banner.rstrip("\n") + "\n")
        return True

    @property
    def user(self) -> str:
        """The user's name as given."""
        return self.wanted.user if self.wanted is not None else ""

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Check a public key or a user certificate, and its signature where there is one (RFC 4252, 7)."""
        self._presented = None
        if msg and _signature_algorithm(signature) in WEAK_SIGNATURES:
            return False
        valid = "publickey" in self.missing and await super().validate_public_key(
            username, key_data, msg, signature
        )
        if valid and msg:
            self._allowed = self._presented
            self.access.key_used(self.user, key_data)
            self._passed("publickey")
        return bool(valid)

    async def _validate_client_public_key(self, username: str, key_data: bytes) -> Any:  # noqa: ARG002 - asyncssh's
        """Give the key when it is one of the user's, else None."""
        try:
            key = asyncssh.public_key.decode_ssh_public_key(key_data)
        except asyncssh.KeyImportError:
            return None
        if not self.access.key_allowed(self.user, key_data):
            return None
        key.set_touch_required(True)  # a security key without a touch proves no presence
        return key

    async def _validate_openssh_certificate(self, username: str, cert: Any) -> Any:  # noqa: ARG002 - asyncssh's signature
        """Give a user certificate's key when a configured CA signed it for this user, else None.

        The principal is the user, whatever target the name goes on to name; a certificate without principals is
        good for nobody, and one that forces a command is refused, for nothing here would force it.
        """
        signers = {asyncssh.import_public_key(line) for line in self.access.user_ca()}
        if cert.signing_key not in signers or self.user not in cert.principals:
            return None
        if self.access.user(self.user) is None or "force-command" in cert.options:
            return None
        try:
            cert.validate(CERT_TYPE_USER, self.user)
        except ValueError:
            return None
        networks = cert.options.get("source-address")
        if networks and not any(asyncssh.misc.ip_address(self.ip) in network for network in networks):
            return None
        self._presented = _PLAIN_CHANNELS | {
            channel for channel, extension in _EXTENSION_OF.items() if cert.options.get(extension)
        }
        cert.key.set_touch_required(True)
        return cert.key

    async def validate_password(self, username: str, password: str) -> bool:  # noqa: ARG002 - asyncssh's signature
        """Check a password (RFC 4252, 8), in a thread, at the same cost for unknown users."""
        if "password" not in self.missing:
            return False
        valid = await in_trio(self.access.verify_password, self.user, password)
        if valid:
            self._passed("password")
        return bool(valid)

    async def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:  # noqa: ARG002 - asyncssh's
        """Ask for what is missing (RFC 4256, 3.2): the password first, the one-time code last."""
        return self._challenge()

    def _challenge(self) -> Any:
        prompt = "Password: " if "password" in self.missing else "One-time code: "
        return ("", "", "", [(prompt, False)])

    async def validate_kbdint_response(self, username: str, responses: Any) -> Any:
        """Check an answer; go on to the one-time code in the same exchange when that is what is missing."""
        self._count_try()
        if len(responses) != 1:
            return False
        if "password" in self.missing:
            if not await self.validate_password(username, responses[0]):
                return False
            self.missing = self._still_missing()
            return self._challenge() if self.missing == {"totp"} else True
        if "totp" not in self.missing or not await in_trio(
            self.access.verify_totp, self.user, responses[0].strip()
        ):
            return False
        self._passed("totp")
        return True

    async def change_password(self, username: str, old_password: str, new_password: str) -> bool:  # noqa: ARG002
        """Refuse: passwords are not changed through the proxy."""
        return False

    def host_based_auth_supported(self) -> bool:
        """Never: the client's host proves nothing about its user."""
        return False

    def _passed(self, factor: str) -> None:
        if factor not in self.done:
            self.done = (*self.done, factor)

    def _still_missing(self) -> frozenset[str]:
        missing = self.access.missing(self.user, frozenset(self.done))
        return NOTHING_HELPS if missing is None else missing

    def send_userauth_failure(self, partial_success: bool) -> None:  # noqa: FBT001 - asyncssh's signature
        """Count a failure; end the connection after MAX_FAILURES of them."""
        if not partial_success and self._auth is not None and isinstance(self._auth, ServerAuth):
            self.failures += 1
            metrics.LOGINS.labels(protocol="ssh", result="failed").inc()
            if self.failures >= MAX_FAILURES:
                self.say_goodbye(DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures")
                return
        super().send_userauth_failure(partial_success)

    async def send_userauth_success(self) -> None:
        """Answer a passed factor: partial success, or success once the session can begin (rule 1)."""
        if self.carried is None:
            self.missing = self._still_missing()
            if self.missing:
                self.send_userauth_failure(partial_success=True)
                return
            self.login = Login(self.user, self.ip, "+".join(self.done), self._allowed, self._client())
        self._admission = self._loop.create_future()
        self.proved.set()
        try:
            await self._admission
        except asyncio.CancelledError:
            if self._transport is not None:  # a goodbye under way is to be read
                self.abort()
            raise
        await super().send_userauth_success()

    def _client(self) -> str:
        return printable(self._client_version.decode("ascii", "replace"))

    def admit(self, relay: Relay | None) -> None:
        """Tell the client it is in; `relay` carries the session, None while no target is chosen."""
        self.relay = relay
        if self._admission is not None and not self._admission.done():
            self._admission.set_result(None)

    # ------------------------------------------------------------------ what the client opens and asks

    def _process_channel_open(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Relay what the client opens; before a target is chosen, the lobby answers."""
        kind = packet.get_string().decode("ascii", "replace")
        channel, window, size = packet.get_uint32(), packet.get_uint32(), packet.get_uint32()
        body = packet.get_remaining_payload()
        try:
            if len(self._channels) >= MAX_CHANNELS:
                raise ChannelOpenError(OPEN_RESOURCE_SHORTAGE, f"More than {MAX_CHANNELS} channels at once")  # noqa: TRY301 - one answer for all
            if size < LEAST_PACKET:
                raise ChannelOpenError(OPEN_RESOURCE_SHORTAGE, f"Packets of less than {LEAST_PACKET} bytes")  # noqa: TRY301
            if self.relay is not None:
                near = RelayChannel(self, self.relay.new_line(kind), near=True)
                near.line.near = near
                near.process_open(channel, window, size, cast("Any", self.relay.join(near, kind, body)))
            elif self.lobby is not None:
                half, opening = self.lobby.open(kind, body)
                half.process_open(channel, window, size, opening)
            else:
                raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "Not now")  # noqa: TRY301 - one answer for both
        except ChannelOpenError as error:
            self.send_channel_open_failure(channel, error.code, error.reason, error.lang)

    def _process_global_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Relay forwards, answer keepalives, refuse the rest; answers keep the order of the requests."""
        name, wants_reply, body = global_request(packet)
        if len(self._global_waiting) >= MAX_GLOBAL_REQUESTS:
            raise ProtocolError("Too many global requests at once")
        relay = self.relay
        passes = name in FORWARD_REQUESTS and relay is not None and relay.judge_global(name, body)
        if not wants_reply:
            if passes and relay is not None:
                relay.tell_target(name, body)
            return
        answer: asyncio.Future[bytes | None]
        if passes and relay is not None:
            answer = asyncio.ensure_future(relay.ask_target(name, body))
        else:
            answer = self._loop.create_future()
            answer.set_result(b"" if name == "keepalive@openssh.com" else None)
        self._global_waiting.append(answer)
        answer.add_done_callback(self._answer_global)

    def _answer_global(self, _done: asyncio.Future[bytes | None]) -> None:
        while self._global_waiting and self._global_waiting[0].done():
            answer = self._global_waiting.popleft()
            failed = answer.cancelled() or answer.exception() is not None
            result = None if failed else answer.result()
            if result is None:
                self.send_packet(MSG_REQUEST_FAILURE)
            else:
                self.send_packet(MSG_REQUEST_SUCCESS, result)

    # ------------------------------------------------------------------ how it ends

    def _process_disconnect(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Note that the client took its leave: whatever code it gives, it has broken nothing."""
        super()._process_disconnect(_pkttype, _pktid, packet)
        self._took_leave = True

    def why_left(self) -> ClientError:
        """Give what ended the connection before its login did; ProtocolBroken when the client sent nonsense."""
        cause = self.cause
        if isinstance(cause, DisconnectError) and cause.code in _BROKEN and not self._took_leave:
            return ProtocolBroken(printable(str(cause)))
        return ClientError(printable(str(cause)) if cause else "The client left before its login was over.")

    _packet_handlers = {  # noqa: RUF012 - asyncssh's class attribute
        **SSHServerConnection._packet_handlers,
        MSG_KEXINIT: _process_kexinit,
        MSG_DISCONNECT: _process_disconnect,
        MSG_CHANNEL_OPEN: _process_channel_open,
        MSG_GLOBAL_REQUEST: _process_global_request,
        MSG_USERAUTH_REQUEST: _process_userauth_request,
    }


def _signature_algorithm(signature: bytes) -> bytes:
    """Give the algorithm a signature names (RFC 4253, 6.6); empty when it names none."""
    try:
        return Reader(signature).string()
    except WireError:
        return b""
