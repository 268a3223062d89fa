"""MariaDB sessions: what scanning and recording every statement costs, beside relays that do neither.

Promise: a point select of sysbench, prepared, with 32 clients, costs at most 50 us of proxyd's CPU, its median grows by at most
0.12 ms, and a result of 900,000 rows takes at most direct's time / 0.85. There is no promise about the highest rate: the
server answers in some 20 us, so whatever stands between takes most of it, haproxy too.

The ways: straight to the server, haproxy (a byte relay in C), a relay of trio's own sockets (trio_relay.py), and proxyd, the
only one that records. "simple" is --db-ps-mode=disable: statements as text. With TLS, haproxy passes it as it is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter

from bench.database import (
    ADDS_MS,
    BULK_TO_DIRECT,
    CLIENTS,
    CPU_US,
    HAPROXY,
    RATE,
    RATE_CLIENTS,
    Cell,
    Load,
    Sheet,
    Took,
    Way,
    haproxy,
    installed,
    middle_cpu,
    sheets,
    trio_relay,
    under_load,
)
from bench.rig import DIRECT, PROXYD, RUN_S, Promise, Report, Rig
from proxyd.access import hash_password
from proxyd.verifiers import mysql_native
from tests.peers import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.mariadb import ACCOUNTS, CLIENT, DATABASE, INSTALLED, Authority, MariaDb
from tests.peers.process import Process, free_port

SYSBENCH = "sysbench"
LOGIN = "app"
PASSWORD = ACCOUNTS[LOGIN]
TABLE_ROWS = 100_000  # in the server's memory
RUN, RATE_S = 1, 2  # seconds of one sysbench behind its logins, and at a fixed rate
PREPARED, SIMPLE = "prepared", "simple"
MODES = {PREPARED: "auto", SIMPLE: "disable"}  # sysbench's names of them
RESULT_ROWS = 900_000
RESULT = f"select seq, seq * 7, concat('row ', seq), repeat('x', 80) from seq_1_to_{RESULT_ROWS}"
RESULTS = f"one result of {RESULT_ROWS:,} rows"
CONNECTS, STATEMENTS = "a connection for each statement", "oltp_point_select"
AT_RATE = f"ms at {RATE} statements a second, {RATE_CLIENTS} clients"
CONNECT_LUA = """
function thread_init() driver = sysbench.sql.driver() end
function event()
  local connection = driver:connect()
  connection:query("SELECT 1")
  connection:disconnect()
end
"""


class Bench:
    """sysbench and the mariadb client, by any way to one server."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._connect = rig.place("sysbench") / "connect.lua"
        self._connect.write_text(CONNECT_LUA)
        self._clients: dict[Path | None, Path] = {None: rig.place("sysbench")}

    def trust(self, authority: Authority) -> None:
        """Let sysbench come by TLS to servers of this CA: it reads files of fixed names where it runs."""
        place = self._rig.place(f"sysbench-{len(self._clients)}")
        certificate, key = authority.client(LOGIN, place)
        certificate.rename(place / "client-cert.pem")
        key.rename(place / "client-key.pem")
        (place / "cacert.pem").write_bytes(authority.ca.read_bytes())
        self._clients[authority.ca] = place

    def argv(self, way: Way, test: str, *options: str) -> list[str]:
        """A sysbench command line."""
        return [
            SYSBENCH, test, f"--mysql-host={HOST}", f"--mysql-port={way.port}", f"--mysql-user={way.user}",
            f"--mysql-password={PASSWORD}", f"--mysql-db={DATABASE}", f"--mysql-ssl={'on' if way.ca else 'off'}", *options,
        ]  # fmt: skip

    def prepare(self, way: Way) -> None:
        """Make the table."""
        argv = self.argv(way, STATEMENTS, f"--table-size={TABLE_ROWS}", "prepare")
        subprocess.run(argv, stdout=subprocess.DEVNULL, timeout=RUN_S, check=True)

    def _run(self, way: Way, test: str, seconds: int, *options: str) -> tuple[str, float]:
        def argv(seconds: int) -> list[str]:
            return self.argv(way, test, *options, f"--time={seconds}", "run")

        return under_load(self._rig, way, Load(argv, seconds, _started, cwd=self._clients[way.ca]))

    def _rate(self, way: Way, test: str, *options: str) -> Took:
        said, share = self._run(way, test, RUN, *options)
        line = next(line for line in said.splitlines() if "transactions:" in line)
        rate = float(line.rsplit("(", 1)[1].split()[0])
        return Took(rate, share / rate * 1e6)

    def connects(self, way: Way) -> Took:
        """Connections a second, each with one statement."""
        return self._rate(way, str(self._connect))

    def statements(self, mode: str, clients: int) -> Callable[[Way], Took]:
        """Give what measures one way at a number of clients."""
        options = (f"--threads={clients}", f"--db-ps-mode={MODES[mode]}", f"--table-size={TABLE_ROWS}")
        return lambda way: self._rate(way, STATEMENTS, *options)

    def latencies(self, way: Way) -> list[float]:
        """Milliseconds of each statement at a fixed rate, from a histogram whose steps are 2 % wide."""
        options = (
            f"--threads={RATE_CLIENTS}",
            f"--rate={RATE}",
            "--histogram=on",
            f"--table-size={TABLE_ROWS}",
        )
        said, _ = self._run(way, STATEMENTS, RATE_S, *options)
        found: list[float] = []
        for line in said.splitlines():
            value, bar, rest = line.partition(" |")
            if bar:
                found += [float(value)] * int(rest.split()[-1])
        return found

    def result(self, way: Way) -> float:
        """Seconds of a large result to nowhere."""
        tls = ["--ssl", f"--ssl-ca={way.ca}"] if way.ca else ["--skip-ssl"]
        argv = [str(CLIENT), "--no-defaults", "--protocol=TCP", f"-h{HOST}", f"-P{way.port}", f"-u{way.user}",
                f"-p{PASSWORD}", *tls, "--quick", "-N", "-B", "-e", RESULT, DATABASE]  # fmt: skip
        began = perf_counter()
        with Path(os.devnull).open("wb") as nowhere:
            subprocess.run(argv, stdout=nowhere, timeout=RUN_S, check=True)
        return perf_counter() - began


