"""Auditors and requests to view at the control socket: who may see what is asked at every piece, live ones included."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio

from proxyd.config import Review, User
from proxyd.control.permissions import acting_for, identify
from proxyd.control.seeing import sieve
from proxyd.governance.requests import Request, Verdict
from proxyd.governance.rules import Sight
from proxyd.recorder.record import Kind
from proxyd.recorder.reviews import MAX_PENDING, Reviews

SESSION_ID = "1a2b3c4d" + "0" * 24
Played = Any  # tests/unit/control/conftest.py has it
SIGHTS = ("replay", "log", "export", "search", "download")


class Clock:
    """The time of day, as the test has it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(played: Played) -> Clock:
    clock = Clock()
    played.reviews = Reviews(played.catalog, clock=clock)
    return clock


def code_of(answer: dict[str, Any]) -> str:
    return str(answer["error"]["code"])


def people(played: Played, **review: Any) -> None:
    played.operate_as("Console", name="web")
    roles = {"ann": "PAM Auditor", "bob": "PAM Auditor", "alice": "PAM Administrator", "carl": "PAM Administrator",
             "oli": "PAM Operator", "eve": "ops"}  # fmt: skip
    played.config.users = {name: User(name=name, roles=[role]) for name, role in roles.items()}
    played.config.review = Review(**review)


async def ask_as(wire: Any, user: str, command: str, /, **arguments: Any) -> dict[str, Any]:
    await wire.send({"id": 7, "command": command, "arguments": arguments, "as": user, "address": "192.0.2.9"})
    answer = await wire.answer()
    assert answer is not None
    return dict(answer)


async def request_of(wire: Any, user: str, clock: Clock, seconds: float = 600, **fields: Any) -> str:
    given = {"session": SESSION_ID, "justification": "a complaint", "ends_at": clock.now + seconds} | fields
    answer = await ask_as(wire, user, "request", **given)
    assert answer.get("ok"), answer
    return str(answer["ok"]["request"]["id"])


def seen(played: Played) -> list[tuple[str, str]]:
    return [(one.fields["who"], one.fields["kind"]) for one in played.ledger.viewers(SESSION_ID)]


# ---------------------------------------------------------------- auditors


@pytest.mark.mission("M8")
async def test_a_session_with_auditors_is_seen_by_them_alone(played: Played, connect: Any) -> None:
    people(played)
    played.end(played.begin())
    wire = await connect()
    set_them = await ask_as(
        wire, "alice", "set-auditors", session=SESSION_ID[:8], people=["ann", "eve", "ann"]
    )
    assert set_them["ok"] == {"session": SESSION_ID, "auditors": ["ann", "eve"], "powerless": ["eve"]}
    assert (await ask_as(wire, "oli", "show", session=SESSION_ID))["ok"]["auditors"] == ["ann", "eve"]
    for sight in SIGHTS:
        assert "ok" in await ask_as(wire, "ann", "read", session=SESSION_ID, kind=sight)
        for other in ("bob", "alice", "eve"):
            assert code_of(await ask_as(wire, other, "read", session=SESSION_ID, kind=sight)) == "denied"
    assert seen(played) == [("ann", sight) for sight in SIGHTS]
    (entry,) = played.ledger.entries("auditors")
    assert (entry.fields["who"], entry.fields["auditors"], entry.fields["before"]) == (
        "alice",
        ["ann", "eve"],
        [],
    )
    assert "ok" in await ask_as(wire, "alice", "set-auditors", session=SESSION_ID, people=[])
    assert "ok" in await ask_as(wire, "bob", "read", session=SESSION_ID, kind="replay")


@pytest.mark.mission("M8")
async def test_auditors_are_set_by_administrators_and_are_users(played: Played, connect: Any) -> None:
    people(played)
    played.begin()
    wire = await connect()
    for user in ("ann", "oli", "eve"):
        assert (
            code_of(await ask_as(wire, user, "set-auditors", session=SESSION_ID, people=[user])) == "denied"
        )
    unknown = await ask_as(wire, "alice", "set-auditors", session=SESSION_ID, people=["nobody"])
    assert "no user nobody" in unknown["error"]["message"]
    assert (
        code_of(await ask_as(wire, "alice", "set-auditors", session="f" * 32, people=["ann"])) == "not_found"
    )
    assert played.reviews.auditors(SESSION_ID) == []
    assert list(played.ledger.entries("auditors")) == []


