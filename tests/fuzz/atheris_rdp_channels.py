"""RDP's virtual channels, fuzzed: messages of clipboard, sound, drives and dynamic channels, in chunks of every kind.

Rule: besides what `session_rdp` promises, the readers of these messages raise WireError alone.
"""

from __future__ import annotations

import contextlib
from typing import Final

from proxyd.decoders import Graphics
from proxyd.protocols.rdp import channels, mcs
from proxyd.protocols.rdp.crossing import FIRST_CHANNEL
from proxyd.protocols.rdp.wire import WireError
from tests.fuzz.program import Input, cut
from tests.fuzz.session_rdp import NAMES, Session, chunked, on_channel
from tests.fuzz.test_rdp_wire import PARSERS

READERS: Final = (
    "dynamic of a server",
    "dynamic of a client",
    "dynamic version",
    "sound",
    "clipboard",
    "chunk",
)
DRDYNVC: Final = 1 + NAMES.index("drdynvc")
POLICIES: Final[tuple[Graphics, ...]] = ("bitmap", "bitmap", "bitmap", "gfx", "avc420", "noavc")
FLAGS: Final = (3, 1, 0, 2, 0x200003, 0x10, 0x20, 0x40)


def framed(by_client: bool, kind: int, body: bytes) -> bytes:
    """A message of a channel: whole, in small chunks, with a header of its own, or inside a dynamic channel."""
    channel = 1 + kind % len(NAMES)
    match kind >> 4 & 3:
        case 0:
            return chunked(by_client, channel, body)
        case 1:  # one chunk, which says of itself what it likes
            total, flags = int.from_bytes(body[:2], "little"), FLAGS[kind >> 6 | (body[2:3] or b"\0")[0] & 4]
            return on_channel(
                by_client, channel, total.to_bytes(4, "little") + flags.to_bytes(4, "little") + body[3:]
            )
        case 2:
            small = channels.build_chunks(body, size=max(1, len(body) // 5))
            return b"".join(on_channel(by_client, channel, one) for one in small)
    inner = channels.build_dynamic_data(body[0] if body else 0, body[1:], size=200)
    return b"".join(chunked(by_client, DRDYNVC, one) for one in inner)


def reassembled(source: Input) -> None:
    """Chunks of all kinds, put together: what is kept is bounded, and no longer than it was said."""
    limit = 64 + source.byte()
    static, dynamic = channels.Reassembly(limit), channels.DynamicReassembly(limit)
    while source.left > 0:
        which, data = source.byte(), source.counted()
        with contextlib.suppress(WireError):
            if which & 1:
                message = static.feed(data)
            else:
                found = channels.parse_dynamic(data, from_server=bool(which & 2))
                message = dynamic.feed(found) if isinstance(found, channels.DynamicData) else None
            assert message is None or len(message.data) <= limit
        assert static.held <= limit
        assert dynamic.held <= limit * channels.MAX_DYNAMIC


def read(source: Input) -> None:
    """One message, by each reader; and as it would come, in chunks."""
    chunk, data = source.byte(), source.rest()
    for name in READERS:
        with contextlib.suppress(WireError):
            PARSERS[name](data)
    reassembly = channels.Reassembly()
    message = None
    for piece in channels.build_chunks(data, size=max(1, chunk, len(data) // 500)):
        message = reassembly.feed(piece)
    assert message is not None and message.data == data


def play(data: bytes) -> None:
    """Run one input; AssertionError, or whatever else comes out, is a finding."""
    source = Input(data)
    mode = source.byte() % 8
    if mode < 6:
        Session(licensed=True, graphics=POLICIES[mode]).run(source, framed)
        return
    (read if mode == 6 else reassembled)(source)


def quiet() -> None:
    """Nothing here logs."""
    assert FIRST_CHANNEL == mcs.GLOBAL_CHANNEL + 1  # as `on_channel` counts places
    assert len(list(cut(b"abc", 1))) == 3
