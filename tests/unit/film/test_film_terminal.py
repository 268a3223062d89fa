"""Films of terminals: when there is a picture, what it shows, and whether the film shows the same at the same moments."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageChops
from unit.index.test_terminal_derived import Tape

from proxyd.characters import UNSEEN
from proxyd.cli_app import Run
from proxyd.cli_film import make
from proxyd.cli_output import Output
from proxyd.errors import FormatError
from proxyd.export.shot import SETTLE_US
from proxyd.export.task import Made, Task
from proxyd.export.terminal import HEIGHT, STEP_US, WIDTH, Terminal
from proxyd.index.terminal.painting import Sheet, fitting
from proxyd.index.terminal.terminals import Terminals
from proxyd.recorder.record import Kind, Record

av = pytest.importorskip("av", reason="what makes films is not installed")
pytestmark = [pytest.mark.mission("M6", "M13", "M16"), pytest.mark.timeout(120)]

SECOND = 1_000_000
CLOSE = 10  # of 255; a letter that is there or not makes 50
MOMENTS = 20
HOSTILE = (
    b"\x1b[?1049h\x1b[2J\x1b[999999999;999999999H\xff\xfe\x1b]0;"
    + b"x" * 5000
    + b"\x07\x1bP+q\x1b[38;2;1;2;3;4;5;6m"
    + "\u202e\u0301\N{FAMILY}\U0001f468\u200d\U0001f469\u200d\U0001f466".encode()
    + bytes(range(256))
    + b"\x1b[?1049l"
)


def shots(records: list[Record], channel: int | None = None) -> list[tuple[int, Image.Image]]:
    source = Terminal(channel)
    given = [(one.at_us, picture(one)) for record in records for one in source.feed(record)]
    return given + [(one.at_us, picture(one)) for one in source.end(records[-1].at_us)]


def picture(shot: Any) -> Image.Image:
    return Image.frombytes("RGB", (shot.width, shot.height), bytes(shot.pixels), "raw", "BGRX")


def replayed(records: list[Record], at_us: int, channel: int | None = None) -> Image.Image:
    """What a straight replay up to a moment shows, in a picture of a film's size."""
    terminals = Terminals()
    for record in itertools.takewhile(lambda one: one.at_us <= at_us, records):
        terminals.feed(record)
    screen = terminals.screen(channel)
    assert screen is not None
    sheet = Sheet(*screen.size, fitting(*screen.size, WIDTH, HEIGHT))
    sheet.show(screen.page())
    return sheet.image


