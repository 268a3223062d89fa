"""Input events on both paths."""

import pytest

from proxyd.protocols.rdp import events, fastpath
from proxyd.protocols.rdp.events import (
    Extended,
    ExtendedMouse,
    Mouse,
    Pointer,
    Quality,
    RelativeMouse,
    Scancode,
    Sync,
    Toggle,
    Unicode,
)
from proxyd.protocols.rdp.wire import WireError

pytestmark = pytest.mark.mission("M16")

ALL = [
    Scancode(0x1E),
    Scancode(0x1E, released=True),
    Scancode(0x1D, released=True, extended=True),
    Scancode(0x1D, extended1=True),
    Unicode(0x20AC),
    Unicode(0x20AC, released=True),
    Mouse(Pointer.MOVE, 640, 400),
    Mouse(Pointer.BUTTON1 | Pointer.DOWN, 0, 65535),
    ExtendedMouse(Extended.XBUTTON1 | Extended.DOWN, 5, 6),
    RelativeMouse(Pointer.MOVE, -3, 70),
    Sync(Toggle.CAPS_LOCK | Toggle.NUM_LOCK),
]


def test_both_paths_say_the_same():
    assert events.parse_input(events.build_input(ALL)) == ALL
    assert fastpath.parse_input(fastpath.build_input(ALL)) == ALL


def test_the_fast_path_has_an_event_the_slow_one_has_not():
    quality = Quality(0x12345678)
    assert fastpath.parse_input(fastpath.build_input([quality])) == [quality]
    assert events.parse_input(events.build_input([quality])) == []


@pytest.mark.parametrize("count", [1, 15, 16, 62, 63, 64, 255])
def test_as_many_events_as_a_frame_can_count(count):
    keys = [Scancode(number & 0x7F) for number in range(count)]
    frame = fastpath.build_input(keys)
    assert frame[0] >> 2 == (count if count < 16 else 0)
    assert fastpath.parse_input(frame) == keys


@pytest.mark.parametrize("count", [0, 256])
def test_more_events_are_not_written(count):
    with pytest.raises(WireError):
        fastpath.build_input([Scancode(1)] * count)


def test_frames_as_clients_send_them():
    assert fastpath.parse_input(bytes.fromhex("0404001d")) == [Scancode(0x1D)]
    assert fastpath.parse_input(bytes.fromhex("08060 11d 031d".replace(" ", ""))) == [
        Scancode(0x1D, released=True),
        Scancode(0x1D, released=True, extended=True),
    ]
    assert fastpath.parse_input(bytes.fromhex("040362")) == [Sync(Toggle.NUM_LOCK)]
    assert fastpath.parse_input(bytes.fromhex("04800a200008 80029001".replace(" ", ""))) == [
        Mouse(Pointer.MOVE, 640, 400)
    ]


WRONG = {
    "encrypted": "840401 1d",
    "signed": "4404001d",
    "shorter than it says": "0405001d",
    "longer than it says": "0403001d",
    "event cut short": "0403 00",
    "event of unknown kind": "0403e0",
    "fewer events": "0806001d001d00",
    "more events": "0406001d001d",
    "no frame": "0302",
    "count missing": "0002",
    "two bytes": "0402",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_wrong_frames_are_refused(text):
    with pytest.raises(WireError):
        fastpath.parse_input(bytes.fromhex(text.replace(" ", "")))


def test_slow_path_as_the_specification_has_it():
    body = bytes.fromhex(
        "0200 0000 00000000 0400 0080 1e00 0000 00000000 0180 0008 8002 9001".replace(" ", "")
    )
    assert events.parse_input(body) == [Scancode(0x1E, released=True), Mouse(Pointer.MOVE, 640, 400)]


@pytest.mark.parametrize("text", ["", "0100 0000", "0100 0000 00000000 0900 0000 0000 0000", "0000 0000 00"])
def test_wrong_slow_path_input_is_refused(text):
    with pytest.raises(WireError):
        events.parse_input(bytes.fromhex(text.replace(" ", "")))


def test_nothing_is_held_after_the_releases():
    released = events.releases(10, 20)
    assert {(key.code, key.extended) for key in released if isinstance(key, Scancode)} == {
        (0x1D, False), (0x2A, False), (0x36, False), (0x38, False), (0x1D, True), (0x38, True), (0x5B, True), (0x5C, True),
    }  # fmt: skip
    assert all(key.released for key in released if isinstance(key, Scancode))
    mice = [event for event in released if isinstance(event, Mouse | ExtendedMouse)]
    assert len(mice) == 5
    assert all(
        event.flags and not event.flags & Pointer.DOWN and (event.x, event.y) == (10, 20) for event in mice
    )
    assert fastpath.parse_input(fastpath.build_input(released)) == list(released)
