"""What operators let the users of desktops read: drawn over the session, seen on the clients' own screens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import repeat
from operator import eq
from pathlib import Path
from typing import Self

import pytest

from proxyd.gate import REVOKED
from proxyd.recorder.record import Kind
from proxyd.session import DISCONNECTED
from tests.e2e.desktops import ALICE, Front, account, front
from tests.peers.process import eventually
from tests.peers.rdp import freerdp, shadow, xrdp
from tests.peers.rdp.freerdp import RDesktop
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, Screen, same
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and shadow.INSTALLED and freerdp.INSTALLED),
        reason="xrdp, FreeRDP's shadow server or xfreerdp is missing",
    ),
    pytest.mark.mission("M3", "M4"),
]

RED = bytes((160, 0, 0))  # of a notice
LEAST = 2000  # red pixels of the shortest notice
TEXT = "Wartung ab 18:00 Uhr \u2013 bitte schlie\u00dfen und sp\u00e4ter neu anmelden. " * 3
CLOSED_S = 1.3  # a second, and what this process and the machine add


@pytest.fixture(scope="module")
def desktop(shared: Path) -> Iterator[Xrdp]:
    with Xrdp(shared / "notices-x") as made:
        yield made


@pytest.fixture(scope="module")
def shadowed(shared: Path) -> Iterator[Shadow]:
    with Shadow(shared / "notices-s", Security.TLS) as made:
        yield made


@pytest.fixture(scope="module")
def rig(shared: Path, desktop: Xrdp, shadowed: Shadow) -> Iterator[Front]:
    directory = shared / "notices"
    directory.mkdir()
    targets = {
        "desk": account(directory, "desk", desktop),
        "shadow": account(directory, "shadow", shadowed),
    }
    with front(directory, targets) as made:
        yield made


def red(picture: Picture) -> int:
    """How many pixels have the colour notices are drawn on."""
    planes = (map(eq, picture.rgb[at::3], repeat(RED[at])) for at in range(3))
    return sum(map(all, zip(*planes, strict=True)))


def shows(screen: Screen) -> bool:
    return red(screen.picture()) > LEAST


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((800, 600), marks=pytest.mark.slow),
        (1280, 800),
        pytest.param((1920, 1080), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_message_is_drawn_and_goes_away_again(
    rig: Front, desktop: Xrdp, short: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    with rig.client(short / "c", "alice%desk", ALICE, size=size) as client:
        eventually("the desktop has the size", lambda: desktop.screen.picture()[:2] == size, within_s=60)
        before = same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        told = rig.proxyd.ctl("message", session, TEXT).data
        assert told["text"] == TEXT.strip()
        eventually("it is shown", lambda: shows(client.screen))
        client.screen.picture().save(tmp_path / "message.ppm")
        client.screen.click(*IN_TERMINAL)
        client.screen.key("Return")  # what is painted over it shows the notice again
        eventually("it goes away", lambda: not shows(client.screen), within_s=40)
        assert same(client.screen, desktop.screen).differing(before) > 0
    rig.proxyd.ended(session)
    assert rig.bodies(session, Kind.NOTICE) == [TEXT.strip()]
    done = [one for one in rig.bodies(session, Kind.CONTROL) if one["action"] == "message"]
    assert [one["reason"] for one in done] == [TEXT.strip()]


def test_a_shut_gate_stays_said_and_comes_back_after_a_message(
    rig: Front, desktop: Xrdp, short: Path
) -> None:
    with rig.client(short / "c", "alice%desk", ALICE) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        rig.proxyd.call("block", session=session)
        eventually("it is shown", lambda: shows(client.screen))
        held = red(client.screen.picture())
        desktop.screen.click(*IN_TERMINAL)
        desktop.screen.enter("clear; seq 200; clear")  # paints where the notice stands
        rig.proxyd.call("message", session=session, text="x" * 50)
        eventually("the message is shown", lambda: red(client.screen.picture()) > held)
        eventually("and then the gate's again", lambda: red(client.screen.picture()) == held, within_s=20)
        rig.proxyd.call("unblock", whom=session)
        same(client.screen, desktop.screen)
    rig.proxyd.ended(session)
    assert rig.bodies(session, Kind.NOTICE)[0] == REVOKED


class Eye:
    """Looks at a screen without pause until left; `saw`: whether a notice was there at any look."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.saw = False

    def _look(self) -> None:
        while not self._over.is_set():
            self.saw |= shows(self._screen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)


@pytest.mark.parametrize("target", ["desk", "shadow"])
def test_who_is_dropped_sees_it_drawn_before_the_client_ends(rig: Front, short: Path, target: str) -> None:
    with rig.client(short / "c", f"alice%{target}", ALICE) as client:
        session = rig.proxyd.the_live_session()["id"]
        eventually("the desktop is shown", lambda: client.screen.picture().colours >= 3, within_s=60)
        assert not shows(client.screen)
        control = rig.proxyd.client()
        with Eye(client.screen) as eye:
            begun = time.monotonic()
            control.call("drop", session=session)
            took = time.monotonic() - begun
            assert client.ended() != 0
        assert eye.saw
        assert took < CLOSED_S
        assert client.words == ["ERRINFO_RPC_INITIATED_DISCONNECT"]
    assert rig.proxyd.ended(session)["reason"] == "dropped"
    assert rig.bodies(session, Kind.NOTICE)[-1] == DISCONNECTED


@pytest.mark.skipif(not freerdp.RDESKTOP_INSTALLED, reason="rdesktop is not installed")
def test_rdesktop_shows_a_message(rig: Front, desktop: Xrdp, short: Path) -> None:
    with RDesktop(short / "c", rig.port, "alice%desk", ALICE) as client:
        same(client.screen, desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        rig.proxyd.call("message", session=session, text="save your work")
        eventually("it is shown", lambda: shows(client.screen))
        same(client.screen, desktop.screen)
