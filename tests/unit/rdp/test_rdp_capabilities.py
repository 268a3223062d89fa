from dataclasses import replace

import pytest

from proxyd.protocols.rdp import capabilities, gcc, info, share
from proxyd.protocols.rdp.capabilities import Desktop, SetKind
from proxyd.protocols.rdp.gcc import Block, ChannelOption, Early, Kind
from proxyd.protocols.rdp.info import InfoFlag
from proxyd.protocols.rdp.wire import WireError
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M16")

(DEMANDED,) = share.split(seeds.DEMAND_ACTIVE)
(CONFIRMED,) = share.split(seeds.CONFIRM_ACTIVE)
OTHER_WAYS = {16, 17, 18, 19, 21, 22, 23, 24, 25, 28, 29, 30}


def test_demand_active_of_the_specification():
    active = capabilities.parse_demand_active(DEMANDED)
    assert (active.share_id, active.source, active.descriptor, active.session) == (
        0x000103EA,
        1002,
        b"RDP\0",
        0,
    )
    assert [found.kind for found in active.sets] == [9, 1, 20, 22, 14, 2, 3, 10, 18, 8, 13, 23, 24]
    assert capabilities.desktop(active) == Desktop(1280, 1024, 24)
    assert share.build_control(capabilities.build_demand_active(active)) == seeds.DEMAND_ACTIVE


def test_confirm_active_of_the_specification():
    active = capabilities.parse_confirm_active(CONFIRMED)
    assert (active.share_id, active.source, active.descriptor) == (0x000103EA, 1007, b"MSTSC\0")
    assert len(active.sets) == 18
    assert share.build_control(capabilities.build_confirm_active(active)) == seeds.CONFIRM_ACTIVE


def test_sets_nobody_knows_stay():
    active = capabilities.parse_confirm_active(CONFIRMED)
    odd = active._replace(sets=(*active.sets, capabilities.Set(6, b"xrdp"), capabilities.Set(999, b"")))
    again = capabilities.parse_confirm_active(capabilities.build_confirm_active(odd))
    assert again == odd
    assert capabilities.limited(again).sets[-2:] == odd.sets[-2:]


def test_session_number_may_be_missing():
    assert capabilities.parse_demand_active(DEMANDED._replace(body=DEMANDED.body[:-4])).session == 0


def test_bitmaps_are_the_only_way_left():
    before = capabilities.parse_confirm_active(CONFIRMED)
    after = capabilities.limited(before)
    assert not {found.kind for found in after.sets} & OTHER_WAYS
    order = after.find(SetKind.ORDER)
    assert order[32:64] == bytes(32)
    assert order[30:32] == b"\x2a\0"
    assert after.find(SetKind.VIRTUALCHANNEL) == b"\0\0\0\0\x40\x06\0\0"
    assert after.find(SetKind.GENERAL)[10:12] == b"\x15\x04"  # without AUTORECONNECT_SUPPORTED
    kept = {SetKind.INPUT, SetKind.POINTER, SetKind.SOUND, SetKind.CONTROL, SetKind.BRUSH}
    assert all(after.find(kind) == before.find(kind) for kind in kept)
    assert share.split(share.build_control(capabilities.build_confirm_active(after)))


REMOTEFX = bytes.fromhex("122f777672bd6344afb3b73c9c6f7886") + b"\3\2\0ab"
NSCODEC = bytes.fromhex("b91b8dca0f004f15589fae2d1a87e2d6") + b"\1\3\0\1\1\3"
SURFACES = (28, 29, 30)


@pytest.mark.parametrize(
    ("graphics", "codecs", "left"),
    [
        ("gfx", b"\2" + NSCODEC + REMOTEFX, b"\1" + REMOTEFX),
        ("noavc", b"\1" + REMOTEFX, b"\1" + REMOTEFX),
        ("gfx", b"\1" + NSCODEC, None),
        ("gfx", b"\0", None),
        ("bitmap", b"\1" + REMOTEFX, None),
        ("avc420", b"\1" + REMOTEFX, None),
    ],
)
def test_of_the_codecs_of_surface_commands_remotefx_stays_where_the_policy_has_it(graphics, codecs, left):
    sets = tuple(capabilities.Set(kind, codecs if kind == 29 else b"\x52\0\0\0") for kind in SURFACES)
    after = capabilities.limited(capabilities.Active(1, 1007, b"", sets), graphics)
    assert after.find(SetKind.BITMAP_CODECS) == left
    assert [found.kind for found in after.sets] == (list(SURFACES) if left else [])


def test_surface_commands_without_codecs_go_and_codecs_cut_short_are_refused():
    one = capabilities.Set(SetKind.SURFACE_COMMANDS, bytes(8))
    assert capabilities.limited(capabilities.Active(1, 1007, b"", (one,)), "gfx").sets == ()
    for end in range(len(REMOTEFX)):
        short = capabilities.Set(SetKind.BITMAP_CODECS, b"\1" + REMOTEFX[:end])
        with pytest.raises(WireError):
            capabilities.limited(capabilities.Active(1, 1007, b"", (short,)), "gfx")


