"""Desktops: the same X work directly and through proxyd, what it costs, and what its recording weighs.

Promises: office work takes at most 1 / 0.95 of the time it takes directly; a key reaches the target's X server at most
0.3 ms later (median); an hour of office work on a screen of 1920x1080 takes at most 15 MB on disk.

The target is xrdp with xorgxrdp, the client xfreerdp at 32 bits with TLS on both legs; proxyd records, strict. Both ways
lead to one session of the target, one after the other in alternating rounds. A piece of work has ended when the client shows
the mark painted behind it, so its time holds everything from the key to the picture. CPU is the daemon's, the recorder's
threads included, over the bytes that the client received. Idle sessions are scripted clients and targets in other processes,
for five hundred desktops are more than two processors bear.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.desktop import SIZE, Desktop, received
from bench.rig import DIRECT, MB, PROXYD, Promise, Report, Rig, Table, plain, quantile, ratio, rounds, say
from proxyd.recorder import sidecar
from proxyd.verifiers import nt_hash
from tests.peers import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.process import cpu_seconds, eventually, free_port, rss_bytes
from tests.peers.rdp import freerdp, xrdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.raw import RawTarget, TargetSide
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.xrdp import Xrdp

USER, PASSWORD, TARGET, PLAIN_TARGET, IDLE_TARGET = "alice", "Alice's pass", "desk", "plain", "idle"
WALL_TO_DIRECT, ADDS_MS, OFFICE_MB = 0.95, 0.3, 15.0
ROUNDS, ROUNDS_QUICK = 3, 1
KEYS, KEYS_QUICK = 150, 40
SEEN, SEEN_QUICK = 60, 15  # pictures waited for, each by itself
STEPS, STEPS_QUICK = 30, 6  # of office work
RUNS, RUNS_QUICK = 3, 1  # of text that scrolls by
PICTURES, PICTURES_QUICK = 150, 50
HOUR_S = 3600
PACED_S, PACED_QUICK_S = 40, 8  # of each kind of work, for the bytes of an hour
OFFICE, OFFICE_PLAIN = "office", "office (no bulk compression)"
IDLE, IDLE_QUICK = 500, 40
WARM, REST_S = 40, 10  # more than what makes the recorder trim its memory, and how long it is given to
KIB = 1 << 10


class Way(NamedTuple):
    """One way to the desktop."""

    name: str
    port: int
    user: str
    password: str
    pid: int = 0


class Took(NamedTuple):
    """One round of one way: seconds of each kind of work, of each key and picture, and CPU and bytes of what was busy."""

    office: float
    scroll: float
    film: float
    keys: list[float]
    pictures: list[float]
    cpu: dict[str, float]
    bytes: dict[str, int]


class Bench:
    """The peers of this script."""

    def __init__(self, rig: Rig, target: Xrdp, proxyd: Proxyd, port: int) -> None:
        self.rig, self.target, self.proxyd = rig, target, proxyd
        self.files = rig.place("rdp-files")
        self.files.chmod(0o755)
        self.ways = [
            Way(DIRECT, target.port, target.user, target.password),
            Way(PROXYD, port, f"{USER}%{TARGET}", PASSWORD, proxyd.pid),
        ]
        self.plain = self.ways[1]._replace(user=f"{USER}%{PLAIN_TARGET}")
        self._clients = 0

    @contextmanager
    def desktop(self, way: Way) -> Iterator[Desktop]:
        """A client on the desktop by one way, from when it is there until it has left."""
        self._clients += 1
        directory = self.rig.place(f"c{self._clients}")
        client = FreeRdp(directory, way.port, way.user, way.password, size=SIZE)
        with Desktop(self.target, client) as desktop:
            yield desktop
        shutil.rmtree(directory, ignore_errors=True)
        self.proxyd.quiet()

    def round(self, way: Way) -> Took:
        """Do all that is compared, once."""
        pick = self.rig.pick
        with self.desktop(way) as desktop:
            keys = desktop.key_s(pick(KEYS_QUICK, KEYS))
            pictures = desktop.picture_s(pick(SEEN_QUICK, SEEN))
            cpu: dict[str, float] = {}
            moved: dict[str, int] = {}
            took: dict[str, float] = {}
            work: dict[str, Callable[[], float]] = {
                "office": lambda: desktop.office_s(pick(STEPS_QUICK, STEPS)),
                "scroll": lambda: desktop.scroll_s(self.files, pick(RUNS_QUICK, RUNS)),
                "film": lambda: desktop.film_s(pick(PICTURES_QUICK, PICTURES)),
            }
            for name, do in work.items():
                before, had = cpu_seconds(way.pid) if way.pid else 0.0, received(way.port)
                took[name] = do()
                cpu[name] = cpu_seconds(way.pid) - before if way.pid else 0.0
                moved[name] = received(way.port) - had
        return Took(took["office"], took["scroll"], took["film"], keys, pictures, cpu, moved)

    def recorded(self, work: Callable[[Desktop], None], *, plain: bool = False) -> str:
        """Give the session that such work was, perhaps without bulk compression."""
        with self.desktop(self.plain if plain else self.ways[1]) as desktop:
            session: str = self.proxyd.the_live_session()["id"]
            work(desktop)
        self.proxyd.ended(session, within_s=60)
        return session

    def folder(self, session: str) -> Path:
        """Where the recording is."""
        return Path(self.proxyd.call("read", session=session, kind="export")["path"])

    def weight(self, session: str) -> int:
        """Bytes on disk of a session that ended, with all that was derived of it."""
        folder = self.folder(session)
        eventually("what is derived is there", (folder / sidecar.NAME).exists, within_s=60)
        return sum(path.stat().st_size for path in folder.iterdir())


def measure(rig: Rig) -> Report:
    """Compare the ways, weigh recordings, read them back, let sessions idle."""
    report = Report("rdp")
    if not (xrdp.INSTALLED and freerdp.INSTALLED):
        report.notes.append(
            "MISSING: xrdp or xfreerdp is not installed, or this is not root: nothing was measured"
        )
        say(f"!! {report.notes[-1]}")
        return report
    place = rig.place("rdp")
    with Xrdp(place / "x") as target, RawTarget(Identity(place / "idle")) as idle:
        peers = {
            TARGET: (target, target.user, {}),
            PLAIN_TARGET: (target, target.user, {"bulk_compression": False}),
            IDLE_TARGET: (idle, "svc", {}),
        }
        proxyd, port = front(place, target.password, peers)
        idle.plays(_idles)
        with proxyd:
            bench = Bench(rig, target, proxyd, port)
            with bench.desktop(bench.ways[0]):  # the target's X server starts, and draws for the first time
                pass
            _compare(bench, report)
            _weigh(bench, report)
        _crowd(rig, proxyd, port, report)
    return report


def front(
    place: Path, password: str, peers: Mapping[str, tuple[Xrdp | RawTarget, str, Mapping[str, Any]]]
) -> tuple[Proxyd, int]:
    """Make a proxyd for one user before targets, each with its account and more of its settings; and its port."""
    identity, port = Identity(place / "front"), free_port()
    identity.key.chmod(0o600)
    secret = place / "password"
    secret.write_text(password)
    secret.chmod(0o600)
    proxyd = Proxyd(place / "p")
    proxyd.settings["listen"]["rdp"] = {
        "address": f"{HOST}:{port}",
        "certificate": str(identity.certificate),
        "key": str(identity.key),
    }
    for name, (peer, user, more) in peers.items():
        proxyd.settings.setdefault("targets", {})[name] = {
            "protocol": "rdp", "address": peer.address, "tls": "verify-full", "tls_ca": str(peer.identity.ca),
            "accounts": {user: {"password": f"file:{secret}"}}, **more,
        }  # fmt: skip
    proxyd.user(USER, nt_hash=nt_hash(PASSWORD))
    proxyd.grant(users=[USER])
    return proxyd, port


# ---------------------------------------------------------------------------------------------- the ways compared


def _compare(bench: Bench, report: Report) -> None:
    found: dict[str, list[Took]] = {way.name: [] for way in bench.ways}
    for _, way in rounds(bench.ways, bench.rig.pick(ROUNDS_QUICK, ROUNDS), bench.rig):
        found[way.name].append(bench.round(way))
    direct, through = found[DIRECT], found[PROXYD]
    walls = Table(
        "the same work, until the client shows its end", ("", "direct, s", "proxyd, s", "rate to direct")
    )
    costs = Table("and what it cost proxyd", ("", "CPU, ms", "MB", "CPU, ms/MB"))
    ratios = {}
    for name in ("office", "scroll", "film"):
        of = [[float(getattr(took, name)) for took in runs] for runs in (direct, through)]
        ratios[name] = ratio(*of)
        walls.rows.append((name, *(f"{statistics.median(one):.2f}" for one in of), str(ratios[name])))
        size, cpu = (
            sum(took.bytes[name] for took in through) / MB,
            sum(took.cpu[name] for took in through) * 1e3,
        )
        costs.rows.append(
            (name, f"{cpu / len(through):.0f}", f"{size / len(through):.2f}", f"{cpu / size:.1f}")
        )
    keys, later = _later(
        "a key, from the client to the target's X server, ms", direct, through, lambda took: took.keys
    )
    pictures, behind = _later(
        "a mark, from the target's X server to the client's, ms", direct, through, lambda took: took.pictures
    )
    report.tables += [walls, keys, pictures, costs]
    report.promises += [
        Promise("office work, rate to direct", ratios["office"].median, WALL_TO_DIRECT, least=True),
        Promise("a key is later by, p50", later, ADDS_MS, unit=" ms"),
    ]
    report.data |= {
        "rates": plain(ratios),
        "picture_later_ms": behind,
        "rounds": {name: [took._asdict() for took in runs] for name, runs in found.items()},
    }


def _later(
    title: str, direct: Sequence[Took], through: Sequence[Took], of: Callable[[Took], list[float]]
) -> tuple[Table, float]:
    """Compare single times of both ways; also by how much the median round's median is later through proxyd, ms."""
    added = statistics.median(
        (statistics.median(of(one)) - statistics.median(of(other))) * 1e3
        for one, other in zip(through, direct, strict=True)
    )
    table = Table(title, ("way", "p50", "above direct", "p95", "p99"))
    for name, runs, more in ((DIRECT, direct, 0.0), (PROXYD, through, added)):
        middle, late, latest = (
            quantile([one * 1e3 for took in runs for one in of(took)], at) for at in (0.5, 0.95, 0.99)
        )
        table.rows.append((name, f"{middle:.3f}", f"{more:+.3f}", f"{late:.2f}", f"{latest:.2f}"))
    return table, added


