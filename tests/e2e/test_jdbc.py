"""The JDBC drivers of PostgreSQL and MariaDB through proxyd, certificates checked on both legs: what passes, what is stopped.

The cases are a Java program (tests/peers/java/Jdbc.java); what each left on the tape is looked at here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.gate import REVOKED
from tests.e2e.databases import PASSWORD, PROGRAM_S, Rig, mariadb_rig, postgres_rig
from tests.peers import mariadb, postgres
from tests.peers.endpoint import HOST
from tests.peers.process import eventually

PROGRAM = Path(__file__).parents[1] / "peers" / "java" / "Jdbc.java"
CLASSES = "java-classes"  # beside the directories of the rigs
JARS = {
    "postgres": Path("/usr/share/java/postgresql.jar"),
    "mariadb": Path("/usr/share/java/mariadb-java-client.jar"),
}
NEEDED = {
    "java and its compiler (default-jdk-headless)": bool(shutil.which("java") and shutil.which("javac")),
    "libpostgresql-jdbc-java": JARS["postgres"].exists(),
    "libmariadb-java": JARS["mariadb"].exists(),
    "postgresql": postgres.INSTALLED,
    "mariadb-server": mariadb.INSTALLED,
}
MISSING = [name for name, there in NEEDED.items() if not there]
JVM = (
    "-Xmx768m",
    "-XX:+UseSerialGC",
)  # small; with the second compiler, without which TLS is four times slower
USERS = {"postgres": "alice+app+pg1", "mariadb": "alice+app+db1"}
PASSING = (
    "login", "prepared", "batch", "batch-error", "cursor", "errors", "types", "nulls", "results", "long-rows", "long-values",
    "blob", "keys", "savepoint", "metadata", "cancel", "timeout",
)  # fmt: skip
DROPPED_S = 1.0  # the promise of a drop
CLOCK_S = 0.5  # what the control socket and this machine add to it

pytestmark = [
    pytest.mark.mission("M14"),
    pytest.mark.skipif(bool(MISSING), reason=f"JDBC is NOT tested, not installed: {', '.join(MISSING)}"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def rigs(shared: Path) -> Iterator[dict[str, Any]]:
    """Both servers, each behind a proxyd; and the program, compiled once."""
    subprocess.run(["javac", "-encoding", "UTF-8", "-d", str(shared / CLASSES), str(PROGRAM)], timeout=PROGRAM_S, check=True)  # fmt: skip
    with postgres_rig(shared / "jdbc-postgres") as one, mariadb_rig(shared / "jdbc-mariadb") as other:
        yield {"postgres": one, "mariadb": other}


def argv(driver: str, rig: Rig, user: str, *cases: str, ca: Path | None = None) -> list[str]:
    """Give the command line of the program; the driver checks our certificate and its name."""
    ca = ca or rig.front.ca
    urls = {
        "postgres": f"jdbc:postgresql://{HOST}:{rig.port}/{postgres.DATABASE}?sslmode=verify-full&sslrootcert={ca}",
        "mariadb": f"jdbc:mariadb://localhost:{rig.port}/{mariadb.DATABASE}?useSsl=true&serverSslCert={ca}"
        "&useServerPrepStmts=true&allowMultiQueries=true",
    }
    return [
        "java",
        *JVM,
        "-cp",
        f"{JARS[driver]}:{rig.directory.parent / CLASSES}",
        "Jdbc",
        urls[driver],
        user,
        *cases,
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "JDBC_PASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}


def lines(driver: str, rig: Rig, *cases: str, user: str = "", ca: Path | None = None) -> dict[str, str]:
    """Run cases that need nobody; give what each says."""
    line = argv(driver, rig, user or USERS[driver], *cases, ca=ca)
    done = subprocess.run(
        line, env=environment(), capture_output=True, text=True, timeout=PROGRAM_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def passed(rigs: dict[str, Any]) -> dict[str, tuple[dict[str, str], list[dict[str, Any]]]]:
    """What every case says with each driver, and all they left on the tape: one run of the program for each."""
    found = {}
    for driver, rig in rigs.items():
        before = rig.proxyd.ids()
        said = lines(driver, rig, *PASSING)
        found[driver] = (said, rig.told_since(before))
    return found


@contextlib.contextmanager
def running(driver: str, rig: Rig, case: str) -> Iterator[subprocess.Popen[str]]:
    """Start a case that waits for somebody."""
    with subprocess.Popen(argv(driver, rig, USERS[driver], case), env=environment(), stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as program:  # fmt: skip
        try:
            yield program
            assert program.stdout is not None
            assert program.stdout.readline().strip() == f"{case} ok"
        finally:
            program.kill()


def heard(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def go_on(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    program.stdin.write("go on\n")
    program.stdin.flush()


# ------------------------------------------------------------------ what passes


@pytest.mark.parametrize("case", PASSING)
@pytest.mark.parametrize("driver", JARS)
def test_case(passed: dict[str, tuple[dict[str, str], Any]], driver: str, case: str) -> None:
    said, _ = passed[driver]
    assert said[case] == "ok"


@pytest.mark.parametrize("user", ["alice", "nat", "edd"])
def test_mariadb_driver_logs_in_by_each_method(rigs: dict[str, Any], user: str) -> None:
    """caching_sha2_password, mysql_native_password and ed25519."""
    said = lines("mariadb", rigs["mariadb"], "login", user=f"{user}+app+db1")
    assert said == {"login": "ok"}


@pytest.mark.parametrize("driver", JARS)
def test_drivers_check_who_we_are(rigs: dict[str, Any], driver: str) -> None:
    """The cases above prove TLS on the client's leg because this fails."""
    rig = rigs[driver]
    said = lines(driver, rig, "login", ca=rig.server.authority.ca)
    assert said["login"].startswith("failed: ") and ("PKIX" in said["login"] or "certif" in said["login"])


