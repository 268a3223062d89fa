"""PostgreSQL through proxyd: real clients, a real server, TLS on both legs; what passes, what is kept, what is stopped."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pyotp
import pytest
from psycopg import sql

from proxyd.access import hash_password
from proxyd.gate import RESTORED, REVOKED
from proxyd.recorder.record import Kind
from proxyd.session import DISCONNECTED
from proxyd.verifiers import scram
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.mariadb import Authority
from tests.peers.postgres import BIN, CERTIFIED, DATABASE, INSTALLED, Postgres
from tests.peers.process import eventually, free_port

pytestmark = pytest.mark.skipif(not INSTALLED, reason="Debian's postgresql is not installed")

ALICE, BOB, CAROL = "Alice's päss", "Bob's pass", "Carol's pass"
TOTP_SECRET = "KRSXG5CTMVRXEZLUKN2XAZLSKRSXG5CT"
CLOSED_S = 1.0  # the promise of a drop
CLOCK_S = 0.3  # what this process and the machine add to it
BIG = 20 << 20


@dataclass
class Rig:
    """A server, proxyd before it, and ways in."""

    server: Postgres
    proxyd: Proxyd
    authority: Authority
    port: int
    directory: Path
    known: set[str] = field(default_factory=set)

    def dsn(self, user: str = "alice+app+pg1", password: str = ALICE, **more: Any) -> dict[str, Any]:
        """What psycopg needs, the whole check of our certificate included."""
        return {"host": HOST, "port": self.port, "user": user, "password": password, "dbname": DATABASE, "sslmode": "verify-full",
                "sslrootcert": str(self.authority.ca), "connect_timeout": 20, **more}  # fmt: skip

    def connect(
        self, user: str = "alice+app+pg1", password: str = ALICE, *, autocommit: bool = True, **more: Any
    ) -> psycopg.Connection[Any]:
        return psycopg.connect(**self.dsn(user, password, **more), autocommit=autocommit)

    def psql(self, *argv: str, stdin: str = "", user: str = "alice+app+pg1", password: str = ALICE, program: str = "psql",
             database: str = DATABASE) -> subprocess.CompletedProcess[str]:  # fmt: skip
        env = {**os.environ, "PGHOST": HOST, "PGPORT": str(self.port), "PGUSER": user, "PGPASSWORD": password, "PGDATABASE": database,
               "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(self.authority.ca)}  # fmt: skip
        assert BIN is not None
        return subprocess.run(
            [str(BIN / program), *argv],
            input=stdin,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def session(self) -> str:
        """The id of the one live session."""
        return str(self.proxyd.the_live_session()["id"])

    def newest(self) -> str:
        """Wait until the session begun last has ended; gives its id."""
        new = lambda: [row["id"] for row in self.proxyd.sessions(limit=10_000) if row["id"] not in self.known]  # noqa: E731
        eventually("a new session is listed", new)
        (one,) = new()
        self.proxyd.ended(one)
        return str(one)

    def statements(self, session: str) -> list[dict[str, Any]]:
        """The statements of a sealed recording, each joined with its outcome."""
        found: dict[int, dict[str, Any]] = {}
        for record in self.proxyd.recording(session).records():
            if record.kind is Kind.STATEMENT:
                body = dict(record.body)
                event = body.pop("event")
                if event == "statement":
                    assert body["n"] not in found
                    found[body["n"]] = body
                else:
                    assert "outcome" not in found[body["n"]] or "result" not in found[body["n"]]
                    found[body["n"]]["result"] = body
        return [found[n] for n in sorted(found)]

    def bodies(self, session: str, kind: Kind) -> list[Any]:
        return [record.body for record in self.proxyd.recording(session).records() if record.kind is kind]


@pytest.fixture(scope="module")
def standing(shared: Path) -> Iterator[Rig]:
    """Server and proxyd for all tests of this file."""
    directory = shared / "postgres"
    directory.mkdir()
    directory.chmod(0o755)
    with Postgres(directory / "server") as server:
        proxyd = Proxyd(directory / "proxyd")
        authority, port = Authority(directory / "front"), free_port()
        (directory / "totp").write_text(TOTP_SECRET)
        (directory / "totp").chmod(0o600)
        proxyd.settings["listen"]["postgres"] = {
            "address": f"{HOST}:{port}",
            "certificate": str(authority.certificate),
            "key": str(authority.key),
            "client_ca": str(authority.ca),
        }
        proxyd.settings["targets"] = {
            "pg1": server.target("app", "old", "plain", CERTIFIED, directory=directory),
            "ruled": server.target("app", directory=directory),
            "watched": server.target("app", directory=directory),
        }
        proxyd.user("alice", scram=scram(ALICE))
        proxyd.user("bob", password=hash_password(BOB))
        proxyd.user("carol", scram=scram(CAROL), totp=f"file:{directory}/totp")
        proxyd.grant(users=["alice", "bob", "carol"])
        proxyd.grant(users=["bob"], targets=["pg1"], channels=["replication"])
        proxyd.settings["rules"] = [
            {"name": "no-drop", "action": "block", "kinds": ["drop"], "targets": ["ruled"], "severity": "high"},
            {"name": "seen", "action": "flag", "pattern": "watched_table", "targets": ["ruled", "watched"]},
            {"name": "three", "action": "interrupt", "pattern": "forbidden_thing", "after": 2, "targets": ["ruled"]},
        ]  # fmt: skip
        with proxyd:
            yield Rig(server, proxyd, authority, port, directory)


@pytest.fixture
def rig(standing: Rig) -> Iterator[Rig]:
    """The rig with nobody on it, and the sessions there were before the test."""
    standing.proxyd.quiet()
    standing.known = standing.proxyd.ids()
    yield standing
    standing.proxyd.quiet()


# ------------------------------------------------------------------ logins


@pytest.mark.mission("M14")
def test_login_binds_the_channel_and_the_target_sees_its_account_only(rig: Rig) -> None:
    with rig.connect(channel_binding="require") as connection:
        assert connection.execute("select current_user, session_user").fetchall() == [("app", "app")]
        assert connection.info.server_version >= 150000
    (row,) = [row for row in rig.proxyd.sessions() if row["id"] == rig.newest()]
    assert (row["user"], row["login"], row["target"]) == ("alice", "app", "pg1")


@pytest.mark.parametrize("account", ["app", "old", "plain", CERTIFIED])
def test_target_methods(rig: Rig, account: str) -> None:
    with rig.connect(f"bob+{account}+pg1", BOB) as connection:
        assert connection.execute("select current_user").fetchone() == (account,)


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice+app+pg1", "wrong"),
        ("bob+app+pg1", "wrong"),
        ("nobody+app+pg1", "wrong"),
        ("alice+app+pg1", ""),
    ],
)
def test_wrong_password_and_unknown_user_get_the_same_words(rig: Rig, user: str, password: str) -> None:
    with pytest.raises(
        psycopg.OperationalError, match=f'password authentication failed for user "{user[:3]}'
    ):
        rig.connect(user, password or "\t")
    assert rig.proxyd.ids() == rig.known


def test_one_time_code_behind_the_password_is_good_once(rig: Rig) -> None:
    code = pyotp.TOTP(TOTP_SECRET).now()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        rig.connect("carol+app+pg1", CAROL)
    with rig.connect("carol+app+pg1", CAROL + code) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        rig.connect("carol+app+pg1", CAROL + code)


def test_client_certificate_logs_in_without_a_password(rig: Rig) -> None:
    certificate, key = rig.authority.client("alice", rig.directory)
    key.chmod(0o600)
    files = {"sslcert": str(certificate), "sslkey": str(key)}
    with rig.connect("alice+app+pg1", "", **files) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        rig.connect("bob+app+pg1", "x", **files)  # another's certificate proves nothing


def test_without_tls_nobody_is_asked_for_anything(rig: Rig) -> None:
    with pytest.raises(psycopg.OperationalError, match="by TLS only"):
        psycopg.connect(**rig.dsn(sslmode="disable"))


def test_role_cannot_be_smuggled_in_by_options(rig: Rig) -> None:
    options = "-c role=weak -c work_mem=5MB --role=weak -c Session_Authorization=weak"
    with rig.connect(options=options) as connection:
        assert connection.execute("select current_user, current_setting('work_mem')").fetchone() == (
            "app",
            "5MB",
        )


def test_database_that_is_not_there_is_said_in_the_target_s_words(rig: Rig) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"pg1 says: database .* does not exist"):
        rig.connect(dbname="nowhere")


def test_replication_needs_its_grant(rig: Rig) -> None:
    asked = ("-Atc", "IDENTIFY_SYSTEM", f"dbname={DATABASE} replication=database")
    assert "does not allow replication" in rig.psql(*asked).stderr
    done = rig.psql(*asked, user="bob+app+pg1", password=BOB)
    assert done.returncode == 0 and DATABASE in done.stdout, done.stderr


# ------------------------------------------------------------------ what passes


def test_psql_speaks_through_us(rig: Rig) -> None:
    done = rig.psql("-XAt", stdin="select 'ä' || 1;\n\\conninfo\nselect 1/0;\nselect 2;\n")
    assert done.stdout.splitlines()[0] == "ä1" and done.stdout.splitlines()[-1] == "2"
    assert "division by zero" in done.stderr
    (first, error, last) = rig.statements(rig.newest())
    assert first["text"] == "select 'ä' || 1;" and first["result"]["rows"] == 1
    assert error["result"]["error"]["code"] == "22012" and error["result"]["error"]["severity"] == "ERROR"
    assert last["result"]["transaction"] == "idle"


def test_transactions_and_errors(rig: Rig) -> None:
    with rig.connect(autocommit=False) as connection:
        connection.execute("create temp table t (a int primary key)")
        connection.execute("insert into t values (1), (2)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("insert into t values (%s)", (1,))
        connection.rollback()
    found = rig.statements(rig.newest())
    assert all("result" in one for one in found), found
    failed = next(one for one in found if one["result"].get("error"))
    assert failed["how"] == "execute" and failed["result"]["error"]["code"] == "23505"
    assert failed["result"]["transaction"] == "failed"
    assert failed["parameters"][0]["value"] == 1


def test_copy_both_ways(rig: Rig) -> None:
    with rig.connect() as connection:
        connection.execute("create temp table c (a int, b text)")
        with connection.cursor().copy("copy c from stdin") as copy:
            for number in range(200_000):
                copy.write_row((number, "canary-row"))
        assert connection.execute("select count(*) from c").fetchone() == (200_000,)
        with connection.cursor().copy("copy c to stdout") as copy:
            assert sum(len(bytes(data)) for data in copy) > 3_000_000
        with pytest.raises(psycopg.errors.QueryCanceled):
            with connection.cursor().copy("copy c from stdin"):
                raise psycopg.errors.QueryCanceled("enough")
        assert connection.execute("select 7").fetchone() == (7,)
    found = rig.statements(rig.newest())
    copied = [one["result"] for one in found if "copy" in one["text"]]
    assert [result.get("rows") for result in copied[:2]] == [200_000, 200_000]
    assert copied[2]["error"]["code"] == "57014"


def test_pipeline_and_an_error_in_it(rig: Rig) -> None:
    with rig.connect() as connection:
        with connection.pipeline():
            results = [connection.execute("select %s::int", (number,)) for number in range(500)]
        assert [result.fetchone() for result in results] == [(number,) for number in range(500)]
        with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
            connection.execute("select 1")
            connection.execute("select 1/0")
            connection.execute("select 3")
        assert connection.execute("select 4").fetchone() == (4,)
    found = rig.statements(rig.newest())
    assert all("result" in one for one in found)
    assert sum(one["how"] == "execute" and one["result"].get("tag") == "SELECT 1" for one in found) >= 501
    assert [
        one["result"]["outcome"] for one in found if one["how"] == "execute" and one["result"].get("outcome")
    ] == ["aborted"]


def test_prepared_statements_keep_their_text(rig: Rig) -> None:
    with rig.connect() as connection:
        for number in range(20):
            connection.execute("select %s::int * 2", (number,), prepare=True)
        connection.execute("prepare mine as select 11")
        assert connection.execute("execute mine").fetchone() == (11,)
        connection.execute("deallocate mine")
    found = rig.statements(rig.newest())
    executed = [one for one in found if one["how"] == "execute" and "* 2" in one["text"]]
    assert len(executed) == 20 and {one["parameters"][0]["value"] for one in executed} == set(range(20))
    assert any(one["text"] == "execute mine" for one in found)


def test_cursor_notify_large_object_and_function(rig: Rig) -> None:
    with rig.connect(autocommit=False) as connection:
        with connection.cursor("named") as cursor:
            cursor.itersize = 100
            cursor.execute("select generate_series(1, 1000)")
            assert sum(1 for _ in cursor) == 1000
        connection.execute("listen here")
        connection.execute("select pg_notify('here', 'canary-notify')")
        connection.commit()
        heard = list(connection.notifies(timeout=5, stop_after=1))
        assert heard[0].payload == "canary-notify"
        oid = connection.execute("select lo_from_bytea(0, %s)", (b"canary-lo" * 100_000,)).fetchone()[0]
        assert connection.execute("select length(lo_get(%s))", (oid,)).fetchone() == (900_000,)
    assert all("result" in one for one in rig.statements(rig.newest()))


def test_large_statement_and_large_value(rig: Rig) -> None:
    with rig.connect() as connection:
        text = "select length('" + "x" * BIG + "')"
        assert connection.execute(text).fetchone() == (BIG,)  # a simple query
        assert connection.execute("select length(%s)", ("y" * BIG,)).fetchone() == (BIG,)
        assert connection.execute("select repeat('z', %s)", (BIG,)).fetchone() == ("z" * BIG,)
    first, second, _ = [one for one in rig.statements(rig.newest()) if one["how"] != "prepare"]
    assert first["truncated"] and first["length"] == len(text)
    assert second["parameters"][0]["size"] == BIG and len(second["parameters"][0]["value"]) <= 1024


def test_asyncpg(rig: Rig) -> None:
    async def use() -> None:
        context = ssl.create_default_context(cafile=str(rig.authority.ca))
        connection = await asyncpg.connect(host=HOST, port=rig.port, user="alice+app+pg1", password=ALICE, database=DATABASE, ssl=context)  # fmt: skip
        try:
            assert await connection.fetchval("select $1::int + 1", 41) == 42
            await connection.execute("create temp table a (n int, t timestamptz)")
            await connection.executemany("insert into a values ($1, now())", [(n,) for n in range(100)])
            async with connection.transaction():
                seen = [row["n"] async for row in connection.cursor("select n from a order by n", prefetch=7)]
            assert seen == list(range(100))
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("select 1 / $1::int", 0)
        finally:
            await connection.close()

    asyncio.run(use())
    found = rig.statements(rig.newest())
    assert all("result" in one for one in found)
    suspended = [
        one for one in found if one["result"].get("outcome") == "suspended" and "order by" in one["text"]
    ]
    assert suspended and suspended[0]["result"]["rows"] == 7
    plus = next(one for one in found if one["how"] == "execute" and "+ 1" in one["text"])
    assert plus["parameters"] == [{"kind": "int4", "size": 4, "value": 41}]


def test_cancel_reaches_the_statement_it_is_for(rig: Rig) -> None:
    with rig.connect() as connection, concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(connection.execute, "select pg_sleep(60) /* to cancel */")
        eventually("it runs", lambda: rig.server.running("to cancel"))
        connection.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(10)
        assert connection.execute("select 1").fetchone() == (1,)
    assert {"name": "cancel", "side": "client"} in rig.bodies(rig.newest(), Kind.REQUEST)


def test_pg_dump_is_what_it_is_directly(rig: Rig) -> None:
    rig.server.psql(
        "create table if not exists dumped as select n, md5(n::text) from generate_series(1, 20000) n",
        DATABASE,
    )
    assert BIN is not None
    direct = subprocess.run([str(BIN / "pg_dump"), "-h", str(rig.server.directory), "-p", str(rig.server.port), "-U", "postgres", DATABASE],
                            capture_output=True, text=True, check=True)  # fmt: skip
    through = rig.psql(program="pg_dump")
    assert through.returncode == 0, through.stderr
    plain = lambda text: [line for line in text.splitlines() if "restrict" not in line]  # noqa: E731 - a random word
    assert plain(through.stdout) == plain(direct.stdout)


def test_logical_replication_streams_through_us(rig: Rig) -> None:
    rig.server.psql(
        "create table if not exists streamed (a int); select pg_drop_replication_slot(slot_name) from pg_replication_slots",
        DATABASE,
    )
    bob = {"user": "bob+app+pg1", "password": BOB, "program": "pg_recvlogical"}
    made = rig.psql("-d", DATABASE, "--slot=tape", "--create-slot", "-P", "test_decoding", **bob)
    assert made.returncode == 0, made.stderr
    rig.server.psql("insert into streamed select 4711 from generate_series(1, 50)", DATABASE)
    end = rig.server.psql("select pg_current_wal_lsn()", DATABASE)
    streamed = rig.psql("-d", DATABASE, "--slot=tape", "--start", f"--endpos={end}", "-f", "-", **bob)
    assert streamed.returncode == 0, streamed.stderr
    assert streamed.stdout.count("a[integer]:4711") == 50
    rig.proxyd.quiet()
    rig.server.psql("select pg_drop_replication_slot('tape')", DATABASE)
    for session in rig.proxyd.ids() - rig.known:
        found = rig.statements(session)
        assert all(one["how"] == "replication" and "result" in one for one in found)
        assert "4711" not in str(found)


# ------------------------------------------------------------------ what is kept


@pytest.mark.mission("M14")
def test_no_row_is_on_the_tape(rig: Rig) -> None:
    word = "Kanarienvogel"
    rig.server.psql(
        f"create table if not exists aviary (a text primary key); truncate aviary; insert into aviary values ('{word}')",
        DATABASE,
    )
    with rig.connect() as connection:
        connection.add_notice_handler(lambda _: None)
        assert connection.execute("select a from aviary").fetchone() == (word,)
        with connection.cursor().copy("copy aviary to stdout") as copy:
            assert word.encode() in b"".join(bytes(data) for data in copy)
        connection.execute("do $$ begin raise notice '%', (select a from aviary); end $$")
        with pytest.raises(psycopg.errors.UniqueViolation) as raised:
            connection.execute("insert into aviary select a from aviary")
        assert word in str(raised.value)  # the client sees the DETAIL
        connection.execute("listen birds")
        connection.execute("select pg_notify('birds', a) from aviary")
    session = rig.newest()
    assert all("result" in one for one in rig.statements(session))
    for record in rig.proxyd.recording(session).records():
        assert word not in str(record.body) and word.encode() not in repr(record.body).encode()
    assert word not in rig.proxyd.logs()


def test_sql_password_is_not_on_the_tape(rig: Rig) -> None:
    with rig.connect() as connection:
        connection.execute("create role short_lived login password 'hunter2-secret'")
        connection.execute("drop role short_lived")
    assert "hunter2-secret" not in str(rig.statements(rig.newest()))


# ------------------------------------------------------------------ what is stopped


def refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=words):
        call()


@pytest.mark.mission("M3")
def test_block_refuses_statements_and_the_transaction_survives(rig: Rig) -> None:
    notices: list[str] = []
    with rig.connect(autocommit=False) as connection:
        connection.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        connection.execute("create temp table kept (a int)")
        connection.execute("insert into kept values (1)")
        session = rig.session()
        began = time.monotonic()
        answer = rig.proxyd.call("block", session=session)
        assert time.monotonic() - began < 1 and answer["settled"] is True, answer
        refused(lambda: connection.execute("insert into kept values (2)"), REVOKED)
        refused(lambda: connection.execute("insert into kept values (%s)", (3,)), REVOKED)
        refused(lambda: psycopg.ClientCursor(connection).execute("insert into kept values (4)"), REVOKED)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        rig.proxyd.call("unblock", whom=session)
        assert connection.execute("select array_agg(a) from kept").fetchone() == ([1],)
        connection.commit()
        rig.proxyd.call("message", session=session, text="Öffnen Sie später neu\n")
        connection.execute("select 1")
    assert REVOKED in notices and RESTORED in notices
    assert notices[-1] == "Öffnen Sie später neu"
    found = rig.statements(rig.newest())
    attempts = [one["text"] for one in found if one.get("refused")]
    assert (
        [text for text in attempts if "(2)" in text]
        and [text for text in attempts if "$1" in text]
        and [text for text in attempts if "(4)" in text]
    )
    assert all("result" in one for one in found if not one.get("refused"))


@pytest.mark.mission("M3")
def test_block_is_acknowledged_while_a_statement_runs(rig: Rig) -> None:
    with rig.connect() as connection, concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(lambda: connection.execute("select pg_sleep(3) /* goes on */, 5").fetchone())
        eventually("it runs", lambda: rig.server.running("goes on"))
        session = rig.session()
        assert rig.proxyd.call("block", session=session)["settled"] is True
        assert not running.done()
        assert running.result(30)[1] == 5
        refused(lambda: connection.execute("select 1"), REVOKED)
        rig.proxyd.call("unblock", whom=session)
        assert connection.execute("select 1").fetchone() == (1,)


def test_block_ends_a_copy_and_nothing_of_it_is_there(rig: Rig) -> None:
    rig.server.psql("drop table if exists poured; create table poured (a text)", DATABASE)
    with rig.connect() as connection:
        with pytest.raises(psycopg.errors.QueryCanceled, match=REVOKED):
            with connection.cursor().copy("copy poured from stdin") as copy:
                for _ in range(100):
                    copy.write_row(("x" * 1000,))
                session = rig.session()
                rig.proxyd.call("block", session=session)
                for _ in range(100):
                    copy.write_row(("y" * 1000,))
        rig.proxyd.call("unblock", whom=session)
        assert connection.execute("select count(*) from poured").fetchone() == (0,)


def test_block_in_the_middle_of_a_pipeline(rig: Rig) -> None:
    with rig.connect() as connection:
        connection.execute("create temp table piped (a int)")
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege, match=REVOKED),
            connection.pipeline() as pipeline,
        ):
            connection.execute("insert into piped values (1)")
            connection.pgconn.send_flush_request()
            connection.pgconn.flush()
            rig.proxyd.call("block", session=rig.session())
            connection.execute("insert into piped values (2)")
            pipeline.sync()
        rig.proxyd.call("unblock", whom=rig.session())
        assert connection.execute("select array_agg(a) from piped").fetchone()[0] in ([1], None)


def dropped(
    rig: Rig, connection: psycopg.Connection[Any], call: Callable[[], Any], when: Callable[[], Any]
) -> psycopg.Error:
    """Drop while `call` runs; gives what the client got, within the promised time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(call)
        eventually("it is under way", when)
        began = time.monotonic()
        rig.proxyd.call("drop", session=rig.session())
        with pytest.raises(psycopg.Error) as raised:
            running.result(10)
        assert time.monotonic() - began < CLOSED_S + CLOCK_S
    assert connection.closed
    return raised.value