@pytest.mark.mission("M2", "M8")
async def test_a_live_view_ends_when_its_viewer_is_no_auditor_any_more(played: Played, connect: Any) -> None:
    people(played)
    session = played.begin()
    watching, other = await connect(), await connect()
    assert "meta" in await ask_as(watching, "ann", "watch", session=SESSION_ID)
    assert "records" in (await watching.answer() or {})
    assert "ok" in await ask_as(other, "alice", "set-auditors", session=SESSION_ID, people=["bob"])
    session.tape.add(Kind.OUTPUT, b"not for ann", 1)
    rest = [frame async for frame in frames(watching)]
    assert code_of(rest[-1]) == "denied"
    assert b"not for ann" not in b"".join(frame.get("records", b"") for frame in rest)
    assert session.viewers == 0
    assert seen(played) == [("ann", "live")]


async def frames(wire: Any) -> Any:
    while (frame := await wire.answer()) is not None:
        yield frame
        if "error" in frame or "end" in frame:
            return


# ---------------------------------------------------------------- requests


@pytest.mark.mission("M9")
async def test_a_request_is_asked_decided_by_another_used_and_over(
    played: Played, connect: Any, clock: Clock
) -> None:
    people(played, approval=True, reasons=["audit", "complaint"], code=r"T-\d+")
    played.end(played.begin())
    wire = await connect()

    async def sees(user: str) -> bool:
        answer = await ask_as(wire, user, "read", session=SESSION_ID, kind="replay", first=10.0, last=20.0)
        assert "ok" in answer or code_of(answer) == "denied"
        return "ok" in answer

    assert not await sees("ann")
    assert not await sees("alice")
    name = await request_of(wire, "ann", clock, reason="audit", code="T-17", starts_at=clock.now + 60)
    assert not await sees("ann")
    assert code_of(await ask_as(wire, "bob", "approve", request=name)) == "denied"  # no permission
    decided = await ask_as(wire, "alice", "approve", request=name[:6], comment="go on")
    assert decided["ok"]["request"]["status"] == "approved"
    assert not await sees("ann")  # not yet
    clock.now += 60
    assert await sees("ann")
    assert not await sees("bob")
    assert not await sees("alice")
    clock.now += 540
    assert not await sees("ann")
    (view,) = played.ledger.viewers(SESSION_ID)
    assert (view.fields["who"], view.fields["via"], view.fields["address"]) == ("ann", "web", "192.0.2.9")
    assert (view.fields["first"], view.fields["last"], view.fields["seconds"]) == (10.0, 20.0, 10.0)
    assert view.fields["request"] == name
    (asked,) = played.ledger.entries("request")
    (decision,) = played.ledger.entries("decision")
    assert (asked.fields["reason"], asked.fields["code"], asked.fields["request"]) == ("audit", "T-17", name)
    assert (decision.fields["who"], decision.fields["user"], decision.fields["verdict"]) == (
        "alice",
        "ann",
        "approve",
    )
    (listed,) = (await ask_as(wire, "ann", "requests"))["ok"]["requests"]
    assert (listed["status"], listed["decisions"][0]["comment"]) == ("expired", "go on")


@pytest.mark.mission("M9")
async def test_nobody_decides_on_their_own_by_whatever_way(
    played: Played, connect: Any, clock: Clock
) -> None:
    people(played, approval=True)
    played.end(played.begin())
    wire = await connect()
    name = await request_of(wire, "alice", clock)
    for verdict in ("approve", "deny"):
        refused = await ask_as(wire, "alice", verdict, request=name)
        assert "nobody decides on their own request" in refused["error"]["message"]
    played.operate_as("PAM Administrator", name="root", user="alice")
    root = await connect()
    assert "nobody decides" in (await root.ask("approve", request=name))["error"]["message"]
    played.operate_as("PAM Administrator", name="root")
    nobody = await connect()
    assert "says not which user they are" in (await nobody.ask("approve", request=name))["error"]["message"]
    assert played.reviews.request(name).decisions == ()
    assert list(played.ledger.entries("decision")) == []


