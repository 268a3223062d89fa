"""MySQL and MariaDB sessions: real clients, proxyd, a real MariaDB server, TLS on both legs."""

from __future__ import annotations

import hashlib
import io
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mysql.connector
import pymysql
import pyotp
import pytest
from pymysql.constants import CLIENT as FLAG

from proxyd.access import hash_password
from proxyd.control.client import ControlError
from proxyd.recorder.record import Kind
from proxyd.verifiers import mariadb_ed25519
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.mariadb import ACCOUNTS, CLIENT, DATABASE, DUMP, INSTALLED, Authority, MariaDb
from tests.peers.process import eventually, free_port, rss_bytes
from tests.peers.tap import Tap

pytestmark = [
    pytest.mark.mission("M14"),
    pytest.mark.skipif(not INSTALLED, reason="Debian's mariadb-server and mariadb-client are not installed"),
    pytest.mark.timeout(240),
]

PASSWORD = "AlicePw1"
TOTP_SECRET = "KRSXG5CTMVRXEZLUKN2XAZLSKRSXG5CT"
DROPPED_WITHIN_S = 1.0
REVOKED = "Session interaction revoked"
LOG_TAIL = 4000


def native_hash(password: str) -> str:
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()


@dataclass
class Lab:
    """A server, the daemon before it, and how to reach both."""

    directory: Path
    db: MariaDb
    proxyd: Proxyd
    front: Authority
    port: int
    tap: Tap

    def options(self, user: str = "alice+app+db1", password: str = PASSWORD, **more: Any) -> dict[str, Any]:
        return {
            "host": "localhost",
            "port": self.port,
            "user": user,
            "password": password,
            "database": DATABASE,
            **more,
        }

    def connect(self, user: str = "alice+app+db1", password: str = PASSWORD, **more: Any) -> Any:
        """PyMySQL, certificate checked."""
        return pymysql.connect(**self.options(user, password, ssl={"ca": str(self.front.ca)}, **more))

    def connector(self, user: str = "alice+app+db1", password: str = PASSWORD, **more: Any) -> Any:
        """mysql-connector-python in pure Python, certificate checked."""
        more = {"use_pure": True, "ssl_ca": str(self.front.ca), "ssl_verify_identity": True, "charset": "utf8mb4",
                "collation": "utf8mb4_general_ci", **more}  # fmt: skip
        return mysql.connector.connect(**self.options(user, password, **more))

    def argv(
        self, program: str | None = CLIENT, user: str = "alice+app+db1", password: str = PASSWORD
    ) -> list[str]:
        return [
            str(program), "--no-defaults", "--protocol=TCP", "-hlocalhost", f"-P{self.port}", f"-u{user}", f"-p{password}",
            f"--ssl-ca={self.front.ca}", "--ssl-verify-server-cert",
        ]  # fmt: skip

    def cli(self, text: str, *more: str, **who: str) -> subprocess.CompletedProcess[str]:
        """The mariadb client, certificate checked."""
        argv = [*self.argv(**who), "-N", "-B", *more, DATABASE]
        return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)

    def ids(self) -> set[str]:
        return self.proxyd.ids()

    def told(self, before: set[str]) -> list[dict[str, Any]]:
        """The statements of the one session that has ended since, each with its `result`."""
        row = self.proxyd.newest(before)
        return statements(self, row["id"])

    def everything(self) -> bytes:
        """All that every recording holds."""
        return b"".join(
            repr(record).encode() for row in self.proxyd.sessions(limit=10_000) if row["state"] != "live"
            for record in self.proxyd.recording(row["id"]).records()
        )  # fmt: skip


def statements(lab: Lab, session: str) -> list[dict[str, Any]]:
    told: dict[int, dict[str, Any]] = {}
    for record in lab.proxyd.recording(session).records():
        if record.kind is Kind.STATEMENT:
            body = record.body
            if body["event"] == "statement":
                told[body["n"]] = dict(body)
            else:
                assert "result" not in told[body["n"]]
                told[body["n"]]["result"] = body
    return list(told.values())


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    with TemporaryDirectory(prefix="px-") as made:
        directory = Path(made)
        directory.chmod(0o711)
        with MariaDb(directory / "db") as db, Tap(db.port) as tap:
            lab = furnish(directory, db, tap)
            with lab.proxyd:
                yield lab
            assert "Traceback" not in lab.proxyd.log(), lab.proxyd.log()[-LOG_TAIL:]
            assert "a bug" not in lab.proxyd.log()


