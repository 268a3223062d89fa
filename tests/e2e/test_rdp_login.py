"""The login screen: real clients that bring no credentials, what they are shown, what their user types and clicks on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyotp
import pytest

from proxyd.access import hash_password
from proxyd.protocols.rdp.loginpicture import BACKGROUND, Box, draw, place
from proxyd.protocols.rdp.loginscreen import LoginScreen, Part, Row
from tests.e2e.desktops import ALICE, BOB, NODE, Desktop, Front, account, drawn, front, login_screen, shows
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.process import eventually, free_port
from tests.peers.rdp import freerdp, shadow, xrdp
from tests.peers.rdp.freerdp import Client, RDesktop
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.x11 import IN_TERMINAL, SIZE, Picture, same, still
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and shadow.INSTALLED), reason="xrdp or FreeRDP's shadow server is missing"
    ),
    pytest.mark.skipif(not freerdp.INSTALLED, reason="xfreerdp is not installed"),
]
need_xfreerdp3 = pytest.mark.skipif(not freerdp.INSTALLED_3, reason="no xfreerdp3 on PATH")
need_rdesktop = pytest.mark.skipif(not freerdp.RDESKTOP_INSTALLED, reason="rdesktop is not installed")

LINE = "The quick (brown) fox: 0123456789 +-*/ [done]!"
WRONG = "Wrong user name or password."
US = "US English"
ASCII = "".join(map(chr, range(0x21, 0x7F)))
GERMAN_ALT_GR = {"@": "q", "{": "7", "[": "8", "]": "9", "}": "0", "\\": "ssharp", "~": "plus", "|": "less"}
GERMAN = "".join([*(mark for mark in ASCII if mark not in {*GERMAN_ALT_GR, *"^`"}), *GERMAN_ALT_GR, "^`"])
ALT_GR = "108"  # its key: xdotool would press one that no keyboard has
CIRCUMFLEX = "49"  # its key has it without AltGr, and another one with
CANARY = "never-to-be-seen-93"
TOTP_SECRET = "KRSXG5CTMVRXEZLUKN2XAZLSKRSXG5CT"
GRACE_S = 5  # long enough for the screen to be seen
SMALLER = (800, 600)
STEP_16 = 8  # between two shades of 5 bits


@dataclass
class Rig:
    """Three desktops behind one address, and one of them alone behind another."""

    front: Front
    targets: dict[str, Desktop]

    def rows(self) -> list[Row]:
        """What alice is shown."""
        return [
            Row(name, f"as {self.targets[name].user} - {DESCRIBED[name]}") for name in sorted(self.targets)
        ]


DESCRIBED = {"desk": "Finance, by TLS", "nla": "Personnel, by NLA", "open": "Lobby, asks nothing"}


@pytest.fixture(scope="module")
def rig(shared: Path) -> Iterator[Rig]:
    directory = shared / "login"
    with (
        Xrdp(directory / "x") as desk,
        Shadow(directory / "n", Security.NLA) as nla,
        Shadow(directory / "t", Security.TLS) as opened,
    ):
        targets: dict[str, Desktop] = {"desk": desk, "nla": nla, "open": opened}
        settings = {
            name: account(directory, name, target) | {"description": DESCRIBED[name]}
            for name, target in targets.items()
        }
        refused = settings["nla"] | {"address": f"{HOST}:{free_port()}"}
        seed = directory / "totp"
        seed.write_text(TOTP_SECRET)
        seed.chmod(0o600)

        def prepare(proxyd: Proxyd) -> None:
            more = {"gone": refused, "shallow": settings["desk"] | {"colour_depth": 16},
                    "pipeline": settings["open"] | {"graphics": "gfx"}}  # fmt: skip
            proxyd.settings["targets"] |= more
            proxyd.settings["grants"][0]["targets"] = list(targets)
            proxyd.user("dave", password=hash_password(ALICE), totp=f"file:{seed}")
            proxyd.user("erika", password=hash_password(GERMAN))
            proxyd.user("frank", password=hash_password(ALICE))
            proxyd.grant(users=["frank"], targets=list(more))
            proxyd.grant(users=["dave", "erika"])

        with front(directory, settings, prepare) as served:
            yield Rig(served, targets)


def backdrop(client: Client) -> tuple[int, ...]:
    """The colour in the screen's upper left corner."""
    return tuple(client.screen.picture().rgb[:3])


