"""PostgreSQL sessions: what scanning and recording every statement costs, beside relays that do neither.

Promise: prepared `pgbench -S` with 32 clients has >= 0.55 of direct's rate at <= 50 us of proxyd's CPU a transaction, a
COPY of 500 MB takes at most direct's time / 0.85, and a statement's median grows by at most 0.12 ms.

The ways: straight to the server, haproxy (a byte relay in C), pgbouncer (session pooling) and proxyd, all recording but
the first three. TLS is off but where a table says so; relays of bytes have no TLS of their own to compare.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from bench.rig import DIRECT, MB, PROXYD, RUN_S, Promise, Report, Rig, Table, quantile, ratio, rounds
from proxyd.access import hash_password
from proxyd.verifiers import scram
from tests.peers import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.postgres import BIN, DATABASE, RUN_AS, Authority, Postgres
from tests.peers.process import Process, cpu_seconds, eventually, free_port

HAPROXY, PGBOUNCER = "haproxy", "pgbouncer"
PASSWORD = "BenchPw1"
LOGIN = "open"  # let in without TLS
SCALE = 5  # 500,000 rows: in the server's memory, and large enough that no row is hot
CLIENTS = (1, 8, 32)
RUN, RUN_QUICK = 6, 4  # seconds of one pgbench; 32 logins take one of them
ROUNDS, ROUNDS_QUICK = 3, 1
RATE, RATE_CLIENTS = 400, 8  # statements a second: what a room full of people does not reach
ROW_BYTES = 500
COPY_ROWS, COPY_QUICK_ROWS = 1_000_000, 100_000
RATE_TO_DIRECT, CPU_US, COPY_TO_DIRECT, ADDS_MS = 0.55, 50.0, 0.85, 0.12
HAPROXY_CONFIG = """
defaults
  mode tcp
  timeout connect 10s
  timeout client 10m
  timeout server 10m
listen pg
  bind {host}:{port}
  server pg {target}
"""
PGBOUNCER_CONFIG = """
[databases]
* = host={host} port={target}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = session
max_client_conn = 200
default_pool_size = 100
"""


class Way(NamedTuple):
    """One way to the server: where, who logs in there, and whose CPU it costs."""

    name: str
    port: int
    user: str
    pid: int
    ca: Path | None = None

    @property
    def env(self) -> dict[str, str]:
        """What libpq reads."""
        mode = (
            {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(self.ca)}
            if self.ca
            else {"PGSSLMODE": "disable"}
        )
        where = {"PGHOST": "localhost" if self.ca else HOST, "PGPORT": str(self.port), "PGUSER": self.user}
        return {**os.environ, **mode, **where, "PGPASSWORD": PASSWORD, "PGDATABASE": DATABASE}


class Took(NamedTuple):
    """Transactions a second of one run, and the middle's CPU in microseconds for each."""

    rate: float
    cpu_us: float


def pgbench(way: Way, *options: str, seconds: int) -> Took:
    """Run pgbench's SELECT and give its rate."""
    before = cpu_seconds(way.pid) if way.pid else 0.0
    argv = ["pgbench", "-n", "-S", "-T", str(seconds), *options]
    done = subprocess.run(argv, env=way.env, capture_output=True, text=True, timeout=RUN_S, check=False)
    lines = {
        name.strip(): rest for name, _, rest in (line.partition("=") for line in done.stdout.splitlines())
    }
    if done.returncode or "tps" not in lines:
        raise RuntimeError(f"pgbench by {way.name}: {done.stderr[-500:]}")
    count = next(
        int(line.rsplit(" ", 1)[-1].split("/")[0])
        for line in done.stdout.splitlines()
        if line.startswith("number of transactions actually")
    )
    cpu = cpu_seconds(way.pid) - before if way.pid else 0.0
    return Took(float(lines["tps"].split()[0]), cpu / count * 1e6)


def latencies(way: Way, directory: Path, seconds: int) -> list[float]:
    """Milliseconds of each statement at a fixed rate, the wait for its turn not counted."""
    prefix = directory / "log"
    pgbench(
        way,
        "-M",
        "prepared",
        "-c",
        str(RATE_CLIENTS),
        "-R",
        str(RATE),
        "-l",
        f"--log-prefix={prefix}",
        seconds=seconds,
    )
    found = []
    for path in directory.glob("log.*"):
        for line in path.read_text().splitlines():
            fields = line.split()
            found.append((int(fields[2]) - int(fields[6])) / 1e3)  # elapsed, and how late it began: us
        path.unlink()
    return found


def copy(way: Way, rows: int) -> float:
    """Seconds of a COPY to nowhere."""
    statement = f"copy (select repeat('x', {ROW_BYTES}) from generate_series(1, {rows})) to stdout"
    began = perf_counter()
    with Path(os.devnull).open("wb") as nowhere:
        subprocess.run(["psql", "-Xqc", statement], env=way.env, stdout=nowhere, timeout=RUN_S, check=True)
    return perf_counter() - began


