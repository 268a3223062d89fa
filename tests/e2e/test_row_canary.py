"""Rows on no tape: random schemas, data and statements over both protocols, and not one value of them is kept anywhere.

What is looked through: every record of every recording as it was packed, the files beside them, the daemon's log, its
metrics, and what proxyctl prints. What must be there instead: each statement, in order, with the outcome its driver saw.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import mysql.connector
import psycopg
import pymysql
import pytest
from pymysql.constants import CLIENT

from proxyd.access import hash_password
from proxyd.recorder.record import Kind, pack
from proxyd.verifiers import scram
from tests.e2e.canary_clients import large_objects, portals, tracked
from tests.e2e.canary_mysql import MySqlDriver, TextDriver
from tests.e2e.canary_postgres import PostgresDriver
from tests.e2e.canary_prepared import PreparedDriver
from tests.e2e.canary_style import STYLES, Log, Sent, Style
from tests.peers import mariadb, postgres
from tests.peers.canary import MARIADB, POSTGRES, Canaries, Found, Search
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.mariadb import Authority, MariaDb
from tests.peers.postgres import Postgres
from tests.peers.process import free_port

pytestmark = [pytest.mark.mission("M14", "M16"), pytest.mark.timeout(3600)]

PASSWORD = "AlicePw1"
SALT = "Vogelbauer "
SESSION = 400  # statements of one session at most
SHARES = {"open": 8, "masked": 4}  # of all statements; every other style has one
FEW, MANY = 300, 5000  # statements a protocol
PG_WAYS = {
    "row",
    "portal",
    "copied",
    "large object",
    "notice",
    "notify",
    "message_detail",
    "context",
    "variable",
    "column",
}
MY_WAYS = {"row", "binary row", "client's row", "warning", "loaded", "message", "column"}


@dataclass
class Rig:
    """A server, proxyd before it with a target for each style, and the canaries of the server."""

    proxyd: Proxyd
    front: Authority
    port: int
    canaries: Canaries
    directory: Path
    sent: dict[str, list[Sent]] = field(default_factory=dict)  # by session
    ways: Counter[str] = field(default_factory=Counter)

    def user(self, style: Style) -> str:
        return f"alice+app+{style.name}"

    def done(self, before: set[str], log: Log) -> str:
        """Wait for the one session since, and keep what its driver knows."""
        session = str(self.proxyd.newest(before)["id"])
        self.sent[session] = log.sent
        self.ways += log.ways
        return session


def daemon(directory: Path, protocol: str, target: dict[str, Any]) -> tuple[Proxyd, Authority, int]:
    """Give a proxyd that has `target` once for each style."""
    proxyd, front, port = Proxyd(directory / "proxyd"), Authority(directory / "front"), free_port()
    proxyd.settings["listen"][protocol] = {
        "address": f"{HOST}:{port}", "certificate": str(front.certificate), "key": str(front.key),
    }  # fmt: skip
    proxyd.settings["targets"] = {style.name: {**target, **style.settings} for style in STYLES}
    verifier = {"scram": scram(PASSWORD)} if protocol == "postgres" else {"password": hash_password(PASSWORD)}
    proxyd.user("alice", **verifier)
    proxyd.grant(channels=["exec", "local-infile"])
    return proxyd, front, port


def shares(count: int) -> Iterator[tuple[Style, int]]:
    """Deal `count` statements out to sessions of the styles."""
    whole = sum(SHARES.get(style.name, 1) for style in STYLES)
    for style in STYLES:
        left = -(-count * SHARES.get(style.name, 1) // whole)
        while left > 0:
            yield style, min(left, SESSION)
            left -= SESSION


# ------------------------------------------------------------------ what must be there, and what must not


def told(proxyd: Proxyd, session: str) -> list[dict[str, Any]]:
    """The statements of a recording, each with its `result`."""
    found: dict[int, dict[str, Any]] = {}
    for record in proxyd.recording(session).records():
        if record.kind is Kind.STATEMENT:
            body = dict(record.body)
            if body["event"] == "statement":
                found[body["n"]] = body
            else:
                assert "result" not in found[body["n"]], "a second outcome"
                found[body["n"]]["result"] = body
    return [found[n] for n in sorted(found)]


def compare(style: str, found: list[dict[str, Any]], sent: list[Sent]) -> None:
    """Each statement is there, once, in order, with the outcome the driver saw."""
    plain = style in ("open", "masked", "types", "hashes", "unbound")
    for one, wanted in zip(found, sent, strict=False):
        result = one.get("result")
        assert result is not None, f"no outcome: {one}"
        error = result.get("error") or {}
        assert one["how"] == wanted.how, (one, wanted)
        assert not plain or one["how"] == "function" or one["text"] == wanted.text, (one, wanted)
        assert error.get("code", "").split(" ")[0] == wanted.code, (one, wanted)
        assert result.get("outcome", "") == wanted.outcome, (one, wanted)
        assert wanted.code or result.get("rows") == wanted.rows, (one, wanted)
        assert style != "open" or error.get("message", "") == wanted.message, (one, wanted)
    assert len(found) == len(sent), (found[len(sent) :][:1], sent[len(found) :][:1])


def parts(rig: Rig, session: str) -> Iterator[tuple[str, bytes]]:
    """All that is kept and shown of a session, in the clear."""
    for record in rig.proxyd.recording(session).records():
        yield f"{session} record {record.seq}", pack(0, record.kind, record.channel, record.body)
    for argv in (["log", session], ["export", session]):
        shown = rig.proxyd.run_ctl(*argv)
        assert shown.code == 0, shown.err
        yield f"proxyctl {' '.join(argv)}", (shown.out + shown.err).encode()


def others(rig: Rig) -> Iterator[tuple[str, bytes]]:
    """What is kept beside the recordings: every file as it is, the log, the metrics."""
    yield "the log", rig.proxyd.logs().encode()
    yield "the metrics", repr(rig.proxyd.metrics()).encode()
    for path in rig.proxyd.home.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(rig.proxyd.home)), path.read_bytes()


def audit(rig: Rig) -> tuple[int, list[tuple[str, Found]]]:
    """Compare all sessions, and search all there is; gives the bytes searched and what was found."""
    search, size, found = Search(rig.canaries), 0, []
    rows = {row["id"]: row for row in rig.proxyd.sessions(limit=10_000)}
    for session, sent in rig.sent.items():
        compare(rows[session]["target"], told(rig.proxyd, session), sent)
    for name, data in (*(part for session in rig.sent for part in parts(rig, session)), *others(rig)):
        size += len(data)
        found += [(name, one) for one in search.find(data)]
    return size, found


def verdict(protocol: str, rig: Rig, ways: set[str]) -> None:
    """Print the count; require that nothing was found, and that by each of `ways` something could have been."""
    size, found = audit(rig)
    statements = sum(map(len, rig.sent.values()))
    outcomes = Counter(one.code or one.outcome or "ok" for sent in rig.sent.values() for one in sent)
    print(f"{protocol}: {statements} statements in {len(rig.sent)} sessions, all with their outcome {dict(outcomes.most_common())}; "
          f"{rig.canaries.issued} canaries in {size} bytes: {len(found)} found; they crossed as {dict(rig.ways.most_common())}")  # fmt: skip
    assert not found, found[:10]
    assert not ways - (+rig.ways).keys(), "some never crossed by ways they should have"


# ------------------------------------------------------------------ PostgreSQL


@pytest.fixture
def pg() -> Iterator[Rig]:
    if not postgres.INSTALLED:
        pytest.skip("Debian's postgresql is not installed")
    with TemporaryDirectory(prefix="px-") as made:
        directory = Path(made)
        directory.chmod(0o711)
        with Postgres(directory / "server") as server:
            server.psql(POSTGRES.replace("{salt}", SALT), postgres.DATABASE)
            target = server.target("app", directory=directory)
            proxyd, front, port = daemon(directory, "postgres", target)
            with proxyd:
                yield Rig(proxyd, front, port, Canaries(SALT), directory)


def pg_options(rig: Rig, style: Style) -> dict[str, Any]:
    return {"host": HOST, "port": rig.port, "user": rig.user(style), "password": PASSWORD}


def pg_session(rig: Rig, style: Style, count: int, draw: Random) -> None:
    """One session of random statements."""
    before = rig.proxyd.ids()
    files: dict[str, Any] = {
        "sslmode": "verify-full",
        "sslrootcert": str(rig.front.ca),
        "dbname": postgres.DATABASE,
    }
    with psycopg.connect(**pg_options(rig, style), **files, autocommit=True) as connection:
        driver = PostgresDriver(connection, rig.canaries, style, draw)
        driver.run(count)
    rig.done(before, driver.log)


def pg_others(rig: Rig, draw: Random) -> None:
    """What takes another client: portals, fastpath."""
    for style in STYLES[:2]:
        before, options = rig.proxyd.ids(), pg_options(rig, style)
        tls = ssl.create_default_context(cafile=str(rig.front.ca))
        asked = portals(rig.canaries, draw, {**options, "database": postgres.DATABASE, "ssl": tls})
        rig.done(before, asyncio.run(asked))
        before = rig.proxyd.ids()
        named = {f"PG{name.upper()}": str(value) for name, value in options.items()}
        files = {
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(rig.front.ca),
            "PGDATABASE": postgres.DATABASE,
        }
        rig.done(before, large_objects(rig.canaries, rig.directory, {**named, **files}))


@pytest.mark.parametrize(
    ("count", "seeds"), [(FEW, [1]), pytest.param(MANY, [2, 3, 4], marks=pytest.mark.slow)]
)
def test_postgres_rows_are_nowhere(pg: Rig, count: int, seeds: list[int]) -> None:
    for seed in seeds:
        draw = Random(seed)
        for style, part in shares(-(-count // len(seeds))):
            pg_session(pg, style, part, draw)
        pg_others(pg, draw)
    verdict("PostgreSQL", pg, PG_WAYS)


def test_a_value_that_is_kept_by_design_is_found(pg: Rig) -> None:
    """The search sees: a bound value and a text where levels keep them, and nothing of what is beside them."""
    before, canaries = pg.proxyd.ids(), pg.canaries
    files: dict[str, Any] = {
        "sslmode": "verify-full",
        "sslrootcert": str(pg.front.ca),
        "dbname": postgres.DATABASE,
    }
    bound, number, written, row = (canaries.issue() for _ in range(4))
    with psycopg.connect(**pg_options(pg, STYLES[0]), **files, autocommit=True) as connection:
        values = (canaries.word(bound), canaries.number(number))
        text = f"select %s::text, %s::bigint, '{canaries.word(written)}', cn_word({row})"
        assert connection.execute(text, values).fetchone() == (
            *values,
            canaries.word(written),
            canaries.word(row),
        )
    session = str(pg.proxyd.newest(before)["id"])
    found = Search(canaries).find_in(parts(pg, session))
    for where in (f"{session} record", f"proxyctl log {session}", f"proxyctl export {session}"):
        assert {one.key for name, one in found if name.startswith(where)} == {bound, number, written}
    assert not Search(canaries).find_in(others(pg))


# ------------------------------------------------------------------ MariaDB


@pytest.fixture
def my() -> Iterator[Rig]:
    if not mariadb.INSTALLED:
        pytest.skip("Debian's mariadb-server and mariadb-client are not installed")
    with TemporaryDirectory(prefix="px-") as made:
        directory = Path(made)
        directory.chmod(0o711)
        with MariaDb(directory / "server") as server:
            server.sql(f"use {mariadb.DATABASE}; set sql_mode = ''; " + MARIADB.replace("{salt}", SALT))
            secret = directory / "app.password"
            secret.write_text(mariadb.ACCOUNTS["app"])
            secret.chmod(0o600)
            target = {"address": f"localhost:{server.port}", "protocol": "mysql", "tls_ca": str(server.authority.ca),
                      "accounts": {"app": {"password": f"file:{secret}"}}}  # fmt: skip
            proxyd, front, port = daemon(directory, "mysql", target)
            with proxyd:
                yield Rig(proxyd, front, port, Canaries(SALT), directory)


NAMES = "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci'"  # clients say this by themselves at their login


def my_session(rig: Rig, style: Style, count: int, draw: Random) -> None:
    """One session of random statements."""
    before = rig.proxyd.ids()
    options: dict[str, Any] = {
        "host": "localhost",
        "port": rig.port,
        "user": rig.user(style),
        "password": PASSWORD,
        "database": mariadb.DATABASE,
    }
    more = (rig.canaries, style, draw, f"x{len(rig.sent)}", rig.directory)
    driver: MySqlDriver
    connection: Any
    if len(rig.sent) % 2:
        connection = mysql.connector.connect(**options, use_pure=True, ssl_ca=str(rig.front.ca), ssl_verify_identity=True,
                                             charset="utf8mb4", collation="utf8mb4_general_ci", autocommit=True)  # fmt: skip
        driver = PreparedDriver(connection, *more)
        driver.log.sent += [Sent("simple", NAMES, 0), Sent("simple", "SET @@session.autocommit = ON", 0)]
    else:
        connection = pymysql.connect(**options, ssl={"ca": str(rig.front.ca)}, autocommit=True, local_infile=True,
                                     client_flag=CLIENT.MULTI_STATEMENTS)  # fmt: skip
        driver = TextDriver(connection, *more)
        driver.log.sent.append(Sent("simple", "SET NAMES utf8mb4", 0))
    driver.run(count)
    connection.close()
    rig.done(before, driver.log)


@pytest.mark.parametrize(
    ("count", "seeds"), [(FEW, [1]), pytest.param(MANY, [2, 3, 4], marks=pytest.mark.slow)]
)
def test_mariadb_rows_are_nowhere(my: Rig, count: int, seeds: list[int]) -> None:
    for seed in seeds:
        draw = Random(seed)
        for style, part in shares(-(-count // len(seeds))):
            my_session(my, style, part, draw)
        for style in STYLES[:2]:
            before = my.proxyd.ids()
            argv = ["--no-defaults", "--protocol=TCP", "-hlocalhost", f"-P{my.port}", f"-u{my.user(style)}", f"-p{PASSWORD}",
                    f"--ssl-ca={my.front.ca}", "--ssl-verify-server-cert", f"-D{mariadb.DATABASE}"]  # fmt: skip
            my.done(before, tracked(my.canaries, argv))
    verdict("MariaDB", my, MY_WAYS)


def test_a_message_is_told_as_it_is_unless_it_is_masked(my: Rig) -> None:
    """The one place a row's value may come to, by requirement: what the target said went wrong."""
    keys = {}
    for style in STYLES[:2]:
        before, key = my.proxyd.ids(), my.canaries.issue()
        options: dict[str, Any] = {
            "host": "localhost",
            "port": my.port,
            "user": my.user(style),
            "password": PASSWORD,
            "database": mariadb.DATABASE,
        }
        with (
            pymysql.connect(**options, ssl={"ca": str(my.front.ca)}, autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"create table `{style.name}` (a varchar(64) primary key)")
            cursor.execute(f"insert into `{style.name}` values (cn_word({key}))")
            with pytest.raises(pymysql.err.IntegrityError, match=my.canaries.word(key)):
                cursor.execute(f"insert into `{style.name}` select * from `{style.name}`")
        keys[style.name] = key, str(my.proxyd.newest(before)["id"])
    search = Search(my.canaries)
    key, session = keys["open"]
    (failed,) = [one for one in told(my.proxyd, session) if one["result"].get("error")]
    assert my.canaries.word(key) in failed["result"]["error"]["message"]
    whole = b"".join(data for name, data in parts(my, session) if name.startswith(session))
    assert {one.key for one in search.find(whole)} == {key} and whole.count(
        my.canaries.word(key).encode()
    ) == 1
    assert not search.find_in(parts(my, keys["masked"][1]))
    assert not search.find_in(others(my))