# ---------------------------------------------------------------------------------------------- recordings


def _weigh(bench: Bench, report: Report) -> None:
    seconds = bench.rig.pick(PACED_QUICK_S, PACED_S)
    kinds: dict[str, Callable[[Desktop], None]] = {
        OFFICE: lambda desktop: desktop.office(seconds),
        OFFICE_PLAIN: lambda desktop: desktop.office(seconds),
        "scroll": lambda desktop: desktop.scroll(seconds, bench.files),
        "film": lambda desktop: desktop.film(seconds),
    }
    table = Table(f"recordings of {SIZE[0]}x{SIZE[1]}, {seconds} s of each, as a person would, with what is derived",
                  ("", "MB an hour on disk", "recorded, MB", "decoded, frames/s", "times real time", "faults"))  # fmt: skip
    opened = bench.weight(bench.recorded(Desktop.seen))  # what comes once, however long a session is
    for name, work in kinds.items():
        session = bench.recorded(work, plain=name == OFFICE_PLAIN)
        size = bench.weight(session)
        read = _decoded(bench, session)
        hourly = (opened + (size - opened) * HOUR_S / seconds) / MB
        table.rows.append((name, f"{hourly:.1f}", f"{read['bytes'] / MB:.1f}", f"{read['frames'] / read['seconds']:.0f}",
                           f"{seconds / read['seconds']:.0f}", f"{read['faults']}"))  # fmt: skip
        report.data[f"recording, {name}"] = {"disk_bytes": size, "mb_an_hour": hourly, **read}
        if name == OFFICE:
            _exported(bench, session, seconds, report)
        if name in (OFFICE, OFFICE_PLAIN):
            report.promises.append(
                Promise(f"an hour of {name} work at 1080p on disk", hourly, OFFICE_MB, unit=" MB")
            )
    report.tables.append(table)
    report.notes.append(
        "an hour: its opening once, the rest as often as an hour holds; a frame is as many painted pixels as the whole screen has; times real time: of the whole recording, opened and drawn"
    )


