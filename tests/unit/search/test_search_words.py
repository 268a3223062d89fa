"""The search index: what is found, for whom, what a purge leaves, and what its file says to who has no key."""

# ruff: noqa: RUF001 - the marks around keys

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from proxyd.recorder.sidecar import Derived, Item
from proxyd.search.query import parse
from proxyd.search.texts import PIECE, Text, Texts
from proxyd.search.words import About, SearchError, SearchIndex, Wanted

KEY = b"0123456789abcdef0123456789abcdef"
NOON = 1_790_000_000.0


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchIndex]:
    with SearchIndex(tmp_path / "search.db", KEY) as index:
        yield index


def about(name: str, at: float = NOON, *, user: str = "alice", target: str = "db1") -> About:
    return About(name, "ssh", user, target, "root", at)


def add(index: SearchIndex, session: About, *texts: tuple[int, str, str]) -> None:
    assert index.begin(session)
    index.write(
        {session.id: [Text(n, at * 1_000_000, source, text) for n, (at, source, text) in enumerate(texts)]}
    )
    index.finish(session.id)


def hits(index: SearchIndex, typed: str, **wanted: object) -> list[tuple[str, int, float, str]]:
    found = index.search(parse(typed), Wanted(**wanted))  # type: ignore[arg-type]
    return [(hit.session.id, hit.number, hit.at - NOON, hit.source) for hit in found.hits]


def test_a_text_is_found_with_its_session_moment_and_source(index: SearchIndex) -> None:
    add(index, about("s1"), (3, "commands", "sudo rm -rf /var/lib"), (4, "screen", "removed /var/lib"))
    add(index, about("s2", NOON + 60), (5, "sql", "SELECT * FROM salaries"))
    assert hits(index, "rm -rf") == [("s1", 0, 3.0, "commands")]
    assert hits(index, "/var/lib") == [("s1", 0, 3.0, "commands"), ("s1", 1, 4.0, "screen")]
    assert hits(index, "SALARIES") == [("s2", 0, 65.0, "sql")]
    assert hits(index, "/var/lib", sources=["commands", "sql"]) == [("s1", 0, 3.0, "commands")]
    assert hits(index, "lib var") == [("s1", 0, 3.0, "commands"), ("s1", 1, 4.0, "screen")]
    assert hits(index, '"lib var"') == []
    assert hits(index, "sal*") == [("s2", 0, 65.0, "sql")]
    assert hits(index, "removed OR sudo NOT etc") == [("s1", 0, 3.0, "commands"), ("s1", 1, 4.0, "screen")]


def test_filters_leave_only_what_they_say(index: SearchIndex) -> None:
    for n, (user, target) in enumerate([("alice", "db1"), ("bob", "db1"), ("alice", "web"), ("bob", "web")]):
        add(
            index,
            about(f"s{n}", NOON + 60 * n, user=user, target=target),
            (0, "screen", "uptime"),
            (30, "screen", "uptime"),
        )
    assert {hit[0] for hit in hits(index, "uptime", user="bob")} == {"s1", "s3"}
    assert {hit[0] for hit in hits(index, "uptime", target="w*")} == {"s2", "s3"}
    assert {hit[0] for hit in hits(index, "uptime", user="bob", target="db?")} == {"s1"}
    assert hits(index, "uptime", protocol="rdp") == []
    assert [hit[2] for hit in hits(index, "uptime", since=NOON + 30, until=NOON + 120)] == [
        120.0,
        60.0,
        90.0,
        30.0,
    ]
    assert [hit[0] for hit in hits(index, "uptime", limit=3)] == ["s3", "s3", "s2"]
    assert [hit[2] for hit in hits(index, "uptime", each=1)] == [180.0, 120.0, 60.0, 0.0]


