"""Pictures of terminals: colours where they belong, only what changed, and any text at all."""

from __future__ import annotations

import pytest
from PIL import Image, ImageFont

from proxyd.index.area import Area
from proxyd.index.terminal import painting
from proxyd.index.terminal.painting import BACKGROUND, FOREGROUND, LEAST_PX, ROWS_KEPT, Sheet, fitting
from proxyd.index.terminal.screen import ScreenModel

pytestmark = pytest.mark.mission("M12", "M13")

PAPER, INK = (BACKGROUND >> 16,) * 3, (FOREGROUND >> 16,) * 3


def painted(data: str, columns: int = 20, rows: int = 3) -> tuple[ScreenModel, Sheet]:
    screen, sheet = ScreenModel(columns, rows), Sheet(columns, rows)
    screen.feed(data.encode())
    sheet.show(screen.page())
    return screen, sheet


def colours(sheet: Sheet, column: int, row: int, cells: int = 1) -> set[tuple[int, ...]]:
    """Give the colours in some cells."""
    width, height = sheet.image.width // 20, sheet.image.height // 3
    box = (column * width, row * height, (column + cells) * width, (row + 1) * height)
    return set(sheet.image.crop(box).get_flattened_data())


def test_letters_and_backgrounds_have_the_targets_colours() -> None:
    _, sheet = painted("\x1b[?25l\x1b[38;2;255;0;0;48;2;0;0;255m█x\x1b[0m \x1b[7m \x1b[0m\x1b[8mhidden\x1b[0m"
                       "\x1b]4;2;rgb:01/02/03\x07\r\n\x1b[42m  \x1b[0m\x1b]10;#0a0b0c\x07█")  # fmt: skip
    assert colours(sheet, 0, 0) >= {(255, 0, 0)}
    assert colours(sheet, 1, 0) >= {(255, 0, 0), (0, 0, 255)}
    assert colours(sheet, 2, 0) == {PAPER}
    assert colours(sheet, 3, 0) == {(10, 11, 12)}  # turned, with the foreground the target set
    assert colours(sheet, 4, 0, 6) == {PAPER}
    assert colours(sheet, 0, 1, 2) == {(1, 2, 3)}
    assert colours(sheet, 2, 1) >= {(10, 11, 12)}
    assert colours(sheet, 0, 2, 20) == {PAPER}


def test_underlines_and_faint_letters_are_painted() -> None:
    _, sheet = painted("\x1b[?25l\x1b[4m  \x1b[0m\x1b[9m  \x1b[0m\x1b[53m  \x1b[0m\x1b[2m██\x1b[0m")
    for column in (0, 2, 4):
        assert colours(sheet, column, 0) == {PAPER, INK}
    faint = round((INK[0] + PAPER[0]) / 2)
    assert (faint,) * 3 in colours(sheet, 6, 0)


def test_only_what_changed_is_painted_and_the_cursor_leaves_no_trace() -> None:
    screen, sheet = painted("one\r\ntwo")
    height = sheet.image.height // 3
    turned = {tuple(0xFF - value for value in PAPER)}
    assert colours(sheet, 3, 1) == turned
    screen.feed(b"\x1b[3;1H")
    assert sheet.show(screen.page()) == [Area(0, row * height, sheet.image.width, height) for row in (1, 2)]
    assert colours(sheet, 3, 1) == {PAPER}
    assert colours(sheet, 0, 2) == turned
    assert sheet.show(screen.page()) == []
    screen.feed(b"\x1b[?25l")
    sheet.show(screen.page())
    assert colours(sheet, 0, 2) == {PAPER}


def test_row_by_row_is_the_same_as_whole() -> None:
    screen, sheet = painted("")
    for number in range(3 * ROWS_KEPT):
        screen.feed(b"\x1b[3%dm%d \x1b[0mand\r\n" % (number % 8, number))
        sheet.paint(screen.rows(screen.changed()), screen.cursor, screen.palette)
    whole = Sheet(20, 3)
    whole.show(screen.page())
    assert whole.image.tobytes() == sheet.image.tobytes()


def test_any_text_is_painted() -> None:
    every = (
        "".join(chr(code) for code in range(0x20, 0x3000, 7))
        + "字👩\u200d🚀e\u0301\u202eabc\u2066\ufeff\U0010ffff"
    )
    _, sheet = painted(every, 20, 60)
    assert len(sheet.image.getcolors(1 << 20) or ()) > 2


def test_without_the_systems_fonts_letters_are_painted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ImageFont.truetype

    def without_names(font: object, *rest: object, **options: object) -> ImageFont.FreeTypeFont:
        if isinstance(font, str):
            raise OSError("cannot open resource")
        return real(font, *rest, **options)  # type: ignore[arg-type]

    painting._face.cache_clear()
    monkeypatch.setattr(ImageFont, "truetype", without_names)
    try:
        _, sheet = painted("plain └─ text")
        assert INK in colours(sheet, 0, 0, 5)
    finally:
        painting._face.cache_clear()


def test_letters_are_as_large_as_fits() -> None:
    for columns, rows in ((80, 24), (160, 45), (200, 60)):
        sheet = Sheet(columns, rows, fitting(columns, rows, 1280, 720))
        assert sheet.image.width <= 1280
        assert sheet.image.height <= 720
        assert sheet.image.width >= 1000
    assert fitting(1000, 500, 1280, 720) == LEAST_PX
    assert isinstance(Sheet(1, 1, LEAST_PX).image, Image.Image)
