import hashlib

import pytest
from unit.rdp.beside import Channel, content, policy

from proxyd.config import ClipboardWay
from proxyd.protocols.rdp import clipboard, pasting
from proxyd.protocols.rdp.clipboard import (
    CF_UNICODETEXT,
    ClipCapability,
    ClipFlag,
    ClipType,
    Format,
    Holds,
    build_clip,
    build_format_list,
)
from proxyd.protocols.rdp.wire import WireError, u32
from proxyd.recorder.record import Kind
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M3", "M16")

LOG = ClipboardWay(text="log", files="log", other="log")
ALLOW = ClipboardWay(text="allow", files="allow", other="allow")
DENY = ClipboardWay(text="deny", files="deny", other="deny")
TEXT = Format(CF_UNICODETEXT, "")
LIST = Format(0xC0BC, clipboard.FILE_LIST)
HTML = Format(0xC00D, "HTML Format")
PICTURE = Format(8, "")
OK = build_clip(ClipType.FORMAT_LIST_RESPONSE, ClipFlag.RESPONSE_OK)
FAILED = build_clip(ClipType.FORMAT_DATA_RESPONSE, ClipFlag.RESPONSE_FAIL)
SAID = "geheim: 5 €"
BODY = (SAID + "\0").encode("utf-16-le")


def opened(to_target=LOG, to_client=LOG, **more):
    """A clipboard behind its handshake."""
    channel = Channel(clipboard.CHANNEL, policy(to_target=to_target, to_client=to_client), **more)
    channel.down(seeds.CLIP_CAPABILITIES)
    channel.down(build_clip(ClipType.MONITOR_READY))
    channel.up(seeds.CLIP_CAPABILITIES)
    return channel


def offer(*formats):
    return build_format_list(formats, long_names=True)


def ask(one):
    return build_clip(ClipType.FORMAT_DATA_REQUEST, 0, u32(one.number))


def give(body):
    return build_clip(ClipType.FORMAT_DATA_RESPONSE, ClipFlag.RESPONSE_OK, body)


def ask_for_file(stream, place, position, requested, *, size=False, lock=None):
    body = b"".join(map(u32, (stream, place, 1 if size else 2, position, 0, requested)))
    return build_clip(ClipType.FILECONTENTS_REQUEST, 0, body + (b"" if lock is None else u32(lock)))


def give_file(stream, body):
    return build_clip(ClipType.FILECONTENTS_RESPONSE, ClipFlag.RESPONSE_OK, u32(stream) + body)


def descriptor(name, size, flags=0x40):
    """A CLIPRDR_FILEDESCRIPTOR, MS-RDPECLIP 2.2.5.2.3.1."""
    head = (
        flags.to_bytes(4, "little") + bytes(60) + size.to_bytes(8, "big")[:4][::-1] + u32(size & 0xFFFFFFFF)
    )
    return head + name.encode("utf-16-le").ljust(520, b"\0")


def listed(channel, name="ärger.txt", size=12, *, up=True):
    """Hand over a list of one file."""
    one, other = (channel.up, channel.down) if up else (channel.down, channel.up)
    one(offer(LIST))
    other(ask(LIST))
    assert one(give(b"\1\0\0\0" + descriptor(name, size)))


@pytest.mark.parametrize(
    ("one", "holds"),
    [
        (Format(1, ""), Holds.TEXT),
        (Format(7, "whatever it says"), Holds.TEXT),
        (Format(16, ""), Holds.TEXT),
        (Format(0xD010, "HTML Format"), Holds.TEXT),
        (Format(0xC100, "rich TEXT format"), Holds.TEXT),
        (Format(15, ""), Holds.FILES),
        (Format(0xC001, "filegroupDESCRIPTORw"), Holds.FILES),
        (Format(0xC001, "FileGroupDescri"), Holds.FILES),  # as a short list has it
        (Format(13, "FileContents"), Holds.FILES),
        (Format(8, ""), Holds.OTHER),
        (Format(0xD011, ""), Holds.OTHER),
        (Format(0xC001, "image/png"), Holds.OTHER),
    ],
)
def test_what_a_format_holds(one, holds):
    assert one.holds is holds


