"""What is derived of a terminal session: keyframes to go on from, heat, and the text that was to be seen."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from proxyd.errors import FormatError
from proxyd.index.terminal.derived import LONGEST_US, SPACING, Session
from proxyd.index.terminal.screen import MAX_COLUMNS, MAX_ROWS
from proxyd.index.terminal.terminals import CELLS, CLOSED_KEPT, Terminals
from proxyd.index.terminal.text import LOOK_US
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item, keyframe_of

pytestmark = pytest.mark.mission("M12", "M16")


class Tape:
    """Records as an SSH session writes them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.at_us = 0
        self._seq = count(1)

    def add(self, kind: Kind, body: Any, channel: int = 1, after_us: int = 1000) -> Tape:
        self.at_us += after_us
        self.records.append(Record(next(self._seq), self.at_us, kind, channel, body))
        return self

    def pty(self, channel: int = 1, columns: int = 40, rows: int = 10) -> Tape:
        self.add(Kind.CHANNEL, {"event": "open", "type": "session"}, channel)
        return self.add(Kind.REQUEST, {"name": "pty-req", "columns": columns, "rows": rows}, channel)

    def out(self, data: bytes, channel: int = 1, after_us: int = 1000) -> Tape:
        return self.add(Kind.OUTPUT, data, channel, after_us)


def derived(tape: Tape) -> list[Item]:
    session = Session()
    items = [item for record in tape.records for item in session.feed(record)[0]]
    return items + session.finish()


def texts(items: list[Item], source: str = "screen") -> list[str]:
    return [line for item in items if item.kind == Derived.TEXT and item.body[0] == source
            for line in item.body[1].split("\n")]  # fmt: skip


def bodies(items: list[Item], kind: Derived) -> list[tuple[int, Any]]:
    return [(item.at_us, item.body) for item in items if item.kind == kind]


def test_every_line_that_scrolls_past_is_told_once() -> None:
    tape = Tape().pty()
    lines = [f"line {number} of many" for number in range(500)]
    data = "".join(f"\x1b[32m{line}\x1b[0m\r\n" for line in lines).encode()
    for at in range(0, len(data), 777):
        tape.out(data[at : at + 777], after_us=10)
    assert texts(derived(tape)) == lines


def test_a_line_is_told_when_it_is_written_not_while() -> None:
    tape = Tape().pty().out(b"$ ", after_us=LOOK_US)
    for key in b"ls -la":
        tape.out(bytes((key,)), after_us=LOOK_US)
    tape.out(b"\r\ntotal 0\r\n$ ", after_us=LOOK_US)
    entered_us = tape.at_us
    tape.out(b"exit", after_us=LOOK_US)
    items = derived(tape)
    assert texts(items) == ["$ ls -la", "total 0", "$ exit"]
    assert bodies(items, Derived.TEXT)[0][0] == entered_us


def test_of_full_screen_programs_what_stood_is_told() -> None:
    tape = Tape().pty().out(b"\x1b[?1049h\x1b[2J\x1b[Hflash", after_us=LOOK_US)
    tape.out(b"\x1b[2J\x1b[Hload 1.00\r\nidle 99", after_us=1000)
    tape.out(b"\x1b[2J\x1b[Hload 2.00\r\nidle 99", after_us=3_000_000)
    tape.out(b"\x1b[?1049l", after_us=3_000_000)
    assert texts(derived(tape)) == ["load 1.00", "idle 99", "load 2.00"]


def test_titles_transfers_and_findings_are_told() -> None:
    tape = Tape().pty().out(b"\x1b]2;root@db: /etc\x07").out(b"\x1b]2;root@db: /etc\x07")
    tape.add(Kind.TRANSFER, {"operation": "put", "path": b"/tmp/a", "size": 3})
    tape.add(Kind.FINDING, {"code": "x", "severity": "low", "text": "weak cipher"})
    items = derived(tape)
    assert texts(items, "title") == ["root@db: /etc"]
    assert texts(items, "transfer") == ["put /tmp/a"]
    assert texts(items, "finding") == ["weak cipher"]


def test_heat_counts_each_second() -> None:
    tape = Tape().pty().out(b"abc").add(Kind.INPUT, b"x").add(Kind.ERROR_OUTPUT, b"no")
    tape.add(Kind.FINDING, {"code": "y"}, after_us=2_000_000).out(b"d")
    assert bodies(derived(tape), Derived.HEAT) == [(0, [1, 5, 0]), (2_000_000, [0, 1, 1])]


