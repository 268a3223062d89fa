import pytest

from proxyd.protocols.rdp import clipboard
from proxyd.protocols.rdp.clipboard import ClipCapability, ClipFlag, ClipType, FileDescriptor
from proxyd.protocols.rdp.wire import WireError
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M16")


def clip(kind, body, flags=0):
    return clipboard.parse_clip(clipboard.build_clip(kind, flags, body))


def test_messages_of_the_specification():
    flags = clipboard.parse_capabilities(clipboard.parse_clip(seeds.CLIP_CAPABILITIES))
    assert (
        flags
        == ClipCapability.USE_LONG_FORMAT_NAMES
        | ClipCapability.STREAM_FILECLIP_ENABLED
        | ClipCapability.FILECLIP_NO_FILE_PATHS
    )
    assert clipboard.build_capabilities(flags) == seeds.CLIP_CAPABILITIES
    formats = dict(clipboard.parse_format_list(clipboard.parse_clip(seeds.CLIP_FORMATS), long_names=True))
    assert formats == {0xC004: "Native", 3: "", 8: "", 17: ""}
    assert clipboard.parse_data_request(clipboard.parse_clip(seeds.CLIP_REQUEST)) == clipboard.CF_UNICODETEXT
    answer = clipboard.parse_clip(seeds.CLIP_TEXT)
    assert (answer.kind, answer.failed, clipboard.unicode_text(answer.body)) == (
        ClipType.FORMAT_DATA_RESPONSE,
        False,
        "hello world",
    )


def test_names_that_hide_a_nul_between_two_characters():
    """The bytes 00 00 stand inside this name, but not at a character."""
    name = "A\u4100\u0041"
    body = b"\1\0\0\0" + name.encode("utf-16-le") + b"\0\0" + b"\2\0\0\0" + "x\0".encode("utf-16-le")
    assert clipboard.parse_format_list(clip(ClipType.FORMAT_LIST, body), long_names=True) == [
        (1, name),
        (2, "x"),
    ]


def test_short_names():
    wide = b"\1\0\0\0" + "Rich Text".encode("utf-16-le").ljust(32, b"\0")
    assert clipboard.parse_format_list(clip(2, wide), long_names=False) == [(1, "Rich Text")]
    narrow = b"\1\0\0\0" + b"Rich Text".ljust(32, b"\0")
    assert clipboard.parse_format_list(clip(2, narrow, ClipFlag.ASCII_NAMES), long_names=False) == [
        (1, "Rich Text")
    ]


def test_long_names_nobody_agreed_on():
    """What xrdp 0.9.21 sends to a client that says nothing of names, as rdesktop."""
    unasked = b"".join(number.to_bytes(4, "little") + b"\0\0" for number in (13, 16, 1))
    assert clipboard.parse_format_list(clip(2, unasked), long_names=False) == [(13, ""), (16, ""), (1, "")]


def test_text_is_what_was_pasted():
    assert clipboard.unicode_text("für 5 €\r\n\0rest".encode("utf-16-le")) == "für 5 €\r\n"
    assert clipboard.unicode_text(b"a\0\0\xd8b\0\0") == "a\ufffdb"


def descriptor(name, size, flags=0x40, attributes=0x20):
    head = flags.to_bytes(4, "little") + bytes(32) + attributes.to_bytes(4, "little") + bytes(24)
    return (
        head
        + (size >> 32).to_bytes(4, "little")
        + (size & 0xFFFFFFFF).to_bytes(4, "little")
        + name.encode("utf-16-le").ljust(520, b"\0")
    )


def test_files_are_named_with_their_sizes():
    body = (
        b"\3\0\0\0"
        + descriptor("ärger.txt", 12)
        + descriptor("groß.iso", 5 << 32 | 1)
        + descriptor("dir", 0, 0, 0x10)
    )
    assert clipboard.parse_file_list(body) == [
        FileDescriptor("ärger.txt", 12, directory=False),
        FileDescriptor("groß.iso", 5 << 32 | 1, directory=False),
        FileDescriptor("dir", None, directory=True),
    ]
    with pytest.raises(WireError):
        clipboard.parse_file_list(body[:-1])
    with pytest.raises(WireError):
        clipboard.parse_file_list(b"\xff\xff\xff\xff" + descriptor("a", 1))


def test_request_for_a_file():
    body = b"".join(number.to_bytes(4, "little") for number in (7, 2, 2, 65536, 1, 4096))
    assert clipboard.parse_file_request(clip(8, body)) == clipboard.FileRequest(
        7, 2, wants_size=False, position=1 << 32 | 65536, requested=4096
    )
    with pytest.raises(WireError):
        clipboard.parse_file_request(clip(8, body[:-1]))


@pytest.mark.parametrize(("asked", "answered"), [(ClipType.FORMAT_LIST, ClipType.FORMAT_LIST_RESPONSE), (ClipType.FORMAT_DATA_REQUEST, ClipType.FORMAT_DATA_RESPONSE),
                                                 (ClipType.FILECONTENTS_REQUEST, ClipType.FILECONTENTS_RESPONSE)])  # fmt: skip
def test_what_is_refused_is_answered(asked, answered):
    answer = clipboard.parse_clip(clipboard.refusal(clip(asked, b"\7\0\0\0rest")))
    assert answer.kind == answered
    assert answer.failed is (asked != ClipType.FORMAT_LIST)
    assert answer.body == (b"\7\0\0\0" if asked == ClipType.FILECONTENTS_REQUEST else b"")


def test_nobody_waits_for_an_answer_to_the_rest():
    assert clipboard.refusal(clip(ClipType.LOCK_CLIPDATA, b"\1\0\0\0")) is None


def test_beginning_of_a_long_message_says_how_long_it_is():
    begun = clipboard.parse_clip(b"\5\0\1\0\0\0\x10\0" + b"a\0b\0")
    assert (begun.size, clipboard.unicode_text(begun.body)) == (1 << 20, "ab")


def test_what_is_wrong_is_refused():
    for wrong in (
        lambda: clipboard.parse_clip(bytes(7)),
        lambda: clipboard.parse_data_request(clip(4, b"\1\0\0")),
        lambda: clipboard.parse_capabilities(clip(7, b"\1\0\0\0\1\0\3\0")),
        lambda: clipboard.parse_capabilities(clip(7, b"\1\0\0\0\1\0\x0c\0")),
        lambda: clipboard.parse_format_list(clip(2, b"\1\0\0\0a\0b\0"), long_names=True),
        lambda: clipboard.parse_format_list(clip(2, b"\1\0\0\0" + b"ab" * 600 + b"\0\0"), long_names=True),
        lambda: clipboard.parse_format_list(clip(2, b"\1\0\0\0" + bytes(31)), long_names=False),
    ):
        with pytest.raises(WireError):
            wrong()
