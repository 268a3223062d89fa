"""What an operator's hand does: how fast a block is acknowledged and holds, how fast a dropped session is gone.

Promise: while a client types as fast as the target takes it, the answer to `block` comes within 50 ms (99th percentile)
and not one byte beyond those it names reaches the target; a drop has both sides closed within 1 s (99th percentile),
a stuck client's and a stuck target's too.

The trials are those of the end-to-end tests (tests/e2e/test_gate.py, test_drop.py), where the reading of the target's
file and of the wire towards it is; here they are counted and timed. A block's time is one call of the control socket,
its connection, catalog and ledger in it; a drop's is until the session is off the list and its sockets are closed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from bench.rig import Promise, Report, Rig, Table, quantile
from tests.e2e.lab import RUNNING, Lab, furnish, make_lab
from tests.e2e.test_drop import KINDS
from tests.e2e.test_drop import trial as drop
from tests.e2e.test_gate import one_session
from tests.peers import Tap

BLOCKS, BLOCKS_QUICK = 1000, 100
BLOCKS_A_SESSION = 10
DROPS, DROPS_QUICK = 100, 10
ACK_P99_MS, DROP_P99_MS = 50, 1000
SHOWN = 120  # characters of a failed trial
STATISTICS = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("most", 1.0))


@contextmanager
def tapped(rig: Rig) -> Iterator[tuple[Lab, Tap]]:
    """A target behind a tap, and proxyd before it."""
    lab = make_lab(rig.place("control"))
    with lab.sshd, Tap(lab.sshd.port) as tap:
        furnish(lab, port=tap.port)
        try:
            with lab.proxyd:
                yield lab, tap
        finally:
            RUNNING.remove(lab)


def measure(rig: Rig) -> Report:
    """Blocks, then drops."""
    report = Report("control")
    acks: list[float] = []
    leaks: list[str] = []
    drops: dict[str, list[float]] = defaultdict(list)
    stuck: list[str] = []
    with tapped(rig) as (lab, tap):
        place = rig.target_files
        for _ in range(rig.pick(BLOCKS_QUICK, BLOCKS) // BLOCKS_A_SESSION):
            rig.calm()
            try:
                acks += [took * 1e3 for took in one_session(lab, tap, place, BLOCKS_A_SESSION)]
            except AssertionError as error:
                leaks.append(str(error) or "bytes beyond those acknowledged")
                lab.proxyd.quiet()
        at = lab.proxied(place)
        for number in range(rig.pick(DROPS_QUICK, DROPS)):
            kind = KINDS[number % len(KINDS)]
            rig.calm()
            try:
                drops[kind].append(drop(lab, tap, at, kind) * 1e3)
            except AssertionError as error:
                stuck.append(f"{kind}: {error}")
                tap.stalled.clear()
                lab.proxyd.quiet()
    every = [took for one in drops.values() for took in one]
    table = Table("milliseconds", ("", "trials", *(name for name, _ in STATISTICS)))
    table.rows.append(_row("block acknowledged, full-rate input", acks))
    table.rows += [_row(f"dropped: {kind}", drops[kind]) for kind in KINDS if drops[kind]]
    table.rows.append(_row("dropped: all", every))
    report.tables.append(table)
    report.promises = [
        Promise("block acknowledged, p99", quantile(acks, 0.99), ACK_P99_MS, unit=" ms"),
        Promise(
            "sessions with bytes at the target beyond those acknowledged, or a trial failed", len(leaks), 0
        ),
        Promise("dropped, p99", quantile(every, 0.99), DROP_P99_MS, unit=" ms"),
        Promise("drops that failed", len(stuck), 0),
    ]
    report.notes += [f"failed: {text[:SHOWN]}" for text in [*leaks, *stuck]]
    report.data = {"block_ms": acks, "drop_ms": drops, "failed": [*leaks, *stuck]}
    return report


def _row(name: str, took: list[float]) -> list[str]:
    return [name, str(len(took)), *(f"{quantile(took, share):.1f}" for _, share in STATISTICS)]
