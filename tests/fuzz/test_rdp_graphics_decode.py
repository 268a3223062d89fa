"""Hostile messages of the graphics pipeline, decoded where it is always done: in a process of its own.

The codecs are FreeRDP's: what they do to that process is theirs. Whatever it is, there is a picture or one clear sentence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from proxyd import cli_decoder, decoders
from proxyd.index.rdp.gfx_codecs import Codec
from proxyd.protocols.rdp import channels
from proxyd.protocols.rdp.graphics import Command, build
from proxyd.protocols.rdp.wire import u16, u32
from proxyd.recorder.record import Record
from tests.unit.index.tape import DYNAMIC, demand_active, from_target, session
from tests.unit.index.test_decode_gfx import CLEAR, create, mapped, plain, wire

pytestmark = [
    pytest.mark.mission("M16"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(decoders.freerdp() is None, reason="libfreerdp is not installed"),
]

SIDE = 128
MESSAGES = 250
SEEDS = [
    *((Codec.CLEARCODEC, stream) for stream in CLEAR.values()),
    (Codec.PLANAR, b"\x20" + bytes(range(256)) * 3),
    (Codec.PLANAR, b"\x10" + bytes(range(256)) * 3),
    (Codec.UNCOMPRESSED, bytes(range(256)) * 16),
    (Codec.ALPHA, b"LA\x01\x00" + bytes(64)),
    # TS_RFX_SYNC, CODEC_VERSIONS, CHANNELS, CONTEXT (MS-RDPRFX 2.2.2.2) and what is no frame
    (Codec.CAVIDEO, bytes.fromhex("c0cc0c000000caaccacc0001c1cc0a00000001000001c2cc0c000000010040004000c3cc0d00000001ff0040"
                                  "28a4") + bytes(64)),
    # RFX_PROGRESSIVE_SYNC, CONTEXT, FRAME_BEGIN (MS-RDPEGFX 2.2.4.2)
    (Codec.CAPROGRESSIVE, bytes.fromhex("c0cc0c000000caaccacc0001c3cc0a0000000040000 1c1cc0c000000000000000100".replace(" ", ""))
     + bytes(64)),
    (Codec.AVC420, u32(1) + bytes(4) + u16(64) + u16(64) + b"\x16\x64" + b"\0\0\0\x01\x67\x42\xc0\x1f" + bytes(64)),
    (Codec.AVC444_V2, u32(40 | 1 << 30) + u32(1) + bytes(4) + u16(64) + u16(64) + b"\x16\x64" + bytes(64)),
]  # fmt: skip


def damaged(rng: random.Random, data: bytes) -> bytes:
    made = bytearray(data[: rng.choice([len(data), rng.randrange(1, len(data) + 1)])])
    for _ in range(rng.choice([0, 1, 2, 5, 40])):
        at = rng.randrange(min(len(made), rng.choice([16, 64, len(made)])))
        made[at] = rng.choice([0, 1, 0x80, 0xFF, rng.randrange(256)])
    return bytes(made)


def picture(rng: random.Random) -> bytes:
    codec, data = rng.choice(SEEDS)
    data = damaged(rng, data)
    if codec is Codec.CAPROGRESSIVE:
        return build(Command.WIRETOSURFACE_2, u16(1) + u16(codec) + u32(0) + b"\x20" + u32(len(data)) + data)
    width, height = rng.choice([(SIDE, SIDE), (64, 24), (78, 17), (7, 15), (SIDE + 1, 1)])
    return wire(1, codec, u16(0) + u16(0) + u16(width) + u16(height), data)


def other(rng: random.Random) -> bytes:
    return build(rng.randrange(0x19), rng.randbytes(rng.choice([2, 6, 8, 14, 17, 30])))


def records(seed: int) -> Iterator[Record]:
    rng = random.Random(seed)
    yield session(SIDE, SIDE)
    yield demand_active(SIDE, SIDE)
    opening = b"\x10\x07" + channels.GRAPHICS.encode() + b"\0"
    reset = build(Command.RESETGRAPHICS, u32(SIDE) * 2 + bytes(332))
    messages = [plain(reset, create(1, SIDE, SIDE), mapped(1))]
    for _ in range(MESSAGES):
        message = plain(*(rng.choice([picture, picture, other])(rng) for _ in range(rng.randrange(1, 4))))
        messages.append(message)
    messages += [b"\xe0\x24" + rng.randbytes(40), plain(picture(rng))]  # nothing is read behind what can't be
    parts = [part for message in messages for part in channels.build_dynamic_data(7, message)]
    for part in (opening, *parts):
        for chunk in channels.build_chunks(part):
            yield from_target(chunk, channel=DYNAMIC)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_by_the_pipeline_there_is_a_picture_or_a_sentence(seed: int) -> None:
    try:
        drawn = cli_decoder.draw(records(seed))
    except cli_decoder.Undecoded as error:
        assert str(error) == cli_decoder.FAILED
    else:
        assert drawn.width > 0
        assert drawn.faults > 0
