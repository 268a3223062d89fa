"""The link to the target: dialled, its host key pinned, logged in with a credential the user never sees.

Rule 1: no pin, no login: an unknown or changed host key is refused before any credential is sent.
Rule 2: what the target says about a failed login never reaches the user; one sentence of ours does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncssh
import trio
from asyncssh.connection import SSHClientConnection, SSHClientConnectionOptions
from asyncssh.misc import (
    ChannelOpenError,
    ConnectionLost,
    DisconnectError,
    HostKeyNotVerifiable,
    KeyExchangeFailed,
    PermissionDenied,
)

from proxyd import log, vault
from proxyd import target as targets
from proxyd.errors import TargetError, TargetLoginFailed, TargetUnreachable
from proxyd.host import loop, on_host
from proxyd.protocols.ssh.channel import LEAST_PACKET, RelayChannel
from proxyd.protocols.ssh.ciphers import TARGET_CIPHERS, TARGET_MACS, WEAK
from proxyd.protocols.ssh.relay import MAX_CHANNELS, global_request
from proxyd.protocols.ssh.transport import Hardened, Wire
from proxyd.protocols.ssh.wire import KexInit, printable
from proxyd.target import count_login

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncssh.packet import SSHPacket

    from proxyd.config import Account, SshListen
    from proxyd.protocols.ssh.relay import Relay
    from proxyd.session import Session

_log = log.get("ssh")

MAX_BANNER = 4096
"""Characters of a target's banners that are passed on; longer ones are a nuisance or an attack."""


OFFERED_BY_ALL = frozenset(
    {b"hmac-sha1", b"hmac-sha1-etm@openssh.com", b"umac-64@openssh.com", b"umac-64-etm@openssh.com"}
)
"""Weak algorithms in OpenSSH's own defaults: a finding at every target would be none."""