def furnish(directory: Path, db: MariaDb, tap: Tap) -> Lab:
    proxyd = Proxyd(directory / "daemon")
    front = Authority(directory / "front")
    lab = Lab(directory, db, proxyd, front, free_port(), tap)
    accounts = {}
    for name, password in ACCOUNTS.items():
        path = directory / f"{name}.password"
        path.write_text(password + "\n")
        path.chmod(0o600)
        accounts[name] = {"password": f"file:{path}"}
    (directory / "totp").write_text(TOTP_SECRET)
    (directory / "totp").chmod(0o600)
    settings = proxyd.settings
    settings["listen"]["mysql"] = {
        "address": f"{HOST}:{lab.port}", "certificate": str(front.certificate), "key": str(front.key),
        "client_ca": str(front.ca), "version": "10.11.6-MariaDB-proxyd",
    }  # fmt: skip
    settings["targets"] = {
        "db1": {"address": f"localhost:{db.port}", "protocol": "mysql", "tls_ca": str(db.authority.ca), "accounts": accounts},
        "untrusted": {"address": f"localhost:{db.port}", "protocol": "mysql", "tls_ca": str(front.ca), "accounts": accounts},
        "tapped": {"address": f"localhost:{tap.port}", "protocol": "mysql", "tls_ca": str(db.authority.ca), "accounts": accounts},
        "plain": {"address": f"localhost:{db.port}", "protocol": "mysql", "tls": "off", "accounts": accounts},
        "dead": {"address": f"localhost:{free_port()}", "protocol": "mysql", "accounts": accounts},
        "ruled": {"address": f"localhost:{db.port}", "protocol": "mysql", "tls_ca": str(db.authority.ca), "accounts": accounts},
    }  # fmt: skip
    settings["rules"] = [
        {"name": "no-drop", "action": "block", "kinds": ["drop"], "targets": ["ruled"], "severity": "high"},
        {"name": "secret-table", "action": "flag", "pattern": "payroll", "targets": ["ruled"]},
        {"name": "thrice", "action": "interrupt", "pattern": "stop me", "targets": ["ruled"], "after": 3},
    ]
    hashed = hash_password(PASSWORD)
    proxyd.user("alice", password=hashed)
    proxyd.user("nat", mysql_native=native_hash(PASSWORD))
    proxyd.user("edd", mariadb_ed25519=mariadb_ed25519(PASSWORD))
    proxyd.user("carol", password=hashed, totp=f"file:{directory}/totp")
    proxyd.user(
        "keyed", keys=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWxX8QcjvxVvPX6bVkLoNzrHHkdhIxIvAqGGdVGIQfQ k"]
    )
    proxyd.grant(accounts=["app", "edu", "weak"], channels=["exec"])
    proxyd.grant(users=["edd"], targets=["db1"], accounts=["app"], channels=["local-infile"])
    return lab


@pytest.fixture
def lab(standing: Lab) -> Iterator[Lab]:
    yield standing
    standing.proxyd.quiet(within_s=8)


def rows(connection: Any, text: str, parameters: Any = None) -> Any:
    cursor = connection.cursor()
    cursor.execute(text, parameters)
    return cursor.fetchall()


# ---------------------------------------------------------------------- logins


@pytest.mark.parametrize("user", ["alice", "nat", "edd"])
@pytest.mark.parametrize("client", ["mariadb", "pymysql", "connector"])
def test_logins_by_each_method(lab, user, client):
    """argon2 behind caching_sha2_password, mysql_native_password and ed25519, each with each client that has it."""
    name = f"{user}+app+db1"
    if client == "connector" and user == "edd":
        pytest.skip("mysql-connector-python has no client_ed25519")
    if client == "mariadb":
        done = lab.cli("select current_user(), 7", user=name)
        assert done.stdout == "app@%\t7\n", done.stderr
    else:
        connection = lab.connect(name) if client == "pymysql" else lab.connector(name)
        assert rows(connection, "select current_user(), 7") == (
            [("app@%", 7)] if client == "connector" else (("app@%", 7),)
        )
        connection.close()