def _started(process: Process) -> bool:
    return "Threads started!" in process.text()


# ---------------------------------------------------------------------- peers


@contextmanager
def front(rig: Rig, made: MariaDb, run: Bench, *, tls: bool) -> Iterator[Way]:
    """proxyd before it, recording, strict."""
    proxyd = Proxyd(rig.place("mysql-tls" if tls else "mysql-plain") / "proxyd")
    authority, port = Authority(proxyd.directory / "front"), free_port()
    run.trust(authority)
    secret = proxyd.directory / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    proxyd.user("alice", password=hash_password(PASSWORD), mysql_native=mysql_native(PASSWORD))
    proxyd.settings.setdefault("targets", {})["db1"] = {
        "address": f"localhost:{made.port}", "protocol": "mysql", "tls": "verify-full" if tls else "off",
        "tls_ca": str(made.authority.ca), "accounts": {LOGIN: {"password": f"file:{secret}"}},
    }  # fmt: skip
    proxyd.settings["listen"]["mysql"] = {
        "address": f"{HOST}:{port}", "certificate": str(authority.certificate), "key": str(authority.key),
        "tls": "require" if tls else "prefer", "target": "db1",
    }  # fmt: skip
    proxyd.grant()
    with proxyd:
        yield Way(PROXYD, port, "alice", proxyd.pid, authority.ca if tls else None)


# ---------------------------------------------------------------------- what is measured


def measure(rig: Rig) -> Report:
    """Rates, latency, a large result and connects without TLS, then with it."""
    if not INSTALLED:
        raise RuntimeError("Debian's mariadb-server and mariadb-client are not installed")
    report = Report("mariadb")
    present = installed(report, SYSBENCH, HAPROXY)
    run = Bench(rig)
    with MariaDb(rig.place("mariadb")) as made:
        run.trust(made.authority)
        if SYSBENCH in present:
            run.prepare(Way(DIRECT, made.port, LOGIN))
        for sheet, tls in zip(sheets(rig, report), (False, True), strict=True):
            with ExitStack() as standing:
                ways = [Way(DIRECT, made.port, LOGIN, ca=made.authority.ca if tls else None)]
                if HAPROXY in present:
                    ways.append(standing.enter_context(haproxy(rig, ways[0])))
                if not tls:
                    ways.append(standing.enter_context(trio_relay(rig, ways[0], scan=False)))
                ways.append(standing.enter_context(front(rig, made, run, tls=tls)))
                if SYSBENCH in present:
                    _statements(sheet, run, ways, promised=not tls)
                _result(sheet, run, ways, promised=not tls)
    return report


def _statements(sheet: Sheet, run: Bench, ways: Sequence[Way], *, promised: bool) -> None:
    sheet.rates(CONNECTS, [Cell("connect", ways, run.connects)])
    cells = [(mode, count) for mode in (PREPARED, SIMPLE) for count in CLIENTS]
    took = sheet.rates(
        STATEMENTS, [Cell(f"{mode} {count}", ways, run.statements(mode, count)) for mode, count in cells]
    )
    added = sheet.latency(AT_RATE, ways, run.latencies)
    if promised:
        cpu = middle_cpu(took[f"{PREPARED} {CLIENTS[-1]}"][PROXYD])
        sheet.report.promises += [
            Promise(f"CPU a point select, prepared, {CLIENTS[-1]} clients", cpu, CPU_US, unit=" us"),
            Promise("a point select's p50 above direct", added, ADDS_MS, unit=" ms"),
        ]


def _result(sheet: Sheet, run: Bench, ways: Sequence[Way], *, promised: bool) -> None:
    share = sheet.bulk(RESULTS, ways, run.result)
    if promised:
        text = f"a result of {RESULT_ROWS:,} rows, rate to direct"
        sheet.report.promises.append(Promise(text, share.median, BULK_TO_DIRECT, least=True))