@contextmanager
def server(rig: Rig) -> Iterator[Postgres]:
    """A server with pgbench's tables."""
    with Postgres(rig.place("postgres"), max_connections="250", log_min_messages="fatal") as made:
        with (made.data / "pg_hba.conf").open("a") as hba:
            hba.write(f"host all {LOGIN} all scram-sha-256\n")
        made.psql(f"create role {LOGIN} login superuser password '{PASSWORD}'; select pg_reload_conf()")
        direct = Way(DIRECT, made.port, LOGIN, 0)
        subprocess.run(
            ["pgbench", "-iq", "-s", str(SCALE)],
            env=direct.env,
            capture_output=True,
            timeout=RUN_S,
            check=True,
        )
        yield made


def front(rig: Rig, made: Postgres, *, tls: bool) -> tuple[Proxyd, int, Authority]:
    """proxyd before it, recording, strict."""
    proxyd = Proxyd(rig.place("tls" if tls else "plain") / "proxyd")
    authority, port = Authority(proxyd.directory / "front"), free_port()
    secret = proxyd.directory / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    proxyd.user("alice", password=hash_password(PASSWORD), scram=scram(PASSWORD))
    settings = made.target(directory=proxyd.directory, tls="verify-full" if tls else "off")
    proxyd.settings.setdefault("targets", {})["db1"] = {
        **settings,
        "accounts": {LOGIN: {"password": f"file:{secret}"}},
    }
    if tls:
        proxyd.settings["targets"]["db1"]["address"] = f"localhost:{made.port}"
    proxyd.settings["listen"]["postgres"] = {
        "address": f"{HOST}:{port}", "certificate": str(authority.certificate), "key": str(authority.key),
        "tls": "require" if tls else "prefer", "target": "db1",
    }  # fmt: skip
    proxyd.grant()
    return proxyd, port, authority


@contextmanager
def relay(name: str, argv: Sequence[str | Path], port: int, directory: Path) -> Iterator[Process]:
    """haproxy or pgbouncer, until it listens."""
    process = Process([str(word) for word in argv], log=directory / f"{name}.log")
    try:
        eventually(f"{name} listens", lambda: _answers(port))
        yield process
    finally:
        process.stop()


def _answers(port: int) -> bool:
    return subprocess.run(["pg_isready", "-qh", HOST, "-p", str(port)], check=False).returncode == 0


@contextmanager
def haproxy(rig: Rig, made: Postgres) -> Iterator[Way]:
    """A byte relay."""
    port, place = free_port(), rig.place("haproxy")
    config = place / "haproxy.cfg"
    config.write_text(HAPROXY_CONFIG.format(host=HOST, port=port, target=made.address))
    with relay(HAPROXY, [shutil.which(HAPROXY) or HAPROXY, "-db", "-f", config], port, place) as process:
        yield Way(HAPROXY, port, LOGIN, process.pid)


@contextmanager
def pgbouncer(rig: Rig, made: Postgres) -> Iterator[Way]:
    """A pooler that speaks the protocol and records nothing."""
    port, place = free_port(), rig.place("pgbouncer")
    users, config = place / "users", place / "pgbouncer.ini"
    users.write_text(f'"{LOGIN}" "{PASSWORD}"\n')
    config.write_text(PGBOUNCER_CONFIG.format(host=HOST, port=port, target=made.port, users=users))
    for path in (place, users, config):
        shutil.chown(path, RUN_AS)
    as_user = (
        ["setpriv", "--reuid", RUN_AS, "--regid", RUN_AS, "--clear-groups", "--"] if os.getuid() == 0 else []
    )
    with relay(PGBOUNCER, [*as_user, shutil.which(PGBOUNCER) or PGBOUNCER, config], port, place) as process:
        yield Way(PGBOUNCER, port, LOGIN, process.pid)


def measure(rig: Rig) -> Report:
    """Rates, latency, COPY and connects; then proxyd with TLS on both legs against direct with TLS."""
    if BIN is None:
        raise RuntimeError("Debian's postgresql is not installed")
    report = Report("postgres")
    with server(rig) as made:
        proxyd, port, _ = front(rig, made, tls=False)
        with proxyd:
            ways = [Way(DIRECT, made.port, LOGIN, 0), Way(PROXYD, port, "alice", proxyd.pid)]
            _with_relays(rig, made, ways, lambda all_: _plain(rig, report, all_))
        secured, port, authority = front(rig, made, tls=True)
        with secured:
            ways = [
                Way(DIRECT, made.port, LOGIN, 0, made.authority.ca),
                Way(PROXYD, port, "alice", secured.pid, authority.ca),
            ]
            _rates(rig, report, ways, "TLS on both legs", ("prepared",), (8,))
            _copies(rig, report, ways, "TLS on both legs")
            _connects(rig, report, ways, "TLS on both legs")
    return report


def _with_relays(rig: Rig, made: Postgres, ways: list[Way], go: Callable[[list[Way]], None]) -> None:
    if shutil.which(HAPROXY) and shutil.which(PGBOUNCER):
        with haproxy(rig, made) as one, pgbouncer(rig, made) as other:
            go([ways[0], one, other, *ways[1:]])
    else:
        go(ways)


