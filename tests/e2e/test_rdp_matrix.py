"""Every client, every way in, every kind of target: what a user of a desktop does, each through proxyd.

Rule 1: what the client shows is compared with the target's own screen, pixel by pixel, and with the decoded recording.
Rule 2: of each cell every deed is done or has a stated reason why it can't be; there is no third state.
Rule 3: the table is kept as an artefact (build/rdp-matrix.md), drawn from the cells that ran.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.desktops import ALICE, BOB, Desktop, Front, account, front, login_screen, shows
from tests.peers.process import eventually
from tests.peers.rdp import freerdp, shadow, sound, xrdp
from tests.peers.rdp.freerdp import RDESKTOP, XFREERDP, XFREERDP3, Client, RDesktop
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.sound import Ear
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, Screen, same
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and shadow.INSTALLED and freerdp.INSTALLED),
        reason="xrdp, FreeRDP's shadow server or xfreerdp is missing",
    ),
    pytest.mark.mission("M16"),
    pytest.mark.timeout(300),
]

ARTEFACT = Path(__file__).parents[2] / "build" / "rdp-matrix.md"
CLIENTS = {
    XFREERDP: freerdp.INSTALLED,
    RDESKTOP: freerdp.RDESKTOP_INSTALLED,
    XFREERDP3: freerdp.INSTALLED_3,
}
NLA, DEFERRED, DRAWN = "front NLA", "deferred TLS", "drawn login"
FRONTS = (NLA, DEFERRED, DRAWN)
DESK, SHADOW_NLA, SHADOW_TLS = "xrdp TLS", "freerdp-shadow NLA", "freerdp-shadow TLS"
NAMES = {DESK: "desk", SHADOW_NLA: "nla", SHADOW_TLS: "tls"}
NO_WAY_IN = {(RDESKTOP, NLA): "rdesktop proves passwords to Kerberos alone"}
ALONE = {(RDESKTOP, "clipboard to target")}  # directly too, its clipboard serves one exchange a session
REPRESENTATIVE = (
    (XFREERDP, NLA, DESK),
    (XFREERDP, DEFERRED, SHADOW_NLA),
    (RDESKTOP, DRAWN, SHADOW_TLS),
    (XFREERDP3, NLA, SHADOW_NLA),
)
LINE = "The quick (brown) fox: 0123456789 +-*/ [done]!"
PLACES = ((301, 302), (640, 480), (1000, 700), (0, 0))
UP, BACK = "Grüße \u20ac 5 — 日本", "zurück: \u017c\u00f3\u0142\u0107 \u20ac"
SMALLER = (800, 600)
CLOSE_HZ = 10.0  # two edges of 440 Hz are 100.2 samples apart


@dataclass
class Rig:
    """The three targets and the way to them."""

    front: Front
    targets: dict[str, Desktop]


@pytest.fixture(scope="module")
def rig(shared: Path) -> Iterator[Rig]:
    directory = shared / "rdp-matrix"
    directory.mkdir()
    with (
        Xrdp(directory / "x") as desk,
        Shadow(directory / "n", Security.NLA) as nla,
        Shadow(directory / "t", Security.TLS) as tls,
    ):
        targets: dict[str, Desktop] = {DESK: desk, SHADOW_NLA: nla, SHADOW_TLS: tls}
        settings = {NAMES[kind]: account(directory, NAMES[kind], one) for kind, one in targets.items()}
        with front(directory, settings) as made:
            yield Rig(made, targets)


@dataclass
class Cell:
    """One client that came in one way to one target."""

    rig: Rig
    client: Client
    program: str
    way: str
    kind: str
    path: Path
    ear: Ear | None
    session: str = ""
    shown: Picture | None = None  # the last picture the client had in common with the target
    done: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Desktop:
        return self.rig.targets[self.kind]


# ------------------------------------------------------------------ what is done in a cell


def connect(cell: Cell) -> None:
    """Log in: the client shows what the target's own screen does."""
    if cell.way == DRAWN:
        shows(cell.client, login_screen(f"alice%{NAMES[cell.kind]}"))
        cell.client.screen.enter(ALICE)
    assert same(cell.client.screen, cell.target.screen, within_s=60).colours >= 3
    cell.session = cell.rig.front.proxyd.the_live_session()["id"]