@pytest.mark.mission("M9")
async def test_several_approve_and_what_is_revoked_ends_a_live_view(
    played: Played, connect: Any, clock: Clock
) -> None:
    people(played, approval=True, approvers=2)
    played.config.users["dora"] = User(name="dora", roles=["PAM Administrator"])
    session = played.begin()
    wire, watching = await connect(), await connect()
    name = await request_of(wire, "ann", clock)
    assert (await ask_as(wire, "alice", "approve", request=name))["ok"]["request"]["status"] == "pending"
    assert code_of(await ask_as(watching, "ann", "watch", session=SESSION_ID)) == "denied"
    assert (
        "somebody else has to" in (await ask_as(wire, "alice", "approve", request=name))["error"]["message"]
    )
    assert (await ask_as(wire, "carl", "approve", request=name))["ok"]["request"]["status"] == "approved"
    assert "meta" in await ask_as(watching, "ann", "watch", session=SESSION_ID)
    assert session.viewers == 1
    assert "ok" in await ask_as(wire, "dora", "revoke", request=name, comment="enough")
    rest = [frame async for frame in frames(watching)]  # nothing happens in the session, and the view ends
    assert "is revoked" in rest[-1]["error"]["message"]
    assert session.viewers == 0


@pytest.mark.mission("M9")
async def test_a_live_view_ends_with_its_window(played: Played, connect: Any, clock: Clock) -> None:
    people(played, approval=True)
    session = played.begin()
    wire = await connect()
    name = await request_of(wire, "ann", clock, seconds=600)
    assert "ok" in await ask_as(wire, "alice", "approve", request=name)
    assert "meta" in await ask_as(wire, "ann", "watch", session=SESSION_ID)
    clock.now += 601
    session.tape.add(Kind.OUTPUT, b"too late", 1)
    rest = [frame async for frame in frames(wire)]
    assert "is expired" in rest[-1]["error"]["message"]
    assert b"too late" not in b"".join(frame.get("records", b"") for frame in rest)


async def test_one_sees_ones_own_requests_and_who_decides_all(
    played: Played, connect: Any, clock: Clock
) -> None:
    people(played, approval=True)
    played.end(played.begin())
    wire = await connect()
    first = await request_of(wire, "ann", clock)
    clock.now += 1
    second = await request_of(wire, "bob", clock)

    async def listed(who: str, /, **wanted: Any) -> list[str]:
        return [one["id"] for one in (await ask_as(wire, who, "requests", **wanted))["ok"]["requests"]]

    assert await listed("ann") == [first]
    assert await listed("ann", user="bob") == [first]
    assert await listed("alice") == [second, first]
    assert await listed("alice", user="bob") == [second]
    assert "ok" in await ask_as(wire, "ann", "revoke", request=first)  # withdrawn
    assert await listed("alice", status="pending") == [second]
    assert await listed("alice", status="revoked", session=SESSION_ID[:6]) == [first]
    assert "you may not decide" in (await ask_as(wire, "ann", "revoke", request=second))["error"]["message"]


