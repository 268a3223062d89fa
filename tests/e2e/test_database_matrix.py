"""What database clients do that no other file has: pgbench, direct TLS, methods of login, COPY cut short, the longest statements."""

from __future__ import annotations

import concurrent.futures
import hashlib
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mysql.connector
import psycopg
import pymysql
import pymysql._auth
import pytest

from proxyd.session import DISCONNECTED
from tests.e2e.databases import PASSWORD, MariaRig, PostgresRig, mariadb_rig, postgres_rig
from tests.peers import mariadb, postgres
from tests.peers.middle import Middle
from tests.peers.process import eventually

DIRECT_TLS = 170_000  # the first libpq that begins TLS without asking
LONG_QUERY = 40 << 20  # three packets of MySQL
DROPPED_S = 1.5  # a drop's promise, and what the control socket and this machine add to it
BENCH_SCALE = 1
BENCH_CLIENTS, BENCH_EACH = 4, 50

pytestmark = [pytest.mark.mission("M14"), pytest.mark.timeout(240)]
needs_postgres = pytest.mark.skipif(
    not postgres.INSTALLED, reason="PostgreSQL is NOT tested: Debian's postgresql is not installed"
)
needs_mariadb = pytest.mark.skipif(
    not mariadb.INSTALLED,
    reason="MariaDB is NOT tested: Debian's mariadb-server and mariadb-client are not installed",
)


@pytest.fixture(scope="module")
def middle() -> Iterator[Middle]:
    with Middle() as one:
        yield one


@pytest.fixture(scope="module")
def pg(shared: Path, middle: Middle) -> Iterator[PostgresRig]:
    """PostgreSQL behind proxyd; `middle` is the same server behind somebody who should not be there."""
    with postgres_rig(shared / "matrix-postgres", middle={"address": middle.address}) as rig:
        middle.server = rig.server.port
        middle.certified_by(rig.server.authority, rig.directory)
        rules = rig.server.data / "pg_hba.conf"
        rules.write_text("hostssl all weak all trust\n" + rules.read_text())
        rig.server.psql("alter role weak password 'nobody knows'; select pg_reload_conf()")
        yield rig


@pytest.fixture(scope="module")
def maria(shared: Path) -> Iterator[MariaRig]:
    with mariadb_rig(shared / "matrix-mariadb") as rig:
        yield rig


# ------------------------------------------------------------------ PostgreSQL


@needs_postgres
@pytest.mark.skipif(psycopg.pq.version() < DIRECT_TLS, reason="direct TLS is NOT tested: this libpq is older than 17")  # fmt: skip
def test_direct_tls(pg: PostgresRig) -> None:
    """libpq insists on ALPN here: a server that does not say `postgresql` is refused by it."""
    with psycopg.connect(**pg.options(sslnegotiation="direct", channel_binding="require")) as connection:
        text = "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()"
        assert connection.execute(text).fetchone() == ("app", True)


@needs_postgres
def test_target_that_asks_for_nothing(pg: PostgresRig) -> None:
    with psycopg.connect(**pg.options("alice+weak+pg1")) as connection:
        assert connection.execute("select current_user").fetchone() == ("weak",)


@needs_postgres
def test_somebody_between_us_and_the_target_is_found_out_by_scram_plus(pg: PostgresRig) -> None:
    with psycopg.connect(**pg.options("alice+old+middle")) as connection:  # md5 sees no difference
        assert connection.execute("select current_user").fetchone() == ("old",)
    with pytest.raises(psycopg.OperationalError, match="middle refused the login of its account"):
        psycopg.connect(**pg.options("alice+app+middle"))
    eventually("the server says why", lambda: "channel binding check failed" in pg.server.log)