def list_screen(rig: Rig) -> LoginScreen:
    screen = LoginScreen()
    screen.ask_target(rig.rows())
    return screen


def spot(screen: LoginScreen, wanted: Part | int) -> tuple[int, int]:
    """The middle of what can be clicked."""
    found: dict[Any, Box] = dict(draw(screen.view, place(*SIZE), NODE, US).spots)
    box = found[wanted]
    return (box.left + box.right) // 2, (box.top + box.bottom) // 2


def works(client: Client, target: Desktop) -> None:
    """Type a line into the target's shell; both show the same pixels."""
    same(client.screen, target.screen)
    typed = target.home / "typed"
    typed.unlink(missing_ok=True)
    x, y = IN_TERMINAL
    client.screen.move(
        x - 9, y - 9
    )  # FreeRDP 3 tells of a click at once, and of the last motion before it never
    client.screen.click(x, y)
    client.screen.enter(f"echo '{LINE}' > typed")
    eventually("what was typed arrives", lambda: typed.exists() and typed.read_text() == f"{LINE}\n")
    same(client.screen, target.screen)


def client_of(kind: str, rig: Rig, directory: Path, user: str) -> Client:
    if kind == "rdesktop":
        return RDesktop(directory, rig.front.port, user, "")
    return rig.front.client(directory, user, "", program=kind)


KINDS = [
    pytest.param("xfreerdp"),
    pytest.param("xfreerdp3", marks=need_xfreerdp3),
    pytest.param("rdesktop", marks=need_rdesktop),
]


