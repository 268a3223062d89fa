"""PyRDP's replay files: the layout, what is inflated and cut to fit, and what is left out."""

from __future__ import annotations

import pytest
from unit.index.tape import (
    IO,
    deflated,
    demand_active,
    fast,
    from_client,
    from_target,
    keys,
    press,
    record,
    session,
    slow,
    tile,
)

from proxyd.export.pyrdp import MAX_BODY, Replay, Type
from proxyd.protocols.rdp import clipboard, fastpath, share, updates
from proxyd.protocols.rdp.channels import build_chunks
from proxyd.protocols.rdp.clipboard import CF_TEXT, CF_UNICODETEXT, ClipFlag, ClipType
from proxyd.protocols.rdp.fastpath import Fragment, Fragments, UpdateCode
from proxyd.protocols.rdp.share import Compression
from proxyd.protocols.rdp.updates import build_bitmaps
from proxyd.protocols.rdp.wire import u32
from proxyd.recorder.record import Kind, Record

pytestmark = pytest.mark.mission("M16")

STARTED_MS = 1_795_000_000_000
CLIP = 1006
PACKED = Compression.COMPRESSED | Compression.FLUSHED | 1


def with_clipboard() -> Record:
    about = session()
    return about._replace(body={**about.body, "channels": {str(CLIP): clipboard.CHANNEL}})


def messages(*records: Record, faults: int = 0) -> list[tuple[int, int, bytes]]:
    """What is written: type, milliseconds, payload."""
    replay = Replay(STARTED_MS)
    data = b"".join(part for one in records for part in replay.feed(one))
    found = []
    while data:
        size = int.from_bytes(data[:8], "little")
        found.append(
            (int.from_bytes(data[8:10], "little"), int.from_bytes(data[10:18], "little"), data[18:size])
        )
        data = data[size:]
    assert replay.faults == faults
    return found


def squares(count: int) -> bytes:
    return build_bitmaps([tile(0, 0, 32, 32, bytes((at,)) * 4096) for at in range(count)])


def test_input_is_as_it_came_and_what_a_block_refused_is_not_there() -> None:
    typed = keys(*press(0x1E), at_us=2_345_678)
    assert messages(
        session(), typed, keys(*press(0x1F), kind=Kind.REFUSED), record(Kind.END, {}, 3_000_000)
    ) == [
        (Type.FAST_PATH_INPUT, STARTED_MS + 2345, typed.body),
        (Type.CONNECTION_CLOSE, STARTED_MS + 3000, b""),
    ]


def test_a_compressed_update_is_inflated() -> None:
    body = build_bitmaps([tile(0, 0, 4, 4, bytes(range(64)))])
    marked = fast(body)._replace(body=fastpath.build_output([fastpath.Update(UpdateCode.BITMAP, 0, 1, body)]))
    for one in (fast(deflated(body), compression=PACKED), marked):
        ((kind, _, frame),) = messages(session(), one)
        assert (kind, frame) == (Type.FAST_PATH_OUTPUT, fast(body).body)


def test_an_update_that_is_too_long_for_a_frame_is_cut() -> None:
    whole, longest = squares(10), 0x7F00
    assert longest > MAX_BODY
    parts = [whole[at : at + longest] for at in range(0, len(whole), longest)]
    sent = [fast(parts[0], fragment=Fragment.FIRST), fast(parts[1], fragment=Fragment.LAST)]
    found = messages(session(), *sent)
    assert len(found) == len(sent) + 1
    fragments = Fragments()
    (update,) = fastpath.parse_output(found[-1][2])
    for _, _, frame in found[:-1]:
        (part,) = fastpath.parse_output(frame)
        assert fragments.feed(part.code, part.fragment, part.data) is None
    assert fragments.feed(update.code, update.fragment, update.data) == whole


def test_a_slow_update_that_is_too_long_becomes_several_of_whole_rectangles() -> None:
    bitmaps = [tile(0, at, 32, 32, bytes((at,)) * 4096) for at in range(7)]
    body = build_bitmaps(bitmaps)
    assert MAX_BODY < len(body) < share.MAX_TOTAL - 100
    found = messages(demand_active(32, 32), slow(bitmaps))
    assert [kind for kind, _, _ in found] == [Type.SLOW_PATH_PDU] * 2
    given = []
    for _, _, payload in found:
        (control,) = share.split(payload)
        given += updates.parse_bitmaps(share.share_data(control).body)
        assert int.from_bytes(payload[12:14], "little") == len(payload)  # as PyRDP takes it
    assert given == bitmaps


def test_pasted_text_is_there_and_other_formats_are_not() -> None:
    def clip(kind: ClipType, body: bytes, flags: int = 0) -> bytes:
        (chunk,) = build_chunks(clipboard.build_clip(kind, flags, body))
        return chunk

    def asked(form: int) -> Record:
        return from_target(clip(ClipType.FORMAT_DATA_REQUEST, u32(form)), CLIP)

    text = "Grüße\0".encode("utf-16-le")
    answer = from_client(clip(ClipType.FORMAT_DATA_RESPONSE, text, ClipFlag.RESPONSE_OK), CLIP)
    refused = from_client(clip(ClipType.FORMAT_DATA_RESPONSE, b"", ClipFlag.RESPONSE_FAIL), CLIP)
    found = messages(with_clipboard(), asked(CF_TEXT), answer, asked(CF_UNICODETEXT), refused, answer)
    assert [(kind, payload[8:]) for kind, _, payload in found] == [(Type.CLIPBOARD_DATA, text)]


def test_what_cannot_be_read_is_counted_and_what_follows_is_there() -> None:
    typed = keys(*press(0x1E))
    cut, torn = record(Kind.PDU, b"\x00\x05\x01"), record(Kind.INPUT_PDU, b"\x04\x03\x00")
    licence = from_target(b"\x80\x00\x00\x00\xff\x03\x10\x00", IO)
    found = messages(session(), licence, cut, torn, typed, faults=2)
    assert [payload for _, _, payload in found] == [typed.body]


def test_a_session_of_the_graphics_pipeline_says_that_its_pictures_are_not_there() -> None:
    about = session()
    for graphics, blind in (("bitmap", False), ("gfx", True), ("avc420", True)):
        replay = Replay(STARTED_MS)
        assert list(replay.feed(about._replace(body={**about.body, "graphics": graphics}))) == []
        assert replay.blind is blind
