"""proxyd's RDP engine in this process, between a client and a target of the test's own that may send anything.

Both speak over real sockets with real TLS. `rigged` fails a test that leaves a session unsealed or a socket open.
"""

from __future__ import annotations

import atexit
import functools
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fuzz.captured_rdp import XFREERDP_CONNECT_INITIAL
from fuzz.seeds_rdp import CLIENT_INFO
from unit.test_session import core_of

from proxyd import config
from proxyd.access import hash_password
from proxyd.database_tls import front_context
from proxyd.engine import Core
from proxyd.listener import Listener
from proxyd.protocols.rdp import credssp, gcc, info, mcs, share, wire
from proxyd.protocols.rdp.engine import RdpEngine
from proxyd.protocols.rdp.front import front_key
from proxyd.protocols.rdp.share import DataKind, ErrorInfo
from proxyd.protocols.rdp.wire import Framer, Protocol
from proxyd.recorder.record import Kind
from proxyd.recorder.replay import Recording
from proxyd.setup import initialise
from proxyd.verifiers import nt_hash, nt_key
from tests.peers.daemon import toml
from tests.peers.endpoint import HOST
from tests.peers.rdp.tls import Identity

PASSWORD = "correct horse"
TARGET_PASSWORD = "TargetPw"
CALM_S = 60.0  # what anything may take on the busiest machine; longer, it is stuck
LOGIN_S = 30  # for the target's login, where a test does not wait for it to pass
CHANNELS = range(1020, 1024)  # the target's; what the captured client asks for is four
TARGET_USER = 1010
GRANTED = info.build_license_error(info.LicenseError.STATUS_VALID_CLIENT)
Serve = Callable[["Target"], Awaitable[None]]


async def until(what: str, condition: Callable[[], Any], *, within_s: float = CALM_S) -> None:
    """Wait until `condition()` is true; AssertionError after `within_s` seconds."""
    with trio.move_on_after(within_s):
        while not condition():
            await trio.sleep(0.005)
        return
    raise AssertionError(f"not within {within_s:g} s: {what}")


@functools.cache
def identity(name: str) -> Identity:
    """Give a certificate that all tests of a run share: RSA keys take their time."""
    kept = TemporaryDirectory(prefix=f"px-{name}-")
    atexit.register(kept.cleanup)
    return Identity(Path(kept.name))


def sockets() -> int:
    """Count this process's sockets."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


class Peer:
    """One end of a connection, by frames; `stream` is replaced when TLS begins."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._framer = Framer()
        self._frames: list[bytes] = []

    async def send(self, *data: bytes) -> None:
        await self.stream.send_all(b"".join(data))

    async def some(self) -> bytes:
        """Give what comes next; raises EOFError at the end."""
        with trio.fail_after(CALM_S):
            data = await self.stream.receive_some()
        if not data:
            raise EOFError
        return bytes(data)

    async def frame(self) -> bytes:
        """Give the next frame."""
        while not self._frames:
            self._frames += self._framer.feed(await self.some())
        return self._frames.pop(0)

    async def to_the_end(self) -> None:
        """Read to the end, whatever comes."""
        while await self.some():
            pass

    async def frames_to_the_end(self) -> list[bytes]:
        """Read to the end; gives whole frames."""
        found, self._frames = self._frames, []
        with suppress(EOFError, trio.BrokenResourceError):
            while True:
                found += self._framer.feed(await self.some())
        return found

    async def reason(self) -> int | None:
        """Read to the end; gives the last Set Error Info said, None without one."""
        found = None
        for frame in await self.frames_to_the_end():
            data = None if wire.is_fast_path(frame) else mcs.data_frame(frame)
            if data is None or data.channel != mcs.GLOBAL_CHANNEL:
                continue
            with suppress(wire.WireError):
                for control in share.split(data.payload):
                    said = share.share_data(control)
                    if said.kind == DataKind.SET_ERROR_INFO:
                        found = share.parse_error_info(said.body)
        return found


