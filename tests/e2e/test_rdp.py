"""RDP through proxyd: real clients, real servers, TLS on both legs; what passes, what is kept, what is stopped."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyotp
import pytest

from proxyd.access import hash_password
from proxyd.gate import RESTORED, REVOKED
from proxyd.protocols.rdp import fastpath, mcs
from proxyd.protocols.rdp.channels import parse_chunk
from proxyd.protocols.rdp.events import Scancode
from proxyd.protocols.rdp.sound import WAVE_FORMAT_PCM, parse_formats
from proxyd.protocols.rdp.wire import (
    ConnectionRequest,
    Framer,
    NegotiationFailure,
    Protocol,
    build_connection_request,
    is_fast_path,
    parse_connection_confirm,
)
from proxyd.recorder.record import Kind
from proxyd.verifiers import nt_hash
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.process import eventually, free_port
from tests.peers.rdp import freerdp, shadow, sound, xrdp
from tests.peers.rdp.freerdp import Client, FreeRdp, RDesktop
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.sound import Ear
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, same
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and shadow.INSTALLED), reason="xrdp or FreeRDP's shadow server is missing"
    ),
    pytest.mark.skipif(not freerdp.INSTALLED, reason="xfreerdp is not installed"),
]

ALICE, BOB = "Alice's pass", "Bob's-Pass-2"
TOTP_SECRET = "KRSXG5CTMVRXEZLUKN2XAZLSKRSXG5CT"
LINE = "The quick (brown) fox: 0123456789 +-*/ [done]!"
CLOSED_S = 1.0  # the promise of a drop
CLOCK_S = 0.3  # what this process and the machine add to it
CLOSE_HZ = 10.0  # two edges of 440 Hz are 100.2 samples apart
SMALLER = (800, 600)
RETURN = 0x1C  # its scancode
DENIED = ["ERRINFO_SERVER_DENIED_CONNECTION"]


need_rdesktop = pytest.mark.skipif(not freerdp.RDESKTOP_INSTALLED, reason="rdesktop is not installed")


@dataclass
class Rig:
    """Servers, proxyd before them, and ways in."""

    desktop: Xrdp
    shadowed: Shadow
    proxyd: Proxyd
    identity: Identity
    port: int

    def client(self, directory: Path, user: str, password: str, **more: Any) -> FreeRdp:
        """An xfreerdp that takes proxyd's certificate alone."""
        return FreeRdp(directory, self.port, user, password, fingerprint=self.identity.fingerprint, **more)

    def bodies(self, session: str, kind: Kind) -> list[Any]:
        """What a sealed recording holds of a kind."""
        return [record.body for record in self.proxyd.recording(session).records() if record.kind is kind]


def _account(rig_directory: Path, name: str, target: Xrdp | Shadow) -> dict[str, Any]:
    secret = rig_directory / f"{name}.password"
    secret.write_text(target.password)
    secret.chmod(0o600)
    return {
        "protocol": "rdp",
        "address": target.address,
        "tls": "verify-full",
        "tls_ca": str(target.identity.ca),
        "accounts": {target.user: {"password": f"file:{secret}"}},
    }


