"""Desktops through proxyd and through pyrdp-mitm: what each costs for what the client receives.

Promise: CPU for a megabyte at most 60 % of pyrdp-mitm's, for each kind of work.

Rule 1: both do what PyRDP can: it takes 16 bits only and leaves nothing compressed, so proxyd's target has 16 bits and the
        clients of both ask for no compression. Both end TLS on both sides, put in the target's password, and record.
Rule 2: CPU is that of the process through which the bytes went, over the bytes its client received.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.desktop import SIZE, Desktop, received
from bench.rdp import PASSWORD, TARGET, USER, front
from bench.rig import MB, PROXYD, Promise, Report, Rig, Table, rounds, say
from tests.peers.endpoint import HOST
from tests.peers.process import Process, cpu_seconds, eventually, free_port
from tests.peers.rdp import freerdp, xrdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.listening import listening
from tests.peers.rdp.pyrdp import NotInstalled, programs
from tests.peers.rdp.xrdp import Xrdp

NAME = "pyrdp-mitm"
SHARE = 0.60  # of its CPU for a megabyte
MENDED = Path(__file__).with_name("mitm_mended.py")
START_S = 60.0
ROUNDS, ROUNDS_QUICK = 3, 1
RUNS, RUNS_QUICK = 8, 3  # CPU is counted in hundredths of a second: less work has none
PICTURES, PICTURES_QUICK = 500, 200
STEPS, STEPS_QUICK = 30, 20
BARE = "proxyd, no index"  # PyRDP derives nothing while a session lives


class Side(NamedTuple):
    """One of both: who it is, how a client comes in, and whose CPU counts."""

    name: str
    port: int
    user: str
    password: str
    pid: int


@contextmanager
def mitm(directory: Path, target: Xrdp) -> Iterator[Side]:
    """Run pyrdp-mitm before a target; raises NotInstalled."""
    python, port = programs() / "python", free_port()
    directory.mkdir(parents=True)
    argv = [str(python), "-I", str(MENDED), target.address, "-a", HOST, "-l", str(port), "-o", str(directory / "out"),
            "-u", target.user, "-p", target.password, "-L", "ERROR"]  # fmt: skip
    with Process(argv, log=directory / "log", cwd=directory) as process:
        up = lambda: not process.running or listening(port)  # noqa: E731
        eventually("pyrdp-mitm listens", up, within_s=START_S)
        if not process.running:
            raise RuntimeError(f"pyrdp-mitm does not start: {process.text()[-500:]}")
        yield Side(NAME, port, target.user, "its own", process.pid)


@contextmanager
def through(directory: Path, target: Xrdp, name: str) -> Iterator[Side]:
    """Run a proxyd before a target."""
    directory.mkdir()
    proxyd, port = front(directory, target.password, {TARGET: (target, target.user, {"colour_depth": 16})})
    if name == BARE:
        proxyd.settings["index"] = {"enabled": False}
        proxyd.settings["search"]["enabled"] = False
    with proxyd:
        yield Side(name, port, f"{USER}%{TARGET}", PASSWORD, proxyd.pid)


def measure(rig: Rig) -> Report:
    """Let both carry the same work in alternating rounds; says what is missing where they can't."""
    report = Report("rdp_mitm")
    if not (xrdp.INSTALLED and freerdp.INSTALLED):
        report.notes.append(
            "MISSING: xrdp or xfreerdp is not installed, or this is not root: nothing was measured"
        )
        say(f"!! {report.notes[-1]}")
        return report
    place, files = rig.place("mitm"), rig.place("mitm-files")
    files.chmod(0o755)
    try:
        with Xrdp(place / "x") as target, mitm(place / "m", target) as theirs, ExitStack() as stack:
            ours = [stack.enter_context(through(place / name, target, name)) for name in (PROXYD, BARE)]
            _compare(rig, target, (*ours, theirs), files, report)
    except NotInstalled as error:
        report.notes.append(f"MISSING: {error}")
        say(f"!! {report.notes[-1]}")
    return report


def _compare(rig: Rig, target: Xrdp, sides: Sequence[Side], files: Path, report: Report) -> None:
    cost: dict[str, dict[str, list[float]]] = {side.name: {} for side in sides}
    for number, side in rounds(sides, rig.pick(ROUNDS_QUICK, ROUNDS), rig):
        directory = rig.place(f"m{number}-{side.name}")
        client = FreeRdp(
            directory, side.port, side.user, side.password, size=SIZE, options=("/bpp:16", "-compression")
        )
        with Desktop(target, client) as desktop:
            for name, do in _work(rig, desktop, files).items():
                before, had = cpu_seconds(side.pid), received(side.port)
                do()
                size = (received(side.port) - had) / MB
                cost[side.name].setdefault(name, []).append((cpu_seconds(side.pid) - before) * 1e3 / size)
    table = Table(
        "beside pyrdp-mitm, 16 bits without compression",
        ("", *(f"{side.name}, CPU ms/MB" for side in sides), "share"),
    )
    shares = {}
    for name in cost[NAME]:
        of = [statistics.median(cost[side.name][name]) for side in sides]
        shares[name] = of[0] / of[-1]
        table.rows.append((name, *(f"{one:.1f}" for one in of), f"{shares[name]:.2f}"))
        report.promises.append(Promise(f"CPU for a megabyte of {name}, of pyrdp-mitm's", shares[name], SHARE))
    report.tables.append(table)
    report.data["pyrdp-mitm"] = {"cpu_ms_mb": cost, "shares": shares}


def _work(rig: Rig, desktop: Desktop, files: Path) -> dict[str, Callable[[], float]]:
    return {
        "office": lambda: desktop.office_s(rig.pick(STEPS_QUICK, STEPS)),
        "scroll": lambda: desktop.scroll_s(files, rig.pick(RUNS_QUICK, RUNS)),
        "film": lambda: desktop.film_s(rig.pick(PICTURES_QUICK, PICTURES)),
    }
