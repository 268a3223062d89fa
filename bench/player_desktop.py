"""Desktops in the console: how long a jump in the player takes, and how late a browser sees a live desktop.

Promise: a jump shows its moment within 300 ms (median) with nothing cached in the browser; what is painted on the target is
on the page within 500 ms (99th percentile).

A real xrdp at 1920x1080, people at work on it by xfreerdp: letters, windows, text that scrolls, a film. The browser is
Debian's Chromium on the same processors, without a graphics card; target's and browser's clock are one. A jump ends when
its pixels are on the canvas; a live mark when a frame of the page begins in which they are.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from bench.desktop import SIZE, Desktop
from bench.rig import Promise, Report, Rig, Table, quantile
from bench.xdisplay import BRIGHT, COLOURS, MARK
from tests.e2e.console_lab import sign_in
from tests.e2e.test_rdp_cli import PASSWORD, furnished
from tests.peers.console import Console
from tests.peers.daemon import Proxyd
from tests.peers.process import eventually
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.x11 import same
from tests.peers.rdp.xrdp import Xrdp

WORK_S, WORK_QUICK_S = 60, 10  # of each kind of work
SEEKS, SEEKS_QUICK = 60, 20
MARKS, MARKS_QUICK = 200, 40
MARK_S = 0.15  # between two marks: more than one picture of a live view
SEEK_P50_MS, LAG_P99_MS = 300, 500
SETTLE_S = 2.0
LOOK = """([x, y]) => {
    window.seen = [];
    const { pen } = proxyd.desktop;
    let last = -1;
    const look = () => {
        const [red, green, blue] = pen.getImageData(x, y, 1, 1).data.map((value) => value & 128);
        const now = (red << 16) | (green << 8) | blue;
        if (now !== last) window.seen.push([Date.now(), now]);
        last = now;
        requestAnimationFrame(look);
    };
    look();
}"""


def measure(rig: Rig) -> Report:
    """Work on a desktop while a browser watches, then jump about in the recording."""
    report = Report("player_desktop")
    chromium = shutil.which("chromium")
    if chromium is None:
        report.notes.append("chromium is not installed: nothing was measured")
        return report
    directory = rig.place("player_desktop")
    with Xrdp(directory / "x") as target:
        proxyd, identity, port = furnished(directory, target)
        console = Console(proxyd, directory / "console")
        console.person("ann", "PAM Administrator")
        with proxyd, console, sync_playwright() as player:
            browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(ignore_https_errors=True)
            sign_in(page, console, "ann")
            client = FreeRdp(
                directory / "c", port, "alice%desk", PASSWORD, fingerprint=identity.fingerprint, size=SIZE
            )
            with worked(rig, directory, target, client) as desktop:
                session = proxyd.the_live_session()["id"]
                lag, late = watched(rig, console, page, desktop, session)
            proxyd.ended(session)
            indexed(proxyd, session)
            rig.calm()
            jumps = seeks(console, page, session, rig.pick(SEEKS_QUICK, SEEKS))
            browser.close()
    return told(report, jumps, lag, late)


@contextmanager
def worked(rig: Rig, directory: Path, target: Xrdp, client: FreeRdp) -> Iterator[Desktop]:
    """Have somebody work on the desktop for a while; they are still there inside."""
    seconds = rig.pick(WORK_QUICK_S, WORK_S)
    with Desktop(target, client) as desktop:
        desktop.office(seconds)
        desktop.scroll(seconds, directory)
        desktop.film(seconds)
        same(client.screen, target.screen)
        yield desktop


def watched(
    rig: Rig, console: Console, page: Page, desktop: Desktop, session: str
) -> tuple[list[float], list[float]]:
    """Milliseconds from a mark on the target to the page, and from a record to the frame that shows it."""
    page.goto(f"{console.url}/sessions/{session}/live")
    page.wait_for_timeout(SETTLE_S * 1000)
    rig.calm()
    page.evaluate(LOOK, [SIZE[0] - MARK // 2, MARK // 2])
    page.evaluate("proxyd.lags.length = 0")
    painted: list[tuple[float, int]] = []
    colours = [colour for colour in COLOURS if colour]
    for number in range(rig.pick(MARKS_QUICK, MARKS)):
        painted.append((time.time() * 1e3, colours[number % len(colours)] & BRIGHT))
        desktop.mark(colours[number % len(colours)])
        page.wait_for_timeout(MARK_S * 1000)
    page.wait_for_timeout(SETTLE_S * 1000)
    return lags(painted, page.evaluate("seen")), page.evaluate("proxyd.lags")


def lags(painted: list[tuple[float, int]], seen: list[tuple[float, int]]) -> list[float]:
    """Give how late each mark was seen, or one of the two behind it, which may have replaced it; never: infinite."""
    found = []
    for number, (here, _) in enumerate(painted):
        these = {colour for _, colour in painted[number : number + 3]}
        found.append(
            next((there - here for there, colour in seen if there >= here and colour in these), math.inf)
        )
    return found


def indexed(proxyd: Proxyd, session: str) -> None:
    """Wait until the daemon has made the index."""
    told = lambda: any(  # noqa: E731
        one["event"] == "indexed" and one["session"] == session for one in proxyd.events()
    )
    eventually("the index is made", told, within_s=120)


def seeks(console: Console, page: Page, session: str, count: int) -> list[float]:
    """Milliseconds of jumps to moments, the first of which starts the process that decodes."""
    page.goto(f"{console.url}/sessions/{session}/play")
    status = page.locator("[data-said=status]")
    eventually("the player is ready", lambda: status.text_content() == "", within_s=60)
    duration = page.evaluate("proxyd.player.duration")
    draw = random.Random(7)
    return [page.evaluate("at => proxyd.player.seek(at)", draw.uniform(0, duration)) for _ in range(count)]


def told(report: Report, jumps: list[float], lag: list[float], late: list[float]) -> Report:
    """Say what was measured."""
    measured = {"jump": jumps, "live, painted to seen": lag, "live, recorded to drawn": late}
    table = Table(f"a desktop of {SIZE[0]}x{SIZE[1]}, ms", ("", "count", "p50", "p90", "p99", "most"))
    for name, found in measured.items():
        row = [f"{quantile(found, share):.0f}" for share in (0.5, 0.9, 0.99, 1.0)]
        table.rows.append((name, str(len(found)), *row))
        report.data[name] = {"p50": quantile(found, 0.5), "p99": quantile(found, 0.99)}
    report.tables.append(table)
    report.promises = [
        Promise("jump in a desktop, p50", quantile(jumps, 0.5), SEEK_P50_MS, unit=" ms"),
        Promise("live desktop in the browser, p99", quantile(lag, 0.99), LAG_P99_MS, unit=" ms"),
    ]
    return report