@pytest.mark.parametrize("long_names", [False, True])
def test_a_list_is_written_as_it_is_read(long_names):
    formats = [TEXT, HTML, Format(0xC001, "größe")]
    read = clipboard.parse_format_list(
        clipboard.parse_clip(build_format_list(formats, long_names=long_names)), long_names=long_names
    )
    assert read == formats


@pytest.mark.parametrize("size", [1, 7, 1600])
@pytest.mark.parametrize("up", [False, True])
def test_text_passes_and_is_in_the_log(up, size):
    channel = opened(size=size)
    one, other = (channel.up, channel.down) if up else (channel.down, channel.up)
    assert one(offer(TEXT, HTML)) == offer(TEXT, HTML)
    assert other(OK) == OK
    assert other(ask(TEXT)) == ask(TEXT)
    assert one(give(BODY)) == give(BODY)
    (told,) = channel.settled(Kind.CLIPBOARD)
    assert told == {
        "direction": "to target" if up else "to client",
        "format": "text",
        "size": len(BODY),
        "text": SAID,
        "sha256": hashlib.sha256(BODY).hexdigest(),
    }


def test_what_is_allowed_passes_and_is_not_in_the_log():
    channel = opened(to_target=ALLOW)
    channel.up(offer(TEXT, LIST))
    channel.down(ask(TEXT))
    assert channel.up(give(BODY)) == give(BODY)
    listed(channel)
    channel.down(ask_for_file(1, 0, 0, 12))
    assert channel.up(give_file(1, b"x" * 12)) == give_file(1, b"x" * 12)
    assert channel.settled() == []


