"""The segment: what is written is read back, and what was cut or altered is never believed."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.errors import FormatError
from proxyd.recorder.keys import Signer, WrappedKey
from proxyd.recorder.layout import (
    CHAIN_KEPT,
    FRESH,
    HEAD_BYTES,
    MAX_COUNT,
    NO_CHAIN,
    FrameType,
    SegmentHeader,
    link,
)
from proxyd.recorder.pieces import marks_of
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.segment import (
    SegmentWriter,
    mend_trailer,
    new_packer,
    read_header,
    scan,
    seal_recovered,
)
from tests.peers.segments import SegmentReader

DEK = bytes(range(32))
PACKER = new_packer()
KEYS = (WrappedKey("age1example", b"an age file"),)


def header(signer: Signer, **fields: object) -> SegmentHeader:
    made: dict[str, object] = {
        "session": "s1", "number": 0, "prev_chain": NO_CHAIN, "wall_ns": 1_700_000_000_000_000_000, "start_ms": 0,
        "first_seq": 1, "signer": signer.key_id, "keys": KEYS,
    }  # fmt: skip
    return SegmentHeader(**(made | fields))  # type: ignore[arg-type]


def example(signer: Signer, *, blocks: int = 12, seal: bool = False) -> tuple[bytes, list[Record]]:
    """A segment of a few small blocks, a checkpoint in the middle and two fresh frames."""
    writer = SegmentWriter(header(signer), DEK, signer)
    data, records, at, seq = writer.preamble, [], 1500, 0
    draw = random.Random(7)
    for block in range(blocks):
        items = []
        for _ in range(draw.randrange(1, 4)):
            at += draw.randrange(0, 90_000)
            seq += 1
            items.append((at, Kind.OUTPUT, 0, draw.randbytes(draw.randrange(0, 30))))
            records.append(Record(seq, *items[-1]))  # type: ignore[arg-type]
        data += writer.events(items, PACKER)
        if block == blocks // 2:
            data += writer.checkpoint()
            writer.rest()
    if seal:
        data += writer.seal()
    assert writer.size == len(data)
    assert scan(data).chain == writer.chain
    return data, records


def test_records_come_back_and_the_header_with_them(signer: Signer) -> None:
    data, records = example(signer, seal=True)
    reader = SegmentReader(data, DEK)
    assert list(reader.records()) == records
    assert reader.header == header(signer)
    assert reader.scan.sealed
    assert not reader.scan.recovered
    assert reader.scan.problem is None
    assert reader.scan.records == len(records)
    assert reader.scan.good_end == len(data)


BODIES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=40),
    st.integers(-(2**63), 2**64 - 1),
    st.lists(st.integers(0, 500), min_size=2, max_size=2),
    st.dictionaries(
        st.text(max_size=8), st.one_of(st.binary(max_size=20), st.booleans(), st.none()), max_size=4
    ),
)
ITEM = st.tuples(st.integers(0, 3_000_000), st.sampled_from(Kind), st.integers(0, 70_000), BODIES)


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.lists(ITEM, min_size=1, max_size=8), min_size=1, max_size=6),
    start=st.integers(0, 10**7),
)
def test_any_records_come_back(
    signer: Signer, blocks: list[list[tuple[int, Kind, int, object]]], start: int
) -> None:
    writer = SegmentWriter(header(signer, start_ms=start // 1000, first_seq=start + 1), DEK, signer)
    data, records, at = writer.preamble, [], start
    for block in blocks:
        items = []
        for delta, kind, channel, body in block:
            at += delta
            items.append((at, kind, channel, body))
            records.append(Record(start + len(records) + 1, at, kind, channel, body))
        data += writer.events(items, PACKER)
    found = list(SegmentReader(data, DEK).records())
    assert found == records


def test_text_that_is_no_unicode_is_kept_escaped(signer: Signer) -> None:
    writer = SegmentWriter(header(signer), DEK, signer)
    data = writer.preamble + writer.events([(0, Kind.NOTICE, 0, "caf\udce9")], PACKER)
    assert [record.body for record in SegmentReader(data, DEK).records()] == ["caf\\udce9"]


def test_reading_starts_near_a_time_and_after_a_seq(signer: Signer) -> None:
    data, records = example(signer, blocks=30, seal=True)
    middle = records[len(records) * 3 // 4]
    reader = SegmentReader(data, DEK)
    assert list(reader.records(start_us=middle.at_us)) == [r for r in records if r.at_us >= middle.at_us]
    assert list(reader.records(after_seq=middle.seq)) == records[middle.seq :]
    assert list(reader.records(start_us=records[-1].at_us + 1)) == []
    fresh = [frame for frame in reader.scan.frames if frame.fresh]
    assert len(fresh) == 2
    assert marks_of(io.BytesIO(data), len(data)) == reader.scan.marks()
    assert [mark.offset for mark in reader.scan.marks()] == [frame.offset for frame in fresh]


def test_a_new_zstd_frame_begins_every_30_s_and_every_4_mib(signer: Signer) -> None:
    writer = SegmentWriter(header(signer), DEK, signer)
    data = writer.preamble
    for second in range(0, 70, 5):
        data += writer.events([(second * 1_000_000, Kind.OUTPUT, 0, b"x")], PACKER)
    assert [frame.t0_ms for frame in scan(data).frames if frame.flags & FRESH] == [0, 30_000, 60_000]
    for _ in range(9):
        data += writer.events([(69_000_000, Kind.OUTPUT, 0, os.urandom(1 << 20))], PACKER)
    assert sum(frame.fresh for frame in scan(data).frames) == 5
    assert len(list(SegmentReader(data, DEK).records())) == 23


def test_what_a_desktop_draws_again_is_found_further_back(signer: Signer) -> None:
    drawn = random.Random(3).randbytes(400 << 10)
    sizes = []
    for pictures in (False, True):
        writer = SegmentWriter(header(signer), DEK, signer, pictures=pictures)
        blocks = [drawn[at : at + (40 << 10)] for at in range(0, len(drawn), 40 << 10)] * 2
        data = writer.preamble + b"".join(
            writer.events([(number * 1000, Kind.PDU, 0, block)], PACKER)
            for number, block in enumerate(blocks)
        )
        assert [record.body for record in SegmentReader(data, DEK).records()] == blocks
        sizes.append(len(data))
    assert sizes[0] > 2 * len(drawn)
    assert sizes[1] < 1.1 * len(drawn)


@pytest.mark.mission("M16")
@pytest.mark.parametrize("sealed", [False, True])
def test_every_truncation_leaves_a_correct_prefix(signer: Signer, *, sealed: bool) -> None:
    data, records = example(signer, blocks=6, seal=sealed)
    first = scan(data).frames[0].offset
    for end in range(len(data)):
        if end < first:
            with pytest.raises(FormatError):
                scan(data[:end])
            continue
        reader = SegmentReader(data[:end], DEK)
        found = list(reader.records())
        assert found == records[: len(found)]
        assert reader.scan.good_end <= end
        assert not (reader.scan.sealed and reader.scan.problem is None)
        whole = sum(f.count for f in scan(data).frames if f.end <= end)
        assert len(found) == whole


def test_every_bit_flip_is_found(signer: Signer) -> None:
    data, records = example(signer, blocks=4, seal=True)
    first = scan(data).frames[0].offset
    for position in range(len(data)):
        for bit in (1, 1 << random.Random(position).randrange(1, 8)):
            flipped = bytearray(data)
            flipped[position] ^= bit
            if position < first:
                with pytest.raises(FormatError):
                    scan(flipped)
                continue
            found = scan(flipped)
            assert found.problem is not None
            assert all(frame.end <= position for frame in found.frames) or found.sealed
            kept = list(SegmentReader(flipped, DEK).records())
            assert kept == records[: len(kept)]


def test_reordered_frames_end_the_segment(signer: Signer) -> None:
    data, _ = example(signer)
    one, two = scan(data).frames[2:4]
    swapped = data[: one.offset] + data[two.offset : two.end] + data[one.offset : one.end] + data[two.end :]
    found = scan(swapped)
    assert found.good_end == one.offset
    assert found.problem


def test_checkpoint_and_seal_are_signed_over_everything_before(signer: Signer) -> None:
    data, _ = example(signer, seal=True)
    found = scan(data)
    assert [s.frame.type for s in found.signatures] == [FrameType.CHECKPOINT, FrameType.SEAL]
    for signature in found.signatures:
        assert signature.key_id == signer.key_id
        assert signature.verify(signer.public)
        assert not signature._replace(message=signature.message[:-1] + b"x").verify(signer.public)


def test_a_rewritten_segment_with_a_right_chain_has_no_right_signature(signer: Signer) -> None:
    """Whoever can write the file can make a chain; not a signature."""
    forged, _ = example(Signer(Ed25519PrivateKey.generate()), seal=True)
    assert scan(forged).problem is None
    assert not any(signature.verify(signer.public) for signature in scan(forged).signatures)


def test_the_wrong_key_opens_nothing(signer: Signer) -> None:
    data, _ = example(signer)
    with pytest.raises(FormatError, match="does not open"):
        list(SegmentReader(data, bytes(32)).records())


def test_a_frame_moved_to_another_segment_does_not_open(signer: Signer) -> None:
    """Same key, same frame number: the segment number in the nonce and the chain in the AAD differ."""
    sealed = []
    for number in (0, 1):
        writer = SegmentWriter(header(signer, number=number), DEK, signer)
        sealed.append((writer.preamble, writer.events([(0, Kind.OUTPUT, 0, b"x" * 50)], PACKER)))
    assert sealed[0][1][HEAD_BYTES:] != sealed[1][1][HEAD_BYTES:]
    moved = scan(sealed[0][0] + sealed[1][1])
    assert moved.frames == []


def test_recovery_seals_what_is_there(signer: Signer) -> None:
    data, records = example(signer, blocks=8)
    whole = scan(data).frames
    torn = data[: whole[-1].offset + 30]
    found = scan(torn)
    assert found.problem
    tail, chain = seal_recovered(found, signer)
    mended = torn[: found.good_end] + tail
    again = scan(mended)
    assert again.sealed
    assert again.recovered
    assert again.problem is None
    assert again.chain == chain
    assert all(signature.verify(signer.public) for signature in again.signatures)
    assert list(SegmentReader(mended, DEK).records()) == records[: found.records]


def test_recovery_after_a_seal_torn_anywhere(signer: Signer) -> None:
    data, records = example(signer, blocks=4, seal=True)
    index = next(frame for frame in scan(data).frames if frame.type is FrameType.INDEX)
    for end in range(index.offset, len(data)):
        found = scan(data[:end])
        tail = mend_trailer(found) if found.sealed else seal_recovered(found, signer)[0]
        mended = data[: found.good_end] + tail
        again = scan(mended)
        assert again.sealed
        assert again.problem is None
        assert all(signature.verify(signer.public) for signature in again.signatures)
        assert list(SegmentReader(mended, DEK).records()) == records


def test_what_can_not_be_packed_changes_nothing(signer: Signer) -> None:
    writer = SegmentWriter(header(signer), DEK, signer)
    data = writer.preamble
    for bad in (object(), 1 << 70, {"a": {1, 2}}):
        with pytest.raises((TypeError, OverflowError, ValueError)):
            writer.events([(0, Kind.OUTPUT, 0, b"fine"), (0, Kind.OUTPUT, 0, bad)], PACKER)
    with pytest.raises(ValueError, match="65535"):
        writer.events([], PACKER)
    with pytest.raises(ValueError, match="65535"):
        writer.events([(0, Kind.OUTPUT, 0, b"")] * (MAX_COUNT + 1), PACKER)
    with pytest.raises(ValueError, match="too long"):
        writer.events([(0, Kind.OUTPUT, 0, bytes(9 << 20))], PACKER)
    data += writer.events([(0, Kind.OUTPUT, 0, b"fine")] * MAX_COUNT, PACKER)
    assert len(list(SegmentReader(data, DEK).records())) == MAX_COUNT


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_no_segment(data: bytes) -> None:
    with pytest.raises(FormatError):
        scan(data)
    with pytest.raises(FormatError):
        scan(b"PXR1\x01\x00" + data)
    assert isinstance(marks_of(io.BytesIO(data), len(data)), list)


@pytest.mark.parametrize("number", [-1, 1 << 32, (1 << 64) - 1])
def test_a_segments_number_has_32_bits(signer: Signer, number: int) -> None:
    """It goes into nonces and signed messages as such: a larger one is refused before it gets there."""
    with pytest.raises(FormatError, match="number"):
        read_header(SegmentWriter(replace(header(signer), number=number), DEK, signer).preamble)
    largest = replace(header(signer), number=(1 << 32) - 1)
    assert read_header(SegmentWriter(largest, DEK, signer).preamble)[0] == largest


def test_a_frame_flag_or_count_can_not_be_changed(signer: Signer) -> None:
    """The head is in the chain, and again in the AAD: even with a chain made anew it does not open."""
    writer = SegmentWriter(header(signer), DEK, signer)
    before = writer.chain
    frame = bytearray(writer.events([(0, Kind.OUTPUT, 0, b"x")], PACKER))
    frame[6] = 2  # it now says it holds two records
    chain = link(before, bytes(frame[:HEAD_BYTES]), bytes(frame[HEAD_BYTES:-CHAIN_KEPT]))
    forged = writer.preamble + frame[:-CHAIN_KEPT] + chain[:CHAIN_KEPT]
    assert scan(forged).records == 2
    with pytest.raises(FormatError):
        list(SegmentReader(forged, DEK).records())


LINE = "-rw-r--r-- 1 root root {size:>8} Nov 21 {hour:02}:{minute:02} {name}\r\n"


def two_hours(draw: random.Random) -> Iterator[tuple[int, Kind, int, bytes]]:
    """A person at a shell: every 10 s on average a command, typed, echoed, and answered with 2 KB of listing."""
    at = 0
    while at < 7200_000_000:
        at += int(draw.expovariate(1 / 7e6))
        for letter in draw.choice(["ls -la /srv/data", "systemctl status", "tail -n 30 app.log", "cd .."]):
            at += draw.randrange(80_000, 300_000)
            yield at, Kind.INPUT, 1, letter.encode()
            yield at + 2000, Kind.OUTPUT, 1, letter.encode()
        yield at + 100_000, Kind.INPUT, 1, b"\r"
        for _ in range(draw.randrange(60)):
            name = draw.randbytes(draw.randrange(3, 12)).hex()
            size, hour, minute = draw.randrange(10**7), draw.randrange(24), draw.randrange(60)
            yield (
                at + 101_000,
                Kind.OUTPUT,
                1,
                LINE.format(size=size, hour=hour, minute=minute, name=name).encode(),
            )
        at += 101_000


def test_two_hours_of_interactive_work_fit_in_three_megabytes(signer: Signer) -> None:
    """As the recorder does it: a block each 250 ms, a stream freed after 5 s, a checkpoint each 10 s, a roll each 10 min."""
    size, raw, block, last, signed = 0, 0, [], 0, 0
    writer = SegmentWriter(header(signer), DEK, signer)
    for item in two_hours(random.Random(2)):
        if block and item[0] - block[0][0] >= 250_000:
            if block[0][0] - last > 5_000_000:
                writer.rest()
            if block[0][0] // 1000 - writer.header.start_ms > 600_000:
                writer.seal()
                size += writer.size
                writer = SegmentWriter(header(signer, start_ms=block[0][0] // 1000), DEK, signer)
            writer.events(block, PACKER)
            last, block = block[-1][0], []
            if last - signed >= 10_000_000:
                writer.checkpoint()
                signed = last
        raw += len(item[3])
        block.append(item)
    size += writer.size
    assert raw > 1_200_000
    assert size <= 3_000_000
