"""Whatever frames a client or a target sends in a session: what passes is whole frames, or a WireError; memory is bounded."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.protocols.rdp import channels, mcs, share
from proxyd.protocols.rdp.crossing import FIRST_CHANNEL, Desk, numbers
from proxyd.protocols.rdp.fromclient import FromClient
from proxyd.protocols.rdp.fromtarget import FromTarget
from proxyd.protocols.rdp.share import DataKind, ShareData
from proxyd.protocols.rdp.static import USER
from proxyd.protocols.rdp.wire import Framer, WireError
from tests.fuzz.test_rdp_wire import EXAMPLES, frames, payloads

pytestmark = [pytest.mark.mission("M16"), pytest.mark.timeout(600)]

NAMES = ("rdpdr", "rdpsnd", "cliprdr", "drdynvc")
NUMBERS = numbers(NAMES, 1007, mcs.GLOBAL_CHANNEL, range(FIRST_CHANNEL, FIRST_CHANNEL + len(NAMES)))
ids = st.integers(mcs.GLOBAL_CHANNEL, FIRST_CHANNEL + len(NAMES))

contents = st.one_of(
    payloads,
    st.builds(lambda data: channels.build_chunks(data)[0], payloads),
    st.builds(
        lambda kind, body: share.build_share_data(ShareData(1, USER, kind, body)),
        st.sampled_from(list(DataKind)),
        payloads,
    ),
)


@st.composite
def sent(draw: st.DrawFn, *, to_server: bool) -> bytes:
    """A frame, most on a channel that is there."""
    if draw(st.integers(0, 4)) == 0:
        return draw(frames)
    return mcs.build_data(mcs.Data(USER, draw(ids), draw(contents)), to_server=to_server)


def whole(found: list[bytes]) -> None:
    for frame in found:
        assert Framer().feed(frame) == [frame]


def of_one(data: bytes) -> list[bytes]:
    """What a stream would have cut out of it."""
    try:
        return Framer().feed(data)
    except WireError:
        return []


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(st.tuples(sent(to_server=True), st.booleans()), max_size=6),
    st.lists(sent(to_server=False), max_size=6),
    st.booleans(),
)
def test_crossing_gives_whole_frames_or_a_wire_error(
    up: list[tuple[bytes, bool]], down: list[bytes], licensed: bool
) -> None:
    desk = Desk(800, 600, licensed=licensed)
    client, target = FromClient(desk, NUMBERS), FromTarget(desk, NUMBERS)
    with contextlib.suppress(WireError):
        for data in down:
            for frame in of_one(data):
                whole(target.take(frame))
        whole(target.answers)
    with contextlib.suppress(WireError):
        for data, closed in up:
            for frame in of_one(data):
                passed = client.take(frame, closed=closed)
                whole(passed)
                for one in passed:
                    assert len(NUMBERS.for_target(one)) == len(one)
        released = client.released()
        assert not released or Framer().feed(released) == [released]