@pytest.mark.mission("M4")
def test_drop_while_a_statement_runs_cancels_it_there(rig: Rig) -> None:
    connection = rig.connect()
    error = dropped(
        rig,
        connection,
        lambda: connection.execute("select pg_sleep(60) /* to drop */"),
        lambda: rig.server.running("to drop"),
    )
    assert error.sqlstate == "57P01" and DISCONNECTED in str(error)
    eventually("nothing runs on the target", lambda: not rig.server.running("to drop"))
    (only,) = rig.statements(rig.newest())
    assert only["result"]["outcome"] == "cut"


def test_rules_refuse_flag_and_end(rig: Rig) -> None:
    rig.server.psql("create table if not exists watched_table (a int)", DATABASE)
    connection = rig.connect("alice+app+ruled", autocommit=False)
    connection.execute("create temp table mine (a int)")
    refused(lambda: connection.execute("drop table mine"), "no-drop")
    refused(lambda: connection.execute("drop table mine", binary=True, prepare=True), "no-drop")
    assert connection.execute("select count(*) from mine, watched_table").fetchone() == (0,)
    connection.execute("select 1 /* forbidden_thing */")
    with pytest.raises(psycopg.errors.AdminShutdown, match="three"):
        connection.execute("select 2 /* forbidden_thing */")
    assert connection.closed
    codes = [one["code"] for one in rig.bodies(rig.newest(), Kind.FINDING)]
    assert codes == ["rule-no-drop", "rule-no-drop", "rule-seen", "rule-three", "rule-three"]