@pytest.mark.parametrize("user", ["alice", "nat", "edd", "carol", "keyed", "nobody", "nobody2", "nobody3"])
def test_wrong_passwords_and_unknown_users_hear_the_same(lab, user):
    with pytest.raises(pymysql.err.OperationalError) as caught:
        lab.connect(f"{user}+app+db1", "wrong")
    assert caught.value.args == (1045, f"Access denied for user '{user}+app+db1' (using password: YES)")


def test_one_time_code_behind_the_password(lab):
    code = pyotp.TOTP(TOTP_SECRET).now()
    with pytest.raises(pymysql.err.OperationalError):
        lab.connect("carol+app+db1", PASSWORD)
    connection = lab.connect("carol+app+db1", PASSWORD + code)
    assert rows(connection, "select 1") == ((1,),)
    connection.close()
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        lab.connect("carol+app+db1", PASSWORD + code)  # used


def test_client_certificate_logs_in(lab):
    certificate, key = lab.front.client("keyed", lab.directory)
    tls = {"ca": str(lab.front.ca), "cert": str(certificate), "key": str(key)}
    connection = pymysql.connect(**lab.options("keyed+app+db1", "", ssl=tls))
    assert rows(connection, "select 1") == ((1,),)
    connection.close()
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        pymysql.connect(**lab.options("alice+app+db1", "", ssl=tls))


@pytest.mark.parametrize(("target", "account"), [("db1", "edu"), ("plain", "app"), ("plain", "edu")])
def test_logins_at_the_target(lab, target, account):
    connection = lab.connect(f"alice+{account}+{target}")
    assert rows(connection, "select current_user()") == ((f"{account}@%",),)
    connection.close()


def test_refusals_are_said(lab):
    def refused(user: str, **more: Any) -> tuple[int, str]:
        with pytest.raises(pymysql.err.MySQLError) as caught:
            lab.connect(user, **more)
        return caught.value.args

    assert refused("alice+app+nowhere") == (1045, "You may not reach nowhere as app; ask for a grant.")
    code, text = refused("alice+app+dead")
    assert code == 1429 and "dead refused the connection" in text
    code, text = refused("alice+app+untrusted")
    assert code == 1429 and "certificate" in text
    code, text = refused("alice+weak+db1", database="nope")
    assert code in (1044, 1049) and "nope" in text
    with pytest.raises(pymysql.err.OperationalError) as caught:
        pymysql.connect(**lab.options("alice+app+db1", ssl_disabled=True))
    assert caught.value.args[0] == 3159


# ---------------------------------------------------------------------- what passes, and what the tape says


def test_transactions_errors_and_outcomes(lab):
    before = lab.ids()
    connection = lab.connect(autocommit=False)
    cursor = connection.cursor()
    cursor.execute("create or replace table tx (id int primary key, v varchar(20)) engine=innodb")
    cursor.execute("insert into tx values (1, 'a'), (2, 'b')")
    with pytest.raises(pymysql.err.IntegrityError):
        cursor.execute("insert into tx values (1, 'again')")
    connection.rollback()
    assert rows(connection, "select count(*) from tx") == ((0,),)
    cursor.execute("insert into tx values (3, 'c')")
    connection.commit()
    cursor.execute("update tx set v = 'd'")
    connection.commit()
    connection.close()
    told = {one["text"]: one for one in lab.told(before)}
    assert all("result" in one for one in told.values())
    inserted = told["insert into tx values (1, 'a'), (2, 'b')"]["result"]
    assert (inserted["tag"], inserted["rows"], inserted["transaction"]) == ("OK 2", 2, "open")
    assert told["insert into tx values (1, 'again')"]["result"]["error"]["code"] == "1062 (23000)"
    assert told["select count(*) from tx"]["result"]["rows"] == 1
    assert told["COMMIT"]["result"]["transaction"] == "idle"


def test_prepared_statements_with_decoded_parameters(lab):
    before = lab.ids()
    connection = lab.connector()
    cursor = connection.cursor(prepared=True)
    for value in (42, -7):
        cursor.execute("select ?, ?, ?, cast(? as char), ?", (value, "héllo", None, 2.5, Decimal("1.25")))
        assert cursor.fetchall()[0][:3] == (value, "héllo", None)
    cursor.close()
    connection.close()
    runs = [one for one in lab.told(before) if one["how"] == "execute" and "cast" in one["text"]]
    assert [one["parameters"][0]["value"] for one in runs] == [42, -7]
    values = [one.get("value") for one in runs[0]["parameters"]]
    assert values[1] == "héllo" and values[2] is None and values[3] == 2.5 and values[4] == "1.25"
    assert runs[0]["result"]["tag"] == "ROWS 1"


