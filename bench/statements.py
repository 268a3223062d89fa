"""How late a browser sees the statements of a live database session, with what became of them.

Promise: a statement's outcome is drawn in the browser within 200 ms of its answer (99th percentile).

psql sends twenty statements a second through proxyd to PostgreSQL; the browser is Debian's Chromium on the same processors. A lag
ends with the frame after the statement, or its outcome, is on the page.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.rig import Promise, Report, Rig, Table, quantile
from tests.screenshots import querying, world

WATCH_S, WATCH_QUICK_S = 30, 8
RATE = 20  # statements a second
LAG_P99_MS = 200.0


def measure(rig: Rig) -> Report:
    """Watch statements as they happen."""
    seconds = rig.pick(WATCH_QUICK_S, WATCH_S)
    with (
        tempfile.TemporaryDirectory(prefix="px-") as scratch,
        world(Path(scratch)) as lab,
        querying(lab, "bob") as psql,
        lab.page() as page,
    ):
        session = lab.lab.proxyd.the_live_session()["id"]
        page.goto(f"{lab.console.url}/sessions/{session}/live")
        page.locator("[data-said=status]", has_text="watching").wait_for()
        assert psql.stdin
        for number in range(seconds * RATE):
            psql.stdin.write(f"select {number}, pg_sleep(0.002);\n".encode())
            psql.stdin.flush()
            time.sleep(1 / RATE)
        page.locator(".queries li").nth(seconds * RATE - 1).locator(".result").wait_for()
        lags = sorted(page.evaluate("proxyd.lags"))
    p50, p99 = quantile(lags, 0.5), quantile(lags, 0.99)
    report = Report("statements")
    table = Table(
        f"{seconds * RATE} statements, {RATE} a second, in the browser", ["", "p50 ms", "p99 ms", "worst ms"]
    )
    table.rows.append(["behind the session", f"{p50:.0f}", f"{p99:.0f}", f"{lags[-1]:.0f}"])
    report.tables.append(table)
    report.promises.append(Promise("lag of a statement in the browser, p99", p99, LAG_P99_MS, unit=" ms"))
    report.data |= {"p50_ms": p50, "p99_ms": p99, "worst_ms": lags[-1]}
    return report
