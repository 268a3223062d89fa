"""A terminal's screen: what it shows, that it can be left anywhere and gone on with, and that nothing fed to it raises."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.index.terminal.cells import ScreenError
from proxyd.index.terminal.screen import (
    COLUMNS,
    MAX_COLUMNS,
    MAX_ROWS,
    ROWS,
    UNFINISHED,
    ScreenModel,
)
from proxyd.page import DEFAULT, DIRECT, PLAIN, Attribute, Cursor, Run, Style

pytestmark = pytest.mark.mission("M12")


def screen(*data: bytes | str, size: tuple[int, int] = (40, 6)) -> ScreenModel:
    made = ScreenModel(*size)
    for one in data:
        made.feed(one.encode() if isinstance(one, str) else one)
    return made


def test_text_colours_cursor_and_title_come_out() -> None:
    made = screen("\x1b]0;tïtle\x07\x1b[31mred\x1b[0m x字e\u0301y \x1b[1;4;48;5;200mst\x1b[0m\r\n\x1b[44m\x1b[K\r\n",
                  "\x1b[38;2;1;2;3mrgb\x1b[?25l")  # fmt: skip
    first, second, third, *rest = made.rows().values()
    assert first == [
        Run(0, 3, "red", Style(1)),
        Run(3, 2, " x", PLAIN),
        Run(5, 2, "字", PLAIN),
        Run(7, 1, "e\u0301", PLAIN),
        Run(8, 2, "y ", PLAIN),
        Run(10, 2, "st", Style(DEFAULT, 200, Attribute.BOLD | Attribute.UNDERLINE)),
    ]
    assert second == [Run(0, 40, " " * 40, Style(DEFAULT, 4))]
    assert third == [Run(0, 3, "rgb", Style(DIRECT | 0x010203, 4))]
    assert rest == [[], [], []]
    assert made.text()[:3] == ["red x字e\u0301y st", "", "rgb"]
    assert made.title == "tïtle"
    assert made.cursor == Cursor(3, 2, visible=False)
    page = made.page()
    assert page.text() == made.text()
    assert (page.columns, page.rows, page.foreground, page.background) == (40, 6, DEFAULT, DEFAULT)


def test_what_changed_is_told_once() -> None:
    made = screen("one\r\ntwo")
    assert made.changed() == [0, 1, 2, 3, 4, 5]
    made.feed(b"!")
    assert made.text()[1] == "two!"
    assert made.changed() == [1]
    assert made.changed() == []
    made.resize(20, 4)
    assert made.changed() == [0, 1, 2, 3]
    assert made.rows({1}) == {1: [Run(0, 4, "two!", PLAIN)]}


def test_paragraphs_join_wrapped_lines_and_leave_out_where_is_written() -> None:
    made = screen("x" * 50 + "\r\nsecond\r\nwriting")
    assert made.paragraphs(without_cursor=False) == ["x" * 50, "second", "writing"]
    assert made.paragraphs(without_cursor=True) == ["x" * 50, "second"]


def test_the_palette_and_the_usual_colours_are_the_targets() -> None:
    made = screen("\x1b]4;3;rgb:12/34/56\x07\x1b]10;#aabbcc\x07")
    assert made.palette[3] == 0x123456
    assert made.colours() == (0xAABBCC, DEFAULT)


def test_a_size_is_bounded() -> None:
    assert ScreenModel(0, 0).size == (COLUMNS, ROWS)
    made = ScreenModel(0xFFFFFFFF, 0xFFFFFFFF)
    assert made.size == (MAX_COLUMNS, MAX_ROWS)
    made.resize(5, 0xFFFFFFFF)
    assert made.size == (5, MAX_ROWS)


def test_both_screens_and_what_is_unfinished_are_saved() -> None:
    made = screen("shell\r\n$ vim\x1b[?1049h\x1b[2J\x1b[Hin vim \x1b[38;2;1;")
    assert made.alternate
    gone_on = ScreenModel(saved=made.saved())
    for one in (made, gone_on):
        one.feed(b"2;3mcolour")
        assert one.rows({0}) == {
            0: [Run(0, 7, "in vim ", PLAIN), Run(7, 6, "colour", Style(DIRECT | 0x010203))]
        }
        one.feed(b"\x1b[0m\x1b[?1049l!")
        assert one.text()[:2] == ["shell", "$ vim!"]
        assert not one.alternate


def test_it_is_not_left_inside_what_is_too_long_and_is_after_it() -> None:
    made = screen(b"\x1b]0;" + b"a" * (UNFINISHED + 1))
    assert made.saved() is None
    made.feed(b"\x07done")
    saved = made.saved()
    assert saved is not None
    assert ScreenModel(saved=saved).text()[0] == "done"


def test_it_is_not_left_where_the_next_letter_wraps_at_a_margin() -> None:
    made = screen("\x1b[?69h\x1b[2;9s\x1b[1;3H123456")
    assert ScreenModel(saved=made.saved()).page() == made.page()
    made.feed(b"7")
    assert made.saved() is None
    made.feed(b"8")
    gone_on = ScreenModel(saved=made.saved())
    gone_on.feed(b"9")
    assert gone_on.text()[:2] == ["  1234567", " 89"]


@pytest.mark.parametrize("damaged", [b"", b"x", b"nothing of ours" * 100])
def test_what_is_no_saved_state_is_said(damaged: bytes) -> None:
    with pytest.raises(ScreenError):
        ScreenModel(saved=damaged)


def test_no_file_is_read_for_a_picture(tmp_path: Path) -> None:
    """Kitty's pictures may name files, and have them deleted: here they are not even looked at."""
    file = tmp_path / "tty-graphics-protocol-x"
    file.write_bytes(bytes(4))
    name = base64.b64encode(str(file).encode())
    for medium in (b"f", b"t", b"s"):
        screen(b"\x1b_Ga=T,f=32,s=1,v=1,t=" + medium + b";" + name + b"\x1b\\")
    assert file.exists()