@needs_postgres
@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench(pg: PostgresRig, mode: str) -> None:
    pg.run("pgbench", "-i", "-q", "-s", str(BENCH_SCALE), postgres.DATABASE)
    clients = ["-c", str(BENCH_CLIENTS), "-j", "2", "-t", str(BENCH_EACH), "-M", mode]
    before = pg.proxyd.ids()
    for script in ("select-only", "tpcb-like"):
        done = pg.run("pgbench", "-n", *clients, "-b", script, postgres.DATABASE).stdout.decode()
        assert f"actually processed: {BENCH_CLIENTS * BENCH_EACH}/{BENCH_CLIENTS * BENCH_EACH}" in done
        assert re.search(r"failed transactions: 0 ", done) or "failed transactions" not in done
    told = pg.told_since(before)
    ran = [one for one in told if one["how"] != "prepare"]
    assert all("result" in one and not one["result"].get("error") for one in ran)
    selects = [one for one in ran if one["text"].startswith("SELECT abalance FROM pgbench_accounts")]
    assert len(selects) == 2 * BENCH_CLIENTS * BENCH_EACH
    assert {one["result"]["rows"] for one in selects} == {1}


@needs_postgres
def test_pgbench_that_connects_for_each_transaction(pg: PostgresRig) -> None:
    before = pg.proxyd.ids()
    pg.run("pgbench", "-i", "-q", "-I", "dtGpf", postgres.DATABASE)
    done = pg.run("pgbench", "-n", "-C", "-c", "2", "-t", "10", "-S", postgres.DATABASE).stdout.decode()
    assert "actually processed: 20/20" in done
    told = pg.told_since(before)
    assert len(pg.proxyd.ids() - before) >= 20
    assert sum(one["text"].startswith("SELECT abalance") for one in told) == 20


@needs_postgres
def test_psql_copies_from_and_to_its_own_side(pg: PostgresRig) -> None:
    before = pg.proxyd.ids()
    rows = b"".join(b"%d\tcanary-%d\n" % (number, number) for number in range(50_000))
    made = b"create temp table poured (a int, b text);\n\\copy poured from stdin\n" + rows + b"\\.\n"
    done = pg.run("psql", "-XAtq", postgres.DATABASE, stdin=made + b"\\copy poured to stdout\n")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(rows).digest()
    told = pg.told_since(before)
    assert [one["result"]["rows"] for one in told if "COPY" in one["text"]] == [50_000, 50_000]
    assert "canary-" not in str(told)


@needs_postgres
@pytest.mark.mission("M4")
def test_drop_in_the_middle_of_a_copy(pg: PostgresRig) -> None:
    text = "copy (select repeat('c', 500) from generate_series(1, 3000000) /* poured */) to stdout"
    connection, begun = psycopg.connect(**pg.options(), autocommit=True), threading.Event()

    def pour() -> None:
        with connection.cursor().copy(text) as copy:
            for _ in copy:
                begun.set()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(pour)
        assert begun.wait(20)
        began = time.monotonic()
        pg.proxyd.call("drop", session=pg.proxyd.the_live_session()["id"])
        with pytest.raises(psycopg.errors.AdminShutdown, match=DISCONNECTED):
            running.result(10)
        assert time.monotonic() - began < DROPPED_S
    eventually("nothing runs on the target", lambda: not pg.server.running("poured"))


# ------------------------------------------------------------------ MariaDB


def ask(connection: Any, text: str) -> Any:
    cursor = connection.cursor()
    cursor.execute(text)
    (row,) = cursor.fetchall()
    return row


def py(rig: MariaRig, **more: Any) -> Any:
    return pymysql.connect(**rig.options(**more), ssl_verify_cert=True)


def connector(rig: MariaRig, **more: Any) -> Any:
    plain: dict[str, Any] = {"use_pure": True, "charset": "utf8mb4", "collation": "utf8mb4_general_ci"}
    return mysql.connector.connect(**rig.options(**plain, **more))


@needs_mariadb
def test_target_leg_is_tls_too(maria: MariaRig) -> None:
    with py(maria) as connection:
        assert ask(connection, "show session status like 'Ssl_version'")[1].startswith("TLSv1.")


