"""What the scripts share: real peers started once, rounds in which the ways alternate, ratios, tables, promises.

Rule 1: ways are compared within one round of one run only, never across runs: the machine may be shared and noisy.
        A ratio is the median of the rounds' ratios, shown with its smallest and largest.
Rule 2: the way that goes first changes with every round.
Rule 3: a round waits a while for a moment in which nobody else computes; how often there was none is in the report.
Rule 4: everything is on loopback in temporary directories, and ends with the run. The target's files are in memory where
        that is possible: its disk is not proxyd's.
"""

from __future__ import annotations

import os
import platform
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.table import Table as RichTable

from tests.peers import Endpoint, Key, Proxyd, Sshd
from tests.peers.daemon import TARGET, USER

CIPHER = "aes128-gcm@openssh.com"  # the same for every way, so that ways are compared and not ciphers
RUN_S = 300.0  # no single client run takes longer, however loaded the machine
MB = 1_000_000
MIB = 1 << 20
GIB = 1 << 30
WIDTH = 160  # of a table that goes to a file
PATIENCE_S, PATIENCE_QUICK_S = 240.0, 10.0  # what one script waits in all for quiet moments
CALM_LOOKS, LOOK_S = 8, 0.02  # a moment is quiet when nobody but us could run, as often as this
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * GIB  # the largest run's files, three times over

DIRECT, JUMP, BASTION, PROXYD = "direct", "ssh -J", "bastion (script)", "proxyd"
DIRECT_DEFAULT = "direct, OpenSSH's default cipher"

BASTION_SCRIPT = """#!/bin/bash
# What sshd's ForceCommand runs on a recording bastion: terminals and commands under script(1), SFTP past it.
S="ssh -q -F {config}"
case "$SSH_ORIGINAL_COMMAND" in internal-sftp|*sftp-server*) exec $S -s peer sftp;; esac
FILE=$(mktemp {directory}/typescript.XXXXXX)
if [ -z "$SSH_ORIGINAL_COMMAND" ]; then exec script -q -f -c "$S -tt peer" "$FILE"; fi
COMMAND=$(printf %q "$SSH_ORIGINAL_COMMAND")
if [ -t 0 ]; then exec script -q -f -e -c "$S -tt peer -- $COMMAND" "$FILE"; fi
exec script -q -f -e -c "$S peer -- $COMMAND" "$FILE" </dev/null
"""


@dataclass(frozen=True)
class Way:
    """One way to the same target: what an OpenSSH client is told so that it goes there."""

    name: str
    config: Path

    def ssh(self, command: str, *options: str) -> list[str]:
        """An ssh command line; the configuration knows the host as `peer`."""
        return ["ssh", "-F", str(self.config), *options, "peer", command]


@dataclass(frozen=True)
class Promise:
    """One number against its bound; `least`: the bound is the smallest that keeps it, else the largest."""

    text: str
    value: float
    bound: float
    least: bool = False
    unit: str = ""

    @property
    def kept(self) -> bool:
        """Whether the number keeps the bound."""
        return self.value >= self.bound if self.least else self.value <= self.bound


