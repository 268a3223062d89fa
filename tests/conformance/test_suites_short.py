"""The programs that run others' suites: what they count, what they read, and a few tests of `mysql-test` in earnest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.comparison import Comparison, Result, Results, Verdict, compare
from tests.conformance.mariadb_server import DRIVER
from tests.conformance.mariadb_suite import read as read_mariadb
from tests.conformance.psycopg_suite import read as read_psycopg
from tests.peers.mariadb import INSTALLED

GOOD, BAD, LEFT_OUT = Result(Verdict.PASSED), Result(Verdict.FAILED, "why"), Result(Verdict.SKIPPED)
SHORT = [
    "alias",
    "bigint",
    "ctype_errors",
    "multi_statement",
    "mysql_protocols",
    "mysqldump-nl",
    "prepare",
    "ps_1general",
]
"""Each of another kind: texts, numbers, errors, several statements at once, the client, the dump, prepared statements."""
DRIVER_SAID = """
main.alias                               [ pass ]     47
main.func_json 'innodb,latin1'           [ pass ]     12
main.func_json 'innodb,utf8'             [ fail ]
        Test ended at 2026-11-22 00:47:29

--- a/main/func_json.result
+++ a/main/func_json.reject
@@ -1,4 +1,5 @@
-good
+bad
main.lock_sync                           [ skipped ]  debug_sync is not available
"""
PYTEST_SAID = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.types.test_a.TestB" name="test_c[1-x::y]" file="tests/types/test_a.py" time="1"/>
<testcase classname="tests.test_d" name="test_e" file="tests/test_d.py"><failure message="E1&#10;more">long</failure></testcase>
<testcase classname="tests.test_d" name="test_f" file="tests/test_d.py"><skipped message="no"/></testcase>
</testsuite></testsuites>"""


def test_only_what_passes_directly_counts() -> None:
    direct = {"a": GOOD, "b": GOOD, "c": BAD, "d": LEFT_OUT}
    found = Comparison("s", direct, {"a": GOOD, "b": BAD, "c": GOOD}, {"b": "as designed"})
    assert (found.counted, found.differing, found.share, found.holds) == (["a", "b"], ["b"], 0.5, False)
    assert "as designed" in found.table()
    assert json.loads(found.as_json())["differing"] == [
        {"test": "b", "error": "why", "reason": "as designed"}
    ]


def test_one_of_two_hundred_may_differ_and_none_may_be_lost() -> None:
    direct = {f"t{number}": GOOD for number in range(200)}
    assert Comparison("s", direct, {**direct, "t1": BAD}, {}).holds
    assert not Comparison("s", direct, {**direct, "t1": BAD, "t2": BAD}, {}).holds
    assert not Comparison("s", direct, {}, {}).holds
    assert not Comparison("s", {}, {}, {}).holds


def test_what_differs_once_is_run_again_on_both_legs() -> None:
    asked: list[tuple[str, list[str]]] = []

    def leg(name: str, verdicts: list[Results]) -> object:
        def run(only: object) -> Results:
            asked.append((name, list(only)))  # type: ignore[call-overload]
            return verdicts.pop(0)

        return run

    found = compare(
        "s",
        leg("direct", [{"a": GOOD, "b": GOOD, "c": BAD}, {"b": GOOD}]),  # type: ignore[arg-type]
        leg("proxied", [{"a": GOOD, "b": BAD}, {"b": GOOD}]),  # type: ignore[arg-type]
        {},
    )
    assert asked == [("direct", []), ("proxied", ["a", "b"]), ("direct", ["b"]), ("proxied", ["b"])]
    assert found.holds and not found.differing


def test_reads_what_mariadb_test_run_prints() -> None:
    assert read_mariadb(DRIVER_SAID) == {
        "alias": GOOD, "func_json": Result(Verdict.FAILED, "-good | +bad"), "lock_sync": LEFT_OUT,
    }  # fmt: skip


def test_reads_what_pytest_reports(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text(PYTEST_SAID)
    assert read_psycopg(tmp_path / "r.xml") == {
        "tests/types/test_a.py::TestB::test_c[1-x::y]": GOOD,
        "tests/test_d.py::test_e": Result(Verdict.FAILED, "E1"),
        "tests/test_d.py::test_f": Result(Verdict.SKIPPED, "no"),
    }
    assert read_psycopg(tmp_path / "none.xml") == {}


@pytest.mark.mission("M14")
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not (INSTALLED and DRIVER.exists()), reason="Debian's mariadb-test is not installed")
def test_a_few_tests_of_mysql_test_pass_through_proxyd() -> None:
    argv = [sys.executable, "-m", "tests.conformance.mariadb_suite", "--json", *SHORT]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=500, check=False)
    found = json.loads(done.stdout)
    assert (done.returncode, found["differing"]) == (0, []), done.stderr
    assert found["passed_proxied"] >= len(SHORT) - 1
