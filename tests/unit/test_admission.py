"""The doors before login, on a clock of our own."""

from __future__ import annotations

import contextlib
import heapq
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd import admission, config
from proxyd.admission import Admission, Refused, Ticket
from proxyd.errors import Denied

PEER = "192.0.2.7"
OPEN = {"per_source_rate": 1e6, "per_source_burst": 1 << 20, "max_startups": "1000:30:1000"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def door(call: Callable[[], Ticket]) -> str | None:
    """Which door was closed; None when the connection was let in."""
    try:
        call().close()
    except Refused as refused:
        assert isinstance(refused, Denied)
        assert str(refused).endswith(".")
        return refused.reason
    return None


def make(
    clock: Clock,
    *,
    penalties: dict[str, object] | None = None,
    draw: Callable[[], float] = lambda: 0.5,
    **limits: object,
) -> Admission:
    return Admission(
        config.Admission(**(OPEN | limits), penalties=config.Penalties(**penalties or {})), clock, draw
    )


# -- MaxStartups


def test_dropped_at_random_between_start_and_full(clock: Clock) -> None:
    drawn = [0.0]
    doors = make(clock, max_startups="10:30:100", draw=lambda: drawn[0])
    tickets = [doors.arrive(PEER) for _ in range(10)]
    for waiting, percent in ((10, 30), (55, 65), (99, 99)):
        drawn[0] = 0.9999
        while doors.waiting < waiting:
            tickets.append(doors.arrive(PEER))
        drawn[0] = (percent - 1) / 100
        assert door(lambda: doors.arrive(PEER)) == "startups"
        drawn[0] = (percent + 1) / 100
        assert door(lambda: doors.arrive(PEER)) is None
    drawn[0] = 0.9999
    tickets.append(doors.arrive(PEER))
    assert doors.waiting == 100
    assert door(lambda: doors.arrive(PEER)) == "startups"
    tickets[0].authenticated()
    tickets[0].close()
    tickets[1].close()
    assert doors.waiting == 98
    for ticket in tickets:
        ticket.close()
    assert doors.waiting == 0


def test_rate_of_drops_is_what_is_configured(clock: Clock) -> None:
    doors = make(clock, max_startups="1:30:3", draw=random.Random(1).random)
    first = doors.arrive(PEER)
    dropped = sum(door(lambda: doors.arrive(PEER)) == "startups" for _ in range(2000))
    assert 540 <= dropped <= 660
    first.close()


def test_start_equal_to_full(clock: Clock) -> None:
    doors = make(clock, max_startups="1:0:1")
    first = doors.arrive(PEER)
    assert door(lambda: doors.arrive(PEER)) == "startups"
    first.authenticated()
    assert door(lambda: doors.arrive(PEER)) is None


# -- rate


def test_burst_then_rate_per_source(clock: Clock) -> None:
    doors = make(clock, per_source_rate=20, per_source_burst=40)
    assert [door(lambda: doors.arrive(PEER)) for _ in range(42)] == [None] * 40 + ["rate"] * 2
    assert door(lambda: doors.arrive("192.0.2.8")) is None
    clock.now += 0.11
    assert [door(lambda: doors.arrive(PEER)) for _ in range(3)] == [None, None, "rate"]
    clock.now += 3600
    assert [door(lambda: doors.arrive(PEER)) for _ in range(41)] == [None] * 40 + ["rate"]


def test_a_slow_rate_is_not_lost_between_tries(clock: Clock) -> None:
    doors = make(clock, per_source_rate=0.5, per_source_burst=1)
    doors.arrive(PEER)
    for _ in range(19):
        clock.now += 0.1
        assert door(lambda: doors.arrive(PEER)) == "rate"
    clock.now += 0.11
    assert door(lambda: doors.arrive(PEER)) is None


def test_rate_table_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_RATE_SOURCES", 100)
    doors = make(clock)
    for number in range(1000):
        doors.arrive(f"10.0.{number >> 8}.{number & 255}")
    assert len(doors._buckets) == 100


def test_defaults_let_forks_of_a_deployment_tool_in(clock: Clock) -> None:
    doors = Admission(config.Admission(), clock, lambda: 0.5)
    for _ in range(40):
        doors.arrive("127.0.0.1").authenticated()


def test_a_connection_rate_test_is_throttled(clock: Clock) -> None:
    """As ssh-audit does it: 10 sockets at a time, each closed at the banner, 38 in at most 1.5 s; < 20/s is safe."""
    doors = Admission(config.Admission(), clock, random.Random(2).random)
    began, opened, events = clock.now, 0, [(clock.now, number, None) for number in range(10)]
    while opened < 38:
        at, number, ticket = heapq.heappop(events)
        if at - began >= 1.5:
            break
        clock.now = at
        if ticket is None:
            with contextlib.suppress(Refused):
                ticket = doors.arrive(PEER)
                opened += 1
        else:
            ticket.failed("noauth")
            ticket.close()
            ticket = None
        heapq.heappush(events, (at + 0.002, number, ticket))
    assert opened / max(clock.now - began, 1.5) < 20
    assert opened < 38


# -- penalties


@pytest.mark.parametrize(
    ("why", "seconds"), [("authfail", 5), ("invalid", 5), ("noauth", 1), ("grace", 20), ("refused", 10)]
)
def test_penalties_add_up_and_refuse_above_min(clock: Clock, why: str, seconds: float) -> None:
    doors = make(clock)
    times = int(15 // seconds) + 1  # the first whose sum is above 15 s
    for _ in range(times):
        assert door(lambda: doors.arrive(PEER)) is None
        doors.arrive(PEER).failed(why)
    assert door(lambda: doors.arrive(PEER)) == "penalty"
    assert door(lambda: doors.arrive("192.0.2.8")) is None
    clock.now += times * seconds - 0.1  # all of it is served, not only what is above min
    assert door(lambda: doors.arrive(PEER)) == "penalty"
    clock.now += 0.2
    assert door(lambda: doors.arrive(PEER)) is None


def test_penalties_grow_to_max_and_no_further(clock: Clock) -> None:
    doors = make(clock)
    ticket = doors.arrive(PEER)
    for _ in range(1000):
        ticket.failed("authfail")
    clock.now += 599
    assert door(lambda: doors.arrive(PEER)) == "penalty"
    clock.now += 2
    assert door(lambda: doors.arrive(PEER)) is None


def test_honest_mistakes_spread_out_cost_nothing(clock: Clock) -> None:
    doors = make(clock)
    for _ in range(100):
        ticket = doors.arrive(PEER)
        ticket.failed("authfail")
        ticket.close()
        clock.now += 6
    assert door(lambda: doors.arrive(PEER)) is None


def test_a_penalty_of_zero_is_off(clock: Clock) -> None:
    doors = make(clock, penalties={"noauth": 0})
    ticket = doors.arrive(PEER)
    for _ in range(100):
        ticket.failed("noauth")
    assert door(lambda: doors.arrive(PEER)) is None


def test_sources_are_networks(clock: Clock) -> None:
    doors = make(clock, source_prefix4=24)
    doors.arrive("192.0.2.7").failed("grace")
    assert door(lambda: doors.arrive("192.0.2.200")) == "penalty"
    assert door(lambda: doors.arrive("::ffff:192.0.2.9")) == "penalty"
    assert door(lambda: doors.arrive("192.0.3.7")) is None
    doors.arrive("2001:db8::1").failed("grace")
    assert door(lambda: doors.arrive("2001:db8::ffff:1")) == "penalty"
    assert door(lambda: doors.arrive("2001:db8:0:1::1")) is None
    doors.arrive("fe80::1%eth0").failed("grace")
    assert door(lambda: doors.arrive("fe80::1")) == "penalty"


def test_exempt_sources(clock: Clock) -> None:
    doors = make(clock, exempt=["127.0.0.0/8", "::1/128"], per_source_rate=1, per_source_burst=1)
    for peer in ("127.0.0.1", "::1"):
        for _ in range(20):
            doors.arrive(peer).failed("grace")
        assert door(lambda peer=peer: doors.arrive(peer)) is None
    assert doors.waiting == 40


def test_loopback_is_not_exempt(clock: Clock) -> None:
    doors = Admission(config.Admission(), clock)
    doors.arrive("127.0.0.1").failed("grace")
    assert door(lambda: doors.arrive("127.0.0.1")) == "penalty"


@pytest.mark.parametrize("overflow", ["permissive", "deny-all"])
def test_overflow(clock: Clock, overflow: str) -> None:
    doors = make(clock, penalties={"max_sources4": 3, "overflow": overflow})
    tickets = [doors.arrive(f"192.0.2.{number}") for number in range(5)]
    for number, ticket in enumerate(tickets):
        clock.now += 1
        for _ in range(2 if number == 0 else 1):  # the first source has to serve longest
            ticket.failed("grace")
    assert len(doors._penalties[4]) == 3
    found = [door(lambda number=number: doors.arrive(f"192.0.2.{number}")) for number in (0, 1, 2, 3, 4, 5)]
    if overflow == "deny-all":
        assert found == ["penalty"] * 6
        assert door(lambda: doors.arrive("2001:db8::1")) is None
        clock.now += 60
        assert door(lambda: doors.arrive("192.0.2.9")) is None
    else:
        assert found == ["penalty", None, None, "penalty", "penalty", None]


def test_reconfigure_keeps_what_is_being_served(clock: Clock) -> None:
    doors = make(clock)
    held = doors.arrive(PEER)
    held.failed("grace")
    doors.reconfigure(config.Admission(**OPEN, penalties=config.Penalties(authfail=100)))
    assert door(lambda: doors.arrive(PEER)) == "penalty"
    assert doors.waiting == 1
    other = doors.arrive("192.0.2.8")
    other.failed("authfail")
    assert door(lambda: doors.arrive("192.0.2.8")) == "penalty"
    held.close()
    other.close()
    assert doors.waiting == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from(["authfail", "noauth", "grace", "wait"])), max_size=60
    )
)
def test_penalties_agree_with_the_plain_rule(steps: list[tuple[int, str]]) -> None:
    """Against the rule written down naively: a sum for each source, refused while active."""
    clock = Clock()
    doors = make(clock)
    served: dict[int, tuple[float, bool]] = {}
    seconds = {"authfail": 5, "noauth": 1, "grace": 20}
    free = doors.arrive("198.51.100.1")
    for source, what in steps:
        if what == "wait":
            clock.now += source * 3
            continue
        until, active = served.get(source, (0.0, False))
        if until <= clock.now:
            until, active = clock.now, False
        until = min(until + seconds[what], clock.now + 600)
        served[source] = until, active or until - clock.now > 15
        Ticket(doors, doors.source_of(f"10.0.0.{source}")).failed(what)
        for number, (end, blocked) in served.items():
            assert (door(lambda number=number: doors.arrive(f"10.0.0.{number}")) == "penalty") == (
                blocked and end > clock.now
            )
    free.close()