# ---------------------------------------------------------------- left anywhere

PIECES = st.one_of(
    st.sampled_from(
        [b"\r\n", b"\n", b"\b", b"\t", b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?47h", b"\x1b[?47l", b"\x1b7", b"\x1b8",
         b"\x1b[2J", b"\x1b[H", b"\x1b[K", b"\x1b[1K", b"\x1b[L", b"\x1b[M", b"\x1b[3P", b"\x1b[4@", b"\x1b[5b", b"\x1b[2;4r",
         b"\x1b[r", b"\x1b[?6h", b"\x1b[?6l", b"\x1b[?7l", b"\x1b[?7h", b"\x1b[4h", b"\x1b[4l", b"\x1b(0", b"\x1b(B", b"\x0e",
         b"\x0f", b"\x1b)0", b"\x1bM", b"\x1bD", b"\x1bE", b"\x1bH", b"\x1b[g", b"\x1b[3g", b"\x1b[S", b"\x1b[T", b"\x1b#8",
         b"\x1bc", b"\x1b[!p", b"\x1b[?69h\x1b[2;9s", b"\x1b[?69l", b"\x1b[0m", b"\x1b[1;3;4;7m", b"\x1b[38;5;99m", b'\x1b[1"q',
         b"\x1b[48;2;9;8;7m", b"\x1b[4:3m", b"\x1b]8;;http://a/\x07link\x1b]8;;\x07", b"\x1b]4;1;rgb:1/2/3\x07", b"\x1b[?J",
         b"\x1b[?25l", b"\x1b[?25h", b"\x1b[3 q", b"\x1b]133;A\x07", b"\x1b[>1u", b"\x1b[<u", b"\x1b[?2026h", b"\x1b[?2026l",
         "字".encode(), "e\u0301".encode(), "👩‍🚀".encode(), b"\xff\xfe", b"\xc3", b"\x1b", b"\x1b[", b"\x1b]0;t\x07",
         b"\x1b[?3h", b"\x1b[?40h", b"\x1b[?5h", b"\x1b[20h", b"\x1bP1$r\x1b\\", b"\x1b[12;4H", b"\x1b[3;30H"]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30).map(str.encode),
    st.binary(max_size=12),
    st.integers(1, 60).map(lambda count: b"word " * count),
)  # fmt: skip
SIZES = st.one_of(st.none(), st.none(), st.tuples(st.integers(1, 60), st.integers(1, 20)))


def seen(made: ScreenModel) -> object:
    return made.page(), made.paragraphs(without_cursor=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(PIECES, SIZES), max_size=60), st.integers(0, 60))
def test_a_screen_gone_on_with_shows_what_the_other_shows(
    fed: list[tuple[bytes, tuple[int, int] | None]], left: int
) -> None:
    straight = ScreenModel(30, 8)
    other: ScreenModel | None = None
    for at, (data, size) in enumerate(fed):
        if at == left and (saved := straight.saved()):
            other = ScreenModel(saved=saved)
            assert seen(other) == seen(straight)
        for one in filter(None, (straight, other)):
            if size:
                one.resize(*size)
            one.feed(data)
    if other:
        assert seen(other) == seen(straight)


HOSTILE = {
    "marks": b"a" + "\u0301".encode() * 100_000,
    "parameters": b"\x1b[" + b"1;" * 100_000 + b"m",
    "numbers": b"\x1b[99999999999999999999C\x1b[9999999999b\x1b[99999999999S" * 5,
    "a string without end": b"\x1bP" + b"q" * 1_000_000,
    "a picture": b"\x1b_Gf=24,s=60000,v=60000,t=d;" + b"A" * 500_000 + b"\x1b\\",
    "links": b"".join(b"\x1b]8;;http://%d\x07x" % number for number in range(20_000)),
    "colours": b"".join(b"\x1b[38;2;%d;%dm\x1b[4%dmx" % (n & 255, n >> 8, n % 8) for n in range(20_000)),
    "screens": b"\x1b[?1049h\x1b[?1049l" * 2_000,
    "wide letters": "字".encode() + b"\x1b[200b\x1b[?3h\x1b[?3l" * 100,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.parametrize("size", [(1, 1), (80, 24), (MAX_COLUMNS, MAX_ROWS)])
def test_what_breaks_emulators_is_shown_somehow(data: bytes, size: tuple[int, int]) -> None:
    made = screen(data, size=size)
    made.feed(b"\x1b\\\x18\x1bc\x1b[Hstill here"[: 8 + min(size[0], 10)])
    assert made.size == size
    assert len(made.text()) == size[1]
    assert made.text()[0] == "still here"[: size[0]].rstrip() or size[0] < 10