@pytest.mark.parametrize("driver", JARS)
def test_every_statement_is_on_the_tape_with_its_outcome(passed: dict[str, Any], driver: str) -> None:
    _, told = passed[driver]
    assert told and all("result" in one for one in told), [one for one in told if "result" not in one]
    switched = [one for one in told if "'switched'" in one["text"] and one["how"] == "execute"]
    assert [one["parameters"][0]["value"] for one in switched] == list(range(20))
    batched = [
        one for one in told if one["how"] == "execute" and one["text"].startswith("insert into batched")
    ]
    assert [(one["parameters"][0]["value"], one["parameters"][1]["value"]) for one in batched] == [
        (number, f"row {number}") for number in range(1000)
    ]  # fmt: skip
    assert {one["result"]["rows"] for one in batched} == {1}
    holes = [one["parameters"] for one in told if one["how"] == "execute" and one["text"].startswith("insert into holes")]  # fmt: skip
    assert [[value["kind"] for value in values] for values in holes[::2]] == [["null"] * 3] * 10


def test_fetch_size_leaves_portals_suspended(passed: dict[str, Any]) -> None:
    _, told = passed["postgres"]
    parts = [one for one in told if "generate_series(1, 1000)" in one["text"] and one["how"] == "execute"]
    rows = [one["result"].get("rows") for one in parts]
    assert parts[0]["result"]["outcome"] == "suspended" and rows[0] == 7
    assert sum(rows) == 1000 + 7, rows  # the first whole, the second left after one part


# ------------------------------------------------------------------ what is stopped


@pytest.mark.mission("M3")
@pytest.mark.parametrize("driver", JARS)
def test_block_is_an_error_of_each_statement_and_the_transaction_goes_on(
    rigs: dict[str, Any], driver: str
) -> None:
    rig: Rig = rigs[driver]
    before = rig.proxyd.ids()
    with running(driver, rig, "block") as program:
        assert heard(program) == "block me"
        session = rig.proxyd.the_live_session()["id"]
        assert rig.proxyd.call("block", session=session)["settled"]
        go_on(program)
        assert heard(program) == "unblock me"
        rig.proxyd.call("unblock", whom=session)
        go_on(program)
    told = rig.told_since(before)
    refused = [one["text"] for one in told if one.get("refused") == REVOKED]
    assert sum("99" in text for text in refused) == 3 and len(refused) == 6, refused
    assert all("result" in one for one in told if not one.get("refused"))


@pytest.mark.mission("M4")
@pytest.mark.parametrize("driver", JARS)
@pytest.mark.parametrize("case", ["drop-idle", "drop-running"])
def test_drop_is_told_to_the_driver(rigs: dict[str, Any], driver: str, case: str) -> None:
    rig = rigs[driver]
    with running(driver, rig, case) as program:
        assert heard(program) == "drop me"
        if case == "drop-running":
            eventually("it runs", lambda: rig.server.running("jdbc drop"))
        session = rig.proxyd.the_live_session()["id"]
        rig.proxyd.call("drop", session=session)
        if case == "drop-idle":
            go_on(program)
        eventually("the session is over", lambda: not rig.proxyd.live(), within_s=DROPPED_S + CLOCK_S)
    eventually("nothing runs on the target", lambda: not rig.server.running("jdbc drop"))
    assert rig.proxyd.ended(session)["reason"] == "dropped"
