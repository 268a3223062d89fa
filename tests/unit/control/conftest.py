"""A control socket with everything real behind it but the sessions: those are played by the test."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import msgpack
import pytest
import trio
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from proxyd import cli
from proxyd.archive import Archive
from proxyd.config import Export, Index, Notify, Operator, Review
from proxyd.control.client import ANSWER_LIMIT, Client, Frames, pack_frame
from proxyd.control.fetching import Tickets
from proxyd.control.server import ControlServer
from proxyd.control.signins import Consoles
from proxyd.enrolled import NAME, Enrolled
from proxyd.errors import ConfigError, Denied
from proxyd.exports import Exports
from proxyd.governance.notices import Notice
from proxyd.indexing.pool import Indexer
from proxyd.notifications import Notifier
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.jobs import Jobs
from proxyd.recorder.keys import Signer
from proxyd.recorder.ledger import Ledger
from proxyd.recorder.record import Kind
from proxyd.recorder.reviews import Reviews

STARTED_AT = 1_795_000_000.0
SESSION_ID = "1a2b3c4d" + "0" * 24


class PlayedTape:
    """A tape in memory: watched from the beginning, then as it grows, until END."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.meta = meta
        self.rows: list[list[Any]] = []
        self.bytes_written = 1234
        self.input_bytes, self.output_bytes = 20, 3000
        self.grown = trio.Event()
        self.add(Kind.META, meta)

    @property
    def seq(self) -> int:
        return len(self.rows)

    def add(self, kind: Kind, body: Any, channel: int = 0, weight: int = 0) -> None:
        if self.rows and self.rows[-1][2] == Kind.END:
            return
        self.rows.append([len(self.rows) + 1, len(self.rows) * 1000, int(kind), channel, body])
        self.grown.set()
        self.grown = trio.Event()

    def watch_packed(self, after_seq: int = 0) -> PlayedViewer:
        return PlayedViewer(self, after_seq)


class PlayedViewer:
    """Batches of a played tape."""

    def __init__(self, tape: PlayedTape, after_seq: int) -> None:
        self._tape, self._seq = tape, after_seq

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> PlayedViewer:
        return self

    async def __anext__(self) -> bytes:
        rows = self._tape.rows
        while self._seq >= len(rows):
            if rows[-1][2] == Kind.END:
                raise StopAsyncIteration
            await self._tape.grown.wait()
        batch = rows[self._seq : self._seq + 50]
        self._seq += len(batch)
        return bytes(msgpack.packb(batch))


@dataclass(eq=False)
class PlayedSession:
    """A session as the control socket sees one."""

    id: str = SESSION_ID
    protocol: str = "ssh"
    user: str = "alice"
    user_ip: str = "192.0.2.7"
    how: str = "publickey+totp"
    target: str = "db1"
    host: str = "10.0.0.5:22"
    login: str = "root"
    started_at: float = STARTED_AT
    viewers: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)
    gate: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(closed=False))
    drops: list[tuple[str, str]] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tape = PlayedTape({"id": self.id, "user": self.user, "target": self.target})

    async def block(self, by: str, reason: str) -> dict[str, Any]:
        if self.gate.closed:
            raise Denied("The session is blocked already.")
        self.gate.closed = True
        self.tape.add(Kind.CONTROL, {"action": "block", "by": by, "reason": reason})
        return {"passed_bytes": 0, "discarded_bytes": 3, "settled": True}

    async def unblock(self, by: str) -> None:
        self.gate.closed = False
        self.tape.add(Kind.CONTROL, {"action": "unblock", "by": by, "reason": ""})

    def message(self, by: str, text: str) -> str:
        if self.protocol == "mysql":
            raise Denied("This mysql session has nothing to show a message on.")
        self.messages.append((by, text))
        return text

    async def drop(self, by: str, reason: str) -> None:
        self.drops.append((by, reason))
        self.tape.add(Kind.END, {"reason": "dropped", "by": by, "error": "You have been disconnected"})


