"""A real process of the indexer: what it gives up, what it answers, what ends it."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.index.tape import demand_active, keys, press, session, slow, tile

from proxyd.indexing.child import ARGV, environment
from proxyd.indexing.frames import (
    VIEW,
    Begin,
    ChildFrames,
    Failed,
    Fed,
    Feed,
    Finish,
    Forget,
    FromChild,
    Glance,
    Hello,
    Look,
    Ping,
    Pong,
    Print,
    Printed,
    Shown,
    ToChild,
    pack,
)
from proxyd.recorder.hub import pack_batch
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item, Keyframe, keyframe_of

pytestmark = pytest.mark.mission("M12", "M16")

WIDTH, HEIGHT = 640, 480
ANSWER_S = 60.0


class Process:
    """One process, asked in lockstep."""

    def __init__(self) -> None:
        self.popen = subprocess.Popen(
            ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd="/"
        )
        self._frames = ChildFrames()
        self._waiting: list[FromChild] = []

    def say(self, *frames: ToChild) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(b"".join(map(pack, frames)))
        self.popen.stdin.flush()

    def hear(self) -> FromChild:
        assert self.popen.stdout is not None
        while not self._waiting:
            assert select.select([self.popen.stdout], [], [], ANSWER_S)[0], "it is silent"
            data = os.read(self.popen.stdout.fileno(), 1 << 16)
            if not data:
                raise EOFError
            self._waiting += self._frames.feed(data)
        return self._waiting.pop(0)

    def ask(self, frame: ToChild) -> FromChild:
        self.say(frame)
        return self.hear()


@pytest.fixture
def child() -> Iterator[Process]:
    pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")
    process = Process()
    try:
        hello = process.hear()
        assert isinstance(hello, Hello)
        assert hello.isolated
        yield process
    finally:
        process.popen.kill()
        process.popen.wait()
        for end in (process.popen.stdin, process.popen.stdout):
            if end is not None:
                with contextlib.suppress(BrokenPipeError):
                    end.close()


def tape() -> list[Record]:
    """A session of two minutes: something is painted each second, a line is typed."""
    painted = [
        slow(
            [tile(32 * (at % 16), 32 * (at % 12), 32, 32, random.Random(at).randbytes(4096))], at * 1_000_000
        )
        for at in range(1, 120)
    ]
    typed = [keys(*press(0x1E), at_us=5_500_000), keys(*press(0x1C), at_us=5_600_000)]
    found = sorted(
        [session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT), *painted, *typed], key=lambda one: one.at_us
    )
    return [one._replace(seq=seq) for seq, one in enumerate(found, 1)]


def derived(child: Process, number: int, records: list[Record], step: int) -> list[Item]:
    child.say(Begin(number, "rdp"))
    items = []
    for start in range(0, len(records), step):
        fed = child.ask(Feed(number, pack_batch(records[start : start + step])))
        assert isinstance(fed, Fed)
        items += [Item(*item) for item in fed.items]
    fed = child.ask(Finish(number))
    assert isinstance(fed, Fed)
    assert (fed.seq, fed.faults) == (records[-1].seq, 0)
    return items + [Item(*item) for item in fed.items]


def test_what_is_derived_is_the_same_in_whatever_pieces_it_comes(child: Process) -> None:
    made = derived(child, 1, tape(), 1000)
    assert made == derived(child, 2, tape(), 1) == derived(child, 3, tape(), 7)
    kinds = [item.kind for item in made]
    assert kinds.count(Derived.KEYFRAME) == 2  # after a minute of little, and at the end
    assert [item.body for item in made if item.kind == Derived.TYPED] == [[False, "a‹Enter›"]]  # noqa: RUF001
    assert sum(item.body[1] for item in made if item.kind == Derived.HEAT) == sum(
        len(record.body) for record in tape() if isinstance(record.body, bytes) and record.kind == 30
    )
    assert kinds[-1] == Derived.SUMMARY


def test_a_keyframe_is_where_another_goes_on(child: Process) -> None:
    records = tape()
    first, *_ = [item for item in derived(child, 1, records, 50) if item.kind == Derived.KEYFRAME]
    keyframe = keyframe_of(first)
    assert keyframe.saved
    child.say(Begin(2, "rdp", keyframe))
    child.ask(Feed(2, pack_batch([one for one in records if one.seq > keyframe.seq])))
    whole, resumed = child.ask(Look(1, on=True)), child.ask(Look(2, on=True))
    assert isinstance(whole, Shown)
    assert isinstance(resumed, Shown)
    assert (whole.width, whole.height) == (WIDTH, HEIGHT)
    assert whole.patches == resumed.patches


def test_sessions_do_not_mix_and_one_that_fails_is_forgotten_alone(child: Process) -> None:
    records = tape()
    child.say(Begin(1, "rdp"), Begin(2, "rdp"))
    assert isinstance(child.ask(Feed(1, pack_batch(records[:40]))), Fed)
    assert isinstance(child.ask(Feed(2, b"\xc1")), Failed)
    assert isinstance(child.ask(Feed(2, pack_batch(records[:40]))), Failed)  # it was forgotten
    fed = child.ask(Feed(1, pack_batch(records[40:])))
    assert isinstance(fed, Fed)
    assert fed.seq == records[-1].seq
    child.say(Forget(1))
    assert isinstance(child.ask(Finish(1)), Failed)
    assert child.ask(Ping(7)) == Pong(7)


def test_who_looks_gets_the_whole_picture_then_what_changed(child: Process) -> None:
    records = tape()
    child.say(Begin(1, "rdp"))
    nothing = child.ask(Look(1, on=True))
    assert isinstance(nothing, Shown)
    assert (nothing.width, nothing.patches) == (0, [])
    child.ask(Feed(1, pack_batch(records[:10])))
    first = child.hear()
    assert isinstance(first, Shown)
    assert first.whole
    child.ask(Feed(1, pack_batch(records[10:11])))
    change = child.hear()
    assert isinstance(change, Shown)
    assert not change.whole
    assert sum(one.width * one.height for one in change.patches) <= 4 * 64 * 64
    child.say(Look(1, on=False))
    child.ask(Feed(1, pack_batch(records[11:30])))
    assert child.ask(Ping(1)) == Pong(1)


def test_a_glance_gives_what_changed_since_the_one_before_and_nothing_comes_unasked(child: Process) -> None:
    records = tape()
    child.say(Begin(1, VIEW))
    nothing = child.ask(Glance(1, whole=False))
    assert isinstance(nothing, Shown)
    assert (nothing.whole, nothing.width, nothing.patches) == (True, 0, [])
    child.ask(Feed(1, pack_batch(records[:10])))
    first = child.ask(Glance(1, whole=False))
    assert isinstance(first, Shown)
    assert first.whole
    for batch in (records[10:11], records[11:12]):
        child.ask(Feed(1, pack_batch(batch)))
    change, still = child.ask(Glance(1, whole=False)), child.ask(Glance(1, whole=False))
    assert isinstance(change, Shown)
    assert isinstance(still, Shown)
    assert not change.whole
    assert 0 < sum(one.width * one.height for one in change.patches) <= 8 * 64 * 64
    assert (still.whole, still.patches) == (False, [])
    again = child.ask(Glance(1, whole=True))
    assert isinstance(again, Shown)
    assert (again.whole, len(again.patches)) == (True, 1)
    assert child.ask(Ping(3)) == Pong(3)
    child.say(Begin(1, VIEW))  # what was seen before is forgotten with it
    child.ask(Feed(1, pack_batch(records[:10])))
    assert child.ask(Glance(1, whole=False)) == first


def test_what_is_no_frame_ends_it_and_no_more(child: Process) -> None:
    assert child.popen.stdin is not None
    child.popen.stdin.write(b"\0\0\0\x01\xc1")
    child.popen.stdin.flush()
    with pytest.raises(EOFError):
        child.hear()
    assert child.popen.wait(ANSWER_S) > 0


def test_it_ends_with_its_input(child: Process) -> None:
    assert child.popen.stdin is not None
    child.popen.stdin.close()
    assert child.popen.wait(ANSWER_S) == 0


def test_it_can_do_nothing_but_read_and_write() -> None:
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}:
        pytest.skip("FILTERS OF SYSTEM CALLS ARE KNOWN FOR LINUX ON TWO MACHINES ONLY")
    program = (
        "import os, resource, socket, sys\n"
        "from proxyd.index import sandbox\n"
        "print(sandbox.enter())\n"
        "def tried(what):\n"
        "    try:\n"
        "        what()\n"
        "    except OSError as error:\n"
        "        return type(error).__name__\n"
        "    return 'done'\n"
        "def write():\n"
        "    with open('/tmp/proxyd-sandbox-test', 'wb') as file:\n"
        "        file.write(b'x')\n"
        "signal = __import__('signal')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "print(tried(socket.socket), tried(lambda: os.execv('/bin/true', ['true'])),\n"
        "      tried(lambda: os.rename('/tmp/a', '/tmp/b')), tried(write))\n"
        "print(len(os.environ), resource.getrlimit(resource.RLIMIT_CORE), os.getpriority(os.PRIO_PROCESS, 0))\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        Path("/tmp/proxyd-sandbox-test").unlink(missing_ok=True)
    assert done.stdout.splitlines() == [
        "(True, True)",
        "PermissionError PermissionError PermissionError OSError",
        f"0 (0, 0) {min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)}",
    ], done.stderr


def test_one_that_takes_too_much_memory_is_refused_it() -> None:
    program = (
        "from proxyd.index import sandbox\n"
        "sandbox.enter()\n"
        "try:\n"
        "    bytearray(sandbox.MEMORY_BYTES)\n"
        "except MemoryError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "refused\n", done.stderr


def test_terminals_are_printed_and_gone_on_with(child: Process) -> None:
    out = [
        Record(2 + at, at * 400_000_000, Kind.OUTPUT, 1, b"\x1b[3%dmline %d\r\n" % (at % 8, at))
        for at in range(20)
    ]
    records = [Record(1, 0, Kind.REQUEST, 1, {"name": "pty-req", "columns": 30, "rows": 8}), *out]
    child.say(Begin(1, "ssh"))
    assert child.ask(Print(1, None)) == Printed(1, 0, 0, None, [], None)
    fed = child.ask(Feed(1, pack_batch(records)))
    assert isinstance(fed, Fed)
    whole = child.ask(Print(1, None))
    assert isinstance(whole, Printed)
    assert (whole.seq, whole.channel, whole.channels) == (21, 1, [1])
    assert whole.page
    assert whole.page.text() == [*(f"line {at}" for at in range(13, 20)), ""]
    assert child.ask(Print(1, 9)) == Printed(1, 21, whole.at_us, 9, [1], None)
    keyframe = [keyframe_of(Item(*item)) for item in fed.items if item[0] == Derived.TERMINAL][5]
    child.say(Begin(2, "ssh", keyframe))
    child.ask(Feed(2, pack_batch([one for one in records if one.seq > keyframe.seq])))
    resumed = child.ask(Print(2, None))
    assert isinstance(resumed, Printed)
    assert resumed.page == whole.page


def test_what_can_not_be_begun_fails_when_it_is_fed(child: Process) -> None:
    records = pack_batch([Record(1, 0, Kind.OUTPUT, 1, b"x")])
    child.say(
        Begin(1, "no such protocol"),
        Begin(2, "ssh", Keyframe(0, 1, 80, 24, b"", b"no state")),
        Begin(3, "ssh"),
    )
    assert isinstance(child.ask(Feed(1, records)), Failed)
    assert isinstance(child.ask(Feed(2, records)), Failed)
    assert isinstance(child.ask(Feed(3, records)), Fed)