def test_rules_that_only_flag_are_asked_beside_the_session(rig: Rig) -> None:
    with rig.connect("alice+app+watched") as connection:
        for number in range(5):
            connection.execute("select %s::int /* watched_table */", (number,))
        connection.execute("select 6")
        session = rig.session()
        findings = lambda: rig.proxyd.metric("proxyd_findings_total")  # noqa: E731
        eventually("all five are found", lambda: findings() >= 5)
    assert rig.newest() == session
    assert [one["code"] for one in rig.bodies(session, Kind.FINDING)] == ["rule-seen"] * 5


def peak_kib(pid: int) -> int:
    """The most memory a process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def test_statement_of_100_mb_and_its_value_in_bounded_memory(rig: Rig) -> None:
    with rig.connect() as connection:
        connection.execute("select 1")
        before = peak_kib(rig.proxyd.pid)
        size = 100 << 20
        assert connection.execute("select length('" + "x" * size + "')").fetchone() == (size,)
        assert connection.execute("select length(%b)", (b"y" * size,)).fetchone() == (size,)
        assert connection.execute(f"select repeat('z', {size})").fetchone() == ("z" * size,)
        assert peak_kib(rig.proxyd.pid) - before < 48 << 10
    found = [one for one in rig.statements(rig.newest()) if one["how"] != "prepare"]
    assert found[1]["length"] > size and all("result" in one for one in found)


# ------------------------------------------------------------------ what nobody should send


def test_garbage_after_the_login_ends_in_the_protocol_s_words(rig: Rig) -> None:
    connection = rig.connect()
    with socket.socket(fileno=os.dup(connection.fileno())) as raw:
        raw.setblocking(True)
        raw.send(b"\x17\x03\x03\x00\x05hello")  # no record of this TLS session
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    connection.close()


def test_identifiers_survive(rig: Rig) -> None:
    with rig.connect() as connection:
        name = 'odd "näme"; --'
        connection.execute(sql.SQL("create temp table {} (a int)").format(sql.Identifier(name)))
        assert connection.execute(
            sql.SQL("select count(*) from {}").format(sql.Identifier(name))
        ).fetchone() == (0,)
