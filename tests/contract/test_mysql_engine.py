"""The MySQL engine in this process, between PyMySQL, whose socket may send anything, and a target that does as a test says.

The target is written here from the protocol's pages: no MySQL 8 is at hand, and no real server breaks the protocol.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
import pytest
import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from unit.test_session import core_of

from proxyd.access import hash_password
from proxyd.config import load
from proxyd.database_tls import front_context
from proxyd.engine import Core
from proxyd.gate import REVOKED
from proxyd.listener import Listener
from proxyd.protocols.mysql import auth
from proxyd.protocols.mysql.engine import Greetings, MysqlEngine
from proxyd.protocols.mysql.login_packets import (
    CLEAR,
    NATIVE,
    OURS,
    PASSED,
    SHA2,
    Cap,
    Greeting,
    error_payload,
    greeting_payload,
    ok_payload,
    read_answer,
    switch_payload,
)
from proxyd.protocols.mysql.wire import packet
from proxyd.recorder.record import Kind
from proxyd.recorder.replay import Recording
from proxyd.session import TIME_OVER, Session
from proxyd.setup import initialise
from tests.contract.ssh_rig import until
from tests.peers.mariadb import CLIENT, Authority
from tests.peers.process import rss_bytes

pytestmark = [pytest.mark.hosted, pytest.mark.mission("M14"), pytest.mark.timeout(120)]

HOST = "127.0.0.1"
USER_PASSWORD, TARGET_PASSWORD = "AlicePw1", "TärgetPw1"
STUCK_S = 100.0
PEER_S = 60.0  # a target or a client of these tests that waits longer has failed
TARGET_FLAGS = PASSED | OURS


class Peer:
    """The target's end of one connection."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock, self._context = sock, context
        self.nonce = auth.new_nonce()
        self.answer: Any = None

    def exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            data = self.sock.recv(size - len(got))
            if not data:
                raise EOFError
            got += data
        return got

    def receive(self) -> tuple[int, bytes]:
        head = self.exactly(4)
        return head[3], self.exactly(int.from_bytes(head[:3], "little"))

    def send(self, sequence: int, *payloads: bytes) -> None:
        self.sock.sendall(b"".join(packet(sequence + n, payload) for n, payload in enumerate(payloads)))

    def greet(self, plugin: str = NATIVE, *, flags: Cap = TARGET_FLAGS, tls: bool = True) -> int:
        """Greet, do TLS, read the answer; give the next sequence number."""
        self.send(0, greeting_payload(Greeting("8.4.0", 77, self.nonce, flags, 45, 2, plugin)))
        if tls:
            sequence, payload = self.receive()
            assert len(payload) == 32
            self.sock = self._context.wrap_socket(self.sock, server_side=True)
        sequence, payload = self.receive()
        self.answer = read_answer(payload)
        return sequence + 1

    def login(self, **how: Any) -> None:
        """Let anybody in."""
        self.send(self.greet(**how), ok_payload(2))

    def command(self, *answer: bytes) -> bytes:
        """Take one command, and answer it."""
        _, payload = self.receive()
        self.send(1, *answer)
        return payload

    def driver_is_ready(self) -> None:
        """Answer what PyMySQL asks when it connects."""
        for _ in range(2):
            self.command(ok_payload(2))


Script = Callable[[Peer], None]


@dataclass
class Rig:
    """What a test has in its hands."""

    directory: Path
    core: Core
    front: Authority
    port: int
    targets: list[BaseException | None] = field(default_factory=list)

    def _connect(self, user: str, **more: Any) -> Any:
        return pymysql.connect(
            host="localhost", port=self.port, user=user, password=USER_PASSWORD, ssl={"ca": str(self.front.ca)},
            connect_timeout=PEER_S, read_timeout=PEER_S, **more,
        )  # fmt: skip

    async def connect(self, user: str = "alice+db1", **more: Any) -> Any:
        return await trio.to_thread.run_sync(lambda: self._connect(user, **more), abandon_on_cancel=True)

    async def refused(self, user: str = "alice+db1") -> tuple[int, str]:
        """Log in, and be refused in the protocol's words."""
        with pytest.raises(pymysql.err.MySQLError) as caught:
            await self.connect(user)
        return caught.value.args  # type: ignore[return-value]

    async def query(self, connection: Any, text: str) -> Any:
        def run() -> Any:
            cursor = connection.cursor()
            cursor.execute(text)
            return cursor.fetchall()

        return await trio.to_thread.run_sync(run, abandon_on_cancel=True)

    async def session(self) -> Session:
        (found,) = await until(
            "one is live", lambda: [s for s in self.core.registry.list() if s.conduit is not None]
        )
        return found  # type: ignore[no-any-return]

    async def ended(self, session: Session) -> Any:
        with trio.fail_after(PEER_S):
            await session.ended.wait()
        return self.core.catalog.session(session.id)

    def told(self, session: Session) -> list[Any]:
        settings = self.core.config.recording
        assert settings.identity is not None
        (folder,) = settings.directory.glob(f"*/*/*/{session.id}")
        return [
            record.body
            for record in Recording.open(folder, settings.identity).records()
            if record.kind is Kind.STATEMENT
        ]