def test_long_data_of_prepared_statements(lab):
    """COM_STMT_SEND_LONG_DATA: not answered, and told with the execution."""
    before = lab.ids()
    connection = lab.connector()
    cursor = connection.cursor(prepared=True)
    cursor.execute("select length(?), ?", (io.BytesIO(b"CANARYLONG" * 300_000), 5))
    assert cursor.fetchall() == [(3_000_000, 5)]
    cursor.close()
    connection.close()
    (run,) = [one for one in lab.told(before) if one["how"] == "execute"]
    assert run["parameters"][0] == {"kind": "long data", "size": 3_000_000}
    assert run["parameters"][1]["value"] == 5


def test_multi_statements_and_multi_results(lab):
    before = lab.ids()
    connection = lab.connect(client_flag=FLAG.MULTI_STATEMENTS)
    cursor = connection.cursor()
    cursor.execute(
        "create or replace table ms (a int); insert into ms values (1),(2),(3); select * from ms; select 9, 8"
    )
    seen = [cursor.fetchall()]
    while cursor.nextset():
        seen.append(cursor.fetchall())
    assert seen[2:] == [((1,), (2,), (3,)), ((9, 8),)]
    cursor.execute("create or replace procedure twice() begin select 1 union select 2; select 'x'; end")
    cursor.callproc("twice")
    assert cursor.fetchall() == ((1,), (2,))
    cursor.nextset()
    assert cursor.fetchall() == (("x",),)
    while cursor.nextset():
        pass
    connection.close()
    told = lab.told(before)
    many = next(one for one in told if "insert into ms" in one["text"])
    assert many["result"]["tag"] == "OK 0; OK 3; ROWS 3; ROWS 1"
    assert any(one["result"].get("tag") == "ROWS 2; ROWS 1; OK 0" for one in told)


def test_twenty_megabytes_both_ways(lab):
    before = lab.ids()
    connection = lab.connect(max_allowed_packet=200 << 20)
    got = rows(connection, "select repeat('a', 20000000), 'x' union all select repeat('b', 33554430), 'y' "
                           "union all select repeat('c', 16777211), 'z' union all select 'short', 'w'")  # fmt: skip
    assert [(len(a), b) for a, b in got] == [(20000000, "x"), (33554430, "y"), (16777211, "z"), (5, "w")]
    sent = "q" * 20_000_000
    assert rows(connection, f"select length('{sent}'), 'CANARYTAIL'")[0][0] == 20_000_000
    assert rows(connection, "select 1") == ((1,),)
    connection.close()
    told = lab.told(before)
    assert told[-3]["result"]["rows"] == 4
    long = told[-2]
    text = f"select length('{sent}'), 'CANARYTAIL'"
    assert long["truncated"] and long["length"] == len(text)
    assert long["sha256"] == hashlib.sha256(text.encode()).digest()
    assert long["text"].endswith("'), 'CANARYTAIL'")
    assert rss_bytes(lab.proxyd.pid) < 400 << 20


def test_cursors_fields_and_odd_commands(lab):
    connection = lab.connect()
    connection.ping()
    connection.select_db(DATABASE)
    connection.show_warnings()
    connection.close()
    before = lab.ids()
    done = lab.cli(
        "use bench\nstatus\nselect 5;", "--auto-rehash"
    )  # COM_FIELD_LIST, COM_STATISTICS, COM_INIT_DB
    assert done.stdout.endswith("5\n"), done.stderr
    assert any(one["text"].startswith("COM_INIT_DB bench") for one in lab.told(before))
    other = lab.connector()
    other.cmd_reset_connection()
    cursor = other.cursor()
    cursor.execute("select 3")
    assert cursor.fetchall() == [(3,)]
    with pytest.raises(mysql.connector.Error) as caught:
        other.cmd_change_user(username="alice", password="x")
    assert caught.value.errno == 1227
    other.close()


