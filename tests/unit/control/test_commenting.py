"""Comments and marks of review at the control socket: kept as they are, for who may see the session, each in the ledger."""

from __future__ import annotations

from typing import Any

import pytest
from unit.control.test_reviewing import SESSION_ID, Clock, Played, ask_as, code_of, people, request_of

from proxyd.recorder import comments as storage
from proxyd.recorder.reviews import Reviews

XSS = "<img src=x onerror=alert(1)>\u202e"


@pytest.fixture
def clock(played: Played) -> Clock:
    clock = Clock()
    played.reviews = Reviews(played.catalog, clock=clock)
    return clock


async def said(wire: Any, user: str = "ann") -> list[dict[str, Any]]:
    answer = await ask_as(wire, user, "comments", session=SESSION_ID)
    return list(answer["ok"]["comments"])


async def test_comments_are_kept_with_who_when_and_the_moment(
    played: Played, connect: Any, clock: Clock
) -> None:
    people(played)
    played.end(played.begin())
    wire = await connect()
    first = await ask_as(wire, "ann", "comment", session=SESSION_ID[:8], text=f" {XSS} ", at=12.5)
    clock.now += 5
    await ask_as(wire, "bob", "comment", session=SESSION_ID, text="all of it is odd")
    kept = ("person", "at", "at_us", "text", "mark")
    assert [[one[name] for name in kept] for one in await said(wire)] == [
        ["ann", clock.now - 5, 12_500_000, XSS, ""],
        ["bob", clock.now, None, "all of it is odd", ""],
    ]
    (entry, _) = played.ledger.entries("comment")
    assert entry.fields["comment"] == first["ok"]["comment"]["id"]
    told = ("who", "via", "session", "at_us", "text")
    assert [entry.fields[name] for name in told] == ["ann", "web", SESSION_ID, 12_500_000, XSS]


async def test_what_is_no_comment_is_refused_and_kept_nowhere(
    played: Played, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(played)
    played.end(played.begin())  # it lasted 75 s
    wire = await connect()

    async def refused(**fields: Any) -> str:
        return code_of(
            await ask_as(wire, "ann", "comment", **({"session": SESSION_ID, "text": "x"} | fields))
        )

    assert await refused(text="") == "usage"
    assert await refused(text="   ") == "refused"
    assert await refused(text="x" * 2001) == "usage"
    assert await refused(at=76.0) == "refused"
    assert await refused(at=-1.0) == "usage"
    assert await refused(at=float("nan")) == "usage"
    assert await refused(at="12") == "usage"
    assert await refused(session="f" * 32) == "not_found"
    monkeypatch.setattr(storage, "MAX_OF_SESSION", 1)
    assert "ok" in await ask_as(wire, "ann", "comment", session=SESSION_ID, text="x")
    assert await refused() == "refused"
    assert len(await said(wire)) == len(list(played.ledger.entries("comment"))) == 1


@pytest.mark.mission("M8", "M9")
async def test_comments_are_for_who_may_see_the_session(played: Played, connect: Any, clock: Clock) -> None:
    people(played)
    session = played.begin()
    wire = await connect()
    assert "ok" in await ask_as(wire, "ann", "comment", session=SESSION_ID, text="live", at=1)
    played.end(session)

    async def outcomes(user: str) -> list[str]:
        asked = [("comments", {}), ("comment", {"text": "x"}), ("review", {})]
        answers = [await ask_as(wire, user, name, session=SESSION_ID, **given) for name, given in asked]
        return ["ok" if "ok" in answer else code_of(answer) for answer in answers]

    assert await outcomes("oli") == await outcomes("eve") == ["denied"] * 3
    await ask_as(wire, "alice", "set-auditors", session=SESSION_ID, people=["bob"])
    assert await outcomes("ann") == ["denied"] * 3
    people(played, approval=True)
    assert await outcomes("bob") == ["denied"] * 3
    request = await request_of(wire, "bob", clock)
    await ask_as(wire, "alice", "approve", request=request)
    assert await outcomes("bob") == ["ok"] * 3
    clock.now += 601
    assert await outcomes("bob") == ["denied"] * 3


async def test_an_operator_who_is_nobody_in_particular_says_nothing(played: Played, connect: Any) -> None:
    people(played)
    played.end(played.begin())
    played.operate_as("PAM Administrator", name="root")
    wire = await connect()
    for command, given in (("comment", {"text": "x"}), ("review", {})):
        answer = await wire.ask(command, session=SESSION_ID, **given)
        assert code_of(answer) == "denied"
        assert "says not which user" in answer["error"]["message"]


async def test_a_session_is_reviewed_after_its_end_by_others(played: Played, connect: Any) -> None:
    people(played)
    session = played.begin(user="alice")
    wire = await connect()

    async def review(user: str, **given: Any) -> str:
        answer = await ask_as(wire, user, "review", session=SESSION_ID, **given)
        return "ok" if "ok" in answer else code_of(answer)

    async def listed(reviewed: bool | None) -> list[str]:
        rows = (await ask_as(wire, "oli", "sessions", reviewed=reviewed))["ok"]["sessions"]
        return [row["reviewed_by"] for row in rows]

    assert await review("ann") == "refused"  # it lives
    assert await listed(reviewed=False) == []
    played.end(session)
    assert await listed(reviewed=False) == [""]
    assert await review("alice") == "refused"  # it is hers
    assert await review("ann", text="nothing odd") == "ok"
    assert (await listed(reviewed=True), await listed(reviewed=False)) == (["ann"], [])
    assert await review("ann") == "refused"
    row = (await ask_as(wire, "oli", "show", session=SESSION_ID))["ok"]["session"]
    assert row["reviewed_at"] is not None
    assert await review("bob", text="look again", done=False) == "ok"
    assert await review("bob", done=False) == "refused"
    assert (await listed(reviewed=True), await listed(reviewed=False)) == ([], [""])
    assert [(one["person"], one["mark"], one["text"]) for one in await said(wire)] == [
        ("ann", "reviewed", "nothing odd"),
        ("bob", "reopened", "look again"),
    ]
    kinds = [(entry.kind, entry.fields["who"]) for entry in played.ledger.entries(("reviewed", "reopened"))]
    assert kinds == [("reviewed", "ann"), ("reopened", "bob")]


async def test_a_purged_recording_is_not_reviewed_and_waits_for_nobody(played: Played, connect: Any) -> None:
    people(played)
    played.end(played.begin())
    wire = await connect()
    assert "ok" in await ask_as(wire, "ann", "comment", session=SESSION_ID, text="look")
    assert played.archive.holds.condemn(SESSION_ID, "too old")
    assert code_of(await ask_as(wire, "ann", "review", session=SESSION_ID)) == "refused"
    assert (await ask_as(wire, "ann", "sessions", reviewed=False))["ok"]["sessions"] == []
    assert [one["text"] for one in await said(wire)] == ["look"]


@pytest.mark.mission("M5")
async def test_a_session_much_looked_at_is_shown_with_its_newest_views(
    played: Played, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyd.control.listing.VIEWS_SHOWN", 3)
    people(played)
    played.end(played.begin())
    wire = await connect()
    for first in range(5):
        await ask_as(wire, "ann", "read", session=SESSION_ID, kind="replay", first=first, last=first + 1)
    shown = (await ask_as(wire, "oli", "show", session=SESSION_ID))["ok"]["views"]
    assert [view["first"] for view in shown] == [2, 3, 4]
    assert len((await ask_as(wire, "oli", "views", session=SESSION_ID))["ok"]["views"]) == 5
