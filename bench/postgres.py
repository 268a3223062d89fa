"""PostgreSQL sessions: what scanning and recording every statement costs, beside relays that do neither.

Promise: prepared `pgbench -S` with 32 clients has >= 0.55 of direct's rate at <= 50 us of proxyd's CPU a transaction, a
COPY of 500 MB takes at most direct's time / 0.85, a statement's median grows by at most 0.12 ms, and the scanner copies
no byte of a row.

The ways: straight to the server, haproxy (a byte relay in C), pgbouncer (session pooling), a relay of trio's own sockets, the
same with proxyd's scanners (see trio_relay.py: they tell what the data plane is for), and proxyd, the only one that records.
With TLS, haproxy passes it as it is; pgbouncer and proxyd end it and begin another to the server.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import psycopg

from bench.database import (
    ADDS_MS,
    BULK_TO_DIRECT,
    CLIENTS,
    CPU_US,
    HAPROXY,
    RATE,
    RATE_CLIENTS,
    RATE_TO_DIRECT,
    TRIO,
    TRIO_SCANNING,
    Cell,
    Load,
    Sheet,
    Took,
    Way,
    haproxy,
    installed,
    listening,
    middle_cpu,
    sheets,
    to_direct,
    trio_relay,
    under_load,
)
from bench.rig import DIRECT, MB, PROXYD, RUN_S, Promise, Report, Rig
from bench.trio_relay import READ_BYTES, READY_IDLE, Nowhere, Scanned
from proxyd.access import hash_password
from proxyd.verifiers import scram
from tests.peers import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.mariadb import Authority
from tests.peers.postgres import BIN, DATABASE, RUN_AS, Postgres
from tests.peers.process import Process, free_port

PGBOUNCER = "pgbouncer"
PASSWORD = "BenchPw1"
LOGIN = "open"  # let in without TLS
SCALE = 5  # 500,000 rows: in the server's memory, and large enough that no row is hot
RUN, RATE_S = 1, 2  # seconds of one pgbench behind its logins, and at a fixed rate; it counts in whole ones
LOGINS = 1.5  # times what logins took one after the other: the machine is not always as quick
PREPARED, SIMPLE = "prepared", "simple"
ROW_BYTES = 500
COPY_ROWS = 1_000_000
CONNECTS, STATEMENTS = "a connection for each statement", "pgbench -S"
AT_RATE = f"ms at {RATE} statements a second, {RATE_CLIENTS} clients"
COPY = f"COPY of {COPY_ROWS * ROW_BYTES // MB} MB to the client"
QUERY = b"Q\0\0\0\x10select many\0"  # that the rows for the scanner alone answer
SCANNED_ROWS = 40_000  # the same rows through the scanner alone
AT_WORK = """
select count(*) from pg_stat_activity
where application_name = 'pgbench' and query like 'SELECT abalance%%' and query_start > %s
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
PGBOUNCER_TLS = """
client_tls_sslmode = require
client_tls_cert_file = {tls.certificate}
client_tls_key_file = {tls.key}
server_tls_sslmode = verify-ca
server_tls_ca_file = {tls.ca}
"""


class Bench:
    """pgbench and psql, by any way to one server."""

    def __init__(self, rig: Rig, made: Postgres) -> None:
        self._rig = rig
        self._made = made
        self._login_s: dict[str, float] = {}

    def connects(self, way: Way) -> Took:
        """Connections a second, each with one statement."""
        took = self._rate(way, Load(_pgbench("-C"), RUN, lambda _: True, env=environment(way)))
        self._login_s[f"{way}"] = 1 / took.rate
        return took

    def statements(self, mode: str, clients: int) -> Callable[[Way], Took]:
        """Give what measures one way at a number of clients."""

        def go(way: Way) -> Took:
            seconds = RUN + math.ceil(clients * self._login_s[f"{way}"] * LOGINS)
            argv = _pgbench("-M", mode, "-c", str(clients))
            with self._watch(clients) as at_work:
                return self._rate(way, Load(argv, seconds, at_work, from_start=True, env=environment(way)))

        return go

    def _rate(self, way: Way, load: Load) -> Took:
        said, share = under_load(self._rig, way, load)
        rate = next(float(line.split()[2]) for line in said.splitlines() if line.startswith("tps = "))
        return Took(rate, share / rate * 1e6)

    @contextmanager
    def _watch(self, clients: int) -> Iterator[Callable[[Process], bool]]:
        """Give what tells whether every client is past its login, as the server sees it."""
        with psycopg.connect(
            host=str(self._made.directory),
            port=self._made.port,
            user=RUN_AS,
            dbname="postgres",
            autocommit=True,
        ) as watch:
            began = _only(watch, "select clock_timestamp()")
            yield lambda _: bool(_only(watch, AT_WORK, began) >= clients)

    def latencies(self, way: Way) -> list[float]:
        """Milliseconds of each statement at a fixed rate, the wait for its turn not counted."""
        place = self._rig.place("latency")
        seconds = RATE_S + math.ceil(RATE_CLIENTS * self._login_s[f"{way}"])
        argv = _pgbench("-M", PREPARED, "-c", str(RATE_CLIENTS), "-R", str(RATE), "-l")
        _run([*argv(seconds), f"--log-prefix={place}/log"], way)
        found = []
        for path in place.glob("log.*"):
            for line in path.read_text().splitlines():
                fields = line.split()
                found.append((int(fields[2]) - int(fields[6])) / 1e3)  # elapsed, and how late it began: us
            path.unlink()
        return found

    def copy(self, way: Way) -> float:
        """Seconds of a COPY to nowhere."""
        statement = f"copy (select repeat('x', {ROW_BYTES}) from generate_series(1, {COPY_ROWS})) to stdout"
        began = perf_counter()
        _run(["psql", "-Xqc", statement], way)
        return perf_counter() - began


