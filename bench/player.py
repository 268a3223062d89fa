"""The player on two hours of a terminal: how long its page takes to open, what it weighs, and how long a jump takes with nothing at hand.

Promise: a cold jump to any moment is on the screen within 100 ms (median); the page weighs at most 500 KB as it is sent; what
Lighthouse calls good: largest paint within 2.5 s, layout shift at most 0.1, blocked at most 200 ms, nothing on the console.

The session is what real programs wrote into a real terminal at the times of someone at work (bench/terminal_tape.py), put in the
place of a short session's recording, with its index made as the daemon makes it. The browser is Debian's Chromium on the same
processors, without a graphics card, through the console's own TLS; a jump ends with the frame after xterm.js has taken its screen.
"""

from __future__ import annotations

import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.sync_api import Page, expect, sync_playwright
from pyrage import x25519

from bench.rig import Promise, Report, Rig, Table, quantile
from bench.seek import index
from bench.terminal_tape import at_work
from proxyd.recorder.keys import Signer, new_dek, wrap
from proxyd.recorder.manifest import End, Manifest
from proxyd.recorder.record import Record
from proxyd.recorder.reel import Block, Reel
from proxyd.recorder.segment import new_packer
from tests.e2e.console_lab import sign_in
from tests.e2e.lab import RUNNING, Lab, furnish, make_lab, ssh
from tests.peers.console import Console

SECONDS, SECONDS_QUICK = 7200, 1200
JUMPS, JUMPS_QUICK = 200, 40
PAGES, PAGES_QUICK = 5, 2
THUMBS = 30
BLOCK = 200  # records written together
SEED = 5
JUMP_P50_MS, WEIGHT_KB, PAINT_MS, SHIFT, BLOCKED_MS = 100, 500, 2500, 0.1, 200
WATCH = """
window.seen = {paint: 0, shift: 0, blocked: 0, moved: []};
const watch = (type, take) => new PerformanceObserver((list) => list.getEntries().forEach(take)).observe({type, buffered: true});
watch('largest-contentful-paint', (one) => seen.paint = one.startTime);
watch('layout-shift', (one) => one.hadRecentInput || (seen.shift += one.value, seen.moved.push(...one.sources.map((of) => `${of.node?.nodeName} ${of.node?.className ?? ''} ${of.currentRect.y - of.previousRect.y}`))));
watch('longtask', (one) => seen.blocked += Math.max(one.duration - 50, 0));
"""
LOADED = """() => {
    const all = [performance.getEntriesByType('navigation')[0], ...performance.getEntriesByType('resource')];
    const told = (one) => new URL(one.name).pathname.includes('/recording');
    const sum = (some) => some.reduce((total, one) => total + one.encodedBodySize, 0);
    return {...seen, weight: sum(all.filter((one) => !told(one))), told: sum(all.filter(told)),
            ready: Math.max(...all.filter(told).map((one) => one.responseEnd))};
}"""
JUMP = """async (at) => {
    proxyd.view.pieces.clear(); proxyd.view.forget();
    const began = performance.now();
    await proxyd.player.seek(at);
    await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""
THUMB = """async (at) => {
    const began = performance.now(), answer = await fetch(`${document.querySelector('.screen').dataset.recording}/thumbs/${at}`);
    await createImageBitmap(await answer.blob());
    return performance.now() - began;
}"""


def put_in_place(lab: Lab, directory: Path, records: list[Record]) -> str:
    """Have a session with this recording and its index; gives it."""
    before = lab.proxyd.ids()
    with ssh(lab.proxied(directory), "true") as client:
        client.wait(60)
    session = str(lab.proxyd.newest(before, within_s=60)["id"])
    there = lab.proxyd.recording(session).path
    key = lab.proxyd.home / lab.proxyd.settings["recording"]["identity"]
    folder = written(directory / "long", session, str(identity_of(key).to_public()), records)
    index(folder, key, session)
    shutil.rmtree(there)
    shutil.copytree(folder, there)
    return session


def identity_of(key: Path) -> x25519.Identity:
    """Read an identity file."""
    lines = (line for line in key.read_text().splitlines() if line.startswith("AGE-SECRET-KEY-"))
    return x25519.Identity.from_str(next(lines))


def written(root: Path, session: str, recipient: str, records: list[Record]) -> Path:
    """Write records as the recorder does; gives the recording's directory."""
    root.mkdir()
    dek, about = new_dek(), {"id": session, **records[0].body}
    keys = wrap(dek, [recipient])
    manifest = Manifest(session, "node1", time.time_ns(), "open", strict=True, meta=about, keys=keys)
    reel, packer = Reel(root, manifest, dek, Signer(Ed25519PrivateKey.generate())), new_packer()
    for begin in range(0, len(records), BLOCK):
        items = [(one.at_us, one.kind, one.channel, one.body) for one in records[begin : begin + BLOCK]]
        size = sum(len(body) for _, _, _, body in items if isinstance(body, bytes))
        reel.queue.append(Block(records[begin].seq, items, size))
        if not begin:
            reel.begin(packer)
        while reel.queue:
            reel.write(packer)
    reel.finish(packer, End(time.time_ns(), "closed", "", ""), failed=False)
    return reel.folder


