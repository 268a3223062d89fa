"""The console's HTTP against bytes of all kinds; the campaigns of `make exam` go on from here (atheris_console)."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.atheris_console import TOKEN, play, quiet
from tests.fuzz.seeds_console import DICTIONARY, pieces, seeds

ROUNDS = 400
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


@pytest.mark.parametrize("number", range(len(list(seeds()))))
def test_requests_of_browsers_are_answered(number):
    play(list(seeds())[number])


def test_changed_and_joined_requests_break_nothing():
    draw = random.Random(20)
    kept = list(seeds())
    for _ in range(ROUNDS):
        data = bytearray(draw.choice(kept))
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(data) + 1)
            match draw.randrange(4):
                case 0:
                    data[at:at] = pieces(draw.choice(DICTIONARY))
                case 1:
                    del data[at : at + draw.randint(1, 40)]
                case 2 if at < len(data):
                    data[at] = draw.randrange(256)
                case _:
                    data += draw.choice(kept)[: draw.randint(1, 400)]
        play(bytes(data[:4096]))


def test_who_shows_no_token_sees_no_page_of_others():
    """The rule itself, on an input that would break it if the token were not asked for."""
    for seed in seeds():
        play(seed.replace(TOKEN.encode(), b"t" * len(TOKEN)))
