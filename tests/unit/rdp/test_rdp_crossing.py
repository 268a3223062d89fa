import pytest

from proxyd.protocols.rdp import capabilities, channels, events, fastpath, graphics, info, mcs, share, sound
from proxyd.protocols.rdp.capabilities import SetKind
from proxyd.protocols.rdp.channels import ChannelFlag
from proxyd.protocols.rdp.crossing import FIRST_CHANNEL, Desk, Handover, numbers
from proxyd.protocols.rdp.events import Mouse, Pointer, Scancode, Sync, Toggle
from proxyd.protocols.rdp.fromclient import FromClient
from proxyd.protocols.rdp.fromtarget import FromTarget
from proxyd.protocols.rdp.info import LicenseError
from proxyd.protocols.rdp.mcs import Data
from proxyd.protocols.rdp.share import DataKind, Rectangle, ShareData
from proxyd.protocols.rdp.static import USER
from proxyd.protocols.rdp.wire import WireError, u32
from tests.fuzz import captured_rdp as captured
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M3", "M16")

NAMES = ("rdpdr", "rdpsnd", "cliprdr", "drdynvc", "further", "unknown")
RDPDR, RDPSND, CLIPRDR, DRDYNVC, FURTHER, UNKNOWN = range(FIRST_CHANNEL, FIRST_CHANNEL + len(NAMES))
TARGET_USER, TARGET_IO = 1007, 1010
TARGET_IDS = (1021, 1022, 1023, 1024, 1025, None)
NUMBERS = numbers(NAMES, TARGET_USER, TARGET_IO, TARGET_IDS)
KEY = fastpath.build_input([Scancode(0x1E)])


@pytest.fixture
def desk():
    return Desk(800, 600, licensed=True)


@pytest.fixture
def up(desk):
    return FromClient(desk, NUMBERS)


@pytest.fixture
def down(desk):
    return FromTarget(desk, NUMBERS)


def said(payload, channel=mcs.GLOBAL_CHANNEL):
    """A frame of the client's."""
    return mcs.build_data(Data(USER, channel, payload), to_server=True)


def answered(payload, channel=TARGET_IO):
    """A frame of the target's, in its numbers."""
    return mcs.build_data(Data(mcs.SERVER_USER, channel, payload), to_server=False)


def share_frame(kind, body, build=said):
    return build(share.build_share_data(ShareData(0x103EA, USER, kind, body)))


def dynamic(message, build, channel):
    (chunk,) = channels.build_chunks(message)
    return build(chunk, channel)


def test_our_user_is_no_channel_a_client_can_have():
    last = FIRST_CHANNEL + 31
    assert last < USER


def test_frames_are_renumbered_for_the_target_and_back(up, down):
    frame = share_frame(DataKind.FONT_LIST, share.FONT_LIST)
    assert up.take(frame, closed=False) == [frame]
    sent = mcs.data_frame(NUMBERS.for_target(frame))
    assert (sent.initiator, sent.channel) == (TARGET_USER, TARGET_IO)
    (clip,) = channels.build_chunks(seeds.CLIP_REQUEST)
    assert down.take(answered(clip, TARGET_IDS[2])) == [
        mcs.build_data(Data(mcs.SERVER_USER, CLIPRDR, clip), to_server=False)
    ]
    assert NUMBERS.for_target(KEY) == KEY


@pytest.mark.parametrize("channel", [TARGET_USER, 1030])
def test_what_comes_on_channels_the_client_has_not_is_thrown_away(down, channel):
    assert down.take(answered(b"anything at all", channel)) == []


def test_what_comes_on_channels_the_target_does_not_know_of_is_thrown_away(up):
    assert up.take(said(b"anything at all", UNKNOWN), closed=False) == []
    assert UNKNOWN not in NUMBERS.passing


def test_both_sides_may_leave(up, down):
    frame = mcs.build_message(mcs.Disconnect(mcs.Reason.USER_REQUESTED))
    assert up.take(frame, closed=True) == down.take(frame) == [frame]


@pytest.mark.parametrize(
    "frame",
    [
        seeds.ATTACH_USER,
        said(b"x", 1040),
        said(b"x", USER),
        said(seeds.DEMAND_ACTIVE),
        said(share.deactivate_all(1, 2)),
        share_frame(DataKind.INPUT, b"\1"),
        b"\x04\x04\xe0\x01",  # an event of unknown kind
    ],
)
def test_a_client_that_breaks_the_protocol(up, frame):
    with pytest.raises(WireError):
        up.take(frame, closed=False)


