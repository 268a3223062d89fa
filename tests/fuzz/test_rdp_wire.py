"""Whatever bytes a client or a target sends, RDP's parsers give a value or a WireError: no other error, nothing grows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.protocols.rdp import (
    capabilities,
    channels,
    clipboard,
    events,
    fastpath,
    gcc,
    info,
    mcs,
    share,
    sound,
    updates,
    wire,
)
from proxyd.protocols.rdp.fastpath import MAX_UPDATE, Fragments
from proxyd.protocols.rdp.wire import MAX_TPKT, Framer, WireError
from tests.fuzz import captured_rdp as captured
from tests.fuzz import seeds_rdp as seeds

pytestmark = [pytest.mark.mission("M16"), pytest.mark.timeout(600)]

EXAMPLES = 600
SECONDS = 1.0

SEEDS: tuple[bytes, ...] = tuple(
    value if isinstance(value, bytes) else value[0]
    for name, value in (*vars(seeds).items(), *vars(captured).items())
    if name.isupper() and isinstance(value, bytes | tuple) and not name.startswith("_")
)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A seed with some bytes changed, cut out or repeated."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = bytes((draw(st.integers(0, 255)),))
            case 1:
                data[at : at + 4] = draw(
                    st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\x80", b"\xff\x7f", b"\x7f"])
                )
            case 2:
                del data[at : at + draw(st.integers(1, 20))]
            case 3:
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
            case _:
                data += draw(st.binary(max_size=20))
    return bytes(data)


payloads = st.one_of(st.binary(max_size=300), broken(), broken())
frames = st.one_of(
    payloads,
    payloads.map(wire.build_data_tpdu),
    payloads.map(lambda data: mcs.build_data(mcs.Data(1007, 1003, data), to_server=True)),
)


def graceful(parse: Callable[[bytes], object], data: bytes) -> None:
    began = time.process_time()
    with contextlib.suppress(WireError):
        parse(data)
    assert time.process_time() - began < SECONDS


# ---------------------------------------------------------------------------------------------- frames


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(frames, max_size=8).map(b"".join), st.lists(st.integers(1, 200), min_size=1, max_size=10))
def test_frames_are_the_same_however_they_arrive(stream, sizes):
    whole, parted, at, turn = Framer(), Framer(), 0, 0
    try:
        wanted = whole.feed(stream)
    except WireError:
        wanted = None
    found: list[bytes] = []
    try:
        while at < len(stream):
            size = sizes[turn % len(sizes)]
            found += parted.feed(stream[at : at + size])
            at, turn = at + size, turn + 1
            assert parted.held <= MAX_TPKT
    except WireError:
        assert wanted is None
    else:
        assert found == wanted
        assert b"".join(found) + parted.release() == stream
    assert stream.startswith(b"".join(found))


@pytest.mark.parametrize("parse", [wire.parse_connection_request, wire.parse_connection_confirm, mcs.parse_connect_initial, mcs.parse_connect_response,
                                   mcs.parse_message, mcs.data_frame, fastpath.parse_input, fastpath.parse_output],
                         ids=lambda parse: f"{parse.__module__.rpartition('.')[2]}.{parse.__name__}")  # fmt: skip
def test_frame(parse):
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(frames)
    def check(frame):
        graceful(parse, frame or b"\0")

    check()


# ---------------------------------------------------------------------------------------------- payloads


def conference(data: bytes) -> None:
    for parse in (gcc.parse_create_request, gcc.parse_create_response):
        with contextlib.suppress(WireError):
            settings_of(parse(data))


def settings_of(blocks: gcc.Blocks) -> None:
    for read in (
        gcc.client_core,
        gcc.channels,
        gcc.monitors,
        gcc.server_core,
        gcc.server_network,
        gcc.server_security,
        gcc.message_channel,
    ):
        with contextlib.suppress(WireError):
            read(blocks)
    with contextlib.suppress(WireError):
        edited = capabilities.bitmap_request(gcc.set_selected(blocks, wire.Protocol.HYBRID))
        assert [len(block.body) for block in edited] == [len(block.body) for block in blocks] or gcc.find(
            blocks, gcc.Kind.CS_NET
        )
    gcc.set_requested(blocks, wire.Protocol.SSL)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(gcc.Kind)),
            st.one_of(st.binary(max_size=260), st.just(seeds.CORE_NEW), st.just(seeds.NET)),
        ),
        max_size=5,
    )
)
def test_blocks(blocks):
    settings_of(tuple(gcc.Block(*block) for block in blocks))


def information(data: bytes) -> None:
    found = info.parse_client_info(data)
    sent = capabilities.bitmap_info(info.log_on_as(found, "", "root", "password"))
    with contextlib.suppress(WireError):  # longer than a field can be, once it is Unicode
        assert info.parse_client_info(info.build_client_info(sent)).user == "root"


def shared(data: bytes) -> None:
    for control in share.split(data):
        for read in (
            share.share_data,
            capabilities.parse_demand_active,
            capabilities.parse_confirm_active,
            share.parse_redirection,
        ):
            with contextlib.suppress(WireError):
                active = read(control)
                if isinstance(active, capabilities.Active):
                    with contextlib.suppress(WireError):
                        capabilities.desktop(active)
                    share.split(
                        share.build_control(capabilities.build_confirm_active(capabilities.limited(active)))
                    )


def clip(data: bytes) -> None:
    message = clipboard.parse_clip(data)
    clipboard.refusal(message)
    for read in (clipboard.parse_capabilities, clipboard.parse_data_request, clipboard.parse_file_request,
                 lambda one: clipboard.parse_format_list(one, long_names=True), lambda one: clipboard.parse_format_list(one, long_names=False),
                 lambda one: clipboard.parse_file_list(one.body), lambda one: clipboard.unicode_text(one.body)):  # fmt: skip
        with contextlib.suppress(WireError):
            read(message)


PARSERS = {
    "conference": conference,
    "information": information,
    "license": info.parse_license,
    "share": shared,
    "session information": share.without_reconnect_cookie,
    "refresh": share.parse_refresh_rect,
    "suppress": share.parse_suppress_output,
    "error": share.parse_error_info,
    "control": share.parse_control_action,
    "input": events.parse_input,
    "bitmaps": updates.parse_bitmaps,
    "palette": updates.parse_palette,
    "pointer": updates.parse_pointer,
    "large pointer": updates.large_pointer,
    "chunk": channels.parse_chunk,
    "dynamic of a server": lambda data: channels.parse_dynamic(data, from_server=True),
    "dynamic of a client": lambda data: channels.parse_dynamic(data, from_server=False),
    "dynamic version": channels.limit_version,
    "sound": sound.pcm_only,
    "clipboard": clip,
}


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
def test_payload(parse):
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(payloads)
    def check(data):
        graceful(parse, data)

    check()


# ---------------------------------------------------------------------------------------------- what is kept between messages

LIMIT = 500


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 10, 1000, 0xFFFFFFFF]),
            st.sampled_from([0, 1, 2, 3, 0x20, 0x200003]),
            st.binary(max_size=200),
        ),
        max_size=20,
    )
)
def test_chunks_in_any_order(chunks):
    reassembly = channels.Reassembly(LIMIT)
    for total, flags, data in chunks:
        with contextlib.suppress(WireError):
            message = reassembly.feed(total.to_bytes(4, "little") + flags.to_bytes(4, "little") + data)
            assert message is None or len(message.data) == min(message.total, LIMIT)
        assert reassembly.held <= LIMIT


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.binary(max_size=200), st.sampled_from([None, 0, 100, 0xFFFFFFFF])),
        max_size=20,
    )
)
def test_dynamic_data_in_any_order(pieces):
    reassembly = channels.DynamicReassembly(LIMIT)
    for piece in pieces:
        with contextlib.suppress(WireError):
            message = reassembly.feed(channels.DynamicData(*piece))
            assert message is None or len(message.data) == min(message.total, LIMIT)
        assert reassembly.held <= 4 * LIMIT


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.binary(max_size=50)), max_size=20))
def test_fragments_in_any_order(pieces):
    fragments = Fragments()
    for piece in pieces:
        with contextlib.suppress(WireError):
            fragments.feed(*piece)
        assert fragments.held <= min(MAX_UPDATE, 50 * len(pieces))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.one_of(payloads, st.just(seeds.SOUND_WAVE[0]), st.just(seeds.SOUND_WAVE[1])), max_size=6))
def test_sound_in_any_order(messages):
    waves = sound.Waves()
    for message in messages:
        with contextlib.suppress(WireError):
            wave = waves.feed(message)
            assert wave is None or len(wave.data) < 0x10000
