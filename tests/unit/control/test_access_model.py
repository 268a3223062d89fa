"""Random attempts to see, ask, decide and set: the command layer and the model of `tests.access_model` agree on every one."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.access_model import LASTS, PEOPLE, SIGHTS, STARTS
from tests.unit.control.access_world import CALLERS, World

SHORT = 2_000
WHOLE = 100_000
ROUND = 400  # attempts until sessions begin anew
TIMES = (0.5, 29.0, 60.0, 599.0, 1300.0)

callers = st.sampled_from(CALLERS)
sessions = st.integers(0, 3)
audited = st.frozensets(st.sampled_from(PEOPLE), max_size=3)


class Attempts(RuleBasedStateMachine):
    """One caller after the other, in any order."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.begin()

    @rule(who=callers, session=sessions, sight=st.sampled_from(SIGHTS), first=st.sampled_from((0.0, 5.5)))
    def read(self, who: str, session: int, sight: str, first: float) -> None:
        self.world.read(who, self.world.ids[session], sight, first)

    @rule(who=callers, session=sessions)
    def watch(self, who: str, session: int) -> None:
        self.world.watch(who, self.world.ids[session])

    @rule(who=callers)
    def search(self, who: str) -> None:
        self.world.search(who)

    @rule(who=callers, session=sessions, people=audited)
    def audit(self, who: str, session: int, people: frozenset[str]) -> None:
        self.world.audit(who, self.world.ids[session], people)

    @rule(who=callers, session=sessions, start=st.sampled_from(STARTS), lasts=st.sampled_from(LASTS))
    def ask(self, who: str, session: int, start: float, lasts: float) -> None:
        self.world.ask(who, self.world.ids[session], start, lasts)

    @rule(
        who=callers,
        number=st.integers(0, 50),
        verdict=st.sampled_from(("approve", "approve", "deny", "revoke")),
    )
    def decide(self, who: str, number: int, verdict: str) -> None:
        self.world.decide(who, number, verdict)

    @rule(who=callers, session=sessions)
    def listed(self, who: str, session: int) -> None:
        self.world.listed(who, self.world.ids[session])

    @rule(who=callers, session=sessions)
    def block(self, who: str, session: int) -> None:
        self.world.block(who, self.world.ids[session])

    @rule(session=sessions)
    def end(self, session: int) -> None:
        self.world.ended(self.world.ids[session])

    @rule(seconds=st.sampled_from(TIMES))
    def later(self, seconds: float) -> None:
        self.world.passes(seconds)

    @rule(approval=st.booleans(), live=st.booleans(), download=st.booleans(), approvers=st.integers(1, 2))
    def configure(self, **review: Any) -> None:
        self.world.set_review(**review)

    @invariant()
    def nobody_decided_for_themselves(self) -> None:
        assert all(one.person not in one.approved for one in self.world.model.requests)


def evidence(world: World, played: Any) -> None:
    """Every view that was let is in the ledger, in order, and nothing else is; and the ledger is whole."""
    told = [(view["session"], view["who"], view["kind"]) for view in world.kept]
    entries = [
        (one.fields["session"], one.fields["who"], one.fields["kind"])
        for one in played.ledger.entries("view")
    ]
    assert entries == told
    assert len(entries) == world.views
    assert played.ledger.verify().ok


@pytest.mark.mission("M2", "M3", "M8", "M9", "M13")
def test_nobody_sees_what_the_rules_do_not_let_them(played: Any) -> None:
    world = World(played)

    class Here(Attempts):
        pass

    Here.world = world
    each = 50
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=SHORT // each, stateful_step_count=each, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    assert world.attempts > SHORT / 4
    assert world.views > 0
    evidence(world, played)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.mission("M2", "M3", "M8", "M9", "M13")
def test_nobody_sees_in_100_000_attempts(played: Any) -> None:
    world, chance = World(played), random.Random(20261122)
    pick = chance.choice
    began = 0
    while world.attempts < WHOLE:
        if world.attempts - began >= ROUND:
            world.begin()
            began = world.attempts
        if chance.random() < 0.02:
            world.set_review(approval=chance.random() < 0.8, live=pick((True, True, False)), download=pick((True, True, False)),
                             approvers=pick((1, 1, 2)))  # fmt: skip
        if chance.random() < 0.1:
            world.passes(pick(TIMES))
        who, session = pick(CALLERS), pick(world.ids)
        match chance.randrange(20):
            case 0:
                world.audit(who, session, frozenset(chance.sample(PEOPLE, chance.randrange(4))))
            case 1 | 2 | 3:
                world.ask(who, session, pick(STARTS), pick(LASTS))
            case 4 | 5 | 6 | 7:
                world.decide(
                    who, chance.randrange(50), pick(("approve", "approve", "approve", "deny", "revoke"))
                )
            case 8:
                world.listed(who, session)
            case 9:
                world.block(who, session)
            case 10:
                world.search(who)
            case 11 | 12:
                world.watch(who, session)
            case 13 if chance.random() < 0.05:
                world.ended(session)
            case _:
                world.read(who, session, pick(SIGHTS), pick((0.0, 5.5)), pick((0.0, 1.0, 60.0)))
    print(f"{world.attempts} attempts, {world.let} let through, {world.views} views, all in the ledger")
    evidence(world, played)