def test_a_client_does_not_compress(up):
    frame = bytearray(share_frame(DataKind.FONT_LIST, share.FONT_LIST))
    at = bytes(frame).index(bytes((DataKind.FONT_LIST,)), 20)
    frame[at + 1] = share.Compression.COMPRESSED
    with pytest.raises(WireError, match="compressed"):
        up.take(bytes(frame), closed=False)


# ---------------------------------------------------------------------------------------------- licensing


def test_licensing_passes_and_then_is_over(desk):
    desk.licensed = False
    up, down = FromClient(desk, NUMBERS), FromTarget(desk, NUMBERS)
    none = said(info.build_license_error(LicenseError.ERR_NO_LICENSE))
    assert up.take(none, closed=False) == [none]
    assert up.licensing
    with pytest.raises(WireError, match="before its session"):
        up.take(KEY, closed=False)
    with pytest.raises(WireError):
        up.take(share_frame(DataKind.FONT_LIST, share.FONT_LIST), closed=False)
    with pytest.raises(WireError):
        down.take(answered(seeds.DEMAND_ACTIVE))
    down.take(answered(info.build_license_error(LicenseError.STATUS_VALID_CLIENT)))
    assert down.licensing
    assert desk.licensed
    up.take(KEY, closed=False)
    assert not up.licensing


# ---------------------------------------------------------------------------------------------- the bitmap policy


@pytest.mark.parametrize(
    "demand", [seeds.DEMAND_ACTIVE, captured.XRDP_DEMAND_ACTIVE, captured.SHADOW_DEMAND_ACTIVE]
)
def test_a_demand_active_is_edited_and_its_screen_is_known(desk, down, demand):
    desk.active = True
    (frame,) = down.take(answered(demand))
    (control,) = share.split(mcs.data_frame(frame).payload)
    active = capabilities.parse_demand_active(control)
    assert active == capabilities.limited(active)
    (original,) = share.split(demand)
    screen = capabilities.desktop(capabilities.parse_demand_active(original))
    assert (desk.width, desk.height) == screen[:2]
    assert not desk.active
    down.take(answered(seeds.FONT_MAP))
    assert desk.active
    down.take(answered(share.deactivate_all(desk.share_id, mcs.SERVER_USER)))
    assert not desk.active


def test_every_confirm_active_is_edited(up):
    for _ in range(2):
        (frame,) = up.take(said(seeds.CONFIRM_ACTIVE), closed=True)
        (control,) = share.split(mcs.data_frame(frame).payload)
        active = capabilities.parse_confirm_active(control)
        assert active == capabilities.limited(active)
        assert active.find(SetKind.BITMAPCACHE_REV2) is None


def test_the_picture_is_never_switched_off(up):
    assert up.take(share_frame(DataKind.SUPPRESS_OUTPUT, share.suppress_output(None)), closed=False) == []
    on = share_frame(DataKind.SUPPRESS_OUTPUT, share.suppress_output(Rectangle(0, 0, 9, 9)))
    assert up.take(on, closed=False) == [on]


def test_what_a_client_has_on_its_disk_is_not_told(up):
    assert up.take(share_frame(DataKind.BITMAPCACHE_PERSISTENT_LIST, b""), closed=False) == []


def test_of_a_frame_with_several_messages_only_the_wrong_one_is_kept_back(up):
    payloads = [
        share.build_share_data(ShareData(1, USER, kind, body))
        for kind, body in (
            (DataKind.FONT_LIST, share.FONT_LIST),
            (DataKind.SUPPRESS_OUTPUT, share.suppress_output(None)),
            (DataKind.REFRESH_RECT, share.refresh_rect([])),
        )
    ]
    assert up.take(said(b"".join(payloads)), closed=False) == [said(payloads[0] + payloads[2])]


# ---------------------------------------------------------------------------------------------- no way past the proxy


def test_a_redirection_is_refused(down):
    control = share.Control(share.ControlKind.SERVER_REDIRECTION, mcs.SERVER_USER, bytes(40))
    with pytest.raises(WireError, match="another server"):
        down.take(answered(share.build_control(control)))


def test_a_reconnect_cookie_does_not_pass(down):
    cookie = b"\x1c\0\0\0" + bytes(28)
    body = b"\3\0\0\0" + (6 + len(cookie)).to_bytes(2, "little") + b"\1\0\0\0" + cookie
    assert down.take(share_frame(DataKind.SAVE_SESSION_INFO, body, answered)) == []