def test_more_is_said_only_when_there_is_more(index: SearchIndex) -> None:
    add(index, about("s1"), *((at, "screen", "uptime") for at in range(4)))
    query = parse("uptime")
    assert [index.search(query, Wanted(limit=limit)).more for limit in (3, 4, 5)] == [True, False, False]
    assert [index.search(query, Wanted(each=each)).more for each in (3, 4, 5)] == [True, False, False]
    index.compact()  # a search that ended early is in nobody's way


def test_who_may_not_see_a_session_gets_none_of_its_hits(index: SearchIndex) -> None:
    for n in range(300):
        add(index, about(f"s{n}", NOON + n), (0, "screen", "secret plan"))
    asked: list[str] = []

    def may_see(session: About) -> bool:
        asked.append(session.id)
        return session.id in {"s7", "s250"}

    found = index.search(parse("secret"), Wanted(), may_see)
    assert [hit.session.id for hit in found.hits] == ["s250", "s7"]
    assert not found.more
    assert index.search(parse("secret"), Wanted(), lambda _: False).hits == []
    assert len(asked) < 700  # each session is asked about, hardly any twice


def test_a_purged_session_has_no_hits_and_never_comes_back(index: SearchIndex, tmp_path: Path) -> None:
    add(index, about("s1"), *((at, "screen", f"xylophone{at} uptime") for at in range(50)))
    add(index, about("s2", NOON + 1), *((at, "screen", "uptime") for at in range(50)))
    index.forget("s1")
    index.forget("s1")
    index.forget("never heard of")
    assert hits(index, "xyloph*") == []
    assert {hit[0] for hit in hits(index, "uptime")} == {"s2"}
    assert not index.begin(about("s1"))
    index.write({"s1": [Text(0, 0, "screen", "xylophone")], "nobody": [Text(0, 0, "screen", "xylophone")]})
    assert not index.begin(about("never heard of"))
    assert index.traces_since() is not None
    index.compact()
    assert index.traces_since() is None
    assert hits(index, "xyloph*") == []
    assert len(hits(index, "uptime")) == 50
    index._writer.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, 'row')")
    left = {term for (term,) in index._writer.execute("SELECT term FROM vocabulary")}
    assert "uptime" in left
    assert not {term for term in left if term.startswith("xyloph")}


def test_a_session_begun_again_is_found_once(index: SearchIndex) -> None:
    add(index, about("s1"), (1, "screen", "first try"), (2, "screen", "second"))
    add(index, about("s1"), (1, "screen", "first try"))
    assert hits(index, "first") == [("s1", 0, 1.0, "screen")]
    assert hits(index, "second") == []


def test_sessions_of_the_same_second_are_two(index: SearchIndex) -> None:
    for n in range(20):
        add(index, about(f"s{n}", NOON), (n, "screen", "uptime"))
    assert sorted(hit[0] for hit in hits(index, "uptime")) == sorted(f"s{n}" for n in range(20))


def test_its_file_is_private_and_says_nothing_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    with SearchIndex(path, KEY) as index:
        add(index, about("s1", user="alice"), (0, "commands", "xylophone concert"))
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            data = file.read_bytes()
            assert not any(word in data for word in (b"xylophone", b"alice", b"sessions", b"SQLite"))
    with pytest.raises(SearchError, match="does not open with this key"):
        SearchIndex(path, b"another key of the same length..")
    with pytest.raises(apsw.NotADBError):
        apsw.Connection(str(path)).pragma("user_version")
    with SearchIndex(path, KEY + b"\n") as index:  # a file's line ending is no part of a key
        assert hits(index, "xylophone") == [("s1", 0, 0.0, "commands")]
    with pytest.raises(SearchError, match="fewer than 16"):
        SearchIndex(tmp_path / "other.db", b"short")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    with SearchIndex(path, KEY) as index:
        add(index, about("s1"), *((at, "screen", f"uptime {at}") for at in range(2000)))
    data = bytearray(path.read_bytes())
    for at in range(8192, len(data), 4096):
        data[at + 100] ^= 1
    path.write_bytes(data)
    with SearchIndex(path, KEY) as index, pytest.raises(SearchError, match=r"search\.db"):
        index.search(parse("uptime"), Wanted())


