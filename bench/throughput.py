"""Bulk data: downloads, uploads and SFTP, against OpenSSH direct, over `ssh -J` and over a recording bastion.

Promise: a download has >= 0.65 of direct's rate and >= 1.2 x that of `ssh -J`, which records nothing; SFTP put and get
have >= 0.85 of direct's.

Two times are taken of every run: of the whole command, login and all, as a user waits for it, and of the payload alone, from
the moment the far end says it begins. The promises are about the whole command; the payload's ratios are the harder ones,
and say what is left when transfers grow.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from bench.rig import (
    DIRECT,
    GIB,
    JUMP,
    MB,
    MIB,
    PROXYD,
    RUN_S,
    Promise,
    Ratio,
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


class Took(NamedTuple):
    """Seconds of one run."""

    whole: float
    payload: float


Run = Callable[[Way], Took]


class Bulk:
    """The operations, each by one way."""

    def __init__(self, directory: Path, bulk: int, sftp: int) -> None:
        self.bulk, self.sftp = bulk * MB, sftp * MB
        self.random = _random(directory / "random", self.bulk)
        self.file = _random(directory / "file", self.sftp)
        self.put, self.got = directory / "put", directory / "got"

    def zeros(self, way: Way) -> Took:
        """Download what compresses to nothing."""
        return download(way, f"head -c {self.bulk} /dev/zero", self.bulk)

    def noise(self, way: Way) -> Took:
        """Download what does not compress."""
        return download(way, f"cat {self.random}", self.bulk)

    def upload(self, way: Way) -> Took:
        """Upload what does not compress."""
        command = "echo go; cat > /dev/null; echo done"
        started = perf_counter()
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
        return Took(perf_counter() - started, took)

    def sftp_put(self, way: Way) -> Took:
        """Put a file."""
        took = self._sftp(way, f"put {self.file} {self.put}")
        assert self.put.stat().st_size == self.sftp
        return took

    def sftp_get(self, way: Way) -> Took:
        """Get a file."""
        took = self._sftp(way, f"get {self.file} {self.got}")
        assert self.got.stat().st_size == self.sftp
        return took

    def _sftp(self, way: Way, command: str) -> Took:
        """sftp's own `!` tells when it is connected, and when it has done the command."""
        argv = ["sftp", "-q", "-F", str(way.config), "-b", "-", "peer"]
        started = perf_counter()
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
        return Took(perf_counter() - started, took)


def download(way: Way, command: str, size: int, *, ready: Callable[[], object] = lambda: None) -> Took:
    """Run `command` there and take its `size` bytes; `ready` is called before it begins, once the session is up."""
    whole, started = f"echo up; read -r _; echo go; {command}", perf_counter()
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
    return Took(perf_counter() - started, took)


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
    for name in ("download, zeros", "download, random"):
        for base, bound in ((DIRECT, DOWNLOAD_TO_DIRECT), (JUMP, DOWNLOAD_TO_JUMP)):
            _promise(report, name, everything[name], base, bound)
    for name in ("sftp put", "sftp get"):
        _promise(report, name, everything[name], DIRECT, SFTP_TO_DIRECT)
    report.notes.append(
        "MB/s and CPU are medians; a ratio of rates is the median (least..most) of the rounds'"
    )
    report.notes.append(
        "SFTP by the bastion is passed on and not recorded; a bastion's script(1) takes no upload"
    )
    return report


def _promise(report: Report, name: str, took: dict[str, list[Took]], base: str, bound: float) -> None:
    value = rates(took, base, "whole")[PROXYD].median
    report.promises.append(Promise(f"{name}, whole command, to {base}", value, bound, least=True))


def rates(took: dict[str, list[Took]], base: str, part: str) -> dict[str, Ratio]:
    """Every way's rate over that of `base`."""
    seconds = {name: [float(getattr(one, part)) for one in each] for name, each in took.items()}
    return {name: ratio(seconds[base], each) for name, each in seconds.items()}


def _operation(rig: Rig, report: Report, name: str, run: Run, size: int) -> dict[str, list[Took]]:
    """Measure one operation; gives the seconds of every round, by way."""
    ways = [way for way in rig.ways if not (way is rig.way_bastion and name in NEEDS_NO_TERMINAL)]
    ways.append(rig.way_default)
    pid = rig.proxyd.pid
    took: dict[str, list[Took]] = {way.name: [] for way in ways}
    spent: list[float] = []
    for way in ways:
        if not rig.quick:
            run(way)  # what only the first run costs
    for _, way in rounds(ways, rig.pick(ROUNDS_QUICK, ROUNDS), rig):
        before = cpu_seconds(pid)
        took[way.name].append(run(way))
        if way is rig.way_proxyd:
            rig.proxyd.quiet()  # sealing is part of what it costs
            spent.append((cpu_seconds(pid) - before) / size * GIB)
    columns = ("", "s", "to direct", "to ssh -J", "payload, MB/s", "to direct", "to ssh -J")
    table = Table(f"{name}, {size // MB} MB: the whole command, and its payload alone", columns)
    ratios = [rates(took, base, part) for part in ("whole", "payload") for base in (DIRECT, JUMP)]
    for way in ways:
        mine = took[way.name]
        whole, alone = (
            statistics.median(getattr(one, part) for one in mine) for part in ("whole", "payload")
        )
        to = [str(one[way.name]) for one in ratios]
        table.rows.append((way.name, f"{whole:.2f}", *to[:2], f"{size / alone / MB:.0f}", *to[2:]))
    report.tables.append(table)
    report.notes.append(f"{name}: proxyd spends {statistics.median(spent):.2f} s of CPU on a GiB")
    report.data[name] = {
        "bytes": size,
        "seconds": took,
        "to_direct": {part: plain(rates(took, DIRECT, part)) for part in ("whole", "payload")},
        "proxyd_cpu_seconds_per_gib": spent,
    }
    return took