@pytest.mark.parametrize(
    ("user", "fields", "code"),
    [
        ("eve", {}, "denied"),  # no permission to ask
        ("ann", {"session": "f" * 32}, "not_found"),
        ("ann", {"justification": " "}, "refused"),
        ("ann", {"ends_at": 5.0}, "refused"),
        ("ann", {"ends_at": "tomorrow"}, "usage"),
        ("ann", {"starts_at": 5.0}, "refused"),
        ("ann", {"justification": "x" * 2001}, "usage"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    played: Played, connect: Any, clock: Clock, user: str, fields: dict[str, Any], code: str
) -> None:
    people(played, approval=True)
    played.end(played.begin())
    wire = await connect()
    given = {"session": SESSION_ID, "justification": "a complaint", "ends_at": clock.now + 60} | fields
    assert code_of(await ask_as(wire, user, "request", **given)) == code
    assert played.reviews.requests() == []


async def test_requests_have_bounds(played: Played, connect: Any, clock: Clock) -> None:
    people(played, approval=True)
    played.end(played.begin())
    wire = await connect()
    for _ in range(MAX_PENDING):
        await request_of(wire, "ann", clock)
    refused = await ask_as(
        wire, "ann", "request", session=SESSION_ID, justification="x", ends_at=clock.now + 60
    )
    assert "wait already" in refused["error"]["message"]
    assert code_of(await ask_as(wire, "alice", "approve", request="nope")) == "not_found"
    clock.now += 601  # they are over
    await request_of(wire, "ann", clock)


async def test_there_is_nothing_to_ask_for_without_approval(
    played: Played, connect: Any, clock: Clock
) -> None:
    people(played)
    played.end(played.begin())
    wire = await connect()
    refused = await ask_as(
        wire, "ann", "request", session=SESSION_ID, justification="x", ends_at=clock.now + 60
    )
    assert "review.approval is off" in refused["error"]["message"]


@pytest.mark.mission("M9")
def test_requests_and_auditors_survive_the_daemon(played: Played, clock: Clock) -> None:
    played.end(played.begin())
    asked = played.reviews.ask(
        Request("", SESSION_ID, "ann", "audit", "why", "", clock.now, clock.now + 60, clock.now)
    )
    played.reviews.decide(asked.id, "alice", Verdict.APPROVE, may_decide=True)
    played.reviews.set_auditors(SESSION_ID, ["ann"], "alice")
    again = Reviews(played.catalog, clock=clock)
    standing = again.standing(SESSION_ID, "ann")
    assert standing.auditors == {"ann"}
    assert [one.covers(clock.now) for one in standing.requests] == [True]
    assert again.standing(SESSION_ID, "bob").requests == []


# ---------------------------------------------------------------- reading


@pytest.mark.mission("M13")
async def test_no_copies_where_downloads_are_off(played: Played, connect: Any) -> None:
    played.config.review = Review(download=False)
    played.end(played.begin())
    wire = await connect()
    for kind in ("export", "download"):
        assert code_of(await wire.ask("read", session=SESSION_ID, kind=kind)) == "denied"
    assert "ok" in await wire.ask("read", session=SESSION_ID, kind="replay")


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "live"}, {"kind": "picture"}, {"kind": "look"}, {}, {"kind": "log", "first": -1.0}, {"kind": "log", "first": 9.0, "last": 3.0},
        {"kind": "log", "last": 1e12}, {"kind": "log", "until": 3.0},
    ],
)  # fmt: skip
async def test_what_is_no_piece_is_refused_and_nobody_saw_it(
    played: Played, connect: Any, given: dict[str, Any]
) -> None:
    played.end(played.begin())
    wire = await connect()
    assert code_of(await wire.ask("read", session=SESSION_ID, **given)) == "usage"
    assert seen(played) == []


async def test_a_view_of_all_has_the_seconds_of_the_session(played: Played, connect: Any) -> None:
    played.end(played.begin())
    wire = await connect()
    answer = await wire.ask("read", session=SESSION_ID, kind="export")
    assert answer["ok"]["until"] is None
    (view,) = (await wire.ask("views", session=SESSION_ID[:6]))["ok"]["views"]
    assert (view["who"], view["kind"], view["first"], view["last"], view["seconds"]) == (
        "root",
        "export",
        0.0,
        75.0,
        75.0,
    )


async def test_a_ledger_that_is_full_lets_nobody_read(played: Played, connect: Any) -> None:
    played.end(played.begin())
    wire = await connect()
    played.ledger.close()
    answer = await wire.ask("read", session=SESSION_ID, kind="replay")
    assert "path" not in str(answer)
    assert code_of(answer) == "refused"


async def test_a_session_that_lives_is_replayed_by_who_may_watch(played: Played, connect: Any) -> None:
    people(played, approval=True)
    played.begin()
    wire = await connect()
    assert code_of(await ask_as(wire, "ann", "read", session=SESSION_ID, kind="replay")) == "denied"
    played.config.review = Review(approval=False)
    assert "ok" in await ask_as(wire, "ann", "read", session=SESSION_ID, kind="replay")
    assert code_of(await ask_as(wire, "ann", "read", session=SESSION_ID, kind="log")) == "refused"


def test_many_sessions_are_asked_about_at_once(played: Played, clock: Clock) -> None:
    people(played)
    names = [f"{number:032x}" for number in range(20)]
    for name in names:
        played.end(played.begin(id=name))
    played.reviews.set_auditors(names[3], ["bob"], "alice")
    console = identify(played.config, os.getuid(), frozenset())
    ann, bob = (acting_for(played.config, console, name, "") for name in ("ann", "bob"))
    may_see = trio.run(sieve, played, ann, Sight.SEARCH)
    assert [name for name in names if not may_see(name)] == [names[3]]
    assert all(map(trio.run(sieve, played, bob, Sight.SEARCH), names))
    played.config.review = Review(approval=True)
    asked = Request("", names[5], "bob", "audit", "why", "", clock.now, clock.now + 60, clock.now)
    played.reviews.decide(played.reviews.ask(asked).id, "alice", Verdict.APPROVE, may_decide=True)
    assert list(filter(trio.run(sieve, played, bob, Sight.SEARCH), names)) == [names[5]]
    assert list(filter(trio.run(sieve, played, ann, Sight.SEARCH), names)) == []