def _exported(bench: Bench, session: str, seconds: int, report: Report) -> None:
    """How long a film of office work takes to make."""
    began = time.perf_counter()
    made = subprocess.run(bench.proxyd.ctl_argv("export", session, "--format", "webm", "-o", str(bench.files / "office.webm")),
                          capture_output=True, text=True, env=bench.proxyd.env, timeout=300, check=False)  # fmt: skip
    took = time.perf_counter() - began
    if made.returncode:
        report.notes.append(f"MISSING: no film was made: {made.stderr.strip()[-200:]}")
        return
    size = (bench.files / "office.webm").stat().st_size
    report.data["export"] = {"seconds": took, "of_seconds": seconds, "bytes": size}
    report.notes.append(
        f"a film (webm) of the office work was made in {took:.1f} s, {seconds / took:.1f} times real time: {size / MB:.2f} MB"
    )


def _decoded(bench: Bench, session: str) -> dict[str, float]:
    """Draw a recording from its beginning to its end, in a process of its own as the product does."""
    argv = [
        sys.executable,
        "-m",
        "bench.rdp_decode",
        str(bench.folder(session)),
        str(bench.proxyd.home / bench.proxyd.settings["recording"]["identity"]),
    ]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).resolve().parent.parent,
    )
    if done.returncode:
        raise RuntimeError(f"the recording was not decoded: {done.stderr[-500:]}")
    frames, seconds, size, faults = done.stdout.split()
    return {"frames": float(frames), "seconds": float(seconds), "bytes": float(size), "faults": int(faults)}


