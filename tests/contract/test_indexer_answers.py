"""Pictures of terminals, asked of a real process of the indexer; and what one that lies or breaks off is believed: nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec
import pytest
from unit.index.tape import demand_active, session

from contract.test_indexer_child import ANSWER_S, HEIGHT, WIDTH, Process, child, tape
from proxyd import cli_derive
from proxyd.cli_decoder import Undecoded
from proxyd.cli_derive import NUMBER, TERMINAL, Decoder
from proxyd.index.terminal.painting import picture
from proxyd.index.terminal.screen import ScreenModel
from proxyd.indexing.frames import (
    LENGTH_BYTES,
    LIMIT,
    Begin,
    Failed,
    Fed,
    Feed,
    Forget,
    FromChild,
    Hello,
    Paint,
    Painted,
    Ping,
    Pong,
    Print,
    Printed,
    Redraw,
    Redrawn,
    ToChild,
    pack,
)
from proxyd.page import Page
from proxyd.recorder.hub import pack_batch
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import inflated, packed

__all__ = ["child"]  # a fixture
pytestmark = pytest.mark.mission("M6", "M12")

COLUMNS, ROWS = 30, 8
TALL = 1 << 40  # pixels: more than any machine has


def typed() -> list[Record]:
    """A terminal of a few lines, in colours."""
    lines = [b"\x1b[3%dmline %d\x1b[0m\r\n" % (at % 8, at) for at in range(12)]
    out = [Record(2 + at, at * 1_000_000, Kind.OUTPUT, 1, line) for at, line in enumerate(lines)]
    return [Record(1, 0, Kind.REQUEST, 1, {"name": "pty-req", "columns": COLUMNS, "rows": ROWS}), *out]


def fed(child: Process, number: int, protocol: str, records: list[Record]) -> None:
    child.say(Begin(number, protocol))
    assert isinstance(child.ask(Feed(number, pack_batch(records))), Fed)


def page(child: Process, number: int) -> Page:
    printed = child.ask(Print(number, None))
    assert isinstance(printed, Printed)
    assert printed.page is not None
    return printed.page


def framed(body: object) -> bytes:
    packed_body = msgspec.msgpack.encode(body)
    return len(packed_body).to_bytes(LENGTH_BYTES, "big") + packed_body


def test_what_is_redrawn_brings_an_empty_terminal_to_the_same_page(child: Process) -> None:
    child.say(Begin(1, "ssh"))
    assert child.ask(Redraw(1)) == Redrawn(1, 0, 0, b"")
    fed(child, 1, "ssh", typed())
    redrawn = child.ask(Redraw(1))
    assert isinstance(redrawn, Redrawn)
    assert (redrawn.columns, redrawn.rows) == (COLUMNS, ROWS)
    empty = ScreenModel(COLUMNS, ROWS)
    empty.feed(redrawn.data)
    assert empty.page() == page(child, 1)
    assert page(child, 1).text()[0] == "line 5"


def test_what_is_painted_is_the_page_and_no_larger_than_asked_for(child: Process) -> None:
    child.say(Begin(1, "ssh"))
    assert child.ask(Paint(1, 100, 100)) == Painted(1, 0, 0, b"")
    fed(child, 1, "ssh", typed())
    for most in ((1, 1), (7, TALL), (320, 200), (TALL, TALL)):
        painted = child.ask(Paint(1, *most))
        assert isinstance(painted, Painted)
        expected = picture(page(child, 1), *most)
        assert (painted.width, painted.height) == expected.size
        assert painted.width <= most[0]
        assert painted.height <= most[1]
        assert inflated(painted.rgb, painted.width * painted.height * 3) == expected.tobytes()


@pytest.mark.parametrize("asked", [Redraw, lambda number: Paint(number, 100, 100)], ids=["redraw", "paint"])
def test_a_session_that_has_no_terminal_fails_alone(asked: Callable[[int], ToChild], child: Process) -> None:
    fed(child, 1, "ssh", typed())
    fed(
        child,
        2,
        "rdp",
        [session(WIDTH, HEIGHT)._replace(seq=1), demand_active(WIDTH, HEIGHT)._replace(seq=2)],
    )
    before = page(child, 1)
    assert child.ask(asked(9)) == Failed(9, "KeyError"), "nobody began it"
    assert isinstance(child.ask(asked(2)), Failed), "a desktop"
    assert isinstance(child.ask(Feed(2, pack_batch(tape()[:3]))), Failed), "it was forgotten"
    assert page(child, 1) == before
    assert not isinstance(child.ask(asked(1)), Failed)
    child.say(Forget(1))
    assert isinstance(child.ask(asked(1)), Failed)
    assert child.ask(Ping(5)) == Pong(5)


@pytest.mark.parametrize(
    "body",
    [
        ["Redraw"],
        ["Redraw", None],
        ["Redraw", 1, 1],
        ["Redraw", b"1"],
        {"Redraw": 1},
        ["Paint", 1, 100],
        ["Paint", 1, 0, 100],
        ["Paint", 1, 100, -1],
        ["Paint", 1, 100, 1.5],
        ["Paint", 1, 100, 100, 100],
        ["Redrawn", 1, 80, 24, b""],
    ],
)
def test_what_is_no_question_of_a_terminal_ends_it(body: object, child: Process) -> None:
    fed(child, 1, "ssh", typed())
    assert child.popen.stdin is not None
    child.popen.stdin.write(framed(body))
    child.popen.stdin.flush()
    with pytest.raises(EOFError):
        child.hear()
    assert child.popen.wait(ANSWER_S) > 0


def test_a_question_that_is_too_long_is_not_waited_for(child: Process) -> None:
    assert child.popen.stdin is not None
    child.popen.stdin.write((LIMIT + 1).to_bytes(LENGTH_BYTES, "big"))
    child.popen.stdin.flush()
    with pytest.raises(EOFError):
        child.hear()
    assert child.popen.wait(ANSWER_S) > 0


def test_a_question_that_is_cut_short_has_no_answer(child: Process) -> None:
    fed(child, 1, "ssh", typed())
    assert child.popen.stdin is not None
    child.popen.stdin.write(pack(Redraw(1))[:-1])
    child.popen.stdin.close()
    with pytest.raises(EOFError):
        child.hear()
    assert child.popen.wait(ANSWER_S) == 0


# ------------------------------------------------------------------ one that lies, or breaks off

PIXELS = packed(bytes(10 * 10 * 3))
HELLO = pack(Hello(isolated=True, filtered=True))


# It says the second thing when it was asked, and not before: two frames at once are a fault of their own.
GREETS = """
import os, sys
os.write(1, bytes.fromhex(sys.argv[1]))
question = b""
while b"Redraw" not in question and b"Paint" not in question:
    question += os.read(0, 4096) or sys.exit()
