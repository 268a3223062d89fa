"""The RDP engine between clients and targets that may send anything: every end is in the protocol's words."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import trio
from fuzz.captured_rdp import XFREERDP_CONNECT_INITIAL

from proxyd import relay
from proxyd.protocols.rdp import credssp, fastpath, gcc, info, mcs, share, wire
from proxyd.protocols.rdp.events import Scancode
from proxyd.protocols.rdp.share import Control, ControlKind, ErrorInfo
from proxyd.protocols.rdp.wire import NegotiationFailure, Protocol
from proxyd.recorder.record import Kind
from tests.contract.rdp_rig import (
    CHANNELS,
    GRANTED,
    PASSWORD,
    TARGET_PASSWORD,
    TARGET_USER,
    Serve,
    Target,
    rigged,
    until,
    welcome,
)

pytestmark = [pytest.mark.hosted, pytest.mark.mission("M16"), pytest.mark.timeout(120)]

ALICE = "alice%desk"
BOTH = Protocol.SSL | Protocol.HYBRID
EVERY = BOTH | Protocol.HYBRID_EX
KEY = fastpath.build_input([Scancode(0x1E)])
PICTURE = wire.tpkt(b"\x02\xf0\x80" + b"\x68\0\1\x03\xeb\x70\0")  # data of nothing on the I/O channel
FOREIGN = "0f" * 32  # the SHA-256 of a certificate nobody shows

# ------------------------------------------------------------------ before the login


@pytest.mark.parametrize(
    ("protocols", "selected"),
    [
        (Protocol.SSL, Protocol.SSL),
        (BOTH, Protocol.HYBRID),
        (EVERY, Protocol.HYBRID_EX),
        (Protocol.HYBRID_EX, Protocol.HYBRID_EX),
        (EVERY | Protocol.RDSTLS | Protocol.RDSAAD, Protocol.HYBRID_EX),
    ],
)
async def test_the_best_protocol_both_know_is_selected(
    tmp_path: Path, protocols: Protocol, selected: Protocol
) -> None:
    async with rigged(tmp_path) as rig, rig.client() as client:
        assert await client.secure(rig.identity.ca, protocols) is selected


@pytest.mark.parametrize("protocols", [wire.STANDARD_SECURITY, Protocol.RDSTLS, Protocol.RDSAAD])
async def test_what_is_not_tls_is_refused(tmp_path: Path, protocols: Protocol) -> None:
    async with rigged(tmp_path) as rig, rig.client() as client:
        await client.send(wire.build_connection_request(wire.ConnectionRequest(protocols=protocols)))
        confirm = wire.parse_connection_confirm(await client.frame())
        assert confirm.failure == NegotiationFailure.HYBRID_REQUIRED_BY_SERVER
        assert not await client.frames_to_the_end()


@pytest.mark.parametrize("what", [b"", b"\x03", bytes(64), b"\x03\0\xff\xff", b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_beginning_that_is_none(tmp_path: Path, what: bytes) -> None:
    async with rigged(tmp_path) as rig, rig.client() as client:
        await client.send(what)
        assert isinstance(client.stream, trio.SocketStream)
        with suppress(trio.BrokenResourceError):  # it has been closed already
            await client.stream.send_eof()
        assert not await client.frames_to_the_end()
        assert not rig.targets


async def test_what_stands_before_tls_is_not_taken_for_said_inside_it(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, rig.client() as client:
        request = wire.build_connection_request(wire.ConnectionRequest(protocols=Protocol.SSL))
        await client.send(request + XFREERDP_CONNECT_INITIAL)
        await client.frame()
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            while True:
                await client.some()
        assert not rig.targets


# ------------------------------------------------------------------ the conference and the login


@pytest.mark.parametrize(
    "said",
    [
        bytes(64),
        b"\x04\x04\0\0",
        XFREERDP_CONNECT_INITIAL[:4] + XFREERDP_CONNECT_INITIAL[-40:],
        mcs.build_message(mcs.AttachUserRequest()),
    ],
)
async def test_a_conference_that_is_none_reaches_no_target(tmp_path: Path, said: bytes) -> None:
    async with rigged(tmp_path) as rig, rig.client() as client:
        await client.secure(rig.identity.ca)
        await client.send(said)
        assert isinstance(client.stream, trio.SSLStream)
        await client.stream.transport_stream.send_eof()  # type: ignore[attr-defined]
        assert not await client.frames_to_the_end()
        assert not rig.targets


async def test_channels_joined_for_ever_or_never_given_end_it(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        for channel, times in ((1004, 200), (1090, 1)):
            async with rig.client() as client:
                await client.secure(rig.identity.ca)
                await client.send(XFREERDP_CONNECT_INITIAL)
                join = mcs.build_message(mcs.ChannelJoinRequest(1100, channel))
                await client.send(join * times)
                await client.frames_to_the_end()
        assert not rig.targets


@pytest.mark.parametrize(
    ("user", "password"),
    [(ALICE, "wrong"), ("nobody%desk", PASSWORD), ("alice%nowhere", PASSWORD), ("alice", PASSWORD), ("", "")],
)
async def test_a_login_that_is_denied_says_so_and_dials_nothing(
    tmp_path: Path, user: str, password: str
) -> None:
    async with rigged(tmp_path, login_screen=False) as rig, rig.client() as client:
        await client.secure(rig.identity.ca)
        await client.confer()
        await client.identify(user, password)
        await rig.denied(client)
        assert not rig.targets


@pytest.mark.parametrize(
    "said", [b"", b"\x40\0\0\0", b"\x80\0\0\0" + bytes(60), b"\x40\0\0\0" + b"\xff" * 60]
)
async def test_client_info_that_is_none(tmp_path: Path, said: bytes) -> None:
    async with rigged(tmp_path) as rig, rig.client() as client:
        await client.secure(rig.identity.ca)
        await client.confer()
        await client.say(said)
        await rig.denied(client)
        assert not rig.targets


@pytest.mark.parametrize("protocols", [BOTH, EVERY])
async def test_nla_logs_in_and_is_told_so_where_early_results_are(
    tmp_path: Path, protocols: Protocol
) -> None:
    async with rigged(tmp_path) as rig, rig.client() as client:
        selected = await client.secure(rig.identity.ca, protocols)
        await client.network_level(rig.identity.ca, "bob%desk", PASSWORD)
        if selected is Protocol.HYBRID_EX:
            assert await client.some() == credssp.AUTHORIZED
        await client.confer()
        await client.identify("bob%desk", "what is said here does not count")
        data = mcs.data_frame(await client.frame())
        assert data and data.payload == GRANTED
        assert [session.how for session in rig.core.registry.list()] == ["nla"]


async def test_nla_with_a_wrong_password_says_so_in_its_own_words(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        for user in ("bob%desk", "nobody%desk", "alice%desk"):
            async with rig.client() as client:
                await client.secure(rig.identity.ca, EVERY)
                with pytest.raises(credssp.TargetRefused, match="wrong user name or password"):
                    await client.network_level(rig.identity.ca, user, "wrong")
        assert not rig.targets


# ------------------------------------------------------------------ targets


async def test_the_account_is_logged_on_and_the_user_s_password_stays_here(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, rig.session():
        (target,) = rig.targets
        assert target.asked == EVERY
        assert target.known and (target.known.user, target.known.password) == ("svc", TARGET_PASSWORD)
        assert target.known.flags & info.InfoFlag.AUTOLOGON
        assert gcc.client_core(target.blocks).selected is Protocol.SSL


@pytest.mark.parametrize("early", [False, True])
async def test_a_target_that_asks_for_nla_gets_it(tmp_path: Path, early: bool) -> None:
    async def serve(target: Target) -> None:
        await target.secure(Protocol.HYBRID_EX if early else Protocol.HYBRID)
        await target.network_level(TARGET_PASSWORD)
        if early:
            await target.send(credssp.AUTHORIZED)
        await target.confer()
        await target.say(GRANTED)
        await target.frames_to_the_end()

    async with rigged(tmp_path, serve) as rig, rig.session():
        core = gcc.client_core(rig.targets[0].blocks)
        assert core.selected is (Protocol.HYBRID_EX if early else Protocol.HYBRID)


def secured(*said: bytes, selected: Protocol = Protocol.SSL) -> Serve:
    """A target that says this right behind its TLS."""

    async def serve(target: Target) -> None:
        await target.secure(selected)
        await target.send(*said)
        await target.to_the_end()

    return serve


def raw(*said: bytes) -> Serve:
    """A target that says this to a connection request."""

    async def serve(target: Target) -> None:
        await target.frame()
        await target.send(*said)
        await target.to_the_end()

    return serve


def nla(*passwords: str, early: bytes | None = None) -> Serve:
    """A target that knows these passwords, and says `early` of who has logged in."""

    async def serve(target: Target) -> None:
        await target.secure(Protocol.HYBRID if early is None else Protocol.HYBRID_EX)
        await target.network_level(*passwords)
        await target.send(early or b"")
        await target.frames_to_the_end()

    return serve


def response(result: int = 0, encrypts: int = 0, channels: int = len(CHANNELS)) -> bytes:
    """A Connect Response that could be better."""
    ids = CHANNELS[:channels] if channels <= len(CHANNELS) else range(1020, 1020 + channels)
    blocks = gcc.edit(
        gcc.server_blocks(Protocol.SSL, ids), gcc.Kind.SC_SECURITY, lambda _: bytes([encrypts]) * 8
    )
    user_data = gcc.build_create_response(blocks)
    return mcs.build_connect_response(mcs.ConnectResponse(result, mcs.OUR_PARAMETERS, user_data))


def confirm(selected: Protocol = wire.STANDARD_SECURITY, failure: int = 0) -> bytes:
    """A Connection Confirm."""
    return wire.build_connection_confirm(wire.ConnectionConfirm(selected, wire.ResponseFlag(0), failure))


ROGUES: dict[str, tuple[Serve, str]] = {
    "RDP's own security": (raw(confirm()), "desk offers neither TLS nor NLA"),
    "what nobody asked for": (raw(confirm(Protocol.RDSTLS)), "desk offers neither TLS nor NLA"),
    "a failure": (raw(confirm(failure=2)), "desk offers neither TLS nor NLA"),
    "garbage": (raw(bytes(100)), "desk began with something else"),
    "no TLS": (raw(confirm(Protocol.SSL), b"\x03\0\0\x07\x02\xf0\x80" * 20), "failed the TLS handshake"),
    "silence": (raw(), "desk did not finish the login (waited 2 s)."),
    "silence inside TLS": (secured(), "desk did not finish the login (waited 2 s)."),
    "garbage inside TLS": (secured(b"\xff" * 100), "desk sent what has no place in a login"),
    "a conference refused": (secured(response(result=1)), "desk does not begin the conference."),
    "encryption of its own": (secured(response(encrypts=1)), "desk would encrypt a second time"),
    "fewer channels": (secured(response(channels=1)), "desk answers with another number of channels"),
    "more channels": (secured(response(channels=9)), "desk answers with another number of channels"),
    "too many channels": (secured(response(channels=200)), "desk a list of channel numbers"),
    "nobody attached": (
        secured(response(), mcs.build_message(mcs.AttachUserConfirm(1, TARGET_USER))), "desk does not let a user in"),
    "no channel joined": (
        secured(response(), mcs.build_message(mcs.AttachUserConfirm(0, TARGET_USER)),
                mcs.build_message(mcs.ChannelJoinConfirm(1, TARGET_USER, 1003, 1003))),
        "desk does not let a channel be joined"),
    "another password": (nla("other"), "desk refused the login of its account."),
    "an account that may not": (
        nla(TARGET_PASSWORD, early=credssp.ACCESS_DENIED), "desk refused the login of its account."),
    "an early result that is none": (
        nla(TARGET_PASSWORD, early=b"\0\0"), "desk did not finish the login (waited 2 s)."),
    "no CredSSP": (secured(bytes(40), selected=Protocol.HYBRID), "desk no CredSSP request"),
    "endless CredSSP": (secured(b"\x30\x84\x7f\xff\xff\xff", selected=Protocol.HYBRID), "desk no CredSSP request"),
}  # fmt: skip


@pytest.mark.parametrize("what", ROGUES)
async def test_a_target_that_can_not_be_logged_in_to(tmp_path: Path, what: str) -> None:
    serve, why = ROGUES[what]
    patience = {"login_seconds": 2} if "waited 2 s" in why else {}
    async with rigged(tmp_path, serve, **patience) as rig:
        async with rig.client() as client:
            await client.secure(rig.identity.ca)
            await client.confer()
            await client.identify()
            await rig.denied(client)
        await until("the session is over", lambda: not len(rig.core.registry))
        (end,) = rig.bodies(Kind.END)
        assert end["reason"] == "target error"
        assert why in end["error"]
        assert TARGET_PASSWORD not in end["error"]


@pytest.mark.mission("M11")
@pytest.mark.parametrize(
    ("trust", "code", "severity", "why"),
    [
        (
            {"tls_pins": [FOREIGN]},
            "certificate-changed",
            "critical",
            "is not the pinned one; its SHA-256 is ",
        ),
        ({"tls": "verify-full"}, "certificate-untrusted", "high", "that is not trusted: "),
    ],
)
async def test_a_target_with_another_certificate_is_refused_and_found(
    tmp_path: Path, trust: dict[str, object], code: str, severity: str, why: str
) -> None:
    async with rigged(tmp_path, welcome, **trust) as rig:
        async with rig.client() as client:
            await client.secure(rig.identity.ca)
            await client.confer()
            await client.identify()
            await rig.denied(client)
        await until("the session is over", lambda: not len(rig.core.registry))
        (found,), (end,) = rig.bodies(Kind.FINDING), rig.bodies(Kind.END)
        assert (found["code"], found["severity"]) == (code, severity)
        assert why in found["text"]
        assert why in end["error"]
        (row,) = rig.core.catalog.sessions()
        assert row.findings == 1
        (target,) = rig.targets
        assert target.known is None
        if code == "certificate-changed":
            assert target.identity.fingerprint.upper() in found["text"]


@pytest.mark.mission("M11")
async def test_a_pinned_certificate_is_trusted_and_an_unchecked_one_is_found(tmp_path: Path) -> None:
    async with rigged(tmp_path / "a", tls="require") as rig:
        async with rig.session():
            assert rig.targets[0].known
        await until("the session is over", lambda: not len(rig.core.registry))
        (found,) = rig.bodies(Kind.FINDING)
        assert (found["code"], found["severity"]) == ("certificate-unchecked", "medium")
    async with rigged(tmp_path / "b", pinned=True, tls_pins=[FOREIGN]) as rig:
        async with rig.session():
            assert rig.targets[0].known
        await until("the session is over", lambda: not len(rig.core.registry))
        assert not rig.bodies(Kind.FINDING)


# ------------------------------------------------------------------ in a session


@pytest.mark.parametrize(
    "said", [b"\0" * 50, b"\x03\0\0\0", b"\x03\0\0\x07\x02\xf0\x80", XFREERDP_CONNECT_INITIAL, b"\0\x01"]
)
async def test_a_client_that_breaks_the_protocol_in_a_session(tmp_path: Path, said: bytes) -> None:
    async with rigged(tmp_path) as rig, rig.session() as client:
        await client.send(said)
        await rig.denied(client)


@pytest.mark.parametrize("said", [b"\xff" * 50, b"\x03\0\0\0", mcs.build_message(mcs.AttachUserRequest())])
async def test_a_target_that_breaks_the_protocol_in_a_session(tmp_path: Path, said: bytes) -> None:
    async with rigged(tmp_path) as rig:
        async with rig.session() as client:
            await rig.targets[0].send(said)
            assert await client.reason() == ErrorInfo.RPC_INITIATED_DISCONNECT
        await until("the session is over", lambda: not len(rig.core.registry))
        (end,) = rig.bodies(Kind.END)
        assert end["reason"] == "target error"


async def test_a_target_that_sends_its_users_elsewhere_ends_the_session_with_a_sentence(
    tmp_path: Path,
) -> None:
    """Server Redirection (MS-RDPBCGR 2.2.13.3.1): followed, the session would go past the recording."""
    async with rigged(tmp_path) as rig:
        async with rig.session() as client:
            packet = b"\0\0" + wire.u16(0x400) + wire.u16(12) + bytes(8)
            control = Control(ControlKind.SERVER_REDIRECTION, mcs.SERVER_USER, packet)
            await rig.targets[0].say(share.build_control(control))
            assert await client.reason() == ErrorInfo.RPC_INITIATED_DISCONNECT
        await until("the session is over", lambda: not len(rig.core.registry))
        (end,) = rig.bodies(Kind.END)
        assert end["error"] == "desk asks that its users go to another server, which is not supported."


async def test_a_client_that_leaves_while_its_target_is_dialled_ends_the_session(tmp_path: Path) -> None:
    async with rigged(tmp_path, secured(), login_seconds=180) as rig:
        async with rig.client() as client:
            await client.secure(rig.identity.ca)
            await client.confer()
            await client.identify()
            await until("the target is reached", lambda: rig.targets)
        await until("the session is over", lambda: not len(rig.core.registry))


async def test_a_client_that_leaves_ends_the_session_of_a_target_that_stays(tmp_path: Path) -> None:
    """RDP knows no half-closed connection."""

    async def stay(target: Target) -> None:
        await target.secure()
        await target.confer()
        await target.say(GRANTED)
        await trio.sleep_forever()

    async with rigged(tmp_path, stay) as rig:
        async with rig.session() as client:
            await client.send(KEY)
            assert isinstance(client.stream, trio.SSLStream)
        await until("the session is over", lambda: not len(rig.core.registry))
        assert KEY in rig.bodies(Kind.INPUT_PDU)


async def test_licensing_is_not_on_the_tape_but_how_much_there_was(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        async with rig.session():
            pass
        await until("the session is over", lambda: not len(rig.core.registry))
        (left,) = rig.bodies(Kind.OMITTED)
        assert left["why"] == "licensing"
        assert left["output"] > len(GRANTED)
        assert not [frame for frame in rig.bodies(Kind.PDU) if GRANTED in frame]


# ------------------------------------------------------------------ block and drop


async def flood(target: Target) -> None:
    """A target that never stops."""
    await target.secure()
    await target.confer()
    await target.say(GRANTED)
    while True:
        await target.send(PICTURE * 2000)


async def test_drop_reaches_a_client_that_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "FAREWELL_SECONDS", 3600.0)  # the order's own second is what counts
    async with rigged(tmp_path, flood) as rig, rig.session():
        (session,) = rig.core.registry.list()
        await session.drop("ann")
        await until("the session is over", lambda: not len(rig.core.registry))


async def test_drop_and_time_over_say_why(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        async with rig.session() as client:
            (session,) = rig.core.registry.list()
            await session.drop("ann")
            assert await client.reason() == ErrorInfo.RPC_INITIATED_DISCONNECT
        async with rig.session() as client:
            (session,) = rig.core.registry.list()
            session.scope.deadline = trio.current_time()
            assert await client.reason() == ErrorInfo.LOGON_TIMEOUT


async def test_blocked_input_reaches_no_target_and_fills_no_memory(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, rig.session() as client:
        await client.send(KEY)
        (session,) = rig.core.registry.list()
        await until("it has passed", lambda: session.tape.input_bytes)
        await session.block("ann")
        await client.send(KEY * 2000)
        await until("it is refused", lambda: session.gate.refused_requests >= 2000)
        assert session.gate.refused_bytes >= 2000 * len(KEY)
        await session.drop("ann")
    await until("the session is over", lambda: not len(rig.core.registry))
    assert len([frame for frame in rig.bodies(Kind.INPUT_PDU) if frame == KEY]) == 1
    assert len(rig.bodies(Kind.REFUSED)) == 2000
