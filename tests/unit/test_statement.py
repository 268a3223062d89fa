"""What a database session puts on the tape: statements redacted, outcomes matched, sizes bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.config import Target
from proxyd.recorder.record import Kind
from proxyd.statement import (
    HEAD_BYTES,
    KEPT_BYTES,
    LEAD_BYTES,
    MAX_PARAMETERS,
    MAX_VALUE,
    TAIL_BYTES,
    WITHHELD,
    Cutting,
    Failure,
    Parameter,
    Statements,
)

SECRET = "hunter2"


class NotedTape:
    """Stands in for a tape: keeps what it is given, and proves it can be packed."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def add(self, kind: Kind, body: dict[str, Any], channel: int = 0, weight: int = 0) -> None:
        assert kind is Kind.STATEMENT
        msgpack.packb(body)
        self.bodies.append(body)


def made(protocol: str = "postgres", **levels: Any) -> tuple[Statements, list[dict[str, Any]]]:
    tape = NotedTape()
    target = Target(address="127.0.0.1:5432", protocol=protocol, **levels)  # type: ignore[arg-type]
    session: Any = SimpleNamespace(tape=tape, protocol=protocol, permit=SimpleNamespace(target=target))
    ticks: Iterator[int] = count(0, 5000)
    return Statements(session, clock=lambda: next(ticks)), tape.bodies


def test_a_statement_and_its_outcome() -> None:
    statements, tape = made()
    n = statements.begin(
        b"SELECT $1",
        how="execute",
        parameters=[Parameter("int4", 5, 4), Parameter("null", None, 0)],
        name="s1",
    )
    statements.end(n, tag="SELECT 1", rows=1, transaction="idle")
    assert tape == [
        {"event": "statement", "n": 1, "how": "execute", "text": "SELECT $1", "name": "s1",
         "parameters": [{"kind": "int4", "size": 4, "value": 5}, {"kind": "null", "size": 0}]},
        {"event": "result", "n": 1, "us": 5, "tag": "SELECT 1", "rows": 1, "transaction": "idle"},
    ]  # fmt: skip


def test_overlapping_statements_keep_their_outcomes() -> None:
    statements, tape = made()
    first, second = (statements.begin(b"SELECT 1", how="simple") for _ in range(2))
    statements.end(second, outcome="aborted")
    statements.end(first, error=Failure("ERROR", "42P01", 'relation "x" does not exist'), rows=0)
    statements.end(first, tag="again")
    assert [body["n"] for body in tape] == [1, 2, 2, 1]
    assert tape[2]["outcome"] == "aborted"
    assert tape[3]["error"] == {
        "severity": "ERROR", "code": "42P01", "message": 'relation "x" does not exist'
    }  # fmt: skip
    assert tape[3]["rows"] == 0


def test_a_refused_statement_has_no_outcome() -> None:
    statements, tape = made()
    n = statements.refused(
        b"ALTER USER a PASSWORD 'hunter2'", how="simple", why="Session interaction revoked"
    )
    statements.end(n, tag="never")
    assert len(tape) == 1
    assert tape[0]["refused"] == "Session interaction revoked"
    assert SECRET not in str(tape)


def test_a_secret_takes_parameters_and_message_with_it() -> None:
    statements, tape = made()
    n = statements.begin(
        b"UPDATE u SET password = $1", how="execute", parameters=[Parameter("text", SECRET, 7)]
    )
    statements.end(n, error=Failure("ERROR", "22001", f"value too long: {SECRET}"))
    assert SECRET not in str(tape)
    assert tape[0]["redacted"] is True
    assert tape[0]["parameters"] == [{"kind": "text", "size": 7, "masked": True}]
    assert tape[1]["error"]["message"] == WITHHELD


def test_a_parameter_that_names_its_own_secret_is_masked() -> None:
    statements, tape = made()
    statements.begin(
        b"SELECT dblink_connect($1)",
        how="execute",
        parameters=[Parameter("text", '{"password": "hunter2"}', 23)],
    )
    assert SECRET not in str(tape)


def test_levels_of_text() -> None:
    text = b"SELECT * FROM t WHERE a = 'hunter2' AND b = 12345"
    masked, fingerprint, off = (made(statements=level) for level in ("literals-masked", "fingerprint", "off"))
    for statements, tape in (masked, fingerprint, off):
        n = statements.begin(text, how="simple", name="p_hunter9")
        statements.end(n, error=Failure("ERROR", "1", "bad value 'hunter2' here"))
        assert SECRET not in str(tape)
        assert "12345" not in str(tape)
    assert masked[1][0]["text"] == "SELECT * FROM t WHERE a = '***' AND b = ?"
    assert fingerprint[1][0]["text"] == "select * from t where a = ? and b = ?"
    assert len(fingerprint[1][0]["fingerprint"]) == 16
    assert off[1][0] == {"event": "statement", "n": 1, "how": "simple", "kind": "select", "length": len(text)}


