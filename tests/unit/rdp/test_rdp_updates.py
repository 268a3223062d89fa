"""Updates on both paths, fragments, and what is in them."""

import pytest

from proxyd.protocols.rdp import fastpath, updates
from proxyd.protocols.rdp.fastpath import MAX_UPDATE, Fragment, Fragments, Update, UpdateCode
from proxyd.protocols.rdp.updates import Bitmap, BitmapFlag, PointerShape
from proxyd.protocols.rdp.wire import WireError

pytestmark = pytest.mark.mission("M16")

RAW = Bitmap(0, 1, 3, 2, 4, 2, 32, 0, b"\x11" * 32)
PLANAR = Bitmap(8, 8, 11, 9, 4, 2, 32, BitmapFlag.COMPRESSION | BitmapFlag.NO_COMPRESSION_HDR, b"\x10abc")


def test_updates_of_a_frame():
    several = [
        Update(UpdateCode.BITMAP, Fragment.SINGLE, 0, updates.build_bitmaps([RAW, PLANAR])),
        Update(UpdateCode.POINTER_NULL, Fragment.SINGLE, 0, b""),
        Update(UpdateCode.BITMAP, Fragment.FIRST, 0x61, b"deflated"),
    ]
    frame = fastpath.build_output(several)
    assert fastpath.parse_output(frame) == several
    for end in range(len(frame)):
        with pytest.raises(WireError):
            fastpath.parse_output(frame[:end])
    assert fastpath.parse_output(b"\0\3\5\0\0"[:1] + b"\5\5\0\0") == [
        Update(UpdateCode.POINTER_NULL, 0, 0, b"")
    ]


def test_long_frames_have_two_bytes_of_length():
    frame = fastpath.build_output([Update(UpdateCode.BITMAP, 0, 0, bytes(200))])
    assert frame[1] & 0x80
    assert fastpath.parse_output(frame)[0].data == bytes(200)
    for size in (0x7FFF, 0x8000):
        with pytest.raises(WireError):
            fastpath.build_output([Update(UpdateCode.BITMAP, 0, 0, bytes(size))])


@pytest.mark.parametrize("text", ["8005050000", "0005050100", "00050504", "0305050000"])
def test_wrong_frames_are_refused(text):
    with pytest.raises(WireError):
        fastpath.parse_output(bytes.fromhex(text))


def test_fragments_are_put_together():
    fragments = Fragments()
    assert fragments.feed(1, Fragment.SINGLE, b"x") == b"x"
    assert fragments.feed(1, Fragment.FIRST, b"a") is None
    assert fragments.feed(1, Fragment.NEXT, b"b") is None
    assert fragments.held == 2
    assert fragments.feed(1, Fragment.LAST, b"c") == b"abc"
    assert fragments.held == 0


@pytest.mark.parametrize(
    "order",
    [[Fragment.NEXT], [Fragment.LAST], [Fragment.FIRST, Fragment.FIRST], [Fragment.FIRST, Fragment.SINGLE]],
)
def test_fragments_out_of_order_are_refused(order):
    fragments = Fragments()
    with pytest.raises(WireError):
        for fragment in order:
            fragments.feed(1, fragment, b"x")


def test_fragments_of_another_update_are_refused():
    fragments = Fragments()
    fragments.feed(1, Fragment.FIRST, b"x")
    with pytest.raises(WireError):
        fragments.feed(4, Fragment.NEXT, b"x")


def test_endless_fragments_are_refused():
    fragments, piece = Fragments(), bytes(1 << 20)
    fragments.feed(1, Fragment.FIRST, piece)
    with pytest.raises(WireError):
        for _ in range(MAX_UPDATE // len(piece)):
            fragments.feed(1, Fragment.NEXT, piece)
    assert fragments.held <= MAX_UPDATE


def test_bitmaps():
    data = updates.build_bitmaps([RAW, PLANAR])
    assert updates.update_type(data) == updates.UpdateType.BITMAP
    assert updates.parse_bitmaps(data) == [RAW, PLANAR]
    assert (RAW.compressed, PLANAR.compressed) == (False, True)
    for end in range(len(data)):
        with pytest.raises(WireError):
            updates.parse_bitmaps(data[:end])


def test_compression_header_of_old_servers_is_no_data():
    old = PLANAR._replace(flags=int(BitmapFlag.COMPRESSION), data=bytes(8) + b"\x10abc")
    (found,) = updates.parse_bitmaps(updates.build_bitmaps([old]))
    assert found.data == b"\x10abc"
    with pytest.raises(WireError):
        updates.parse_bitmaps(updates.build_bitmaps([old._replace(data=bytes(7))]))


def test_palette():
    data = b"\2\0\0\0\2\0\0\0" + bytes((1, 2, 3, 4, 5, 6))
    assert updates.parse_palette(data) == [(1, 2, 3), (4, 5, 6)]
    for wrong in (data[:-1], b"\1" + data[1:], b"\2\0\0\0\1\1\0\0" + bytes(771)):
        with pytest.raises(WireError):
            updates.parse_palette(wrong)


def test_pointers_of_the_slow_path():
    color = b"\5\0\1\0\2\0\x20\0\x20\0\2\0\3\0xorab"
    shape = PointerShape(24, 5, 1, 2, 32, 32, b"xor", b"ab")
    assert updates.parse_pointer(b"\6\0\0\0" + color) == shape
    assert updates.parse_pointer(b"\x08\0\0\0\x20\0" + color) == shape._replace(depth=32)
    assert updates.parse_pointer(b"\x01\0\0\0\0\x7f\0\0") == updates.SystemPointer(updates.SYSTEM_DEFAULT)
    assert updates.parse_pointer(b"\x03\0\0\0\x0a\0\x14\0") == updates.PointerPosition(10, 20)
    assert updates.parse_pointer(b"\x07\0\0\0\5\0") == updates.CachedPointer(5)
    for wrong in (
        b"",
        b"\x02\0\0\0",
        b"\6\0\0\0" + color[:-1],
        b"\7\0\0\0",
        b"\6\0\0\0" + b"\5\0\1\0\2\0\x81\1\x20\0\0\0\0\0",
    ):
        with pytest.raises(WireError):
            updates.parse_pointer(wrong)


def test_large_pointers_are_of_the_fast_path():
    data = b"\x20\0\5\0\1\0\2\0\x80\1\x80\1\2\0\0\0\3\0\0\0xorab"
    assert updates.large_pointer(data) == PointerShape(32, 5, 1, 2, 384, 384, b"xor", b"ab")
    with pytest.raises(WireError):
        updates.large_pointer(data[:-1])
