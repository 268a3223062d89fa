"""A full disk, a real one: a small tmpfs that is filled up and emptied again while a session is recorded."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from recorder_child import Settings
from recorder_rig import Notes, Rig

from proxyd.errors import RecordingFailed
from proxyd.recorder import store
from proxyd.recorder.record import Kind
from proxyd.recorder.recorder import Recorder, Tape
from proxyd.recorder.recover import recover

DISK_BYTES = 8 << 20
TOLD_SECONDS = 1.25  # 250 ms until the write, and a second
PATIENT_SECONDS = 60.0  # for what has no deadline of its own, on the busiest machine


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig.make(tmp_path)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(made.root)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small file system")
    yield made
    subprocess.run(["umount", "-l", str(made.root)], check=True)


class Session:
    """What a session does with a tape: writes when it may."""

    def __init__(self) -> None:
        self.held: list[bool] = []
        self.ended: list[str] = []
        self.sent: list[bytes] = []
        self.tape: Tape

    def say(self, size: int = 20_000) -> None:
        self.sent.append(b"%06d" % len(self.sent) + os.urandom(size))
        self.tape.add(Kind.OUTPUT, self.sent[-1])


@asynccontextmanager
async def recording(
    rig: Rig, *, strict: bool = True, hold: bool = False, reserve: int = 0
) -> AsyncIterator[tuple[Recorder, Session]]:
    notes = rig.notes
    settings = Settings(rig.root, [str(rig.identity.to_public())], rig.key, reserve_bytes=reserve)
    recorder = Recorder(settings, "node1", catalog=notes, ledger=notes)
    session = Session()
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.run)
        session.tape = await recorder.open(
            "s1",
            {"user": "ann"},
            strict=strict,
            hold=hold,
            on_pressure=session.held.append,
            on_failure=lambda error: session.ended.append(str(error)),
        )
        yield recorder, session
        nursery.cancel_scope.cancel()


def fill(rig: Rig) -> Path:
    """Take all the room there is."""
    filler = rig.root / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def bodies(rig: Rig) -> list[bytes]:
    return [record.body for record in rig.read("s1") if record.kind is Kind.OUTPUT]


@pytest.mark.mission("M16")
async def test_strict_ends_the_session_at_once(rig: Rig) -> None:
    async with recording(rig) as (recorder, session):
        session.say()
        await session.tape.flush()
        filler = fill(rig)
        session.say()
        began = time.monotonic()
        with trio.fail_after(PATIENT_SECONDS):
            while not session.ended:
                await session.tape.progress.wait()
        assert time.monotonic() - began < TOLD_SECONDS
        assert session.ended == ["The recording failed: the recording storage is full"]
        await session.tape.seal("recording failed")
        assert recorder.live == {}
        assert rig.notes.rows["s1"]["state"] == "failed"
        assert store.marked_open(rig.root) == ["s1"]  # there was no room even to seal
        filler.unlink()
    (one,) = rig.recover()
    assert not one.problem
    assert bodies(rig) == session.sent[:1]
    assert rig.notes.rows["s1"]["state"] == "recovered"


@pytest.mark.mission("M16")
async def test_hold_waits_for_room_and_loses_nothing(rig: Rig) -> None:
    async with recording(rig, hold=True) as (_, session):
        session.say()
        await session.tape.flush()
        filler = fill(rig)
        with trio.fail_after(PATIENT_SECONDS):
            while True not in session.held:
                session.say()
                await trio.sleep(0.05)
        for _ in range(10):
            session.say()  # what was read already before the session held
        await trio.sleep(1)
        assert session.held == [True]
        filler.unlink()
        with trio.fail_after(PATIENT_SECONDS):
            while session.held != [True, False]:
                await session.tape.progress.wait()
        session.say()
        await session.tape.seal("client left")
    assert session.ended == []
    assert bodies(rig) == session.sent
    assert [record.kind for record in rig.read("s1")].count(Kind.LOST) == 0
    assert rig.notes.rows["s1"]["state"] == "ended"


async def test_hold_seals_when_room_comes_back_in_time(rig: Rig) -> None:
    async with recording(rig, hold=True) as (_, session):
        filler = fill(rig)
        session.say()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.tape.seal, "client left")
            await trio.sleep(1)
            assert not session.tape.over
            filler.unlink()
    assert bodies(rig) == session.sent
    assert rig.notes.rows["s1"]["state"] == "ended"


async def test_best_effort_goes_on_and_says_what_is_lost(rig: Rig) -> None:
    async with recording(rig, strict=False) as (_, session):
        session.say()
        await session.tape.flush()
        filler = fill(rig)
        with trio.fail_after(PATIENT_SECONDS):
            while (
                not session.tape.lost
            ):  # a short outage costs nothing, a long one costs what does not fit in memory
                session.say()
                await trio.sleep(0.01)
        filler.unlink()
        with trio.fail_after(PATIENT_SECONDS):
            while session.tape.outage:
                await session.tape.progress.wait()
        session.say()
        await session.tape.seal("client left")
    assert session.ended == []
    assert session.held == []
    records = rig.read("s1")
    lost = sum(record.body["records"] for record in records if record.kind is Kind.LOST)
    kept = bodies(rig)
    assert lost == len(session.sent) - len(kept) > 0
    assert kept[0] == session.sent[0]
    assert kept[-1] == session.sent[-1]
    assert [body for body in session.sent if body in set(kept)] == kept


async def test_no_new_session_below_the_reserve_while_one_goes_on(rig: Rig) -> None:
    async with recording(rig, reserve=DISK_BYTES // 2) as (recorder, session):
        (rig.root / "filler").write_bytes(bytes(DISK_BYTES * 5 // 8))
        with pytest.raises(RecordingFailed, match="full"):
            await recorder.open("s2", {}, strict=True, on_pressure=bool, on_failure=bool)
        session.say()
        await session.tape.seal("client left")
    assert bodies(rig) == session.sent


def test_recovery_is_tried_again_when_there_is_no_room(rig: Rig) -> None:
    child = subprocess.Popen(rig.command("storm"), stdout=subprocess.PIPE)
    assert child.stdout is not None
    while b"tape" not in child.stdout.readline():
        assert child.poll() is None
    child.kill()
    child.communicate()
    filler = fill(rig)
    notes = Notes()
    first = recover(rig.root, rig.signer, node="node1", catalog=notes, ledger=notes)
    assert any(one.problem for one in first)
    filler.unlink()
    again = rig.recover()
    assert not any(one.problem for one in again)
    assert {one.session for one in again} == {one.session for one in first if one.problem}
    for one in first:
        rig.read(one.session)
