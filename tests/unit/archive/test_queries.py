"""Statements and their results come together, whatever order and shape their records have, and leave safely."""

from __future__ import annotations

import csv
import io
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.characters import UNSAFE, as_json, visible
from proxyd.errors import FormatError
from proxyd.recorder import queries
from proxyd.recorder.export import export
from proxyd.recorder.queries import Parameter, Queries, csv_lines, joined, json_lines
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.replay import Recording

FAILURE = {"severity": "ERROR", "code": "42P01", "message": 'relation "x" does not exist'}


def sent(n: int, text: str = "SELECT 1", **more) -> dict:
    return {"event": "statement", "n": n, "how": "simple", "text": text} | more


def answered(n: int, **more) -> dict:
    return {"event": "result", "n": n, "us": 400} | more


def records(*bodies) -> list[Record]:
    return [Record(seq, seq * 1000, Kind.STATEMENT, 0, body) for seq, body in enumerate(bodies, 1)]


def statuses(*bodies) -> list[tuple[int, str]]:
    return [(query.n, query.status) for query in joined(records(*bodies))]


# ---------------------------------------------------------------- joining


@pytest.mark.mission("M14")
def test_a_statement_has_its_parameters_and_what_became_of_it() -> None:
    (query,) = joined(
        records(
            sent(
                1, "UPDATE t SET a = $1", how="execute", parameters=[{"kind": "int4", "size": 4, "value": 7}]
            ),
            answered(1, tag="UPDATE 3", rows=3, transaction="open"),
        )
    )
    assert (query.text, query.how, query.at_us) == ("UPDATE t SET a = $1", "execute", 1000)
    assert query.parameters == (Parameter("int4", 4, 7),)
    assert query.result is not None
    assert (query.status, query.outcome) == ("ok", "UPDATE")
    assert (query.result.rows, query.result.us, query.result.transaction) == (3, 400, "open")


def test_pipelined_statements_come_in_the_order_they_were_sent() -> None:
    assert statuses(
        sent(1),
        sent(2),
        sent(3, refused="no"),
        answered(2, error=FAILURE),
        answered(1, tag="SELECT 1"),
        sent(4),
    ) == [(1, "ok"), (2, "error"), (3, "refused"), (4, "unanswered")]


@pytest.mark.parametrize(
    ("result", "status", "outcome"),
    [
        ({"tag": "INSERT 0 5", "rows": 5}, "ok", "INSERT"),
        ({"tag": "SELECT 0", "rows": 0}, "ok", "SELECT"),
        ({"tag": "CREATE TABLE"}, "ok", "CREATE TABLE"),
        ({"tag": "SELECT 12", "rows": 5}, "ok", "SELECT 12"),  # another number: not ours to take away
        ({"rows": 4}, "ok", "ok"),
        ({"outcome": "suspended", "rows": 50}, "suspended", "more rows to come"),
        ({"outcome": "aborted"}, "aborted", "skipped, a statement before it failed"),
        ({"outcome": "cut"}, "cut", "the session ended first"),
        ({"error": FAILURE}, "error", 'ERROR 42P01: relation "x" does not exist'),
        ({"error": {"severity": "", "code": "1146", "message": "gone"}}, "error", "ERROR 1146: gone"),
    ],
)
def test_outcomes_in_words(result: dict, status: str, outcome: str) -> None:
    (query,) = joined(records(sent(1), answered(1, **result)))
    assert (query.status, query.outcome) == (status, outcome)


def test_what_is_missing_is_not_guessed() -> None:
    first, second = joined(records(answered(7, tag="SELECT 1"), sent(8)))
    assert (first.n, first.text, first.status) == (7, "", "ok")
    assert (second.n, second.status, second.outcome) == (8, "unanswered", "no answer")
    assert statuses(sent(1), sent(1), answered(1)) == [(1, "unanswered"), (1, "ok")]


def test_answers_that_never_come_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "WAITING", 3)
    bodies = [sent(n) for n in range(1, 11)]
    asked = Queries()
    for record in records(*bodies):
        asked.take(record)
    assert [query.n for query in asked.unanswered()] == [8, 9, 10]
    assert statuses(*bodies, answered(10)) == [*((n, "unanswered") for n in range(1, 10)), (10, "ok")]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(max_size=4), one, max_size=4),
    max_leaves=8,
)
NAMES = (
    "event", "n", "how", "text", "parameters", "result", "us", "tag", "rows", "error", "transaction", "outcome", "refused",
    "truncated", "cut_at", "length", "sha256", "name", "kind", "fingerprint", "parameters_total",
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), JUNK, max_size=8) | JUNK, max_size=6))
def test_records_of_any_shape_are_taken(bodies: list) -> None:
    for body in bodies:
        if isinstance(body, dict) and body.get("event") != "result":
            body["event"] = "statement"
    made = list(joined(records(*bodies)))
    for line in json_lines(made, "s1", 0.0):
        assert json.loads(line)["session"] == "s1"
    assert len(list(csv_lines(made, "s1", 0.0))) == len(made) + 1


# ---------------------------------------------------------------- what is kept of a text


def shown(**body) -> str:
    (query,) = joined(records({"event": "statement", "n": 1} | body))
    return query.shown


