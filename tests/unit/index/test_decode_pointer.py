"""Pointers: masks become a shape, shapes are kept by their index, and what is no pointer is a WireError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.index.rdp.pointer import MAX_CACHED, Pointer, Shape
from proxyd.protocols.rdp.updates import (
    SYSTEM_DEFAULT,
    SYSTEM_NULL,
    CachedPointer,
    PointerPosition,
    PointerShape,
    SystemPointer,
)
from proxyd.protocols.rdp.wire import WireError

pytestmark = pytest.mark.mission("M16")

NOTHING, BLACK, WHITE = bytes(4), b"\0\0\0\xff", b"\xff\xff\xff\xff"


def sent(
    depth: int, width: int, height: int, xor_mask: bytes, and_mask: bytes, cache: int = 0
) -> PointerShape:
    return PointerShape(depth, cache, 1, 2, width, height, xor_mask, and_mask)


def drawn(update: PointerShape) -> Shape:
    pointer = Pointer()
    pointer.take(update)
    assert pointer.shape is not None
    return pointer.shape


def test_one_bit_a_pixel_has_the_top_row_first() -> None:
    # and: 1100, xor: 1010: the screen's inverse, the screen, white, black; then black all over
    shape = drawn(sent(1, 4, 2, b"\xa0\0\0\0", b"\xc0\0\0\0"))
    assert shape == Shape(4, 2, 1, 2, BLACK + NOTHING + WHITE + BLACK + BLACK * 4)


def test_24_bits_have_the_bottom_row_first_and_rows_of_whole_words() -> None:
    bottom, top = b"\x01\x02\x03\0", b"\x04\x05\x06\0"
    shape = drawn(sent(24, 1, 2, bottom + top, b"\0\0\0\0"))
    assert shape.rgba == b"\x06\x05\x04\xff\x03\x02\x01\xff"


def test_masked_black_is_the_screen_and_masked_white_its_inverse() -> None:
    xor_mask = b"\0\0\0" + b"\xff\xff\xff" + b"\x01\x02\x03\0"
    assert drawn(sent(24, 3, 1, xor_mask, b"\xe0\0")).rgba == NOTHING + BLACK + b"\x03\x02\x01\xff"


def test_32_bits_have_their_own_alpha_and_16_bits_are_widened() -> None:
    assert drawn(sent(32, 1, 1, b"\x01\x02\x03\x80", b"")).rgba == b"\x03\x02\x01\x80"
    assert drawn(sent(16, 2, 1, b"\x00\xf8\xe0\x07", b"\0\0")).rgba == b"\xff\0\0\xff\0\xff\0\xff"


def test_a_pointer_hides_comes_back_and_moves() -> None:
    pointer = Pointer()
    assert (pointer.visible, pointer.shape) == (True, None)
    first, second = sent(32, 1, 1, b"\1\1\1\1", b"", cache=3), sent(32, 1, 1, b"\2\2\2\2", b"", cache=4)
    pointer.take(first)
    pointer.take(second)
    pointer.take(SystemPointer(SYSTEM_NULL))
    assert not pointer.visible
    pointer.take(CachedPointer(3))
    assert pointer.visible
    assert pointer.shape == drawn(first)
    pointer.take(SystemPointer(SYSTEM_DEFAULT))
    assert (pointer.visible, pointer.shape) == (True, None)
    pointer.take(PointerPosition(5, 6))
    assert (pointer.x, pointer.y) == (5, 6)


def test_a_cache_ends() -> None:
    pointer = Pointer()
    pointer.take(sent(32, 1, 1, b"\1\1\1\1", b"", cache=MAX_CACHED))
    assert pointer.shape is not None
    with pytest.raises(WireError):
        pointer.take(CachedPointer(MAX_CACHED))


@pytest.mark.parametrize(
    "update",
    [
        sent(8, 1, 1, bytes(4), bytes(2)),
        sent(24, 0, 1, bytes(4), bytes(2)),
        sent(24, 1, 0, bytes(4), bytes(2)),
        sent(24, 2, 2, bytes(11), bytes(4)),
        sent(24, 2, 2, bytes(12), bytes(3)),
        CachedPointer(1),
    ],
)
def test_what_is_no_pointer_is_refused(update: PointerShape | CachedPointer) -> None:
    pointer = Pointer()
    with pytest.raises(WireError):
        pointer.take(update)
    assert pointer.shape is None


@given(
    st.sampled_from([1, 16, 24, 32]), st.integers(1, 9), st.integers(1, 4), st.binary(max_size=160), st.binary(max_size=20)
)  # fmt: skip
def test_a_shape_is_as_large_as_it_says_or_refused(
    depth: int, width: int, height: int, xor_mask: bytes, and_mask: bytes
) -> None:
    try:
        shape = drawn(sent(depth, width, height, xor_mask, and_mask))
    except WireError:
        return
    assert len(shape.rgba) == width * height * 4


def test_where_reading_began_midway_a_shape_sent_before_is_no_fault() -> None:
    pointer = Pointer(midway=True)
    pointer.take(CachedPointer(3))
    assert (pointer.visible, pointer.shape) == (True, None)
