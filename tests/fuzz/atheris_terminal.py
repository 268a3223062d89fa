"""The decoder of terminal sessions, fuzzed: what a hostile target or client had put on a tape is screens and text, or faults.

Rule 1: nothing raises, whatever was sent, opened, closed or resized, in whatever order.
Rule 2: a page is what its shape says: runs lie within the screen, in order, and what is sent of it is read again equal.
Rule 3: from any keyframe the screens are those of who read from the beginning.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from itertools import count
from typing import Any, Final

import msgspec

from proxyd.index.terminal import derived, forms
from proxyd.index.terminal.derived import Session
from proxyd.index.terminal.terminals import Terminals
from proxyd.page import Page
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, keyframe_of
from tests.fuzz.program import Input

STEP_US: Final = 90_000  # so that some looks at a screen come between two records, and some do not
LONGEST_WAIT_US: Final = 400_000_000  # more than makes a keyframe
NEAR: Final = 512  # bytes between keyframes: inputs are short
CHANNELS: Final = 4
SIZES: Final = ((80, 24), (1, 1), (2, 3), (200, 60), (0, 0), (132, 43), (7, 100), (0xFFFFFFFF, 2))
TYPES: Final = ("session", "session", "session", "direct-tcpip")
MOST_AGAIN: Final = 16


class Step(enum.IntEnum):
    """What a step does; its number is the step's first byte modulo their count."""

    OUTPUT = 0
    ERROR = 1
    INPUT = 2
    RESIZE = 3
    PTY = 4
    OPEN = 5
    CLOSE = 6
    NOTICE = 7
    WAIT = 8
    AGAIN = 9


def records(source: Input) -> Iterator[Record]:
    """Yield what a program puts on a tape; a step is what is done, a channel, and what that needs."""
    seq, at_us, before = count(1), 0, b""
    while source.left > 0:
        step, channel = source.byte() % len(Step), source.byte() % CHANNELS
        body: Any = None
        match Step(step):
            case Step.OUTPUT | Step.ERROR | Step.INPUT:
                body = before = source.take(source.byte())
            case Step.AGAIN:
                step, body = Step.OUTPUT, before * (1 + source.byte() % MOST_AGAIN)
            case Step.RESIZE | Step.PTY:
                body = SIZES[source.byte() % len(SIZES)]
            case Step.WAIT:
                at_us += LONGEST_WAIT_US * (source.byte() & 1)
                continue
        at_us += STEP_US
        yield Record(next(seq), at_us, *_recorded(Step(step), channel, body))


def _recorded(step: Step, channel: int, body: Any) -> tuple[Kind, int, Any]:
    match step:
        case Step.PTY:
            return Kind.REQUEST, channel, {"name": "pty-req", "columns": body[0], "rows": body[1]}
        case Step.OPEN:
            return Kind.CHANNEL, channel, {"event": "open", "type": TYPES[channel]}
        case Step.CLOSE:
            return Kind.CHANNEL, channel, {"event": "close"}
        case Step.NOTICE:
            return Kind.NOTICE, channel, "Session interaction\x1b[2J\nrevoked"
    kinds = {
        Step.OUTPUT: Kind.OUTPUT,
        Step.ERROR: Kind.ERROR_OUTPUT,
        Step.INPUT: Kind.INPUT,
        Step.RESIZE: Kind.RESIZE,
    }
    return kinds[step], channel, body


def shown(terminals: Terminals) -> dict[int, Page]:
    return {number: screen.page() for number, screen in terminals.screens.items()}


def play(data: bytes) -> None:
    """Run one input; AssertionError, or whatever else comes out, is a finding."""
    session, straight = Session(), Terminals()
    resumed: Terminals | None = None
    for record in records(Input(data)):
        straight.feed(record)
        if resumed:
            resumed.feed(record)
        for item in session.feed(record)[0]:
            if item.kind == Derived.TERMINAL:
                resumed = Session(keyframe_of(item)).terminals
    pages = shown(straight)
    session.finish()
    assert shown(session.terminals) == pages
    if resumed:
        assert shown(resumed) == pages
        assert resumed.shown == straight.shown
    for page in pages.values():
        check(page)


def check(page: Page) -> None:
    """Look at one page (rule 2)."""
    assert len(page.lines) == page.rows
    assert page.cursor.column < page.columns
    assert page.cursor.row < page.rows
    for line in page.lines:
        column = 0
        for run in line:
            assert run.text
            assert run.column >= column
            assert run.cells in (len(run.text), 1, 2)
            column = run.column + run.cells
        assert column <= page.columns
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(page), type=Page) == page
    for form in (forms.text(page), forms.ansi(page), forms.svg(page)):
        assert "\x07" not in form
    assert "\x1b" not in forms.text(page)


def quiet() -> None:
    """Have keyframes in short inputs."""
    derived.SPACING = NEAR  # type: ignore[misc]
