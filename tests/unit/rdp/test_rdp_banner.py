import pytest
from PIL import Image

from proxyd.protocols.rdp import banner, fastpath, lettering, updates
from proxyd.protocols.rdp.wire import Framer

pytestmark = pytest.mark.mission("M3")


def painted(frames, width, height):
    """What a client shows that knows nothing but raw bitmaps."""
    screen = Image.new("RGB", (width, height))
    for frame in frames:
        (update,) = fastpath.parse_output(frame)
        assert update.code == fastpath.UpdateCode.BITMAP
        for bitmap in updates.parse_bitmaps(update.data):
            assert not bitmap.compressed
            assert bitmap.width % 4 == 0
            assert len(bitmap.data) == bitmap.width * bitmap.height * 4
            assert (bitmap.right - bitmap.left + 1, bitmap.bottom - bitmap.top + 1) == (
                bitmap.width,
                bitmap.height,
            )
            piece = Image.frombytes("RGB", (bitmap.width, bitmap.height), bitmap.data, "raw", "BGRX")
            screen.paste(piece.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (bitmap.left, bitmap.top))
    return screen


@pytest.mark.parametrize("size", [(1280, 800), (640, 480), (200, 200), (101, 77), (8, 8), (4096, 2160)])
@pytest.mark.parametrize(
    "text", ["Session interaction revoked", "You have been disconnected " * 10, "", "ünïcode €\n\x1b[1m"]
)
def test_notice_lies_on_the_screen(size, text):
    notice = banner.draw(text, *size)
    assert notice.left >= 0
    assert notice.left + notice.width <= max(size[0], 4)
    assert notice.top + notice.height <= size[1]
    assert Framer().feed(b"".join(notice.frames)) == list(notice.frames)
    assert max(map(len, notice.frames)) <= 0x3FFF
    screen = painted(notice.frames, *size)
    assert screen.getpixel((notice.left, notice.top)) == (160, 0, 0)


def test_text_is_drawn():
    notice = banner.draw("Session interaction revoked", 1280, 800)
    screen = painted(notice.frames, 1280, 800)
    colours = {colour: count for count, colour in screen.getcolors(1 << 20)}
    assert colours[255, 255, 255] > 200
    assert screen.getpixel((notice.left, notice.top - 1)) == (0, 0, 0)


def test_picture_comes_back_as_it_was():
    picture = Image.effect_noise((400, 160), 80).convert("RGB")
    assert (
        painted(banner.show(picture, 8, 16), 408, 176).crop((8, 16, 408, 176)).tobytes() == picture.tobytes()
    )


def ink(text, width=1280):
    """What a text looks like, with its margins."""
    notice = banner.draw(text, width, 800)
    return painted(notice.frames, width, 800).crop(
        (notice.left, notice.top, notice.left + notice.width, notice.top + notice.height)
    )


@pytest.mark.parametrize("width", [800, 1280, 1920])
def test_a_word_wider_than_the_screen_is_broken_and_nothing_is_cut_off(width):
    picture = ink("X" * 500, width)
    assert picture.width <= width
    assert picture.height >= 3 * (ink("X", width).height - 32)
    margin = picture.crop((picture.width - 4, 0, picture.width, picture.height))
    assert margin.getcolors() == [(4 * picture.height, (160, 0, 0))]


def test_what_acts_on_a_line_is_not_drawn():
    plain = ink("save your work")
    assert ink("\u202esave\x00 your\u2066\r\n work").tobytes() == plain.tobytes()


def test_letters_with_marks_differ_from_those_without():
    if lettering.face(18).ascii_only:
        pytest.skip("no DejaVu Sans on this machine: Pillow's own font has no such letters")
    assert ink("schließen öffnen").tobytes() != ink("schliesen offnen").tobytes()


def test_without_the_font_the_nearest_letters_are_written(monkeypatch):
    monkeypatch.setattr(lettering, "_REGULAR", "no-such-font.ttf")
    lettering.face.cache_clear()
    try:
        assert lettering.face(18).ascii_only
        assert ink("öffnen Zażółć").tobytes() == ink("offnen Zazo?c").tobytes()
        assert ink("Ω").tobytes() == ink("?").tobytes()
    finally:
        lettering.face.cache_clear()
