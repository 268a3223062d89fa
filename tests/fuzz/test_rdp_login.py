"""Whatever a client sends to the login screen, and whatever its user does there: an answer, a picture, or a WireError."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.protocols.rdp import capabilities, mcs, share
from proxyd.protocols.rdp.events import Event, Mouse, Pointer, Scancode, Sync, Toggle, Unicode
from proxyd.protocols.rdp.hosting import Host
from proxyd.protocols.rdp.keyboard import Keyboard
from proxyd.protocols.rdp.loginpicture import draw, place
from proxyd.protocols.rdp.loginscreen import Chosen, LoginScreen, Row, Spot, Step
from proxyd.protocols.rdp.share import DataKind, ShareData
from proxyd.protocols.rdp.static import USER
from proxyd.protocols.rdp.wire import Framer, WireError
from tests.fuzz import seeds_rdp as seeds
from tests.fuzz.test_rdp_wire import EXAMPLES, frames, payloads

bits = st.integers(0, 0xFFFF)
event = st.one_of(
    st.builds(Scancode, st.integers(0, 255), st.booleans(), st.booleans(), st.booleans()),
    st.builds(Unicode, bits, st.booleans()),
    st.builds(lambda flags, x, y: Mouse(Pointer(flags), x, y), bits, bits, bits),
    st.builds(lambda flags: Sync(Toggle(flags)), st.integers(0, 15)),
)
keys = st.builds(
    Scancode, st.sampled_from([0x0F, 0x1C, 0x1E, 0x30, 0x39, 0x0E, 0x53, 0x48, 0x50, 0x49, 0x51])
)
clicks = st.builds(
    lambda down, x, y: Mouse(Pointer.BUTTON1 | (Pointer.DOWN if down else Pointer(0)), x, y),
    st.booleans(),
    st.integers(200, 700),
    st.integers(100, 700),
)
asks = st.integers(0, 4)


def ask(screen: LoginScreen, what: int, rows: int) -> None:
    """Show one of the steps."""
    match what:
        case 0:
            screen.ask_login("Wrong.")
        case 1:
            screen.ask_code()
        case 2:
            screen.ask_target([Row(f"desk{number}", "b" * (number % 3)) for number in range(rows)])
        case 3:
            screen.wait("Wait.")
        case _:
            screen.tell("No.")


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(st.tuples(asks, st.lists(st.one_of(event, keys, clicks), max_size=30)), max_size=4),
    st.integers(0, 0xFFFFFFFF),
    st.integers(1, 20),
    st.tuples(bits, bits, st.integers(0, 1000)),
)
def test_a_screen_stays_one_that_can_be_answered(
    story: list[tuple[int, list[Event]]], layout: int, rows: int, size: tuple[int, int, int]
) -> None:
    screen = LoginScreen("alice", layout)
    where = place(*size)
    for what, did in story:
        ask(screen, what, rows)
        drawn = draw(screen.view, where, "node1", screen.keyboard)

        def at(x: int, y: int, spots: object = drawn) -> Spot | None:
            return spots.at(x, y)  # type: ignore[attr-defined]

        for one in did:
            answer = screen.feed(one, at)
            if isinstance(answer, Chosen):
                assert 0 <= answer.row < rows
            assert answer is None or screen.view.step is not Step.WAIT
        view = screen.view
        assert view.focus is not None
        assert not view.rows or 0 <= view.selected < len(view.rows)
        assert all(0 <= line.caret <= line.length for line in view.lines)
    assert draw(screen.view, where, "node1", screen.keyboard).picture.width % 4 == 0


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 0xFFFFFFFF), st.lists(event, max_size=60))
def test_a_keyboard_gives_what_can_be_shown(layout: int, did: list[Event]) -> None:
    keyboard = Keyboard(layout)
    for one in did:
        for stroke in keyboard.feed(one):
            assert not isinstance(stroke, str) or stroke.isprintable()


contents = st.one_of(
    payloads,
    st.sampled_from([seeds.CONFIRM_ACTIVE, seeds.DEMAND_ACTIVE]),
    st.builds(
        lambda kind, body: share.build_share_data(ShareData(capabilities.OUR_SHARE, USER, kind, body)),
        st.sampled_from(list(DataKind)),
        st.one_of(payloads, st.sampled_from([share.FONT_LIST, b"\1\0\0\0\0\0\0\0"])),
    ),
)
sent = st.one_of(
    frames,
    st.builds(
        lambda data: mcs.build_data(mcs.Data(USER, mcs.GLOBAL_CHANNEL, data), to_server=True), contents
    ),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(sent, max_size=12), bits, bits)
def test_a_host_gives_whole_frames_or_a_wire_error(did: list[bytes], width: int, height: int) -> None:
    host = Host(width, height, 32)
    host.begin()
    with contextlib.suppress(WireError):
        for data in did:
            for frame in Framer().feed(data):
                host.take(frame)
    for frame in host.out:
        assert Framer().feed(frame) == [frame]
    assert len(host.out) <= 2 + 4 * len(did) * 64
