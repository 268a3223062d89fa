"""Whatever is said on the channels of clipboard and devices: whole messages pass, or a WireError; a shut gate stops all."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.config import Clipboard, ClipboardWay, Devices
from proxyd.protocols.rdp import channels, clipboard, devices, mcs
from proxyd.protocols.rdp.static import USER, Policy, StaticChannels
from proxyd.protocols.rdp.wire import WireError, u16, u32
from tests.fuzz.test_rdp_wire import EXAMPLES

pytestmark = [pytest.mark.mission("M16"), pytest.mark.timeout(600)]

NAMES = (clipboard.CHANNEL, devices.CHANNEL)
CANARY = b"what no target may have while the gate is shut"
rules = st.sampled_from(["allow", "log", "deny"])
ways = st.builds(
    lambda text, files, other: ClipboardWay(text=text, files=files, other=other), rules, rules, rules
)
policies = st.builds(
    lambda up, down, drives, printers: Policy(
        Clipboard(to_target=up, to_client=down), Devices(drives=drives, printers=printers)
    ),
    ways,
    ways,
    rules,
    rules,
)
small = st.integers(0, 3)
clips = st.builds(
    lambda kind, flags, body, more: u16(kind) + u16(flags) + u32(len(body) + more) + body,
    st.integers(0, 12),
    small,
    st.one_of(st.binary(max_size=60), st.builds(lambda *found: b"".join(map(u32, found)), *[small] * 6)),
    st.integers(-2, 2).map(lambda more: max(more, 0)),
)
packets = st.sampled_from(list(devices.Packet))
requests = st.builds(
    lambda packet, numbers, body: (
        u16(devices.Component.CORE) + u16(packet) + b"".join(map(u32, numbers)) + body
    ),
    packets,
    st.lists(st.integers(0, 6), max_size=14),
    st.binary(max_size=20),
)
announced = st.just(
    devices.build_announce(
        [devices.Device(8, 1, b"C\0\0\0\0\0\0\0", b""), devices.Device(4, 2, bytes(8), b"")]
    )
)
messages = st.one_of(clips, requests, announced, st.binary(max_size=40))
steps = st.lists(st.tuples(messages, st.booleans(), st.booleans(), st.integers(1, 64)), max_size=24)


def play(
    static: StaticChannels, name: str, message: bytes, size: int, *, up: bool, closed: bool
) -> list[bytes]:
    out: list[bytes] = []
    user = USER if up else mcs.SERVER_USER
    for payload in channels.build_chunks(message, size=size):
        data = mcs.Data(user, 1004, payload)
        frame = mcs.build_data(data, to_server=up)
        if up:
            out += static.from_client(frame, data, name, closed=closed)[0]
        else:
            out += static.from_target(frame, data, name, closed=closed)
    return out


@settings(max_examples=EXAMPLES, deadline=None)
@given(policies, st.sampled_from(NAMES), steps)
def test_what_passes_is_whole_and_nothing_of_the_users_passes_a_shut_gate(
    policy: Policy, name: str, program: Any
) -> None:
    told: list[Any] = []
    static = StaticChannels(policy, lambda *found: told.append(found), lambda call: call())
    passed: dict[bool, list[bytes]] = {True: [], False: []}
    kept = False
    with contextlib.suppress(WireError):
        for message, up, closed, size in program:
            sent = message + CANARY if up and closed else message
            found = play(static, name, sent, size, up=up, closed=closed)
            passed[up] += found
            if up and closed:
                assert not any(CANARY in frame for frame in found)
        kept = True
    static.close()
    for frames in passed.values():
        gathering = channels.Reassembly()
        for frame in frames:
            data = mcs.data_frame(frame)
            assert data is not None
            gathering.feed(data.payload)
        assert not (kept and gathering.held), "a message has no end"
    for frame in (*static.to_target, *static.to_client):
        assert mcs.data_frame(frame) is not None
