"""proxyd's SSH engine in this process, between clients that may send anything and targets that may do the same.

Both peers are asyncssh connections of their own, over real sockets on the host loop; what they send beyond the
protocol's manners goes out through `send_packet`. Living in one process, tests can count what is left behind.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import trio
from asyncssh.channel import SSHChannel
from asyncssh.connection import (
    SSHClientConnection,
    SSHClientConnectionOptions,
    SSHServerConnection,
    SSHServerConnectionOptions,
)
from asyncssh.constants import MSG_CHANNEL_OPEN, MSG_CHANNEL_REQUEST, MSG_GLOBAL_REQUEST
from unit.test_session import core_of

from proxyd.access import hash_password
from proxyd.config import load
from proxyd.engine import Caller, Converse, Core, Engine
from proxyd.host import loop, on_host
from proxyd.listener import Listener
from proxyd.protocols.ssh.engine import SshEngine, front_options
from proxyd.protocols.ssh.wire import string, uint32
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.replay import Recording
from proxyd.session import Session
from proxyd.setup import initialise

HOST = "127.0.0.1"
PASSWORD = "correct horse"
TOTP_SECRET = "KRSXG5CTMVRXEZLUKN2XAZLSKRSXG5CT"
CALM_S = 60.0  # what anything may take on the busiest machine; longer, it is stuck
EVERYTHING = ("shell", "exec", "sftp", "local-forward", "remote-forward", "agent", "x11")


async def until(what: str, condition: Callable[[], Any], *, within_s: float = CALM_S) -> Any:
    """Wait until `condition()` is true and give it; AssertionError after `within_s` seconds."""
    with trio.move_on_after(within_s):
        while True:
            found = condition()
            if found:
                return found
            await trio.sleep(0.005)
    raise AssertionError(f"not within {within_s:g} s: {what}")


class Target(SSHServerConnection):
    """The target's end of one connection: asyncssh's, its packets ours to send."""

    rig: Rig

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.rig.targets.append(self)
        super().connection_made(transport)


class _TargetOwner(asyncssh.SSHServer):
    def connection_requested(self, *_: object) -> Any:
        return asyncssh.SSHTCPSession()

    def unix_connection_requested(self, *_: object) -> Any:
        return asyncssh.SSHUNIXSession()

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True


class Attacker(SSHClientConnection):
    """A client that logs in as told, and then sends what the test wants."""

    def open_raw(
        self,
        number: int,
        kind: bytes = b"session",
        *,
        window: int = 1 << 21,
        size: int = 1 << 15,
        rest: bytes = b"",
    ) -> None:
        """Send SSH_MSG_CHANNEL_OPEN with these numbers, and look at no answer."""
        self._channels.setdefault(number, _Mute())  # type: ignore[arg-type]
        self.send_packet(MSG_CHANNEL_OPEN, string(kind), uint32(number), uint32(window), uint32(size), rest)

    async def channel(self, kind: bytes = b"session", rest: bytes = b"") -> SSHChannel[bytes]:
        """Open a channel that nothing is asked on yet."""
        made: SSHChannel[bytes] = SSHChannel(self, self._loop, None, "strict", 1 << 21, 1 << 15)
        made._session = _Deaf()  # type: ignore[assignment]
        made._read_datatypes = {asyncssh.EXTENDED_DATA_STDERR}
        await on_host(made._open(kind, rest))
        made._recv_paused = False
        return made

    def ask_raw(self, name: bytes, rest: bytes = b"", *, reply: bool = True) -> None:
        """Send a global request, and look at no answer."""
        self.send_packet(MSG_GLOBAL_REQUEST, string(name), bytes([reply]), rest)

    def request_raw(self, channel: int, name: bytes, rest: bytes = b"", *, reply: bool = False) -> None:
        """Send a channel request, and look at no answer."""
        self.send_packet(MSG_CHANNEL_REQUEST, uint32(channel), string(name), bytes([reply]), rest)


class _Mute:
    """Stands where asyncssh wants a channel, for one that is opened and then left alone; keeps what it is told."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.told: list[int] = []

    def process_packet(self, pkttype: int, _pktid: int, _packet: Any) -> bool:
        self.told.append(pkttype)
        return True

    def process_open_confirmation(self, send_chan: int, *_: object) -> None:
        self.number = send_chan

    def log_received_packet(self, *_: object) -> None: ...

    process_open_failure = process_connection_close = _flush_send_buf = log_received_packet


class _Deaf(asyncssh.SSHClientSession[bytes]):
    """A session that lets its channel take everything."""