def _pinned(target: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """Trust a target for its certificate alone."""
    return {name: value for name, value in target.items() if not name.startswith("tls")} | {
        "tls_pins": [fingerprint]
    }


@pytest.fixture(scope="module")
def rig(shared: Path) -> Iterator[Rig]:
    """Servers and proxyd for all tests of this file."""
    directory = shared / "rdp"
    with Xrdp(directory / "x") as desktop, Shadow(directory / "s", Security.NLA) as shadowed:
        proxyd = Proxyd(directory / "p")
        identity, port = Identity(directory / "front"), free_port()
        identity.key.chmod(0o600)
        proxyd.settings["listen"]["rdp"] = {
            "address": f"{HOST}:{port}",
            "certificate": str(identity.certificate),
            "key": str(identity.key),
        }
        proxyd.settings["targets"] = {
            "desk": _account(directory, "desk", desktop),
            "nla": _account(directory, "nla", shadowed),
        }
        refused = directory / "refused.password"
        refused.write_text("wrong")
        refused.chmod(0o600)
        stranger = _account(directory, "stranger", desktop)
        locked = _account(directory, "locked", shadowed)
        proxyd.settings["targets"] |= {
            "stranger": stranger | {"tls_ca": str(identity.ca)},
            "locked": locked | {"accounts": {shadowed.user: {"password": f"file:{refused}"}}},
            "pinned": _pinned(_account(directory, "pinned", desktop), desktop.identity.fingerprint),
            "swapped": _pinned(_account(directory, "swapped", desktop), identity.fingerprint),
            "mistyped": _account(directory, "mistyped", desktop)
            | {"accounts": {desktop.user: {"password": f"file:{refused}"}}},
            "gone": locked | {"address": f"{HOST}:{free_port()}"},
        }
        proxyd.user("alice", password=hash_password(ALICE))
        proxyd.user("bob", nt_hash=nt_hash(BOB))
        proxyd.user("carol", password=hash_password(ALICE))
        seed = directory / "totp"
        seed.write_text(TOTP_SECRET)
        seed.chmod(0o600)
        proxyd.user("dave", password=hash_password(ALICE), nt_hash=nt_hash(ALICE), totp=f"file:{seed}")
        proxyd.grant(users=["alice", "bob", "dave"])
        proxyd.settings["log"] = {"format": "json", "level": "debug"}  # where a library would tell a secret
        with proxyd:
            yield Rig(desktop, shadowed, proxyd, identity, port)


def works(client: Client, target: Xrdp | Shadow) -> None:
    """Type a line into the target's shell through the client; both must show the same pixels before and after."""
    same(client.screen, target.screen)
    typed = target.home / "typed"
    typed.unlink(missing_ok=True)
    client.screen.click(*IN_TERMINAL)
    client.screen.enter(f"echo '{LINE}' > typed")
    eventually("what was typed arrives", lambda: typed.exists() and typed.read_text() == f"{LINE}\n")
    same(client.screen, target.screen)
    assert client.connected


def until_refused(rig: Rig, session: str, code: int) -> None:
    """Follow a live session until the release of a key has met its shut gate."""
    release = Scancode(code, released=True)
    with rig.proxyd.client().stream("watch", session=session) as stream:
        for frame in stream:
            for _, _, kind, _, body in frame.get("records", ()):
                if kind == Kind.REFUSED and is_fast_path(body) and release in fastpath.parse_input(body):
                    return
    raise AssertionError("the session ended")


def differs(client: Client, target: Xrdp) -> bool:
    """Whether the client shows something else than the target."""
    return client.screen.picture().differing(target.screen.picture()) > 0


def _raw(body: object) -> bytes:
    return body if isinstance(body, bytes) else b""


@pytest.mark.mission("M16")
def test_a_session_by_tls_to_xrdp_shows_types_and_is_recorded(rig: Rig, short: Path) -> None:
    with rig.client(short / "c", "alice%desk", ALICE) as client:
        works(client, rig.desktop)
        session = rig.proxyd.the_live_session()
        assert (session["user"], session["target"], session["protocol"]) == ("alice", "desk", "rdp")
    rig.proxyd.ended(session["id"])
    (said,) = [body for body in rig.bodies(session["id"], Kind.REQUEST) if body["name"] == "rdp"]
    assert said["graphics"] == "bitmap"
    assert (said["width"], said["height"], said["depth"]) == (1024, 768, 32)
    for kind in (Kind.PDU, Kind.INPUT_PDU):
        frames = rig.bodies(session["id"], kind)
        assert frames
        for frame in frames:
            assert Framer().feed(frame) == [frame]


@pytest.mark.mission("M16")
def test_a_session_by_tls_to_a_target_that_wants_nla(rig: Rig, short: Path) -> None:
    with rig.client(short / "c", "alice%nla", ALICE) as client:
        works(client, rig.shadowed)


def test_a_session_by_nla_to_a_target_by_tls(rig: Rig, short: Path) -> None:
    with rig.client(short / "c", "bob%desk", BOB, security="nla") as client:
        works(client, rig.desktop)
        assert rig.proxyd.the_live_session()["how"] == "nla"


def test_a_session_by_nla_to_a_target_by_nla(rig: Rig, short: Path) -> None:
    with rig.client(short / "c", f"bob%{rig.shadowed.user}%nla", BOB, security="nla") as client:
        works(client, rig.shadowed)


def test_a_second_factor_stands_behind_the_password_and_nla_alone_is_not_enough(
    rig: Rig, short: Path
) -> None:
    with rig.client(short / "n", "dave%desk", ALICE, security="nla") as client:
        assert client.ended() != 0
        assert client.words == ["ERRCONNECT_LOGON_FAILURE"]
    with rig.client(
        short / "p", "dave%desk", f"{ALICE}000000"
    ) as client:  # without one it would be asked for
        assert client.ended() != 0
        assert client.words == DENIED
    with rig.client(short / "c", "dave%desk", ALICE + pyotp.TOTP(TOTP_SECRET).now()) as client:
        works(client, rig.desktop)
        assert rig.proxyd.the_live_session()["how"] == "password+totp"


@need_rdesktop
def test_rdesktop(rig: Rig, short: Path) -> None:
    with RDesktop(short / "c", rig.port, "alice%desk", ALICE) as client:
        works(client, rig.desktop)


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice%desk", "wrong"),
        ("nobody%desk", ALICE),
        ("carol%desk", ALICE),
        ("alice%nowhere", ALICE),
    ],
)
def test_a_login_by_tls_that_is_denied_is_told_so_and_dials_nothing(
    rig: Rig, short: Path, user: str, password: str
) -> None:
    before = rig.proxyd.metric("proxyd_target_logins_total")
    with rig.client(short / "c", user, password) as client:
        assert client.ended() != 0
        assert client.words == DENIED
    assert rig.proxyd.metric("proxyd_target_logins_total") == before
    assert not rig.proxyd.live()


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        ("bob%desk", "wrong", ["ERRCONNECT_LOGON_FAILURE"]),
        ("nobody%desk", BOB, ["ERRCONNECT_LOGON_FAILURE"]),
        ("alice%desk", ALICE, ["ERRCONNECT_LOGON_FAILURE"]),  # has no NT hash
        ("bob%nowhere", BOB, DENIED),
    ],
)
def test_a_login_by_nla_that_is_denied_is_told_so(
    rig: Rig, short: Path, user: str, password: str, words: list[str]
) -> None:
    with rig.client(short / "c", user, password, security="nla") as client:
        assert client.ended() != 0
        assert client.words == words
    assert not rig.proxyd.live()