def test_local_infile_is_stripped_unless_granted(lab):
    file = lab.directory / "rows.csv"
    file.write_text("1,CANARYFILE\n2,CANARYFILE\n")
    load = f"load data local infile '{file}' into table li fields terminated by ','"
    refused = lab.connect(local_infile=True)
    rows(refused, "create or replace table li (a int, b varchar(20))")
    with pytest.raises(pymysql.err.MySQLError) as caught:
        rows(refused, load)
    assert caught.value.args[0] in (1148, 4166)
    refused.close()
    before = lab.ids()
    allowed = lab.connect("edd+app+db1", local_infile=True)
    rows(allowed, load)
    allowed.commit()
    assert rows(allowed, "select count(*) from li") == ((2,),)
    allowed.close()
    told = lab.told(before)
    assert next(one for one in told if one["text"] == load)["result"]["rows"] == 2
    assert b"CANARYFILE" not in lab.everything()


def test_no_row_is_recorded(lab):
    before = lab.ids()
    connection = lab.connect()
    rows(connection, "create or replace table can (id int, v text)")
    rows(connection, "insert into can select 1, unhex(hex(concat('CANARY', 'ROW', 1)))")
    connection.commit()
    assert rows(connection, "select v from can") == (("CANARYROW1",),)
    assert rows(connection, "select * from can where id = 1")[0][1] == "CANARYROW1"
    connection.close()
    told = lab.told(before)
    assert all("result" in one for one in told)
    assert b"CANARYROW" not in lab.everything()


def test_dump_is_equal(lab):
    lab.db.sql("create database if not exists dumped; use dumped; create or replace table t (id int primary key, v text, b blob);"
               "insert into t select seq, repeat(md5(seq), 20), unhex(sha2(seq, 512)) from seq_1_to_20000")  # fmt: skip
    options = ["--skip-comments", "--hex-blob", "dumped"]
    direct = subprocess.run([str(DUMP), "--no-defaults", f"--socket={lab.db.socket}", "-uroot", *options],
                            capture_output=True, timeout=60, check=True)  # fmt: skip
    proxied = subprocess.run([*lab.argv(DUMP), *options], capture_output=True, timeout=60, check=False)
    assert proxied.returncode == 0, proxied.stderr
    assert hashlib.sha256(proxied.stdout).digest() == hashlib.sha256(direct.stdout).digest()
    assert len(proxied.stdout) > 10_000_000


# ---------------------------------------------------------------------- block


@pytest.mark.mission("M3")
def test_block_refuses_each_statement_and_keeps_the_transaction(lab):
    before = lab.ids()
    connection = lab.connect(autocommit=False)
    rows(connection, "create or replace table bl (a int) engine=innodb")
    rows(connection, "insert into bl values (1)")
    session = lab.proxyd.the_live_session()["id"]
    answer = lab.proxyd.call("block", session=session)
    assert answer["settled"]
    for text in ("insert into bl values (2)", "commit"):
        with pytest.raises(pymysql.err.MySQLError) as caught:
            rows(connection, text)
        assert caught.value.args == (1227, REVOKED)
    with pytest.raises(ControlError, match="This mysql session has nothing to show a message on"):
        lab.proxyd.call("message", session=session, text="hello")
    assert lab.db.sql(f"select count(*) from {DATABASE}.bl") == "0\n"
    lab.proxyd.call("unblock", whom=session)
    assert rows(connection, "select * from bl") == ((1,),)
    connection.commit()
    connection.close()
    assert lab.db.sql(f"select count(*) from {DATABASE}.bl") == "1\n"
    told = lab.told(before)
    assert [one["text"] for one in told if one.get("refused") == REVOKED] == [
        "insert into bl values (2)",
        "commit",
    ]


@pytest.mark.mission("M3")
def test_block_does_not_wait_for_a_running_statement(lab):
    connection = lab.connect()
    session = lab.proxyd.the_live_session()["id"]
    got: list[Any] = []
    runner = threading.Thread(target=lambda: got.append(rows(connection, "select sleep(3), 'ran'")))
    runner.start()
    eventually("the statement runs", lambda: lab.db.running("sleep(3)") == 1)
    assert lab.proxyd.call("block", session=session)["settled"]
    assert runner.is_alive()
    runner.join()
    assert got == [((0, "ran"),)]
    with pytest.raises(pymysql.err.MySQLError, match=REVOKED):
        rows(connection, "select 1")
    connection.close()


@pytest.mark.mission("M3")
def test_block_meets_prepared_statements(lab):
    connection = lab.connector()
    cursor = connection.cursor(prepared=True)
    cursor.execute("select ? + 1", (1,))
    assert cursor.fetchall() == [(2,)]
    session = lab.proxyd.the_live_session()["id"]
    lab.proxyd.call("block", session=session)
    with pytest.raises(mysql.connector.Error) as caught:
        cursor.execute("select ? + 1", (2,))
    assert (caught.value.errno, caught.value.sqlstate) == (1227, "42000")
    lab.proxyd.call("unblock", whom=session)
    cursor.execute("select ? + 1", (3,))
    assert cursor.fetchall() == [(4,)]
    connection.close()