def opened(page: Page, console: Console, session: str) -> dict[str, Any]:
    """Open the player; gives what the browser says of it."""
    page.goto(f"{console.url}/sessions/{session}/play")
    expect(page.locator("[data-said=status]")).to_have_text("", timeout=60_000)
    page.wait_for_timeout(1000)  # what Lighthouse waits for as well: paint and shifts that come late
    return dict(page.evaluate(LOADED))


def measure(rig: Rig) -> Report:
    """Open the page with an empty cache, jump, and ask for small pictures."""
    report = Report("player")
    chromium = shutil.which("chromium")
    if chromium is None:
        report.notes.append("chromium is not installed: nothing was measured")
        return report
    seconds, draw = rig.pick(SECONDS_QUICK, SECONDS), random.Random(SEED)
    records = at_work(seconds)
    directory = rig.place("player")
    lab = make_lab(directory / "lab")
    with lab.sshd:
        furnish(lab)
        console = Console(lab.proxyd, directory / "console")
        console.person("ann", "PAM Administrator")
        with lab.proxyd, console, sync_playwright() as player:
            session = put_in_place(lab, directory, records)
            browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            loads, errors = [], list[str]()
            for _ in range(rig.pick(PAGES_QUICK, PAGES)):
                page = browser.new_page(ignore_https_errors=True, viewport={"width": 1280, "height": 800})
                page.add_init_script(WATCH)
                page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
                page.on("pageerror", lambda error: errors.append(str(error)))
                sign_in(page, console, "ann")
                rig.calm()
                loads.append(opened(page, console, session))
            rig.calm()
            end = seconds * 1_000_000
            jumps = [page.evaluate(JUMP, draw.uniform(0, end)) for _ in range(rig.pick(JUMPS_QUICK, JUMPS))]
            rig.calm()
            thumbs = [page.evaluate(THUMB, draw.randrange(end)) for _ in range(THUMBS)]
            browser.close()
    RUNNING.remove(lab)
    return _reported(report, records, loads, errors, jumps, thumbs)


def _reported(
    report: Report, records: list[Record], loads: list[dict[str, Any]], errors: list[str], jumps: list[float],
    thumbs: list[float],
) -> Report:  # fmt: skip
    size = sum(len(one.body) for one in records if isinstance(one.body, bytes))
    middle = {
        name: statistics.median(load[name] for load in loads)
        for name in ("weight", "told", "ready", "paint", "shift", "blocked")
    }
    times = Table(
        f"{records[-1].at_us / 6e7:.0f} min, {size / 1e6:.1f} MB; ms",
        ("", "count", "p50", "p90", "p99", "most"),
    )
    for name, found in (("jump, nothing at hand", jumps), ("small picture", thumbs)):
        row = [f"{quantile(found, share):.1f}" for share in (0.5, 0.9, 0.99, 1.0)]
        times.rows.append((name, str(len(found)), *row))
    page = Table(f"the page, nothing cached, median of {len(loads)}", ("", ""))
    page.rows = [
        ("page, scripts and styles as sent, KB", f"{middle['weight'] / 1e3:.0f}"),
        ("timeline, log and first screen, KB", f"{middle['told'] / 1e3:.0f}"),
        ("timeline and log are there, ms", f"{middle['ready']:.0f}"),
        ("largest paint, ms", f"{middle['paint']:.0f}"),
        ("layout shift", f"{middle['shift']:.3f}"),
        ("blocked by tasks over 50 ms, ms", f"{middle['blocked']:.0f}"),
        ("errors on the console", str(len(errors))),
    ]
    report.tables += [times, page]
    report.data = {"jumps_ms": jumps, "thumbs_ms": thumbs, "loads": loads, "errors": errors}
    report.promises = [
        Promise("a cold jump, p50", quantile(jumps, 0.5), JUMP_P50_MS, unit=" ms"),
        Promise("page weight", middle["weight"] / 1e3, WEIGHT_KB, unit=" KB"),
        Promise("largest paint", middle["paint"], PAINT_MS, unit=" ms"),
        Promise("layout shift", middle["shift"], SHIFT),
        Promise("blocked", middle["blocked"], BLOCKED_MS, unit=" ms"),
        Promise("errors on the console", len(errors), 0),
    ]
    return report