def middle(image: Image.Image) -> Image.Image:
    """A picture as a film has it: in the middle, black around."""
    film = Image.new("RGB", (WIDTH, HEIGHT))
    film.paste(image, ((WIDTH - image.width) // 2, (HEIGHT - image.height) // 2))
    return film


def differing(one: Image.Image, other: Image.Image) -> int:
    """By how much two pictures' brightness differs at most in a square of 8 x 8 pixels, about a letter's size."""
    squares = ImageChops.difference(one.convert("L").reduce(8), other.convert("L").reduce(8))
    return int(squares.getextrema()[1])


def at_work(seconds: int = 60) -> Tape:
    """A session that types, scrolls, edits on the alternate screen, changes its size and is coloured."""
    rng, tape = random.Random(7), Tape().pty(columns=100, rows=30)
    while tape.at_us < seconds * SECOND:
        for key in "make check":
            tape.out(key.encode(), after_us=rng.randrange(50_000, 300_000))
        for line in range(rng.randrange(5, 60)):
            text = f"\r\n\x1b[3{line % 8}mline {line}\x1b[0m of \x1b[1;4m{rng.random()}\x1b[0m"
            tape.out(text.encode(), after_us=rng.randrange(1000, 60_000))
        tape.out(b"\x1b[?1049h\x1b[2J\x1b[H", after_us=500_000)
        for row in range(25):
            tape.out(f"\x1b[{row + 1};{row * 2 + 1}H\x1b[44mvi {row}\x1b[0m".encode(), after_us=40_000)
        tape.out(b"\x1b[?1049l\r\n$ ", after_us=900_000)
        tape.add(Kind.RESIZE, (rng.randrange(60, 160), rng.randrange(20, 50)), 1, 200_000)
    return tape.add(Kind.END, {"reason": "closed", "by": "", "error": ""}, 0, 700_000)


def made(
    path: Path,
    records: list[Record],
    form: str = "webm",
    channel: int | None = None,
    *,
    keys: bool = False,
    pause_us: int | None = None,
    speed: int = 1,
    half: bool = False,
) -> Made:
    lasted_us = records[-1].at_us
    recording: Any = SimpleNamespace(records=lambda: iter(records), duration_us=lasted_us, started_at=1.0)
    task = Task(
        form, "ssh", lasted_us, 1000, keys=keys, channel=channel, pause_us=pause_us, speed=speed, half=half
    )
    return make(Run(Output("proxyctl")), recording, task, path)


def in_bash(channel: int = 1) -> Tape:
    """A command with a correction, and a password that bash reads without an echo."""
    return typed_in_bash(channel).add(Kind.END, {"reason": "closed", "by": "", "error": ""}, 0, 3 * SECOND)


def typed_in_bash(channel: int = 1) -> Tape:
    tape = Tape().pty(channel)
    for line in (
        b">\x1b[?2004hbash-5.2# ", b"<ech", b">ech", b"<o x\x7fy", b">o x\x08\x1b[Ky", b"<\r", b">\r\n\x1b[?2004l\ry\r\n",
        b">\x1b[?2004hbash-5.2# ", b"<read -s P\r", b">read -s P\r\n\x1b[?2004l\r", b"<hunter2\r", b">\x1b[?2004hbash-5.2# ",
    ):  # fmt: skip
        tape.add(Kind.INPUT if line[:1] == b"<" else Kind.OUTPUT, line[1:], channel, 300_000)
    return tape


# ---------------------------------------------------------------- pictures


def test_every_picture_is_what_a_straight_replay_shows() -> None:
    records = at_work(20).records
    seen = shots(records)
    assert len(seen) > 50
    for at_us, shown in random.Random(1).sample(seen[:-1], 25):
        expected = replayed(records, at_us)
        assert shown.size == expected.size
        assert ImageChops.difference(shown, expected).getbbox() is None, at_us
    assert ImageChops.difference(seen[-1][1], replayed(records, records[-1].at_us)).getbbox() is None


def test_at_most_ten_pictures_a_second_and_none_where_nothing_changed() -> None:
    tape = Tape().pty()
    for number in range(1000):
        tape.out(f"\r{number}".encode(), after_us=1000)
    tape.out(b"", after_us=3 * SECOND).out(b"\x1b[0m", after_us=SECOND).add(Kind.END, {}, 0, SECOND)
    seen = [at_us for at_us, _ in shots(tape.records)]
    assert 10 <= len(seen) <= 12
    assert min(later - earlier for earlier, later in itertools.pairwise(seen)) >= STEP_US
    assert seen[-1] <= 1_000_000 + 2 * STEP_US + SETTLE_US


def test_a_cursor_that_stays_is_painted_once() -> None:
    tape = Tape().pty().out(b"\x1b[5;5H")
    for number in range(8):
        tape.out(f"\x1b7\x1b[H{number}\x1b8".encode(), after_us=200_000)
    for at_us, shown in shots(tape.add(Kind.END, {}, 0, SECOND).records):
        assert ImageChops.difference(shown, replayed(tape.records, at_us)).getbbox() is None, at_us


def test_the_channel_that_was_asked_for_else_the_terminal_in_use() -> None:
    tape = Tape().pty(1).out(b"first").pty(2, columns=60).out(b"second", 2, SECOND)
    tape.out(b" and first", 1, SECOND).add(Kind.END, {}, 0, SECOND)
    for channel in (None, 1, 2):
        last = shots(tape.records, channel)[-1][1]
        expected = replayed(tape.records, tape.at_us, channel)
        assert ImageChops.difference(last, expected).getbbox() is None
    one, two = (replayed(tape.records, tape.at_us, channel) for channel in (1, 2))
    assert one.size != two.size or ImageChops.difference(one, two).getbbox()


# ---------------------------------------------------------------- films


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_a_film_shows_at_every_moment_what_was_shown_then(form: str, tmp_path: Path) -> None:
    tape = at_work(12)
    told = made(tmp_path / "x", tape.records, form)
    assert (told.width, told.height, told.faults, told.sound) == (WIDTH, HEIGHT, 0, False)
    with av.open(tmp_path / "x") as film:
        assert film.duration / SECOND == pytest.approx(tape.at_us / SECOND, abs=0.1)
        assert [stream.type for stream in film.streams] == ["video"]
        frames = [(round(frame.time * SECOND), frame.to_image()) for frame in film.decode(video=0)]
    assert frames[0][0] == 0
    moments = random.Random(2).sample(range(len(frames) - 1), MOMENTS)
    for place in moments:
        at_us, shown = frames[place]
        if at_us:
            # What came within a frame's time of it may be in it or not: times are milliseconds there.
            expected = min(
                differing(shown, middle(replayed(tape.records, at)))
                for at in (at_us - 1000, at_us, at_us + 1000)
            )
            assert expected <= CLOSE, at_us


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_flat_areas_of_low_contrast_are_told_apart(form: str, tmp_path: Path) -> None:
    """What encoders in a hurry leave as it was: a dark area that becomes another dark one."""
    tape, rng = Tape().pty(columns=100, rows=30), random.Random(11)
    for _ in range(60):
        grey, row, column = (
            rng.choice((0, 12, 24, 32, 40, 48)),
            *(rng.randrange(1, most) for most in (28, 90)),
        )
        paint = f"\x1b[48;2;{grey};{grey};{grey}m" + (
            "\x1b[2J" if rng.random() < 0.1 else f"\x1b[{row};{column}H{' ' * rng.randrange(1, 100 - column)}"
        )
        tape.out(paint.encode(), after_us=200_000)
    tape.add(Kind.END, {"reason": "closed"}, 0, SECOND)
    made(tmp_path / "x", tape.records, form)
    with av.open(tmp_path / "x") as film:
        frames = [(round(frame.time * SECOND), frame.to_image()) for frame in film.decode(video=0)]
    assert len(frames) > 50
    for at_us, shown in frames[1:-1:4]:
        around = (replayed(tape.records, at) for at in (at_us - 1000, at_us, at_us + 1000))
        assert min(differing(shown, middle(one)) for one in around) <= CLOSE, at_us


def test_what_a_terminal_is_sent_to_break_it_costs_the_film_nothing(tmp_path: Path) -> None:
    tape, rng = Tape().pty(), random.Random(3)
    for _ in range(150):
        cut = rng.randrange(len(HOSTILE))
        tape.out(HOSTILE[cut:] + rng.randbytes(300) + HOSTILE[:cut], after_us=20_000)
        tape.add(Kind.RESIZE, (rng.choice((0, 1, 7, 80, 65535)), rng.choice((0, 1, 24, 65535))), 1, 1000)
    tape.add(Kind.END, {"reason": "closed"}, 0, SECOND)
    told = made(tmp_path / "x", tape.records)
    assert told.pictures > 10
    with av.open(tmp_path / "x") as film:
        assert film.duration / SECOND == pytest.approx(tape.at_us / SECOND, abs=0.1)


def test_a_session_that_showed_nothing_is_no_film(tmp_path: Path) -> None:
    silent = Tape().add(Kind.CHANNEL, {"event": "open", "type": "session"}).add(Kind.END, {}, 0)
    with pytest.raises(FormatError, match="shows no screen"):
        made(tmp_path / "x", silent.records)
    with pytest.raises(FormatError, match="shows no screen"):
        made(tmp_path / "x", Tape().pty().out(b"x").add(Kind.END, {}, 0).records, channel=9)
    assert list(tmp_path.iterdir()) == []


def test_a_film_of_any_beginning_of_a_session(tmp_path: Path) -> None:
    records = at_work(3).records
    for length in range(5, len(records), len(records) // 3):
        made(tmp_path / "x", records[:length], "mp4")
        with av.open(tmp_path / "x") as film:
            assert film.duration / SECOND == pytest.approx(records[length - 1].at_us / SECOND, abs=0.15)


# ---------------------------------------------------------------- what was typed


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_subtitles_are_the_lines_that_were_shown(tmp_path: Path, form: str) -> None:
    made(tmp_path / "x", in_bash().records, form, keys=True)
    with av.open(tmp_path / "x") as film:
        cues = [(float(one.pts * one.time_base), bytes(one)) for one in film.demux(subtitles=0) if one.size]
    typed = [(at_s, text) for at_s, text in cues if text.strip(b"\0 ")]
    assert [text[2:] if form == "mp4" else text for _, text in typed] == [
        b"echo y",
        b"read -s P",
        UNSEEN.encode(),
    ]
    assert b"hunter2" not in (tmp_path / "x").read_bytes()
    assert [at_s for at_s, _ in typed] == sorted(at_s for at_s, _ in typed)


def test_subtitles_are_of_the_channel_that_is_shown() -> None:
    source = Terminal(2, keys=True)
    records = in_bash(1).records
    assert not [
        one for record in records for _ in [list(source.feed(record))] for one in source.typed(record)
    ]


def test_a_film_without_keys_has_no_subtitles(tmp_path: Path) -> None:
    made(tmp_path / "x", in_bash().records)
    with av.open(tmp_path / "x") as film:
        assert not film.streams.subtitles


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_pauses_are_cut_to_what_was_asked_and_nothing_else(tmp_path: Path, form: str) -> None:
    tape = Tape().pty().out(b"one\r\n", after_us=SECOND).out(b"two\r\n", after_us=100 * SECOND)
    tape.add(Kind.FINDING, {"code": "x", "severity": "low", "text": "found"}, 0, SECOND)
    tape.out(b"three\r\n", after_us=500_000)
    tape.add(Kind.END, {"reason": "closed", "by": "", "error": ""}, 0, 3600 * SECOND)
    told = made(tmp_path / "x", tape.records, form, pause_us=2 * SECOND)
    assert told.lasts_us == pytest.approx(6_500_000, abs=10_000)
    with av.open(tmp_path / "x") as film:
        assert film.duration == pytest.approx(6_500_000, abs=200_000)
        assert [round(one["start"] * one["time_base"]) for one in film.chapters()] == [0, 4]
        frames = [(float(frame.time), frame.to_image()) for frame in film.decode(video=0)]
    for then_s, at_us in ((2.5, 50 * SECOND), (3.5, 101 * SECOND + 500_000), (6.0, 3000 * SECOND)):
        shown = [image for at_s, image in frames if at_s <= then_s][-1]
        assert differing(shown, middle(replayed(tape.records, at_us))) <= CLOSE


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_faster_and_half_as_large_it_shows_the_same(tmp_path: Path, form: str) -> None:
    """Chapters, captions and pictures are where the session's moments have gone; pauses are cut before it is made faster."""
    tape = typed_in_bash().out(b"one\r\n", after_us=8 * SECOND).out(b"two\r\n", after_us=100 * SECOND)
    began_us = tape.at_us - 100 * SECOND
    tape.add(Kind.FINDING, {"code": "x", "severity": "low", "text": "found"}, 0, 2 * SECOND)
    tape.add(Kind.END, {"reason": "closed", "by": "", "error": ""}, 0, 2 * SECOND)
    whole_us = tape.at_us - 90 * SECOND
    told = made(tmp_path / "x", tape.records, form, keys=True, pause_us=10 * SECOND, speed=4, half=True)
    assert (told.width, told.height, told.sound) == (WIDTH // 2, HEIGHT // 2, False)
    assert told.lasts_us == pytest.approx(whole_us / 4, abs=10_000)
    with av.open(tmp_path / "x") as film:
        assert film.duration == pytest.approx(whole_us / 4, abs=200_000)
        starts = [float(one["start"] * one["time_base"]) for one in film.chapters()]
        assert starts == [0, pytest.approx((whole_us - 2 * SECOND) / 4 / SECOND, abs=0.01)]
        frames = [(float(frame.time), frame.to_image()) for frame in film.decode(video=0)]
    with av.open(tmp_path / "x") as film:
        typed = [
            float(one.pts * one.time_base) for one in film.demux(subtitles=0) if bytes(one).strip(b"\0 ")
        ]
    assert len(typed) == 3
    assert max(typed) < began_us / 4 / SECOND
    for at_us, then_us in ((began_us + SECOND, began_us + SECOND), (tape.at_us - SECOND, whole_us - SECOND)):
        shown = [image for at_s, image in frames if at_s <= then_us / 4 / SECOND][-1]
        expected = middle(replayed(tape.records, at_us)).reduce(2)
        assert shown.size == expected.size
        assert differing(shown, expected) <= CLOSE, at_us
