"""What the daemon derives on its way to the index: gathered, bounded, written once, and never in a session's way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from proxyd.recorder.sidecar import Derived, Item
from proxyd.search import feed as feed_module
from proxyd.search.feed import Feed
from proxyd.search.query import parse
from proxyd.search.texts import Text
from proxyd.search.words import LIVE, WHOLE, About, SearchError, SearchIndex, Wanted

WAIT_S = 60.0


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchIndex]:
    with SearchIndex(tmp_path / "search.db", b"0123456789abcdef") as index:
        yield index


@asynccontextmanager
async def running(feed: Feed) -> Any:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        yield nursery
        nursery.cancel_scope.cancel()


def about(name: str) -> About:
    return About(name, "postgres", "alice", "pg1", "app", 1_795_000_000.0)


def sql(*texts: str) -> list[Item]:
    return [Item(Derived.TEXT, at, ["sql", text]) for at, text in enumerate(texts)]


def numbers(index: SearchIndex, typed: str) -> list[tuple[str, int]]:
    return [(hit.session.id, hit.number) for hit in index.search(parse(typed), Wanted()).hits]


async def until(what: Any) -> None:
    with trio.fail_after(WAIT_S):
        while not what():
            await trio.sleep(0.02)


async def test_texts_are_found_while_the_session_lives_and_whole_when_it_ended(index: SearchIndex) -> None:
    feed = Feed(index)
    async with running(feed):
        place = feed.begin(about("s1"))
        await place.add(sql("one", "two"))
        await until(lambda: numbers(index, "one") == [("s1", 0)])
        assert index.states() == {"s1": LIVE}
        await place.add(sql("three"))
        place.end(whole=True)
        await until(lambda: index.states() == {"s1": WHOLE})
        assert numbers(index, "two OR three") == [("s1", 1), ("s1", 2)]


async def test_what_waits_at_a_stop_is_written(index: SearchIndex) -> None:
    feed = Feed(index)
    async with running(feed):
        await feed.begin(about("s1")).add(sql("last words"))
    assert numbers(index, "last") == [("s1", 0)]


async def test_a_session_read_anew_is_there_once(index: SearchIndex) -> None:
    feed = Feed(index)
    async with running(feed):
        place = feed.begin(about("s1"))
        await place.add(sql("one", "two"))
        await until(lambda: numbers(index, "two"))
        place.end(whole=False)
        place = feed.begin(about("s1"))
        await place.add(sql("one"))
        place.end(whole=True)
        await until(lambda: index.states() == {"s1": WHOLE})
        assert numbers(index, "one OR two") == [("s1", 0)]


async def test_a_session_given_up_is_not_whole(index: SearchIndex) -> None:
    feed = Feed(index)
    async with running(feed):
        place = feed.begin(about("s1"))
        await place.add(sql("one"))
        place.end(whole=False)
        await until(lambda: numbers(index, "one"))
    assert index.states() == {"s1": LIVE}


async def test_sources_nobody_wants_are_not_written(index: SearchIndex) -> None:
    feed = Feed(index, ["sql"])
    async with running(feed):
        place = feed.begin(about("s1"))
        await place.add([Item(Derived.TYPED, 1, [False, "hunter2"]), *sql("one")])
        await until(lambda: numbers(index, "one") == [("s1", 1)])
        assert numbers(index, "hunter2") == []


async def test_who_feeds_waits_and_a_purged_session_is_dropped(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "WAITING", 100)
    feed = Feed(index)
    index.forget("gone")
    gone, kept = feed.begin(about("gone")), feed.begin(about("kept"))
    waited = trio.Event()

    async def flood() -> None:
        for number in range(50):
            await gone.add(sql(f"flood {number}" * 5))
            await kept.add(sql(f"drop {number}" * 5))
        gone.end(whole=True)
        kept.end(whole=True)
        waited.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        assert not waited.is_set()  # nobody writes yet
        assert sum(len(text.text) for place in (gone, kept) for text in place.waiting) < 300
        nursery.start_soon(feed.run)
        with trio.fail_after(WAIT_S):
            await waited.wait()
        await until(lambda: index.states().get("kept") == WHOLE)
        nursery.cancel_scope.cancel()
    assert len(numbers(index, "drop*")) == 50
    assert numbers(index, "flood*") == []


async def test_a_session_has_its_share_and_no_more(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "MOST", 20)
    feed = Feed(index)
    async with running(feed):
        place = feed.begin(about("s1"))
        await place.add(sql("1234567 one", "1234567 two", "three"))
        place.end(whole=True)
        await until(lambda: numbers(index, "one"))
        assert numbers(index, "three") == []
    assert index.states() == {"s1": LIVE}


async def test_an_index_that_cant_be_written_is_told_and_ends_nothing(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, broken = index.write, [True]

    def failing(texts: Mapping[str, Sequence[Text]]) -> None:
        if broken[0]:
            raise SearchError("the disk is full")
        write(texts)

    monkeypatch.setattr(index, "write", failing)
    feed = Feed(index)
    with capture_logs() as logs:
        async with running(feed):
            torn, whole = feed.begin(about("torn")), None
            await torn.add(sql("one"))
            await until(lambda: torn.failed)
            broken[0] = False
            whole = feed.begin(about("whole"))
            for place in (torn, whole):
                await place.add(sql("two"))
                place.end(whole=True)
            await until(lambda: index.states().get("whole") == WHOLE)
    assert index.states() == {"torn": LIVE, "whole": WHOLE}
    assert [entry["why"] for entry in logs if entry["log_level"] == "error"] == ["the disk is full"]


async def test_traces_of_what_was_purged_go_in_their_time(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(index)
    index.begin(about("s1"))
    index.write({"s1": [Text(n, n, "sql", f"xylophone{n}") for n in range(500)]})
    index.forget("s1")
    await feed._compact()
    assert index.traces_since() is not None  # it is too early
    monkeypatch.setattr(feed_module, "TRACES_S", 0.0)
    with capture_logs():
        await feed._compact()
    assert index.traces_since() is None