def test_keyframes_come_by_output_and_by_time_and_at_the_end() -> None:
    tape = Tape().pty()
    for _ in range(10):
        tape.out(b"x" * (SPACING // 4 + 1))
    tape.add(Kind.INPUT, b"x", after_us=LONGEST_US)
    tape.out(b"end")
    items = derived(tape)
    seqs = [body["seq"] for _, body in bodies(items, Derived.TERMINAL)]
    assert seqs == [6, 10, 13, 14]
    assert items[-1] == Item(Derived.SUMMARY, tape.at_us, {"seq": 14, "faults": 0})


def test_a_keyframe_waits_for_the_end_of_a_sequence_that_is_too_long() -> None:
    tape = Tape().pty().out(b"\x1b]0;" + b"x" * SPACING).out(b"x" * SPACING).out(b"\x07")
    assert [body["seq"] for _, body in bodies(derived(tape), Derived.TERMINAL)] == [5]


def a_long_session() -> Tape:
    """Two terminals, a command without one, a forward, notices, sizes and full-screen programs."""
    tape = Tape().pty(1).pty(2, 100, 30)
    tape.add(Kind.CHANNEL, {"event": "open", "type": "direct-tcpip"}, 3)
    tape.add(Kind.CHANNEL, {"event": "open", "type": "session"}, 4)
    for number in range(300):
        channel = 1 + number % 2
        tape.out(
            f"\x1b[{number % 20 + 1};{number % 30 + 1}H\x1b[3{number % 8}m{number} ".encode() * 40,
            channel,
            after_us=5_000_000,
        )
        tape.out(b"not a terminal\x1b[2J", 3).out(b"%d\n" % number, 4).add(Kind.ERROR_OUTPUT, b"oh\n", 4)
        if number % 20 == 7:
            tape.out(b"\x1b[?1049h\x1b[2J", channel)
        if number % 20 == 13:
            tape.out(b"\x1b[?1049l", channel).add(Kind.NOTICE, "Session interaction\nrevoked", 0)
        if number % 50 == 9:
            tape.add(Kind.RESIZE, [30 + number, 9 + number % 40], channel)
    return tape.add(Kind.CHANNEL, {"event": "close"}, 1).out(b"alone", 2)


def shown(terminals: Terminals) -> Any:
    screens = {number: screen.page() for number, screen in terminals.screens.items()}
    return terminals.shown, screens


def test_any_moment_from_its_keyframe_is_the_same_as_straight() -> None:
    tape = a_long_session()
    straight, session = Terminals(), Session()
    going_on: Terminals | None = None
    keyframes = 0
    for record in tape.records:
        straight.feed(record)
        if going_on:
            going_on.feed(record)
            assert going_on.shown == straight.shown
        for item in session.feed(record)[0]:
            if item.kind == Derived.TERMINAL:
                going_on = Session(keyframe_of(item)).terminals
                keyframes += 1
                assert shown(going_on) == shown(straight)
    assert going_on
    assert shown(going_on) == shown(straight)
    assert keyframes > 2
    assert sorted(straight.screens) == [1, 2, 4]
    page = straight.screens[4].page()
    assert page.text()[-3:] == ["299", "oh", ""]


def test_made_anew_it_is_equal() -> None:
    assert derived(a_long_session()) == derived(a_long_session())


def test_closed_channels_lose_their_screens_at_last_and_large_ones_are_small() -> None:
    terminals = Terminals()
    tape = Tape()
    for channel in range(1, 2 * CLOSED_KEPT):
        tape.pty(channel, MAX_COLUMNS, MAX_ROWS).out(b"here", channel)
        tape.add(Kind.CHANNEL, {"event": "close"}, channel)
    for record in tape.records:
        terminals.feed(record)
    assert sorted(terminals.screens) == list(range(CLOSED_KEPT, 2 * CLOSED_KEPT))
    assert terminals.screens[2 * CLOSED_KEPT - 1].size in {(MAX_COLUMNS, MAX_ROWS), (80, 24)}
    assert (80, 24) in {screen.size for screen in terminals.screens.values()}
    assert sum(screen.cells for screen in terminals.screens.values()) <= CELLS + CLOSED_KEPT * 80 * 24
    assert terminals.screens[CLOSED_KEPT].text()[0] == "here"


@pytest.mark.parametrize(
    "state", [b"", b"\x93\x01\x02\x03", b"\xc1", b"\x93\x94\xc0\x90\x90\x90\x90\x91\x92\x01\xa1x"]
)
def test_a_damaged_state_is_said(state: bytes) -> None:
    with pytest.raises(FormatError):
        Terminals.resumed(state)
