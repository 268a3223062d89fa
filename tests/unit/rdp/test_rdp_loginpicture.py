import pytest
from PIL import Image

from proxyd.protocols.rdp import loginpicture as look
from proxyd.protocols.rdp import painting
from proxyd.protocols.rdp.fastpath import Fragment, Update, UpdateCode, build_output
from proxyd.protocols.rdp.loginpicture import HEIGHT, MAX_SCALE, WIDTH, draw, place
from proxyd.protocols.rdp.loginscreen import SHOWN_ROWS, LoginScreen, Part, Row
from proxyd.protocols.rdp.updates import parse_bitmaps

SIZES = [
    (1024, 768),
    (1920, 1080),
    (800, 600),
    (640, 480),
    (200, 200),
    (201, 333),
    (3840, 2160),
    (8192, 8192),
]
ROWS = [Row(f"Schreibtisch-{number} Ж中" * 5, "\u202e\x1b[1m" + "Beschreibung " * 20) for number in range(30)]


def screens():
    login = LoginScreen("alice")
    login.ask_login("Wrong user name or password. " * 9)
    login.press("x" * 200)
    code, target, none, wait, told = (LoginScreen() for _ in range(5))
    code.ask_code("That code is not right.")
    target.ask_target(ROWS)
    none.ask_target(ROWS)
    none.press("no such")
    wait.wait("Connecting to desk1.")
    told.tell("W" * 400)
    return {"login": login, "code": code, "target": target, "none": none, "wait": wait, "told": told}


SCREENS = screens()


def drawn(screen, size=(1024, 768), percent=100):
    return draw(screen.view, place(*size, percent), "node1", screen.keyboard)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SCREENS)
def test_every_screen_lies_on_every_size(name, size):
    card = drawn(SCREENS[name], size)
    assert card.left % 4 == card.picture.width % 4 == 0
    assert card.picture.width <= MAX_SCALE * WIDTH
    assert card.picture.height <= MAX_SCALE * HEIGHT
    if min(size[0] / WIDTH, size[1] / HEIGHT) >= 0.4:
        assert card.left + card.picture.width <= size[0]
        assert card.top + card.picture.height <= size[1]
        for _, box in card.spots:
            assert card.left <= box.left < box.right <= size[0]
            assert card.top <= box.top < box.bottom <= size[1]


@pytest.mark.parametrize(("percent", "scale"), [(100, 1.0), (150, 1.5), (200, 2.0), (500, MAX_SCALE)])
def test_a_user_who_wants_things_large_gets_them_large(percent, scale):
    assert place(8000, 8000, percent).scale == scale
    assert place(960, 8000, percent).scale == min(scale, 2.0)  # but all of it


def test_what_is_drawn_can_be_clicked():
    card = drawn(SCREENS["login"])
    assert [spot for spot, _ in card.spots] == [Part.USER, Part.PASSWORD, Part.GO, Part.CANCEL]
    for spot, box in card.spots:
        assert card.at(box.left, box.top) == card.at(box.right - 1, box.bottom - 1) == spot
    assert card.at(0, 0) is None
    rows = [spot for spot, _ in drawn(SCREENS["target"]).spots if isinstance(spot, int)]
    assert rows == list(range(SHOWN_ROWS))
    assert drawn(SCREENS["wait"]).spots == ()


def test_a_secret_is_drawn_as_dots_alone():
    one, other = LoginScreen("alice"), LoginScreen("alice")
    for screen, secret in ((one, "iiii"), (other, "WWWW")):
        screen.ask_login()
        screen.press(secret)
    assert drawn(one).picture.tobytes() == drawn(other).picture.tobytes()
    other.press("W")
    assert drawn(one).picture.tobytes() != drawn(other).picture.tobytes()


def test_text_can_be_told_from_what_it_stands_on():
    def bright(colour):
        linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink in (look._INK, look._FAINT, look._WRONG, look._WARNING, look._ACCENT):
        assert (bright(look._CARD) + 0.05) / (bright(ink) + 0.05) >= 4.5  # WCAG 2.1, 1.4.3


# ---------------------------------------------------------------------------------------------- painting


def painted(bitmaps, size):
    """What a client of 32 bits shows of uncompressed bitmaps."""
    screen = Image.new("RGB", size)
    for bitmap in bitmaps:
        piece = Image.frombytes("RGB", (bitmap.width, bitmap.height), bitmap.data, "raw", "BGRX")
        screen.paste(piece.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (bitmap.left, bitmap.top))
    return screen


def test_pictures_come_in_bitmaps_small_enough_for_either_path():
    picture = Image.effect_noise((1440, 300), 90).convert("RGB")
    for depth in (16, 32):
        bitmaps = list(painting.strips(picture, 8, 4, depth))
        for bitmap in bitmaps:
            build_output(
                [Update(UpdateCode.BITMAP, Fragment.SINGLE, 0, b"".join(painting.updates([bitmap])))]
            )
            assert len(bitmap.data) == bitmap.width * bitmap.height * depth // 8
        messages = list(painting.updates(bitmaps))
        assert [one for message in messages for one in parse_bitmaps(message)] == bitmaps
        assert max(map(len, messages)) < 0x4000
    same = painted(painting.strips(picture, 8, 4, 32), (1448, 304)).crop((8, 4, 1448, 304))
    assert same.tobytes() == picture.tobytes()


def test_colours_of_16_bits():
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (8, 4, 8), (200, 100, 50)]
    for red, green, blue in colours:
        (data,) = [painting.pixels(Image.new("RGB", (1, 1), (red, green, blue)), 16)]
        assert int.from_bytes(data, "little") == red >> 3 << 11 | green >> 2 << 5 | blue >> 3
