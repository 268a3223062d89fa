"""What a recording costs on disk: two hours of a person's work, against the formats others record to.

Promise: a 2 h interactive session is at most 3 MB, its keys and its screen, encrypted, chained and signed.

The session is played by desk.py on a clock of its own and wound on a real reel, which is given that clock: blocks every
250 ms, checkpoints, segments, index and seal are the recorder's. Formats that hold exact numbers are made for the whole
session; what programs write themselves (ttyrec, script, tlog) is also taken from the programs, which watch the same part
of it played in real time.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.desk import COLUMNS, ROWS, Event, Person
from bench.live import drained
from bench.rig import MB, Promise, Report, Rig, Table
from proxyd.recorder import reel as reels
from proxyd.recorder.export import asciicast2, asciicast3
from proxyd.recorder.keys import Signer, new_dek, wrap
from proxyd.recorder.manifest import End, Manifest
from proxyd.recorder.record import Kind
from proxyd.recorder.recorder import BLOCK_SECONDS, COALESCE_SECONDS
from proxyd.recorder.reel import Block, Reel, weigh
from proxyd.recorder.replay import Recording
from proxyd.recorder.segment import Item, new_packer
from proxyd.recorder.tape import BLOCK_FULL
from tests.peers import Terminal

SESSION_S, SESSION_QUICK_S = 7200, 1200
PROMISE_S, PROMISE_MB = 7200, 3
PART_FROM_S, PART_S, PART_QUICK_S = 300, 180, 60  # what the programs watch
SEED = 20
PROGRAMS = {"ttyrec": "ttyrec", "script": "script", "tlog": "tlog-rec"}
UTMP = Path("/run/utmp")
EPOCH_NS = 1_700_000_000_000_000_000
CHANNEL = 1
# tlog adds the terminal to the list of who is logged in and ends where there is none, as in most containers: there it gets
# one of its own, in a mount namespace of its own.
WITH_UTMP = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs tmpfs /run && install -m 664 /dev/null /run/utmp && exec "$@"',
    "sh",
)
PLAYER = """
import json, sys, time, tty
tty.setraw(1)
began = time.monotonic()
for at, text in json.load(open(sys.argv[1])):
    time.sleep(max(0.0, at - (time.monotonic() - began)))
    sys.stdout.buffer.write(text.encode("latin-1")); sys.stdout.buffer.flush()
"""


@dataclass
class Clock:
    """What stands for `time` in the reel: the session's clock."""

    seconds: float = 0.0

    def monotonic(self) -> float:
        """Seconds into the session."""
        return self.seconds

    def time_ns(self) -> int:
        """The wall clock of that moment."""
        return EPOCH_NS + int(self.seconds * 1e9)


def wound(events: Sequence[Event], root: Path) -> Recording:
    """Record the events as the recorder would have, at their times."""
    root.mkdir()
    clock, packer = Clock(), new_packer()
    dek, signer = new_dek(), Signer(Ed25519PrivateKey.generate())
    meta = {"id": "desk", "user": "person", "target": "web1", "login": "root", "protocol": "ssh"}
    keys = wrap(dek, [str(pyrage.x25519.Identity.generate().to_public())])
    reel = Reel(root, Manifest("desk", "node1", EPOCH_NS, "open", True, meta, keys), dek, signer)
    kept, reels.time = reels.time, clock  # type: ignore[attr-defined]
    try:
        reel.queue.append(Block(1, [(0, Kind.META, 0, meta)], weigh(meta)))
        reel.begin(packer)
        seq = 2
        for due, items in blocks(events):
            while reel.next_chore < due:  # what the recorder would have woken up for
                clock.seconds = reel.next_chore
                reel.write(packer)
            clock.seconds = due
            reel.queue.append(Block(seq, items, sum(weigh(body) for _, _, _, body in items)))
            seq += len(items)
            reel.write(packer)
        reel.finish(packer, End(clock.time_ns(), "closed"), failed=False)
    finally:
        reels.time = kept  # type: ignore[attr-defined]
    return Recording.open(reel.folder, dek=dek)


def blocks(events: Iterable[Event]) -> Iterable[tuple[float, list[Item]]]:
    """Cut events into blocks as the recorder does; gives when each is written, in seconds."""
    items: list[Item] = []
    size, due = 0, 0.0
    for event in events:
        at = event.at_us / 1e6
        if items and at > due:
            yield due, items
            items, size = [], 0
        if not items:
            due = at + BLOCK_SECONDS
        items.append((event.at_us, event.kind, CHANNEL, event.data))
        size += weigh(event.data)
        if size >= BLOCK_FULL:
            due = min(due, at + COALESCE_SECONDS)
    if items:
        yield due, items


def shown(events: Iterable[Event]) -> list[Event]:
    """The screen alone."""
    return [event for event in events if event.kind is Kind.OUTPUT]


def on_disk(recording: Recording) -> int:
    """Bytes of all of a recording's files."""
    return sum(path.stat().st_size for path in recording.path.iterdir())


def computed(events: Sequence[Event], root: Path) -> dict[str, bytes | int]:
    """The formats that need no program of others, as bytes or as their number."""
    both, screen = wound(events, root / "both"), wound(shown(events), root / "screen")
    played = b"".join(record.body for record in screen.records() if record.kind is Kind.OUTPUT)
    assert played == b"".join(event.data for event in shown(events)), "the recording is not what was shown"
    return {
        "proxyd": on_disk(both),
        "proxyd, screen only": on_disk(screen),
        "asciicast v3": "".join(asciicast3(screen)).encode(),
        "asciicast v2": "".join(asciicast2(screen)).encode(),
        "ttyrec": b"".join(ttyrec(event) for event in shown(events)),
    }


