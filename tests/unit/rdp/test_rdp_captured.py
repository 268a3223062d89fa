"""What real peers sent is read, and written again byte for byte."""

import pytest

from proxyd.protocols.rdp import (
    capabilities,
    channels,
    clipboard,
    events,
    fastpath,
    gcc,
    mcs,
    share,
    sound,
    updates,
)
from proxyd.protocols.rdp.capabilities import Desktop
from proxyd.protocols.rdp.gcc import Early, Kind
from proxyd.protocols.rdp.wire import Protocol
from tests.fuzz import captured_rdp as captured

pytestmark = pytest.mark.mission("M16")


@pytest.mark.parametrize(("frame", "build", "names"), [
    (captured.XFREERDP_CONNECT_INITIAL, 18363, ["rdpdr", "rdpsnd", "cliprdr", "drdynvc"]),
    (captured.RDESKTOP_CONNECT_INITIAL, 2600, ["rdpdr", "drdynvc"]),
])  # fmt: skip
def test_clients_ask(frame, build, names):
    initial = mcs.parse_connect_initial(frame)
    assert mcs.parse_connect_initial(mcs.build_connect_initial(initial)) == initial
    blocks = gcc.parse_create_request(initial.user_data)
    assert gcc.build_create_request(blocks) == initial.user_data
    core = gcc.client_core(blocks)
    assert (core.width, core.height, core.layout, core.build) == (1024, 768, 0x0409, build)
    assert core.early & Early.WANT_32BPP_SESSION
    assert set(names) <= {channel.name for channel in gcc.channels(blocks)}
    edited = capabilities.bitmap_request(gcc.set_selected(blocks, Protocol.HYBRID))
    assert gcc.client_core(edited).selected == Protocol.HYBRID
    assert [channel.name for channel in gcc.channels(edited)] == [
        channel.name for channel in gcc.channels(blocks)
    ]
    assert len(gcc.build_create_request(edited)) == len(initial.user_data)


@pytest.mark.parametrize(
    ("frame", "message_channel"),
    [(captured.XRDP_CONNECT_RESPONSE, None), (captured.SHADOW_CONNECT_RESPONSE, 1008)],
)
def test_servers_answer(frame, message_channel):
    response = mcs.parse_connect_response(frame)
    assert mcs.build_connect_response(response) == frame
    blocks = gcc.parse_create_response(response.user_data)
    assert gcc.server_network(blocks) == gcc.ServerNetwork(1003, (1004, 1005, 1006, 1007))
    assert gcc.server_security(blocks) == gcc.ServerSecurity(0, 0)
    assert gcc.message_channel(blocks) == message_channel
    assert gcc.parse_create_response(gcc.build_create_response(blocks)) == blocks
    again = gcc.set_requested(blocks, Protocol.SSL | Protocol.HYBRID)
    assert gcc.server_core(again).requested == Protocol.SSL | Protocol.HYBRID
    assert gcc.find(again, Kind.SC_NET) == gcc.find(blocks, Kind.SC_NET)


@pytest.mark.parametrize("payload", [captured.XRDP_DEMAND_ACTIVE, captured.SHADOW_DEMAND_ACTIVE])
def test_servers_say_what_they_can(payload):
    (control,) = share.split(payload)
    active = capabilities.parse_demand_active(control)
    assert capabilities.desktop(active) == Desktop(1024, 768, 32)
    assert share.build_control(capabilities.build_demand_active(active)) == payload


@pytest.mark.parametrize("payload", [captured.XFREERDP_CONFIRM_ACTIVE, captured.RDESKTOP_CONFIRM_ACTIVE])
def test_clients_say_what_they_can(payload):
    (control,) = share.split(payload)
    active = capabilities.parse_confirm_active(control)
    assert share.build_control(capabilities.build_confirm_active(active)) == payload
    edited = {found.kind for found in capabilities.limited(active).sets}
    assert {found.kind for found in active.sets} - edited == {16, 19}


def test_xrdp_counts_its_headers_otherwise():
    """Its compressedLength is the whole PDU's length, and so is its uncompressedLength: neither is to be believed."""
    (control,) = share.split(captured.XRDP_SYNCHRONIZE)
    data = share.share_data(control)
    assert (data.kind, data.body[:2], data.compressed) == (share.DataKind.SYNCHRONIZE, b"\1\0", False)


def test_sound():
    for frame, tags in (
        (captured.XRDP_SOUND_FORMATS, [1, 1, 0x69]),
        (captured.SHADOW_SOUND_FORMATS, [1, 6, 7]),
    ):
        assert [one.tag for one in sound.parse_formats(frame).formats] == tags
        assert sound.build_formats(sound.parse_formats(frame)) == frame
        assert all(one.tag == 1 for one in sound.parse_formats(sound.pcm_only(frame)).formats)
    assert sound.pcm_only(captured.XFREERDP_SOUND_FORMATS) == captured.XFREERDP_SOUND_FORMATS


def test_clipboard():
    flags = clipboard.parse_capabilities(clipboard.parse_clip(captured.XRDP_CLIP_CAPABILITIES))
    assert flags & clipboard.ClipCapability.USE_LONG_FORMAT_NAMES
    long = dict(
        clipboard.parse_format_list(clipboard.parse_clip(captured.XFREERDP_CLIP_FORMATS), long_names=True)
    )
    assert (long[13], clipboard.FILE_LIST in long.values(), "HTML Format" in long.values()) == (
        "",
        True,
        True,
    )
    short = clipboard.parse_format_list(
        clipboard.parse_clip(captured.RDESKTOP_CLIP_FORMATS), long_names=False
    )
    assert short == [(13, "")]


def test_dynamic_channels():
    assert channels.parse_dynamic(captured.XRDP_DYNAMIC_CREATE, from_server=True) == channels.Create(
        1, channels.DISPLAY_CONTROL
    )
    assert isinstance(
        channels.parse_dynamic(captured.XRDP_DYNAMIC_CAPABILITIES, from_server=True), channels.Capabilities
    )


def test_input():
    assert any(isinstance(event, events.Scancode) for event in fastpath.parse_input(captured.XFREERDP_KEY))
    assert fastpath.parse_input(captured.XFREERDP_MOUSE)[0].flags == events.Pointer.MOVE
    (control,) = share.split(captured.RDESKTOP_INPUT)
    assert events.parse_input(share.share_data(control).body) == [events.Sync(events.Toggle(0))]


def test_pointers():
    (shape,) = fastpath.parse_output(captured.SHADOW_POINTER)
    assert (shape.code, shape.compression) == (fastpath.UpdateCode.POINTER, 0x21)
    (cached,) = fastpath.parse_output(captured.SHADOW_CACHED_POINTER)
    assert isinstance(updates.cached_pointer(cached.data), updates.CachedPointer)
