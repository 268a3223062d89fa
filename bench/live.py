"""Live view: how late viewers see, and what one that stopped reading costs the session.

Promise: with 200 viewers what leaves the target's terminal is at each of them within 100 ms (99th percentile); a viewer
that never reads costs a session less than 5 % of its throughput.

The command on the target prints the machine's monotonic clock; a lag is from there to the moment the record's frame can
be read from a viewer's socket. All viewers are sockets of this one process, so the time it takes to unpack for 200 of
them is on the same processors, though not in the lag itself.
"""

from __future__ import annotations

import re
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bench.rig import MB, Promise, Report, Rig, Table, plain, quantile, ratio, rounds
from bench.throughput import download
from proxyd.control.client import ControlError, Stream
from proxyd.recorder.record import Kind
from tests.peers import Terminal

VIEWERS = (1, 20, 200)
WATCH_S, WATCH_QUICK_S = 15, 4
TICK_S = 0.05  # a screen that moves: twenty outputs a second
SETTLE_S = 1.0  # a viewer has caught up when nothing that came in so long was older than that
CATCH_UP_S = (
    60.0  # those who joined first have the joining of all others to read; past this the lag is what it is
)
BULK_MB, BULK_QUICK_MB = 150, 50
ROUNDS, ROUNDS_QUICK = 9, 3
LAG_P99_MS, STALLED_KEEPS = 100, 0.95
STAMP = re.compile(rb"<(\d+)>")
TICKER = f"import time\nwhile True: print('<%d>' % time.monotonic_ns(), flush=True); time.sleep({TICK_S})"


def lags(rig: Rig, viewers: int, seconds: float) -> list[float]:
    """Milliseconds from the target's clock to every viewer."""
    command = f'{sys.executable} -u -c "{TICKER}"'
    with ExitStack() as stack:
        terminal = stack.enter_context(Terminal(rig.way_proxyd.ssh(command, "-tt")))
        stack.enter_context(drained(terminal))
        session = rig.proxyd.the_live_session()["id"]
        streams: list[Stream] = []
        for _ in range(viewers):
            streams.append(stack.enter_context(rig.proxyd.client().stream("watch", session=session)))
            streams[-1].receive()  # one after the other: a crowd at the door is not what is measured
        rig.calm()
        caught_up(streams)
        found: list[float] = []
        watched(streams, seconds, found.append)
    rig.proxyd.quiet()
    return found


@contextmanager
def drained(terminal: Terminal) -> Iterator[None]:
    """Have a person's terminal read by a process of its own: cat takes what the screen shows."""
    reader = subprocess.Popen(
        ["cat"], stdin=terminal.master, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        reader.kill()
        reader.wait(10)


def caught_up(streams: list[Stream]) -> None:
    """Read history until all is news."""
    end = time.monotonic() + CATCH_UP_S
    while time.monotonic() < end:
        found: list[float] = []
        watched(streams, SETTLE_S, found.append)
        if found and max(found) < SETTLE_S * 1e3:
            return


def watched(streams: list[Stream], seconds: float, take: Callable[[float], object]) -> None:
    """Read all streams for a while; `take` gets each stamp's lag in milliseconds."""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ready = selector.select(left)
            there = time.monotonic_ns()
            for key, _ in ready:
                stream = key.fileobj
                assert isinstance(stream, Stream)
                for frame in stream.receive():
                    for record in frame.get("records", ()):
                        if record.kind is Kind.OUTPUT:
                            for stamp in STAMP.findall(record.body):
                                take((there - int(stamp)) / 1e6)


def stalled(rig: Rig, size: int) -> tuple[list[float], list[float]]:
    """Bytes a second of downloads alone, and with a viewer that never reads."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    command = f"head -c {size} /dev/zero"
    download(rig.way_proxyd, command, size)
    for _, watch in rounds((False, True), rig.pick(ROUNDS_QUICK, ROUNDS), rig):
        rig.proxyd.quiet()
        with ExitStack() as stack:

            def look(stack: ExitStack = stack) -> None:
                session = rig.proxyd.the_live_session()["id"]
                stack.enter_context(rig.proxyd.client().stream("watch", session=session))

            took = download(rig.way_proxyd, command, size, ready=look if watch else lambda: None)
        rates[watch].append(size / took.payload)
    rig.proxyd.quiet()
    return rates[False], rates[True]


def measure(rig: Rig) -> Report:
    """Lags by number of viewers, then the stalled one."""
    report = Report("live")
    columns = ("viewers", "records seen", "p50", "p90", "p99", "most")
    table = Table(f"lag, ms, one output every {TICK_S * 1e3:.0f} ms", columns)
    tail = 0.0
    for viewers in VIEWERS:
        try:
            found = lags(rig, viewers, rig.pick(WATCH_QUICK_S, WATCH_S))
        except ControlError as error:
            rig.proxyd.quiet()
            report.notes.append(f"{viewers} viewers could not be measured: {error}")
            tail = float("inf")
            continue
        row = [f"{quantile(found, share):.1f}" for share in (0.5, 0.9, 0.99, 1.0)]
        table.rows.append((str(viewers), str(len(found)), *row))
        tail = quantile(found, 0.99)
        report.data[f"lag_ms_{viewers}"] = {
            name: quantile(found, share) for name, share in (("p50", 0.5), ("p99", 0.99))
        }
    alone, with_one = stalled(rig, rig.pick(BULK_QUICK_MB, BULK_MB) * MB)
    kept = ratio(with_one, alone)
    bulk = Table("download beside a viewer that never reads", ("", "MB/s", "to none"))
    bulk.rows = [
        ("no viewer", f"{statistics.median(alone) / MB:.0f}", ""),
        ("one stalled viewer", f"{statistics.median(with_one) / MB:.0f}", str(kept)),
    ]
    report.tables += [table, bulk]
    report.promises = [
        Promise(f"lag with {VIEWERS[-1]} viewers, p99", tail, LAG_P99_MS, unit=" ms"),
        Promise("throughput beside a stalled viewer", kept.median, STALLED_KEEPS, least=True),
    ]
    report.data |= {"stalled": {"alone": alone, "with": with_one} | plain({"ratio": kept})}
    return report