def test_dynamic_channels_that_bring_devices_are_declined_in_the_clients_place(down):
    create = b"\x10\x07" + b"URBDRC\0"
    assert down.take(dynamic(create, answered, TARGET_IDS[3])) == []
    (answer,) = down.answers
    data = mcs.data_frame(answer)
    assert (data.initiator, data.channel) == (USER, DRDYNVC)
    created = channels.parse_dynamic(channels.parse_chunk(data.payload).data, from_server=False)
    assert created.channel == 7
    assert created.status < 0


def test_the_size_of_the_desktop_may_be_changed(down):
    create = b"\x10\x07" + channels.DISPLAY_CONTROL.encode() + b"\0"
    assert len(down.take(dynamic(create, answered, TARGET_IDS[3]))) == 1
    assert down.answers == []


def test_dynamic_channels_do_not_compress(up, down):
    three = b"\x50\0\3\0" + bytes(8)
    for frames in (
        down.take(dynamic(three, answered, TARGET_IDS[3])),
        up.take(dynamic(three, said, DRDYNVC), closed=False),
    ):
        (frame,) = frames
        message = channels.parse_chunk(mcs.data_frame(frame).payload).data
        assert channels.parse_dynamic(message, from_server=True) == channels.Capabilities(2)
    with pytest.raises(WireError):
        up.take(dynamic(b"\x70\x07abc", said, DRDYNVC), closed=False)


@pytest.mark.parametrize(
    "formats", [seeds.SOUND_FORMATS, captured.XRDP_SOUND_FORMATS, captured.SHADOW_SOUND_FORMATS]
)
def test_sound_is_pcm(down, formats):
    found = []
    for chunk in channels.build_chunks(formats):
        found += down.take(answered(chunk, TARGET_IDS[1]))
    message = b"".join(channels.parse_chunk(mcs.data_frame(frame).payload).data for frame in found)
    kept = sound.parse_formats(message).formats
    assert kept
    assert {one.tag for one in kept} == {sound.WAVE_FORMAT_PCM}


def test_a_wave_is_no_list_of_formats_whatever_it_begins_with(down):
    begins, _ = seeds.SOUND_WAVE
    for message in (begins, b"\7\0\xff\xffabcdefgh", begins, b"\7\0\xff\xffabcdefgh"):
        (chunk,) = channels.build_chunks(message)
        assert len(down.take(answered(chunk, TARGET_IDS[1]))) == 1


# ---------------------------------------------------------------------------------------------- the gate


@pytest.mark.parametrize("slow", [False, True])
def test_input_meets_a_shut_gate(up, slow):
    frame = share_frame(DataKind.INPUT, events.build_input([Scancode(0x1E)])) if slow else KEY
    assert up.take(frame, closed=True) == []
    assert len(up.refused) == 1
    up.refused.clear()
    assert up.take(frame, closed=False) == [frame]
    assert up.refused == []


def test_a_client_that_sent_no_input_holds_nothing(up):
    up.take(KEY, closed=True)
    assert up.released() == b""


@pytest.mark.parametrize("slow", [False, True])
def test_what_is_held_is_released_once(up, slow):
    did = [Scancode(0x1E), Scancode(0x2A), Scancode(0x30), Scancode(0x30, released=True),
           Mouse(Pointer.BUTTON1 | Pointer.DOWN, 7, 9), Sync(Toggle(0))]  # fmt: skip
    frame = share_frame(DataKind.INPUT, events.build_input(did)) if slow else fastpath.build_input(did)
    up.take(frame, closed=False)
    first = released(up, slow=slow)
    assert first.count(Scancode(0x1E, released=True)) == 1
    assert first.count(Scancode(0x2A, released=True)) == 1
    assert Scancode(0x30, released=True) not in first
    assert Mouse(Pointer.BUTTON1, 7, 9) in first
    assert Scancode(0x1E, released=True) not in released(up, slow=slow)


def released(up, *, slow):
    frame = up.released()
    if not slow:
        return fastpath.parse_input(frame)
    (control,) = share.split(mcs.data_frame(frame).payload)
    return events.parse_input(share.share_data(control).body)


def test_more_keys_than_anyone_holds_fit_into_the_release(up):
    for code in range(256):
        up.take(fastpath.build_input([Scancode(code), Scancode(code, extended=True)]), closed=False)
    assert len(released(up, slow=False)) <= fastpath.MAX_EVENTS


