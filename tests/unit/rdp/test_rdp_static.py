import pytest

from proxyd.access import Permit
from proxyd.config import Clipboard, ClipboardWay, Devices, Target
from proxyd.protocols.rdp import channels, gcc, mcs
from proxyd.protocols.rdp.channels import ChannelFlag
from proxyd.protocols.rdp.static import NOTHING, USER, Policy, StaticChannels, policy
from proxyd.protocols.rdp.wire import WireError
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M3", "M16")

OPEN = ClipboardWay(text="log", files="log", other="log")
RULES = {
    "clipboard": Clipboard(to_target=OPEN, to_client=OPEN),
    "devices": Devices(drives="log"),
    "static_channels": ["myapp"],
}
ALL = {"clipboard", "clipboard-files", "devices"}


def permit(*granted, **rules):
    target = Target(address="desk:3389", protocol="rdp", **{**RULES, **rules})
    return Permit("alice", target, "svc", frozenset(granted), None)


def test_a_target_decides_as_far_as_the_grant_goes():
    assert policy(permit(*ALL)) == Policy(RULES["clipboard"], RULES["devices"], frozenset({"myapp"}))
    without_files = policy(permit("clipboard")).clipboard
    assert (
        without_files.to_target
        == without_files.to_client
        == ClipboardWay(text="log", files="deny", other="log")
    )
    assert policy(permit("clipboard")).devices == Devices()
    closed = policy(permit("shell", "clipboard-files", "devices"))
    assert closed.clipboard == Clipboard(to_target=NOTHING, to_client=NOTHING)
    assert closed.devices == RULES["devices"]


def test_channels_the_target_hears_of():
    names = ["rdpdr", "RDPSND", "cliprdr", "cliprdr", "drdynvc", "rail", "myapp", ""]
    assert policy(permit(*ALL)).admits(names) == [True, True, True, False, True, False, True, False]
    shut = policy(permit("devices"))
    assert shut.admits(["cliprdr", "rdpdr"]) == [False, True]
    assert policy(permit(*ALL, devices=Devices())).admits(["rdpdr"]) == [
        True
    ]  # servers play no sound without it
    way = Clipboard(to_target=NOTHING, to_client=ClipboardWay(text="allow", files="deny", other="deny"))
    assert policy(permit(*ALL, clipboard=way)).admits(["cliprdr"]) == [True]


def test_channels_are_taken_out_of_what_the_client_asks_for():
    blocks = gcc.parse_create_request(mcs.parse_connect_initial(seeds.CONNECT_INITIAL).user_data)
    before = gcc.channels(blocks)
    kept = [place % 2 == 0 for place in range(len(before))]
    assert gcc.channels(gcc.keep_channels(blocks, kept)) == before[::2]
    assert gcc.channels(gcc.keep_channels(blocks, [False] * len(before))) == ()


def frame(payload, *, to_server=True):
    data = mcs.Data(USER if to_server else mcs.SERVER_USER, 1004, payload)
    return mcs.build_data(data, to_server=to_server), data


def test_a_further_channel_passes_as_it_is():
    static = StaticChannels()
    for payload in channels.build_chunks(b"whatever it is " * 500):
        whole, data = frame(payload)
        assert static.from_client(whole, data, "myapp", closed=False) == ([whole], [])
        back, data = frame(payload, to_server=False)
        assert static.from_target(back, data, "myapp", closed=True) == [back]


@pytest.mark.parametrize("name", ["cliprdr", "rdpdr", "myapp"])
@pytest.mark.parametrize(
    ("total", "flags", "body"),
    [
        (4, ChannelFlag.FIRST | ChannelFlag.LAST, b"12345"),
        (9, ChannelFlag.FIRST | ChannelFlag.LAST, b"12345"),
        (9, ChannelFlag.LAST, b"12345"),
        (5, ChannelFlag.FIRST | ChannelFlag.LAST | ChannelFlag.PACKET_COMPRESSED, b"12345"),
    ],
)
def test_chunks_that_are_wrong(name, total, flags, body):
    payload = total.to_bytes(4, "little") + int(flags).to_bytes(4, "little") + body
    with pytest.raises(WireError):
        StaticChannels().from_client(*frame(payload), name, closed=False)


def test_a_message_that_begins_inside_another():
    static = StaticChannels()
    begun, _ = channels.build_chunks(b"x" * 3000)
    static.from_client(*frame(begun), "myapp", closed=False)
    with pytest.raises(WireError, match="inside"):
        static.from_client(*frame(begun), "myapp", closed=False)


def test_what_stands_outside_of_messages_meets_a_shut_gate_too():
    suspend = bytes(4) + int(ChannelFlag.SUSPEND).to_bytes(4, "little")
    whole, data = frame(suspend)
    assert StaticChannels().from_client(whole, data, "myapp", closed=False)[0] == [whole]
    assert StaticChannels().from_client(whole, data, "myapp", closed=True)[0] == []