@pytest.mark.mission("M3")
def test_block_stops_input_output_flows_and_no_key_stays_down(rig: Rig, short: Path) -> None:
    typed = rig.desktop.home / "blocked"
    with rig.client(short / "c", "alice%desk", ALICE) as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        client.screen.click(*IN_TERMINAL)
        client.screen.enter("cat > blocked")
        client.screen.enter("before")
        eventually("what was typed arrives", lambda: typed.exists() and typed.read_text() == "before\n")
        client.screen.hold("Shift_L")
        answer = rig.proxyd.call("block", session=session)
        assert answer["settled"] is True
        eventually("the notice is shown", lambda: differs(client, rig.desktop))
        client.screen.release("Shift_L")
        client.screen.enter("blocked")
        until_refused(rig, session, RETURN)
        rig.desktop.screen.enter("meanwhile")
        eventually("the target goes on", lambda: "meanwhile" in typed.read_text())
        rig.proxyd.call("unblock", whom=session)
        client.screen.enter("after")
        eventually("input passes again", lambda: "after" in typed.read_text())
        assert typed.read_text() == "before\nmeanwhile\nafter\n"
        client.screen.key("ctrl+d")
        same(client.screen, rig.desktop.screen)  # the target has painted over the notices
    rig.proxyd.ended(session)
    assert rig.bodies(session, Kind.REFUSED)
    assert rig.bodies(session, Kind.NOTICE) == [REVOKED, RESTORED]


@pytest.mark.mission("M4")
def test_drop_ends_both_sides_within_a_second_and_is_told(rig: Rig, short: Path) -> None:
    with rig.client(short / "c", "alice%desk", ALICE) as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        begun = time.monotonic()
        rig.proxyd.call("drop", session=session)
        assert time.monotonic() - begun < CLOSED_S + CLOCK_S
        assert client.ended() != 0
        assert client.words == ["ERRINFO_RPC_INITIATED_DISCONNECT"]
    assert rig.proxyd.ended(session)["reason"] == "dropped"


