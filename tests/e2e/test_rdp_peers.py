"""The RDP peers themselves, no proxyd between: what a test may rely on before it blames what stands in the middle."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.process import eventually
from tests.peers.rdp import freerdp, shadow, sound, xrdp
from tests.peers.rdp.freerdp import XFREERDP3, Client, FreeRdp, RDesktop
from tests.peers.rdp.listening import listening
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.sound import Ear
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, same
from tests.peers.rdp.xrdp import Xrdp

need_xrdp = pytest.mark.skipif(
    not xrdp.INSTALLED, reason="xrdp, xorgxrdp or X tools are missing, or not root"
)
need_shadow = pytest.mark.skipif(not shadow.INSTALLED, reason="FreeRDP's shadow server is not installed")
need_xfreerdp = pytest.mark.skipif(not freerdp.INSTALLED, reason="xfreerdp is not installed")
need_xfreerdp3 = pytest.mark.skipif(not freerdp.INSTALLED_3, reason="no xfreerdp3 on PATH")
need_rdesktop = pytest.mark.skipif(not freerdp.RDESKTOP_INSTALLED, reason="rdesktop is not installed")
need_sound = pytest.mark.skipif(not sound.INSTALLED, reason="PulseAudio is not installed")

LINE = "The quick (brown) fox: 0123456789 +-*/ [done]!"
CLOSE_HZ = 10.0  # two edges of 440 Hz are 100.2 samples apart
MOST = 0.5  # of a tone's length that must be heard: the first blocks may fall into the channel's start


@pytest.fixture(scope="module")
def desktop(shared: Path) -> Iterator[Xrdp]:
    """An xrdp for all tests of this file."""
    with Xrdp(shared / "xrdp") as target:
        yield target


@pytest.fixture(scope="module")
def shadowed(shared: Path) -> Iterator[Shadow]:
    """A shadow server that asks for NLA."""
    with Shadow(shared / "nla", Security.NLA) as target:
        yield target


def works(client: Client, target: Xrdp | Shadow) -> Picture:
    """Type a line into the target's shell through the client; both must show the same pixels before and after."""
    before = same(client.screen, target.screen)
    assert before.colours >= 3, "no desktop with a terminal"
    typed = target.home / "typed"
    typed.unlink(missing_ok=True)
    client.screen.click(*IN_TERMINAL)
    client.screen.enter(f"echo '{LINE}' > typed")
    eventually("what was typed arrives", lambda: typed.exists() and typed.read_text() == f"{LINE}\n")
    after = same(client.screen, target.screen)
    assert after != before
    assert client.connected
    return after


@need_xrdp
@need_xfreerdp
def test_xfreerdp_logs_in_to_xrdp_by_tls_and_its_user_types_and_sees(desktop: Xrdp, short: Path) -> None:
    with FreeRdp(
        short / "c", desktop.port, desktop.user, desktop.password, fingerprint=desktop.identity.fingerprint
    ) as client:
        works(client, desktop)


@need_xrdp
@need_rdesktop
def test_rdesktop_logs_in_to_xrdp_by_tls_and_its_user_types_and_sees(desktop: Xrdp, short: Path) -> None:
    with RDesktop(short / "c", desktop.port, desktop.user, desktop.password) as client:
        works(client, desktop)


@need_shadow
@need_xfreerdp
def test_xfreerdp_logs_in_to_shadow_by_nla_and_its_user_types_and_sees(shadowed: Shadow, short: Path) -> None:
    with FreeRdp(
        short / "c", shadowed.port, shadowed.user, shadowed.password, security="nla",
        fingerprint=shadowed.identity.fingerprint,
    ) as client:  # fmt: skip
        works(client, shadowed)


@need_shadow
@need_xfreerdp
def test_shadow_by_tls_asks_nothing(short: Path) -> None:
    with (
        Shadow(short / "s", Security.TLS) as target,
        FreeRdp(short / "c", target.port, "anybody", "anything") as client,
    ):
        works(client, target)