# ---------------------------------------------------------------------------------------------- many that idle


def _crowd(rig: Rig, proxyd: Proxyd, port: int, report: Report) -> None:
    """What an idle session costs the daemon, which is started anew: what others left free would be theirs."""
    count = rig.pick(IDLE_QUICK, IDLE)
    with proxyd:
        with _idle(rig, port, WARM):
            time.sleep(REST_S)
        proxyd.quiet(within_s=60)
        time.sleep(REST_S)
        before, cpu, began = rss_bytes(proxyd.pid), cpu_seconds(proxyd.pid), time.monotonic()
        with _idle(rig, port, count):
            took, login = time.monotonic() - began, (cpu_seconds(proxyd.pid) - cpu) / count
            time.sleep(REST_S)
            live, after = len(proxyd.sessions(state="live", limit=10_000)), rss_bytes(proxyd.pid)
    if live != count:
        raise RuntimeError(f"{live} of {count} idle sessions are live")
    each = (after - before) / count / KIB
    table = Table(f"{count} idle desktops", ("", ""))
    table.rows = [
        ("KiB of the daemon's memory a session", f"{each:.0f}"),
        ("CPU of a login by password, both sides by TLS, ms", f"{login * 1e3:.1f}"),
        ("logins a second, client and target on the same processors", f"{count / took:.1f}"),
    ]
    report.tables.append(table)
    report.data["idle"] = {"sessions": count, "kib_each": each, "login_cpu_seconds": login}


def _idles(side: TargetSide) -> None:
    """Be a desktop on which nothing happens, for as long as anybody likes."""
    side.link.settimeout(None)
    side.rest()


@contextmanager
def _idle(rig: Rig, port: int, count: int) -> Iterator[None]:
    """So many clients, in a process of their own."""
    argv: Sequence[Any] = [
        sys.executable,
        "-m",
        "bench.rdp_idle",
        str(port),
        f"{USER}%{IDLE_TARGET}",
        PASSWORD,
        str(count),
    ]
    root = Path(__file__).resolve().parent.parent
    with (rig.place("rdp") / "idle.log").open("ab") as log:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=root)
    assert child.stdin
    assert child.stdout
    try:
        if child.stdout.readline() != b"up\n":
            raise RuntimeError(
                f"not all idle sessions came up: {(rig.place('rdp') / 'idle.log').read_text()[-500:]}"
            )
        yield
    finally:
        child.stdin.close()  # that is what it waits for
        child.wait(60)
        child.stdout.close()