rest = bytes.fromhex(sys.argv[2])
while rest:
    rest = rest[os.write(1, rest):]
"""


def lied(monkeypatch: pytest.MonkeyPatch, said: bytes) -> Decoder:
    """A decoder whose process greets, and says this whatever it is asked."""
    monkeypatch.setattr(cli_derive, "ARGV", (sys.executable, "-S", "-c", GREETS, HELLO.hex(), said.hex()))
    return Decoder(TERMINAL).begun()


def test_a_true_answer_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[tuple[FromChild, Callable[[Decoder], object], object]] = [
        (Redrawn(NUMBER, 80, 24, b"x"), Decoder.redrawn, Redrawn(NUMBER, 80, 24, b"x")),
        (Painted(NUMBER, 0, 0, b""), lambda one: one.painted(10, 10), b""),
    ]
    for said, asked, expected in answers:
        decoder = lied(monkeypatch, pack(said))
        try:
            assert asked(decoder) == expected
        finally:
            decoder.end()


@pytest.mark.parametrize(
    "said",
    [
        pack(Redrawn(NUMBER + 1, 80, 24, b"another session's")),
        pack(Redrawn(NUMBER, 80, 24, b"x")) * 2,
        pack(Redrawn(NUMBER, 80, 24, b"cut short"))[:-1],
        pack(Painted(NUMBER, 10, 10, PIXELS)),
        pack(Failed(NUMBER, "KeyError")),
        framed(["Redrawn", NUMBER, -1, 24, b"x"]),
        framed(["Redrawn", NUMBER, 80, 24, "no bytes"]),
        framed(["Redrawn", NUMBER, 80, 24]),
        framed(["Redrawn", NUMBER, 80, 24, b"x", b"more"]),
        (LIMIT + 1).to_bytes(LENGTH_BYTES, "big"),
        b"",
    ],
    ids=[
        "another",
        "twice",
        "cut",
        "kind",
        "failed",
        "negative",
        "text",
        "short",
        "long",
        "endless",
        "silent",
    ],
)
def test_a_redrawn_terminal_that_is_none_is_refused(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = lied(monkeypatch, said)
    try:
        with pytest.raises(Undecoded, match="gave up"):
            decoder.redrawn()
    finally:
        decoder.end()


@pytest.mark.parametrize(
    "said",
    [
        pack(Painted(NUMBER + 1, 10, 10, PIXELS)),
        pack(Painted(NUMBER, 11, 10, packed(bytes(11 * 10 * 3)))),
        pack(Painted(NUMBER, 10, 1 << 62, PIXELS)),
        pack(Painted(NUMBER, 10, 0, b"")),
        pack(Painted(NUMBER, 10, 10, PIXELS[:-1])),
        pack(Painted(NUMBER, 10, 10, PIXELS + PIXELS)),
        pack(Painted(NUMBER, 10, 9, PIXELS)),
        pack(Painted(NUMBER, 10, 10, packed(bytes(10 * 9 * 3)))),
        pack(Painted(NUMBER, 10, 10, packed(bytes(1 << 26)))),
        pack(Painted(NUMBER, 10, 10, b"no zstd")),
        pack(Redrawn(NUMBER, 10, 10, b"x")),
    ],
    ids=["another", "wider", "endless", "flat", "cut", "twice", "more", "less", "bomb", "garbage", "kind"],
)
def test_a_painted_terminal_that_is_none_is_refused(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = lied(monkeypatch, said)
    try:
        with pytest.raises(Undecoded, match="gave up"):
            decoder.painted(10, 10)
    finally:
        decoder.end()
