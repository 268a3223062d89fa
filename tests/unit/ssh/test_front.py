"""Logging in to the front: what counts as proof and what does not; the clients are asyncssh's, and may misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pyotp
import pytest
from asyncssh.auth import MSG_USERAUTH_INFO_RESPONSE
from asyncssh.connection import SSHClientConnection
from asyncssh.constants import MSG_USERAUTH_REQUEST
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxyd.host import on_host
from proxyd.protocols.ssh import front
from proxyd.protocols.ssh.wire import string, uint32
from proxyd.recorder.record import Kind
from tests.contract.ssh_rig import HOST, PASSWORD, TOTP_SECRET, Attacker, Rig, rigged, until

pytestmark = pytest.mark.hosted
SERVICE = string(b"ssh-connection")


class Speaker(SSHClientConnection):
    """A client that leaves authentication to the test: it answers nothing, and notes what it is told."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ready = False
        self.told: list[tuple[int, bytes]] = []
        self._packet_handlers = {
            **self._packet_handlers,
            **dict.fromkeys((51, 52, 53, 60), lambda _, kind, __, packet: self._note(kind, packet)),
        }

    def try_next_auth(self, *, next_method: bool = False) -> None:
        self.ready = True

    def _note(self, kind: int, packet: Any) -> None:
        self.told.append((kind, packet.get_remaining_payload()))
        if kind == 52:
            self._auth, self._auth_complete = None, True

    @property
    def auth(self) -> Any:
        return self

    def process_packet(self, pkttype: int, pktid: int, packet: Any) -> Any:
        return super().process_packet(pkttype, pktid, packet)

    def request(self, user: bytes, method: bytes, rest: bytes = b"") -> None:
        self._auth = self
        self.send_packet(MSG_USERAUTH_REQUEST, string(user), SERVICE, string(method), rest)

    def password(self, user: bytes, word: str) -> None:
        self.request(user, b"password", b"\0" + string(word.encode()))

    def answer(self, *words: str) -> None:
        self.send_packet(
            MSG_USERAUTH_INFO_RESPONSE, uint32(len(words)), *(string(word.encode()) for word in words)
        )

    def sign(self, user: bytes, key: Any, algorithm: bytes, *, blob: bytes | None = None) -> None:
        """Send a public key request; `blob`: a signature made by hand."""
        public = key.public_data
        rest = b"\1" + string(algorithm) + string(public)
        message = bytes([MSG_USERAUTH_REQUEST]) + string(user) + SERVICE + string(b"publickey") + rest
        made = blob if blob is not None else key.sign(string(self._session_id) + message, algorithm)
        self.request(user, b"publickey", rest + string(made))

    def cancel(self) -> None:
        """Nothing is under way here."""


async def speaker(rig: Rig) -> Speaker:
    """A connection that is ready to log in."""

    async def connect() -> Speaker:
        options = await asyncssh.connection.SSHClientConnectionOptions.construct(
            config=None, host=HOST, port=rig.port, username="nobody", known_hosts=None, agent_path=None,
            gss_auth=False, gss_kex=False, login_timeout=0, x509_trusted_certs=None, client_keys=None,
        )  # fmt: skip
        made = Speaker(asyncio.get_running_loop(), options)
        await asyncio.get_running_loop().create_connection(lambda: made, HOST, rig.port)
        return made

    made = await on_host(connect())
    await until("the login may begin", lambda: made.ready)
    return made


def failure(methods: str, *, partial: bool = False) -> tuple[int, bytes]:
    return 51, string(methods.encode()) + bytes([partial])


async def told(client: Speaker, count: int) -> list[tuple[int, bytes]]:
    await until(f"{count} answers", lambda: len(client.told) >= count or client.is_closed())
    return client.told


def reached(rig: Rig) -> int:
    """How often a target was reached, or is being."""
    return len(rig.targets) + len(rig.core.registry)


def code(at: int = 0) -> str:
    """The one-time code of now, or of steps away from it."""
    return pyotp.TOTP(TOTP_SECRET).at(int(time.time()) + 30 * at)


# ---------------------------------------------------------------------- what is no proof