@asynccontextmanager
async def rigged(
    directory: Path, script: Script, *, tls: str = "verify-full", more: str = "", rules: str = ""
) -> AsyncIterator[Rig]:
    """Run a scripted target and proxyd; fails when the script did."""
    front, back = Authority(directory / "front"), Authority(directory / "back")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(back.certificate, back.key)
    listener = socket.create_server((HOST, 0))
    outcomes: list[BaseException | None] = []

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(PEER_S)
            threading.Thread(target=run, args=(Peer(sock, context),), daemon=True).start()

    def run(peer: Peer) -> None:
        try:
            script(peer)
            outcomes.append(None)
        except (OSError, EOFError):  # proxyd has hung up
            outcomes.append(None)
        except BaseException as error:  # noqa: BLE001 - raised below
            outcomes.append(error)
        finally:
            with contextlib.suppress(OSError):
                peer.sock.close()

    threading.Thread(target=serve, daemon=True).start()
    settings = load(configured(directory, front, back, listener.getsockname()[1], tls, more, rules))
    try:
        with trio.fail_after(STUCK_S):
            async with core_of(settings) as core, trio.open_nursery() as nursery:
                listen = settings.listen.mysql
                assert listen is not None
                greetings, shown = Greetings(), front_context(listen)
                accepting = Listener(
                    core,
                    "mysql",
                    f"{HOST}:0",
                    lambda caller, _: MysqlEngine(core, listen, shown, caller, greetings),
                )
                nursery.start_soon(accepting.run)
                yield Rig(directory, core, front, int(accepting.address.rsplit(":", 1)[1]), outcomes)
                await until("every session is sealed", lambda: not len(core.registry))
                nursery.cancel_scope.cancel()
    finally:
        listener.close()
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


def configured(
    directory: Path, front: Authority, back: Authority, port: int, tls: str, more: str, rules: str
) -> Path:
    made = initialise(directory / "proxyd", ssh_port=0, metrics_port=0)
    secret = directory / "secret"
    secret.write_text(TARGET_PASSWORD)
    secret.chmod(0o600)
    text = made.config.read_text()
    assert "[listen.metrics]" in text
    with made.config.open("a") as config:
        config.write(f"""
[listen.mysql]
address = "{HOST}:0"
certificate = "{front.certificate}"
key = "{front.key}"
{more}
[users.alice]
password = "{hash_password(USER_PASSWORD)}"
[targets.db1]
address = "localhost:{port}"
protocol = "mysql"
tls = "{tls}"
login_seconds = 30
{f'tls_ca = "{back.ca}"' if tls.startswith("verify") else ""}
[targets.db1.accounts.app]
password = "file:{secret}"
[[grants]]
users = ["*"]
targets = ["*"]
accounts = ["*"]
{rules}
""")
    return made.config


# ---------------------------------------------------------------------- logins at targets no Debian package is


async def test_caching_sha2_fast(tmp_path):
    def script(peer: Peer) -> None:
        sequence = peer.greet(SHA2)
        assert auth.sha2_proves(auth.sha2_digest(TARGET_PASSWORD), peer.nonce, peer.answer.proof)
        assert (peer.answer.user, peer.answer.plugin) == (b"app", SHA2)
        peer.send(sequence, auth.FAST_OK, ok_payload(2))
        peer.driver_is_ready()
        peer.receive()

    async with rigged(tmp_path, script) as rig:
        (await rig.connect()).close()


