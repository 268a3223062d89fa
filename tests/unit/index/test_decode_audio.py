"""PCM out of sound messages: every way they come, with the time each piece is heard at."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.index.tape import DYNAMIC, SOUND, from_client, from_target, record, session

from proxyd.index.rdp.audio import Audio, sounds
from proxyd.index.sound import LATE_US, Sound
from proxyd.protocols.rdp.channels import build_chunks, build_dynamic_data
from proxyd.protocols.rdp.sound import AudioFormat, Formats, build_formats
from proxyd.recorder.record import Kind, Record

pytestmark = pytest.mark.mission("M16")

RATE = 8000
PCM = AudioFormat(1, 2, RATE, RATE * 4, 4, 16, b"")
OPUS = AudioFormat(0x69, 2, 48000, 0, 4, 16, b"")
BLOCK = bytes(range(256)) * 5  # 1280 bytes: 320 samples of two channels, 40 ms
BLOCK_US = 40_000


def formats(*listed: AudioFormat) -> bytes:
    return build_formats(Formats(0, 0, 0, 0, 0, 6, listed))


def wave(data: bytes, number: int = 0) -> list[bytes]:
    """MS-RDPEA 2.2.3.3 and 2.2.3.4: the first four bytes of the sound stand in the Wave Info."""
    return [
        struct.pack("<BBHHHB3x", 2, 0, len(data) + 8, 0, number, 1) + data[:4],
        bytes(4) + data[4:],
    ]


def wave2(data: bytes, number: int = 0) -> list[bytes]:
    """2.2.3.10."""
    return [struct.pack("<BBHHHB3xI", 13, 0, len(data) + 12, 0, number, 1, 0) + data]


def heard(*messages: bytes, at_us: int = 0) -> list[Record]:
    return [
        from_target(chunk, SOUND, at_us)
        for message in messages
        for chunk in build_chunks(message)
    ]  # fmt: skip


def named(*listed: AudioFormat) -> list[Record]:
    return [session(), *(from_client(chunk, SOUND) for chunk in build_chunks(formats(*listed)))]


@pytest.mark.parametrize("make", [wave, wave2])
def test_a_piece_of_sound_is_what_was_played(make: Callable[[bytes], list[bytes]]) -> None:
    records = [*named(PCM), *heard(*make(BLOCK), at_us=7)]
    piece = Sound(SOUND, 7, RATE, 2, 16, BLOCK)
    assert list(sounds(records)) == [piece]
    assert piece.duration_us == BLOCK_US


def test_a_message_in_many_chunks() -> None:
    long = BLOCK * 5
    assert [piece.data for piece in sounds([*named(PCM), *heard(*wave2(long))])] == [long]


def test_the_format_is_the_clients_of_that_place() -> None:
    low = PCM._replace(rate=4000, channels=1, block=2)
    records = [*named(PCM, low), *heard(*wave(BLOCK, 1)), *heard(*wave2(BLOCK, 0))]
    assert [(piece.rate, piece.channels) for piece in sounds(records)] == [(4000, 1), (RATE, 2)]


def test_pieces_of_one_sound_join_and_a_pause_is_one() -> None:
    late = 2 * BLOCK_US + LATE_US
    arrivals = [1000, 1000, 1000 + late, 1000 + late + BLOCK_US + LATE_US + 1]
    records = [*named(PCM), *(one for at in arrivals for one in heard(*wave2(BLOCK), at_us=at))]
    assert [piece.at_us for piece in sounds(records)] == [
        1000,
        1000 + BLOCK_US,  # came together with the first: it follows
        1000 + 2 * BLOCK_US,  # just in time
        arrivals[3],  # after a pause
    ]


def test_no_piece_is_further_from_its_arrival_than_it_may_be() -> None:
    arrivals = [at * (BLOCK_US + 3000) for at in range(1, 60)]  # a clock that is slow by 7 %
    records = [*named(PCM), *(one for at in arrivals for one in heard(*wave2(BLOCK), at_us=at))]
    pieces = list(sounds(records))
    assert len(pieces) == len(arrivals)
    assert all(0 <= at - piece.at_us <= LATE_US for at, piece in zip(arrivals, pieces, strict=True))
    assert all(b.at_us >= a.at_us + a.duration_us for a, b in pairwise(pieces))


def test_sound_on_a_dynamic_channel() -> None:
    number = 9
    create = bytes((0x10, number)) + b"AUDIO_PLAYBACK_DVC\0"
    other = bytes((0x10, 3)) + b"Microsoft::Windows::RDS::Graphics\0"
    messages = [
        create,
        other,
        *(part for message in wave2(BLOCK * 4) for part in build_dynamic_data(number, message)),
    ]
    answers = list(build_dynamic_data(number, formats(PCM)))
    records = [
        session(),
        *(from_target(chunk, DYNAMIC) for one in messages[:2] for chunk in build_chunks(one)),
        *(from_client(chunk, DYNAMIC) for one in answers for chunk in build_chunks(one)),
        *(from_target(chunk, DYNAMIC, 5) for one in messages[2:] for chunk in build_chunks(one)),
        *(from_target(chunk, DYNAMIC, 6) for chunk in build_chunks(bytes((0x40, number)))),
        *(from_target(chunk, DYNAMIC, 7) for one in messages[2:] for chunk in build_chunks(one)),
    ]
    reader = Audio()
    pieces = [piece for one in records for piece in reader.feed(one)]
    assert [(piece.stream, piece.at_us, piece.data) for piece in pieces] == [(0x10000 + number, 5, BLOCK * 4)]
    assert reader.faults == 0


@pytest.mark.parametrize(
    "listed",
    [(), (OPUS,), (PCM._replace(bits=12),), (PCM._replace(rate=0),), (PCM._replace(channels=0),), (PCM._replace(block=3),)],
)  # fmt: skip
def test_what_is_no_pcm_is_counted_and_not_heard(listed: tuple[AudioFormat, ...]) -> None:
    reader = Audio()
    for one in [*named(*listed), *heard(*wave2(BLOCK)), *heard(*wave(BLOCK))]:
        assert reader.feed(one) == []
    assert reader.faults == 2


def test_what_cannot_be_read_is_counted_and_the_rest_is_heard() -> None:
    reader = Audio()
    first, *others = build_chunks(wave2(BLOCK * 3)[0])
    bad = [
        from_target(first, SOUND),
        from_target(first, SOUND),
        from_target(others[0], SOUND),
        from_target(b"x", SOUND),
    ]
    for one in [
        *named(PCM),
        *bad,
        record(Kind.PDU, b"\x03\x00\x00\x07\x02\xf0\x80"),
        record(Kind.PDU, b"\x03"),
    ]:
        assert reader.feed(one) == []
    assert reader.faults == 5
    assert [piece.data for one in heard(*wave2(BLOCK)) for piece in reader.feed(one)] == [BLOCK]


def test_a_session_without_sound_is_silent() -> None:
    without = session()
    assert isinstance(without.body, dict)
    records = [without._replace(body={**without.body, "channels": {}}), *heard(*wave2(BLOCK))]
    assert list(sounds(records)) == []


@given(st.lists(st.binary(max_size=60), max_size=8), st.sampled_from([SOUND, DYNAMIC]))
def test_nothing_a_target_sends_raises(payloads: list[bytes], channel: int) -> None:
    reader = Audio()
    whole = [struct.pack("<II", len(payload), 3) + payload for payload in payloads]
    records = [*named(PCM), *(from_target(payload, channel) for payload in [*payloads, *whole])]
    for one in records:
        for piece in reader.feed(one):
            assert len(piece.data) <= 60


def dynamically(waves: int) -> Iterator[Record]:
    """A dynamic channel, and waves on it."""
    number = 9
    create = bytes((0x10, number)) + b"AUDIO_PLAYBACK_DVC\0"
    yield from (from_target(chunk, DYNAMIC) for chunk in build_chunks(create))
    for one in build_dynamic_data(number, formats(PCM)):
        yield from (from_client(chunk, DYNAMIC) for chunk in build_chunks(one))
    for at in range(waves):
        for message in wave2(BLOCK):
            for one in build_dynamic_data(number, message):
                yield from (from_target(chunk, DYNAMIC, 1000 + at * 50_000) for chunk in build_chunks(one))


@given(st.integers(1, 30), st.booleans())
def test_sound_left_and_gone_on_with_is_the_same(left_after: int, dynamic: bool) -> None:
    told = [*named(PCM), *(one for at in range(12) for one in heard(*wave2(BLOCK), at_us=1000 + at * 50_000))]
    if dynamic:
        told = [session(), *dynamically(12)]
    straight = list(sounds(told))
    first, audio = [], Audio()
    for one in told[:left_after]:
        first += audio.feed(one)
    other = Audio.resumed(msgpack.unpackb(msgpack.packb(audio.saved()), strict_map_key=False))
    rest = [piece for one in told[left_after:] for piece in other.feed(one)]
    assert [*first, *rest] == straight
    assert other.faults == 0


def test_a_wave_that_was_under_way_is_left_out() -> None:
    begun, rest = heard(*wave(BLOCK))
    audio = Audio()
    for one in [*named(PCM), begun]:
        assert audio.feed(one) == []
    other = Audio.resumed(audio.saved())
    assert other.feed(rest) == []
    assert [piece.data for one in heard(*wave(BLOCK), at_us=9) for piece in other.feed(one)] == [BLOCK]
