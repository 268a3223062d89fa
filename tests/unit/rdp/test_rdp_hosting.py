import pytest
from PIL import Image, ImageChops

from proxyd.protocols.rdp import capabilities, events, fastpath, mcs, painting, share
from proxyd.protocols.rdp.events import Mouse, Pointer, Scancode
from proxyd.protocols.rdp.hosting import LEAST, MOST, Host, Stage
from proxyd.protocols.rdp.mcs import Data
from proxyd.protocols.rdp.share import Action, ControlAction, ControlKind, DataKind, Rectangle, ShareData
from proxyd.protocols.rdp.static import USER
from proxyd.protocols.rdp.wire import Framer, WireError
from proxyd.recorder.record import Kind, Record
from tests.fuzz import seeds_rdp as seeds

KEY = fastpath.build_input([Scancode(0x1E)])
CONFIRM = seeds.CONFIRM_ACTIVE
COLOUR = (24, 34, 48)


def said(payload, channel=mcs.GLOBAL_CHANNEL):
    return mcs.build_data(Data(USER, channel, payload), to_server=True)


def data(kind, body):
    return said(share.build_share_data(ShareData(capabilities.OUR_SHARE, USER, kind, body)))


REQUEST = data(DataKind.CONTROL, share.control_action(ControlAction(Action.REQUEST_CONTROL)))
FONTS = data(DataKind.FONT_LIST, share.FONT_LIST)


def answers(host):
    """What it has said since the last time: kinds of its controls and data, in order."""
    kinds = []
    for frame in host.out:
        assert Framer().feed(frame) == [frame]
        kinds += [
            share.share_data(control).kind if control.kind == ControlKind.DATA else control.kind
            for control in share.split(mcs.data_frame(frame).payload)
        ]
    host.out.clear()
    return kinds


@pytest.fixture
def host():
    made = Host(801, 603, 32)
    made.begin()
    del made.out[0]  # licensing, which is no share control
    return made


@pytest.fixture
def active(host):
    for frame in (said(CONFIRM), REQUEST, FONTS):
        host.take(frame)
    host.out.clear()
    return host


def test_the_connection_is_finished_as_servers_do(host):
    assert answers(host) == [ControlKind.DEMAND_ACTIVE]
    assert host.take(KEY).events == ()  # nobody's yet
    host.take(said(CONFIRM))
    assert answers(host) == [DataKind.SYNCHRONIZE, DataKind.CONTROL]
    host.take(data(DataKind.SYNCHRONIZE, share.synchronize(mcs.SERVER_USER)))
    host.take(data(DataKind.CONTROL, share.control_action(ControlAction(Action.COOPERATE))))
    assert answers(host) == []
    host.take(REQUEST)
    assert answers(host) == [DataKind.CONTROL]
    assert host.take(FONTS).repaint
    assert answers(host) == [DataKind.FONT_MAP, DataKind.POINTER]
    assert host.stage is Stage.ACTIVE
    host.take(FONTS)
    host.take(said(CONFIRM))
    assert answers(host) == []


def test_input_comes_by_both_paths(active):
    did = [Scancode(0x1E), Mouse(Pointer.MOVE, 5, 6)]
    assert active.take(fastpath.build_input(did)).events == tuple(did)
    assert active.take(data(DataKind.INPUT, events.build_input(did))).events == tuple(did)


def test_a_client_that_lost_the_picture_gets_it_again(active):
    area = Rectangle(0, 0, 9, 9)
    assert active.take(data(DataKind.REFRESH_RECT, share.refresh_rect([area]))).repaint
    assert active.take(data(DataKind.SUPPRESS_OUTPUT, share.suppress_output(area))).repaint
    assert not active.take(data(DataKind.SUPPRESS_OUTPUT, share.suppress_output(None))).repaint
    assert active.take(said(b"for a channel nobody opened", mcs.GLOBAL_CHANNEL + 1)) == ((), False)


@pytest.mark.parametrize(
    "frame",
    [mcs.build_message(mcs.Disconnect(mcs.Reason.USER_REQUESTED)), data(DataKind.SHUTDOWN_REQUEST, b"")],
)
def test_a_client_may_leave(active, frame):
    active.take(frame)
    assert active.stage is Stage.LEFT


@pytest.mark.parametrize(
    "frame",
    [
        seeds.ATTACH_USER,
        said(seeds.DEMAND_ACTIVE),
        said(share.deactivate_all(1, 2)),
        data(DataKind.INPUT, b"\1"),
        b"\x04\x04\xe0\x01",
        said(CONFIRM[:-9]),
    ],
)
def test_a_client_that_breaks_the_protocol(host, frame):
    with pytest.raises(WireError):
        host.take(frame)


def test_a_client_does_not_compress(host):
    frame = bytearray(FONTS)
    frame[bytes(frame).index(bytes((DataKind.FONT_LIST,)), 20) + 1] = share.Compression.COMPRESSED
    with pytest.raises(WireError, match="compressed"):
        host.take(bytes(frame))


@pytest.mark.parametrize(("said", "has"), [(0, LEAST), (1, LEAST), (1024, 1024), (65535, MOST)])
def test_sizes_are_bounded_whatever_a_client_says(said, has):
    host = Host(said, said, 16)
    host.begin()
    (control,) = share.split(mcs.data_frame(host.out[1]).payload)
    assert capabilities.desktop(capabilities.parse_demand_active(control)) == (has, has, 16)


@pytest.mark.parametrize("depth", [16, 32])
@pytest.mark.parametrize("size", [(1920, 1080), (200, 200), (801, 603)])
def test_what_is_painted_is_what_decoders_show(depth, size):
    pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")
    from proxyd.index.rdp.screen import Screen  # noqa: PLC0415 - needs the decoder

    host = Host(*size, depth)
    host.begin()
    backdrop = list(painting.backdrop(COLOUR, *size, depth))
    assert sum(len(one.data) for one in backdrop) < size[0] * size[1] // 4  # of 2 and 4 bytes a pixel
    host.paint(backdrop)
    card = Image.effect_noise((120, 90), 80).convert("RGB")
    host.paint(painting.strips(card, 40, 50, depth))
    screen = Screen()
    for number, frame in enumerate(host.out):
        screen.feed(Record(number, number, Kind.PDU, 0, frame))
    assert screen.faults == 0
    width, height, rgb = screen.picture()
    wanted = Image.new("RGB", size, COLOUR)
    wanted.paste(card, (40, 50))
    differing = ImageChops.difference(Image.frombytes("RGB", (width, height), rgb), wanted)
    assert max(high for _, high in differing.getextrema()) < (9 if depth == 16 else 1)