async def test_caching_sha2_full_inside_tls(tmp_path):
    def script(peer: Peer) -> None:
        peer.send(peer.greet(SHA2), auth.SEND_PASSWORD)
        sequence, password = peer.receive()
        assert password == TARGET_PASSWORD.encode() + b"\0"
        peer.send(sequence + 1, ok_payload(2))
        peer.driver_is_ready()
        peer.receive()

    async with rigged(tmp_path, script) as rig:
        (await rig.connect()).close()


async def test_caching_sha2_by_rsa_without_tls(tmp_path):
    key = rsa.generate_private_key(65537, 2048)
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def script(peer: Peer) -> None:
        peer.send(peer.greet(SHA2, tls=False), auth.SEND_PASSWORD)
        sequence, asked = peer.receive()
        assert asked == auth.ASK_RSA_KEY
        peer.send(sequence + 1, auth.MORE + pem)
        sequence, secret = peer.receive()
        masked = key.decrypt(secret, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None))
        assert (
            bytes(byte ^ peer.nonce[n % 20] for n, byte in enumerate(masked))
            == TARGET_PASSWORD.encode() + b"\0"
        )
        peer.send(sequence + 1, ok_payload(2))
        peer.driver_is_ready()
        peer.receive()

    async with rigged(tmp_path, script, tls="off") as rig:
        (await rig.connect()).close()


@pytest.mark.parametrize("tls", ["verify-full", "off"])
async def test_a_clear_password_is_given_inside_tls_only(tmp_path, tls):
    def script(peer: Peer) -> None:
        peer.send(peer.greet(tls=tls != "off"), switch_payload(CLEAR, b""))
        sequence, password = peer.receive()
        assert (password, tls) == (TARGET_PASSWORD.encode() + b"\0", "verify-full")
        peer.send(sequence + 1, ok_payload(2))
        peer.driver_is_ready()
        peer.receive()

    async with rigged(tmp_path, script, tls=tls) as rig:
        if tls == "off":
            code, text = await rig.refused()
            assert code == 1429
            assert "not safe here" in text
        else:
            (await rig.connect()).close()


async def test_the_next_login_of_a_pool_costs_no_argon2(tmp_path, monkeypatch):
    """caching_sha2_password's fast path: a digest of the password that was checked, for as long as its hash is the same."""

    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        peer.receive()

    async with rigged(tmp_path, script) as rig:
        checks: list[str] = []
        verify = rig.core.access.verify_password

        async def counted(name: str, password: str) -> bool:
            checks.append(name)
            return await verify(name, password)

        monkeypatch.setattr(rig.core.access, "verify_password", counted)
        for _ in range(3):
            (await rig.connect()).close()
        assert checks == ["alice"]
        for wrong in ("", "wrong"):
            with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
                await trio.to_thread.run_sync(
                    lambda password=wrong: pymysql.connect(
                        host="localhost",
                        port=rig.port,
                        user="alice+db1",
                        password=password,
                        ssl={"ca": str(rig.front.ca)},
                    )
                )
        assert checks == ["alice"] * 3


async def test_who_gives_no_password_hears_a_verdict_at_once(tmp_path):
    """A client without one asks for nothing more: MariaDB's own takes any further question for a broken connection."""

    def no_password(user: str, port: int, ca: str) -> tuple[int, str]:
        with pytest.raises(pymysql.err.OperationalError) as caught:
            pymysql.connect(host="localhost", port=port, user=user, password="", ssl={"ca": ca})
        return caught.value.args  # type: ignore[return-value]

    async with rigged(tmp_path, lambda peer: None) as rig:
        for user in ("alice+db1", "nobody+db1"):
            told = await trio.to_thread.run_sync(no_password, user, rig.port, str(rig.front.ca))
            assert told == (1045, f"Access denied for user '{user}' (using password: NO)")
            if CLIENT:
                argv = [CLIENT, "--no-defaults", "--protocol=tcp", "-hlocalhost", f"-P{rig.port}", f"-u{user}", f"--ssl-ca={rig.front.ca}"]  # fmt: skip
                done = await trio.run_process(argv, capture_stderr=True, stdin=b"", check=False)
                assert done.stderr.startswith(b"ERROR 1045 (28000): Access denied"), done.stderr