def test_a_long_text_is_cut_in_the_log_and_whole_on_the_way():
    channel = opened()
    channel.up(offer(TEXT))
    channel.down(ask(TEXT))
    body = "lang ".encode("utf-16-le") * 40_000
    assert channel.up(give(body)) == give(body)
    (told,) = channel.settled(Kind.CLIPBOARD)
    assert told["cut"] is True
    assert (told["size"], told["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert len(told["text"]) == pasting.TEXT_LOGGED // 2


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(
    ("way", "left"),
    [
        (ClipboardWay(text="deny", files="log", other="log"), [LIST, PICTURE]),
        (ClipboardWay(text="log", files="deny", other="log"), [TEXT, HTML, PICTURE]),
        (ClipboardWay(text="log", files="log", other="deny"), [TEXT, HTML, LIST]),
        (DENY, []),
    ],
)
def test_a_denied_format_is_not_offered_and_not_given(way, left, up):
    channel = opened(**{"to_target" if up else "to_client": way})
    one, other, answer = (
        (channel.up, channel.down, channel.to_target) if up else (channel.down, channel.up, channel.to_client)
    )
    assert one(offer(TEXT, HTML, LIST, PICTURE)) == offer(*left)
    one(offer(TEXT, HTML, LIST, PICTURE))
    for denied in {TEXT, HTML, LIST, PICTURE} - set(left):
        assert other(ask(denied)) == b""
        assert answer() == FAILED
    assert one(give(BODY)) == b""  # nobody has asked for it
    told = channel.settled(Kind.CLIPBOARD)
    assert {body["result"] for body in told} == {"denied"}
    assert len(told) == len({one.holds for one in {TEXT, HTML, LIST, PICTURE} - set(left)})  # each once


def test_a_number_that_is_named_twice_is_what_it_was_first():
    channel = opened(to_target=ClipboardWay(text="log", files="deny", other="log"))
    twice = offer(Format(0xC001, "image/png"), Format(0xC001, clipboard.FILE_LIST))
    assert channel.up(twice) == offer(Format(0xC001, "image/png"))
    again = offer(Format(0xC001, "image/png"), Format(0xC001, "image/bmp"))
    assert channel.up(again) == offer(Format(0xC001, "image/png"))


def test_a_list_with_more_formats_than_are_read_loses_the_rest():
    channel = opened()
    many = [Format(0xC000 + number, "x") for number in range(clipboard.MAX_FORMATS + 5)]
    assert channel.up(offer(*many)) == offer(*many[: clipboard.MAX_FORMATS])


def test_files_are_neither_said_to_be_possible_nor_fetched_when_both_ways_deny_them():
    channel = Channel(clipboard.CHANNEL)  # as the configuration has it by default
    capable = clipboard.build_capabilities(
        ClipCapability.USE_LONG_FORMAT_NAMES | ClipCapability.STREAM_FILECLIP_ENABLED
    )
    assert channel.down(capable) == clipboard.build_capabilities(ClipCapability.USE_LONG_FORMAT_NAMES)
    assert channel.down(ask_for_file(5, 0, 0, 10)) == b""
    refused = clipboard.parse_clip(channel.to_target())
    assert (refused.kind, refused.failed, refused.body) == (ClipType.FILECONTENTS_RESPONSE, True, u32(5))
    assert channel.down(build_clip(ClipType.LOCK_CLIPDATA, 0, u32(1))) == b""


@pytest.mark.parametrize("up", [False, True])
def test_a_file_is_measured_over_its_pieces(up):
    channel = opened()
    one, other = (channel.up, channel.down) if up else (channel.down, channel.up)
    listed(channel, "Bericht.pdf", 10_000, up=up)
    body = bytes(range(250)) * 40
    for stream, at in enumerate(range(0, 10_000, 4000)):
        other(ask_for_file(stream, 0, at, 4000))
        piece = give_file(stream, body[at : at + 4000])
        assert one(piece) == piece
    operation = "put" if up else "get"
    assert channel.transfers() == [(operation, "Bericht.pdf", 10_000, hashlib.sha256(body).hexdigest(), "ok")]
    names = [body["text"] for body in channel.settled(Kind.CLIPBOARD)]
    assert names == ["Bericht.pdf"]


def test_a_file_of_unknown_size_ends_where_less_comes_than_was_asked_for():
    channel = opened()
    channel.up(offer(LIST))
    channel.down(ask(LIST))
    channel.up(give(b"\1\0\0\0" + descriptor("a", 0, flags=0)))
    channel.down(ask_for_file(1, 0, 0, 8, size=True))
    channel.up(give_file(1, (5).to_bytes(8, "little")))
    channel.down(ask_for_file(2, 0, 0, 100))
    channel.up(give_file(2, b"hello"))
    assert channel.transfers() == [("put", "a", 5, hashlib.sha256(b"hello").hexdigest(), "ok")]


def test_an_empty_file_is_told_when_its_size_is():
    channel = opened()
    listed(channel, "empty", 0)
    channel.down(ask_for_file(1, 0, 0, 8, size=True))
    channel.up(give_file(1, bytes(8)))
    assert channel.transfers() == [("put", "empty", 0, hashlib.sha256(b"").hexdigest(), "ok")]


def test_a_locked_list_is_read_on_when_a_newer_one_is_there():
    channel = opened()
    listed(channel, "old", 8)
    channel.down(build_clip(ClipType.LOCK_CLIPDATA, 0, u32(3)))
    channel.down(ask_for_file(1, 0, 0, 4, lock=3))
    channel.up(give_file(1, b"old "))
    listed(channel, "new", 3)
    channel.down(ask_for_file(2, 0, 4, 4, lock=3))
    channel.up(give_file(2, b"file"))
    channel.down(ask_for_file(3, 0, 0, 3))
    channel.up(give_file(3, b"new"))
    assert [one[1:4:2] for one in channel.transfers()] == [
        ("old", hashlib.sha256(b"old file").hexdigest()),
        ("new", hashlib.sha256(b"new").hexdigest()),
    ]


def test_what_is_unfinished_is_told_at_the_end():
    channel = opened()
    listed(channel, "half", 8)
    channel.down(ask_for_file(1, 0, 0, 4))
    channel.up(give_file(1, b"half"))
    channel.static.close()
    ((_, path, size, _, result),) = channel.transfers()
    assert (path, size, result) == ("half", 4, "incomplete")


# ---------------------------------------------------------------------------------------------- the gate


def test_a_shut_gate_answers_the_client_and_the_target_learns_nothing():
    channel = opened()
    channel.down(offer(TEXT))
    assert channel.up(offer(TEXT), closed=True) == b""
    assert channel.to_client() == OK
    assert channel.up(ask(TEXT), closed=True) == b""
    assert channel.to_client() == FAILED
    assert channel.up(ask_for_file(9, 0, 0, 10), closed=True) == b""
    assert clipboard.parse_clip(channel.to_client()).failed
    assert len(channel.refused) == 3
    assert channel.to_target() == b""


def test_a_shut_gate_denies_what_the_target_asks_of_the_client():
    channel = opened()
    channel.up(offer(TEXT, LIST))
    assert channel.down(ask(TEXT), closed=True) == b""
    assert channel.to_target() == FAILED
    assert channel.down(ask_for_file(4, 0, 0, 10), closed=True) == b""
    assert clipboard.parse_clip(channel.to_target()).failed
    assert channel.down(offer(TEXT), closed=True) == offer(TEXT)  # output flows
    assert channel.down(ask(TEXT)) == ask(TEXT)


def test_an_answer_that_meets_a_shut_gate_is_a_failure_for_the_target():
    channel = opened()
    listed(channel)
    channel.down(ask(LIST))
    channel.down(ask_for_file(6, 0, 0, 12))
    assert channel.up(give(BODY), closed=True) == b""
    assert channel.to_target() == FAILED
    assert channel.up(give_file(6, b"x" * 12), closed=True) == b""
    assert clipboard.parse_clip(channel.to_target()) == (
        ClipType.FILECONTENTS_RESPONSE,
        ClipFlag.RESPONSE_FAIL,
        4,
        u32(6),
    )
    assert channel.transfers() == []


def test_of_a_text_that_was_passing_the_rest_is_zeros_and_the_log_says_so():
    channel = opened(size=100)
    channel.up(offer(TEXT))
    channel.down(ask(TEXT))
    message = give("secret! ".encode("utf-16-le") * 50)
    passed, out = [], list(channel.chunks(message, to_server=True))
    for place, (frame, data) in enumerate(out):
        passed += channel.static.from_client(frame, data, channel.name, closed=place > 1)[0]
    assert content(passed) == message[:200] + bytes(len(message) - 200)
    (told,) = channel.settled(Kind.CLIPBOARD)
    assert (told["result"], told["size"], told["sha256"]) == ("incomplete", 192, None)


def test_our_answer_waits_for_the_end_of_what_is_passing():
    channel = opened(size=100)
    channel.down(offer(TEXT))
    channel.up(ask(TEXT))
    message = give(b"x\0" * 200)
    passed = []
    for place, (frame, data) in enumerate(channel.chunks(message, to_server=False)):
        passed += channel.static.from_target(frame, data, channel.name, closed=True)
        if place == 1:
            assert channel.up(offer(TEXT), closed=True) == b""
            assert channel.to_client() == b""
    assert content(passed) == message + OK


# ---------------------------------------------------------------------------------------------- bad peers


def test_what_is_no_message_here_does_not_pass():
    channel = opened()
    assert channel.up(build_clip(ClipType.MONITOR_READY)) == b""
    assert channel.up(seeds.CLIP_CAPABILITIES) == b""  # a second time
    assert channel.up(b"\x99\0\0\0\0\0\0\0") == b""
    assert channel.down(give(BODY)) == b""
    assert channel.down(give_file(77, b"x")) == b""


def test_no_more_is_asked_than_is_remembered():
    channel = opened()
    channel.up(offer(TEXT))
    for _ in range(pasting.MAX_ASKED):
        assert channel.down(ask(TEXT))
    assert channel.down(ask(TEXT)) == b""
    assert channel.to_target() == FAILED


def test_no_more_files_are_measured_at_once_than_there_is_room_for():
    channel = opened()
    channel.up(offer(LIST))
    channel.down(ask(LIST))
    many = range(pasting.MAX_OPEN + 3)
    names = b"".join(descriptor(f"f{number}", 9) for number in many)
    channel.up(give(len(many).to_bytes(4, "little") + names))
    for number in many:
        channel.down(ask_for_file(number, number, 0, 4))
        channel.up(give_file(number, b"part"))
    assert [one[4] for one in channel.transfers()] == ["incomplete"] * 3


def test_a_list_of_formats_without_end_is_refused():
    channel = opened()
    with pytest.raises(WireError, match="long"):
        channel.up(build_clip(ClipType.FORMAT_LIST, 0, bytes(2 << 20)))