class Played:
    """The services of a daemon: real catalog and ledger, played sessions."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.started_at = time.time() - 90
        self.catalog = Catalog(f"sqlite:///{base}/catalog.db")
        self.ledger = Ledger(base / "ledger", Signer(Ed25519PrivateKey.generate()), "node1")
        self.sessions: dict[str, PlayedSession] = {}
        self.registry = SimpleNamespace(list=lambda: list(self.sessions.values()))
        self.recorder = SimpleNamespace(live={})
        self.indexer = Indexer(Index(enabled=False), SimpleNamespace(reserve_bytes=0))
        self.search = None
        self.tickets = Tickets()
        self.enrolled = Enrolled(base / NAME)
        self.consoles = Consoles()
        self.broken_config = False
        self.reloads = 0
        self.config = SimpleNamespace(
            path=base / "proxyd.toml",
            node="node1",
            control=SimpleNamespace(socket=base / "control.sock", operators=[], roles=[]),
            recording=SimpleNamespace(directory=base, reserve_bytes=1 << 20, identity=None),
            users={},
            retention=[],
            export=Export(directory=base / "exports"),
            review=Review(),
            notify=Notify(),
        )
        self.notifier = Notifier(self.config.notify, lambda: self.config)
        self.operate_as("System Administrator")

    @functools.cached_property
    def archive(self) -> Archive:
        return Archive(self)  # it asks for config, catalog and ledger only

    @functools.cached_property
    def reviews(self) -> Reviews:
        return Reviews(self.catalog)

    @functools.cached_property
    def exports(self) -> Exports:
        def tell(notice: Notice, *, again: str) -> None:  # tests put another notifier there
            self.notifier.tell(notice, again=again)

        return Exports(Jobs(self.catalog, "node1"), self.config.export, tell)

    def operate_as(self, *roles: str, name: str = "root", user: str = "") -> None:
        self.config.control.operators = [Operator(name=name, uid=os.getuid(), roles=list(roles), user=user)]

    def begin(self, **fields: Any) -> PlayedSession:
        session = PlayedSession(**fields)
        self.sessions[session.id] = session
        names = ("id", "protocol", "user", "user_ip", "target", "host", "login", "how", "started_at")
        self.catalog.started(
            {name: getattr(session, name) for name in names} | {"node": "node1", "path": str(self.base)}
        )
        return session

    def end(self, session: PlayedSession, **fields: Any) -> None:
        del self.sessions[session.id]
        about = {"ended_at": session.started_at + 75, "reason": "closed", "size": 4321, "input_bytes": 20,
                 "output_bytes": 3000, "chain": "00", "findings": len(session.findings), "channels": {"session": 1}}  # fmt: skip
        self.catalog.ended(session.id, **(about | fields))

    async def reload(self) -> str:
        if self.broken_config:
            raise ConfigError("unknown key: usres", self.config.path, 12)
        self.reloads += 1
        return "3 users, 2 targets, 1 grants in force"

    def close(self) -> None:
        self.ledger.close()
        self.catalog.close()


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    services = Played(tmp_path)
    yield services
    services.close()


class Wire:
    """A client that sends what it likes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.frames = Frames(ANSWER_LIMIT)
        self.waiting: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        await self.stream.send_all(pack_frame(message))

    async def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        await self.send({"id": 7, "command": command, "arguments": arguments})
        answer = await self.answer()
        assert answer is not None
        return answer

    async def answer(self) -> dict[str, Any] | None:
        with trio.fail_after(60):
            while not self.waiting:
                data = await self.stream.receive_some()
                if not data:
                    return None
                self.waiting += self.frames.feed(bytes(data))
        return self.waiting.pop(0)


@pytest.fixture
async def connect(played: Played) -> AsyncIterator[Any]:
    """Run the server; give a function that connects to it."""
    wires: list[Wire] = []

    async def connect_one() -> Wire:
        wires.append(Wire(await trio.open_unix_socket(str(played.config.control.socket))))
        return wires[-1]

    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(played).serve)
        yield connect_one
        for wire in wires:
            await wire.stream.aclose()
        nursery.cancel_scope.cancel()


class Background:
    """The server in a thread of its own, for what waits with plain sockets."""

    def __init__(self, played: Played) -> None:
        self.played = played
        self.path = played.config.control.socket
        self.client = Client(self.path, deadline_s=60)
        self._ready, self._done = threading.Event(), trio.Event()
        self._token: Any = None
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        assert self._ready.wait(60)

    def do(self, what: Any, *args: Any) -> Any:
        """Call a function in the server's thread."""
        return trio.from_thread.run_sync(what, *args, trio_token=self._token)

    def end_now(self) -> None:
        """End the server; in its thread."""
        self._done.set()

    def close(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # `end_now` may have ended it
            self.do(self._done.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(ControlServer(self.played).serve)
            self._ready.set()
            await self._done.wait()
            nursery.cancel_scope.cancel()


@pytest.fixture
def background(played: Played) -> Iterator[Background]:
    with capture_logs():  # proxyctl runs in this process too, and its output is what counts
        running = Background(played)
        yield running
        running.close()


@pytest.fixture
def ctl(background: Background, recorded: Path) -> Any:
    """proxyctl at that socket, with the configuration of what a test has `recorded`."""

    def run(*words: str, status: int = 0) -> Result:
        named = ["--config", str(recorded / "proxyd.toml"), "--socket", str(background.path), "--utc"]
        done = CliRunner().invoke(cli.proxyctl, [*named, *words], prog_name="proxyctl")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == status, done.stderr
        return done

    return run
