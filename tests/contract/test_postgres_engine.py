"""The PostgreSQL engine between clients and targets that may send anything: every end is in the protocol's words.

proxyd runs in this process; both peers are sockets of the test's own. `rigged` fails a test that leaves a session
unsealed or a socket open.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from unit.test_session import core_of

from proxyd import config, relay, verifiers
from proxyd.database_tls import front_context
from proxyd.engine import Core
from proxyd.listener import Listener
from proxyd.protocols.postgres import auth, wire
from proxyd.protocols.postgres.engine import Cancels, PostgresEngine
from proxyd.recorder.record import Kind
from proxyd.recorder.replay import Recording
from proxyd.session import DISCONNECTED
from proxyd.setup import initialise
from proxyd.verifiers import scram_keys
from tests.peers.daemon import toml
from tests.peers.endpoint import HOST
from tests.peers.mariadb import Authority

pytestmark = pytest.mark.hosted
PASSWORD = "correct horse"
CALM_S = 60.0  # what anything may take on the busiest machine; longer, it is stuck
LOGIN_S = 30  # for the target's login, where a test does not wait for it to pass
READY = wire.ready(wire.IDLE)
GREETED = (
    wire.authentication(0)
    + wire.message(wire.PARAMETER_STATUS, b"client_encoding\0UTF8\0")
    + wire.key_data(7, b"real")
    + READY
)
Serve = Callable[["Peer"], Awaitable[None]]


async def until(what: str, condition: Callable[[], Any], *, within_s: float = CALM_S) -> None:
    with trio.move_on_after(within_s):
        while not condition():
            await trio.sleep(0.005)
        return
    raise AssertionError(f"not within {within_s:g} s: {what}")


def sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


class Peer:
    """One end of a connection, by messages."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._data = b""

    async def exactly(self, size: int) -> bytes:
        with trio.fail_after(CALM_S):
            while len(self._data) < size:
                data = await self.stream.receive_some()
                if not data:
                    raise EOFError
                self._data += data
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    async def message(self) -> tuple[str, bytes]:
        kind, length = wire.header(await self.exactly(5))
        return chr(kind), await self.exactly(length - 4)

    async def startup(self) -> wire.Startup:
        got = await self.exactly(4)
        return wire.parse_startup(got + await self.exactly(wire.startup_missing(got)))

    async def send(self, *data: bytes) -> None:
        await self.stream.send_all(b"".join(data))

    async def until(self, kind: str) -> bytes:
        while True:
            got, body = await self.message()
            if got == kind:
                return body

    async def ended(self) -> bytes:
        """Read to the end; gives the last message's body."""
        last = b""
        with suppress(EOFError, trio.BrokenResourceError):
            while True:
                last = (await self.message())[1]
        return last


async def welcome(peer: Peer) -> None:
    """A target that lets everybody in, and then listens."""
    await peer.startup()
    await peer.send(GREETED)
    await peer.ended()


@dataclass
class Rig:
    """What a test has in its hands."""

    core: Core
    port: int
    authority: Authority
    targets: list[Peer] = field(default_factory=list)
    cancels: list[bytes] = field(default_factory=list)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Peer]:
        async with await trio.open_tcp_stream(HOST, self.port) as stream:
            yield Peer(stream)

    async def login(
        self, peer: Peer, user: str = "alice+app+pg1", password: str = PASSWORD, **more: str
    ) -> None:
        """Log in by SCRAM up to the proof."""
        given = {"user": user, "database": "db", **more}
        await peer.send(wire.startup([(name.encode(), value.encode()) for name, value in given.items()]))
        await prove(peer, password)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Peer]:
        async with self.client() as peer:
            await self.login(peer)
            assert await peer.until("Z") == b"I"
            yield peer

    def bodies(self, kind: Kind) -> list[Any]:
        """What sealed recordings hold of a kind."""
        settings = self.core.config.recording
        assert settings.identity is not None
        folders = [path.parent for path in settings.directory.glob("*/*/*/*/*.pxr")]
        return [
            record.body
            for folder in set(folders)
            for record in Recording.open(folder, settings.identity).records()
            if record.kind is kind
        ]


