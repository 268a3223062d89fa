"""Rules on commands and statements: which one decides, what kinds SQL is of, and that nothing holds up the loop."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from proxyd import matcher, metrics
from proxyd.config import Rule, User
from proxyd.kinds import MAX_STATEMENTS, kinds, statements
from proxyd.policy import CACHED_CHARS, SEARCHED, UNCHECKED, Policy

ALICE = User(name="alice", roles=["dba"])


def rule(action: str, name: str = "r", **fields: Any) -> Rule:
    return Rule(name=name, action=action, **fields)  # type: ignore[arg-type]


def decided(rules: list[Rule], text: str, dialect: str = "postgres") -> str:
    """Judge as alice on db1; gives "action:rule", or nothing."""
    verdict = Policy(rules, ALICE, "db1", sql=dialect != "").judge(text, dialect)
    return f"{verdict.action}:{verdict.rule.name}" if verdict else ""


DROP = rule("block", "drop", kinds=["drop", "delete-without-where"])


# ---------------------------------------------------------------------- which rule decides


def test_the_first_match_decides() -> None:
    rules = [
        rule("allow", "tmp", pattern="drop table tmp_\\w+"),
        DROP,
        rule("flag", "look", pattern="from users"),
    ]
    assert decided(rules, "DROP TABLE tmp_1") == ""
    assert decided(rules, "drop table users") == "block:drop"
    assert decided(rules, "select * FROM users") == "flag:look"
    assert decided(rules, "select 1") == ""


def test_what_permits_describes_all_of_it() -> None:
    rules = [rule("allow", "tmp", pattern="drop table tmp_\\w+", kinds=["select"]), DROP]
    assert decided(rules, "DROP TABLE tmp_1; DROP TABLE users") == "block:drop"
    assert decided(rules, "DROP TABLE tmp_1, users") == "block:drop"
    assert decided(rules, "SELECT 1; DROP TABLE users") == "block:drop"
    assert decided(rules, "/* x */ DROP  TABLE\ntmp_1 -- y") == ""
    assert decided(rules, "WITH x AS (DELETE FROM t RETURNING a) SELECT * FROM x") == "block:drop"


def test_force_blocks_everything_else() -> None:
    rules = [rule("allow", "show", pattern="show .*"), rule("force", "reads", kinds=["select"])]
    assert decided(rules, "SELECT 1") == ""
    assert decided(rules, "show all") == ""
    assert decided(rules, "SELECT 1; SELECT 2") == ""
    assert decided(rules, "UPDATE t SET a = 1 WHERE b = 2") == "block:reads"
    assert decided(rules, "SELECT 1; DROP TABLE t") == "block:reads"
    assert decided(rules, "SELECT * INTO t FROM u") == "block:reads"
    assert decided(rules, "") == "block:reads"


@pytest.mark.parametrize(
    ("fields", "applies"),
    [
        ({}, True),
        ({"users": ["alice"]}, True),
        ({"users": ["al*"]}, True),
        ({"users": ["bob"]}, False),
        ({"roles": ["dba"]}, True),
        ({"users": ["bob"], "roles": ["dba"]}, True),
        ({"roles": ["auditor"]}, False),
        ({"targets": ["db?"]}, True),
        ({"targets": ["web"]}, False),
        ({"targets": ["db1"], "users": ["bob"]}, False),
    ],
)
def test_whom_a_rule_is_for(fields: dict[str, Any], *, applies: bool) -> None:
    policy = Policy([rule("block", pattern="x", **fields)], ALICE, "db1")
    assert policy.active is applies
    assert policy.decides is applies


def test_unknown_users_get_rules_for_all_only() -> None:
    rules = [rule("block", pattern="x"), rule("block", pattern="y", users=["*"])]
    policy = Policy(rules, None, "db1")
    assert policy.judge("x", "postgres") is not None
    assert policy.judge("y", "postgres") is None


def test_what_needs_to_wait() -> None:
    assert not Policy([rule("flag", pattern="x")], ALICE, "db1").decides
    assert Policy([rule("interrupt", pattern="x")], ALICE, "db1").decides
    assert Policy([rule("force", pattern="x")], ALICE, "db1").decides
    assert Policy([DROP], ALICE, "db1").parses
    assert not Policy([rule("block", pattern="x")], ALICE, "db1").parses
    assert not Policy([DROP], ALICE, "db1", sql=False).active


def test_shell_commands_know_patterns_only() -> None:
    rules = [rule("allow", "ls", pattern="ls( -l)?"), rule("block", "rm", pattern=r"\brm\b"), DROP]
    assert decided(rules, "ls -l", "") == ""
    assert decided(rules, "ls; rm -rf /", "") == "block:rm"
    assert decided(rules, "RM -rf /", "") == ""
    assert decided(rules, "drop table t", "") == ""


@pytest.mark.mission("M11")
def test_interrupt_ends_at_its_count() -> None:
    found: list[tuple[str, str, str]] = []
    session: Any = SimpleNamespace(finding=lambda *finding: found.append(finding))
    policy = Policy([rule("interrupt", "thrice", pattern="secret", after=3, severity="high")], ALICE, "db1")
    verdict = policy.judge("select * from secret_hunter2", "postgres")
    assert verdict is not None
    before = metrics.RULE_HITS.labels(rule="thrice", action="interrupt")._value.get()
    assert [policy.hit(session, verdict) for _ in range(3)] == [False, False, True]
    assert metrics.RULE_HITS.labels(rule="thrice", action="interrupt")._value.get() == before + 3
    assert [finding[:2] for finding in found] == [("rule-thrice", "high")] * 3
    assert "hunter2" not in str(found)


# ---------------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", {"select"}),
        ("DELETE FROM t", {"delete", "delete-without-where"}),
        ("DELETE FROM t WHERE true", {"delete", "delete-without-where"}),
        ("DELETE FROM t WHERE a = 1", {"delete"}),
        ("UPDATE t SET a = 1", {"update", "update-without-where"}),
        ("UPDATE t SET a = 1 WHERE b IN (SELECT 1)", {"update"}),
        ("EXPLAIN ANALYZE DELETE FROM t", {"delete", "delete-without-where", "other"}),
        ("EXPLAIN (ANALYZE, BUFFERS) DELETE FROM t WHERE a = 1", {"delete", "other"}),
        ("EXPLAIN DELETE FROM t", {"other"}),
        ("PREPARE p (int) AS DELETE FROM t WHERE a = $1", {"delete", "other"}),
        ("DO $$ BEGIN EXECUTE 'drop table t'; END $$", {"drop", "other", "unparsable"}),
        ("COPY (DELETE FROM t RETURNING a) TO STDOUT", {"copy", "delete", "delete-without-where"}),
        ("COPY t FROM STDIN", {"copy"}),
        ("CREATE USER bob PASSWORD 'x'", {"create", "user"}),
        ("ALTER ROLE bob SUPERUSER", {"alter", "user"}),
        ("CREATE USER MAPPING FOR x SERVER y", {"create"}),
        ("GRANT ALL ON t TO bob", {"grant"}),
        ("REVOKE ALL ON t FROM bob", {"revoke"}),
        ("TRUNCATE t", {"truncate"}),
        ("MERGE INTO a USING b ON a.i = b.i WHEN MATCHED THEN DELETE", {"merge"}),
        ("BEGIN", {"transaction"}),
        ("SAVEPOINT a", {"transaction"}),
        ("SET ROLE x", {"set"}),
        ("CALL f()", {"call"}),
        ("SELECT (((", {"select", "unparsable"}),
        ("hunter2 goes", {"other", "unparsable"}),
        ("VACUUM t", {"other"}),
        ("SELECT " + "(" * 3000 + "1" + ")" * 3000, {"select", "unparsable"}),
    ],
)
def test_kinds_in_postgres(text: str, expected: set[str]) -> None:
    assert kinds(text, "postgres") == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/*!50000 DROP TABLE t*/", {"drop"}),
        ("DROP/*M!100100 TABLE*/ t", {"drop"}),
        ("DROP/**/TABLE t # x", {"drop"}),
        ("REPLACE INTO t VALUES (1)", {"insert"}),
        ("SET PASSWORD = 'x'", {"set", "user"}),
        ("PREPARE s FROM 'drop table t'", {"drop", "other"}),
        ("PREPARE s FROM @x", {"other", "unparsable"}),
        ("EXECUTE IMMEDIATE 'drop table t'", {"drop", "other", "unparsable"}),
        ("DELETE FROM t WHERE 1", {"delete", "delete-without-where"}),
        ("DELETE FROM t LIMIT 1", {"delete", "delete-without-where"}),
        ("RENAME USER a TO b", {"alter", "user"}),
        ("SHOW TABLES", {"other"}),
    ],
)
def test_kinds_in_mysql(text: str, expected: set[str]) -> None:
    assert kinds(text, "mysql") == [expected]


def test_each_statement_has_its_kinds() -> None:
    assert kinds("BEGIN; SELECT ';' ; -- ;\nDROP TABLE t;;", "postgres") == [
        {"transaction"}, {"select"}, {"drop"}
    ]  # fmt: skip
    assert statements("a;/* ; */b ';' ;", "mysql") == ["a", "b ';'"]
    assert kinds("", "postgres") == []
    many = kinds("SELECT 1;" * (MAX_STATEMENTS + 1), "postgres")
    assert many[-1] == {"unparsable"}


@given(
    text=st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from([*"()'\";,*=", "select", "from", "delete", "with", "as", "$$", "1", "t", "where", "/*", "*/", "--",
                             "explain", "prepare", "do"]),
            max_size=25,
        ).map(" ".join),
    ),
    dialect=st.sampled_from(["postgres", "mysql"]),
)  # fmt: skip
def test_kinds_never_raise(text: str, dialect: str) -> None:
    known = {kind for one in kinds(text, dialect) for kind in one}
    assert all(kind.replace("-", "").isalpha() for kind in known)


# ---------------------------------------------------------------------- in the workers

CATASTROPHE = rule("block", "slow", pattern=r"(a+)+b")


async def test_the_worker_says_the_same() -> None:
    rules = [rule("allow", "tmp", pattern="drop table tmp_\\w+"), DROP]
    policy = Policy(rules, ALICE, "db1")
    for text in ("DROP TABLE tmp_1", "DROP TABLE t", "SELECT '\udce9'", "SELECT 1"):
        assert await policy.judge_in_thread(text, "postgres") == policy.judge(text, "postgres")
        assert await policy.judge_in_thread(text, "postgres") == policy.judge(text, "postgres")


async def test_no_rule_asks_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher.Workers, "ask", None)
    assert await Policy([], ALICE, "db1").judge_in_thread("x", "postgres") is None


async def test_short_texts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(_: object, question: matcher.Question) -> matcher.Reading:
        asked.append(question.text)
        return matcher.read(question)

    monkeypatch.setattr(matcher.Workers, "ask", ask)
    policy = Policy([DROP], ALICE, "db1")
    long = "SELECT '" + "x" * CACHED_CHARS + "'"
    for _ in range(2):
        await policy.judge_in_thread("DROP TABLE t", "postgres")
        await policy.judge_in_thread(long, "postgres")
    assert asked == ["DROP TABLE t", long, long]


@pytest.mark.timeout(60)
async def test_a_catastrophic_regex_blocks_its_text_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "DEADLINE_S", 0.3)
    policy = Policy([CATASTROPHE], ALICE, "db1")
    verdict = await policy.judge_in_thread("a" * 40, "")  # the regex alone takes hours
    assert verdict is not None
    assert (verdict.action, verdict.rule.name) == ("block", UNCHECKED)
    monkeypatch.setattr(matcher, "DEADLINE_S", 30.0)
    again = await policy.judge_in_thread("aab", "")
    assert again is not None
    assert again.rule.name == "slow"


@pytest.mark.timeout(60)
async def test_what_could_only_flag_passes_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "DEADLINE_S", 0.3)
    policy = Policy([rule("flag", pattern=r"(a+)+b")], ALICE, "db1")
    assert await policy.judge_in_thread("a" * 40, "") is None


@pytest.mark.timeout(60)
async def test_a_slow_text_holds_up_nothing_else_nor_does_a_drop_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matcher, "DEADLINE_S", 3600.0)  # not what ends it
    policy = Policy([CATASTROPHE], ALICE, "db1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(policy.judge_in_thread, "a" * 41, "")
        for _ in range(20):  # the loop goes on turning
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught


@pytest.mark.timeout(60)
def test_a_worker_nobody_kills_ends_by_itself() -> None:
    argv = [sys.executable, "-c", "from proxyd import matcher; matcher.DEADLINE_S = 0.1; matcher.main()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin
        matcher._send(
            worker.stdin, matcher.Question("a" * 40, "", (matcher.Pattern("(a+)+b", False),), False, False)
        )
        assert worker.wait(30) == -signal.SIGALRM


def test_a_cut_text_is_known_by_its_bytes() -> None:
    text = "SELECT '" + "\u8868" * 24_000 + "'"  # 72 KB that came in pieces are 24,000 characters
    assert decided([rule("block", "long", kinds=["unparsable"])], text) == "block:long"


def test_of_long_texts_the_middle_is_not_seen_and_said_so() -> None:
    text = "SELECT 1 /*" + "x" * SEARCHED + "*/; DROP TABLE t; -- " + "y" * SEARCHED
    assert decided([DROP], text) == ""
    assert decided([rule("block", "long", kinds=["unparsable"])], text) == "block:long"
    assert decided([rule("force", "reads", pattern="(?s)select.*", kinds=["select"])], text) == "block:reads"
    assert decided([rule("block", "end", pattern="y{9}$")], text) == "block:end"