def types(cell: Cell) -> None:
    """Type a line into the target's shell."""
    typed = cell.target.home / "typed"
    typed.unlink(missing_ok=True)
    cell.client.screen.click(*IN_TERMINAL)
    cell.client.screen.enter(f"echo '{LINE}' > typed")
    eventually("what was typed arrives", lambda: typed.exists() and typed.read_text() == f"{LINE}\n")


def clicks(cell: Cell) -> None:
    """Press the pointer's button at several places: the target's own pointer does the same."""
    for place in PLACES:
        click(cell.client.screen, cell.target.screen, *place)
    cell.shown = same(cell.client.screen, cell.target.screen)


def click(screen: Screen, target: Screen, x: int, y: int) -> None:
    """Click once; to the pixel beside it, as FreeRDP 3 tells of a motion with the next one only."""

    def at(pressed: bool) -> bool:
        across, down, button = target.pointer()
        return abs(across - x) <= 1 and abs(down - y) <= 1 and button is pressed

    def arrives() -> bool:
        screen.move(x + 1, y)
        screen.move(x, y)
        return at(pressed=False)

    eventually("the pointer is there", arrives)
    screen.button(down=True)
    eventually("its button is down", lambda: at(pressed=True))
    screen.button(down=False)
    eventually("its button is up", lambda: at(pressed=False))


def pastes_there(cell: Cell) -> None:
    """Copy at the client, paste at the target."""
    with cell.client.screen.offering(UP, cell.path):
        eventually("it can be pasted there", lambda: cell.target.screen.selected() == UP, within_s=20)


def pastes_here(cell: Cell) -> None:
    """Copy at the target, paste at the client."""
    with cell.target.screen.offering(BACK, cell.path):
        eventually("it can be pasted here", lambda: cell.client.screen.selected() == BACK, within_s=20)


def hears(cell: Cell) -> None:
    """Play a tone in the session."""
    assert isinstance(cell.target, Xrdp)
    ear = cell.ear
    assert ear is not None
    sound.play(cell.target.sound, sound.tone(440.0, seconds=2.0))
    eventually("the tone is heard", lambda: sound.loud_s(ear.heard) > 1.0)
    assert abs(sound.pitch_hz(ear.heard) - 440.0) < CLOSE_HZ


def resizes(cell: Cell) -> None:
    """Give the client's window another size: the desktop follows."""
    screen = cell.client.screen
    screen.resize(screen.windows("FreeRDP")[0], *SMALLER)
    eventually("the desktop has the size", lambda: cell.target.screen.picture()[:2] == SMALLER, within_s=30)

    def alike() -> Picture | None:
        target = cell.target.screen.picture()
        return target if screen.picture().part(*SMALLER) == target else None

    cell.shown = eventually("the client shows it", alike, within_s=30)


def is_recorded(cell: Cell) -> None:
    """The recording decodes to what the client showed last."""
    assert cell.shown is not None
    eventually(
        "the live recording shows the same",
        lambda: cell.rig.front.shot(cell.session, cell.path).differing(cell.shown) == 0,
        within_s=20,
    )


def leaves(cell: Cell) -> None:
    """Close the client: the session is over."""
    cell.client.close()
    row = cell.rig.front.proxyd.ended(cell.session)
    assert (row["state"], row["reason"]) == ("ended", "closed")
    assert cell.shown is not None
    assert cell.rig.front.shot(cell.session, cell.path).differing(cell.shown) == 0


DEEDS: dict[str, Callable[[Cell], None]] = {
    "connect": connect,
    "type": types,
    "click": clicks,
    "clipboard to client": pastes_here,
    "clipboard to target": pastes_there,
    "sound": hears,
    "resize": resizes,
    "recording": is_recorded,
    "disconnect": leaves,
}


def reason(program: str, kind: str, deed: str) -> str:
    """Say why a deed can't be done in a cell, empty when it can."""
    if kind != DESK:
        return {
            "clipboard to client": "the server has no clipboard",
            "clipboard to target": "the server has no clipboard",
            "sound": "the server plays no sound",
            "resize": "the server shows a display of one size",
        }.get(deed, "")
    if deed == "resize" and program == RDESKTOP:
        return "rdesktop does not ask for it, directly neither"
    if deed == "sound" and not sound.INSTALLED:
        return "PulseAudio is not installed"
    if deed == "sound" and program != RDESKTOP and not freerdp.plays(program):
        return "this client was built without PulseAudio"
    return ""


# ------------------------------------------------------------------ the cells