def test_no_password_is_in_a_recording_or_a_log(rig: Rig, short: Path) -> None:
    with rig.client(short / "c", "alice%nla", ALICE) as client:
        same(client.screen, rig.shadowed.screen)
        session = rig.proxyd.the_live_session()["id"]
    rig.proxyd.ended(session)
    tape = b"".join(
        repr(record).encode() + _raw(record.body) for record in rig.proxyd.recording(session).records()
    )
    assert tape
    for secret in (ALICE, rig.shadowed.password):
        assert secret.encode() not in tape
        assert secret.encode("utf-16-le") not in tape
        assert secret not in rig.proxyd.logs()
    assert "TlRMTVNTUA" not in rig.proxyd.logs()  # NTLM's tokens begin so in base64
    assert "spnego" not in rig.proxyd.logs()


@pytest.mark.mission("M16")
def test_the_recording_decodes_to_what_the_client_showed(rig: Rig, short: Path) -> None:
    pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")
    from proxyd.index.rdp.screen import screen  # noqa: PLC0415 - needs the decoder

    with rig.client(short / "c", "alice%desk", ALICE) as client:
        works(client, rig.desktop)
        session = rig.proxyd.the_live_session()["id"]
        shown = same(client.screen, rig.desktop.screen)
    rig.proxyd.ended(session)
    records = list(rig.proxyd.recording(session).records())
    decoded = screen(records, records[-1].at_us)
    assert shown.differing(Picture(*decoded)) == 0


@pytest.mark.skipif(not sound.INSTALLED, reason="PulseAudio is not installed")
@pytest.mark.mission("M16")
def test_sound_is_heard_and_is_pcm_whatever_the_target_would_rather_send(rig: Rig, short: Path) -> None:
    with (
        Ear(short / "ear") as ear,
        rig.client(short / "c", "alice%desk", ALICE, options=("/sound:sys:pulse",), sink=ear.env),
    ):
        session = rig.proxyd.the_live_session()["id"]
        path = rig.desktop.sound
        sound.play(path, sound.tone(440.0, seconds=2.0))
        eventually("the tone is heard", lambda: sound.loud_s(ear.heard) > 1.0)
        assert abs(sound.pitch_hz(ear.heard) - 440.0) < CLOSE_HZ
    rig.proxyd.ended(session)
    names = rig.bodies(session, Kind.REQUEST)[0]["channels"]
    channel = next(int(number) for number, name in names.items() if name == "rdpsnd")
    for kind in (Kind.PDU, Kind.INPUT_PDU):
        frames = [frame for frame in rig.bodies(session, kind) if not is_fast_path(frame)]
        said = [data for frame in frames if (data := mcs.data_frame(frame)) and data.channel == channel]
        formats = parse_formats(parse_chunk(said[0].payload).data).formats  # each side begins with its own
        assert {one.tag for one in formats} == {WAVE_FORMAT_PCM}


GARBAGE = {
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", b""),
    "fast-path first": (b"\x04\x04\x00\x1e", b""),
    "a length of nothing": (b"\x03\x00\x00\x00", b""),
    "too long": (b"\x03\x00\xff\xff" + bytes(100), b""),
    "RDP's own security": (build_connection_request(ConnectionRequest()), b"\x03\x00\x00\x13"),
    "a client older than negotiation": (
        build_connection_request(ConnectionRequest(negotiates=False)),
        b"\x03\x00\x00\x13",
    ),
}


