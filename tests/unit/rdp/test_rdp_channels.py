import pytest

from proxyd.protocols.rdp import channels
from proxyd.protocols.rdp.channels import (
    ChannelFlag,
    ChannelMessage,
    DynamicData,
    DynamicReassembly,
    Reassembly,
)
from proxyd.protocols.rdp.wire import WireError
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M16")


@pytest.mark.parametrize("size", [0, 1, 1599, 1600, 1601, 5000])
def test_message_goes_into_chunks_and_comes_back(size):
    message = bytes(number & 0xFF for number in range(size))
    chunks = channels.build_chunks(message, ChannelFlag.SHOW_PROTOCOL)
    assert all(len(chunk) <= 1608 for chunk in chunks)
    reassembly = Reassembly()
    found = [reassembly.feed(chunk) for chunk in chunks]
    assert found[:-1] == [None] * (len(chunks) - 1)
    assert found[-1] == ChannelMessage(size, message)
    assert found[-1].whole
    assert reassembly.held == 0


def test_long_message_is_cut_and_says_so():
    reassembly = Reassembly(limit=2000)
    found = [reassembly.feed(chunk) for chunk in channels.build_chunks(b"x" * 100_000)][-1]
    assert found == ChannelMessage(100_000, b"x" * 2000)
    assert not found.whole


def test_what_is_kept_is_bounded_whatever_the_length_says():
    reassembly = Reassembly(limit=5000)
    reassembly.feed(b"\xff\xff\xff\xff\1\0\0\0" + bytes(1600))
    for _ in range(100):
        reassembly.feed(b"\xff\xff\xff\xff\0\0\0\0" + bytes(1600))
    assert reassembly.held == 5000


def test_suspend_outside_of_messages_is_nothing():
    assert Reassembly().feed(b"\0\0\0\0\x20\0\0\0") is None


WRONG = {
    "short": [b"\1\0\0\0\3\0\0"],
    "no beginning": [b"\1\0\0\0\2\0\0\0a"],
    "two beginnings": [b"\2\0\0\0\1\0\0\0a", b"\2\0\0\0\1\0\0\0a"],
    "longer than it said": [b"\1\0\0\0\3\0\0\0ab"],
    "shorter than it said": [b"\3\0\0\0\3\0\0\0ab"],
    "compressed": [b"\2\0\0\0\3\0\x20\0ab"],
}


@pytest.mark.parametrize("chunks", WRONG.values(), ids=WRONG)
def test_wrong_chunks_are_refused(chunks):
    reassembly = Reassembly()
    with pytest.raises(WireError):
        for chunk in chunks:
            reassembly.feed(chunk)


def test_dynamic_channels_of_the_specification():
    assert channels.parse_dynamic(seeds.DYNAMIC_CAPABILITIES, from_server=True) == channels.Capabilities(2)
    assert channels.parse_dynamic(seeds.DYNAMIC_CREATE, from_server=True) == channels.Create(3, "testdvc")
    assert channels.parse_dynamic(seeds.DYNAMIC_CREATED, from_server=False) == channels.Created(3, 0)
    assert channels.parse_dynamic(seeds.DYNAMIC_CLOSE, from_server=True) == channels.Close(3)
    assert channels.build_created(channels.Created(3, 0)) == seeds.DYNAMIC_CREATED
    assert channels.build_close(3) == seeds.DYNAMIC_CLOSE


def test_refused_channel():
    refused = channels.Created(70_000, -0x7FFFFFFF)
    assert channels.parse_dynamic(channels.build_created(refused), from_server=False) == refused


@pytest.mark.parametrize("channel", [0, 255, 256, 65535, 65536])
@pytest.mark.parametrize("size", [0, 10, 1590, 1600, 4000])
def test_dynamic_messages_go_into_pieces_and_come_back(channel, size):
    message = bytes(number & 0xFF for number in range(size))
    reassembly, found = DynamicReassembly(), []
    for piece in channels.build_dynamic_data(channel, message):
        assert len(piece) <= 1600
        found.append(reassembly.feed(channels.parse_dynamic(piece, from_server=True)))
    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] == ChannelMessage(size, message)
    assert reassembly.held == 0


def test_messages_of_several_dynamic_channels_at_once():
    reassembly = DynamicReassembly()
    assert reassembly.feed(DynamicData(1, b"a", 2)) is None
    assert reassembly.feed(DynamicData(2, b"whole")) == ChannelMessage(5, b"whole")
    assert reassembly.feed(DynamicData(3, b"b", 2)) is None
    assert reassembly.held == 2
    assert reassembly.feed(DynamicData(1, b"c")) == ChannelMessage(2, b"ac")
    reassembly.close(3)
    assert reassembly.held == 0


def test_dynamic_messages_are_bounded():
    reassembly = DynamicReassembly(limit=10)
    assert reassembly.feed(DynamicData(1, bytes(20))) == ChannelMessage(20, bytes(10))
    with pytest.raises(WireError):
        reassembly.feed(DynamicData(1, b"abc", 2))
    with pytest.raises(WireError):
        for channel in range(1000):
            reassembly.feed(DynamicData(channel + 10, b"", 100))


def test_dynamic_message_inside_another_is_refused():
    reassembly = DynamicReassembly()
    reassembly.feed(DynamicData(1, b"a", 2))
    with pytest.raises(WireError):
        reassembly.feed(DynamicData(1, b"a", 2))


def test_version_with_compression_is_not_spoken():
    assert channels.limit_version(b"\x50\0\3\0") == b"\x50\0\2\0"
    assert channels.limit_version(seeds.DYNAMIC_CAPABILITIES) == seeds.DYNAMIC_CAPABILITIES
    with pytest.raises(WireError):
        channels.limit_version(b"\x50\0\3")


def test_later_commands_are_named_not_read():
    assert channels.parse_dynamic(b"\x70\1\2", from_server=True) == channels.Other(
        channels.Dynamic.DATA_COMPRESSED
    )


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x13\1\2\3\4\0",
        b"\x10",
        b"\x10\1name",
        b"\x10\1" + b"n" * 300 + b"\0",
        b"\x20\1",
        b"\x2c\1abc",
        b"\x50\0\2",
        b"\x11\1",
    ],
)
def test_wrong_dynamic_messages_are_refused(message):
    with pytest.raises(WireError):
        channels.parse_dynamic(message, from_server=True)