async def test_a_bound_listener_promises_what_its_target_has(tmp_path):
    """The target is asked once, before anybody logs in; USER alone leads there, and USER+LOGIN."""

    def script(peer: Peer) -> None:
        peer.login(flags=TARGET_FLAGS & ~Cap.DEPRECATE_EOF)
        peer.driver_is_ready()
        peer.receive()

    async with rigged(tmp_path, script, more='target = "db1"') as rig:
        for user in ("alice", "alice+app", "alice+app+db1"):
            connection = await rig.connect(user)
            assert connection.server_version == "8.4.0"
            assert not connection.server_capabilities & Cap.DEPRECATE_EOF
            assert connection.server_capabilities & Cap.SESSION_TRACK
            connection.close()
        await until("four connections have ended", lambda: len(rig.targets) == 4)
        code, text = await rig.refused("alice+app+other")
        assert (code, text) == (1045, "This listener leads to db1 only; log in as USER or USER+LOGIN.")


# ---------------------------------------------------------------------- targets that break the protocol


def _endless(peer: Peer) -> None:
    sequence = peer.greet()
    while True:
        peer.send(sequence, switch_payload(NATIVE, auth.new_nonce() + b"\0"))
        sequence = peer.receive()[0] + 1


BAD_LOGINS: dict[str, tuple[Script, str]] = {
    "no tls": (lambda peer: peer.greet(flags=TARGET_FLAGS & ~Cap.SSL) and None, "does not offer TLS"),
    "no greeting": (lambda peer: peer.send(0, b"\x09too old\0"), "not a greeting"),
    "noise": (lambda peer: peer.sock.sendall(os.urandom(4) + b"\0\0\0"), ""),
    "huge": (lambda peer: peer.sock.sendall(b"\xff\xff\xff\0" + bytes(10)), "announced a greeting"),
    "closed": (lambda peer: None, "closed the connection"),
    "blocked": (lambda peer: peer.send(0, b"\xff" + (1129).to_bytes(2, "little") + b"Host '10.0.0.1' is blocked"), "error 1129"),
    "denied": (lambda peer: peer.send(peer.greet(), error_payload(1045, "28000", "app@10.0.0.1 has no way in")), "error 1045"),
    "ancient": (lambda peer: peer.send(peer.greet(), b"\xfe"), "older than MySQL 4.1"),
    "nonsense": (lambda peer: peer.send(peer.greet(), b"\x42nonsense"), "no meaning"),
    "endless": (_endless, "without end"),
    "out of order": (lambda peer: peer.send(peer.greet() + 1, ok_payload(2)), "out of order"),
    "half tls": (lambda peer: peer.send(0, greeting_payload(Greeting("8", 1, peer.nonce, TARGET_FLAGS, 45, 2, NATIVE))), "the connection"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_LOGINS)
async def test_bad_logins_at_the_target_are_told_in_one_sentence(tmp_path, kind):
    script, words = BAD_LOGINS[kind]
    async with rigged(tmp_path, script) as rig:
        code, text = await rig.refused()
        assert code == 1429
        assert words in text
        assert "10.0.0.1" not in text


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\xfb/etc/passwd", "asked for a file"),
        (b"\xfd\xff\xff\xff", "too many"),
        (b"\xfe" + b"\xff" * 8, "too many"),
    ],
)
async def test_bad_answers_end_the_session(tmp_path, payload, why):
    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        peer.command(payload)
        assert peer.sock.recv(1) == b""

    async with rigged(tmp_path, script) as rig:
        connection = await rig.connect()
        session = await rig.session()
        with pytest.raises(pymysql.err.MySQLError) as caught:
            await rig.query(connection, "select 1")
        assert caught.value.args[0] == 1927
        row = await rig.ended(session)
        assert row.reason == "target error"
        assert why in row.error
        assert rig.told(session)[-1]["outcome"] == "cut"


async def test_an_answer_nobody_asked_for(tmp_path):
    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        peer.send(0, ok_payload(2))
        assert peer.sock.recv(1) == b""

    async with rigged(tmp_path, script) as rig:
        connection = await rig.connect()
        await until("it is over", lambda: not len(rig.core.registry))
        connection._force_close()


# ---------------------------------------------------------------------- clients that break the protocol


