"""proxyctl export of desktops: films and replays made by a process of their own, and what becomes of it when that fails."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from unit.control.test_desktops import BLUE, SESSION_ID, recorded, seen
from unit.index.tape import demand_active, fast, record, session, tile

from proxyd import cli_film
from proxyd.cli_app import Run
from proxyd.cli_decoder import Undecoded
from proxyd.cli_film import FAILED, make
from proxyd.cli_output import Output
from proxyd.errors import FormatError, ProxydError
from proxyd.export import process
from proxyd.export.task import Task
from proxyd.protocols.rdp.updates import build_bitmaps
from proxyd.recorder.record import Kind, Record
from tests.peers.process import eventually

av = pytest.importorskip("av", reason="what makes films is not installed")
pytestmark = [pytest.mark.mission("M6", "M16"), pytest.mark.timeout(180)]

__all__ = ["recorded"]
SECOND = 1_000_000
NICEST = 19  # setpriority(2)


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_a_film_is_private_and_told_to_the_ledger(form: str, ctl: Any, played: Any, tmp_path: Path) -> None:
    target = tmp_path / "x"
    done = ctl("export", "7d7d", "-o", str(target), *(["--format", form] if form == "mp4" else []))
    assert done.stdout.startswith(f"{target}: {form}, 16 x 8, ")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert seen(played) == ["export"]
    with av.open(target) as film:
        titles = [one["metadata"]["title"] for one in film.chapters()]
        last = list(film.decode(video=0))[-1].to_image().getpixel((1, 1))
    if (
        form == "mp4"
    ):  # readers of WebM leave out chapters behind the end, and all of this takes a few milliseconds
        assert titles == ["beginning", "interaction blocked by root: why?", "interaction released by root",
                          "finding (high): certificate changed"]  # fmt: skip
    assert all(abs(one - other) < 30 for one, other in zip(last, BLUE, strict=True))
    assert "add --force" in ctl("export", "7d7d", "-o", str(target), status=1).stderr
    assert seen(played) == ["export"]
    done = ctl("--json", "export", "7d7d", "-o", str(target), "--format", form, "--force", "--keys")
    *progress, made = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(0 <= line["percent"] <= 100 for line in progress)
    assert (made["session"], made["format"], made["bytes"]) == (SESSION_ID, form, target.stat().st_size)
    assert (made["width"], made["height"], made["faults"]) == (16, 8, 0)
    with av.open(target) as film:
        typed = b" ".join(bytes(packet) for packet in film.demux(subtitles=0))
    assert "hi‹Enter› (blocked) vv ‹Ctrl+V›".encode() in typed  # noqa: RUF001 - the marks around keys
    assert sorted(path.name for path in tmp_path.glob("*x*")) == ["x", "x.manifest.json"]


def test_a_replay_for_pyrdp_is_made_the_same_way(ctl: Any, played: Any, tmp_path: Path) -> None:
    target = tmp_path / "x.pyrdp"
    assert ctl("export", "7d7d", "--format", "pyrdp", "-o", str(target)).stdout.startswith(
        f"{target}: pyrdp, "
    )
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert seen(played) == ["export"]
    assert int.from_bytes(target.read_bytes()[:8], "little") <= target.stat().st_size


def test_without_the_encoders_it_is_said_what_to_install(
    ctl: Any, played: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_film, "ENCODER", "no_such_package_here")
    done = ctl("export", "7d7d", "-o", str(tmp_path / "x"), status=1)
    assert "pip install 'proxyd[video]'" in done.stderr
    assert ctl("export", "7d7d", "--format", "pyrdp", "-o", str(tmp_path / "x")).exit_code == 0
    assert seen(played) == ["export"]


# ---------------------------------------------------------------- the process, and who started it


def recording(records: Iterable[Record], duration_us: int) -> Any:
    return SimpleNamespace(records=lambda: iter(records), duration_us=duration_us, started_at=1.0)


def made(
    target: Path, records: Iterable[Record], duration_us: int = 3 * SECOND, form: str = "mp4", **more: Any
) -> Any:
    run = Run(Output("proxyctl"))
    return make(run, recording(records, duration_us), Task(form, "rdp", duration_us, 1000, **more), target)


def square(at_us: int, side: int = 16) -> Record:
    return fast(build_bitmaps([tile(0, 0, side, side, b"\x00\x00\xff\x00" * side * side)]))._replace(
        at_us=at_us
    )


def end(at_us: int) -> Record:
    return record(Kind.END, {"reason": "closed", "by": "", "error": ""}, at_us)


def test_a_desktop_that_grows_has_the_film_of_its_largest_size(tmp_path: Path) -> None:
    target = tmp_path / "x.mp4"
    grown = [session(64, 48), square(SECOND), demand_active(96, 48, at_us=2 * SECOND),
             demand_active(32, 80, 2 * SECOND + 500_000), square(2 * SECOND + 500_000), end(3 * SECOND)]  # fmt: skip
    told = made(target, grown)
    assert (told.width, told.height) == (96, 80)
    with av.open(target) as film:
        frames = [(frame.time, frame.to_image()) for frame in film.decode(video=0)]
        assert film.duration == pytest.approx(3 * SECOND, abs=100_000)
    assert {image.size for _, image in frames} == {(96, 80)}
    (first,) = [image for at, image in frames if at == pytest.approx(1.01)]
    assert first.getpixel((16 + 4, 16 + 4))[0] > 220  # 64 x 48 in the middle of 96 x 80
    assert frames[-1][1].getpixel((32 + 4, 4))[0] > 220  # 32 x 80


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_faster_it_is_shorter_and_silent_and_half_as_large_smaller(form: str, tmp_path: Path) -> None:
    target = tmp_path / f"x.{form}"
    plain = [session(128, 96), square(2 * SECOND, 64), end(6 * SECOND)]
    assert made(target, plain, 6 * SECOND, form).sound
    target.unlink()
    told = made(target, plain, 6 * SECOND, form, speed=2, half=True)
    assert (told.width, told.height, told.sound, told.lasts_us) == (64, 48, False, 3 * SECOND)
    with av.open(target) as film:
        assert film.duration == pytest.approx(3 * SECOND, abs=100_000)
        assert [stream.type for stream in film.streams] == ["video"]
        frames = [(frame.time, frame.to_image()) for frame in film.decode(video=0)]
    painted = [at for at, image in frames if image.getpixel((16, 16))[0] > 220]
    assert min(painted) == pytest.approx(1.0, abs=0.02)
    assert {image.size for _, image in frames} == {(64, 48)}


def test_records_no_target_should_send_cost_parts_of_the_film_only(tmp_path: Path) -> None:
    hostile = [
        fast(bytes((at * 7 + byte) % 256 for byte in range(at % 200)))._replace(at_us=at * 1000)
        for at in range(1, 900)
    ]
    cut = [record(Kind.PDU, bytes((0, 3 + at % 9, at % 256)), at * 1000) for at in range(1, 900)]
    hostile += cut
    hostile.sort(key=lambda one: one.at_us)
    told = made(tmp_path / "x.webm", [session(64, 48), square(500), *hostile, end(SECOND)], SECOND, "webm")
    assert told.faults > 400
    assert (tmp_path / "x.webm").stat().st_size > 1000
    written = made(tmp_path / "x.pyrdp", [session(64, 48), *hostile, end(SECOND)], SECOND, "pyrdp")
    assert written.faults > 400


def test_a_recording_without_a_desktop_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="shows no screen"):
        made(tmp_path / "x.mp4", [end(1)])
    assert list(tmp_path.iterdir()) == []


def played_by(monkeypatch: pytest.MonkeyPatch, script: str) -> list[subprocess.Popen[bytes]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(_module: str, _what: str) -> subprocess.Popen[bytes]:
        argv = [
            sys.executable,
            "-c",
            f"import sys, msgpack\nsay = lambda one: sys.stdout.buffer.write(msgpack.packb(one))\n{script}",
        ]
        started.append(
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
        return started[-1]

    monkeypatch.setattr(cli_film, "started", start)
    return started


@pytest.mark.parametrize(
    "script",
    [
        "pass",
        "sys.exit(1)",
        "sys.stdout.buffer.write(b'\\xc1' * 50)",
        "say({'at': -1, 'data': b'x'})",
        "say({'at': 1 << 60, 'data': b'x'})",
        "say({'done': {'pictures': 'many'}})",
        "say({'done': None})",
        "say(7)",
        "say({'again': [1, 2]})",
        "say({'at': 0, 'data': b'half a film'})",
        "import os; os.kill(os.getpid(), 9)",
    ],
)
def test_a_maker_that_breaks_or_lies_is_one_sentence_and_no_file(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played_by(monkeypatch, script)
    with pytest.raises(Undecoded, match=re.escape(FAILED)):
        made(tmp_path / "x.mp4", [session(64, 48), *[square(at) for at in range(2000)]])
    assert list(tmp_path.iterdir()) == []


def test_a_maker_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = played_by(monkeypatch, "import signal; say({'at_us': 1}); sys.stdout.flush(); signal.pause()")
    monkeypatch.setattr(cli_film, "STALL_S", 0.5)
    with pytest.raises(Undecoded, match=re.escape(FAILED)):
        made(tmp_path / "x.mp4", [session(64, 48), *[square(at) for at in range(2000)]])
    assert started[0].wait(60) == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.webm"

    def full(_file: int, _data: bytes, _at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        ProxydError, match=re.escape(f"{target}: no space left on device: nothing of it was kept")
    ):
        made(target, [session(64, 48), square(1), end(SECOND)], SECOND, "webm")
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_while_records_are_read_is_its_own_error(tmp_path: Path) -> None:
    def broken() -> Iterator[Record]:
        yield session(64, 48)
        raise FormatError("a frame does not open")

    target = SimpleNamespace(records=broken, duration_us=SECOND, started_at=1.0)
    with pytest.raises(FormatError, match="does not open"):
        make(Run(Output("proxyctl")), target, Task("mp4", "rdp", SECOND, 0), tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_is_interrupted_leaves_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = played_by(
        monkeypatch, "import signal; say({'at': 0, 'data': b'half'}); sys.stdout.flush(); signal.pause()"
    )
    half = lambda: any(path.stat().st_size for path in tmp_path.iterdir())  # noqa: E731

    def interrupt() -> None:
        eventually("a part is written", half)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "x.mp4", [session(64, 48)])
    thread.join()
    assert signal.getsignal(number) is before
    assert list(tmp_path.iterdir()) == []
    assert started[0].wait(60) == -signal.SIGKILL


def test_the_maker_is_bounded_before_it_reads() -> None:
    script = ("from proxyd.export.process import *; import os; confine(Task('webm', 'rdp', 3_600_000_000, 0));"
              "print(os.nice(0), *(resource.getrlimit(one)[0] for one in (resource.RLIMIT_AS, resource.RLIMIT_CPU,"
              "resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)))")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    nice, memory, processor_s, file, core = map(int, done.stdout.split())
    assert nice == min(os.nice(0) + process.NICE, NICEST)
    assert (memory, file, core) == (process.MEMORY_BYTES, 0, 0)
    assert processor_s == process.CPU_S + process.CPU_PER_S * 3600
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0


def test_answers_are_told_now_and_then_and_parts_say_where_they_go() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as out, os.fdopen(write, "wb") as sink:
        answers = process.Answers(sink)
        began = time.monotonic()
        for at_us in range(1000):
            answers.reached(at_us)
        told = 1 + int((time.monotonic() - began) / process.TELL_S)
        assert answers.write(b"abc") == 3
        assert (answers.seek(1), answers.write(b"X"), answers.tell(), answers.seek(5, 1)) == (1, 1, 2, 7)
        sink.close()
        said = list(msgpack.Unpacker(out))
    assert 1 <= len([one for one in said if "at_us" in one]) <= told
    assert [one for one in said if "data" in one] == [{"at": 0, "data": b"abc"}, {"at": 1, "data": b"X"}]