def test_messages_of_channels_meet_a_shut_gate_whole(up):
    chunks = [said(chunk, FURTHER) for chunk in channels.build_chunks(b"x" * 4000)]
    assert [up.take(chunk, closed=True) for chunk in chunks[:2]] == [[], []]
    assert up.take(chunks[2], closed=False) == []  # its beginning is not there
    assert up.refused == chunks
    assert up.take(chunks[0], closed=False) == chunks[:1]


def test_a_message_that_had_begun_ends_without_the_users_bytes(up):
    first, second, last = (said(chunk, FURTHER) for chunk in channels.build_chunks(b"secret! " * 500))
    assert up.take(first, closed=False) == [first]
    for frame in (second, last):
        (blank,) = up.take(frame, closed=True)
        assert len(blank) == len(frame)
        chunk = channels.parse_chunk(mcs.data_frame(blank).payload)
        assert chunk.data == bytes(len(chunk.data))
    assert up.refused == [second, last]
    assert channels.parse_chunk(mcs.data_frame(blank).payload).flags & ChannelFlag.LAST
    assert up.take(first, closed=True) == []


@pytest.mark.parametrize(
    "bare", [channels.build_close(3), channels.build_created(channels.Created(3, 0)), b"\x50\0\2\0"]
)
def test_nothing_of_a_users_stands_behind_what_a_shut_gate_lets_pass(up, bare):
    """Found by a campaign: what followed a Close went on to the target."""
    frame = dynamic(bare + b"typed", said, DRDYNVC)
    assert up.take(frame, closed=True) == [dynamic(bare, said, DRDYNVC)]
    assert up.take(dynamic(bare, said, DRDYNVC), closed=True) == [dynamic(bare, said, DRDYNVC)]


def test_dynamic_data_meets_a_shut_gate_and_sounds_confirmation_passes(up):
    assert up.take(dynamic(b"\x30\x07resize", said, DRDYNVC), closed=True) == []
    assert len(up.refused) == 1
    up.refused.clear()
    assert len(up.take(dynamic(b"\x10\x07\0\0\0\0", said, DRDYNVC), closed=True)) == 1
    assert len(up.take(dynamic(b"\5\0\4\0\0\0\0\0", said, RDPSND), closed=True)) == 1
    assert up.refused == []