def _pgbench(*options: str) -> Callable[[int], list[str]]:
    return lambda seconds: ["pgbench", "-n", "-S", "-T", str(seconds), *options]


def environment(way: Way) -> dict[str, str]:
    """What libpq reads."""
    tls = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(way.ca)} if way.ca else {"PGSSLMODE": "disable"}
    where = {"PGHOST": "localhost" if way.ca else HOST, "PGPORT": str(way.port), "PGUSER": way.user}
    return {**tls, **where, "PGPASSWORD": PASSWORD, "PGDATABASE": DATABASE}


def _run(argv: Sequence[str], way: Way) -> None:
    env = {**os.environ, **environment(way)}
    with Path(os.devnull).open("wb") as nowhere:
        done = subprocess.run(
            argv, env=env, stdout=nowhere, stderr=subprocess.PIPE, timeout=RUN_S, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} by {way.name}: {done.stderr[-500:]!r}")


def _only(connection: psycopg.Connection[Any], text: str, *values: Any) -> Any:
    row = connection.execute(text, values).fetchone()
    assert row is not None
    return row[0]


# ---------------------------------------------------------------------- peers


@contextmanager
def server(rig: Rig) -> Iterator[Postgres]:
    """A server with pgbench's tables."""
    with Postgres(rig.place("postgres"), max_connections="250", log_min_messages="fatal") as made:
        with (made.data / "pg_hba.conf").open("a") as hba:
            hba.write(f"host all {LOGIN} all scram-sha-256\n")
        made.psql(f"create role {LOGIN} login superuser password '{PASSWORD}'; select pg_reload_conf()")
        _run(["pgbench", "-iq", "-s", str(SCALE)], Way(DIRECT, made.port, LOGIN))
        yield made


@contextmanager
def front(rig: Rig, made: Postgres, *, tls: bool) -> Iterator[Way]:
    """proxyd before it, recording, strict."""
    proxyd = Proxyd(rig.place("tls" if tls else "plain") / "proxyd")
    authority, port = Authority(proxyd.directory / "front"), free_port()
    secret = proxyd.directory / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    proxyd.user("alice", password=hash_password(PASSWORD), scram=scram(PASSWORD))
    settings = made.target(directory=proxyd.directory, tls="verify-full" if tls else "off")
    address = f"localhost:{made.port}" if tls else made.address
    accounts = {LOGIN: {"password": f"file:{secret}"}}
    proxyd.settings.setdefault("targets", {})["db1"] = {**settings, "address": address, "accounts": accounts}
    proxyd.settings["listen"]["postgres"] = {
        "address": f"{HOST}:{port}", "certificate": str(authority.certificate), "key": str(authority.key),
        "tls": "require" if tls else "prefer", "target": "db1",
    }  # fmt: skip
    proxyd.grant()
    with proxyd:
        yield Way(PROXYD, port, "alice", proxyd.pid, authority.ca if tls else None)


@contextmanager
def pgbouncer(rig: Rig, made: Postgres, target: Way) -> Iterator[Way]:
    """A pooler that speaks the protocol and records nothing."""
    port, place = free_port(), rig.place("pgbouncer")
    users, config = place / "users", place / f"{port}.ini"
    users.write_text(f'"{LOGIN}" "{PASSWORD}"\n')
    text = PGBOUNCER_CONFIG.format(host=HOST, port=port, target=target.port, users=users)
    config.write_text(text + (PGBOUNCER_TLS.format(tls=made.authority) if target.ca else ""))
    for path in (place, users, config):
        shutil.chown(path, RUN_AS)
    as_user = (
        ["setpriv", "--reuid", RUN_AS, "--regid", RUN_AS, "--clear-groups", "--"] if os.getuid() == 0 else []
    )
    argv = [*as_user, shutil.which(PGBOUNCER) or PGBOUNCER, str(config)]
    with listening(argv, port, rig.place("runs") / f"{port}.log") as process:
        yield target._replace(name=PGBOUNCER, port=port, pid=process.pid)


