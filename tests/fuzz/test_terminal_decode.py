"""Terminal sessions made to break emulators: what campaigns begin with, and random programs, break no rule of theirs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.index.terminal import derived
from tests.fuzz import atheris_terminal, seeds_terminal
from tests.fuzz.campaign import SLOW_SECONDS
from tests.fuzz.program import Input

pytestmark = [pytest.mark.mission("M12", "M16"), pytest.mark.timeout(300)]


@pytest.fixture(autouse=True, scope="module")
def near() -> Iterator[None]:
    before = derived.SPACING
    atheris_terminal.quiet()  # changes it for its process
    yield
    derived.SPACING = before


@pytest.mark.parametrize("number", range(len(seeds_terminal.seeds())))
def test_seeds_of_the_campaign_break_no_rule(number: int) -> None:
    began = time.process_time()
    atheris_terminal.play(seeds_terminal.seeds()[number])
    assert time.process_time() - began < SLOW_SECONDS


def test_a_seed_is_a_session_with_screens() -> None:
    straight = atheris_terminal.Terminals()
    for record in atheris_terminal.records(Input(seeds_terminal.seeds()[0])):
        straight.feed(record)
    assert straight.screens[1].text()[0] == "file"


STEPS = st.one_of(
    st.sampled_from(seeds_terminal.DICTIONARY).map(lambda word: seeds_terminal.said(1, word)),
    st.binary(max_size=60).map(lambda data: seeds_terminal.said(1, data)),
    st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 255)).map(bytes),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=80))
def test_random_sessions_break_no_rule(steps: list[bytes]) -> None:
    atheris_terminal.play(seeds_terminal.opened(1) + seeds_terminal.pty(1) + b"".join(steps))
