"""Desktops in the console, in a real Chromium: watched live, played with their sound, sought to the pixel."""
# ruff: noqa: RUF001 - the marks around keys

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from operator import sub
from pathlib import Path
from random import Random

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, expect

from proxyd.console.motion import LEAST_STEP_US
from proxyd.recorder.record import Record
from tests.e2e.console_lab import ADMIN, WAIT_MS, Browsing, chromium, shot
from tests.e2e.console_taking import ask, held_up, probed, take
from tests.e2e.test_rdp_cli import PASSWORD, furnished
from tests.e2e.test_rdp_export import IN_SYNC_S, LOUD, MARK, RED, TONE_HZ, loud, marked_s
from tests.e2e.test_rdp_notices import shows
from tests.peers.console import Console
from tests.peers.daemon import Proxyd
from tests.peers.process import eventually
from tests.peers.rdp import freerdp, sound, xrdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, same, still
from tests.peers.rdp.xrdp import Xrdp

pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and freerdp.INSTALLED), reason="xrdp or xfreerdp is not installed"
    ),
    pytest.mark.mission("M2", "M6", "M12", "M16"),
    pytest.mark.timeout(300),
]
expect.set_options(timeout=WAIT_MS)

TONE_S = 1.5
STILL_S = 0.3
LENGTH_S = 0.2  # of a film, off its session
LAST = "echo last‹Enter›"
MOMENTS = 8
PLAYS = 5  # a busy machine may hold up one, not each
LOUDNESS = LOUD / 32768
CANVAS = """async () => {
    if (!window.proxyd) return ["nothing yet"];
    const canvas = document.querySelector(".desktop canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 3; at < data.length; at += 4) data[at] = 255;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    return [canvas.width, canvas.height, [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("")];
}"""
PLAYED = """async (at) => {
    const { view } = proxyd, { show } = view.desktop;
    let latest = 0;
    view.desktop.show = (picture) => {
        latest = picture.at_us;
        show.call(view.desktop, picture);
    };
    await view.advance(at, 1);
    view.desktop.show = show;
    return latest;
}"""
HEARD_AND_SEEN = """([x, y, red, loud]) => new Promise((done) => {
    const { view } = proxyd, { sound, desktop } = view, { show } = desktop, { hear } = view, found = {};
    const tap = sound.context.createAnalyser(), samples = new Float32Array((tap.fftSize = 32768));
    sound.output.connect(tap);
    view.hear = (at, frame, speed) => { // the clock of the pictures: `at` is shown in the frame that begins then
        const shown = desktop.pen.getImageData(x, y, 1, 1).data;
        if (!found.seen && red.every((value, place) => shown[place] === value)) found.seen = at;
        found.clock = { at, frame };
        return hear.call(view, at, frame, speed);
    };
    const look = () => {
        const { contextTime, performanceTime } = sound.context.getOutputTimestamp(), until = sound.context.currentTime;
        tap.getFloatTimeDomainData(samples);
        const first = samples.findIndex((value) => Math.abs(value) > loud);
        if (first >= 0 && !found.heard && found.clock && sound.anchor) {
            const at = until - (samples.length - first) / sound.context.sampleRate;
            const time = performanceTime + (at - contextTime) * 1000; // of performance.now(), as it leaves the context
            found.heard = found.clock.at + (time - found.clock.frame) * 1000;
        }
        if (!(found.seen && found.heard)) return requestAnimationFrame(look);
        view.hear = hear;
        done([found.heard, found.seen]);
    };
    look();
})"""


@dataclass
class Rig(Browsing):
    """A desktop behind a proxyd, and a console beside it."""

    proxyd: Proxyd
    identity: Identity
    port: int
    desktop: Xrdp

    def client(self, directory: Path, *options: str) -> FreeRdp:
        return FreeRdp(
            directory,
            self.port,
            "alice%desk",
            PASSWORD,
            fingerprint=self.identity.fingerprint,
            options=options,
        )


