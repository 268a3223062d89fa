"""Bulk compression: the specification's stream, and what happens after a stream that cannot be read."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.index.tape import deflated

from proxyd.index.rdp.bulk import Inflater
from proxyd.protocols.rdp.wire import WireError

pytestmark = pytest.mark.mission("M16")

BELLS = b"for.whom.the.bell.tolls,.the.bell.tolls.for.thee!"  # RFC 2118's example, as RDP codes it
BELLS_8K = BELLS[:24] + bytes.fromhex("f4 37 2e 66 fa 1f 19 94 84")
BELLS_64K = BELLS[:24] + bytes.fromhex("fa 1b 97 33 7e 87 e3 32 90 80")
BACK_TO_ITS_BEGINNING = bytes.fromhex(
    "fe20"
)  # 11111 110001 0: three bytes from 49 before, the length of BELLS
COMPRESSED, AT_FRONT, FLUSHED = 0x20, 0x40, 0x80


@pytest.mark.parametrize(("data", "kind"), [(BELLS_8K, 0), (BELLS_64K, 1)])
def test_the_example_of_the_specification(data: bytes, kind: int) -> None:
    assert Inflater().inflate(data, COMPRESSED | AT_FRONT | kind) == BELLS


def test_history_goes_on_over_packets() -> None:
    inflater = Inflater()
    inflater.inflate(BELLS_64K, COMPRESSED | AT_FRONT | 1)
    assert inflater.inflate(BACK_TO_ITS_BEGINNING, COMPRESSED | 1) == BELLS[:3]


def test_what_is_not_compressed_passes_and_leaves_the_history_alone() -> None:
    inflater = Inflater()
    inflater.inflate(BELLS_64K, COMPRESSED | AT_FRONT | 1)
    assert inflater.inflate(b"plain", 0) == b"plain"
    assert inflater.inflate(b"plain", 1) == b"plain"
    assert inflater.inflate(BACK_TO_ITS_BEGINNING, COMPRESSED | 1) == BELLS[:3]


def test_after_a_fault_nothing_is_read_until_a_new_history() -> None:
    inflater = Inflater()
    with pytest.raises(WireError):
        inflater.inflate(b"\xff", COMPRESSED | 1)
    with pytest.raises(WireError, match="builds on"):
        inflater.inflate(deflated(b"fine"), COMPRESSED | 1)
    assert inflater.inflate(b"plain", 0) == b"plain"
    assert inflater.inflate(b"not compressed", FLUSHED | 1) == b"not compressed"
    assert inflater.inflate(deflated(b"fine"), COMPRESSED | 1) == b"fine"


def test_a_new_history_may_be_of_another_type() -> None:
    inflater = Inflater()
    inflater.inflate(BELLS_8K, COMPRESSED | AT_FRONT)
    assert inflater.inflate(BELLS_64K, COMPRESSED | FLUSHED | 1) == BELLS


@pytest.mark.parametrize("kind", [2, 3, 4, 15])
def test_types_that_were_not_offered_are_refused(kind: int) -> None:
    with pytest.raises(WireError):
        Inflater().inflate(BELLS_64K, COMPRESSED | kind)


@given(st.lists(st.tuples(st.binary(max_size=80), st.integers(0, 255)), max_size=6))
def test_whatever_is_sent_is_at_most_64_kib_or_a_wire_error(packets: list[tuple[bytes, int]]) -> None:
    inflater = Inflater()
    for data, flags in packets:
        try:
            out = inflater.inflate(data, flags)
        except WireError:
            continue
        assert len(out) < 1 << 16
        assert flags & COMPRESSED or out == data


@given(st.binary(max_size=300))
def test_literals_are_what_they_were(data: bytes) -> None:
    assert Inflater().inflate(deflated(data), COMPRESSED | AT_FRONT | 1) == data


def _match(offset: int) -> bytes:
    """Three bytes from so far back, 3.1.8.4.2.2.2 and 3.1.8.4.2.2.3."""
    for least, most, mark, width in (
        (0, 63, "11111", 6),
        (64, 319, "11110", 8),
        (320, 2367, "1110", 11),
        (2368, 65535, "110", 16),
    ):
        if offset <= most:
            bits = f"{mark}{offset - least:0{width}b}0"
            break
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


@given(st.randoms(use_true_random=False), st.integers(0, 39))
def test_a_history_taken_along_reads_what_follows(random: Random, left_after: int) -> None:
    inflater, other, written, reached = Inflater(), None, 0, 0
    for number in range(40):
        flags = COMPRESSED | 1
        if number == 0 or written > 48_000 or random.random() < 0.1:
            flags |= AT_FRONT
            written = 0
        if number and not flags & AT_FRONT and random.random() < 0.5:
            data, size = _match(random.randint(1, written)), 3
        else:
            size = random.randint(1, 4000)
            data = deflated(random.randbytes(size))
        written += size
        reached = max(reached, written)
        whole = inflater.inflate(data, flags)
        assert len(whole) == size
        if other is not None:
            assert other.inflate(data, flags) == whole
        if number == left_after:
            saved = inflater.saved()
            assert saved is not None
            assert len(saved["history"]) == reached
            other = Inflater.resumed(saved)


def test_a_lost_history_is_not_taken_along() -> None:
    inflater = Inflater()
    assert Inflater.resumed(inflater.saved() or {}).inflate(BELLS_8K, COMPRESSED | AT_FRONT) == BELLS
    with pytest.raises(WireError):
        inflater.inflate(b"\xff", COMPRESSED | 1)
    assert inflater.saved() is None
