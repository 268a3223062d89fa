"""Sign-ins end when they should, are bounded, and nothing here signs anybody in."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.config import Console
from proxyd.console import signin
from proxyd.console.signin import MAX_OF_USER, REQUESTS_BURST, SignIns

SETTINGS = Console(certificate=Path("c"), key=Path("k"), idle_minutes=30, hours=12)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signins(clock: Clock) -> SignIns:
    return SignIns(SETTINGS, clock)


def test_a_token_is_known_by_its_digest_only(signins):
    token = signins.begin("ann", "10.0.0.1")
    assert signins.find(token).user == "ann"
    assert len(token) >= 43  # 256 bits
    kept = repr(vars(signins))
    assert token not in kept
    assert signins.find(token).form_token not in kept
    assert signins.find(token + "x") is None
    assert signins.find("") is None
    assert signins.find("\ud800") is None  # what a header can't hold must not raise either


def test_idle_ends_it(signins, clock):
    token = signins.begin("ann", "10.0.0.1")
    clock.now += 29 * 60
    assert signins.find(token)
    clock.now += 29 * 60
    assert signins.find(token), "each request begins the half hour anew"
    clock.now += 30 * 60
    assert signins.find(token) is None
    assert len(signins) == 0


def test_a_page_that_asks_by_itself_keeps_nobody_signed_in(signins, clock):
    """ASVS 5.0, 7.3.1: an open list asks again every few seconds, and nobody need be there."""
    token = signins.begin("ann", "10.0.0.1")
    for _ in range(30 * 12 - 1):
        clock.now += 5
        assert signins.find(token, counts=False)
    clock.now += 5
    assert signins.find(token, counts=False) is None


def test_a_user_sees_and_ends_their_own_browsers(signins, clock):
    """ASVS 5.0, 7.5.2."""
    tokens = [signins.begin("ann", f"10.0.0.{number}", agent="x" * 999) for number in range(3)]
    other = signins.begin("bob", "10.0.0.9")
    clock.now += 90
    found = signins.of("ann")
    assert [one.source for one in found.values()] == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert {len(one.agent) for one in found.values()} == {signin.AGENT}
    assert {signins.age(one.began) for one in found.values()} == {90}
    assert not any(token.startswith(number) for number in found for token in tokens)
    first, second, _ = found
    assert not signins.end_of("bob", first), "only one's own"
    assert signins.end_of("ann", second)
    assert not signins.end_of("ann", second)
    assert found[second].over
    assert signins.end_others(found[first]) == 1
    assert [signins.find(token) is not None for token in tokens] == [True, False, False]
    assert signins.find(other)


def test_an_end_by_number_is_told_to_who_waits(signins):
    token = signins.begin("ann", "10.0.0.1")
    one, changed = signins.find(token), signins.changed
    (number,) = signins.all()
    assert signins.end_by("f" * 16) == ""
    assert not changed.is_set()
    assert signins.end_by(number) == "ann"
    assert changed.is_set()
    assert not signins.changed.is_set()
    assert one.over
    assert signins.all() == {}


@pytest.mark.parametrize(
    ("subject", "session", "gone"),
    [("4711", "s1", "ac"), ("4711", "", "abc"), ("", "s1", "a"), ("", "s2", "b"), ("4712", "s1", ""), ("4711", "s9", "c"),
     ("", "s9", ""), ("", "", ""), ("4712", "", "d")],
)  # fmt: skip
def test_who_signs_out_at_the_provider_is_signed_out_here(signins, subject, session, gone):
    there = {"a": ("4711", "s1"), "b": ("4711", "s2"), "c": ("4711", ""), "d": ("4712", "s3"), "e": ("", "")}
    tokens = {name: signins.begin("ann", "10.0.0.1", by=by) for name, by in there.items()}
    assert signins.end_from(subject, session) == len(gone)
    assert "".join(name for name, token in tokens.items() if signins.find(token) is None) == gone


def test_the_day_ends_it_however_busy(signins, clock):
    token = signins.begin("ann", "10.0.0.1")
    one = signins.find(token)
    for _ in range(12 * 60 - 1):
        clock.now += 60
        assert signins.find(token) is one
    clock.now += 60
    assert not signins.good(one)
    assert signins.find(token) is None


def test_who_watches_is_not_idle(signins, clock):
    token = signins.begin("ann", "10.0.0.1")
    one = signins.find(token)
    one.live = 1
    clock.now += 3 * 3600
    assert signins.good(one)
    one.live = 0
    assert not signins.good(one)


def test_one_user_has_so_many_browsers(signins):
    tokens = [signins.begin("ann", "10.0.0.1") for _ in range(MAX_OF_USER + 3)]
    other = signins.begin("bob", "10.0.0.2")
    assert [signins.find(token) is not None for token in tokens] == [False] * 3 + [True] * MAX_OF_USER
    assert signins.find(other)


def test_all_together_are_bounded(signins, monkeypatch):
    monkeypatch.setattr(signin, "MAX_SIGN_INS", 20)
    tokens = [signins.begin(f"user{number}", "10.0.0.1") for number in range(50)]
    assert len(signins) == 20
    assert [signins.find(token) is not None for token in tokens] == [False] * 30 + [True] * 20


def test_leaving_ends_it_and_what_it_watches(signins):
    token = signins.begin("ann", "10.0.0.1")
    one = signins.find(token)
    signins.end(token)
    signins.end(token)
    assert one.over
    assert not signins.good(one)


def test_who_is_no_user_any_more_is_signed_out(signins):
    ann, bob = signins.begin("ann", "10.0.0.1"), signins.begin("bob", "10.0.0.1")
    signins.keep({"bob"}.__contains__)
    assert signins.find(ann) is None
    assert signins.find(bob)


def test_requests_are_limited_and_come_back(signins, clock):
    token = signins.begin("ann", "10.0.0.1")
    one = signins.find(token)
    assert sum(signins.take(one) for _ in range(1000)) == REQUESTS_BURST
    clock.now += 1
    signins.find(token)
    assert sum(signins.take(one) for _ in range(1000)) == signin.REQUESTS_PER_SECOND


def test_a_form_token_is_of_one_sign_in(signins):
    one, other = (signins.find(signins.begin(name, "10.0.0.1")) for name in ("ann", "ann"))
    assert one.holds(one.form_token)
    assert not one.holds(other.form_token)
    assert not one.holds("")
    assert not one.holds("\ud800")