def test_what_is_not_there_is_said_where_it_is_missing() -> None:
    assert shown(text="SELECT 1") == "SELECT 1"
    assert shown(kind="insert", length=1234) == "insert [1,234 bytes, not recorded]"
    assert (
        shown(text="INSERTend", truncated=True, cut_at=6, length=9000)
        == "INSERT [... cut, 9,000 bytes in all ...] end"
    )
    assert shown(text="INSERT", truncated=True, length=9000) == "INSERT [... cut, 9,000 bytes in all ...]"
    (cut,) = joined(records(sent(1, truncated=True, sha256=b"\xab" * 32, length=9000)))
    assert cut.document()["sha256"] == "ab" * 32


# ---------------------------------------------------------------- files

HOSTILE = "SELECT '\x1b]52;c;QQ==\x07\x1b[2J\x00\x9b31m\u202e\u2066\u061c\ufeff', E'\\n'\r\n-- ☃ 日本語"


@pytest.mark.mission("M14")
def test_json_lines_are_exact_and_harmless() -> None:
    parameters = [
        {"kind": "text", "size": 3, "value": "\x1b[H"},
        {"kind": "float8", "size": 8, "value": float("nan")},
        {"kind": "int8", "size": 8, "value": 2**63 - 1},
        {"kind": "null", "size": 0},
        {"kind": "bytea", "size": 9, "hash": "ab12"},
    ]
    body = sent(1, HOSTILE, parameters=parameters)
    (line,) = json_lines(joined(records(body, answered(1, error=FAILURE))), "s1", 1_700_000_000.25)
    assert not UNSAFE.search(line.removesuffix("\n"))
    assert "☃ 日本語" in line
    document = json.loads(line)
    assert document["statement"] == HOSTILE
    assert document["parameters"] == [
        {"kind": "text", "size": 3, "value": "\x1b[H"},
        {"kind": "float8", "size": 8, "value": "nan"},
        {"kind": "int8", "size": 8, "value": 2**63 - 1},
        {"kind": "null", "size": 0},
        {"kind": "bytea", "size": 9, "hash": "ab12"},
    ]
    assert document["at"] == "2023-11-14T22:13:20.251000Z"
    assert (document["error"], document["status"], document["us"], document["rows"]) == (
        FAILURE,
        "error",
        400,
        None,
    )
    assert "truncated" not in document


def cells_of(text: str, **result) -> dict[str, str]:
    made = joined(records(sent(1, text), answered(1, **result)))
    (row,) = csv.DictReader(io.StringIO("".join(csv_lines(made, "s1", 0.0)), newline=""))
    return row


@pytest.mark.mission("M14")
@pytest.mark.parametrize(
    "begin", ["=", "+", "-", "@", "-- x\n", " =", "\u00a0=", "\uff1d", "\uff20", "\t=", "\r="]
)
def test_no_cell_is_a_formula(begin: str) -> None:
    text = f"{begin}cmd|' /C calc'!A0"
    row = cells_of(text, error={"severity": "ERROR", "code": "+1", "message": text})
    for name in ("statement", "error_message", "error_code"):
        assert not row[name].lstrip().startswith(("=", "+", "-", "@", "\uff1d", "\uff20", "\t", "\r"))
    assert row["statement"].removeprefix("'") == visible(text)


@given(
    st.text(
        alphabet=st.characters(codec="utf-8") | st.sampled_from(string.punctuation + "\r\n\t\x00\x1b\u202e")
    )
)
def test_a_row_is_a_row_whatever_is_in_it(text: str) -> None:
    made = list(joined(records(sent(1, text), answered(1, tag=text))))
    lines = list(csv_lines(made, "s1", 0.0))
    assert len(lines) == 2
    assert not UNSAFE.search(lines[1].removesuffix("\r\n"))
    heading, row = csv.reader(io.StringIO("".join(lines), newline=""))
    cell = dict(zip(heading, row, strict=True))["statement"]
    assert cell in (visible(text), f"'{visible(text)}")
    (line,) = json_lines(made, "s1", 0.0)
    assert json.loads(line)["statement"] == text


def test_escapes_hide_nothing() -> None:
    assert visible("a\x1b[31m\n\t\x00\u202e\x9b☃\\n") == r"a\x1b[31m\n\t\x00\u202e\x9b☃\n"
    assert json.loads(as_json({"a": "\x7f\u2028"})) == {"a": "\x7f\u2028"}


def recording(press, protocol: str, *bodies) -> Recording:
    items = [(seq * 1000, Kind.STATEMENT, 0, body) for seq, body in enumerate(bodies, 1)]
    return Recording.open(press.segments(items, meta={"protocol": protocol}), press.identity)


@pytest.mark.mission("M14")
@pytest.mark.parametrize("protocol", ["postgres", "mysql"])
def test_a_database_sessions_export_is_its_statements(press, protocol: str) -> None:
    session = recording(press, protocol, sent(1), answered(1, tag="SELECT 1", rows=1))
    lines = [json.loads(line) for line in export(session)]
    assert [(line["n"], line["status"], line["rows"], line["session"]) for line in lines] == [
        (1, "ok", 1, "c0ffee")
    ]
    assert lines[0]["at"] == "2023-11-14T22:13:20.001000Z"
    heading, row = csv.reader(io.StringIO("".join(export(session, "csv")), newline=""))
    assert dict(zip(heading, row, strict=True))["duration_us"] == "400"
    for form in ("asciicast", "asciicast2"):
        with pytest.raises(FormatError, match=f"a {protocol} session has statements and no screen"):
            export(session, form)


def test_csv_is_of_statements_only(press) -> None:
    with pytest.raises(FormatError, match="csv is a table of statements, and this is a session of ssh"):
        export(recording(press, "ssh"), "csv")