class Client(Peer):
    """A client; what each step sends may be changed by the test."""

    async def secure(self, ca: Path, protocols: Protocol = Protocol.SSL) -> Protocol:
        """Negotiate, and begin TLS; gives what was selected."""
        await self.send(wire.build_connection_request(wire.ConnectionRequest(protocols=protocols)))
        confirm = wire.parse_connection_confirm(await self.frame())
        assert isinstance(self.stream, trio.SocketStream)
        tls = trio.SSLStream(
            self.stream, ssl.create_default_context(cafile=ca), server_hostname=HOST, https_compatible=True
        )
        await tls.do_handshake()
        self.stream = tls
        return confirm.selected

    async def confer(self, initial: bytes = XFREERDP_CONNECT_INITIAL) -> None:
        """Say what a captured client has said up to its Client Info."""
        await self.send(initial)
        blocks = gcc.parse_create_response(mcs.parse_connect_response(await self.frame()).user_data)
        network = gcc.server_network(blocks)
        await self.send(
            mcs.build_message(mcs.ErectDomainRequest()), mcs.build_message(mcs.AttachUserRequest())
        )
        attached = mcs.parse_message(await self.frame())
        assert isinstance(attached, mcs.AttachUserConfirm)
        for channel in (attached.user, network.io, *network.channels):
            await self.send(mcs.build_message(mcs.ChannelJoinRequest(attached.user, channel)))
            joined = mcs.parse_message(await self.frame())
            assert isinstance(joined, mcs.ChannelJoinConfirm) and joined.result == 0

    async def identify(self, user: str = "alice%desk", password: str = PASSWORD) -> None:
        """Send Client Info."""
        known = replace(info.parse_client_info(CLIENT_INFO), domain="", user=user, password=password)
        await self.say(info.build_client_info(known))

    async def say(self, payload: bytes) -> None:
        """Send on the I/O channel."""
        data = mcs.Data(1007, mcs.GLOBAL_CHANNEL, payload)
        await self.send(mcs.build_data(data, to_server=True))

    async def network_level(self, ca: Path, user: str, password: str) -> None:
        """Log in by CredSSP."""
        assert isinstance(self.stream, trio.SSLStream)
        certificate = self.stream.getpeercert(binary_form=True)
        initiator = credssp.Initiator(credssp.Account(user, password), credssp.public_key(certificate), HOST)
        await self.send(initiator.start())
        while not initiator.done:
            await self.send(initiator.step(await self.some()))


class Target(Peer):
    """A target, as each test wants it."""

    def __init__(self, stream: trio.abc.Stream, identity: Identity) -> None:
        super().__init__(stream)
        self.identity = identity
        self.asked = Protocol(0)
        self.blocks: gcc.Blocks = ()
        self.known: info.ClientInfo | None = None

    async def secure(self, selected: Protocol = Protocol.SSL) -> None:
        """Answer the negotiation, and begin TLS."""
        self.asked = wire.parse_connection_request(await self.frame()).protocols
        await self.send(wire.build_connection_confirm(wire.ConnectionConfirm(selected, wire.ResponseFlag(0))))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.identity.certificate, self.identity.key)
        assert isinstance(self.stream, trio.SocketStream)
        tls = trio.SSLStream(self.stream, context, server_side=True, https_compatible=True)
        await tls.do_handshake()
        self.stream = tls

    async def network_level(self, *passwords: str) -> None:
        """Be the server of CredSSP, to which these passwords are good."""
        certificate = x509.load_pem_x509_certificate(self.identity.certificate.read_bytes())
        key = credssp.public_key(certificate.public_bytes(Encoding.DER))
        acceptor = credssp.Acceptor(lambda *_: [nt_key(one) for one in passwords], key, time.time())
        while acceptor.login is None:
            try:
                answer = acceptor.step(await self.some())
            except credssp.Refused as refused:
                await self.send(refused.answer)
                raise EOFError from None
            if answer:
                await self.send(answer)

    async def confer(self) -> None:
        """Let the client in, and take its Client Info."""
        self.blocks = gcc.parse_create_request(mcs.parse_connect_initial(await self.frame()).user_data)
        ours = gcc.build_create_response(gcc.server_blocks(self.asked, CHANNELS))
        await self.send(mcs.build_connect_response(mcs.ConnectResponse(0, mcs.OUR_PARAMETERS, ours)))
        while True:
            match mcs.parse_message(await self.frame()):
                case mcs.AttachUserRequest():
                    await self.send(mcs.build_message(mcs.AttachUserConfirm(0, TARGET_USER)))
                case mcs.ChannelJoinRequest(user, channel):
                    await self.send(mcs.build_message(mcs.ChannelJoinConfirm(0, user, channel, channel)))
                case mcs.Data(_, _, payload):
                    self.known = info.parse_client_info(payload)
                    return

    async def say(self, payload: bytes) -> None:
        """Send on the I/O channel."""
        data = mcs.Data(mcs.SERVER_USER, mcs.GLOBAL_CHANNEL, payload)
        await self.send(mcs.build_data(data, to_server=False))