class BackConnection(Hardened, SSHClientConnection):
    """asyncssh's client connection, relaying what the target opens and asks."""

    relay: Relay | None = None
    shown_key = ""
    took_leave = False  # the target itself ended the connection, with words of its own

    def validate_server_host_key(self, key_data: bytes) -> Any:
        """Check the target's host key against the pins; remembers its fingerprint for the finding."""
        try:
            self.shown_key = _shown(key_data)
        except (asyncssh.KeyImportError, ValueError):
            self.shown_key = "unreadable"
        return super().validate_server_host_key(key_data)

    def weaknesses(self) -> list[str]:
        """Name the weak algorithms of the link, the host key's with them."""
        offered = KexInit(self._server_kexinit).host_keys
        chosen = next((name for name in self._server_host_key_algs or () if name in offered), b"")
        return sorted({*super().weaknesses(), *([chosen.decode("ascii")] if WEAK.search(chosen) else [])})

    def offers(self) -> list[str]:
        """Name what the target offers and should not, but for what every OpenSSH still does."""
        weak = {name for name in KexInit(self._server_kexinit).names if WEAK.search(name)}
        return sorted(printable(name.decode("ascii", "replace")) for name in weak - OFFERED_BY_ALL)

    def _process_channel_open(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Relay a channel the target opens: a remote forward, the agent, X11."""
        kind = packet.get_string().decode("ascii", "replace")
        channel, window, size = packet.get_uint32(), packet.get_uint32(), packet.get_uint32()
        relay = self.relay
        if relay is None or not relay.front.is_live():
            self.send_channel_open_failure(channel, asyncssh.OPEN_CONNECT_FAILED, "Nobody is there", "")
            return
        if len(self._channels) >= 2 * MAX_CHANNELS or size < LEAST_PACKET:
            self.send_channel_open_failure(
                channel, asyncssh.OPEN_RESOURCE_SHORTAGE, "Not so many, or so small", ""
            )
            return
        try:
            far = RelayChannel(self, relay.new_line(kind), near=False)
        except ChannelOpenError:  # the connection is closing
            return
        opening: Any = relay.join(far, kind, packet.get_remaining_payload())
        far.process_open(channel, window, size, opening)

    def _process_disconnect(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Note that the words of this end are the target's."""
        self.took_leave = True
        super()._process_disconnect(_pkttype, _pktid, packet)

    def _process_global_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        """Answer the target's keepalives; its other requests (host key rotation) are for clients that keep keys."""
        name, wants_reply, _ = global_request(packet)
        if wants_reply:
            if name == "keepalive@openssh.com":
                self.send_packet(asyncssh.constants.MSG_REQUEST_SUCCESS)
            else:
                self.send_packet(asyncssh.constants.MSG_REQUEST_FAILURE)

    async def confirmed(self, within_s: float) -> bool:
        """Wait until the target has read everything sent so far, or `within_s` is over; from trio."""

        async def ask() -> bool:
            async with asyncio.timeout(within_s):
                await self._make_global_request(b"keepalive@openssh.com")
            return not self.is_closed()

        try:
            return await on_host(ask())
        except TimeoutError:
            return False

    _packet_handlers = {  # noqa: RUF012 - asyncssh's class attribute
        **SSHClientConnection._packet_handlers,
        asyncssh.constants.MSG_KEXINIT: Hardened._process_kexinit,
        asyncssh.constants.MSG_DISCONNECT: _process_disconnect,
        asyncssh.constants.MSG_CHANNEL_OPEN: _process_channel_open,
        asyncssh.constants.MSG_GLOBAL_REQUEST: _process_global_request,
    }


class BackOwner(asyncssh.SSHClient):
    """asyncssh's callbacks for the link to the target."""

    def __init__(self, banner: Callable[[str], None]) -> None:
        self._banner = banner
        self._banner_left = MAX_BANNER
        self.connection: BackConnection | None = None

    def connection_made(self, conn: Any) -> None:
        """Remember the connection."""
        self.connection = conn

    def auth_banner_received(self, msg: str, lang: str) -> None:  # noqa: ARG002 - asyncssh's signature
        """Pass the target's banner on while the user still waits for the login."""
        shown, self._banner_left = msg[: self._banner_left], max(0, self._banner_left - len(msg))
        if shown:
            self._banner(shown)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the relay that the target has gone."""
        relay = self.connection.relay if self.connection else None
        if relay is not None:
            said = isinstance(exc, DisconnectError) and not isinstance(exc, ConnectionLost)
            relay.target_gone(f"{relay.session.target} closed the connection: {_why(exc)}" if said else "")


async def connect(session: Session, listen: SshListen, banner: Callable[[str], None]) -> BackConnection:
    """Dial the session's target and log in; waits at most the target's connect_seconds plus login_seconds.

    Raises TargetUnreachable, TargetLoginFailed, TargetError, each with one sentence for the user.
    """
    try:
        connection = await _connect(session, listen, banner)
    except TargetError as error:
        count_login("ssh", error)
        if isinstance(error, vault.VaultError):
            # Its text is for the user, and tells nothing to whoever has to mend it.
            _log.error(
                "credential could not be fetched",
                session=session.id,
                target=session.target,
                account=session.login,
                why=error.detail,
            )
        raise
    count_login("ssh", None)
    _note_weaknesses(session, connection)
    return connection


def _note_weaknesses(session: Session, connection: BackConnection) -> None:
    """Record what is weak about the target's side of the link (M11)."""
    used = connection.weaknesses()
    for name in used:
        session.finding("weak-algorithm", "medium", f"{session.target} negotiated the weak algorithm {name}.")
    offered = [name for name in connection.offers() if name not in used]
    if offered:
        text = f"{session.target} offers weak algorithms, not used here: {', '.join(offered)}."
        session.finding("weak-algorithm", "low", text)
    if connection._server_version.startswith(b"SSH-1.99"):
        session.finding("weak-protocol", "medium", f"{session.target} offers version 1 of the SSH protocol.")


async def _connect(session: Session, listen: SshListen, banner: Callable[[str], None]) -> BackConnection:
    target = session.permit.target
    keys = await trio.to_thread.run_sync(targets.HostKeys, target)
    credential = await _credential(target.accounts[session.login])
    options = await on_host(
        SSHClientConnectionOptions.construct(
            config=None,
            client_factory=lambda: BackOwner(banner),
            host=target.host,
            port=target.port,
            username=session.login,
            known_hosts=keys.known_hosts,
            x509_trusted_certs=None,  # or whatever lies in ~/.ssh/crt would vouch for a target
            agent_path=None,
            encryption_algs=TARGET_CIPHERS,
            mac_algs=TARGET_MACS,
            compression_algs=["none"],
            rekey_bytes=listen.rekey_bytes,
            rekey_seconds=listen.rekey_seconds,
            keepalive_interval=listen.keepalive_seconds,
            login_timeout=0,
            gss_auth=False,
            gss_kex=False,
            preferred_auth="publickey,password,keyboard-interactive",
            **credential,
        )
    )
    options.waiter = loop().create_future()
    sock = await targets.dial(target)
    connection = BackConnection(loop(), options, wait="auth")
    try:
        with trio.fail_after(target.login_seconds):
            await on_host(_handshake(connection, options, sock))
    except trio.TooSlowError:
        raise TargetUnreachable(
            f"{target.name} accepted the connection but did not finish the login within {target.login_seconds:g} s."
        ) from None
    except (DisconnectError, OSError, asyncssh.Error) as error:
        raise _refused(session, connection, error) from None
    except (ValueError, LookupError, AssertionError) as error:  # what asyncssh's parsers raise on noise
        _log.info("noise from a target", target=target.name, error=type(error).__name__)
        raise TargetError(f"{target.name} broke the SSH protocol.") from None
    finally:
        if connection._transport is None and sock.fileno() >= 0:
            sock.close()
    return connection


def _refused(session: Session, connection: BackConnection, error: Exception) -> TargetError:
    """Give the sentence for what ended a login (rule 2), with its finding where it is one."""
    name = session.target
    match error:
        case HostKeyNotVerifiable():
            return _refused_key(session, connection)
        case PermissionDenied():
            return TargetLoginFailed(f"{name} refused the credential of account {session.login}.")
        case KeyExchangeFailed() if not connection.took_leave:
            text = f"{name} offers no algorithm that is safe to use."
            session.finding("no-common-algorithm", "high", text)
            return TargetError(f"{name} offers no SSH algorithm that is safe to use.")
    sentence = f"{name} broke off the connection before the login was over"
    if connection.took_leave:
        _log.warning("a target ended the login", session=session.id, target=name, said=_why(error))
        return TargetUnreachable(sentence + ".")
    return TargetUnreachable(f"{sentence}: {_why(error)}")


async def _handshake(connection: BackConnection, options: Any, sock: Any) -> None:
    """Run the handshake and login on the host loop; leaves nothing behind when it fails."""
    host_loop = asyncio.get_running_loop()
    done = False
    try:
        await host_loop.create_connection(lambda: Wire(connection), sock=sock)
        await options.waiter
        done = True
    finally:
        if not done:
            connection.abort()


async def _credential(account: Account) -> dict[str, Any]:
    """Fetch what the account logs in with, as asyncssh's options; raises TargetLoginFailed."""
    options: dict[str, Any] = {
        "client_keys": None,
        "password": None,
        "public_key_auth": False,
        "password_auth": False,
    }
    if account.password is not None:
        secret = await vault.fetch(account.password)
        options |= {"password": secret.text().rstrip("\n"), "password_auth": True}
    if account.key is not None:
        options |= {"client_keys": [await _key(account)], "public_key_auth": True}
    options["kbdint_auth"] = options["password_auth"]
    return options


async def _key(account: Account) -> Any:
    assert account.key is not None  # noqa: S101 - the caller has looked
    passphrase = await vault.fetch(account.passphrase) if account.passphrase else None
    text = (await vault.fetch(account.key)).text()
    try:
        key = asyncssh.import_private_key(text, passphrase.text().rstrip("\n") if passphrase else None)
        if account.certificate is None:
            return key
        return key, asyncssh.import_certificate((await vault.fetch(account.certificate)).text())
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError):
        raise TargetLoginFailed(
            "The private key of the account can't be read; an administrator must mend it."
        ) from None


def _refused_key(session: Session, connection: BackConnection) -> TargetError:
    """Record the finding (M11) and give the sentence for the user."""
    target = session.permit.target
    if target.host_keys or target.known_hosts or target.host_ca:
        text = f"The host key of {target.name} is not the pinned one; it shows {connection.shown_key}."
        session.finding("host-key-changed", "critical", text)
    else:
        text = f"The host key of {target.name} is not known; it shows {connection.shown_key}."
        session.finding("host-key-unknown", "high", text)
    return TargetError(text + " An administrator must check and pin it.")


def _shown(key_data: bytes) -> str:
    """Give the fingerprint of a host key, or of the key in a host certificate; raises KeyImportError."""
    try:
        key = asyncssh.public_key.decode_ssh_certificate(key_data).key
    except asyncssh.KeyImportError:
        key = asyncssh.public_key.decode_ssh_public_key(key_data)
    return str(key.get_fingerprint())


def _why(error: object) -> str:
    """Give what went wrong in printable characters, bounded."""
    return printable(str(error)) or "no reason given"