@pytest.mark.parametrize(
    "sent",
    [packet(3, b"\x03select 1"), packet(0, b""), b"GET / HTTP/1.1\r\n\r\n" * 20],
    ids=["out of order", "empty", "http"],
)
async def test_bad_commands_end_the_session(tmp_path, sent):
    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        assert peer.sock.recv(100) == b""

    async with rigged(tmp_path, script) as rig:
        connection = await rig.connect()
        session = await rig.session()
        connection._sock.sendall(sent)
        connection._next_seq_id = 1
        with pytest.raises(pymysql.err.MySQLError, match="Malformed packet"):
            await trio.to_thread.run_sync(connection._read_packet)
        assert "The client broke the MySQL protocol" in (await rig.ended(session)).error


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x20",
        b"\xff\xff\xff\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        packet(1, bytes(32)),
        packet(9, bytes(40)),
    ],
)
async def test_bad_logins_are_ended(tmp_path, sent):
    async with rigged(tmp_path, lambda peer: None) as rig:
        with trio.fail_after(PEER_S):
            stream = await trio.open_tcp_stream(HOST, rig.port)
            async with stream:
                greeting = await stream.receive_some(1000)
                assert greeting[4] == 10
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(sent)
                    await stream.send_eof()
                    while await stream.receive_some(1000):
                        pass
        assert not len(rig.core.registry)


async def test_a_length_from_the_wire_costs_nothing(tmp_path):
    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        peer.sock.recv(100)

    async with rigged(tmp_path, script) as rig:
        connection = await rig.connect()
        session = await rig.session()
        before = rss_bytes(os.getpid())
        connection._sock.sendall(b"\xff\xff\xff\x00\x03select")
        await trio.sleep(0)
        assert rss_bytes(os.getpid()) - before < 8 << 20
        connection._force_close()
        assert (await rig.ended(session)).reason == "closed"


# ---------------------------------------------------------------------- rules that only watch, and pipelines

FLAGS_ONLY = """
[[rules]]
name = "payroll"
action = "flag"
pattern = "payroll"
"""


async def test_a_rule_that_only_watches_is_not_waited_for(tmp_path):
    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        for _ in range(3):
            peer.command(ok_payload(2))
        peer.receive()

    async with rigged(tmp_path, script, rules=FLAGS_ONLY) as rig:
        connection = await rig.connect()
        session = await rig.session()
        for text in ("select 1", "update payroll set a = 1", "select 2"):
            await rig.query(connection, text)
        connection.close()
        await rig.ended(session)
        assert [one["code"] for one in session.findings] == ["rule-payroll"]


async def test_what_was_prepared_last_is_known_before_it_is_executed(tmp_path):
    """MariaDB's drivers send PREPARE and EXECUTE of statement -1 at once; what is bound shows once the answer has come."""
    prepared = b"\0" + (5).to_bytes(4, "little") + b"\0\0\1\0\0\0\0"
    order: list[int] = []

    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        order.append(peer.receive()[1][0])
        peer.send(1, prepared, b"\x03def" + bytes(30), b"\xfe\0\0\2\0")
        order.append(peer.receive()[1][0])
        peer.send(1, ok_payload(2))
        peer.receive()

    async with rigged(tmp_path, script) as rig:
        connection = await rig.connect()
        session = await rig.session()
        bound = b"\xff\xff\xff\xff\0\1\0\0\0" + b"\0" + b"\1\3\0" + (42).to_bytes(4, "little")
        connection._sock.sendall(packet(0, b"\x16update t set a = ?") + packet(0, b"\x17" + bound))
        await until("both are answered", lambda: len(order) == 2 and not session.conduit._asked)
        connection._force_close()
        await rig.ended(session)
        (run,) = [one for one in rig.told(session) if one.get("how") == "execute"]
        assert run["text"] == "update t set a = ?"
        assert run["parameters"] == [{"kind": "int", "size": 4, "value": 42}]
        assert order == [0x16, 0x17]


async def test_a_target_that_stays_is_cut_when_the_client_has_left(tmp_path):
    """A client's end is its last word in this protocol; a statement that still runs gets its outcome first."""
    finish, over = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        peer.receive()
        finish.wait(PEER_S)
        peer.send(1, ok_payload(2))
        over.wait(PEER_S)  # it neither reads nor closes

    async with rigged(tmp_path, script) as rig:
        connection = await rig.connect()
        session = await rig.session()
        connection._sock.sendall(packet(0, b"\x03select slowly"))
        await until("it runs", lambda: session.conduit.running)
        connection._force_close()
        await until("the end is seen", lambda: session.conduit._client.ended)
        assert not session.ended.is_set()
        finish.set()
        assert (await rig.ended(session)).reason == "closed"
        over.set()
        assert rig.told(session)[-1]["tag"] == "OK 0"


