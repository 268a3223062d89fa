"""The policies of graphics: what of a client's offer is left, and what of its other messages passes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.protocols.rdp import graphics
from proxyd.protocols.rdp.graphics import (
    CapabilitySet,
    Command,
    OwnFrames,
    Version,
    build,
    from_client,
    split,
)
from proxyd.protocols.rdp.wire import WireError, u32

pytestmark = pytest.mark.mission("M16")

V105, V106, V106_ERROR, V112, FREERDPS_OWN = 0x000A0502, 0x000A0600, 0x000A0601, 0x000A0B02, 0x00001000
AVC, NO_AVC, UNSCALED = 0x10, 0x20, 0x80
OFFER = [
    CapabilitySet(Version.V8, u32(0x02)),
    CapabilitySet(Version.V81, u32(0x12)),
    CapabilitySet(Version.V10, u32(0x02)),
    CapabilitySet(Version.V101, bytes(16)),
    CapabilitySet(Version.V102, u32(0x02)),
    CapabilitySet(Version.V103, u32(0x40)),
    CapabilitySet(Version.V104, u32(0x02)),
    CapabilitySet(V105, u32(0x02)),
    CapabilitySet(V106, u32(0x02)),
    CapabilitySet(V106_ERROR, u32(0x02)),
    CapabilitySet(Version.V107, u32(0x02)),
    CapabilitySet(V112, u32(0x02)),
    CapabilitySet(FREERDPS_OWN, u32(0x02)),
]


def left(policy, offer=OFFER):
    message = build(Command.CAPSADVERTISE, graphics.build_capabilities(offer))
    (pdu,) = split(from_client(message, policy, OwnFrames()))
    assert pdu.command == Command.CAPSADVERTISE
    return {
        one.version: int.from_bytes(one.data[:4], "little") for one in graphics.parse_capabilities(pdu.body)
    }


def test_gfx_leaves_all_that_can_be_recorded_and_lets_nothing_be_scaled():
    assert left("gfx") == {
        Version.V8: 0x02, Version.V81: 0x12, Version.V10: 0x02, Version.V101: 0, Version.V102: 0x02,
        Version.V103: 0x40, Version.V104: 0x02, Version.V107: 0x02 | UNSCALED,
    }  # fmt: skip


def test_avc420_leaves_the_versions_that_know_no_other_h264():
    assert left("avc420") == {Version.V8: 0x02, Version.V81: 0x12}


def test_noavc_leaves_no_h264():
    assert left("noavc") == {
        Version.V8: 0x02, Version.V81: 0x02, Version.V10: 0x22, Version.V102: 0x22, Version.V103: 0x20,
        Version.V104: 0x22, Version.V107: 0x22 | UNSCALED,
    }  # fmt: skip


@pytest.mark.parametrize("policy", ["gfx", "avc420"])
def test_a_client_without_h264_is_not_said_to_have_it(policy):
    offer = [CapabilitySet(Version.V81, u32(0)), CapabilitySet(Version.V104, u32(NO_AVC))]
    assert not left(policy, offer)[Version.V81] & AVC
    assert left(policy, offer).get(Version.V104, NO_AVC) & NO_AVC


def test_flags_nobody_knows_are_taken_away():
    assert left("gfx", [CapabilitySet(Version.V8, u32(0xFFFFFFFF))]) == {Version.V8: 0xF3}


@pytest.mark.parametrize(
    "body",
    [
        b"\x01\x00" + u32(V112) + u32(4) + u32(0),  # nothing is left
        b"\x00\x00",
        b"\x21\x00" + bytes(400),  # too many
        b"\x01\x00" + u32(Version.V8) + u32(3) + bytes(3),
        b"\x01\x00" + u32(Version.V8) + u32(0xFFFFFFFF) + bytes(4),
        b"\x02\x00" + u32(Version.V8) + u32(4) + bytes(4),
    ],
)
def test_an_offer_that_can_not_be_is_refused(body):
    with pytest.raises(WireError):
        from_client(build(Command.CAPSADVERTISE, body), "gfx", OwnFrames())


def test_pictures_of_the_clients_disk_are_not_offered_and_the_rest_passes():
    kept = build(Command.QOEFRAMEACKNOWLEDGE, bytes(12))
    message = build(Command.CACHEIMPORTOFFER, b"\0\0") + kept
    assert from_client(message, "gfx", OwnFrames()) == kept
    assert from_client(build(Command.CACHEIMPORTOFFER, b"\0\0"), "gfx", OwnFrames()) == b""


def acknowledged(frame, total, own):
    return from_client(build(Command.FRAMEACKNOWLEDGE, u32(0) + u32(frame) + u32(total)), "gfx", own)


def test_frames_of_ours_are_not_acknowledged_to_the_target_nor_counted():
    own = OwnFrames()
    mine = own.number()
    assert from_client(build(Command.QOEFRAMEACKNOWLEDGE, u32(mine) + bytes(8)), "gfx", own) == b""
    assert acknowledged(7, 1, own) == build(Command.FRAMEACKNOWLEDGE, u32(0) + u32(7) + u32(1))
    assert acknowledged(mine, 2, own) == b""
    assert acknowledged(8, 3, own) == build(Command.FRAMEACKNOWLEDGE, u32(0) + u32(8) + u32(2))
    with pytest.raises(WireError):
        from_client(build(Command.FRAMEACKNOWLEDGE, bytes(11)), "gfx", own)


@given(st.binary(max_size=200), st.sampled_from(["gfx", "avc420", "noavc"]))
def test_whatever_a_client_says_is_messages_or_a_wire_error(data, policy):
    with contextlib.suppress(WireError):
        list(split(from_client(data, policy, OwnFrames())))
    with contextlib.suppress(WireError):
        list(split(from_client(build(Command.CAPSADVERTISE, data), policy, OwnFrames())))