class Sink(asyncssh.SSHServerSession[bytes]):
    """A target's session that takes and keeps everything, and answers only what the test writes."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.asked: list[str] = []
        self.got = bytearray()
        self.ended = False
        self.closed = False
        self.channel: Any = None

    def connection_made(self, chan: Any) -> None:
        self.channel = chan

    def pty_requested(self, *_: object) -> bool:
        self.asked.append("pty")
        if "living" in self.target.rig.refuses:
            self.target.abort()
        return True

    def shell_requested(self) -> bool:
        self.asked.append("shell")
        return "shell" not in self.target.rig.refuses

    def exec_requested(self, command: str) -> bool:
        self.asked.append(command)
        return "exec" not in self.target.rig.refuses

    def subsystem_requested(self, subsystem: str) -> bool:
        self.asked.append(subsystem)
        refused = "subsystem" in self.target.rig.refuses
        if refused:
            self.channel._session_started = False  # as in OpenSSH, another may be asked for
        return not refused

    def terminal_size_changed(self, width: int, height: int, *_: object) -> None:
        self.asked.append(f"{width}x{height}")

    def data_received(self, data: bytes, datatype: Any) -> None:
        self.got += data

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True


class SinkOwner(_TargetOwner):
    """A target whose sessions are sinks; `rig.sinks` has them."""

    def connection_made(self, conn: Any) -> None:
        self.target = conn

    def session_requested(self) -> Any:
        rig = self.target.rig
        if "session" in rig.refuses:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "\x1b[2Jno room")
        rig.sinks.append(Sink(self.target))
        return rig.sinks[-1]


@dataclass
class Rig:
    """What a test has in its hands."""

    directory: Path
    core: Core
    port: int
    key: asyncssh.SSHKey
    host_key: asyncssh.SSHKey
    engines: list[SshEngine] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    clients: list[Attacker] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    stop: Callable[[], None] = lambda: None

    async def sink(self) -> Sink:
        """Wait for the target's newest session."""
        return (await until("the target has a session", lambda: self.sinks))[-1]  # type: ignore[no-any-return]

    async def attack(self, username: str, *, key: bool = True, **options: Any) -> Attacker:
        """Log in; raises what asyncssh raises when that fails."""
        return await on_host(connect(self, username, {"client_keys": [self.key] if key else None, **options}))

    async def session(self) -> Session:
        """Wait for exactly one live session."""
        one = lambda: [s for s in self.core.registry.list() if s.conduit is not None]  # noqa: E731
        (found,) = await until("one session is live", one)
        return found

    async def target(self) -> Target:
        """Wait for the target's end of the one connection to it."""
        await until("the target is reached", lambda: self.targets)
        return self.targets[-1]

    def records(self, session: str | Session) -> list[Record]:
        """Read a sealed recording."""
        name = session if isinstance(session, str) else session.id
        settings = self.core.config.recording
        assert settings.identity is not None
        (folder,) = settings.directory.glob(f"*/*/*/{name}")
        return list(Recording.open(folder, settings.identity).records())

    def bodies(self, session: str | Session, kind: Kind) -> list[Any]:
        """The bodies of one kind in a sealed recording."""
        return [record.body for record in self.records(session) if record.kind is kind]

    async def ended(self, session: Session, *, within_s: float = CALM_S) -> Any:
        """Wait until a session is sealed; gives its row."""
        with trio.fail_after(within_s):
            await session.ended.wait()
        return self.core.catalog.session(session.id)


async def connect(rig: Rig, username: str, wanted: dict[str, Any]) -> Attacker:
    """Log in; to be awaited on the host loop."""
    factory = wanted.pop("factory", Attacker)
    options = await SSHClientConnectionOptions.construct(
        config=None, host=HOST, port=rig.port, username=username, known_hosts=None, agent_path=None,
        gss_auth=False, gss_kex=False, login_timeout=0, keepalive_interval=0, x509_trusted_certs=None, **wanted,
    )  # fmt: skip
    options.waiter = asyncio.get_running_loop().create_future()
    made = factory(asyncio.get_running_loop(), options, wait="auth")
    rig.clients.append(made)
    try:
        await asyncio.get_running_loop().create_connection(lambda: made, HOST, rig.port)
        await options.waiter
    except BaseException:
        made.abort()
        raise
    return made  # type: ignore[no-any-return]


def host_tasks() -> set[asyncio.Task[Any]]:
    """The host loop's tasks that have not ended."""
    return {task for task in asyncio.all_tasks(loop()) if not task.done()}


