"""The story of a connection and its firewall, with an engine that does what the test says."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import trio
from unit.test_session import MORE, core_of

from proxyd import metrics
from proxyd.access import Permit
from proxyd.config import load
from proxyd.engine import Caller, Converse, Core, Engine
from proxyd.errors import ClientError, ConfigError, Denied, ProtocolBroken, ProxydError, TargetUnreachable
from proxyd.listener import Listener
from proxyd.protocols.ssh.engine import SshEngine, front_options
from proxyd.protocols.ssh.wire import string, uint32
from proxyd.session import Login, Session
from proxyd.setup import initialise


class ScriptedEngine:
    """An engine whose steps a test replaces; notes what it refused and whether it was closed."""

    name: ClassVar[str] = "ssh"

    def __init__(self, core: Core, caller: Caller) -> None:
        self.core, self.caller = core, caller
        self.failures = 0
        self.refused: list[str] = []
        self.closed = trio.Event()
        self.served = 0

    async def greet(self) -> Login:
        return Login("alice", self.caller.ip, "publickey")

    async def choose(self, login: Login) -> Permit | None:
        return self.core.access.authorize(login.user, "root", "web1", login.user_ip)

    async def serve(self, session: Session) -> None:
        self.served += 1

    async def refuse(self, error: ProxydError) -> None:
        self.refused.append(str(error))

    async def aclose(self) -> None:
        self.caller.sock.close()
        self.closed.set()


@asynccontextmanager
async def listening(
    tmp_path: Path, change: Callable[[ScriptedEngine], None], **limits: object
) -> AsyncIterator[tuple[Core, list[ScriptedEngine], Callable[[], socket.socket]]]:
    made = initialise(tmp_path, ssh_port=0, metrics_port=0)
    with made.config.open("a") as config:
        config.write(MORE)
    settings = load(made.config)
    settings = msgspec.structs.replace(
        settings, admission=msgspec.structs.replace(settings.admission, **limits)
    )
    engines: list[ScriptedEngine] = []
    async with core_of(settings) as core, trio.open_nursery() as nursery:

        def make(caller: Caller, _converse: Converse) -> Engine:
            engine = ScriptedEngine(core, caller)
            change(engine)
            engines.append(engine)
            return engine

        listener = Listener(core, "ssh", "127.0.0.1:0", make)
        nursery.start_soon(listener.run)
        port = int(listener.address.rsplit(":", 1)[1])
        yield core, engines, lambda: socket.create_connection(("127.0.0.1", port))
        nursery.cancel_scope.cancel()


async def first(engines: list[ScriptedEngine]) -> ScriptedEngine:
    with trio.fail_after(60):
        while not engines:
            await trio.lowlevel.checkpoint()
        await engines[0].closed.wait()
    return engines[0]


async def test_a_conversation_runs_its_course_and_is_closed(tmp_path: Path) -> None:
    async with listening(tmp_path, lambda _: None) as (core, engines, connect):
        with connect():
            engine = await first(engines)
        assert (engine.served, engine.refused) == (1, [])
        (row,) = core.catalog.sessions()
        assert (row.user, row.target, row.reason) == ("alice", "web1", "closed")


@pytest.mark.parametrize(
    ("error", "said"),
    [(Denied("You may not."), "You may not."), (TargetUnreachable("web1 is down."), "web1 is down.")],
)
async def test_a_refusal_is_said_in_the_engines_words(tmp_path: Path, error: ProxydError, said: str) -> None:
    async def refuses(*_: object) -> None:
        raise error

    async with listening(tmp_path, lambda engine: setattr(engine, "serve", refuses)) as (
        _core,
        engines,
        connect,
    ):
        with connect():
            engine = await first(engines)
        assert engine.refused == [said]


async def test_a_bug_ends_one_conversation_with_one_plain_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def breaks(*_: object) -> None:
        raise ZeroDivisionError

    async with listening(tmp_path, lambda engine: setattr(engine, "choose", breaks)) as (
        _core,
        engines,
        connect,
    ):
        with connect():
            engine = await first(engines)
        assert engine.refused == ["The session proxy has failed; an administrator has been told."]
        engines.clear()
        with connect():
            await first(engines)
    assert "ZeroDivisionError" in "".join(capfd.readouterr())


async def test_a_client_that_never_logs_in_meets_the_grace_deadline(tmp_path: Path) -> None:
    before = metrics.LOGINS.labels(protocol="ssh", result="grace")._value.get()
    change = lambda engine: setattr(engine, "greet", trio.sleep_forever)  # noqa: E731
    async with listening(tmp_path, change, grace_seconds=0.2) as (core, engines, connect):
        with connect():
            engine = await first(engines)
        assert engine.refused == []  # nobody is there to be told
        assert core.catalog.sessions() == []
    assert metrics.LOGINS.labels(protocol="ssh", result="grace")._value.get() == before + 1


async def test_failed_logins_are_penalised_until_the_source_is_refused(tmp_path: Path) -> None:
    async def fails() -> Login:
        raise ClientError("no")

    def change(engine: ScriptedEngine) -> None:
        engine.failures = 1
        engine.greet = fails  # type: ignore[method-assign]

    async with listening(tmp_path, change) as (_core, engines, connect):
        for _ in range(4):  # 5 s a failure, refused above 15 s
            with connect():
                await first(engines)
            engines.clear()
        with connect() as refused:
            refused.settimeout(60)
            assert await trio.to_thread.run_sync(refused.recv, 1) == b""
        assert engines == []


def test_an_address_in_use_is_a_configuration_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=rf"listen\.ssh: can't listen on {address}: Address already in use"
        ):
            Listener(None, "ssh", address, lambda *_: None)  # type: ignore[arg-type]


def penalised(core: Core, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what sources are penalised for."""
    why: list[str] = []
    monkeypatch.setattr(core.admission, "penalise", lambda _source, reason: why.append(reason))
    return why


