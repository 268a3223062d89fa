"""Frames: whatever bytes arrive, however they are cut, the result is messages or a FormatError."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxyd.control.client import Frames, pack_frame, unpack_records
from proxyd.errors import FormatError
from proxyd.recorder.record import Kind, Record

LIMIT = 4096
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
_messages = st.dictionaries(st.text(max_size=8), _values, max_size=4)


@settings(suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(st.lists(_messages, max_size=5), st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_messages_survive_any_cut(messages: list, cuts: list[int]) -> None:
    data = b"".join(pack_frame(message) for message in messages)
    frames, got, at, turn = Frames(1 << 20), [], 0, 0
    while at < len(data):
        step = cuts[turn % len(cuts)]
        got += frames.feed(data[at : at + step])
        at, turn = at + step, turn + 1
    assert got == messages
    assert not frames.partial


@given(st.binary(max_size=300))
def test_random_bytes_are_messages_or_a_format_error(data: bytes) -> None:
    try:
        assert all(isinstance(message, dict) for message in Frames(LIMIT).feed(data))
    except FormatError as error:
        assert str(error)


@given(st.binary(max_size=200))
def test_random_bodies_are_messages_or_a_format_error(body: bytes) -> None:
    try:
        (message,) = Frames(LIMIT).feed(len(body).to_bytes(4, "big") + body)
        assert all(isinstance(key, str) for key in message)
    except FormatError as error:
        assert str(error)


@given(st.binary(max_size=200))
def test_random_records_are_records_or_a_format_error(packed: bytes) -> None:
    try:
        assert all(isinstance(record, Record) for record in unpack_records(packed))
    except FormatError as error:
        assert str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"\x93\x01\x02\x03",  # a list
        b"\x81\x01\x02",  # a key that is no text
        b"\x81\x80\x01",  # a key that can't be hashed
        b"\xdf\xff\xff\xff\xff",  # four billion entries announced
        b"\x91" * 4000,  # nested deeper than a stack
        b"\xc1",  # a byte msgpack does not have
        b"\x81\xa1a",  # cut off
        b"\x81\xa1\xff\x01",  # text that is no UTF-8
        b"\x80\x80",  # more than one value
        b"",
    ],
)
def test_bad_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        Frames(LIMIT).feed(len(body).to_bytes(4, "big") + body)


def test_a_length_over_the_limit_is_refused_before_its_body_comes() -> None:
    with pytest.raises(FormatError, match="over the limit of 4096"):
        Frames(LIMIT).feed(b"\x00\x00\x10\x01")


def test_no_frame_over_the_limit_is_made() -> None:
    with pytest.raises(FormatError):
        pack_frame({"a": b"x" * LIMIT}, LIMIT)


def test_records_of_kinds_from_the_future_are_left_out() -> None:
    packed = msgpack.packb([[1, 0, 0, 0, {"id": "a"}], [2, 5, 250, 0, b""], [3, 9, 1, 2, b"out"]])
    assert unpack_records(packed) == [
        Record(1, 0, Kind.META, 0, {"id": "a"}),
        Record(3, 9, Kind.OUTPUT, 2, b"out"),
    ]
