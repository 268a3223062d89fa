"""The track of a film: each sound where it began, silence between, several channels added up, memory bounded."""

from __future__ import annotations

import array
import itertools
import math

import pytest

from proxyd.index.sound import Sound

av = pytest.importorskip("av", reason="what makes films is not installed")

from proxyd.export.soundtrack import AHEAD_US, HZ, Soundtrack, frames  # noqa: E402 - needs av

pytestmark = pytest.mark.mission("M16")

LOUD = 8000


def tone(at_us: int, seconds: float = 1.0, *, rate: int = HZ, channels: int = 2, bits: int = 16, stream: int = 1,
         hz: float = 441.0) -> Sound:  # fmt: skip
    def sample(at: int) -> bytes:
        value = math.sin(2 * math.pi * hz * at / rate) * 0.3
        if bits == 8:
            return bytes((128 + round(value * 127),))
        return round(value * (2 ** (bits - 1) - 1)).to_bytes(bits // 8, "little", signed=True)

    data = b"".join(sample(at) * channels for at in range(round(rate * seconds)))
    return Sound(stream, at_us, rate, channels, bits, data)


def words(track: bytes) -> array.array[int]:
    return array.array("h", track)[::2]


def span_s(samples: array.array[int], least: int = LOUD) -> tuple[float, float]:
    loud = [at for at, value in enumerate(samples) if abs(value) > least]
    return loud[0] / HZ, loud[-1] / HZ


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize(
    ("rate", "channels"), [(48_000, 2), (44_100, 2), (22_050, 1), (8000, 1), (48_000, 6)]
)
def test_every_pcm_becomes_the_track_and_stands_where_it_began(rate: int, channels: int, bits: int) -> None:
    track = Soundtrack()
    track.feed(tone(1_500_000, rate=rate, channels=channels, bits=bits))
    samples = words(track.take(4_000_000))
    assert len(samples) == 4 * HZ
    begin, end = span_s(samples, 2000)
    assert begin == pytest.approx(1.5, abs=0.002)
    assert end == pytest.approx(2.5, abs=0.002)
    assert track.faults == 0


def test_pieces_that_join_have_no_seam() -> None:
    whole = tone(1_000_000, 2.0, rate=44_100)
    step = 4096 * 4
    track = Soundtrack()
    for at in range(0, len(whole.data), step):
        begun = whole.at_us + at // 4 * 1_000_000 // 44_100
        track.feed(whole._replace(at_us=begun, data=whole.data[at : at + step]))
    samples = words(track.take(3_500_000))
    crossings = [at for at in range(1, len(samples)) if samples[at - 1] < 0 <= samples[at]]
    periods = [after - before for before, after in itertools.pairwise(crossings)]
    assert len(crossings) == pytest.approx(2 * 441, abs=2)
    assert max(periods) - min(periods) <= 2


def test_taking_it_in_parts_gives_the_same_track() -> None:
    pieces = [tone(1_000_000), tone(2_500_000, 0.5, rate=44_100)]
    whole, parts = Soundtrack(), Soundtrack()
    for piece in pieces:
        whole.feed(piece)
    expected = whole.take(4_000_000)
    given = b""
    for until in range(0, 4_000_001, 50_000):
        for piece in pieces:
            if until - 50_000 < piece.at_us - 40_000 <= until:
                parts.feed(piece)
        given += parts.take(until)
    assert given == expected


def test_two_channels_are_added_up_and_never_overflow() -> None:
    both, alone = Soundtrack(), Soundtrack()
    both.feed(tone(0, hz=440.0))
    both.feed(tone(500_000, hz=440.0, stream=2))
    alone.feed(tone(0, hz=440.0))
    added, single = words(both.take(2_000_000)), words(alone.take(2_000_000))
    assert added[: HZ // 2] == single[: HZ // 2]
    assert max(added[HZ // 2 : HZ]) == pytest.approx(2 * max(single), rel=0.02)
    for _ in range(8):
        both.feed(tone(2_000_000, hz=440.0, stream=_ + 5))
    assert max(words(both.take(3_000_000))) == 0x7FFF


def test_a_target_that_sends_hours_ahead_costs_no_memory() -> None:
    track = Soundtrack()
    minute = tone(0, 1.0, rate=8000, channels=1, bits=8)._replace(data=b"\x90" * 8000 * 20)
    for at in range(60):
        track.feed(minute._replace(at_us=at * 20_000_000))
    assert track.faults == 60 - AHEAD_US // 20_000_000
    assert len(track._ahead) <= AHEAD_US // 1_000_000 * HZ * 4 + 4096


def test_what_is_late_loses_what_is_over() -> None:
    track = Soundtrack()
    assert track.take(1_000_000) == bytes(HZ * 4)
    track.feed(tone(500_000))
    begin, end = span_s(words(track.take(3_000_000)))
    assert begin < 0.01
    assert end == pytest.approx(0.5, abs=0.002)
    assert [frame.samples for frame in frames(bytes(1000 * 4), 960)] == [960, 40]