@need_shadow
@need_xfreerdp3
def test_freerdp_3_logs_in_to_shadow_by_nla_and_its_user_types_and_sees(
    shadowed: Shadow, short: Path
) -> None:
    with FreeRdp(
        short / "c", shadowed.port, shadowed.user, shadowed.password, security="nla", program=XFREERDP3
    ) as client:
        works(client, shadowed)


@need_shadow
@need_xfreerdp
def test_a_wrong_password_by_nla_ends_the_client(shadowed: Shadow, short: Path) -> None:
    with FreeRdp(short / "c", shadowed.port, shadowed.user, "wrong", security="nla") as client:
        assert client.ended() != 0
        assert client.words == ["ERRCONNECT_CONNECT_TRANSPORT_FAILED"]  # FreeRDP 2's server says no reason


@need_xrdp
@need_xfreerdp
def test_a_wrong_password_by_tls_leaves_the_user_before_xrdps_own_words(desktop: Xrdp, short: Path) -> None:
    sessions = desktop.account.displays()
    with FreeRdp(short / "c", desktop.port, desktop.user, "wrong") as client:
        eventually("xrdp refuses", lambda: f"login failed for user {desktop.user}" in desktop.log)
        assert f"AUTHFAIL: user={desktop.user} " in desktop.log
        eventually("the client shows it", lambda: client.screen.picture().colours >= 3)
        assert client.connected
    assert desktop.account.displays() == sessions


@need_shadow
@need_xfreerdp
def test_a_client_that_expects_another_certificate_does_not_log_in(shadowed: Shadow, short: Path) -> None:
    with FreeRdp(
        short / "c",
        shadowed.port,
        shadowed.user,
        shadowed.password,
        security="nla",
        fingerprint="00:" * 31 + "00",
    ) as client:
        assert client.ended() != 0
        assert client.words == ["ERRCONNECT_TLS_CONNECT_FAILED"]


@need_xrdp
@need_xfreerdp
@need_sound
def test_a_tone_of_the_session_is_heard_at_the_client(desktop: Xrdp, short: Path) -> None:
    with (
        Ear(short / "ear") as ear,
        FreeRdp(
            short / "c", desktop.port, desktop.user, desktop.password, options=sound.LISTEN, sink=ear.env
        ),
    ):
        path = desktop.sound
        assert sound.pitch_hz(ear.heard) == 0.0
        sound.play(path, sound.tone(440.0, seconds=2.0))
        eventually("the tone is heard", lambda: sound.loud_s(ear.heard) > 2.0 * MOST)
        assert abs(sound.pitch_hz(ear.heard) - 440.0) < CLOSE_HZ


@need_xrdp
@need_xfreerdp
def test_several_at_once_do_not_meet_and_leave_nothing_when_a_test_fails(short: Path) -> None:
    targets, clients = [Xrdp(short / f"x{at}") for at in range(2)], list[FreeRdp]()
    with pytest.raises(ZeroDivisionError), targets[0], targets[1]:
        clients = [
            FreeRdp(short / f"c{at}", one.port, one.user, one.password) for at, one in enumerate(targets)
        ]
        with clients[0], clients[1]:
            for client, target in zip(clients, targets, strict=True):
                works(client, target)
            screens = [one.screen for one in targets] + [one.screen for one in clients]
            numbers = {screen.number for screen in screens}
            assert len(numbers) == 4
            owned = [one.account.processes() for one in targets]
            assert all(owned)
            _ = 1 / 0
    for target in targets:
        assert not target.account.processes()
        assert not target.account.displays()
        assert not listening(target.port)
        with pytest.raises(KeyError):
            pwd.getpwnam(target.user)
    assert not [one for one in clients if one.connected]
    left = [path for number in numbers for path in (f"/tmp/.X11-unix/X{number}", f"/tmp/.X{number}-lock")]
    assert not [path for path in left if Path(path).exists()]