async def test_time_over_is_said(tmp_path):
    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        peer.receive()
        peer.receive()

    expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    async with rigged(tmp_path, script, rules=f"expires = {expires.isoformat()}") as rig:
        connection = await rig.connect()
        session = await rig.session()
        assert 3000 < session.scope.deadline - trio.current_time() <= 3600
        session.scope.deadline = trio.current_time() + 0.5
        with pytest.raises(pymysql.err.MySQLError) as caught:
            await rig.query(connection, "select sleep(60)")
        assert caught.value.args == (1927, TIME_OVER)
        row = await rig.ended(session)
        assert (row.reason, row.error) == ("time over", TIME_OVER)
        assert rig.told(session)[-1]["outcome"] == "cut"


# ---------------------------------------------------------------------- order, and the gate


async def test_refusals_wait_for_their_turn(tmp_path):
    """Two statements are with the target when the gate shuts; the refusal of the third comes behind their answers."""
    answers = threading.Event()

    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        for _ in range(2):
            peer.receive()
        answers.wait(PEER_S)
        peer.sock.sendall(packet(1, ok_payload(2)) + packet(1, ok_payload(3)))
        peer.receive()

    async with rigged(tmp_path, script) as rig:
        connection = await rig.connect()
        session = await rig.session()
        connection._sock.sendall(packet(0, b"\x03one") + packet(0, b"\x03two"))
        await until("both are told", lambda: session.conduit._responses.pending == 2)
        assert (await session.block("op"))["settled"]
        connection._sock.sendall(packet(0, b"\x03three") + packet(0, b"\x0e"))
        await until("two are refused", lambda: session.gate.refused_requests == 2)
        answers.set()
        reader = connection._rfile
        heads = []
        for _ in range(4):
            head = await trio.to_thread.run_sync(reader.read, 4)
            payload = await trio.to_thread.run_sync(reader.read, int.from_bytes(head[:3], "little"))
            heads.append(payload[:1] if payload[0] == 0 else payload[9:])
        assert heads == [b"\0", b"\0", REVOKED.encode(), REVOKED.encode()]
        connection._force_close()
        await rig.ended(session)
        refused = [one["text"] for one in rig.told(session) if "refused" in one]
        assert refused == ["three", "COM_PING"]


async def test_a_statement_that_had_begun_to_leave_waits_for_the_gate(tmp_path):
    """What has left can't be taken back, and cut in the middle it would be another statement."""
    got = bytearray()
    whole = b"\x03" + b"select 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' " * 8000

    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        while len(got) < len(whole) + 4:
            got.extend(peer.sock.recv(1 << 16))
        peer.send(1, ok_payload(2))
        peer.receive()

    async with rigged(tmp_path, script) as rig:
        connection = await rig.connect()
        session = await rig.session()
        raw = packet(0, whole)
        connection._sock.sendall(raw[:200_000])
        await until("it has begun", lambda: len(got) == 200_000)
        assert not (await session.block("op"))["settled"]
        sender = threading.Thread(target=connection._sock.sendall, args=(raw[200_000:],))
        sender.start()
        await until("the rest waits", lambda: session.conduit._kept is not None)
        assert len(got) == 200_000
        await session.unblock("op")
        connection._next_seq_id = 1
        assert (await trio.to_thread.run_sync(connection._read_packet)).is_ok_packet()
        sender.join()
        assert bytes(got) == raw
        connection._force_close()
        await rig.ended(session)
        statement, result = rig.told(session)[-2:]
        assert (statement["length"], result["tag"]) == (len(whole) - 1, "OK 0")


async def test_a_short_statement_leaves_whole_or_not_at_all(tmp_path):
    got = bytearray()

    def script(peer: Peer) -> None:
        peer.login()
        peer.driver_is_ready()
        while data := peer.sock.recv(1000):
            got.extend(data)

    async with rigged(tmp_path, script) as rig:
        connection = await rig.connect()
        session = await rig.session()
        raw = packet(0, b"\x03delete from t where id = 1")
        connection._sock.sendall(raw[:20])
        await until("its beginning is here", lambda: session.conduit._commands.waiting == 20)
        answer = await session.block("op")
        assert answer["settled"]
        assert answer["discarded_bytes"] == 20
        connection._sock.sendall(raw[20:])
        connection._next_seq_id = 1
        with pytest.raises(pymysql.err.MySQLError, match=REVOKED):
            await trio.to_thread.run_sync(connection._read_packet)
        assert not got
        connection._force_close()
        await rig.ended(session)
        assert not got