def test_levels_of_parameters() -> None:
    parameters = [Parameter("text", "hunter2", 7), Parameter("int4", 5, 4), Parameter("null", None, 0)]
    statements, tape = made(parameters="types")
    statements.begin(b"x", how="execute", parameters=parameters)
    assert tape[0]["parameters"] == [{"kind": kind, "size": size} for kind, _, size in parameters]
    statements, tape = made(parameters="off")
    statements.begin(b"x", how="execute", parameters=parameters)
    assert "parameters" not in tape[0]
    statements, tape = made(parameters="hash")
    for _ in range(2):
        statements.begin(b"x", how="execute", parameters=parameters)
    other, elsewhere = made(parameters="hash")
    other.begin(b"x", how="execute", parameters=parameters)
    hashes = [body["parameters"][0]["hash"] for body in (*tape, *elsewhere)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert "hash" not in tape[0]["parameters"][2]


def test_caps_of_parameters() -> None:
    statements, tape = made()
    statements.begin(
        b"x", how="execute", parameters=[Parameter("text", "v" * 5000, 5000)] * (MAX_PARAMETERS + 3)
    )
    assert len(tape[0]["parameters"]) == MAX_PARAMETERS
    assert tape[0]["parameters_total"] == MAX_PARAMETERS + 3
    assert tape[0]["parameters"][0] == {
        "kind": "text", "size": 5000, "value": "v" * MAX_VALUE, "truncated": True
    }  # fmt: skip


def test_quoted_values_in_errors_are_masked_where_asked() -> None:
    statements, tape = made("mysql", mask_errors=True)
    n = statements.begin(b"INSERT INTO t VALUES (1)", how="simple")
    statements.end(n, error=Failure("", "1062", "Duplicate entry 'bob@x' for key 'a'"))
    assert tape[1]["error"]["message"] == "Duplicate entry '***'"


@pytest.mark.parametrize(
    ("encoding", "raw", "text"),
    [
        ("UTF8", "é".encode(), "é"),
        ("LATIN1", b"\xe9", "é"),
        ("SJIS", "表'".encode("shift_jis"), "表'"),
        ("utf-8", b"a\xffb", "a\\xffb"),
        ("rot13", b"ab\xff", "ab\\xff"),
    ],
)
def test_encodings(encoding: str, raw: bytes, text: str) -> None:
    statements, tape = made()
    statements.encoding = encoding
    statements.begin(raw, how="simple")
    assert tape[0]["text"] == text
    assert statements.encoding == encoding


# ---------------------------------------------------------------------- long statements


def pieces(text: bytes, size: int) -> Cutting:
    cutting = Cutting()
    for start in range(0, len(text), size):
        cutting.feed(memoryview(text)[start : start + size])
    return cutting


@given(length=st.integers(0, 3 * KEPT_BYTES), size=st.integers(1000, 2 * KEPT_BYTES))
def test_cutting_keeps_head_and_tail(length: int, size: int) -> None:
    text = (bytes(range(256)) * (length // 256 + 1))[:length]
    cutting = pieces(text, size)
    assert cutting.total == length
    assert cutting.sha256 == hashlib.sha256(text).digest()
    assert len(cutting.text) == min(length, KEPT_BYTES + LEAD_BYTES)
    assert cutting.text[:HEAD_BYTES] == text[:HEAD_BYTES]
    assert text.endswith(cutting.text[HEAD_BYTES:])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("length", [KEPT_BYTES + 1, KEPT_BYTES + LEAD_BYTES, 300_000])
def test_a_long_statement_is_cut(length: int, *, whole: bool) -> None:
    text = b"SELECT '" + b"x" * (length - 14) + b"' tail"
    statements, tape = made()
    if whole:
        statements.begin(text, how="simple")
    else:
        cutting = pieces(text, 8192)
        statements.begin(cutting.text, how="simple", total=cutting.total, sha256=cutting.sha256)
    (body,) = tape
    assert body["truncated"] is True
    assert body["length"] == len(text)
    assert body["cut_at"] == HEAD_BYTES
    assert body["text"].encode() == text[:HEAD_BYTES] + text[-TAIL_BYTES:]
    assert body["sha256"] == hashlib.sha256(text).digest()


def test_a_short_statement_is_whole() -> None:
    text = b"x" * KEPT_BYTES
    statements, tape = made()
    cutting = pieces(text, 999)
    statements.begin(cutting.text, how="simple", total=cutting.total, sha256=cutting.sha256)
    assert tape[0]["text"].encode() == text
    assert "truncated" not in tape[0]


FILLER = b"SELECT 1 /* " + b"x" * HEAD_BYTES + b" */ ;"


@pytest.mark.parametrize("level", ["full", "literals-masked", "fingerprint", "off"])
@pytest.mark.parametrize(
    "text",
    [
        FILLER + b" " * 40_000 + b"ALTER USER a PASSWORD 'hunter2'",  # in the tail
        FILLER + b" " * 40_000 + b"ALTER USER a PASSWORD 'hunter2'" + b" " * TAIL_BYTES,  # just before it
        b"ALTER USER a PASSWORD '" + b"x" * 90_000 + b"hunter2'",  # a literal over the cut
        b"ALTER USER a PASSWORD '"
        + b"x" * (HEAD_BYTES - 26)
        + b"hunter2"
        + b"x" * 90_000,  # at the head's end
        FILLER
        + b" " * 40_000
        + b"ALTER USER a PASSWORD '"
        + b"x" * (TAIL_BYTES - 9)
        + b"hunter2'",  # named ahead
    ],
)
def test_no_secret_survives_a_cut(text: bytes, level: str) -> None:
    statements, tape = made(statements=level)
    cutting = pieces(text, 4096)
    statements.begin(cutting.text, how="simple", total=cutting.total, sha256=cutting.sha256)
    assert SECRET not in str(tape)
    assert "sha256" not in tape[0]
    assert tape[0]["length"] == len(text)
