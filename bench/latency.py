"""What a person feels: how long a login takes, and how long a key takes to come back.

Promise: the echo's median is at most 0.4 ms above direct and its 99th percentile at most 1.5 x that of `ssh -J`; a
login takes at most 1.2 x as long as direct.

An echo is one byte through a raw terminal to `cat` on the target and back, timed at the client's own terminal; once with
each key pressed when the one before is back, and once with keys as far apart as a fast typist's, when every processor on
the way has gone to sleep in between.
"""

from __future__ import annotations

import os
import re
import select
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from time import perf_counter, sleep

from bench.rig import (
    DIRECT,
    JUMP,
    PROXYD,
    RUN_S,
    Promise,
    Report,
    Rig,
    Table,
    Way,
    once,
    plain,
    quantile,
    ratio,
    rounds,
)
from tests.peers import Terminal

CONNECTS, CONNECTS_QUICK = 25, 5
ECHOES, ECHOES_QUICK = 6000, 600
TYPED, TYPED_QUICK = 3000, 300
BREATH = 100  # keys by each way between two waits for a quiet moment
TURN = 50  # echoes of one way before the next has its turn
GAP_S = 0.005  # between two typed keys; with four ways taking turns, 20 ms between two of one way
BLOCKS = 6  # parts of the run that percentiles are also given for: their spread says what the machine adds
RAW = "stty raw -echo; echo READY; exec cat"
SAME_EXCHANGE = "curve25519-sha256"  # OpenSSH prefers sntrup761, which costs more and which proxyd has not
ECHO_ADDS_MS, P99_TO_JUMP, CONNECT_TO_DIRECT = 0.4, 1.5, 1.2
QUIET_S = 0.2
EXCHANGE = re.compile(r"kex: algorithm: (\S+)")


def connects(rig: Rig, ways: Sequence[Way], *options: str) -> dict[str, list[float]]:
    """Milliseconds of `ssh -n peer true`, by way."""
    took: dict[str, list[float]] = {way.name: [] for way in ways}
    for way in ways:
        once(way.ssh("true", "-n", *options))
    for _, way in rounds(ways, rig.pick(CONNECTS_QUICK, CONNECTS), rig):
        took[way.name].append(once(way.ssh("true", "-n", *options)) * 1e3)
    return took


def exchange(way: Way, *options: str) -> str:
    """The key exchange a client and the far end of this way agree on: it is much of a login's cost."""
    said = subprocess.run(
        way.ssh("true", "-n", "-o", "LogLevel=DEBUG1", *options),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=True,
    )
    found = EXCHANGE.findall(said.stderr)
    return str(found[-1]) if found else "?"


class Key:
    """A raw terminal on the target by one way; `press` times one byte there and back."""

    def __init__(self, way: Way, stack: ExitStack) -> None:
        self.name = way.name
        self.terminal = stack.enter_context(Terminal(way.ssh(RAW, "-tt")))

    def settle(self) -> None:
        """Wait until it is raw and silent."""
        self.terminal.expect("READY", within_s=60)
        while self.terminal.read(QUIET_S):
            pass

    def press(self) -> float:
        """Milliseconds to the echo."""
        master = self.terminal.master
        began = perf_counter()
        os.write(master, b"x")
        if not select.select([master], [], [], RUN_S)[0]:
            raise RuntimeError(f"{self.name}: a key did not come back")
        os.read(master, 64)
        return (perf_counter() - began) * 1e3


def echoes(rig: Rig, count: int, turn: int, gap_s: float) -> dict[str, list[float]]:
    """Milliseconds of single echoes, by way; all terminals are open all the time."""
    took: dict[str, list[float]] = {way.name: [] for way in rig.ways}
    with ExitStack() as stack:
        keys = [Key(way, stack) for way in rig.ways]
        for key in keys:
            key.settle()
            key.press()
        for number in range(count // turn):
            if number % (BREATH // turn) == 0:
                rig.calm()
            for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
                for _ in range(turn):
                    sleep(gap_s)
                    took[key.name].append(key.press())
    rig.proxyd.quiet()
    return took


def blockwise(values: list[float], share: float) -> list[float]:
    """The percentile of each part of the run."""
    size = len(values) // BLOCKS
    return [quantile(values[start : start + size], share) for start in range(0, size * BLOCKS, size)]


def measure(rig: Rig) -> Report:
    """Logins and echoes, ways alternated."""
    report = Report("latency")
    _login(report, rig, "as the client chooses", rig.ways)
    same = (
        rig.way_direct,
        rig.way_proxyd,
    )  # what the client asks of its jump host, no option of its own says
    _login(report, rig, f"{SAME_EXCHANGE} for both", same, "-o", f"KexAlgorithms={SAME_EXCHANGE}")
    _echo(report, "key after key", echoes(rig, rig.pick(ECHOES_QUICK, ECHOES), TURN, 0))
    _echo(report, "keys 20 ms apart", echoes(rig, rig.pick(TYPED_QUICK, TYPED), 1, GAP_S))
    report.notes.append(f"p99 to ssh -J: the median of the ratios of {BLOCKS} parts of the run")
    return report


def _login(report: Report, rig: Rig, how: str, ways: Sequence[Way], *options: str) -> None:
    logins = connects(rig, ways, *options)
    table = Table(
        f"login: ssh -n peer true, ms; {how}", ("way", "median", "least", "to direct", "key exchange")
    )
    for way in ways:
        mine = logins[way.name]
        row = [f"{statistics.median(mine):.0f}", f"{min(mine):.0f}", str(ratio(mine, logins[DIRECT]))]
        table.rows.append([way.name, *row, exchange(way, *options)])
    report.tables.append(table)
    value = ratio(logins[PROXYD], logins[DIRECT]).median
    report.promises.append(Promise(f"login to direct, {how}", value, CONNECT_TO_DIRECT))
    to_direct = plain({name: ratio(one, logins[DIRECT]) for name, one in logins.items()})
    report.data[f"login, {how}"] = {"ms": logins, "to_direct": to_direct}


def _echo(report: Report, how: str, keys: dict[str, list[float]]) -> None:
    columns = ("way", "p50", "above direct", "p99", "p99 of parts", "p99 to ssh -J")
    table = Table(f"echo, {how}, ms, {len(keys[DIRECT])} keys", columns)
    p50 = {name: quantile(values, 0.5) for name, values in keys.items()}
    p99 = {name: quantile(values, 0.99) for name, values in keys.items()}
    tails = {name: blockwise(values, 0.99) for name, values in keys.items()}
    for name in keys:
        adds, parts = f"{p50[name] - p50[DIRECT]:+.3f}", f"{min(tails[name]):.2f}..{max(tails[name]):.2f}"
        tail = str(ratio(tails[name], tails[JUMP]))
        table.rows.append([name, f"{p50[name]:.3f}", adds, f"{p99[name]:.2f}", parts, tail])
    report.tables.append(table)
    report.promises += [
        Promise(f"echo p50 above direct, {how}", p50[PROXYD] - p50[DIRECT], ECHO_ADDS_MS, unit=" ms"),
        Promise(f"echo p99 to ssh -J, {how}", ratio(tails[PROXYD], tails[JUMP]).median, P99_TO_JUMP),
    ]
    report.data[f"echo, {how}"] = {"p50_ms": p50, "p99_ms": p99, "p99_ms_of_parts": tails}