@pytest.mark.parametrize("name", ["desk", "nla", "open"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_login_through_the_drawn_screen(rig: Rig, short: Path, kind: str, name: str) -> None:
    user, target = f"alice%{name}", rig.targets[name]
    with client_of(kind, rig, short / "c", user) as client:
        shows(client, login_screen(user))
        client.screen.enter("not it")
        shows(client, login_screen(user, WRONG))
        client.screen.enter(ALICE)
        works(client, target)
        session = rig.front.proxyd.the_live_session()
        assert (session["user"], session["target"], session["how"]) == ("alice", name, "password")
    rig.front.proxyd.ended(session["id"])


@pytest.mark.parametrize("kind", KINDS)
def test_who_names_no_target_picks_one_by_the_keyboard(rig: Rig, short: Path, kind: str) -> None:
    with client_of(kind, rig, short / "c", "alice") as client:
        shows(client, login_screen("alice"))
        client.screen.enter(ALICE)
        listed = list_screen(rig)
        shows(client, listed)
        client.screen.key("Down", "Down", "Up")
        listed.scroll(1)
        shows(client, listed)
        client.screen.key("Return")
        works(client, rig.targets["nla"])


@pytest.mark.parametrize("kind", KINDS)
def test_who_names_no_target_picks_one_by_the_mouse(rig: Rig, short: Path, kind: str) -> None:
    with client_of(kind, rig, short / "c", "somebody") as client:
        asked = login_screen("somebody")
        shows(client, asked)
        client.screen.click(*spot(asked, Part.USER))
        client.screen.key("Home", *["Delete"] * len("somebody"))
        client.screen.type("alice")
        client.screen.click(*spot(asked, Part.PASSWORD))
        client.screen.type(ALICE)
        client.screen.click(*spot(asked, Part.GO))
        listed = list_screen(rig)
        shows(client, listed)
        client.screen.click(*spot(listed, 2))
        listed.click(2)
        shows(client, listed)
        client.screen.click(*spot(listed, Part.GO))
        works(client, rig.targets["open"])


def test_a_client_that_says_nothing_at_all_and_a_user_who_searches(rig: Rig, short: Path) -> None:
    with client_of("xfreerdp", rig, short / "c", "") as client:
        shows(client, login_screen(""))
        client.screen.type("alice")
        client.screen.key("Tab")
        client.screen.enter(ALICE)
        listed = list_screen(rig)
        shows(client, listed)
        client.screen.type("FINANCE")
        for letter in "FINANCE":
            listed.press(letter)
        shows(client, listed)
        client.screen.key("Return")
        works(client, rig.targets["desk"])


def test_after_nla_only_the_list_is_shown(rig: Rig, short: Path) -> None:
    with rig.front.client(short / "c", "bob", BOB, security="nla") as client:
        shows(client, list_screen(rig))
        client.screen.key("Return")
        works(client, rig.targets["desk"])
        assert rig.front.proxyd.the_live_session()["how"] == "nla"


def test_a_code_that_is_not_behind_the_password_is_asked_for(rig: Rig, short: Path) -> None:
    with rig.front.client(short / "c", "dave%desk", ALICE) as client:
        asked = LoginScreen()
        asked.ask_code()
        shows(client, asked)
        client.screen.enter("000000")
        asked.ask_code("That code is not right.")
        shows(client, asked)
        client.screen.enter(pyotp.TOTP(TOTP_SECRET).now())
        works(client, rig.targets["desk"])
        assert rig.front.proxyd.the_live_session()["how"] == "password+totp"


def test_a_password_of_all_of_ascii_on_a_german_keyboard(rig: Rig, short: Path) -> None:
    with rig.front.client(short / "c", "erika%desk", "", options=("/kbd:0x00000407",)) as client:
        client.screen.layout("de")
        asked = LoginScreen("erika%desk", 0x0407)
        asked.ask_login()
        shows(client, asked)
        client.screen.type("".join(mark for mark in ASCII if mark not in {*GERMAN_ALT_GR, *"^`"}))
        client.screen.hold(ALT_GR)
        client.screen.key(*GERMAN_ALT_GR.values())
        client.screen.release(ALT_GR)
        client.screen.key(CIRCUMFLEX, "space", "dead_grave", "space")
        client.screen.key("Return")
        works(client, rig.targets["desk"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_who_cancels_leaves_politely(rig: Rig, short: Path, kind: str) -> None:
    before = rig.front.proxyd.ids()
    with client_of(kind, rig, short / "c", "alice%desk") as client:
        shows(client, login_screen("alice%desk"))
        client.screen.key("Escape")
        client.ended()
        if kind != "rdesktop":
            assert client.words == ["ERRINFO_LOGOFF_BY_USER"]
    assert rig.front.proxyd.ids() == before


def test_three_wrong_passwords_end_the_connection(rig: Rig, short: Path) -> None:
    with rig.front.client(short / "c", "alice%desk", "") as client:
        shows(client, login_screen("alice%desk"))
        for _ in range(2):
            client.screen.enter("wrong")
            shows(client, login_screen("alice%desk", WRONG))
        client.screen.enter("wrong")
        client.ended()
        assert client.words == ["ERRINFO_SERVER_DENIED_CONNECTION"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere", "You may not reach nowhere; ask for a grant."),
        ("gone", "gone refused the connection."),
    ],
)
def test_why_there_is_no_session_stands_on_the_screen(rig: Rig, short: Path, name: str, why: str) -> None:
    with rig.front.client(short / "c", f"frank%{name}", "") as client:
        shows(client, login_screen(f"frank%{name}"))
        client.screen.enter(ALICE)
        told = login_screen(f"frank%{name}")
        told.tell(why)
        shows(client, told)
        client.screen.key("Return")
        client.ended()
        assert client.words == ["ERRINFO_SERVER_DENIED_CONNECTION"]


def test_nothing_of_the_login_is_on_the_tape_or_in_a_log(rig: Rig, short: Path) -> None:
    pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")
    from proxyd.index.rdp.screen import screen  # noqa: PLC0415 - needs the decoder

    with rig.front.client(short / "c", "alice%desk", "") as client:
        shows(client, login_screen("alice%desk"))
        client.screen.enter(CANARY)
        shows(client, login_screen("alice%desk", WRONG))
        client.screen.enter(ALICE)
        works(client, rig.targets["desk"])
        session = rig.front.proxyd.the_live_session()["id"]
        shown = same(client.screen, rig.targets["desk"].screen)
    rig.front.proxyd.ended(session)
    records = list(rig.front.proxyd.recording(session).records())
    assert shown.differing(Picture(*screen(records, records[-1].at_us))) == 0
    entries = rig.front.proxyd.ctl("log", session).data["entries"]
    assert [entry["text"] for entry in entries if entry["kind"] == "typed"] == [
        f"echo '{LINE}' > typed\u2039Enter\u203a"
    ]
    for secret in (CANARY, ALICE):
        assert secret not in rig.front.proxyd.logs()


def test_a_client_of_16_bits_and_one_that_wants_things_large(rig: Rig, short: Path) -> None:
    with rig.front.client(short / "c", "alice%desk", "", options=("/bpp:16",)) as client:
        wanted = drawn(login_screen("alice%desk"))

        def near() -> bool:
            shown = client.screen.picture().rgb
            return max(abs(one - other) for one, other in zip(shown, wanted.rgb, strict=True)) <= STEP_16

        eventually("the client shows it in 16 bits", near, within_s=20)
        client.screen.enter(ALICE)
        eventually("the session is there", rig.front.proxyd.live)
    options = ("/scale-desktop:150", "/scale-device:140")
    with rig.front.client(short / "d", "alice%desk", "", options=options, size=(1280, 1024)) as client:
        shows(client, login_screen("alice%desk"), percent=150)


def test_a_listener_without_the_screen_denies_who_would_need_it(rig: Rig, short: Path) -> None:
    targets = {name: account(short, name, rig.targets[name]) for name in ("nla", "open")}
    with front(short / "f", targets, login_screen=False) as served:
        for user, password in (("alice%open", ""), ("alice", ALICE)):
            with served.client(short / f"c{len(password)}", user, password) as client:
                client.ended()
                assert client.words == ["ERRINFO_SERVER_DENIED_CONNECTION"]


def test_who_is_not_done_in_time_is_told_so(rig: Rig, short: Path) -> None:
    def hurried(proxyd: Proxyd) -> None:
        proxyd.settings["admission"] = {**proxyd.settings.get("admission", {}), "grace_seconds": GRACE_S}

    targets = {"open": account(short, "open", rig.targets["open"])}
    with front(short / "f", targets, hurried) as served:
        with served.client(short / "c", "alice%open", "") as client:
            shows(client, login_screen("alice%open"))
            client.ended()
            assert client.words == ["ERRINFO_LOGON_TIMEOUT"]


@pytest.mark.mission("M16")
@pytest.mark.parametrize(
    ("name", "kind"), [pytest.param("shallow", "rdesktop", marks=need_rdesktop), ("pipeline", "xfreerdp")]
)
def test_the_session_after_the_login_has_the_targets_own_graphics(
    rig: Rig, short: Path, name: str, kind: str
) -> None:
    """16 bits after a login of 32; and EGFX, whose channel opens only then."""
    user = f"frank%{name}"
    client = client_of(kind, rig, short / "c", user)
    if kind == "xfreerdp":
        client = rig.front.client(short / "c", user, "", options=("/gfx",))
    with client:
        shows(client, login_screen(user))
        client.screen.enter(ALICE)
        target = rig.targets["desk" if name == "shallow" else "open"]
        typed = target.home / "typed"
        typed.unlink(missing_ok=True)
        eventually("its desktop is shown", lambda: backdrop(client) != BACKGROUND, within_s=30)
        client.screen.click(*IN_TERMINAL)
        client.screen.enter(f"echo '{LINE}' > typed")
        eventually("what was typed arrives", lambda: typed.exists() and typed.read_text() == f"{LINE}\n")
        session = rig.front.proxyd.the_live_session()["id"]
        shown = still(client.screen)
    rig.front.proxyd.ended(session)
    assert rig.front.shot(session, short).differing(shown) == 0


def test_a_window_resized_during_the_login_is_followed_by_the_session(rig: Rig, short: Path) -> None:
    """The last of this file: the target's desktop stays so."""
    options = ("/dynamic-resolution",)
    with rig.front.client(short / "c", "alice%desk", "", options=options) as client:
        shows(client, login_screen("alice%desk"))
        client.screen.resize(client.screen.windows("FreeRDP")[0], *SMALLER)
        client.screen.enter(ALICE)
        desk = rig.targets["desk"].screen
        eventually("the desktop has the size", lambda: desk.picture()[:2] == SMALLER, within_s=30)