def _plain(rig: Rig, report: Report, ways: list[Way]) -> None:
    if len(ways) == 2:
        report.notes.append("haproxy and pgbouncer are not installed: nothing to compare with but direct")
    found = _rates(rig, report, ways, "no TLS", ("prepared", "simple"), CLIENTS)
    _latency(rig, report, ways)
    copied = _copies(rig, report, ways, "no TLS")
    _connects(rig, report, ways, "no TLS")
    most = found["prepared", CLIENTS[-1]]
    share = ratio([one.rate for one in most[PROXYD]], [one.rate for one in most[DIRECT]])
    cpu = statistics.median(one.cpu_us for one in most[PROXYD])
    report.promises += [
        Promise(f"prepared, {CLIENTS[-1]} clients, to direct", share.median, RATE_TO_DIRECT, least=True),
        Promise(f"CPU a transaction, prepared, {CLIENTS[-1]} clients", cpu, CPU_US, unit=" us"),
        Promise(
            "COPY's rate to direct", ratio(copied[DIRECT], copied[PROXYD]).median, COPY_TO_DIRECT, least=True
        ),
    ]


def _rates(
    rig: Rig, report: Report, ways: Sequence[Way], how: str, modes: Sequence[str], clients: Sequence[int]
) -> dict[tuple[str, int], dict[str, list[Took]]]:
    every: dict[tuple[str, int], dict[str, list[Took]]] = {}
    table = Table(
        f"pgbench -S, {how}: transactions a second, and CPU of the middle",
        ("", "way", "tps", "to direct", "CPU, us"),
    )
    for mode in modes:
        for count in clients:
            took: dict[str, list[Took]] = {way.name: [] for way in ways}
            for _, way in rounds(ways, rig.pick(ROUNDS_QUICK, ROUNDS), rig):
                seconds = rig.pick(RUN_QUICK, RUN)
                took[way.name].append(pgbench(way, "-M", mode, "-c", str(count), seconds=seconds))
            direct = [one.rate for one in took[DIRECT]]
            for name, runs in took.items():
                rates = [one.rate for one in runs]
                cpu = statistics.median(one.cpu_us for one in runs)
                row = (
                    name,
                    f"{statistics.median(rates):.0f}",
                    str(ratio(rates, direct)),
                    f"{cpu:.0f}" if cpu else "",
                )
                table.rows.append((f"{mode} {count}", *row))
            every[mode, count] = took
    report.tables.append(table)
    report.data[f"rates, {how}"] = {f"{mode} {count}": took for (mode, count), took in every.items()}
    return every


def _latency(rig: Rig, report: Report, ways: Sequence[Way]) -> None:
    found: dict[str, list[float]] = {way.name: [] for way in ways}
    for _, way in rounds(ways, rig.pick(ROUNDS_QUICK, ROUNDS), rig):
        found[way.name] += latencies(way, rig.place("latency"), rig.pick(RUN_QUICK, RUN))
    table = Table(
        f"at {RATE} statements a second, {RATE_CLIENTS} clients, ms", ("way", "p50", "above direct", "p99")
    )
    middle = {name: quantile(values, 0.5) for name, values in found.items()}
    for name, values in found.items():
        table.rows.append(
            (
                name,
                f"{middle[name]:.3f}",
                f"{middle[name] - middle[DIRECT]:+.3f}",
                f"{quantile(values, 0.99):.2f}",
            )
        )
    report.tables.append(table)
    report.promises.append(
        Promise("a statement's p50 above direct", middle[PROXYD] - middle[DIRECT], ADDS_MS, unit=" ms")
    )


def _copies(rig: Rig, report: Report, ways: Sequence[Way], how: str) -> dict[str, list[float]]:
    rows = rig.pick(COPY_QUICK_ROWS, COPY_ROWS)
    took: dict[str, list[float]] = {way.name: [] for way in ways}
    for _, way in rounds(ways, rig.pick(ROUNDS_QUICK, ROUNDS), rig):
        took[way.name].append(copy(way, rows))
    table = Table(f"COPY of {rows * ROW_BYTES // MB} MB to the client, {how}", ("way", "s", "rate to direct"))
    for name, seconds in took.items():
        table.rows.append((name, f"{statistics.median(seconds):.2f}", str(ratio(took[DIRECT], seconds))))
    report.tables.append(table)
    return took


def _connects(rig: Rig, report: Report, ways: Sequence[Way], how: str) -> None:
    took: dict[str, list[Took]] = {way.name: [] for way in ways}
    for _, way in rounds(ways, rig.pick(ROUNDS_QUICK, ROUNDS), rig):
        took[way.name].append(pgbench(way, "-C", "-c", "1", seconds=rig.pick(RUN_QUICK, RUN)))
    table = Table(f"a connection for each statement, {how}", ("way", "a second", "to direct", "CPU, ms"))
    direct = [one.rate for one in took[DIRECT]]
    for name, runs in took.items():
        rates, cpu = [one.rate for one in runs], statistics.median(one.cpu_us for one in runs) / 1e3
        table.rows.append(
            (name, f"{statistics.median(rates):.0f}", str(ratio(rates, direct)), f"{cpu:.1f}" if cpu else "")
        )
    report.tables.append(table)
