"""Real full-screen programs through a real SSH session: any moment from a keyframe is the moment of a straight replay."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxyd.index.terminal import derived
from proxyd.index.terminal.terminals import Terminals
from proxyd.recorder.record import Record
from proxyd.recorder.sidecar import Derived, Item, Keyframe, keyframe_of, path_of
from tests.e2e.lab import Lab
from tests.peers import Terminal
from tests.peers.clients import OpenSSH
from tests.peers.process import eventually

pytestmark = [pytest.mark.mission("M12", "M16"), pytest.mark.timeout(600)]

SSH = OpenSSH()
SEED = 7
STEP_S = 60.0
NEAR: int = 3000  # bytes between two keyframes here, so that there are many of them inside of programs
# What is run, what is typed into it, and what it shows first. Each key makes a program show something.
PROGRAMS: dict[str, tuple[str, str, list[str]]] = {
    "less": ("less numbers", "line 1", [" ", " ", "/line 77\r", "G", "g", "10j", "b"]),
    "vim": ("vim -u NONE -N numbers", "line 1",
            ["10G", ":syntax on\r", "ohello wörld 字\x1b", ":split\r", "\x06", "u", ":set number\r", "dd", "/line 3\r"]),
    "top": ("top -d 0.3", "PID", ["1", "M", "z", "P"]),
    "tmux": ("tmux -L screens -f /dev/null new-session 'sh -i'", r"\$|#",
             ["ls /etc\r", "\x02%", "seq 50\r", '\x02"', "echo second\r", "\x02o", "\x02z", "exit\r", "exit\r"]),
    "mc": ("mc -u", "Help", ["\t", "\x1bOB", "\x1b9", "\x1bOB", "\x1b0"]),
    "htop": ("htop -d 3", "PID", ["M", "P", "\x1bOB", "\x1bOB", "t"]),
}  # fmt: skip
ENDS = {"less": "q", "vim": "\x1b:qa!\r", "top": "q", "tmux": "exit\r", "mc": "\x1b0", "htop": "q"}


def lived(lab: Lab, directory: Path, names: list[str]) -> str:
    """Use some programs, one after the other, in windows of changing size; gives the session."""
    missing = [name for name in names if shutil.which(name) is None]
    assert not missing, f"install {', '.join(missing)}: see DEBS in the Makefile"
    (directory / "numbers").write_text("".join(f"line {number} of the file\n" for number in range(1, 400)))
    before = lab.proxyd.ids()
    at = lab.proxied(directory)
    commands = [
        f"cd {directory}; export LC_ALL=C.UTF-8",
        *(f"{PROGRAMS[name][0]}; echo {name}-is-over" for name in names),
    ]
    argv = SSH.argv(at, "-q", "-e", "none", command="; ".join(commands), terminal=True)
    with Terminal(argv, env=SSH.env(at) | {"SHELL": "/bin/sh"}, rows=24, columns=80) as terminal:
        for number, name in enumerate(names):
            _, first, keys = PROGRAMS[name]
            terminal.expect(first)
            settled(terminal)
            for key in keys:
                terminal.type(key)
                answered(terminal)
            terminal.resize(20 + 7 * number, 70 + 13 * number)
            answered(terminal)
            terminal.type(ENDS[name])
            terminal.expect(f"{name}-is-over")
        assert terminal.wait() == 0
    return str(lab.proxyd.newest(before)["id"])


def answered(terminal: Terminal) -> None:
    """Wait until a program has shown something new, and is done with it."""
    assert terminal.read(STEP_S), f"nothing more is shown after {bytes(terminal.seen[-200:])!r}"
    settled(terminal)


def settled(terminal: Terminal) -> None:
    """Wait until a program shows nothing for a moment: it reads keys again."""
    while terminal.read(0.15):
        pass


def shown(terminals: Terminals) -> dict[int, Any]:
    return {number: screen.page() for number, screen in terminals.screens.items()}


def straight(records: list[Record], moments: list[int]) -> Iterator[tuple[int, dict[int, Any]]]:
    """Yield what was shown at each moment, in order, by one replay from the beginning."""
    terminals, at = Terminals(), 0
    for moment in sorted(moments):
        while at < len(records) and records[at].at_us <= moment:
            terminals.feed(records[at])
            at += 1
        yield moment, shown(terminals)


def from_keyframe(records: list[Record], keyframes: list[Keyframe], moment: int) -> dict[int, Any]:
    keyframe = next((one for one in reversed(keyframes) if one.at_us <= moment), None)
    terminals = derived.Session(keyframe).terminals
    for record in records:
        if record.at_us <= moment and (keyframe is None or record.seq > keyframe.seq):
            terminals.feed(record)
    return shown(terminals)


@pytest.mark.parametrize(
    ("names", "count"),
    [(["less", "vim", "top"], 60), pytest.param(list(PROGRAMS), 1000, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_any_moment_from_a_keyframe_is_that_of_a_straight_replay(
    names: list[str], count: int, lab: Lab, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = lived(lab, short, names)
    recording = lab.proxyd.recording(session)
    records = list(recording.records())

    monkeypatch.setattr(derived, "SPACING", NEAR)
    near = derived.Session()
    items = [item for record in records for item in near.feed(record)[0]] + near.finish()
    keyframes = [keyframe_of(item) for item in items if item.kind == Derived.TERMINAL]
    assert len(keyframes) > 2 * len(names)

    draw = Random(SEED)
    moments = [draw.randrange(recording.duration_us + 1) for _ in range(count)]
    different = [
        moment
        for moment, pages in straight(records, moments)
        if from_keyframe(records, keyframes, moment) != pages
    ]
    assert different == []

    monkeypatch.undo()
    check_the_daemons_own(lab, session, records)


def check_the_daemons_own(lab: Lab, session: str, records: list[Record]) -> None:
    """What the daemon derived while the session lived is what is derived of its recording now, and is used."""
    recording = lab.proxyd.recording(session)
    eventually("an index of the session", path_of(recording.path).exists, within_s=30.0)
    anew = derived.Session()
    items = [item for record in records for item in anew.feed(record)[0]] + anew.finish()
    assert [Item(*item) for item in recording.sidecar().items()] == [_as_kept(item) for item in items]
    ((moment, pages),) = straight(records, [records[-1].at_us // 2])
    printed = lab.proxyd.ctl("screen", session, "--at", f"{moment / 1e6:.6f}").data
    (page,) = pages.values()
    assert printed["lines"] == page.text()
    assert any(printed["lines"])


def _as_kept(item: Item) -> Item:
    return Item(int(item.kind), item.at_us, item.body)