@pytest.fixture(scope="module")
def rig(shared: Path) -> Iterator[Rig]:
    directory = shared / "rdpconsole"
    with Xrdp(directory / "x") as desktop:
        proxyd, identity, port = furnished(directory, desktop)
        console = Console(proxyd, directory / "console")
        console.person(ADMIN, "PAM Administrator")
        with proxyd, console, chromium() as browser:
            yield Rig(console, browser, proxyd, identity, port, desktop)


def shows_exactly(page: Page, picture: Picture) -> bool:
    """Whether each pixel on the page is that of a picture."""
    pixels = bytearray(b"\xff" * (picture.width * picture.height * 4))
    for place in range(3):
        pixels[place::4] = picture.rgb[place::3]
    return page.evaluate(CANVAS) == [picture.width, picture.height, sha256(pixels).hexdigest()]


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with a page."""
    page.evaluate(AXE_SCRIPT + "; null")
    return page.evaluate("axe.run().then((done) => done.violations.map((one) => one.id + one.nodes[0].html))")


def test_a_desktop_is_watched_held_and_dropped_live(rig: Rig, short: Path) -> None:
    with rig.client(short / "c") as client, rig.page() as page:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        page.goto(f"{rig.console.url}/sessions/{session}/live")
        eventually("the page shows the desktop", lambda: shows_exactly(page, client.screen.picture()))
        client.screen.click(*IN_TERMINAL)
        client.screen.enter("ls -l /etc")
        typed = still(client.screen, for_s=STILL_S)
        eventually("the page shows what was typed", lambda: shows_exactly(page, typed))
        expect(page.locator(".desktop .pointer")).to_be_visible()
        assert page.evaluate("proxyd.lags.length") > 0
        assert violations(page) == []

        page.get_by_label("Reason").fill("wait")
        page.get_by_role("button", name="Hold on!").click()
        expect(page.locator("[data-said=blocked]")).to_be_visible()
        eventually("the client shows it", lambda: shows(client.screen))
        client.screen.enter("never typed")
        shot(page, "live-stream-desktop-blocked")
        page.get_by_role("button", name="Release").click()
        expect(page.get_by_role("button", name="Hold on!")).to_be_visible()
        eventually("the notice goes", lambda: not shows(client.screen))
        assert shows_exactly(
            page, rig.desktop.screen.picture()
        )  # nothing of it was typed, nor drawn on the target

        page.get_by_label("Message to the user").fill("please finish by noon")
        page.get_by_role("button", name="Send").click()
        eventually("the client shows the message", lambda: shows(client.screen))

        page.get_by_role("link", name="Drop Session").click()
        page.get_by_label("Reason").fill("over")
        page.get_by_role("button", name="Yes").click()
        expect(page.get_by_role("status")).to_contain_text("The session was interrupted")
        assert client.ended() != 0
    assert rig.proxyd.ended(session)["by"] == ADMIN
    views = rig.proxyd.call("show", session=session)["views"]
    assert {(view["who"], view["kind"]) for view in views} == {(ADMIN, "live")}


# ---------------------------------------------------------------- the player


@dataclass
class Played:
    """A session that was recorded."""

    id: str
    records: list[Record]
    marked_s: float

    @property
    def heard_s(self) -> float:
        """When the tone begins."""
        from proxyd.index.rdp.audio import sounds  # noqa: PLC0415 - needs the decoder

        pieces = list(sounds(self.records))
        begin, _ = loud(sound.left(b"".join(piece.data for piece in pieces)))
        return pieces[0].at_us / 1e6 + begin / sound.RATE


@pytest.fixture(scope="module")
def played(rig: Rig, shared: Path) -> Played:
    """A session with a tone, a red screen at its beginning, and typing."""
    with rig.client(shared / "rdpconsole" / "c", "/sound:sys:fake") as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        home = rig.desktop.home
        (home / "mark.py").write_text(MARK)
        (home / "tone").write_bytes(sound.tone(TONE_HZ, TONE_S))
        client.screen.click(*IN_TERMINAL)
        for line in ("clear; ls /etc | head -30", f"python3 mark.py {rig.desktop.sound} tone; touch rung"):
            client.screen.enter(line)
            still(client.screen, for_s=STILL_S)
        eventually("the tone has been played", (home / "rung").exists)
        client.screen.enter("echo last")
        same(client.screen, rig.desktop.screen)
    rig.proxyd.ended(session)
    records = list(rig.proxyd.recording(session).records())
    return Played(session, records, marked_s(records))


def ready(rig: Rig, page: Page, session: str) -> None:
    """Open the player and wait until it can be used."""
    page.goto(f"{rig.console.url}/sessions/{session}/play")
    expect(page.locator("[data-said=status]")).to_have_text("")
    expect(page.locator("[data-said=wrong]")).to_be_hidden()


def pictures(records: list[Record], moments: list[int]) -> Iterator[tuple[int, Picture]]:
    """The exact picture of a recording at each moment, which come in order."""
    from proxyd.index.rdp.screen import Screen  # noqa: PLC0415 - needs the decoder

    screen, coming = Screen(), iter(records)
    record = next(coming, None)
    for at_us in moments:
        while record is not None and record.at_us <= at_us:
            screen.feed(record)
            record = next(coming, None)
        picture = screen.picture()
        assert picture is not None
        yield at_us, Picture(*picture)


def painted(records: list[Record]) -> list[int]:
    """The moments at which something was painted."""
    from proxyd.index.rdp.screen import Screen  # noqa: PLC0415 - needs the decoder

    screen = Screen()
    return sorted({record.at_us for record in records if screen.feed(record)})


def test_a_moment_in_the_player_is_the_recordings_exact_picture(rig: Rig, played: Played) -> None:
    last = played.records[-1].at_us // 1000 * 1000  # as long as a recording says it is
    chance = Random(6)
    moments = sorted(chance.sample(painted(played.records), MOMENTS))
    exact = dict(pictures(played.records, [*moments, last]))
    assert len(set(exact.values())) > 3
    with rig.page() as page:
        ready(rig, page, played.id)
        chance.shuffle(moments)
        for at_us in moments:
            page.evaluate("at => proxyd.player.seek(at)", at_us)
            assert shows_exactly(page, exact[at_us]), at_us
        page.get_by_role("slider", name="Time in the session").press("End")
        eventually("the end", lambda: shows_exactly(page, exact[last]))
        page.evaluate("at => proxyd.player.seek(at - 700000)", moments[0])
        played_us = page.evaluate(
            PLAYED, moments[0] + LEAST_STEP_US
        )  # what comes within a step is one picture
        assert moments[0] <= played_us <= moments[0] + LEAST_STEP_US
        ((_, picture),) = pictures(played.records, [played_us])
        assert shows_exactly(page, picture), played_us
        asked = ["/motion/5/1/20000", "/motion/0/999999999/20000", "/motion/0/x/20000", "/motion/0/0/20000"]
        answers = "(paths) => Promise.all(paths.map((path) => fetch(document.querySelector('.screen').dataset.recording + path).then((one) => one.status)))"
        assert page.evaluate(answers, asked) == [400, 400, 404, 200]
    views = rig.proxyd.call("show", session=played.id)["views"]
    assert {view["kind"] for view in views if view["who"] == ADMIN} == {"replay", "log"}


def test_the_tone_is_heard_in_the_player_when_the_screen_turns_red(rig: Rig, played: Played) -> None:
    x, y = IN_TERMINAL[0] + 50, IN_TERMINAL[1] + 50
    offs = []
    with rig.page() as page:
        ready(rig, page, played.id)
        page.get_by_label("Skip idle time").uncheck()
        while len(offs) < PLAYS and not (offs and abs(sub(*offs[-1])) <= IN_SYNC_S):
            page.evaluate("at => proxyd.player.seek(at)", (played.marked_s - 1) * 1e6)
            page.get_by_role("button", name="Play").click()
            heard_us, seen_us = page.evaluate(HEARD_AND_SEEN, [x, y, list(RED), LOUDNESS])
            page.get_by_role("button", name="Pause").click()
            offs.append((heard_us / 1e6 - played.heard_s, seen_us / 1e6 - played.marked_s))
        print(f"sound and picture, off the recording by: {offs}")
        assert abs(sub(*offs[-1])) <= IN_SYNC_S, offs

        page.get_by_label("Speed").select_option("2")
        page.get_by_role("button", name="Play").click()
        expect(page.locator("[data-said=sound]")).to_have_text("No sound at 2x")
        assert page.evaluate("proxyd.view.sound.playing.size") == 0
        page.get_by_label("Speed").select_option("1")
        page.get_by_label("Mute").check()
        assert page.evaluate("proxyd.view.sound.output.gain.value") == 0


def test_the_log_follows_a_desktop_and_seeks_in_it(rig: Rig, played: Played) -> None:
    end_us = played.records[-1].at_us
    with rig.page() as page:
        ready(rig, page, played.id)
        last = page.locator(".feed button", has_text=LAST)
        last.click()
        eventually("the log seeks", lambda: page.evaluate("proxyd.player.at") > played.marked_s * 1e6)
        at_us = page.evaluate("proxyd.player.at")
        ((_, then), (_, end)) = pictures(played.records, [at_us, end_us])
        eventually("its picture", lambda: shows_exactly(page, then))
        first = page.locator(".feed button", has_text="ls /etc")
        first.click()
        expect(first).to_have_attribute("aria-current", "true")
        page.get_by_label("Speed").select_option("8")
        page.get_by_role("button", name="Play").click()
        eventually("it plays to its end", lambda: page.evaluate("!proxyd.player.playing"), within_s=60)
        where = "((log) => [log.findIndex((one) => one.text.includes(%r)), log.findIndex((one) => one.item === proxyd.player.current)])(proxyd.player.log)"
        entered, current = page.evaluate(where % LAST.lower())
        assert 0 <= entered <= current  # or at what ended the session
        shot(page, "player-desktop")
        assert violations(page) == []
        eventually("the last picture", lambda: shows_exactly(page, end))


def test_a_desktop_has_small_pictures_and_one_to_keep(rig: Rig, played: Played) -> None:
    end_us = played.records[-1].at_us
    with rig.page() as page:
        ready(rig, page, played.id)
        sizes = page.evaluate(
            """at => Promise.all(['thumbs', 'stills'].map(async (one) => {
                const answer = await fetch(`${document.querySelector('.screen').dataset.recording}/${one}/${at}`);
                const picture = await createImageBitmap(await answer.blob());
                return [picture.width, picture.height];
            }))""",
            end_us,
        )
        ((_, shown),) = pictures(played.records, [end_us])
        assert sizes[1] == [shown.width, shown.height]
        assert sizes[0][0] <= 320
        assert sizes[0][1] <= 200
        assert abs(sizes[0][0] / sizes[0][1] - shown.width / shown.height) < 0.1


@pytest.mark.mission("M13")
def test_session_video_generate_video_for_download_of_a_desktop(
    rig: Rig, played: Played, short: Path
) -> None:
    """It waits for its turn, is made, downloaded, decoded and verified; half as large, faster, without its sound as well."""
    lasted_s = played.records[-1].at_us / 1e6
    with rig.page() as page:
        with held_up(rig.proxyd, played.id):
            ask(page, rig.console, played.id, "webm")
            expect(page.locator("[role=status] .badge")).to_have_text("waits")
        film = probed(take(page, rig.proxyd, short))
        (size,) = film.sizes
        assert (film.codecs, size[0] > 0) == ({"video": "av1", "audio": "opus"}, True)
        assert film.seconds == pytest.approx(lasted_s, abs=LENGTH_S)

        ask(page, rig.console, played.id, "mp4", speed="4", size="half")
        small = probed(take(page, rig.proxyd, short))
        assert small.codecs == {"video": "h264"}
        assert small.seconds == pytest.approx(lasted_s / 4, abs=LENGTH_S)
        ((width, height),) = small.sizes
        assert (abs(width - size[0] / 2) <= 1, abs(height - size[1] / 2) <= 1) == (True, True)
        expect(page.locator("dl").first).to_contain_text("4 times as fast, half as wide and high")
        expect(page.locator("#proof")).to_contain_text("4 times as fast, half as wide and high")
        shot(page, "export-of-a-desktop")
        assert violations(page) == []
