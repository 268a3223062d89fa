"""What is seen of a target's pictures without decoding them, and notices among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.protocols.rdp import channels, mcs
from proxyd.protocols.rdp.graphics import Command, Pdu, build, split
from proxyd.protocols.rdp.pipeline import OWN_SURFACE, Place, Watch
from proxyd.protocols.rdp.wire import Framer, u16, u32

pytestmark = pytest.mark.mission("M3", "M16")

CHANNEL, STATIC = 7, 1007
RESET = build(Command.RESETGRAPHICS, u32(640) + u32(480) + bytes(332))
CREATE = build(Command.CREATESURFACE, u16(3) + u16(640) + u16(480) + b"\x20")
MAP = build(Command.MAPSURFACETOOUTPUT, u16(3) + u16(0) + u32(10) + u32(20))
START = build(Command.STARTFRAME, u32(0) + u32(1))
END = build(Command.ENDFRAME, u32(1))
PICTURE = build(Command.WIRETOSURFACE_2, bytes(3000))
PLACE = Place(300, 40, 80, 30)
PIXELS = bytes(range(256)) * (80 * 30 * 4 // 256)


def single(*pdus: bytes) -> bytes:
    return b"\xe0\x04" + b"".join(pdus)


def several(data: bytes, size: int) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    head = b"\xe1" + u16(len(parts)) + u32(len(data))
    return head + b"".join(u32(len(part) + 1) + b"\x04" + part for part in parts)


def told(watch: Watch, message: bytes, piece: int = 1600) -> None:
    for at in range(0, len(message), piece):
        watch.feed(message[at : at + piece], len(message) if at == 0 else None)


def drawn() -> Watch:
    watch = Watch(CHANNEL, STATIC)
    told(watch, single(RESET, CREATE, MAP, START, PICTURE, END))
    assert watch.drawn_on
    assert watch.ready
    return watch


def messages(frames: bytes) -> list[Pdu]:
    """What frames of ours hold, read as a client does."""
    chunks, gathering, found = channels.Reassembly(), channels.DynamicReassembly(), []
    for frame in Framer().feed(frames):
        data = mcs.data_frame(frame)
        assert data is not None
        assert data.channel == STATIC
        message = chunks.feed(data.payload)
        if message is None:
            continue
        said = channels.parse_dynamic(message.data, from_server=True)
        assert isinstance(said, channels.DynamicData)
        assert said.channel == CHANNEL
        whole = gathering.feed(said)
        if whole is not None:
            assert whole.data[:2] == b"\xe0\x04"
            assert len(whole.data) <= 65_537
            found += split(whole.data[2:])
    return found


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 64, 1600, 10_000])
@pytest.mark.parametrize("size", [1, 5, 100, 65_535])
def test_it_is_followed_however_it_is_cut(piece: int, size: int) -> None:
    watch = Watch(CHANNEL, STATIC)
    told(watch, several(RESET + CREATE, size), piece)
    assert watch.size == (640, 480)
    assert not watch.drawn_on
    told(watch, single(MAP), piece)
    assert watch.drawn_on
    assert watch.ready
    told(watch, several(START + PICTURE, size), piece)
    assert not watch.ready
    told(watch, several(PICTURE + END, size), piece)
    assert watch.ready
    told(watch, single(build(Command.DELETESURFACE, u16(3))), piece)
    assert not watch.drawn_on


def test_nothing_stands_inside_a_message_of_the_targets() -> None:
    watch = drawn()
    message = single(PICTURE)
    watch.feed(message[:1600], len(message))
    assert not watch.ready
    watch.feed(message[1600:], None)
    assert watch.ready


@pytest.mark.parametrize(
    "message",
    [
        b"\xe0\x24\x00\x00",
        b"\xe1\x01\x00\x05\x00\x00\x00\x03\x00\x00\x00\x24\x00\x00",
        b"\xe2",
        b"\xe1\x00\x00\x05\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00",
        b"\xe1\x01\x00\x05\x00\x00\x00\x00\x00\x00\x00\x04",
        single(build(Command.STARTFRAME, bytes(8))[:4] + u32(7)),
    ],
)
def test_what_is_compressed_or_wrong_is_not_known_from_there_on(message: bytes) -> None:
    watch = drawn()
    told(watch, message)
    assert not watch.drawn_on
    told(watch, single(CREATE, MAP))
    assert not watch.drawn_on


def test_a_notice_is_a_surface_of_its_own_and_leaves_what_was_below() -> None:
    watch = drawn()
    shown = messages(watch.shown(PLACE, PIXELS))
    assert [one.command for one in shown[:3]] == [
        Command.CREATESURFACE, Command.MAPSURFACETOOUTPUT, Command.STARTFRAME,
    ]  # fmt: skip
    assert shown[0].body == u16(OWN_SURFACE) + u16(80) + u16(30) + b"\x20"
    assert shown[1].body == u16(OWN_SURFACE) + u16(0) + u32(300) + u32(40)
    pixels = b"".join(one.body[17:] for one in shown if one.command == Command.WIRETOSURFACE_1)
    assert pixels == PIXELS
    hidden = messages(watch.hidden(PLACE))
    assert [one.command for one in hidden] == [
        Command.DELETESURFACE, Command.STARTFRAME, Command.SURFACETOSURFACE, Command.ENDFRAME,
    ]  # fmt: skip
    where = u16(290) + u16(20) + u16(370) + u16(50)  # in the surface, which the desktop shows at 10, 20
    assert hidden[2].body == u16(3) + u16(3) + where + u16(1) + u16(290) + u16(20)
    assert messages(watch.hidden(PLACE))[0].command == Command.STARTFRAME


def test_a_large_notice_comes_in_strips() -> None:
    pixels = bytes(1000 * 200 * 4)
    shown = messages(drawn().shown(Place(0, 0, 1000, 200), pixels))
    strips = [one.body for one in shown if one.command == Command.WIRETOSURFACE_1]
    assert len(strips) > 1
    assert sum(len(one) - 17 for one in strips) == len(pixels)


def test_a_notice_is_raised_after_each_frame_and_shown_anew_after_a_reset() -> None:
    watch = drawn()
    assert watch.raised() == b""
    watch.shown(PLACE, PIXELS)
    assert not watch.covered
    told(watch, single(START, PICTURE, END))
    assert watch.covered
    raised = messages(watch.raised())
    assert [one.command for one in raised] == [Command.STARTFRAME, Command.SURFACETOSURFACE, Command.ENDFRAME]
    assert raised[1].body[:12] == u16(OWN_SURFACE) * 2 + u16(0) * 2 + u16(80) + u16(30)
    assert not watch.covered
    told(watch, single(RESET))
    assert watch.wiped
    assert messages(watch.shown(PLACE, PIXELS))[0].command == Command.DELETESURFACE
    assert not watch.wiped


@given(st.lists(st.tuples(st.binary(max_size=64), st.none() | st.integers(0, 200)), max_size=12))
def test_whatever_a_target_sends_is_taken(pieces: list[tuple[bytes, int | None]]) -> None:
    watch = Watch(CHANNEL, STATIC)
    for data, total in pieces:
        watch.feed(data, total)
        watch.feed(b"\xe0\x04" + data, None)
    assert len(watch._head) < 32