async def prove(peer: Peer, password: str) -> bytes:
    """Answer AuthenticationSASL; gives the server's first message."""
    offered = (await peer.until("R"))[4:]
    exchange = auth.ScramClient(frozenset(offered.split(b"\0")), None)
    first = exchange.first()
    await peer.send(
        wire.message(wire.PASSWORD, exchange.mechanism + b"\0" + len(first).to_bytes(4, "big") + first)
    )
    challenge = (await peer.until("R"))[4:]
    await peer.send(
        wire.message(wire.PASSWORD, exchange.final(scram_keys(password, *exchange.challenge(challenge))))
    )
    return challenge


@asynccontextmanager
async def rigged(
    directory: Path, serve: Serve = welcome, *, tls: str = "prefer", bound: str = "", **target: Any
) -> AsyncIterator[Rig]:
    """Run a target (`serve`: what it does with a connection) and proxyd."""
    before = sockets()
    directory.mkdir(exist_ok=True)
    made = initialise(directory / "proxyd", ssh_port=0, metrics_port=0)
    authority = Authority(directory / "tls")
    secret = directory / "secret"
    secret.write_text("TargetPw")
    secret.chmod(0o600)

    async with trio.open_nursery() as nursery:
        listening = (await nursery.start(trio.serve_tcp, lambda stream: answer(stream), 0))[0]  # noqa: PLW0108 - defined below
        port = listening.socket.getsockname()[1]
        more = {
            "users": {"alice": {"scram": verifiers.scram(PASSWORD)}},
            "targets": {"pg1": {"address": f"{HOST}:{port}", "protocol": "postgres", "tls": "off", "login_seconds": LOGIN_S, **target,
                                "accounts": {"app": {"password": f"file:{secret}"}}}},
            "grants": [{"users": ["*"], "targets": ["*"], "accounts": ["*"]}],
        }  # fmt: skip
        with made.config.open("a") as file:
            file.write(toml(more))
        listen = config.PostgresListen(
            certificate=authority.certificate, key=authority.key, tls=tls, target=bound
        )  # type: ignore[arg-type]
        context, cancels = front_context(listen), Cancels()
        async with core_of(config.load(made.config)) as core:
            rig = Rig(core, 0, authority)

            async def answer(stream: trio.SocketStream) -> None:
                peer = Peer(stream)
                rig.targets.append(peer)
                async with stream:
                    with suppress(EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
                        await serve(peer)

            listener = Listener(
                core,
                "postgres",
                f"{HOST}:0",
                lambda caller, _: PostgresEngine(core, listen, context, caller, cancels),
            )
            rig.port = int(listener.address.rsplit(":", 1)[1])
            nursery.start_soon(listener.run)
            yield rig
            await until("every session is sealed", lambda: not len(core.registry))
            nursery.cancel_scope.cancel()
    await until("sockets are gone", lambda: sockets() <= before)


# ------------------------------------------------------------------ before the login


@pytest.mark.parametrize("length", [0, 7, 10_001, 0x7FFFFFFF, 0xFFFFFFFF])
async def test_first_packet_of_impossible_length(tmp_path: Path, length: int) -> None:
    async with rigged(tmp_path) as rig, rig.client() as peer:
        await peer.send(length.to_bytes(4, "big") + b"abcd")
        await peer.ended()
        assert not rig.targets


async def test_encryption_is_answered_and_nothing_may_come_before_it(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        async with rig.client() as peer:
            await peer.send(wire.untyped(wire.GSSENC_REQUEST))
            assert await peer.exactly(1) == b"N"
            await peer.send(wire.untyped(wire.SSL_REQUEST))
            assert await peer.exactly(1) == b"S"
        async with rig.client() as peer:
            await peer.send(wire.untyped(wire.SSL_REQUEST) + wire.startup([(b"user", b"alice")]))
            with pytest.raises((EOFError, trio.BrokenResourceError)):  # closed over unread bytes
                await peer.exactly(1)
        async with rig.client() as peer:
            for _ in range(3):
                await peer.send(wire.untyped(wire.GSSENC_REQUEST))
                assert await peer.exactly(1) == b"N"
            await peer.ended()


async def test_tls_at_once_and_asked_for_twice(tmp_path: Path) -> None:
    async with rigged(tmp_path, tls="require") as rig, rig.client() as raw:
        context = ssl.create_default_context(cafile=rig.authority.ca)
        context.set_alpn_protocols(["postgresql"])
        assert isinstance(raw.stream, trio.SocketStream)
        peer = Peer(trio.SSLStream(raw.stream, context, server_hostname="localhost"))
        await peer.send(wire.untyped(wire.SSL_REQUEST))
        assert b"inside its encryption" in await peer.ended()
    async with rigged(tmp_path / "again", tls="require") as rig, rig.client() as raw:
        context = ssl.create_default_context(cafile=rig.authority.ca)  # of no protocol: perhaps a browser's
        assert isinstance(raw.stream, trio.SocketStream)
        peer = Peer(trio.SSLStream(raw.stream, context, server_hostname="localhost"))
        await peer.send(wire.startup([(b"user", b"alice+app+pg1")]))
        assert b"without naming its protocol" in await peer.ended()


@pytest.mark.parametrize("user", ["alice", "alice+app", "alice+app+pg1", "alice+pg1"])
async def test_listener_bound_to_one_target_needs_no_name_of_it(tmp_path: Path, user: str) -> None:
    async with rigged(tmp_path, bound="pg1") as rig, rig.client() as peer:
        await rig.login(peer, user)
        assert await peer.until("Z") == b"I"


async def test_listener_bound_to_one_target_leads_nowhere_else(tmp_path: Path) -> None:
    async with rigged(tmp_path, bound="pg1") as rig, rig.client() as peer:
        await rig.login(peer, "alice+app+other")
        assert b"28000" in await peer.until("E")


async def test_newer_protocol_is_negotiated_down(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, rig.client() as peer:
        body = b"user\0alice+app+pg1\0_pq_.new\0on\0\0"
        await peer.send(wire.untyped(wire.VERSION_3 + 2, body))
        assert await peer.message() == ("v", bytes(4) + b"\0\0\0\1_pq_.new\0")
        await prove(peer, PASSWORD)
        await peer.until("Z")


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (2 << 16, b""),
        (wire.VERSION_3, b"user"),
        (wire.VERSION_3, b"\0"),
        (wire.VERSION_3, b"user\0\xff\0\0"),
        (1, b""),
    ],
)
async def test_startup_that_is_none(tmp_path: Path, code: int, body: bytes) -> None:
    async with rigged(tmp_path) as rig, rig.client() as peer:
        await peer.send(wire.untyped(code, body))
        kind, said = await peer.message()
        assert kind == "E" and b"08P01" in said and b"FATAL" in said


async def test_nobody_gets_the_same_salt_every_time_and_is_refused_like_anybody(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        salts, words = [], []
        for user in ("nobody", "nobody", "alice"):
            async with rig.client() as peer:
                await peer.send(wire.startup([(b"user", user.encode())]))
                salts.append((await prove(peer, "wrong")).split(b",")[1:])
                words.append((await peer.until("E")).replace(user.encode(), b"X"))
        assert salts[0] == salts[1] != salts[2] and salts[0][1] == salts[2][1]
        assert len(set(words)) == 1 and b"28P01" in words[0]
        assert not rig.targets and not rig.core.registry.list()


@pytest.mark.parametrize(
    "said",
    [
        wire.message(wire.PASSWORD, b"x\0"),
        wire.message(wire.QUERY, b"select 1\0"),
        b"p\x7f\xff\xff\xff",
        b"p\0\0\0\0",
    ],
)
async def test_login_that_breaks_the_protocol(tmp_path: Path, said: bytes) -> None:
    async with rigged(tmp_path) as rig, rig.client() as peer:
        await peer.send(wire.startup([(b"user", b"alice+app+pg1")]))
        await peer.until("R")
        await peer.send(said)
        assert b"08P01" in await peer.until("E")


async def test_cancel_request_is_forwarded_with_the_real_key_and_only_for_a_key_we_gave(
    tmp_path: Path,
) -> None:
    cancelled: list[bytes] = []

    async def serve(peer: Peer) -> None:
        startup = await peer.startup()
        if startup.code == wire.CANCEL_REQUEST:
            cancelled.append(startup.body)
            return
        await peer.send(GREETED)
        await peer.ended()

    async with rigged(tmp_path, serve) as rig, rig.client() as peer:
        await rig.login(peer)
        key = await peer.until("K")
        assert key[4:] != b"real"
        for wrong in (key[:4] + b"wron", bytes(8), b"", key + b"x"):
            async with rig.client() as other:
                await other.send(wire.cancel_request(wrong))
                await other.ended()
        assert not cancelled
        async with rig.client() as other:
            await other.send(wire.cancel_request(key))
            await other.ended()
        assert cancelled == [(7).to_bytes(4, "big") + b"real"]


# ------------------------------------------------------------------ targets


def sasl(first: Callable[[str], str]) -> Serve:
    """A target that answers client-first with `first(nonce)`."""

    async def serve(peer: Peer) -> None:
        await peer.startup()
        await peer.send(wire.authentication(10, b"SCRAM-SHA-256\0\0"))
        nonce = (await peer.until("p")).rpartition(b"r=")[2].decode()
        await peer.send(wire.authentication(11, first(nonce).encode()))
        await peer.until("p")
        await peer.send(wire.authentication(0))

    return serve


def says(*data: bytes) -> Serve:
    """A target that says this and no more."""

    async def serve(peer: Peer) -> None:
        await peer.startup()
        await peer.send(*data)
        await peer.ended()

    return serve


SALT = base64.b64encode(b"salt").decode()
ROGUES = {
    "a billion iterations": (sasl(lambda nonce: f"r={nonce}x,s={SALT},i=1000000000"), "08006"),
    "its nonce is ours": (sasl(lambda nonce: f"r={nonce},s={SALT},i=4096"), "08006"),
    "does not know the password": (sasl(lambda nonce: f"r={nonce}x,s={SALT},i=4096"), "08006"),
    "password in clear": (says(wire.authentication(3)), "08006"),
    "kerberos": (says(wire.authentication(7)), "08006"),
    "huge": (says(b"R\x7f\xff\xff\xff"), "08006"),
    "garbage": (says(b"\0" * 100), "08006"),
    "silent": (says(), "08001"),
    "refuses the account": (says(wire.error("FATAL", "28P01", "password of app is TargetPw")), "08004"),
    "full": (says(wire.error("FATAL", "53300", "too many clients")), "53300"),
    "never ready": (says(wire.authentication(0), wire.message(wire.PARAMETER_STATUS, b"a\0" + b"x" * 60_000 + b"\0") * 9), "08006"),
}  # fmt: skip


@pytest.mark.parametrize("what", ROGUES)
async def test_target_that_can_t_be_logged_in_to(tmp_path: Path, what: str) -> None:
    serve, code = ROGUES[what]
    patience = {"login_seconds": 1} if what == "silent" else {}
    async with rigged(tmp_path, serve, **patience) as rig, rig.client() as peer:
        await rig.login(peer)
        said = await peer.until("E")
        assert code.encode() in said and b"FATAL" in said
        assert b"TargetPw" not in said
    assert "TargetPw" not in str(rig.bodies(Kind.END))


async def test_client_that_leaves_while_its_target_is_dialled_ends_the_session(tmp_path: Path) -> None:
    async with rigged(tmp_path, says(), login_seconds=3 * CALM_S) as rig:
        async with rig.client() as peer:
            await rig.login(peer)
            await until("the target is reached", lambda: rig.targets)
        await until("the session is over", lambda: not len(rig.core.registry))


@pytest.mark.parametrize(
    "answer", [b"\0" * 50, b"D\xff\xff\xff\xff", READY, wire.message(wire.COMMAND_COMPLETE, b"SELECT 1\0")]
)
async def test_target_that_breaks_the_protocol_in_a_session(tmp_path: Path, answer: bytes) -> None:
    async with rigged(tmp_path) as rig, rig.session() as peer:
        await rig.targets[0].send(answer)
        said = await peer.ended()
        assert b"FATAL" in said and b"08P01" in said and b"pg1" in said


@pytest.mark.parametrize(
    "said",
    [
        b"\0" * 50,
        b"Q\xff\xff\xff\xff",
        b"Q\0\0\0\0",
        wire.message(wire.PASSWORD, b"again\0"),
        b"S\x7f\xff\xff\xff",
    ],
)
async def test_client_that_breaks_the_protocol_in_a_session(tmp_path: Path, said: bytes) -> None:
    async with rigged(tmp_path) as rig, rig.session() as peer:
        await peer.send(said)
        last = await peer.ended()
        assert b"FATAL" in last and b"08P01" in last


# ------------------------------------------------------------------ block and drop


async def test_drop_cuts_a_row_that_does_not_end(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, rig.session() as peer:
        await peer.send(wire.message(wire.QUERY, b"select\0"))
        await rig.targets[0].send(b"D" + (200 << 20).to_bytes(4, "big") + b"begin")
        await peer.exactly(10)
        (session,) = rig.core.registry.list()
        await session.drop("ann")
        await peer.ended()
    (result,) = [body for body in rig.bodies(Kind.STATEMENT) if body["event"] == "result"]
    assert result["outcome"] == "cut"


async def test_drop_reaches_a_client_that_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "FLUSH_SECONDS", 3600.0)  # what ends well has it, what is dropped has not

    async def flood(peer: Peer) -> None:
        await peer.startup()
        await peer.send(GREETED)
        await peer.until("Q")
        while True:
            await peer.send(wire.message(wire.DATA_ROW, bytes(60_000)))

    async with rigged(tmp_path, flood) as rig, rig.session() as peer:
        await peer.send(wire.message(wire.QUERY, b"select\0"))
        await peer.exactly(100_000)
        (session,) = rig.core.registry.list()
        await session.drop("ann")
        await until("the session is over", lambda: not len(rig.core.registry))


async def test_drop_says_goodbye_and_time_over_too(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        async with rig.session() as peer:
            (session,) = rig.core.registry.list()
            await session.drop("ann")
            assert DISCONNECTED.encode() in await peer.ended()
        async with rig.session() as peer:
            (session,) = rig.core.registry.list()
            session.scope.deadline = trio.current_time()
            said = await peer.ended()
            assert b"57P01" in said and b"time" in said


async def test_blocked_flood_is_bounded(tmp_path: Path) -> None:
    """A client that is blocked, sends for ever and reads nothing fills no memory: it is not read any more."""
    async with rigged(tmp_path) as rig, rig.session() as peer:
        (session,) = rig.core.registry.list()
        assert (await session.block("ann"))["settled"] is True
        query, sent = wire.message(wire.QUERY, b"select 1\0") * 2000, 0
        with trio.fail_after(CALM_S):
            moved = -1
            while moved < sent or session.gate.refused_requests <= 100:  # until it is not read any more
                moved = sent
                with trio.move_on_after(1):
                    while sent < moved + 64 * len(query):
                        await peer.send(query)
                        sent += len(query)
        stream = session.conduit._client  # type: ignore[union-attr]
        assert stream._transport.get_write_buffer_size() < 4 << 20
        assert session.gate.refused_requests > 100
        await session.drop("ann")
    assert not [body for body in rig.bodies(Kind.STATEMENT) if not body.get("refused")]
