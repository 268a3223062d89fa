"""Bulk data: downloads, uploads and SFTP, against OpenSSH direct, over `ssh -J` and over a recording bastion.

Promise: a download has >= 0.65 of direct's rate and >= 1.2 x that of `ssh -J`, which records nothing; SFTP put and get
have >= 0.85 of direct's.

Measured is the payload alone: the clock starts when the far end says it begins, so that logins are not in it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from bench.rig import (
    DIRECT,
    GIB,
    JUMP,
    MB,
    MIB,
    PROXYD,
    RUN_S,
    Promise,
    Report,
    Rig,
    Table,
    Way,
    plain,
    ratio,
    rounds,
)
from tests.peers.process import cpu_seconds

BULK_MB, BULK_QUICK_MB = 200, 60
SFTP_MB, SFTP_QUICK_MB = 100, 40
ROUNDS, ROUNDS_QUICK = 5, 2
DOWNLOAD_TO_DIRECT, DOWNLOAD_TO_JUMP, SFTP_TO_DIRECT = 0.65, 1.2, 0.85
NEEDS_NO_TERMINAL = ("upload",)  # script(1) gives every command a terminal: no way in for a file

Run = Callable[[Way], float]


class Bulk:
    """The operations: each gives the seconds its payload took by one way."""

    def __init__(self, directory: Path, bulk: int, sftp: int) -> None:
        self.bulk, self.sftp = bulk * MB, sftp * MB
        self.random = _random(directory / "random", self.bulk)
        self.file = _random(directory / "file", self.sftp)
        self.put, self.got = directory / "put", directory / "got"

    def zeros(self, way: Way) -> float:
        """Download what compresses to nothing."""
        return download(way, f"head -c {self.bulk} /dev/zero", self.bulk)

    def noise(self, way: Way) -> float:
        """Download what does not compress."""
        return download(way, f"cat {self.random}", self.bulk)

    def upload(self, way: Way) -> float:
        """Upload what does not compress."""
        command = "echo go; cat > /dev/null; echo done"
        with (
            self.random.open("rb") as source,
            subprocess.Popen(
                way.ssh(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            ) as client,
        ):
            assert client.stdin
            assert client.stdout
            until(client, b"go")
            began = perf_counter()
            while os.splice(source.fileno(), client.stdin.fileno(), MIB):
                pass
            client.stdin.close()
            until(client, b"done")
            took = perf_counter() - began
            finish(client)
        return took

    def sftp_put(self, way: Way) -> float:
        """Put a file."""
        took = self._sftp(way, f"put {self.file} {self.put}")
        assert self.put.stat().st_size == self.sftp
        return took

    def sftp_get(self, way: Way) -> float:
        """Get a file."""
        took = self._sftp(way, f"get {self.file} {self.got}")
        assert self.got.stat().st_size == self.sftp
        return took

    def _sftp(self, way: Way, command: str) -> float:
        """sftp's own `!` tells when it is connected, and when it has done the command."""
        argv = ["sftp", "-q", "-F", str(way.config), "-b", "-", "peer"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as client:
            assert client.stdin
            client.stdin.write(b"!echo go\n")
            until(client, b"go")
            began = perf_counter()
            client.stdin.write(f"{command}\n!echo done\n".encode())
            until(client, b"done")
            took = perf_counter() - began
            client.stdin.close()
            finish(client)
        return took


def download(way: Way, command: str, size: int, *, ready: Callable[[], object] = lambda: None) -> float:
    """Run `command` there and take its `size` bytes; `ready` is called before it begins, once the session is up."""
    whole = f"echo up; read -r _; echo go; {command}"
    # A terminal's echo would come between: the bastion's script(1) puts one there, and reads no answer.
    asks = "" if "bastion" in way.name else whole
    with subprocess.Popen(
        way.ssh(asks or f"echo go; {command}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as client:
        assert client.stdin
        assert client.stdout
        if asks:
            until(client, b"up")
            ready()
            client.stdin.write(b"\n")
        until(client, b"go")
        began = perf_counter()
        taken, sink = 0, os.open(os.devnull, os.O_WRONLY)
        try:
            while passed := os.splice(client.stdout.fileno(), sink, MIB):
                taken += passed
        finally:
            os.close(sink)
        took = perf_counter() - began
        client.stdin.close()
        finish(client)
    assert taken >= size, f"{way.name}: {taken} of {size} bytes"  # a terminal in between adds some
    return took


def until(client: subprocess.Popen[bytes], word: bytes) -> None:
    """Read single bytes up to a line that is `word`."""
    assert client.stdout
    line = b""
    while byte := client.stdout.read(1):
        line = b"" if byte == b"\n" else line + byte.strip(b"\r")
        if byte == b"\n":
            continue
        if line.endswith(word):
            assert client.stdout.read(1) in (b"\n", b"\r")
            return
    raise RuntimeError(f"the client ended before it said {word!r}: {client.wait(RUN_S)}")


def finish(client: subprocess.Popen[bytes]) -> None:
    """Wait for an end without an error."""
    if code := client.wait(RUN_S):
        raise RuntimeError(f"{client.args!r} ended with {code}")


def _random(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))
    return path


def measure(rig: Rig) -> Report:
    """Every operation by every way, ways alternated."""
    bulk = Bulk(rig.target_files, rig.pick(BULK_QUICK_MB, BULK_MB), rig.pick(SFTP_QUICK_MB, SFTP_MB))
    operations: dict[str, tuple[Run, int]] = {
        "download, zeros": (bulk.zeros, bulk.bulk),
        "download, random": (bulk.noise, bulk.bulk),
        "upload": (bulk.upload, bulk.bulk),
        "sftp put": (bulk.sftp_put, bulk.sftp),
        "sftp get": (bulk.sftp_get, bulk.sftp),
    }
    report = Report("throughput", data={"rounds": rig.pick(ROUNDS_QUICK, ROUNDS)})
    everything = {name: _operation(rig, report, name, *operation) for name, operation in operations.items()}
    down = [everything[name] for name in ("download, zeros", "download, random")]
    pairs = [(DIRECT, DOWNLOAD_TO_DIRECT, "direct"), (JUMP, DOWNLOAD_TO_JUMP, "ssh -J")]
    for base, bound, named in pairs:
        for kind, rates in zip(("zeros", "random data"), down, strict=True):
            value = ratio(rates[PROXYD], rates[base]).median
            report.promises.append(Promise(f"download of {kind} to {named}", value, bound, least=True))
    for name in ("sftp put", "sftp get"):
        value = ratio(everything[name][PROXYD], everything[name][DIRECT]).median
        report.promises.append(Promise(f"{name} to direct", value, SFTP_TO_DIRECT, least=True))
    report.notes.append("MB/s and CPU are medians; a ratio is the median (least..most) of the rounds' ratios")
    report.notes.append(
        "SFTP by the bastion is passed on and not recorded; a bastion's script(1) takes no upload"
    )
    return report


def _operation(rig: Rig, report: Report, name: str, run: Run, size: int) -> dict[str, list[float]]:
    """Measure one operation; gives bytes a second of every round, by way."""
    ways = [way for way in rig.ways if not (way is rig.way_bastion and name in NEEDS_NO_TERMINAL)]
    ways.append(rig.way_default)
    pid = rig.proxyd.pid
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    spent: list[float] = []
    for way in ways:
        if not rig.quick:
            run(way)  # what only the first run costs
    for _, way in rounds(ways, rig.pick(ROUNDS_QUICK, ROUNDS), rig):
        before = cpu_seconds(pid)
        rates[way.name].append(size / run(way))
        if way is rig.way_proxyd:
            rig.proxyd.quiet()  # sealing is part of what it costs
            spent.append((cpu_seconds(pid) - before) / size * GIB)
    table = Table(f"{name}, {size // MB} MB", ("way", "MB/s", "to direct", "to ssh -J", "proxyd's CPU s/GiB"))
    for way in ways:
        to = [str(ratio(rates[way.name], rates[base])) for base in (DIRECT, JUMP)]
        cpu = f"{statistics.median(spent):.2f}" if way is rig.way_proxyd else ""
        table.rows.append((way.name, f"{statistics.median(rates[way.name]) / MB:.0f}", *to, cpu))
    report.tables.append(table)
    report.data[name] = {
        "bytes": size,
        "bytes_per_second": rates,
        "to_direct": plain({way.name: ratio(rates[way.name], rates[DIRECT]) for way in ways}),
        "proxyd_cpu_seconds_per_gib": spent,
    }
    return rates