@pytest.mark.parametrize(("sent", "begins"), GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_client_of_ours_is_left_without_a_session(rig: Rig, sent: bytes, begins: bytes) -> None:
    before = rig.proxyd.ids()
    with socket.create_connection((HOST, rig.port), timeout=20) as raw:
        raw.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := raw.recv(4096):
                answer += part
    assert answer.startswith(begins)
    assert bool(answer) == bool(begins)
    if answer:
        confirm = parse_connection_confirm(answer)
        assert confirm.failure == NegotiationFailure.HYBRID_REQUIRED_BY_SERVER
    assert rig.proxyd.ids() == before


@pytest.mark.parametrize(
    "sent",
    [
        b"\x03\x00\x00\x07\x02\xf0\x80",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x03\x00\x00\x08\x02\xf0\x80\x28",
        bytes(64),
    ],
)
def test_nonsense_inside_tls_ends_the_connection(rig: Rig, sent: bytes) -> None:
    context = ssl.create_default_context(cafile=rig.identity.ca)
    for protocol in (Protocol.SSL, Protocol.HYBRID):
        with socket.create_connection((HOST, rig.port), timeout=20) as raw:
            raw.sendall(build_connection_request(ConnectionRequest(protocols=protocol)))
            assert parse_connection_confirm(raw.recv(19)).selected == protocol
            with (
                context.wrap_socket(raw, server_hostname=HOST) as tls,
                contextlib.suppress(ConnectionResetError),
            ):
                tls.sendall(sent)
                assert tls.recv(4096) == b""
    assert not rig.proxyd.live()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("stranger", "showed a certificate that is not trusted"),
        ("swapped", "showed a certificate that is not the pinned one; its SHA-256 is "),
        ("locked", "locked broke off the login of its account"),
        ("gone", "gone refused the connection."),
    ],
)
def test_a_target_that_can_not_be_used_ends_the_session_before_it_begins(
    rig: Rig, short: Path, target: str, why: str
) -> None:
    before = rig.proxyd.ids()
    with rig.client(short / "c", f"alice%{target}", ALICE) as client:
        assert client.ended() != 0
        assert client.words == DENIED
    (session,) = rig.proxyd.ids() - before
    rig.proxyd.ended(session)
    (end,) = rig.bodies(session, Kind.END)
    assert end["reason"] == "target error"
    assert why in end["error"]
    found = {"stranger": ["certificate-untrusted"], "swapped": ["certificate-changed"]}.get(target, [])
    assert [body["code"] for body in rig.bodies(session, Kind.FINDING)] == found


@pytest.mark.mission("M11")
def test_a_target_with_its_pinned_certificate_is_trusted(rig: Rig, short: Path) -> None:
    with rig.client(short / "c", "alice%pinned", ALICE) as client:
        works(client, rig.desktop)
        session = rig.proxyd.the_live_session()["id"]
    rig.proxyd.ended(session)
    assert not rig.bodies(session, Kind.FINDING)


def test_a_wrong_password_of_an_account_is_said_by_a_target_without_nla_itself(rig: Rig, short: Path) -> None:
    """Inside TLS a server takes everybody in, and asks: what it shows then is in its own words, and recorded."""
    with rig.client(short / "c", "alice%mistyped", ALICE) as client:
        eventually(
            "xrdp refuses",
            lambda: f"login failed for user {rig.desktop.user}" in rig.desktop.log,
            within_s=30,
        )
        eventually("the client shows it", lambda: client.screen.picture().colours >= 3)
        assert client.connected
        session = rig.proxyd.the_live_session()["id"]
    assert rig.proxyd.ended(session)["reason"] == "closed"


def corner(picture: Picture, width: int, height: int) -> bytes:
    """The pixels of a picture's upper left part."""
    row = picture.width * 3
    return b"".join(picture.rgb[at : at + width * 3] for at in range(0, height * row, row))


@pytest.mark.mission("M16")
def test_a_client_that_changes_its_size_is_followed(rig: Rig, short: Path) -> None:
    """The last of this file: the target's desktop stays so."""
    with rig.client(short / "c", "alice%desk", ALICE, options=("/dynamic-resolution",)) as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        client.screen.resize(client.screen.windows("FreeRDP")[0], *SMALLER)
        eventually(
            "the desktop has the size", lambda: rig.desktop.screen.picture()[:2] == SMALLER, within_s=30
        )

        def alike() -> Picture | None:
            target = rig.desktop.screen.picture()
            return target if corner(client.screen.picture(), *SMALLER) == target.rgb else None

        shown = eventually("the client shows it", alike, within_s=30)
        assert shown is not None
        assert shown.colours >= 3
    rig.proxyd.ended(session)
    pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")
    from proxyd.index.rdp.screen import screen  # noqa: PLC0415 - needs the decoder

    records = list(rig.proxyd.recording(session).records())
    assert shown.differing(Picture(*screen(records, records[-1].at_us))) == 0