def test_two_processes_may_write_one_file(index: SearchIndex, tmp_path: Path) -> None:
    with SearchIndex(index.path, KEY) as other:
        add(other, about("s1"), (0, "screen", "one"))
        add(index, about("s2"), (0, "screen", "two"))
        assert hits(index, "one OR two") == hits(other, "one OR two")
        index.write({"s1": [Text(0, 0, "screen", "one"), Text(1, 5_000_000, "screen", "three")]})
        assert [hit[:3] for hit in hits(other, "one OR three")] == [("s1", 0, 0.0), ("s1", 1, 5.0)]
        assert index.states() == {"s1": 1, "s2": 1}


def test_texts_are_numbered_by_their_session_and_hostile_items_are_none() -> None:
    items = [
        Item(Derived.TYPED, 1, [False, "ls‹Enter›"]),
        Item(Derived.HEAT, 2, [1, 2]),
        Item(Derived.TEXT, 3, ["sql", "SELECT 1"]),
        Item(Derived.TEXT, 4, ["nonsense", "x"]),
        Item(Derived.TEXT, 4, ["sql", b"x"]),
        Item(Derived.TEXT, 4, "sql"),
        Item(Derived.TEXT, 4, None),
        Item(Derived.TYPED, 4, [False]),
        Item(Derived.TEXT, 4, ["screen", "  "]),
        Item(Derived.TEXT, 5, ["finding", "weak\nkey"]),
        Item(Derived.TYPED, 5, [False, "", 1]),
        Item(Derived.TYPED, 5, [False, "whoami", 1]),
        Item(Derived.TEXT, 6, ["screen", "one\n\ntwo"]),
    ]
    texts = Texts()
    found = [*texts.of(items[:2]), *texts.of(items[2:])]
    assert found == [
        Text(0, 1, "keys", "ls‹Enter›"),
        Text(1, 3, "sql", "SELECT 1"),
        Text(2, 5, "findings", "weak\nkey"),
        Text(3, 5, "keys", "whoami"),
        Text(4, 6, "screen", "one"),
        Text(5, 6, "screen", ""),
        Text(6, 6, "screen", "two"),
    ]


def test_a_long_text_is_cut_between_words() -> None:
    text = "word " * PIECE
    pieces = list(Texts().of([Item(Derived.TEXT, 0, ["sql", text])]))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.number for piece in pieces] == list(range(5)) or len(pieces) > 4
    assert all(len(piece.text) <= PIECE and piece.text.strip().startswith("word") for piece in pieces)
    assert [len(piece.text) for piece in Texts().of([Item(Derived.TEXT, 0, ["sql", "x" * (PIECE + 1)])])] == [
        PIECE,
        1,
    ]


def test_what_was_purged_is_given_back_to_the_file_system(index: SearchIndex) -> None:
    for name in ("s1", "s2"):
        add(index, about(name), *((at, "screen", f"{name} uptime {at * 7919:x}") for at in range(3000)))
    index.compact()
    before = index.path.stat().st_size
    index.forget("s1")
    index.compact()
    assert index.path.stat().st_size < before * 0.7
    assert len(hits(index, "uptime", limit=5000)) == 3000


def test_a_search_at_work_is_no_reason_to_wait_for_ever(index: SearchIndex) -> None:
    add(index, about("s1"), (0, "screen", "one"))
    index.forget("s1")
    index._writer.set_busy_timeout(1)
    with index._reader() as reader:
        cursor = reader.cursor().execute("SELECT * FROM sessions")
        index._writer.execute("INSERT INTO texts VALUES (1, 1, 1)")
        index.compact()
        cursor.close()
    assert index.traces_since() is not None  # it is tried again
    index.compact()
    assert index.traces_since() is None