# ---------------------------------------------------------------------- cancelling


def test_kill_query_by_the_number_the_client_was_told(lab):
    """What Ctrl-C does: a second connection, KILL QUERY and the first one's number."""
    connection, other = lab.connect(), lab.connect()
    heard: list[Any] = []

    def run() -> None:
        with pytest.raises(pymysql.err.MySQLError) as caught:
            rows(connection, "select sleep(30), 'mark23'")
        heard.append(caught.value.args[0])

    runner = threading.Thread(target=run)
    runner.start()
    eventually("it runs", lambda: lab.db.running("mark23") == 1)
    rows(other, f"KILL QUERY {connection.thread_id()}")
    runner.join(25)  # and not what it would have slept
    assert heard == [1317]  # interrupted
    assert rows(connection, "select 1") == ((1,),)
    connection.close()
    stranger = lab.connect("nat+app+db1")
    with pytest.raises(pymysql.err.OperationalError) as caught:
        rows(stranger, f"KILL {other.thread_id()}")
    assert caught.value.args[0] == 1094  # no such thread
    assert rows(other, "select 2") == ((2,),)
    other.close()
    stranger.close()


# ---------------------------------------------------------------------- drop


def dropped_while(lab: Lab, text: str, *, ready: Any, fetch: bool = True) -> tuple[BaseException, float]:
    """Run `text` in a thread, drop once `ready()`; give what the client heard, and how long that took."""
    connection = lab.connect(max_allowed_packet=1 << 30)
    session = lab.proxyd.the_live_session()["id"]
    heard: list[tuple[BaseException, float]] = []

    def run() -> None:
        try:
            rows(connection, text)
        except (pymysql.err.MySQLError, OSError) as error:
            heard.append((error, time.monotonic()))

    runner = threading.Thread(target=run)
    runner.start()
    ready()
    began = time.monotonic()
    lab.proxyd.call("drop", session=session)
    runner.join(10)
    assert heard, "the client heard nothing"
    error, at = heard[0]
    assert lab.proxyd.ended(session)["reason"] == "dropped"
    return error, at - began


@pytest.mark.mission("M4")
def test_drop_mid_query_says_why_and_ends_it_on_the_target(lab):
    error, took = dropped_while(
        lab,
        "select sleep(60), 'mark17'",
        ready=lambda: eventually("it runs", lambda: lab.db.running("mark17") == 1),
    )
    assert error.args == (1927, "You have been disconnected")
    assert took < DROPPED_WITHIN_S
    eventually("nothing is left running", lambda: lab.db.running("mark17") == 0)


@pytest.mark.mission("M4")
def test_drop_between_rows(lab):
    text = "select seq, repeat('x', 1000) from seq_1_to_30000000"
    error, took = dropped_while(
        lab, text, ready=lambda: eventually("it runs", lambda: lab.db.running("seq_1_to_30000000") == 1)
    )
    assert error.args == (1927, "You have been disconnected")
    assert took < DROPPED_WITHIN_S
    eventually("nothing is left running", lambda: lab.db.running("seq_1_to_30000000") == 0)


@pytest.mark.mission("M4")
def test_drop_idle(lab):
    connection = lab.connect()
    session = lab.proxyd.the_live_session()["id"]
    lab.proxyd.call("drop", session=session)
    with pytest.raises(pymysql.err.OperationalError) as caught:
        rows(connection, "select 1")
    assert caught.value.args == (1927, "You have been disconnected")


@pytest.mark.mission("M4")
def test_drop_inside_a_row_that_nobody_reads(lab):
    """A client that stops reading in the middle of a 200 MB row: both sides are closed within a second."""
    connection = lab.connect(max_allowed_packet=1 << 30)
    session = lab.proxyd.the_live_session()["id"]
    connection._execute_command(3, "select repeat('x', 200000000)")  # COM_QUERY, and not one byte read
    memory = rss_bytes(lab.proxyd.pid)
    eventually("it is under way", lambda: lab.db.running("200000000") == 1)
    began = time.monotonic()
    lab.proxyd.call("drop", session=session)
    eventually("the session is over", lambda: not lab.proxyd.live(), within_s=DROPPED_WITHIN_S + 1)
    assert (
        time.monotonic() - began < DROPPED_WITHIN_S + 0.5
    )  # the control socket's own way and the seal are in it
    assert rss_bytes(lab.proxyd.pid) - memory < 32 << 20
    eventually("nothing is left running", lambda: lab.db.running("200000000") == 0)
    connection._force_close()


