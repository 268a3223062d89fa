"""What a recording shows is what the client showed: no pixel differs, at the end and at any moment in between.

A moment is one at which the client's own screen was the same before and after, long enough for what was on its way to it.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxyd.protocols.rdp import fastpath, mcs, share
from proxyd.protocols.rdp.wire import is_fast_path
from proxyd.recorder.record import Kind
from tests.e2e.desktops import ALICE, Desktop, Front, account, front
from tests.peers.process import Process, eventually
from tests.peers.rdp import freerdp, shadow, xrdp
from tests.peers.rdp.freerdp import Client
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, Screen, same
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and shadow.INSTALLED and freerdp.INSTALLED),
        reason="xrdp, FreeRDP's shadow server or xfreerdp is missing",
    ),
    pytest.mark.mission("M12", "M16"),
    pytest.mark.timeout(900),
]

PAINTER = Path(freerdp.__file__).with_name("painter.py")
STILL_S = 0.5  # a screen that shows the same for so long has everything that was recorded in the middle of it
LASTS_S, MOMENTS = 180.0, 20
SMALLER = (800, 600)
TEXT = "clear; seq 3000; ls -l /usr/bin | head -300; clear; ls -l /etc"


@dataclass
class Seen:
    """What the client showed, and when."""

    what: str
    at: float
    picture: Picture


@dataclass
class Rig:
    """Two kinds of desktops behind a proxyd."""

    front: Front
    targets: dict[str, Desktop]


@pytest.fixture(scope="module")
def rig(shared: Path) -> Iterator[Rig]:
    directory = shared / "exact"
    directory.mkdir()
    with Xrdp(directory / "x") as desk, Shadow(directory / "s", Security.NLA) as shadowed:
        targets: dict[str, Desktop] = {"desk": desk, "nla": shadowed}
        with front(directory, {name: account(directory, name, one) for name, one in targets.items()}) as made:
            yield Rig(made, targets)


def still(screen: Screen) -> tuple[float, Picture]:
    """Wait until a screen shows the same for STILL_S; gives the time in the middle, and the picture."""

    def quiet() -> tuple[float, Picture] | None:
        began, first = time.time(), screen.picture()
        while screen.picture() == first:
            ended = time.time()
            if ended - began >= STILL_S:
                return (began + ended) / 2, first
        return None

    found = eventually("the screen stands still", quiet, within_s=30)
    assert found is not None
    return found


@contextmanager
def painted(target: Desktop, directory: Path, what: str) -> Iterator[None]:
    """Let the painter show something on the target while inside."""
    log = directory / f"{what}.log"
    with Process([sys.executable, str(PAINTER), what], log=log, env=target.screen.env) as process:
        eventually("it is painted", lambda: "painted" in process.text(), within_s=30)
        yield


@dataclass
class Session:
    """One client's session and the scenes that were shown in it."""

    rig: Rig
    target: str
    client: Client
    directory: Path
    id: str = ""
    seen: list[Seen] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Keep what the client shows, once that is what the target shows."""
        target = self.rig.targets[self.target]
        same(self.client.screen, target.screen, within_s=60)
        self.seen.append(Seen(what, *still(self.client.screen)))

    def check(self) -> None:
        """Compare each scene with the sealed recording at its moment."""
        for one in self.seen:
            moment = datetime.fromtimestamp(one.at, UTC).isoformat()
            drawn = self.rig.front.shot(self.id, self.directory, "--at", moment)
            if drawn[:2] != one.picture[:2]:  # the desktop became smaller than the client's display
                corner = one.picture.part(*drawn[:2])
                assert drawn.differing(corner) == 0, one.what
            else:
                assert drawn.differing(one.picture) == 0, one.what


@contextmanager
def session(rig: Rig, target: str, directory: Path, *options: str) -> Iterator[Session]:
    """Connect; when left, end the session and compare all that was noted."""
    with rig.front.client(directory / "c", f"alice%{target}", ALICE, options=options) as client:
        made = Session(rig, target, client, directory)
        same(client.screen, rig.targets[target].screen, within_s=60)
        made.id = rig.front.proxyd.the_live_session()["id"]
        yield made
    rig.front.proxyd.ended(made.id)
    made.check()


def compressed(rig: Rig, name: str) -> int:
    """Count the frames of a recording that have compressed updates."""
    found = 0
    for frame in rig.front.bodies(name, Kind.PDU):
        if is_fast_path(frame):
            found += any(update.compression & 0x20 for update in fastpath.parse_output(frame))
        elif (data := mcs.data_frame(frame)) and data.channel == mcs.GLOBAL_CHANNEL:
            controls = [one for one in share.split(data.payload) if one.kind == share.ControlKind.DATA]
            found += any(share.share_data(one).compressed for one in controls)
    return found


@pytest.mark.parametrize(
    ("target", "compression"),
    [
        ("desk", "+compression"),
        pytest.param("desk", "-compression", marks=pytest.mark.slow),
        pytest.param("nla", "+compression", marks=pytest.mark.slow),
        pytest.param("nla", "-compression", marks=pytest.mark.slow),
    ],
)
def test_no_pixel_differs_in_any_scene(rig: Rig, short: Path, target: str, compression: str) -> None:
    desktop = rig.targets[target]
    with session(rig, target, short, compression, "/dynamic-resolution") as made:
        screen = made.client.screen
        screen.click(*IN_TERMINAL)
        screen.enter(TEXT)
        made.note("text")
        for what in ("gradient", "noise", "drag"):
            with painted(desktop, short, what):
                made.note(what)
        made.note("what was below")
        if isinstance(desktop, Xrdp):
            resize(made, desktop)
    if compression == "+compression" and target == "desk":
        assert compressed(rig, made.id) > 0
    if compression == "-compression":
        assert compressed(rig, made.id) == 0


def resize(made: Session, desktop: Xrdp) -> None:
    """Make the client's window smaller and note what the desktop then shows."""
    screen = made.client.screen
    screen.resize(screen.windows("FreeRDP")[0], *SMALLER)
    eventually("the desktop has the size", lambda: desktop.screen.picture()[:2] == SMALLER, within_s=30)
    alike: Callable[[], bool] = lambda: (  # noqa: E731
        screen.picture().part(*SMALLER) == desktop.screen.picture()
    )
    eventually("the client shows it", alike, within_s=30)
    made.seen.append(Seen("resized", *still(screen)))
    screen.click(*IN_TERMINAL)
    screen.enter(TEXT)
    eventually("the client shows what was typed", alike, within_s=30)
    made.seen.append(Seen("text of the resized", *still(screen)))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["desk", "nla"])
def test_no_pixel_differs_at_random_moments_of_three_minutes(rig: Rig, short: Path, target: str) -> None:
    chance = random.Random(target)
    with session(rig, target, short) as made, painted(rig.targets[target], short, "busy"):
        began = time.monotonic()
        for due in sorted(chance.uniform(0, LASTS_S) for _ in range(MOMENTS)):
            eventually("its time has come", lambda: time.monotonic() >= began + due, within_s=LASTS_S)  # noqa: B023
            made.seen.append(Seen(f"moment {due:.1f}", *still(made.client.screen)))
        different = {one.picture for one in made.seen}
        assert len(different) > MOMENTS // 2, "the screen hardly changed"