def client_of(rig: Rig, program: str, way: str, kind: str, path: Path, ear: Ear | None) -> Client:
    """Make a client that is going to come in this way."""
    user, password = {NLA: ("bob", BOB), DEFERRED: ("alice", ALICE), DRAWN: ("alice", "")}[way]
    user = f"{user}%{NAMES[kind]}"
    sink = ear.env if ear else None
    if program == RDESKTOP:
        options = ("-r", "sound:local:pulse") if ear else ()
        return RDesktop(path / "c", rig.front.port, user, password, options=options, sink=sink)
    more = ("/sound:sys:pulse",) if ear else ()
    return rig.front.client(
        path / "c", user, password, security="nla" if way == NLA else "tls", program=program, sink=sink,
        options=("/dynamic-resolution", "+clipboard", *more),
    )  # fmt: skip


def run(rig: Rig, program: str, way: str, kind: str, path: Path) -> None:
    if not CLIENTS[program]:
        keep(program, way, kind, dict.fromkeys(DEEDS, "not run: not on PATH"))
        pytest.skip(f"NO {program.upper()} ON PATH: this row of the matrix is not shown")
    done = {name: f"n/a: {why}" for name in DEEDS if (why := reason(program, kind, name))}
    visits: list[list[str]] = [[], []]
    for name in DEEDS:
        if name not in done:
            visits[(program, name) in ALONE].append(name)
    visits[1] = ["connect", *visits[1]] if visits[1] else []
    for number, names in enumerate(visits):
        with ExitStack() as stack:
            if names:
                visit(rig, program, way, kind, path / str(number), names, done, stack)
    keep(program, way, kind, done)


def visit(
    rig: Rig,
    program: str,
    way: str,
    kind: str,
    path: Path,
    names: list[str],
    done: dict[str, str],
    stack: ExitStack,
) -> None:
    """Come in once and do these things; notes each in `done`."""
    path.mkdir()
    ear = stack.enter_context(Ear(path / "ear")) if "sound" in names else None
    client = stack.enter_context(client_of(rig, program, way, kind, path, ear))
    cell = Cell(rig, client, program, way, kind, path, ear)
    for name in names:
        done[name] = "FAILED"
        try:
            DEEDS[name](cell)
        except BaseException:
            keep(program, way, kind, done)
            raise
        done[name] = "yes"


CELLS = [
    pytest.param(
        *(program, way, kind),
        marks=[] if (program, way, kind) in REPRESENTATIVE else pytest.mark.slow,
        id=f"{program}-{way}-{kind}",
    )
    for program in CLIENTS
    for way in FRONTS
    for kind in NAMES
    if (program, way) not in NO_WAY_IN
]


@pytest.mark.parametrize(("program", "way", "kind"), CELLS)
def test_a_user_works_as_on_the_target_itself(
    rig: Rig, short: Path, program: str, way: str, kind: str
) -> None:
    run(rig, program, way, kind, short)


def test_every_cell_is_run_or_has_a_reason() -> None:
    assert len(CELLS) + len(NO_WAY_IN) * len(NAMES) == len(CLIENTS) * len(FRONTS) * len(NAMES)
    shown = set(REPRESENTATIVE)
    assert {program for program, _, _ in shown} == set(CLIENTS)
    assert {way for _, way, _ in shown} == set(FRONTS)
    assert {kind for _, _, kind in shown} == set(NAMES)


def keep(program: str, way: str, kind: str, done: dict[str, str]) -> None:
    """Note one cell and draw the table again; several workers write, one after the other."""
    ARTEFACT.parent.mkdir(exist_ok=True)
    with ARTEFACT.with_suffix(".json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        cells: dict[str, Any] = json.loads(file.read() or "{}")
        cells[f"{program}|{way}|{kind}"] = done
        file.seek(0)
        file.truncate()
        file.write(json.dumps(cells, indent=1))
        file.flush()
        ARTEFACT.write_text(table(cells))


def table(cells: dict[str, dict[str, str]]) -> str:
    """The matrix as Markdown, a line for each cell."""
    head = ("client", "way in", "target", *DEEDS)
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for program in CLIENTS:
        for way in FRONTS:
            for kind in NAMES:
                why = NO_WAY_IN.get((program, way))
                done = cells.get(f"{program}|{way}|{kind}", {})
                row = [f"n/a: {why}" if why else done.get(deed, "not run") for deed in DEEDS]
                lines.append("| " + " | ".join((program, way, kind, *row)) + " |")
    return "\n".join(lines) + "\n"
