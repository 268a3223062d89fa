"""What becomes of a session's echo while the console beside it is flooded, fuzzed, or killed again and again.

Promise: within 20 ms of its usual (99th percentile). The console has the limits on connections that are shipped. The floods come
from one address, and from five hundred, each a process of its own that is nicer than all others (bench.flood): it stands for
machines elsewhere, whose work is none of this one's.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.rig import Promise, Report, Rig, Table, quantile
from tests.e2e.lab import RUNNING, Lab, furnish, held, make_lab
from tests.fuzz.seeds_console import seeds
from tests.peers.console import Console
from tests.peers.endpoint import HOST

SECONDS, SECONDS_QUICK = 30.0, 8.0
PAUSE_S = 0.005  # between an echo and the next line
WARM_S = 1.0
ADDRESSES = 500
ECHO_MS = 20
SHIPPED = {"exempt": [f"{HOST}/32"], "max_startups": "1000:30:2000"}  # all else as config.Admission has it


def echoes(lab: Lab, directory: Path, seconds: float) -> list[float]:
    """Milliseconds from a typed line to its echo."""
    found = []
    with held(lab, directory, "exec cat") as (client, _):
        assert client.stdin
        assert client.stdout
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            client.stdin.write(b"%d\n" % len(found))
            client.stdin.flush()
            client.stdout.readline()
            found.append((time.perf_counter() - began) * 1e3)
            time.sleep(PAUSE_S)
    return found


@contextlib.contextmanager
def flooded(console: Console, addresses: int, seconds: float) -> Iterator[list[int]]:
    """Flood it for so long; the list has the pages it gave, and the connections it did not take, afterwards."""
    argv = [
        sys.executable,
        "-m",
        "bench.flood",
        str(console.port),
        f"{seconds + 3 * WARM_S:g}",
        str(addresses),
    ]
    counts: list[int] = []
    flood = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(WARM_S)
        yield counts
    finally:
        counts += map(int, flood.communicate(timeout=seconds + 60)[0].split())


@contextlib.contextmanager
def meanwhile(work: Callable[[int], None]) -> Iterator[list[int]]:
    """Do something again and again; the list has how often, afterwards."""
    over, counts = threading.Event(), [0]

    def again() -> None:
        while not over.is_set():
            work(counts[0])
            counts[0] += 1

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join(60)


def fuzz(console: Console) -> Callable[[int], None]:
    """Send what browsers do not."""
    draw, kept = random.Random(9), list(seeds())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def work(_: int) -> None:
        data = bytearray(draw.choice(kept))
        for _ in range(4):
            data[draw.randrange(len(data))] = draw.randrange(256)
        with contextlib.suppress(OSError), socket.create_connection((HOST, console.port), 5) as plain:
            plain.settimeout(0.05)
            with context.wrap_socket(plain) as secure:
                secure.sendall(data)
                while secure.recv(65536):
                    pass

    return work


def kill(console: Console) -> Callable[[int], None]:
    """Kill it, and start it."""

    def work(_: int) -> None:
        assert console.process is not None
        console.process.kill()
        console.start()

    return work


def measure(rig: Rig) -> Report:
    """Echoes alone, and beside each trouble."""
    report, directory = Report("doors"), rig.place("doors")
    lab, seconds = make_lab(directory / "lab"), rig.pick(SECONDS_QUICK, SECONDS)
    with lab.sshd:
        furnish(lab)
        console = Console(lab.proxyd, directory / "console")
        lab.proxyd.settings["admission"] = SHIPPED
        with lab.proxyd, console:
            rig.calm()
            found = {"alone": echoes(lab, directory, seconds)}
            for name, addresses in (
                ("flooded from one address", 1),
                (f"flooded from {ADDRESSES}", ADDRESSES),
            ):
                rig.calm()
                with flooded(console, addresses, seconds) as counts:
                    beside = echoes(lab, directory, seconds)
                found[f"{name}: {counts[0]} pages, {counts[1]} refused"] = beside
            for name, work in (("fuzzed", fuzz(console)), ("killed and started", kill(console))):
                rig.calm()
                with meanwhile(work) as done:
                    beside = echoes(lab, directory, seconds)
                found[f"{name}: {done[0]} times"] = beside
            rig.calm()
            found["alone again"] = echoes(lab, directory, seconds)
    RUNNING.remove(lab)
    usual = min(quantile(found[name], 0.99) for name in ("alone", "alone again"))
    table = Table("echo of a session, ms", ("console", "count", "p50", "p90", "p99", "most"))
    for name, times in found.items():
        table.rows.append(
            (name, str(len(times)), *(f"{quantile(times, share):.1f}" for share in (0.5, 0.9, 0.99, 1.0)))
        )
        report.data[name] = {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}
        if not name.startswith("alone"):
            report.promises.append(
                Promise(
                    f"{name.partition(':')[0]}, p99 more", quantile(times, 0.99) - usual, ECHO_MS, unit=" ms"
                )
            )
    report.tables.append(table)
    return report
