"""One rectangle becomes the pixels the target meant, in every coding a target may use, or a WireError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.index.tape import bottom_up, planar, planes

from proxyd.index.rdp import bitmap
from proxyd.protocols.rdp.wire import WireError

pytestmark = pytest.mark.mission("M16")

BLACK, WHITE, RED, GREEN = 0x0000, 0xFFFF, 0xF800, 0x07E0


@st.composite
def pictures(draw: st.DrawFn) -> tuple[int, int, bytes]:
    """Draw width, height and B, G, R, A rows of few enough colours that runs happen."""
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 5))
    colours = draw(st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=4))
    chosen = draw(
        st.lists(st.integers(0, len(colours) - 1), min_size=width * height, max_size=width * height)
    )
    return width, height, b"".join(colours[index] for index in chosen)


def colours(pixels: bytes | bytearray) -> list[bytes]:
    """Blue, green and red: the fourth byte means nothing."""
    return [planes(bytes(pixels))[name] for name in "bgr"]


def widened(value: int) -> bytes:
    """A pixel of 5, 6 and 5 bits as the decoder widens it."""
    red, green, blue = value >> 11, value >> 5 & 0x3F, value & 0x1F
    return bytes((blue << 3 | blue >> 2, green << 2 | green >> 4, red << 3 | red >> 2, 0xFF))


def rle(width: int, height: int, data: bytes) -> list[int]:
    """Decode 16 bits and give the pixels back as 16 bits."""
    values = {widened(value): value for value in (BLACK, WHITE, RED, GREEN, RED ^ WHITE, GREEN ^ WHITE)}
    decoded = bytes(bitmap.pixels(width, height, 16, data, compressed=True))
    return [values[decoded[at : at + 4]] for at in range(0, len(decoded), 4)]


def word(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}H", *values)


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("runs", [True, False])
@given(picture=pictures())
def test_planar_is_what_was_encoded(picture: tuple[int, int, bytes], alpha: bool, runs: bool) -> None:
    width, height, pixels = picture
    data = planar(pixels, width, alpha=alpha, runs=runs)
    assert colours(bitmap.pixels(width, height, 32, data, compressed=True)) == colours(pixels)


@given(picture=pictures())
def test_pixels_of_32_bits_are_turned_around(picture: tuple[int, int, bytes]) -> None:
    width, height, pixels = picture
    data = bottom_up(pixels, width * 4)
    assert bytes(bitmap.pixels(width, height, 32, data, compressed=False)) == pixels


@pytest.mark.parametrize("padded", [True, False])
@given(width=st.integers(1, 9), height=st.integers(1, 4), data=st.data())
def test_pixels_of_16_bits_with_and_without_padding(
    width: int, height: int, data: st.DataObject, padded: bool
) -> None:
    values = data.draw(st.lists(st.integers(0, 0xFFFF), min_size=width * height, max_size=width * height))
    rows = [word(*values[at : at + width]) for at in range(0, len(values), width)]
    sent = b"".join(row + bytes(padded and -len(row) % 4) for row in reversed(rows))
    decoded = bitmap.pixels(width, height, 16, sent, compressed=False)
    assert bytes(decoded) == b"".join(map(widened, values))


# MS-RDPBCGR 2.2.9.1.1.3.1.2.4; the bottom row comes first, so the first four of a result are the last four sent.
@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        pytest.param(b"\x84" + word(RED, GREEN, WHITE, BLACK) + b"\x04",
                     [RED, GREEN, WHITE, BLACK] * 2, id="colour image, then background: what is below"),
        pytest.param(b"\x68" + word(RED), [RED] * 8, id="colour run"),
        pytest.param(b"\x04\x24", [WHITE] * 4 + [BLACK] * 4, id="background is black, foreground is white at first"),
        pytest.param(b"\xc4" + word(RED) + b"\x24", [BLACK] * 4 + [RED] * 4, id="foreground set, then inverted by itself"),
        pytest.param(b"\x64" + word(GREEN) + b"\xc4" + word(WHITE), [GREEN ^ WHITE] * 4 + [GREEN] * 4, id="foreground on a row"),
        pytest.param(b"\xe2" + word(RED, GREEN) + b"\x04", [RED, GREEN] * 4, id="dithered run"),
        pytest.param(b"\xfd\xfe\xfd\xfe\x04", [WHITE, BLACK] * 4, id="white, black"),
        pytest.param(b"\x41\x05", [WHITE, BLACK] * 4, id="foreground or background by mask"),
        pytest.param(b"\x02\x02\x04", [BLACK, BLACK, WHITE, BLACK] * 2, id="background twice: one foreground between"),
        pytest.param(b"\xf3\x08\x00" + word(RED), [RED] * 8, id="a run with its length in two bytes"),
    ],
)  # fmt: skip
def test_interleaved_runs(data: bytes, pixels: list[int]) -> None:
    assert rle(4, 2, data) == pixels


@pytest.mark.parametrize("bits", [8, 15, 24, 0, 33])
def test_depths_nobody_asked_for_are_refused(bits: int) -> None:
    with pytest.raises(WireError):
        bitmap.pixels(2, 2, bits, bytes(64), compressed=False)


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (8193, 1), (1, 8193), (8192, 8192)])
def test_impossible_sizes_are_refused_before_anything_is_allocated(width: int, height: int) -> None:
    with pytest.raises(WireError):
        bitmap.pixels(width, height, 32, b"\x10", compressed=True)


@pytest.mark.parametrize("head", range(256))
def test_format_headers_are_pixels_or_refused(head: int) -> None:
    width, height = 3, 2
    data = bytes((head,)) + bytes(64)
    if head & 0x0F:
        with pytest.raises(WireError):
            bitmap.pixels(width, height, 32, data, compressed=True)
    elif not head & 0x10:
        assert not any(bitmap.pixels(width, height, 32, data, compressed=True))


def test_a_panic_of_the_decoder_is_a_wire_error() -> None:
    with pytest.raises(WireError):
        bitmap.pixels(2, 1, 32, b"\x10" + b"\xf2" * 40, compressed=True)  # runs beyond the last row


@given(
    st.integers(1, 20), st.integers(1, 20), st.sampled_from([16, 32]), st.binary(max_size=200), st.booleans()
)
def test_whatever_is_sent_is_pixels_or_a_wire_error(
    width: int, height: int, bits: int, data: bytes, compressed: bool
) -> None:
    try:
        decoded = bitmap.pixels(width, height, bits, data, compressed=compressed)
    except WireError:
        return
    assert len(decoded) == width * height * 4
