"""The web console: how late a browser sees a live terminal, how long a jump in the player takes.

Promise: what leaves the target's terminal is drawn in the browser within 200 ms (99th percentile); a jump in the player shows
its moment within 100 ms (median) with nothing cached.

The browser is Debian's Chromium on the same processors, without a graphics card; the target's clock and the browser's are one.
A lag ends with the frame after xterm.js has taken the output. The session that is played is short: one piece of its recording.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from bench.rig import Promise, Report, Rig, Table, quantile
from tests.e2e.console_lab import sign_in
from tests.e2e.lab import RUNNING, Lab, furnish, held, make_lab, ssh
from tests.peers.console import Console

WATCH_S, WATCH_QUICK_S = 30, 6
SEEKS, SEEKS_QUICK = 60, 15
PLAYED_S = 12
TICKS = "import time\nfor n in range({count}): print('\\033[3%dmtick %d\\033[0m' % (n % 8, n), flush=True); time.sleep(.05)"
LAG_P99_MS, SEEK_P50_MS = 200, 100


def ticking(seconds: float) -> str:
    """Give a command that prints twenty times a second."""
    return f'{sys.executable} -c "{TICKS.format(count=int(seconds * 20))}"'


def lags(lab: Lab, console: Console, page: Page, directory: Path, seconds: float) -> list[float]:
    """Milliseconds from the record's time to the frame that shows it."""
    with held(lab, directory, ticking(seconds + 5)) as (_, session):
        page.goto(f"{console.url}/sessions/{session}/live")
        page.wait_for_timeout(2000)
        page.evaluate("proxyd.lags.length = 0")
        page.wait_for_timeout(seconds * 1000)
        return list(page.evaluate("proxyd.lags"))


def seeks(
    lab: Lab, console: Console, page: Page, directory: Path, count: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of jumps, with nothing cached, and with the piece at hand."""
    before = lab.proxyd.ids()
    with ssh(lab.proxied(directory), ticking(PLAYED_S), stdout=subprocess.DEVNULL) as client:
        client.wait(120)
    session = lab.proxyd.newest(before, within_s=60)["id"]
    page.goto(f"{console.url}/sessions/{session}/play")
    page.wait_for_timeout(2000)
    duration = page.evaluate("proxyd.player.duration")
    draw = random.Random(7)
    cold, warm = [], []
    for _ in range(count):
        at = draw.uniform(0, duration)
        cold.append(
            page.evaluate(
                "at => { proxyd.view.pieces.clear(); proxyd.view.forget(); return proxyd.player.seek(at) }",
                at,
            )
        )
        warm.append(page.evaluate("at => proxyd.player.seek(at)", at))
    return cold, warm


def measure(rig: Rig) -> Report:
    """Lags and jumps."""
    report = Report("console")
    chromium = shutil.which("chromium")
    if chromium is None:
        report.notes.append("chromium is not installed: nothing was measured")
        return report
    directory = rig.place("console")
    lab = make_lab(directory / "lab")
    with lab.sshd:
        furnish(lab)
        console = Console(lab.proxyd, directory / "console")
        console.person("ann", "PAM Administrator")
        with lab.proxyd, console, sync_playwright() as player:
            browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(ignore_https_errors=True)
            sign_in(page, console, "ann")
            rig.calm()
            lag = lags(lab, console, page, directory, rig.pick(WATCH_QUICK_S, WATCH_S))
            rig.calm()
            cold, warm = seeks(lab, console, page, directory, rig.pick(SEEKS_QUICK, SEEKS))
            browser.close()
    RUNNING.remove(lab)
    table = Table("ms", ("", "count", "p50", "p90", "p99", "most"))
    measured = {"live, output to drawn": lag, "jump, nothing cached": cold, "jump, piece at hand": warm}
    for name, found in measured.items():
        row = [f"{quantile(found, share):.1f}" for share in (0.5, 0.9, 0.99, 1.0)]
        table.rows.append((name, str(len(found)), *row))
        report.data[name] = {"p50": quantile(found, 0.5), "p99": quantile(found, 0.99)}
    report.tables.append(table)
    report.promises = [
        Promise("live in the browser, p99", quantile(lag, 0.99), LAG_P99_MS, unit=" ms"),
        Promise("jump in the player, p50", quantile(cold, 0.5), SEEK_P50_MS, unit=" ms"),
    ]
    return report