def test_a_channels_message_without_end_is_refused(up, down):
    chunk = (1 << 24).to_bytes(4, "little") + b"\1\0\0\0" + bytes(1600)
    more = chunk[:4] + b"\0\0\0\0" + chunk[8:]
    up.take(said(chunk, RDPSND), closed=False)
    with pytest.raises(WireError, match="long"):
        for _ in range((1 << 24) // 1600 + 1):
            up.take(said(more, RDPSND), closed=False)


# ---------------------------------------------------------------------------------------------- the graphics pipeline

OPEN = b"\x10\x07" + channels.GRAPHICS.encode() + b"\0"


@pytest.fixture
def drawn_on(desk, down):
    """A desk whose target has opened the graphics channel."""
    desk.graphics = "gfx"
    assert len(down.take(dynamic(OPEN, answered, TARGET_IDS[3]))) == 1
    assert down.answers == []
    return desk


def test_the_graphics_channel_is_declined_by_the_bitmap_policy(desk, down):
    assert down.take(dynamic(OPEN, answered, TARGET_IDS[3])) == []
    assert len(down.answers) == 1
    assert desk.watch is None


def test_the_graphics_channel_is_opened_followed_and_closed(drawn_on, down):
    reset = graphics.build(graphics.Command.RESETGRAPHICS, u32(640) + u32(480) + bytes(332))
    down.take(dynamic(b"\x30\x07\xe0\x04" + reset, answered, TARGET_IDS[3]))
    assert (drawn_on.width, drawn_on.height) == (640, 480)
    down.take(dynamic(b"\x40\x08", answered, TARGET_IDS[3]))
    assert drawn_on.watch is not None
    down.take(dynamic(b"\x40\x07", answered, TARGET_IDS[3]))
    assert drawn_on.watch is None


def test_what_a_client_offers_of_graphics_is_what_the_policy_leaves(drawn_on, up):
    sets = [graphics.CapabilitySet(0x00080004, u32(2)), graphics.CapabilitySet(0x000A0B02, u32(0))]
    offer = graphics.build(graphics.Command.CAPSADVERTISE, graphics.build_capabilities(sets))
    (frame,) = up.take(dynamic(b"\x30\x07" + offer, said, DRDYNVC), closed=False)
    message = channels.parse_chunk(mcs.data_frame(frame).payload).data
    (pdu,) = graphics.split(message[2:])
    assert graphics.parse_capabilities(pdu.body) == sets[:1]


def test_a_shut_gate_lets_pictures_be_acknowledged_and_nothing_else_on_dynamic_channels(drawn_on, up):
    done = graphics.build(graphics.Command.FRAMEACKNOWLEDGE, bytes(12))
    frame = dynamic(b"\x30\x07" + done, said, DRDYNVC)
    assert up.take(frame, closed=True) == [frame]
    assert up.refused == []
    assert up.take(dynamic(b"\x30\x08" + done, said, DRDYNVC), closed=True) == []
    assert len(up.refused) == 1


def test_a_message_about_graphics_that_does_not_end_is_refused(drawn_on, up):
    first = b"\x28\x07" + u32(1 << 30) + bytes(1500)
    assert up.take(dynamic(first, said, DRDYNVC), closed=False) == []
    more = dynamic(b"\x30\x07" + bytes(1590), said, DRDYNVC)
    for _ in range(2000):
        assert up.take(more, closed=False) == []
    assert drawn_on.watch.gathering.held <= channels.MAX_MESSAGE


# ---------------------------------------------------------------------------------------------- handover


@pytest.fixture
def waiting():
    """Both directions of a client that is shown our own login screen."""
    desk = Desk(800, 600, handover=Handover.WAITING)
    return desk, FromClient(desk, NUMBERS), FromTarget(desk, NUMBERS)


def test_licensing_is_answered_for_a_client_that_has_it_behind_it(waiting):
    desk, _, down = waiting
    request = info.u16(info.Security.LICENSE_PKT) + info.u16(0) + bytes((info.License.REQUEST, 3, 4, 0))
    assert down.take(answered(request)) == []
    assert down.licensing
    (answer,) = down.licenses
    assert down.answers == []
    assert info.parse_license(mcs.data_frame(answer).payload).error == LicenseError.ERR_NO_LICENSE
    assert mcs.data_frame(NUMBERS.for_target(answer)).channel == TARGET_IO
    assert not desk.licensed
    assert down.take(answered(info.build_license_error(LicenseError.STATUS_VALID_CLIENT))) == []
    assert desk.licensed


def test_a_target_that_insists_on_a_licence_ends_the_session(waiting):
    _, _, down = waiting
    with pytest.raises(WireError, match="licence"):
        down.take(answered(info.build_license_error(LicenseError.ERR_NO_LICENSE)))


@pytest.mark.mission("M16")
def test_our_screen_is_taken_away_for_the_targets_and_nothing_done_to_it_passes(waiting):
    desk, up, down = waiting
    confirm = said(seeds.CONFIRM_ACTIVE)
    early = [
        KEY,
        share_frame(DataKind.INPUT, events.build_input([Scancode(0x1E)])),
        confirm,
        said(b"x", CLIPRDR),
    ]
    assert [up.take(frame, closed=False) for frame in early] == [[]] * 4
    down.take(answered(info.build_license_error(LicenseError.STATUS_VALID_CLIENT)))
    assert down.take(share_frame(DataKind.SAVE_SESSION_INFO, bytes(8), answered)) == []
    ended, demand = down.take(answered(seeds.DEMAND_ACTIVE))
    (control,) = share.split(mcs.data_frame(ended).payload)
    assert control.kind == share.ControlKind.DEACTIVATE_ALL
    assert control.body.startswith(info.u32(capabilities.OUR_SHARE))
    assert share.split(mcs.data_frame(demand).payload)[0].kind == share.ControlKind.DEMAND_ACTIVE
    assert [up.take(frame, closed=False) for frame in early[:2]] == [[], []]
    assert up.refused == []
    (passed,) = up.take(confirm, closed=False)
    assert share.split(mcs.data_frame(passed).payload)[0].kind == share.ControlKind.CONFIRM_ACTIVE
    assert up.take(KEY, closed=False) == [KEY]
    assert desk.handover is Handover.DONE
    (again,) = down.take(answered(seeds.DEMAND_ACTIVE))
    assert share.split(mcs.data_frame(again).payload)[0].kind == share.ControlKind.DEMAND_ACTIVE


def test_a_client_may_leave_while_it_waits_for_the_target(waiting):
    _, up, _ = waiting
    frame = mcs.build_message(mcs.Disconnect(mcs.Reason.USER_REQUESTED))
    assert up.take(frame, closed=False) == [frame]