# ---------------------------------------------------------------------- what is measured


def measure(rig: Rig) -> Report:
    """Rates, latency, COPY and connects without TLS, then with it; and the scanner alone."""
    if BIN is None:
        raise RuntimeError("Debian's postgresql is not installed")
    report = Report("postgres")
    present = installed(report, HAPROXY, PGBOUNCER)
    plain, secured = sheets(rig, report)
    with server(rig) as made:
        run = Bench(rig, made)
        with ExitStack() as standing:
            ways = relays(standing, rig, made, present, tls=False)
            ways[-1:-1] = [
                standing.enter_context(trio_relay(rig, ways[0], scan=scan)) for scan in (False, True)
            ]
            _plain(plain, run, ways)
        with ExitStack() as standing:
            _with_tls(secured, run, relays(standing, rig, made, present, tls=True))
    report.promises.append(
        Promise(
            f"bytes the scanner copied, of {SCANNED_ROWS * ROW_BYTES // MB} MB of rows", scanner_copies(), 0
        )
    )
    if PGBOUNCER in present:
        report.notes.append(
            "pgbouncer asks its clients for no password and keeps its connections to the server"
        )
    return report


def relays(standing: ExitStack, rig: Rig, made: Postgres, present: Sequence[str], *, tls: bool) -> list[Way]:
    """Start what is here: direct first, proxyd last."""
    ways = [Way(DIRECT, made.port, LOGIN, ca=made.authority.ca if tls else None)]
    if HAPROXY in present:
        ways.append(standing.enter_context(haproxy(rig, ways[0])))
    if PGBOUNCER in present:
        ways.append(standing.enter_context(pgbouncer(rig, made, ways[0])))
    return [*ways, standing.enter_context(front(rig, made, tls=tls))]


def _plain(sheet: Sheet, run: Bench, ways: Sequence[Way]) -> None:
    fewer = [way for way in ways if way.name not in (TRIO, TRIO_SCANNING)]
    sheet.rates(CONNECTS, [Cell("connect", ways, run.connects)])
    cells = [
        Cell(f"{mode} {count}", ways if mode == PREPARED else fewer, run.statements(mode, count))
        for mode in (PREPARED, SIMPLE) for count in CLIENTS
    ]  # fmt: skip
    most = sheet.rates(STATEMENTS, cells)[f"{PREPARED} {CLIENTS[-1]}"]
    added = sheet.latency(AT_RATE, ways, run.latencies)
    copied = sheet.bulk(COPY, ways, run.copy)
    share, cpu = to_direct(most, PROXYD).median, middle_cpu(most[PROXYD])
    sheet.report.promises += [
        Promise(f"prepared, {CLIENTS[-1]} clients, to direct", share, RATE_TO_DIRECT, least=True),
        Promise(f"CPU a transaction, prepared, {CLIENTS[-1]} clients", cpu, CPU_US, unit=" us"),
        Promise("COPY's rate to direct", copied.median, BULK_TO_DIRECT, least=True),
        Promise("a statement's p50 above direct", added, ADDS_MS, unit=" ms"),
    ]


def _with_tls(sheet: Sheet, run: Bench, ways: Sequence[Way]) -> None:
    sheet.rates(CONNECTS, [Cell("connect", ways, run.connects)])
    cells = [(PREPARED, count) for count in CLIENTS] + [(SIMPLE, RATE_CLIENTS)]
    sheet.rates(
        STATEMENTS, [Cell(f"{mode} {count}", ways, run.statements(mode, count)) for mode, count in cells]
    )
    sheet.latency(AT_RATE, ways, run.latencies)
    sheet.bulk(COPY, ways, run.copy)


def scanner_copies() -> int:
    """Pass rows in reads of 64 KiB through the scanner; give how many bytes of them it gave back in new memory."""
    row = struct.pack(">cIHI", b"D", 4 + 2 + 4 + ROW_BYTES, 1, ROW_BYTES) + b"x" * ROW_BYTES
    copied, stream = 0, row * SCANNED_ROWS
    with Path(os.devnull).open("wb") as nowhere:
        session = Scanned(Nowhere(nowhere))
        session.down(READY_IDLE)
        session.up(QUERY)
        for start in range(0, len(stream), READ_BYTES):
            data = stream[start : start + READ_BYTES]
            for piece in session.from_server(data):
                if piece is not data and not (isinstance(piece, memoryview) and piece.obj is data):
                    copied += bytes(piece).count(b"x")
    return copied