@dataclass
class Table:
    """Rows of text under columns; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)


@dataclass
class Report:
    """What one script found: tables for people, `data` for programs, promises with their numbers."""

    name: str
    tables: list[Table] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    load: tuple[float, float] = (0.0, 0.0)
    rounds: tuple[int, int] = (0, 0)  # that waited for a quiet moment, and that had none
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """The report as one JSON map."""
        return asdict(self) | {"promises": [asdict(one) | {"kept": one.kept} for one in self.promises]}

    def show(self, console: Console) -> None:
        """Print it."""
        before, after = self.load
        console.rule(f"{self.name} ({self.seconds:.0f} s; load average {before:.1f} to {after:.1f})")
        if self.rounds[0]:
            console.print(
                f"{self.rounds[1]} of {self.rounds[0]} measurements began while others computed",
                highlight=False,
            )
        for table in self.tables:
            drawn = RichTable(title=table.title, title_justify="left", title_style="bold")
            for number, column in enumerate(table.columns):
                drawn.add_column(column, justify="right" if number else "left")
            for row in table.rows:
                drawn.add_row(*row)
            console.print(drawn)
        if self.promises:
            drawn = RichTable("promise", "measured", "bound", "")
            for one in self.promises:
                bound = f"{'>=' if one.least else '<='} {one.bound:g}{one.unit}"
                drawn.add_row(one.text, f"{one.value:.3g}{one.unit}", bound, "kept" if one.kept else "MISSED")
            console.print(drawn)
        for note in self.notes:
            console.print(f"* {note}", markup=False, highlight=False)


class Rig:
    """The peers of one run, started when first asked for: `with Rig(quick=False) as rig`."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.patience_s = 0.0
        self.waited = self.restless = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # 500 sessions are 1,500 descriptors
        self._stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        made = tempfile.mkdtemp(prefix="px-")  # short: a unix socket's path ends after 108 characters
        self._stack.callback(shutil.rmtree, made, ignore_errors=True)
        self.directory = Path(made)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def calm(self) -> None:
        """Wait until nobody else computes, while patience lasts."""
        self.waited += 1
        looks = 0
        while self.patience_s > 0:
            looks = looks + 1 if runnable() <= 1 else 0
            if looks == CALM_LOOKS:
                return
            time.sleep(LOOK_S)
            self.patience_s -= LOOK_S
        self.restless += 1

    def pick(self, quick: int, full: int) -> int:
        """The count of a short run, or of a whole one."""
        return quick if self.quick else full

    def place(self, name: str) -> Path:
        """A directory of a script's own."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path

    @cached_property
    def target_files(self) -> Path:
        """Where the target keeps files."""
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
            made = tempfile.mkdtemp(prefix="px-", dir=MEMORY)
            self._stack.callback(shutil.rmtree, made, ignore_errors=True)
            return Path(made)
        return self.place("target-files")

    @cached_property
    def key(self) -> Key:
        """The user's key."""
        return Key.generate(self.directory / "user")

    @cached_property
    def target(self) -> Sshd:
        """The target all ways lead to."""
        return self._stack.enter_context(Sshd(self.directory / "target"))

    @cached_property
    def jump(self) -> Sshd:
        """An OpenSSH server to jump over."""
        return self._stack.enter_context(Sshd(self.directory / "jump"))

    @cached_property
    def bastion(self) -> Sshd:
        """An OpenSSH server that records with script(1) before it goes on."""
        directory = self.place("bastion")
        forced = directory / "forced"
        onward = self.way_direct.config
        forced.write_text(BASTION_SCRIPT.format(config=onward, directory=directory))
        forced.chmod(0o755)
        return self._stack.enter_context(Sshd(directory, extra=f"ForceCommand {forced}"))

    @cached_property
    def proxyd(self) -> Proxyd:
        """The proxyd that scripts share."""
        return self.another_proxyd("front")

    def another_proxyd(self, name: str) -> Proxyd:
        """proxyd as `init` makes it, recording, strict, with one user who may do everything."""
        proxyd = Proxyd(self.directory / name)
        proxyd.user(USER, keys=[self.key.line])
        proxyd.target(TARGET, self.target)
        proxyd.grant()
        return self._stack.enter_context(proxyd)

    # the ways

    def _way(self, name: str, at: Endpoint, *, before: str = "", cipher: str = CIPHER) -> Way:
        ciphers = f"  Ciphers {cipher}\n" if cipher else ""
        path = self.place("clients") / f"{len(list(self.place('clients').glob('*.conf')))}.conf"
        path.write_text(f"{before}{at.config.read_text()}  LogLevel ERROR\n{ciphers}")
        return Way(name, path)

    @cached_property
    def way_direct(self) -> Way:
        """Straight to the target."""
        return self._way(DIRECT, self.target.endpoint(self.place("clients")))

    @cached_property
    def way_default(self) -> Way:
        """Straight to the target, with whatever OpenSSH chooses."""
        return self._way(DIRECT_DEFAULT, self.target.endpoint(self.place("clients")), cipher="")

    @cached_property
    def way_jump(self) -> Way:
        """Over the jump host: nothing recorded."""
        hop = self.jump.endpoint(self.place("clients")).config.read_text()
        hop = hop.replace("Host peer", "Host hop").replace("Host *", "Host hop")
        at = self.target.endpoint(self.place("clients"))
        return self._way(JUMP, at, before=f"{hop}Host peer\n  ProxyJump hop\n")

    @cached_property
    def way_bastion(self) -> Way:
        """Over the bastion: recorded by script(1)."""
        return self._way(BASTION, self.bastion.endpoint(self.place("clients")))

    @cached_property
    def way_proxyd(self) -> Way:
        """Through proxyd: recorded."""
        return self._way(PROXYD, self.proxyd.endpoint(self.key, self.place("clients")))

    @property
    def ways(self) -> list[Way]:
        """The four that are compared, direct first."""
        return [self.way_direct, self.way_jump, self.way_bastion, self.way_proxyd]


def rounds(ways: Sequence[Any], count: int, rig: Rig | None = None) -> Iterator[tuple[int, Any]]:
    """Yield (round, way): every way in every round, another one first each time; `rig`: each in a quiet moment."""
    for number in range(count):
        start = number % len(ways)
        for way in [*ways[start:], *ways[:start]]:
            if rig is not None:
                rig.calm()
            yield number, way


def runnable() -> int:
    """How many threads could run now, this one among them."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("procs_running"):
            return int(line.split()[1])
    return 0


def once(argv: Sequence[str | Path], **options: Any) -> float:
    """Run a program and give the seconds it took; RuntimeError with what it said when it fails."""
    began = time.perf_counter()
    done = subprocess.run(
        argv,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options},
        stderr=subprocess.PIPE,
        timeout=RUN_S,
        check=False,
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, argv))}: {done.returncode}: {done.stderr[-500:]!r}")
    return took


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True)
class Ratio:
    """Round by round, one way's number over another's."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}..{self.most:.2f})"


def ratio(values: Sequence[float], base: Sequence[float]) -> Ratio:
    """Divide round by round."""
    each = [value / under for value, under in zip(values, base, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def surroundings() -> dict[str, Any]:
    """What a reader must know about the machine to read the numbers."""
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.split(",")[0]
    return {
        "processors": os.cpu_count(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "ssh": ssh,
    }


def run(name: str, measure: Any, rig: Rig) -> Report:
    """Run one script, with the time it took and the load around it."""
    began, before = time.monotonic(), os.getloadavg()[0]
    rig.patience_s = PATIENCE_QUICK_S if rig.quick else PATIENCE_S
    rig.waited = rig.restless = 0
    report: Report = measure(rig)
    report.name = name
    report.rounds = (rig.waited, rig.restless)
    report.load = (before, os.getloadavg()[0])
    report.seconds = time.monotonic() - began
    return report


def say(text: str) -> None:
    """Tell on standard error how far it is: standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def console() -> Console:
    """Where tables go; as wide as they need when that is a file."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


def plain(values: Mapping[str, Ratio]) -> dict[str, dict[str, float]]:
    """Ratios for JSON."""
    return {name: asdict(value) for name, value in values.items()}