def sockets() -> int:
    """How many sockets this process holds."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def configured(directory: Path, *, address: str, key: asyncssh.SSHKey, host_key: asyncssh.SSHKey, more: str = "",
               channels: tuple[str, ...] = EVERYTHING, target: str = "", grants: str = "", user_ca: Path | None = None, pinned: str | None = None) -> Path:  # fmt: skip
    """Write a configuration: alice by key, bob by password, carol by either and a one-time code."""
    made = initialise(directory, ssh_port=0, metrics_port=0)
    line = key.export_public_key().decode().strip()
    (directory / "credential").write_bytes(key.export_private_key())
    (directory / "credential").chmod(0o600)
    (directory / "totp").write_text(TOTP_SECRET)
    (directory / "totp").chmod(0o600)
    hashed = hash_password(PASSWORD)
    if user_ca is not None:
        text = made.config.read_text()
        assert "user_ca = []" in text
        made.config.write_text(text.replace("user_ca = []", f'user_ca = ["file:{user_ca}"]'))
    with made.config.open("a") as config:
        config.write(f"""
[users.alice]
keys = ["{line}"]
[users.bob]
password = "{hashed}"
[users.carol]
keys = ["{line}"]
password = "{hashed}"
totp = "file:{directory}/totp"
[targets.web1]
address = "{address}"
host_keys = {[] if pinned == "" else [pinned or host_key.export_public_key().decode().strip()]}
{target}
[targets.web1.accounts.root]
key = "file:{directory}/credential"
{
            grants
            or f'''[[grants]]
users = ["*"]
targets = ["*"]
accounts = ["*"]
channels = {list(channels)}'''
        }
{more}
""")
    return made.config


@asynccontextmanager
async def rigged(
    directory: Path,
    process: Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]] | None = None,
    *,
    server: dict[str, Any] | None = None,
    address: str = "",
    **wanted: Any,
) -> AsyncIterator[Rig]:
    """Run a target (`process`: what its sessions do), proxyd, and clean up; fails when anything is left behind."""
    try:
        async with _rigged(directory, process, server or {}, address, wanted) as rig:
            yield rig
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def _rigged(
    directory: Path, process: Any, server: dict[str, Any], address: str, wanted: dict[str, Any]
) -> AsyncIterator[Rig]:
    key, made = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    host_key, change = wanted.pop("host_key", made), wanted.pop("change", None)
    before = (host_tasks(), sockets())
    acceptor, port = await on_host(_serve(process, host_key, server, change))
    try:
        settings = load(
            configured(directory, address=address or f"{HOST}:{port}", key=key, host_key=host_key, **wanted)
        )
        assert settings.listen.ssh is not None
        options = await front_options(settings.listen.ssh)
        async with core_of(settings) as core, trio.open_nursery() as nursery:
            rig = Rig(directory, core, 0, key, host_key)
            acceptor.rig = rig

            def make(caller: Caller, converse: Converse) -> Engine:
                rig.engines.append(SshEngine(core, options, caller, converse))
                return rig.engines[-1]

            listener = Listener(core, "ssh", f"{HOST}:0", make)
            rig.port = int(listener.address.rsplit(":", 1)[1])
            nursery.start_soon(listener.run)
            rig.stop = nursery.cancel_scope.cancel  # as the daemon does it, at once
            try:
                yield rig
            except BaseException:
                for client in rig.clients:
                    client.abort()
                raise
            finally:
                for connection in rig.targets:
                    connection.abort()
            await until("every session is sealed", lambda: not len(core.registry), within_s=CALM_S)
            nursery.cancel_scope.cancel()
    finally:
        acceptor.server.close()
        await on_host(acceptor.server.wait_closed())
    await until("tasks are gone", lambda: host_tasks() <= before[0], within_s=CALM_S)
    await until(
        f"sockets are gone: {sockets()} of {before[1]}", lambda: sockets() <= before[1], within_s=CALM_S
    )


class _Acceptor:
    rig: Rig
    server: asyncio.Server


async def _serve(
    process: Any, host_key: asyncssh.SSHKey, more: dict[str, Any], change: Callable[[Any], object] | None
) -> tuple[_Acceptor, int]:
    acceptor = _Acceptor()
    options = await SSHServerConnectionOptions.construct(
        config=None, server_factory=more.pop("owner", _TargetOwner if process else SinkOwner), server_host_keys=[host_key],
        process_factory=process, encoding=None, gss_host=None, line_editor=False, **more,
    )  # fmt: skip

    if change is not None:
        change(options)

    def accept() -> Target:
        made = Target(asyncio.get_running_loop(), options)
        made.rig = acceptor.rig
        return made

    acceptor.server = await asyncio.get_running_loop().create_server(accept, HOST, 0)
    return acceptor, acceptor.server.sockets[0].getsockname()[1]


def plain(rig: Rig) -> socket.socket:
    """A connection to proxyd that has said nothing yet."""
    return socket.create_connection((HOST, rig.port), timeout=10)