@pytest.mark.parametrize(
    ("error", "failures", "why"),
    [
        (ClientError("gone"), 0, "noauth"),
        (ProtocolBroken("nonsense"), 0, "invalid"),
        (ClientError("gone"), 1, "authfail"),
        (ProtocolBroken("nonsense"), 1, "authfail"),
    ],
)
async def test_what_a_source_is_penalised_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ClientError, failures: int, why: str
) -> None:
    async def fails() -> Login:
        raise error

    def change(engine: ScriptedEngine) -> None:
        engine.failures = failures
        engine.greet = fails  # type: ignore[method-assign]

    broken = metrics.LOGINS.labels(protocol="ssh", result="invalid")._value
    before = broken.get()
    async with listening(tmp_path, change) as (core, engines, connect):
        noted = penalised(core, monkeypatch)
        with connect():
            await first(engines)
        assert noted == [why]
    assert broken.get() == before + isinstance(error, ProtocolBroken)


VERSION = b"SSH-2.0-scanner\r\n"


def packet(payload: bytes) -> bytes:
    """One packet before any keys (RFC 4253, 6)."""
    padding = 16 - (5 + len(payload)) % 8
    return uint32(1 + len(payload) + padding) + bytes([padding]) + payload + bytes(padding)


def kexinit(kex: bytes) -> bytes:
    lists = [
        kex,
        b"ssh-ed25519",
        *[b"aes128-gcm@openssh.com"] * 2,
        *[b"hmac-sha2-256"] * 2,
        *[b"none"] * 2,
        b"",
        b"",
    ]
    return packet(b"\x14" + bytes(16) + b"".join(map(string, lists)) + bytes(5))


def leaving(code: int) -> bytes:
    return packet(b"\x01" + uint32(code) + string(b"I have to go") + string(b""))


STAY_SILENT = (b"", VERSION, VERSION + kexinit(b"curve25519-sha256"))
"""What a client may have said before it leaves without a word; everything else here ends by itself."""


@pytest.mark.hosted
@pytest.mark.parametrize(
    ("said", "why"),
    [
        *[(said, "noauth") for said in STAY_SILENT],
        (VERSION + leaving(11), "noauth"),
        (VERSION + leaving(2), "noauth"),  # it says that we broke the protocol
        (VERSION + leaving(3), "noauth"),
        (b"GET / HTTP/1.1\r\n\r\n", "invalid"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(9000), "invalid"),
        (b"SSH-1.5-old\r\n", "invalid"),
        (VERSION + b"\xff" * 64, "invalid"),
        (VERSION + kexinit(b"diffie-hellman-group1-sha1"), "invalid"),
        (VERSION + packet(b"\x14cut off"), "invalid"),
        (VERSION + packet(b"\x01"), "invalid"),
    ],
)
async def test_who_speaks_no_ssh_is_told_from_who_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, why: str
) -> None:
    made = initialise(tmp_path, ssh_port=0, metrics_port=0)
    settings = load(made.config)
    assert settings.listen.ssh
    options = await front_options(settings.listen.ssh)
    async with core_of(settings) as core, trio.open_nursery() as nursery:
        noted = penalised(core, monkeypatch)
        closed = trio.Event()

        class Closing(SshEngine):
            async def aclose(self) -> None:
                await super().aclose()
                closed.set()

        listener = Listener(
            core, "ssh", "127.0.0.1:0", lambda caller, converse: Closing(core, options, caller, converse)
        )
        nursery.start_soon(listener.run)
        port = int(listener.address.rsplit(":", 1)[1])
        with trio.fail_after(60):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(said)
                if said in STAY_SILENT:
                    await stream.send_eof()
                await closed.wait()
        assert noted == [why]
        nursery.cancel_scope.cancel()
