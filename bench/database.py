"""What the scripts for databases share: relays to stand beside proxyd, programs run under load, and their tables.

Rule 1: the CPU of the middle is read between two moments of one run: every client has logged in, and just before the end.
        A login costs proxyd hundreds of statements' CPU, and would be taken for theirs.
Rule 2: a relay whose program is not installed is a row that is missing: the report says so, and standard error at once.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import bench
from bench.rig import DIRECT, PROXYD, RUN_S, Ratio, Report, Rig, Table, quantile, ratio, rounds, say
from tests.peers.endpoint import HOST
from tests.peers.process import Process, cpu_seconds, eventually, free_port

HAPROXY, TRIO, TRIO_SCANNING = "haproxy", "trio relay", "trio relay, scanning"
CLIENTS = (1, 8, 32)
RATE, RATE_CLIENTS = 400, 8  # statements a second: what a room full of people does not reach
ROUNDS, ROUNDS_TLS, ROUNDS_QUICK = 3, 1, 1  # the promises are about what is not encrypted
RATE_TO_DIRECT, CPU_US, BULK_TO_DIRECT, ADDS_MS = 0.55, 50.0, 0.85, 0.12
MARGIN_S = 0.1  # before the end of a run, when its clients begin to leave
TRIES = 4
LEAST_S = 0.3  # of measuring; the kernel counts CPU in hundredths of a second
HAPROXY_CONFIG = """
defaults
  mode tcp
  timeout connect 10s
  timeout client 10m
  timeout server 10m
listen database
  bind {host}:{port}
  server database {target}
"""


class Way(NamedTuple):
    """One way to the server: where, who logs in there, whose CPU it costs, and the CA where it is by TLS."""

    name: str
    port: int
    user: str
    pid: int = 0
    ca: Path | None = None


class Took(NamedTuple):
    """Transactions a second of one run, and the middle's CPU in microseconds for each."""

    rate: float
    cpu_us: float


class Load(NamedTuple):
    """A program that loads the server through one way: `argv` for so many seconds, from its start or once `ready`."""

    argv: Callable[[int], Sequence[str]]
    seconds: int
    ready: Callable[[Process], bool]
    from_start: bool = False
    env: Mapping[str, str] | None = None
    cwd: Path | None = None


def under_load(rig: Rig, way: Way, load: Load) -> tuple[str, float]:
    """Run it; give what it printed, and how many seconds of CPU a second the middle took (rule 1).

    Takes twice the seconds when nothing of them was left to measure in: a busy machine logs in, and looks, late.
    """
    for seconds in (load.seconds << doubled for doubled in range(TRIES)):
        said, share = _tried(rig, way, load, seconds)
        if share is not None:
            return said, share
    raise RuntimeError(f"clients of {way.name} needed {seconds} s and more to log in: {said[-500:]}")


def _tried(rig: Rig, way: Way, load: Load, seconds: int) -> tuple[str, float | None]:
    log = rig.place("runs") / "log"
    log.unlink(missing_ok=True)
    with Process(load.argv(seconds), log=log, env=load.env, cwd=load.cwd) as process:
        began = perf_counter()
        up = lambda: load.ready(process) or not process.running  # noqa: E731
        eventually(f"clients of {way.name} logged in", up, within_s=RUN_S)
        at, cpu = perf_counter(), cpu_seconds(way.pid) if way.pid else 0.0
        left = (began if load.from_start else at) + seconds - at - MARGIN_S
        missed = left < LEAST_S or _ended(process, left)
        share = (cpu_seconds(way.pid) - cpu) / (perf_counter() - at) if way.pid else 0.0
        status, said = process.wait(RUN_S), process.text()
    if status:
        raise RuntimeError(f"{load.argv(seconds)[0]} by {way.name} ended with {status}: {said[-500:]}")
    return said, None if missed else share


def _ended(process: Process, seconds: float) -> bool:
    try:
        process.popen.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


# ---------------------------------------------------------------------- relays


def installed(report: Report, *programs: str) -> list[str]:
    """Give those of the programs that are here, and say loudly which are not (rule 2)."""
    found = [name for name in programs if shutil.which(name)]
    for name in programs:
        if name not in found:
            report.notes.append(f"MISSING: {name} is not installed, so its rows are not here")
            say(f"!! {report.notes[-1]}")
    return found


@contextmanager
def listening(argv: Sequence[str], port: int, log: Path) -> Iterator[Process]:
    """A relay, from when a connection reaches the server through it until the end."""
    process = Process(argv, log=log, cwd=Path(bench.__file__).parents[1])
    try:
        eventually(f"{argv[0]} listens", lambda: _listens(port) or not process.running)
        if not process.running:
            raise RuntimeError(f"{argv[0]} ended: {process.text()[-500:]}")
        yield process
    finally:
        process.stop()


def _listens(port: int) -> bool:
    """Tell from the kernel's table, so that no server counts a connection without a login."""
    entry = f":{port:04X} 00000000:0000 0A"
    return entry in Path("/proc/net/tcp").read_text()


