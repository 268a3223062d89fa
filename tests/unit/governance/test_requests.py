"""Requests to view: what they are, from their decisions and the time alone, and who may decide on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.governance.requests import (
    TRANSITIONS,
    Decision,
    Request,
    RequestRefused,
    Status,
    Verdict,
    check,
)

FRESH = Request("r1", "s", "ann", "audit", "a complaint", "T-1", 100.0, 200.0, 50.0)


def decided(request: Request, person: str, verdict: Verdict, now: float = 60.0) -> Request:
    request.refuse(person, verdict, now, may_decide=True)
    return replace(request, decisions=(*request.decisions, Decision(person, verdict, now)))


@pytest.mark.mission("M9")
def test_it_waits_is_approved_holds_for_its_window_and_expires() -> None:
    assert FRESH.status(60) is Status.PENDING
    approved = decided(FRESH, "bob", Verdict.APPROVE)
    assert [approved.covers(at) for at in (99.9, 100.0, 199.9, 200.0)] == [False, True, True, False]
    assert approved.status(200) is Status.EXPIRED
    assert FRESH.status(200) is Status.EXPIRED
    assert not FRESH.covers(150)


@pytest.mark.mission("M9")
@pytest.mark.parametrize("verdict", [Verdict.APPROVE, Verdict.DENY])
def test_nobody_decides_on_their_own(verdict: Verdict) -> None:
    with pytest.raises(RequestRefused, match="nobody decides on their own request"):
        decided(FRESH, "ann", verdict)
    forged = replace(FRESH, decisions=(Decision("ann", Verdict.APPROVE, 60.0),))
    assert forged.status(150) is Status.PENDING  # also when such a verdict stands in the database


def test_one_may_withdraw_what_one_asked_and_nobody_elses() -> None:
    FRESH.refuse("ann", Verdict.REVOKE, 60, may_decide=False)
    with pytest.raises(RequestRefused, match="you may not decide"):
        FRESH.refuse("bob", Verdict.REVOKE, 60, may_decide=False)


def test_several_have_to_approve_each_once_and_one_denies_for_all() -> None:
    wanting = replace(FRESH, needed=2)
    once = decided(wanting, "bob", Verdict.APPROVE)
    assert once.status(60) is Status.PENDING
    with pytest.raises(RequestRefused, match="somebody else has to, too"):
        decided(once, "bob", Verdict.APPROVE)
    assert decided(once, "cid", Verdict.APPROVE).covers(150)
    assert decided(once, "cid", Verdict.DENY).status(150) is Status.DENIED


def test_what_is_over_stays_over() -> None:
    for over in (
        decided(FRESH, "bob", Verdict.DENY),
        decided(decided(FRESH, "bob", Verdict.APPROVE), "cid", Verdict.REVOKE),
        replace(FRESH, ends_at=60.0),
    ):
        for verdict in Verdict:
            with pytest.raises(RequestRefused, match="already"):
                decided(over, "dan", verdict)


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(list(Verdict)), st.booleans()), max_size=8),
    st.integers(1, 3),
)
def test_whatever_is_tried_only_others_open_it_and_in_its_window_alone(
    tried: list[tuple[str, Verdict, bool]], needed: int
) -> None:
    request = replace(FRESH, person="a", needed=needed)
    for now, (person, verdict, may_decide) in enumerate(tried, 60):
        before = request.status(now)
        try:
            request.refuse(person, verdict, now, may_decide=may_decide)
        except RequestRefused:
            continue
        assert verdict in TRANSITIONS[before]
        request = replace(request, decisions=(*request.decisions, Decision(person, verdict, now)))
    approving = {one.person for one in request.decisions if one.verdict is Verdict.APPROVE}
    over = any(one.verdict is not Verdict.APPROVE for one in request.decisions)
    assert "a" not in approving
    assert request.covers(150) == (len(approving) >= needed and not over)
    assert not request.covers(99)
    assert not request.covers(200)


@dataclass(frozen=True)
class Form:
    reasons: tuple[str, ...] = ("audit", "complaint")
    code: str = r"T-\d+"
    longest_days: float = 1.0


def test_a_request_that_is_filled_in_passes() -> None:
    check(FRESH, Form())
    check(replace(FRESH, reason="whatever", code=""), Form(reasons=(), code=""))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"justification": " \n"}, "justification"),
        ({"reason": "boredom"}, "one of: audit, complaint"),
        ({"code": "T-"}, "governance code"),
        ({"code": "T-1\nT-2"}, "governance code"),
        ({"starts_at": -50.0}, "past"),
        ({"ends_at": 100.0}, "end after it starts"),
        ({"starts_at": 0.0, "ends_at": 50.0}, "later than now"),
        ({"ends_at": 90_000.0}, "1 days at most"),
        ({"ends_at": float("inf")}, "at most"),
        ({"ends_at": float("nan")}, "end after"),
        ({"starts_at": float("nan")}, "past"),
    ],
)
def test_a_request_that_is_not_is_refused_with_what_is_missing(fields: dict[str, object], says: str) -> None:
    with pytest.raises(RequestRefused, match=says):
        check(replace(FRESH, **fields), Form())