def test_flags_of_other_orders_are_taken_away():
    order = bytearray(bytes(84))
    order[30:32] = b"\xe2\0"
    order[66:68] = b"\x06\0"
    active = capabilities.Active(1, 1007, b"", (capabilities.Set(SetKind.ORDER, bytes(order)),))
    edited = capabilities.limited(active).find(SetKind.ORDER)
    assert (edited[30:32], edited[66:68]) == (b"\x6a\0", b"\0\0")


def test_old_bitmap_cache_is_empty_and_lossy_colours_are_off():
    bitmap = bytes(19) + b"\x0e" + bytes(4)
    sets = (capabilities.Set(SetKind.BITMAPCACHE, b"\1" * 36), capabilities.Set(SetKind.BITMAP, bitmap))
    edited = capabilities.limited(capabilities.Active(1, 1007, b"", sets))
    assert edited.find(SetKind.BITMAPCACHE) == bytes(36)
    assert edited.find(SetKind.BITMAP) == bytes(19) + b"\x08" + bytes(4)


def test_short_sets_are_left_alone():
    sets = tuple(capabilities.Set(kind, b"\1") for kind in (SetKind.GENERAL, SetKind.BITMAP, SetKind.ORDER))
    active = capabilities.Active(1, 1007, b"", sets)
    assert capabilities.limited(active) == active


def test_server_is_edited_too():
    after = capabilities.limited(capabilities.parse_demand_active(DEMANDED))
    assert after.find(SetKind.BITMAPCACHE_HOSTSUPPORT) is None
    assert after.find(SetKind.VIRTUALCHANNEL)[:4] == bytes(4)
    assert capabilities.desktop(after) == Desktop(1280, 1024, 24)


def client(early, depth=24):
    core = (
        seeds.CORE[:136]
        + depth.to_bytes(2, "little")
        + b"\x0f\0"
        + early.to_bytes(2, "little")
        + seeds.CORE[142:]
    )
    compressed = seeds.NET.replace(b"\0\0\xa0\xc0", b"\0\0\xe0\xc0")
    return (
        Block(Kind.CS_CORE, core),
        Block(Kind.CS_NET, compressed),
        Block(Kind.CS_MULTITRANSPORT, b"\x05\0\0\0"),
    )


def test_client_that_wants_32_bits_gets_them():
    blocks = capabilities.bitmap_request(
        client(Early.WANT_32BPP_SESSION | Early.SUPPORT_DYNVC_GFX_PROTOCOL | 0x8000)
    )
    core = gcc.client_core(blocks)
    assert (core.early, core.depth) == (Early.WANT_32BPP_SESSION | 0x8000, 24)
    assert not any(
        channel.options & (ChannelOption.COMPRESS | ChannelOption.COMPRESS_RDP)
        for channel in gcc.channels(blocks)
    )
    assert gcc.find(blocks, Kind.CS_MULTITRANSPORT) == bytes(4)


@pytest.mark.parametrize(("early", "asked"), [(0, 32), (Early.WANT_32BPP_SESSION, 16)])
def test_everybody_else_gets_16(early, asked):
    core = gcc.client_core(capabilities.bitmap_request(client(early), asked))
    assert (core.early & Early.WANT_32BPP_SESSION, core.depth) == (0, 16)


def test_client_information_of_the_policy():
    found = info.parse_client_info(seeds.CLIENT_INFO)
    flags = InfoFlag(found.flags | InfoFlag.RAIL | InfoFlag.HIDEF_RAIL_SUPPORTED | 3 << 9)
    edited = capabilities.bitmap_info(replace(found, flags=flags))
    assert edited.flags == found.flags
    assert edited.compression == 1
    plain = capabilities.bitmap_info(replace(found, flags=flags), compressed=False)
    assert plain.compression is None
    assert plain.flags == found.flags & ~(0x80 | 0xF << 9)


def test_our_own_screen():
    control = capabilities.build_demand_active(capabilities.our_demand_active(1024, 768))
    (again,) = share.split(share.build_control(control))
    active = capabilities.parse_demand_active(again)
    assert capabilities.desktop(active) == Desktop(1024, 768, 32)
    sizes = {found.kind: len(found.body) + 4 for found in active.sets}
    assert sizes == {9: 8, 1: 24, 2: 28, 3: 88, 8: 10, 13: 88, 20: 12, 26: 8}


@pytest.mark.parametrize("control", [DEMANDED, CONFIRMED])
def test_cut_anywhere_they_are_refused(control):
    parse = capabilities.parse_demand_active if control is DEMANDED else capabilities.parse_confirm_active
    end = len(control.body) - (4 if control is DEMANDED else 0)
    for size in range(end):
        with pytest.raises(WireError):
            parse(control._replace(body=control.body[:size]))


def test_what_is_neither():
    for wrong in (
        lambda: capabilities.parse_demand_active(CONFIRMED),
        lambda: capabilities.parse_confirm_active(DEMANDED),
        lambda: capabilities.desktop(capabilities.Active(1, 1, b"", ())),
        lambda: capabilities.desktop(capabilities.Active(1, 1, b"", (capabilities.Set(2, bytes(11)),))),
    ):
        with pytest.raises(WireError):
            wrong()