async def test_asking_whether_a_key_would_do_is_no_proof(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await speaker(rig)
        question = b"\0" + string(b"ssh-ed25519") + string(rig.key.public_data)
        for _ in range(3):
            client.request(b"alice+web1", b"publickey", question)
        assert {kind for kind, _ in await told(client, 3)} == {60}
        client.password(b"alice+web1", "")
        assert (await told(client, 4))[-1] == failure("publickey,keyboard-interactive,password")
        assert reached(rig) == 0
        client.abort()


@pytest.mark.parametrize("user", [b"alice+web1", b"mallory+web1", b"", b"+++"])
async def test_every_name_is_offered_the_same(user: bytes, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await speaker(rig)
        client.request(user, b"none")
        kind, rest = (await told(client, 1))[0]
        assert kind == 51
        if user:
            assert (kind, rest) == failure("publickey,keyboard-interactive,password")
        client.abort()


async def test_a_name_for_a_terminal_is_no_name(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await speaker(rig)
        client.request(b"alice\x1b[2J+web1", b"none")
        await until("the client is sent away", client.is_closed)
        assert client.told == []


async def test_a_name_can_not_change_on_the_way(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await speaker(rig)
        client.password(b"bob+web1", "wrong")
        await told(client, 1)
        client.sign(b"alice+web1", rig.key, b"ssh-ed25519")
        await until("the client is sent away", client.is_closed)
        assert reached(rig) == 0


async def test_a_signature_over_something_else_is_no_proof(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await speaker(rig)
        other = asyncssh.generate_private_key("ssh-ed25519")
        client.sign(b"alice+web1", rig.key, b"ssh-ed25519", blob=other.sign(b"x", b"ssh-ed25519"))
        client.sign(b"alice+web1", rig.key, b"ssh-ed25519", blob=rig.key.sign(b"x", b"ssh-ed25519"))
        client.sign(b"alice+web1", rig.key, b"ssh-ed25519", blob=b"")
        client.sign(b"alice+web1", other, b"ssh-ed25519")
        assert {kind for kind, _ in await told(client, 4)} == {51}
        assert reached(rig) == 0
        client.abort()


async def test_a_signature_over_sha1_is_no_proof(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    line = key.export_public_key().decode().strip()
    async with rigged(tmp_path, more=f'[users.rsa]\nkeys = ["{line}"]\n') as rig:
        client = await speaker(rig)
        client.sign(b"rsa+web1", key, b"ssh-rsa")
        assert (await told(client, 1))[0][0] == 51
        client.sign(b"rsa+web1", key, b"rsa-sha2-256")
        assert (await told(client, 2))[1][0] == 52
        client.abort()


@pytest.mark.parametrize(("touched", "kind"), [(0, 51), (1, 52)])
async def test_a_security_key_counts_when_it_was_touched(touched: int, kind: int, tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    data = string(b"sk-ssh-ed25519@openssh.com") + string(public) + string(b"ssh:")
    key = asyncssh.public_key.decode_ssh_public_key(data)
    line = key.export_public_key().decode().strip()
    async with rigged(tmp_path, more=f'[users.sk]\nkeys = ["{line}"]\n') as rig:
        client = await speaker(rig)
        rest = b"\1" + string(b"sk-ssh-ed25519@openssh.com") + string(data)
        message = string(client._session_id) + bytes([MSG_USERAUTH_REQUEST]) + string(b"sk+web1") + SERVICE
        message += string(b"publickey") + rest
        flags = struct.pack(">BI", touched, 7)
        signed = private.sign(hashlib.sha256(b"ssh:").digest() + flags + hashlib.sha256(message).digest())
        client.sign(b"sk+web1", key, b"sk-ssh-ed25519@openssh.com",
                    blob=string(b"sk-ssh-ed25519@openssh.com") + string(signed) + flags)  # fmt: skip
        assert (await told(client, 1))[0][0] == kind
        client.abort()


# ---------------------------------------------------------------------- chains of factors


async def test_a_chain_needs_every_factor_and_a_code_works_once(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await speaker(rig)
        client.sign(b"carol+web1", rig.key, b"ssh-ed25519")
        assert await told(client, 1) == [failure("keyboard-interactive", partial=True)]
        assert reached(rig) == 0
        client.password(b"carol+web1", PASSWORD)  # a factor that is not asked for counts for nothing
        assert (await told(client, 2))[1] == failure("keyboard-interactive")
        client.request(b"carol+web1", b"keyboard-interactive", string(b"") + string(b""))
        assert b"One-time code" in (await told(client, 3))[2][1]
        used = code()
        client.answer(used)
        assert (await told(client, 4))[3][0] == 52
        again = await speaker(rig)
        again.request(b"carol+web1", b"keyboard-interactive", string(b"") + string(b""))
        await told(again, 1)
        again.answer(PASSWORD)
        assert b"One-time code" in (await told(again, 2))[1][1]
        again.answer(used)
        assert (await told(again, 3))[2][0] == 51
        client.abort()
        again.abort()


@pytest.mark.parametrize("words", [(), ("a", "b"), (PASSWORD, PASSWORD), ("", "123456")])
async def test_only_one_answer_answers_one_question(words: tuple[str, ...], tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await speaker(rig)
        client.request(b"bob+web1", b"keyboard-interactive", string(b"") + string(b""))
        await told(client, 1)
        client.answer(*words)
        assert (await told(client, 2))[1][0] == 51
        client.answer(PASSWORD)  # to a question that is over
        await until("the client is sent away", client.is_closed)
        assert reached(rig) == 0


# ---------------------------------------------------------------------- floods before the login


async def test_guesses_given_up_before_their_answer_count_too(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await speaker(rig)
        for number in range(500):
            client.password(b"bob+web1", f"guess {number}")
        await until("the client is sent away", client.is_closed)
        (engine,) = rig.engines
        assert engine._front.tries <= front.MAX_TRIES + 1
        assert engine.failures > 0


async def test_questions_and_unknown_methods_are_counted(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        for method, rest in (
            (b"none", b""),
            (b"publickey", b"\0" + string(b"ssh-ed25519") + string(rig.key.public_data)),
        ):
            client = await speaker(rig)
            for _ in range(500):
                client.request(b"alice+web1", method, rest)
            await until("the client is sent away", client.is_closed)
            assert len(client.told) <= front.MAX_TRIES


async def test_a_request_while_the_session_is_being_made_ends_it(tmp_path: Path) -> None:
    async with rigged(tmp_path, target="login_seconds = 20") as rig:
        client = await speaker(rig)
        client.sign(b"alice+web1", rig.key, b"ssh-ed25519")
        client.password(b"bob+web1", PASSWORD)
        await until("the client is sent away", client.is_closed)
        await until("no session is left", lambda: not len(rig.core.registry))
        assert client.told == []


async def test_a_request_after_the_login_changes_nothing(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1")
        session = await rig.session()
        request = string(b"bob+web1") + SERVICE + string(b"password") + b"\0" + string(PASSWORD.encode())
        client.send_packet(MSG_USERAUTH_REQUEST, request)
        await client.channel()
        assert (session.user, session.state) == ("alice", "live")
        client.send_packet(MSG_USERAUTH_REQUEST, request)
        await until("the client is sent away", client.is_closed)


# ---------------------------------------------------------------------- certificates

Make = Callable[[asyncssh.SSHKey, asyncssh.SSHKey], Any]


def user(**options: Any) -> Make:
    """A user certificate of alice for an hour, and what is different about it."""

    def make(authority: asyncssh.SSHKey, key: asyncssh.SSHKey) -> Any:
        wanted = {"principals": ["alice"], "valid_before": "+1h", **options}
        return authority.generate_user_certificate(key, "id", **wanted)

    return make


def host_certificate(authority: asyncssh.SSHKey, key: asyncssh.SSHKey) -> Any:
    return authority.generate_host_certificate(key, "id", principals=["alice"], valid_before="+1h")


def of_a_stranger(_: asyncssh.SSHKey, key: asyncssh.SSHKey) -> Any:
    return user()(asyncssh.generate_private_key("ssh-ed25519"), key)


CERTIFICATES: dict[str, tuple[Make, bool]] = {
    "good": (user(), True),
    "good, of several": (user(principals=["eve", "alice"]), True),
    "from here": (user(source_address=["127.0.0.0/8"]), True),
    "no principals": (user(principals=[]), False),
    "another's": (user(principals=["bob"]), False),
    "of the whole name": (user(principals=["alice+web1"]), False),
    "of the account": (user(principals=["root"]), False),
    "expired": (user(valid_after=1, valid_before=2), False),
    "not yet valid": (user(valid_after="+1h", valid_before="+2h"), False),
    "from elsewhere": (user(source_address=["10.0.0.0/8"]), False),
    "forced command": (user(force_command="id"), False),
    "a host's": (host_certificate, False),
    "a stranger's": (of_a_stranger, False),
}


def trusting(tmp_path: Path, authority: asyncssh.SSHKey) -> dict[str, Any]:
    """Options of a rig that takes certificates of this CA."""
    (tmp_path / "user_ca.pub").write_bytes(authority.export_public_key())
    return {"user_ca": tmp_path / "user_ca.pub"}


@pytest.mark.parametrize("which", CERTIFICATES)
async def test_a_certificate_proves_its_principal_only(which: str, tmp_path: Path) -> None:
    make, good = CERTIFICATES[which]
    authority, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    async with rigged(tmp_path, **trusting(tmp_path, authority)) as rig:
        keys = [(key, make(authority, key))]
        if good:
            client = await rig.attack("alice+web1", client_keys=keys)
            assert (await rig.session()).how == "publickey"
            client.abort()
            return
        with pytest.raises(asyncssh.PermissionDenied):
            await rig.attack("alice+web1", client_keys=keys, password_auth=False, kbdint_auth=False)
        assert reached(rig) == 0


async def test_an_unknown_critical_option_refuses_a_certificate(tmp_path: Path) -> None:
    authority, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    signed = user(force_command="id")(authority, key).public_data
    assert signed.count(b"force-command") == 1
    async with rigged(tmp_path, **trusting(tmp_path, authority)) as rig:
        client = await speaker(rig)
        broken = signed.replace(b"force-command", b"verify-fourth")  # breaks the CA's signature as well
        algorithm = string(b"ssh-ed25519-cert-v01@openssh.com")
        client.request(b"alice+web1", b"publickey", b"\0" + algorithm + string(broken))
        assert (await told(client, 1))[0][0] == 51
        client.abort()


@pytest.mark.parametrize(
    ("without", "name", "rest"),
    [
        ("permit_pty", b"pty-req", string(b"xterm") + bytes(16) + string(b"")),
        ("permit_agent_forwarding", b"auth-agent-req@openssh.com", b""),
        (
            "permit_x11_forwarding",
            b"x11-req",
            b"\0" + string(b"MIT-MAGIC-COOKIE-1") + string(b"00") + uint32(0),
        ),
    ],
)
async def test_a_certificate_takes_away_what_it_does_not_extend(
    without: str, name: bytes, rest: bytes, tmp_path: Path
) -> None:
    authority, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    async with rigged(tmp_path, **trusting(tmp_path, authority)) as rig:
        keys = [(key, user(**{without: False})(authority, key))]
        client = await rig.attack("alice+web1", client_keys=keys)
        channel = await client.channel()
        assert not await on_host(channel._make_request(name, rest))
        assert await on_host(channel._make_request(b"exec", string(b"id")))
        if without == "permit_pty":
            assert (await rig.sink()).asked == ["id"]
        client.abort()


async def test_a_certificate_without_forwarding_forwards_nothing(tmp_path: Path) -> None:
    authority, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    async with rigged(tmp_path, **trusting(tmp_path, authority)) as rig:
        keys = [(key, user(permit_port_forwarding=False)(authority, key))]
        client = await rig.attack("alice+web1", client_keys=keys)
        place = string(b"localhost") + uint32(9) + string(b"::1") + uint32(9)
        with pytest.raises(asyncssh.ChannelOpenError, match="does not allow local-forward"):
            await client.channel(b"direct-tcpip", place)
        reply = await on_host(client._make_global_request(b"tcpip-forward", string(b"") + uint32(0)))
        assert reply[0] == 82
        client.abort()


# ---------------------------------------------------------------------- what a client says of itself


class Loud(Attacker):
    """A client whose version would clear a screen."""

    def _send_version(self) -> None:
        self._version = b"x\x1b[2J\x07"
        super()._send_version()


async def test_nobody_writes_to_an_auditors_terminal_by_a_version_string(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await rig.attack("alice+web1", factory=Loud)
        session = await rig.session()
        client.abort()
        await rig.ended(session)
        (meta,) = rig.bodies(session, Kind.META)
        assert meta["client"] == "SSH-2.0-x [2J "


async def test_nobody_writes_to_the_log_by_a_goodbye(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        client = await speaker(rig)
        client.send_packet(1, uint32(2), string(b"\x1b[2J" + b"x" * 30000), string(b""))
        await until("the proxy has seen it go", rig.engines[0]._front.left.is_set)
        said = str(rig.engines[0]._front.why_left())
        assert "\x1b" not in said
        assert len(said) < 300