def ttyrec(event: Event) -> bytes:
    """One frame: seconds, microseconds, length, bytes."""
    heads = (event.at_us // 1_000_000, event.at_us % 1_000_000, len(event.data))
    return b"".join(value.to_bytes(4, "little") for value in heads) + event.data


def programs(events: Sequence[Event], directory: Path) -> dict[str, bytes | None]:
    """Play the screen in real time to the programs that record terminals; None: it is not installed, or does not run here."""
    zero = events[0].at_us if events else 0
    part, player = directory / "part.json", directory / "player.py"
    part.write_text(
        json.dumps([((at - zero) / 1e6, data.decode("latin-1")) for at, _, data in shown(events)])
    )
    player.write_text(PLAYER)
    play = f"{sys.executable} {player} {part}"
    out = {name: directory / f"by-{name}" for name in ("ttyrec", "script", "timing", "tlog")}
    commands = {
        "ttyrec": ["ttyrec", "-e", play, str(out["ttyrec"])],
        "script": [
            "script",
            "-q",
            "-c",
            play,
            "--log-out",
            str(out["script"]),
            "--log-timing",
            str(out["timing"]),
        ],
        "tlog": [
            *([] if UTMP.exists() else WITH_UTMP),
            "tlog-rec",
            "-w",
            "file",
            "-o",
            str(out["tlog"]),
            *play.split(),
        ],
    }
    there = {name: argv for name, argv in commands.items() if shutil.which(PROGRAMS[name])}
    with ExitStack() as stack:
        terminals = []
        for argv in there.values():
            terminal = stack.enter_context(Terminal(argv, rows=ROWS, columns=COLUMNS))
            stack.enter_context(drained(terminal))
            terminals.append(terminal)
        for terminal in terminals:
            terminal.popen.wait(PART_S * 3)
    found: dict[str, bytes | None] = {
        name: out[name].read_bytes() if name in there else None for name in commands
    }
    if found["script"]:
        found["script"] += out["timing"].read_bytes()
    return found


def _written(path: Path) -> bytes | None:
    """What a program wrote; None when it did not even begin."""
    return path.read_bytes() or None if path.exists() else None


def measure(rig: Rig) -> Report:
    """Play, wind, compare."""
    place = rig.place("disk")
    length = rig.pick(SESSION_QUICK_S, SESSION_S)
    events = Person(rig.place("desk"), SEED).work(length)
    until = PART_FROM_S + rig.pick(PART_QUICK_S, PART_S)
    part = [event for event in events if PART_FROM_S <= event.at_us / 1e6 < until]
    (place / "whole").mkdir()
    (place / "part").mkdir()
    whole, small, real = (
        computed(events, place / "whole"),
        computed(part, place / "part"),
        programs(part, place),
    )
    titles = (
        "",
        f"{length / 3600:.2g} h, bytes",
        "to proxyd",
        f"{until - PART_FROM_S} s, bytes",
        "to proxyd",
    )
    table = Table("recordings of the same screen", titles)
    base = (_size(whole["proxyd, screen only"]), _size(small["proxyd, screen only"]))
    for name in whole:
        table.rows += _rows(name, whole[name], small[name], base)
    for name, data in real.items():
        named = f"{name}, by the program"
        table.rows += (
            _rows(named, None, data, base)
            if data is not None
            else [
                (
                    named,
                    "",
                    "",
                    "not installed" if not shutil.which(PROGRAMS[name]) else "does not run here",
                    "",
                )
            ]
        )
    typed = [event.data for event in events if event.kind is Kind.INPUT]
    screen = sum(len(event.data) for event in shown(events))
    per_two_hours = _size(whole["proxyd"]) * PROMISE_S / length / MB
    sizes = {name: _size(data) for name, data in whole.items()}
    return Report(
        "disk",
        [table],
        [Promise("2 h of interactive work, keys and screen", per_two_hours, PROMISE_MB, unit=" MB")],
        [
            f"the session: {len(typed)} keys, {screen:,} bytes of screen in {len(shown(events)):,} outputs",
            "proxyd's first row has the keys too; the others, and what they are compared with, the screen only",
            "proxyd's is encrypted, authenticated, chained and signed, with an index; the others are plain",
        ],
        {"seconds": length, "screen_bytes": screen, "keys": len(typed), "bytes": sizes}
        | {
            "programs": {name: data and len(data) for name, data in real.items()},
            "part": {n: _size(d) for n, d in small.items()},
        },
    )


def _size(data: bytes | int | None) -> int:
    return data if isinstance(data, int) else len(data or b"")


def _rows(
    name: str, whole: bytes | int | None, part: bytes | int | None, base: tuple[int, int]
) -> list[Sequence[str]]:
    """One row, and one more for what can be compressed."""
    rows = [_row(name, _size(whole), _size(part), base)]
    if isinstance(part, bytes):
        packed = [len(gzip.compress(data, 6)) if isinstance(data, bytes) else 0 for data in (whole, part)]
        rows.append(_row(f"{name}, gzip -6", packed[0], packed[1], base))
    return rows


def _row(name: str, whole: int, part: int, base: tuple[int, int]) -> Sequence[str]:
    cells = [
        (f"{size:,}", f"{size / under:.1f}") if size else ("", "")
        for size, under in zip((whole, part), base, strict=True)
    ]
    return (name, *cells[0], *cells[1])