# ---------------------------------------------------------------------- the whole count


def trials(few: int, many: int) -> Any:
    return pytest.mark.parametrize(
        "count", [few, pytest.param(many, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
    )


@pytest.mark.mission("M3")
@trials(15, 1000)
def test_after_a_block_no_byte_passes(lab, count):
    """A client writes without pause; from the moment `block` has answered, nothing more crosses to the target."""
    connection = lab.connect("alice+app+tapped", autocommit=True)
    rows(connection, "create or replace table bt (a int auto_increment primary key, v text)")
    session = lab.proxyd.the_live_session()["id"]
    refused, stop = threading.Semaphore(0), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                rows(connection, f"insert into bt (v) values ('{'x' * (number * 977 % 5000)}')")
            except pymysql.err.MySQLError as error:
                assert error.args == (1227, REVOKED)
                refused.release()

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(count):
        passed = lab.tap.up
        eventually("the client writes", lambda passed=passed: lab.tap.up > passed + 1000)
        answer = lab.proxyd.call("block", session=session)
        crossed = lab.tap.up
        assert answer["settled"]
        while refused.acquire(blocking=False):  # refusals before the answer tell nothing
            pass
        for _ in range(3):
            assert refused.acquire(timeout=5)
        assert lab.tap.up == crossed
        lab.proxyd.call("unblock", whom=session)
    stop.set()
    writer.join(10)
    written = rows(connection, "select count(*), max(a) from bt")[0]
    assert written[0] == written[1]
    connection.close()


@pytest.mark.mission("M4")
@trials(12, 200)
def test_drops_close_both_sides_within_a_second(lab, count):
    texts = {
        "idle": "",
        "query": "select sleep(60), 'mark31'",
        "rows": "select seq, repeat('mark31', 50) from seq_1_to_30000000",
        "long row": "select repeat('mark31', 33000000)",
    }
    times = []
    for number in range(count):
        kind, text = list(texts.items())[number % len(texts)]
        connection = lab.connect(max_allowed_packet=1 << 30)
        session = lab.proxyd.the_live_session()["id"]
        if text:
            connection._execute_command(3, text)
            eventually("it runs", lambda: lab.db.running("mark31") == 1)
        began = time.monotonic()
        lab.proxyd.call("drop", session=session)
        times.append(time.monotonic() - began)  # returns when the session is gone
        assert not lab.proxyd.live(), kind
        connection._force_close()
    eventually("nothing is left running", lambda: lab.db.running("mark31") == 0)
    assert sorted(times)[int(len(times) * 0.99) - 1] < DROPPED_WITHIN_S, times


# ---------------------------------------------------------------------- rules


@pytest.mark.mission("M11")
def test_rules_block_flag_and_interrupt(lab):
    before = lab.ids()
    connection = lab.connect("alice+app+ruled")
    rows(connection, "create or replace table payroll (a int)")
    with pytest.raises(pymysql.err.MySQLError) as caught:
        rows(connection, "drop table payroll")
    assert caught.value.args == (1227, "The rule no-drop does not allow this.")
    assert rows(connection, "select count(*) from payroll") == ((0,),)
    for _ in range(2):
        rows(connection, "select 'stop me'")
    with pytest.raises(pymysql.err.MySQLError):
        rows(connection, "select 'stop me'")
    row = lab.proxyd.newest(before)
    assert row["reason"] == "dropped" and row["by"] == "rule thrice"
    found = [
        record.body["code"]
        for record in lab.proxyd.recording(row["id"]).records()
        if record.kind is Kind.FINDING
    ]
    assert found == ["rule-secret-table", "rule-no-drop", "rule-secret-table", *["rule-thrice"] * 3]
    prepared = lab.connector("alice+app+ruled")
    cursor = prepared.cursor(prepared=True)
    with pytest.raises(mysql.connector.Error) as refused:
        cursor.execute("drop table payroll")
    assert refused.value.errno == 1227
    prepared.close()