@needs_mariadb
def test_second_login_takes_the_fast_path(
    maria: MariaRig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """caching_sha2_password: the password itself once, then its digest; PyMySQL says which when asked to."""
    maria.proxyd.restart()  # nobody is remembered
    monkeypatch.setattr(pymysql._auth, "DEBUG", True)
    py(maria).close()
    assert "full" in capsys.readouterr().out
    py(maria).close()
    assert "succeeded by fast path" in capsys.readouterr().out
    other = connector(maria)
    assert ask(other, "select current_user()") == ("app@%",)
    other.close()
    done = maria.run(str(mariadb.CLIENT), "-NBe", "select current_user()")
    assert done.stdout == b"app@%\n"
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        py(maria, password=PASSWORD + "x")


@needs_mariadb
def test_password_in_clear_inside_tls(maria: MariaRig) -> None:
    clear = ("--default-auth=mysql_clear_password", "-NBe", "select current_user()")
    assert maria.run(str(mariadb.CLIENT), *clear).stdout == b"app@%\n"
    connection = connector(maria, auth_plugin="mysql_clear_password")
    assert ask(connection, "select current_user()") == ("app@%",)
    connection.close()
    with pytest.raises(mysql.connector.Error) as caught:
        connector(maria, auth_plugin="mysql_clear_password", password="wrong")
    assert caught.value.errno == 1045


COPIES = """
import asyncio, sys, psycopg

async def ask_for_much():
    async with await psycopg.AsyncConnection.connect() as connection:
        for size in range(1000, 90_000, 1777):
            statement = f"copy (select repeat('x', {size}) from generate_series(1, 20)) to stdout"
            async with connection.cursor().copy(statement) as copied:
                assert sum([len(row[0]) async for row in copied.rows()]) == 20 * size

asyncio.run(asyncio.wait_for(ask_for_much(), timeout=60))
print(psycopg.pq.version())
"""


@needs_postgres
def test_asyncio_client_is_never_left_waiting_for_what_has_come(pg: PostgresRig) -> None:
    """It asks the socket for more, not its TLS: what Debian's libpq does not read of a record would wait for ever."""
    done = pg.run(sys.executable, "-c", COPIES, PSYCOPG_IMPL="python", PGDATABASE=postgres.DATABASE)
    assert int(done.stdout) >= 150_000  # the system's, not the one of psycopg's wheel, which asks again


@needs_mariadb
@pytest.mark.parametrize("client", ["mariadb", "pymysql", "connector"])
def test_query_of_40_mb(maria: MariaRig, client: str) -> None:
    before = maria.proxyd.ids()
    text = "select length('" + "q" * LONG_QUERY + "'), 'tail'"
    if client == "mariadb":
        done = maria.run(
            str(mariadb.CLIENT), "-NB", "--max-allowed-packet=256M", stdin=text.encode() + b";\n"
        )
        assert done.stdout == f"{LONG_QUERY}\ttail\n".encode()
    else:
        big = {"max_allowed_packet": 256 << 20} if client == "pymysql" else {}
        connection = py(maria, **big) if client == "pymysql" else connector(maria)
        assert ask(connection, text) == (LONG_QUERY, "tail")
        assert ask(connection, "select 1") == (1,)
        connection.close()
    (long,) = [one for one in maria.told_since(before) if one["text"].startswith("select length")]
    assert long["truncated"] and long["length"] == len(text) and long["result"]["rows"] == 1
    assert long["sha256"] == hashlib.sha256(text.encode()).digest() and long["text"].endswith("'tail'")


@needs_mariadb
@pytest.mark.parametrize("user", ["alice", "nat", "edd"])
def test_executemany(maria: MariaRig, user: str) -> None:
    before = maria.proxyd.ids()
    with py(maria, user=f"{user}+app+db1") as connection:
        cursor = connection.cursor()
        cursor.execute("create temporary table many (a int, b varchar(20))")
        assert (
            cursor.executemany("insert into many values (%s, %s)", [(n, f"v{n}") for n in range(500)]) == 500
        )
        assert cursor.executemany("update many set b = %s where a = %s", [("w", n) for n in range(50)]) == 50
        assert ask(connection, "select count(*), sum(b = 'w') from many") == (500, 50)
    told = maria.told_since(before)
    assert sum(one["result"].get("rows") or 0 for one in told if one["text"].startswith("insert into")) == 500
    assert sum(one["text"].startswith("update many") for one in told) == 50