@contextmanager
def haproxy(rig: Rig, target: Way) -> Iterator[Way]:
    """A byte relay in C; TLS passes it as it is."""
    port, place = free_port(), rig.place("haproxy")
    config = place / f"{port}.cfg"
    config.write_text(HAPROXY_CONFIG.format(host=HOST, port=port, target=f"{HOST}:{target.port}"))
    argv = [shutil.which(HAPROXY) or HAPROXY, "-db", "-f", str(config)]
    with listening(argv, port, place / "log") as process:
        yield target._replace(name=HAPROXY, port=port, pid=process.pid)


@contextmanager
def trio_relay(rig: Rig, target: Way, *, scan: bool) -> Iterator[Way]:
    """A relay of trio's own sockets."""
    port, place = free_port(), rig.place("trio")
    argv = [sys.executable, "-m", "bench.trio_relay", "--listen", f"{HOST}:{port}",
            "--target", f"{HOST}:{target.port}", *["--scan"] * scan]  # fmt: skip
    with listening(argv, port, place / "log") as process:
        yield target._replace(name=TRIO_SCANNING if scan else TRIO, port=port, pid=process.pid)


# ---------------------------------------------------------------------- tables


class Cell(NamedTuple):
    """Rows of a table of rates: what all of these ways are measured at."""

    label: str
    ways: Sequence[Way]
    go: Callable[[Way], Took]


def to_direct(took: Mapping[str, Sequence[Took]], name: str) -> Ratio:
    """One way's rate over direct's, round by round."""
    return ratio([one.rate for one in took[name]], [one.rate for one in took[DIRECT]])


def middle_cpu(runs: Sequence[Took]) -> float:
    """Microseconds of CPU a transaction of one way."""
    return statistics.median(one.cpu_us for one in runs)


@dataclass(frozen=True)
class Sheet:
    """Where tables of one kind of connection go: `how` ends their titles, `times` is how many rounds each takes."""

    rig: Rig
    report: Report
    how: str
    times: int

    def rates(self, title: str, cells: Sequence[Cell]) -> dict[str, dict[str, list[Took]]]:
        """Measure every cell in alternating rounds; give what each way took, by cell."""
        table = self._table(title, "", "way", "a second", "to direct", "CPU, us")
        every: dict[str, dict[str, list[Took]]] = {}
        for cell in cells:
            took: dict[str, list[Took]] = {way.name: [] for way in cell.ways}
            for _, way in rounds(cell.ways, self.times, self.rig):
                took[way.name].append(cell.go(way))
            for name, runs in took.items():
                cpu = f"{middle_cpu(runs):.0f}" if name != DIRECT else ""
                middle = f"{statistics.median(one.rate for one in runs):.0f}"
                table.rows.append((cell.label, name, middle, str(to_direct(took, name)), cpu))
            every[cell.label] = took
        self.report.data[table.title] = every
        return every

    def latency(self, title: str, ways: Sequence[Way], go: Callable[[Way], Sequence[float]]) -> float:
        """Measure milliseconds of single statements; give how much proxyd's median is above direct's."""
        found: dict[str, list[float]] = {way.name: [] for way in ways}
        for _, way in rounds(ways, self.times, self.rig):
            found[way.name] += go(way)
        table = self._table(title, "way", "p50", "above direct", "p95", "p99")
        spread = {
            name: [quantile(values, share) for share in (0.5, 0.95, 0.99)] for name, values in found.items()
        }
        for name, (middle, late, latest) in spread.items():
            above = f"{middle - spread[DIRECT][0]:+.3f}"
            table.rows.append((name, f"{middle:.3f}", above, f"{late:.2f}", f"{latest:.2f}"))
        self.report.data[table.title] = spread
        return spread[PROXYD][0] - spread[DIRECT][0]

    def bulk(self, title: str, ways: Sequence[Way], go: Callable[[Way], float]) -> Ratio:
        """Measure seconds of one large result; give proxyd's rate over direct's."""
        took: dict[str, list[float]] = {way.name: [] for way in ways}
        cpu: dict[str, list[float]] = {way.name: [] for way in ways}
        for _, way in rounds(ways, self.times, self.rig):
            before = cpu_seconds(way.pid) if way.pid else 0.0
            took[way.name].append(go(way))
            cpu[way.name].append(cpu_seconds(way.pid) - before if way.pid else 0.0)
        table = self._table(title, "way", "s", "rate to direct", "CPU, s")
        for name, seconds in took.items():
            busy = f"{statistics.median(cpu[name]):.2f}" if name != DIRECT else ""
            share = str(ratio(took[DIRECT], seconds))
            table.rows.append((name, f"{statistics.median(seconds):.2f}", share, busy))
        self.report.data[table.title] = {"seconds": took, "cpu": cpu}
        return ratio(took[DIRECT], took[PROXYD])

    def _table(self, title: str, *columns: str) -> Table:
        table = Table(f"{title}, {self.how}", columns)
        self.report.tables.append(table)
        return table


def sheets(rig: Rig, report: Report) -> tuple[Sheet, Sheet]:
    """Give the sheet of what is measured without TLS, and that with it."""
    return (
        Sheet(rig, report, "no TLS", rig.pick(ROUNDS_QUICK, ROUNDS)),
        Sheet(rig, report, "TLS on every leg", rig.pick(ROUNDS_QUICK, ROUNDS_TLS)),
    )