async def welcome(target: Target) -> None:
    """A target that lets everybody in, and then listens."""
    await target.secure()
    await target.confer()
    await target.say(GRANTED)
    await target.frames_to_the_end()


@dataclass
class Rig:
    """What a test has in its hands."""

    core: Core
    port: int
    identity: Identity
    targets: list[Target] = field(default_factory=list)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client that has said nothing yet."""
        async with await trio.open_tcp_stream(HOST, self.port) as stream:
            yield Client(stream)

    @asynccontextmanager
    async def session(self, user: str = "alice%desk") -> AsyncIterator[Client]:
        """A client with a session, licensing over."""
        async with self.client() as client:
            await client.secure(self.identity.ca)
            await client.confer()
            await client.identify(user)
            data = mcs.data_frame(await client.frame())
            assert data and info.parse_license(data.payload).granted
            yield client

    async def denied(self, client: Client) -> None:
        """See that the client is told that the server denies the connection."""
        assert await client.reason() == ErrorInfo.SERVER_DENIED_CONNECTION

    def bodies(self, kind: Kind) -> list[Any]:
        """What sealed recordings hold of a kind."""
        settings = self.core.config.recording
        assert settings.identity is not None
        folders = {path.parent for path in settings.directory.glob("*/*/*/*/*.pxr")}
        found = (Recording.open(folder, settings.identity).records() for folder in folders)
        return [record.body for records in found for record in records if record.kind is kind]


@asynccontextmanager
async def rigged(
    directory: Path, serve: Serve = welcome, *, pinned: bool = False, login_screen: bool = True, **target: Any
) -> AsyncIterator[Rig]:
    """Run a target (`serve`: what it does with a connection) and proxyd; `target`: more of its configuration.

    `pinned`: its certificate is one of `tls_pins`, as people write it.
    """
    before = sockets()
    made = initialise(directory / "proxyd", ssh_port=0, metrics_port=0)
    front, shown = identity("front"), identity("shown")
    if pinned:
        target["tls_pins"] = [*target["tls_pins"], shown.fingerprint.upper()]
    secret = directory / "secret"
    secret.write_text(TARGET_PASSWORD)
    for private in (secret, front.key):
        private.chmod(0o600)
    async with trio.open_nursery() as nursery:
        listening = (await nursery.start(trio.serve_tcp, lambda stream: answer(stream), 0))[0]  # noqa: PLW0108 - defined below
        port = listening.socket.getsockname()[1]
        trusted = {} if target.keys() & {"tls", "tls_ca", "tls_pins"} else {"tls_ca": str(shown.ca)}
        desk = {"address": f"{HOST}:{port}", "protocol": "rdp", "login_seconds": LOGIN_S, **trusted, **target,
                "accounts": {"svc": {"password": f"file:{secret}"}}}  # fmt: skip
        more = {
            "users": {"alice": {"password": hash_password(PASSWORD)}, "bob": {"nt_hash": nt_hash(PASSWORD)}},
            "targets": {"desk": desk},
            "grants": [{"users": ["*"], "targets": ["*"], "accounts": ["*"]}],
        }
        with made.config.open("a") as file:
            file.write(toml(more))
        listen = config.RdpListen(certificate=front.certificate, key=front.key, login_screen=login_screen)
        context, key = front_context(listen), front_key(listen)
        async with core_of(config.load(made.config)) as core:
            rig = Rig(core, 0, front)

            async def answer(stream: trio.SocketStream) -> None:
                one = Target(stream, shown)
                rig.targets.append(one)
                async with stream:
                    with suppress(EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
                        await serve(one)

            listener = Listener(
                core, "rdp", f"{HOST}:0", lambda caller, _: RdpEngine(core, listen, context, key, caller)
            )
            rig.port = int(listener.address.rsplit(":", 1)[1])
            nursery.start_soon(listener.run)
            yield rig
            await until("every session is sealed", lambda: not len(core.registry))
            nursery.cancel_scope.cancel()
    await until("sockets are gone", lambda: sockets() <= before)
