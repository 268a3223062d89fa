"""What people type: read as it is meant, found in texts as SQLite finds it, and whatever it is, an answer or a sentence."""

from __future__ import annotations

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxyd.search.query import LONGEST, MOST_TERMS, QueryError, parse


@pytest.mark.parametrize(
    ("typed", "expression"),
    [
        ("Drop table", '(("drop" AND "table"))'),
        ('"drop table" users', '(("drop table" AND "users"))'),
        ("/etc/passwd", '(("etc passwd"))'),
        ("10.0.0.1", '(("10 0 0 1"))'),
        ("rm -rf", '(("rm" AND "rf"))'),
        ("ps aux | grep ssh", '(("ps" AND "aux" AND "grep" AND "ssh"))'),
        ("pass*", '(("pass"*))'),
        ('"create use"*', '(("create use"*))'),
        ("rm NOT dry OR shred", '(("rm") NOT "dry") OR (("shred"))'),
        ("Übergröße", '(("ubergroße"))'),
        ("or not", '(("or" AND "not"))'),
        ("AND", '(("and"))'),
        ("{sql} : near(a b)", '(("sql" AND "near a" AND "b"))'),
    ],
)
def test_a_query_is_read_as_it_is_meant(typed: str, expression: str) -> None:
    assert parse(typed).expression() == expression


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", "nothing to search for"),
        ("  ***  | ", "nothing to search for"),
        ("a OR", "nothing to search for"),
        ("OR b", "nothing to search for"),
        ("NOT b", "nothing to search for"),
        ("a NOT", "stands before the word"),
        ('"drop table', "not closed"),
        ("a\0b", "control character"),
        ("a\x1b[2J", "control character"),
        ("a\udc80", "half of a character"),
        ("ex*", "at least 3"),
        ("x" * (LONGEST + 1), f"at most {LONGEST} characters"),
        ("ab " * (MOST_TERMS + 1), f"at most {MOST_TERMS} words"),
    ],
)
def test_what_cant_be_searched_for_is_told(typed: str, told: str) -> None:
    with pytest.raises(QueryError, match=told):
        parse(typed)


@pytest.mark.parametrize(
    ("typed", "text", "found"),
    [
        ("passwd", "cat /etc/passwd /etc/PASSWD-", ["passwd", "PASSWD"]),
        ('"etc passwd"', "cat /etc/passwd", ["etc/passwd"]),
        ("pass*", "passport, no compass", ["passport"]),
        ("ubergroße", "die Übergröße", ["Übergröße"]),
        ("cafe", "cafe\u0301 open", ["cafe\u0301"]),
        ('drop "drop table"', "DROP TABLE x", ["DROP TABLE"]),
        ("rm NOT dry", "rm x", ["rm"]),
        ("nowhere", "here", []),
    ],
)
def test_where_a_query_fits_is_shown(typed: str, text: str, found: list[str]) -> None:
    assert [text[span.begin : span.end] for span in parse(typed).spans(text)] == found


_HOSTILE = st.text(
    alphabet=st.one_of(
        st.sampled_from("\"*()^-+:{}[]|&\\'`%_.,;~#<>=!?/ \t\n\0\x1b"),
        st.sampled_from("abcORNOTANDNEAR"),
        st.characters(),
    ),
    max_size=80,
)


@given(typed=_HOSTILE)
@example(typed='a" OR words MATCH "b')
@example(typed="{commands} : x*")
@example(typed="NEAR(a b, 2) AND NOT c ^d + e")
@example(typed="a NOT b NOT c OR d")
@example(typed="\u0345\u0345")
@settings(max_examples=400, deadline=None)
def test_whatever_is_typed_sqlite_takes_what_comes_of_it(typed: str) -> None:
    try:
        query = parse(typed)
    except QueryError as error:
        assert str(error)
        return
    connection = apsw.Connection(":memory:")
    connection.execute(
        "CREATE VIRTUAL TABLE words USING fts5(text, tokenize='unicode61 remove_diacritics 2')"
    )
    connection.execute("INSERT INTO words VALUES (?)", (typed,))
    list(
        connection.execute(
            "SELECT rowid FROM words WHERE words MATCH ?", (f"{{text}} : ({query.expression()})",)
        )
    )
    query.spans(typed)
    connection.close()
