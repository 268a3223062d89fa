"""The tape: what is added is read back, viewers see exactly that, and the session is told when storage is behind."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import pytest
import trio
import trio.testing
from recorder_studio import META, MakeStudio, Studio

from proxyd.errors import RecordingFailed
from proxyd.recorder import hub, reel, store, tape
from proxyd.recorder import recorder as recorders
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.recorder import Tape
from proxyd.recorder.recover import recover

PATIENT_S = 60.0  # for what has no deadline of its own, on the busiest machine
SOON_S = 4.0  # for a block's 250 ms: less than any other reason to write


@asynccontextmanager
async def running(studio: Studio) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        await nursery.start(studio.recorder.run)
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.mark.mission("M16")
async def test_everything_added_is_read_back(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        assert studio.recorder.live == {"s1": made}
        made.add(Kind.INPUT, b"ls\r", 3)
        made.add(Kind.OUTPUT, bytearray(b"a\r\nb\r\n"), 3)
        made.add(Kind.ERROR_OUTPUT, memoryview(b"oops"), 3)
        made.add(Kind.RESIZE, [80, 24], 3)
        made.add(Kind.FINDING, {"code": "x", "severity": "low", "text": "y"})
        await made.flush()
        assert len(studio.read()) == 6
        await made.seal("client left", by="ann", error="")
        await made.seal("again")
    assert studio.recorder.live == {}
    found = studio.read()
    assert [(r.seq, r.kind, r.channel, r.body) for r in found] == [
        (1, Kind.META, 0, META),
        (2, Kind.INPUT, 3, b"ls\r"),
        (3, Kind.OUTPUT, 3, b"a\r\nb\r\n"),
        (4, Kind.ERROR_OUTPUT, 3, b"oops"),
        (5, Kind.RESIZE, 3, [80, 24]),
        (6, Kind.FINDING, 0, {"code": "x", "severity": "low", "text": "y"}),
        (7, Kind.END, 0, {"reason": "client left", "by": "ann", "error": ""}),
    ]
    assert (made.input_bytes, made.output_bytes, made.summary.count, made.seq) == (3, 10, 1, 7)
    assert made.over
    made.add(Kind.OUTPUT, b"too late")
    assert made.seq == 7


async def test_manifest_ledger_and_catalog_agree(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        assert store.read_manifest(studio.folder()).state == "open"
        assert store.marked_open(studio.root) == ["s1"]
        assert studio.notes.rows["s1"]["path"] == str(studio.folder())
        await made.seal("dropped", by="eve", error="You have been disconnected")
    manifest = store.read_manifest(studio.folder())
    assert manifest.state == "sealed"
    assert manifest.verify(studio.signer.public)
    assert manifest.meta == META
    assert store.marked_open(studio.root) == []
    (entry,) = manifest.segments
    assert entry.sealed
    assert entry.size == store.segment_path(studio.folder(), 0).stat().st_size
    ((kind, fields),) = studio.notes.entries
    assert (kind, fields["session"], fields["chain"], fields["by"]) == (
        "sealed",
        "s1",
        manifest.chain.hex(),
        "eve",
    )
    assert studio.root / fields["path"] == studio.folder()
    row = studio.notes.rows["s1"]
    assert (row["state"], row["error"], row["size"]) == ("ended", "You have been disconnected", manifest.size)
    for path in [studio.folder(), *studio.folder().iterdir()]:
        assert path.stat().st_mode & 0o077 == 0


async def test_a_record_is_on_disk_soon_and_an_idle_tape_wakes_nobody(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        began = time.monotonic()
        made.add(Kind.OUTPUT, b"hello")
        while made.written < 2:
            await made.progress.wait()
        assert time.monotonic() - began < SOON_S
        assert studio.read()[-1].body == b"hello"
        made.reel._rest_at = made.reel._checkpoint_at = reel.NEVER  # its chores, done
        studio.recorder._chores.clear()
        await trio.sleep(recorders.BLOCK_SECONDS)
        ticks: list[str] = []

        class Count(trio.abc.Instrument):
            def task_scheduled(self, task: trio.lowlevel.Task) -> None:
                if "proxyd.recorder" in task.name:
                    ticks.append(task.name)

        trio.lowlevel.add_instrument(Count())
        with trio.fail_after(PATIENT_S):  # what was still under way may end first
            while not ticks or ticks[-1] != "a second of rest":
                before = len(ticks)
                await trio.sleep(1)
                if len(ticks) == before:
                    ticks.append("a second of rest")


async def test_idle_streams_are_signed_and_their_memory_freed(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reel, "REST_SECONDS", 0.1)
    monkeypatch.setattr(reel, "CHECKPOINT_SECONDS", 0.2)
    monkeypatch.setattr(recorders, "CHORE_SLACK", 0)
    async with running(studio):
        made = await studio.open()
        made.add(Kind.OUTPUT, b"hello")
        await made.flush()
        assert made.reel._segment is not None
        assert made.reel._segment.writer.compressing
        with trio.fail_after(PATIENT_S):
            while made.reel.next_chore != reel.NEVER:
                await made.progress.wait()
        assert not made.reel._segment.writer.compressing
        size = made.bytes_written
        await trio.sleep(0.5)
        assert made.bytes_written == size  # nothing new, nothing signed again
        made.add(Kind.OUTPUT, b"again")
        await made.seal("client left")
    assert [record.body for record in studio.read()[1:3]] == [b"hello", b"again"]


async def test_segments_roll_by_size_and_by_time(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reel, "SEGMENT_BYTES", 100_000)
    bodies = [os.urandom(30_000) for _ in range(20)]
    async with running(studio):
        made = await studio.open()
        for body in bodies:
            made.add(Kind.OUTPUT, body)
            await made.flush()
        monkeypatch.setattr(reel, "SEGMENT_MS", 0)
        made.add(Kind.OUTPUT, b"later")
        await made.seal("client left")
    manifest = store.read_manifest(studio.folder())
    assert len(manifest.segments) >= 6
    assert all(entry.sealed for entry in manifest.segments)
    assert [record.body for record in studio.read()[1:-1]] == [*bodies, b"later"]
    assert [record.seq for record in studio.read()] == list(range(1, 24))


async def test_large_blocks_are_cut_into_frames_and_none_overflows(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        for _ in range(100_000):
            made.add(Kind.OUTPUT, b"")
        for size in (256 << 10, 3 << 20, 1):
            made.add(Kind.PDU, os.urandom(size))
        await made.seal("client left")
    found = studio.read()
    assert len(found) == 100_005
    assert [len(record.body) for record in found[-4:-1]] == [256 << 10, 3 << 20, 1]


async def test_the_session_is_told_to_hold_and_to_go_on(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        chunk = os.urandom(32 << 10)
        while not studio.pressure:
            made.add(Kind.OUTPUT, chunk)
        assert studio.pressure == [True]
        assert tape.QUEUE_HIGH <= made.output_bytes < tape.QUEUE_HIGH + (64 << 10)
        with trio.fail_after(PATIENT_S):
            while studio.pressure != [True, False]:
                await made.progress.wait()
        await made.seal("client left")


async def test_a_session_that_does_not_hold_fails_in_the_end(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape, "QUEUE_MAX", 8 << 20)
    async with running(studio):
        made = await studio.open()
        for _ in range(300):
            made.add(Kind.OUTPUT, bytes(32 << 10))
        assert studio.ended == [recorders.TOO_SLOW]
        with pytest.raises(RecordingFailed):
            await made.flush()
        await made.seal("recording failed")
    assert studio.notes.rows["s1"]["state"] == "failed"
    lost, end = studio.read()[-2:]
    assert (lost.kind, end.kind) == (Kind.LOST, Kind.END)
    assert lost.body["records"] + 3 == end.seq


async def test_a_body_that_can_not_be_packed_ends_a_strict_session(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        other = await studio.open("s2")
        made.add(Kind.REQUEST, {"name": object()})
        with trio.fail_after(PATIENT_S):
            while not studio.ended:
                await made.progress.wait()
        assert studio.ended == ["The recording failed: a record can't be packed"]
        other.add(Kind.OUTPUT, b"undisturbed")
        await other.seal("client left")
        await made.seal("recording failed")
    assert [record.kind for record in studio.read("s1")] == [Kind.META, Kind.LOST, Kind.END]
    assert [record.body for record in studio.read("s2")][1] == b"undisturbed"


async def test_a_best_effort_tape_goes_on_and_says_what_is_lost(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open(strict=False)
        made.add(Kind.REQUEST, {"name": object()})
        await made.flush()
        made.add(Kind.OUTPUT, b"goes on")
        await made.flush()
        await made.seal("client left")
    assert studio.ended == []
    assert studio.notes.failures == ["best_effort"]
    found = studio.read()
    assert [record.kind for record in found] == [Kind.META, Kind.LOST, Kind.OUTPUT, Kind.END]
    assert [record.seq for record in found] == [1, 3, 4, 5]
    assert found[1].body["records"] == 1


async def test_no_session_begins_below_the_reserve(tmp_path: Path, make_studio: MakeStudio) -> None:
    studio = make_studio(tmp_path, reserve_bytes=1 << 60)
    with pytest.raises(RecordingFailed, match="full"):
        await studio.open()
    assert store.find(tmp_path, "s1") is None
    assert studio.notes.rows == {}


async def test_no_catalog_no_session(studio: Studio) -> None:
    studio.notes.refuse = OSError(5, "Input/output error")
    with pytest.raises(RecordingFailed, match="Input/output"):
        await studio.open()
    assert studio.recorder.live == {}


async def test_a_session_is_recorded_once(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        with pytest.raises(RecordingFailed, match="File exists"):
            await studio.open()
        await made.seal("client left")
        with pytest.raises(ValueError, match="session id"):
            await studio.open("../s1")


async def test_one_process_has_the_store(studio: Studio, make_studio: MakeStudio) -> None:
    async with running(studio):
        with pytest.raises(RecordingFailed, match="another proxyd"):
            await make_studio(studio.root).recorder.run()
        with pytest.raises(RecordingFailed, match="another proxyd"):
            recover(studio.root, studio.signer, node="n", catalog=studio.notes, ledger=studio.notes)


async def test_a_set_clock_is_recorded(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        made.clock_skew_ns -= 3_600_000_000_000
        made.add(Kind.OUTPUT, b"x")
        await made.flush()
        await made.seal("client left")
    assert [record.kind for record in studio.read()] == [Kind.META, Kind.OUTPUT, Kind.CLOCK, Kind.END]


# ---------------------------------------------------------------------- viewers


async def watch(made: Tape, after: int, into: list[Record], *, pause: float = 0) -> None:
    with made.watch(after) as viewer:
        async for batch in viewer:
            assert batch
            into += batch
            if pause:
                await trio.sleep(pause)


async def watch_packed(made: Tape, after: int, into: list[Record]) -> None:
    with made.watch_packed(after) as viewer:
        async for batch in viewer:
            for seq, at_us, kind, channel, body in msgpack.unpackb(batch, strict_map_key=False):
                into.append(Record(seq, at_us, Kind(kind), channel, body))


@pytest.mark.mission("M2")
async def test_viewers_joining_at_any_time_see_exactly_the_recording(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reel, "SEGMENT_BYTES", 400_000)  # several segments
    monkeypatch.setattr(tape, "RING_BYTES", 100_000)  # viewers fall behind
    draw = random.Random(11)
    seen: list[tuple[int, list[Record]]] = []

    async with running(studio), trio.open_nursery() as viewers:
        made = await studio.open()
        for turn in range(300):
            for _ in range(draw.randrange(1, 12)):
                made.add(draw.choice([Kind.OUTPUT, Kind.INPUT]), draw.randbytes(draw.randrange(1, 3000)))
            if turn % 8 == 0:
                after = draw.choice([0, 0, made.seq, draw.randrange(made.seq)])
                seen.append((after, []))
                if turn % 16:
                    viewers.start_soon(watch_packed, made, after, seen[-1][1])
                else:
                    pause = draw.choice([0, 0, 0.05])
                    viewers.start_soon(lambda a, i, p: watch(made, a, i, pause=p), after, seen[-1][1], pause)
            await trio.sleep(draw.choice([0, 0, 0.005, 0.02]))
        with trio.fail_after(PATIENT_S):
            await made.seal("client left")
    recorded = studio.read()
    assert recorded[0].kind is Kind.META
    assert recorded[-1].kind is Kind.END
    assert len(store.segments(studio.folder())) > 2
    for after, records in seen:
        assert records == recorded[after:]
    assert studio.notes.watching == 0


async def test_a_viewer_that_left_and_one_that_comes_late(studio: Studio) -> None:
    async with running(studio), trio.open_nursery() as viewers:
        made = await studio.open()
        made.add(Kind.OUTPUT, b"one")
        with made.watch() as viewer:
            assert [record.body for record in await anext(viewer)] == [META]
            assert [record.body for record in await anext(viewer)] == [b"one"]
            assert studio.notes.watching == 1
        assert studio.notes.watching == 0
        forgotten = made.watch(2)
        made.add(Kind.OUTPUT, b"two")
        assert [record.body for record in await anext(forgotten)] == [b"two"]
        del forgotten
        assert studio.notes.watching == 0
        await made.seal("client left")
        late: list[Record] = []
        viewers.start_soon(watch, made, 0, late)
    assert late == studio.read()


async def test_viewers_of_a_failed_tape_see_its_end(studio: Studio) -> None:
    async with running(studio), trio.open_nursery() as viewers:
        made = await studio.open()
        seen: list[Record] = []
        viewers.start_soon(watch, made, 0, seen)
        made.add(Kind.REQUEST, {"name": object()})
        while not studio.ended:
            await made.progress.wait()
        with trio.fail_after(PATIENT_S):
            await made.seal("recording failed")
    assert seen[0].kind is Kind.META
    assert [record.kind for record in seen[-2:]] == [Kind.LOST, Kind.END]


@pytest.mark.mission("M2")
async def test_two_hundred_viewers_at_one_place_cost_one_packing(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    packings: list[int] = []
    real = hub.pack_batch

    def counted(records: list[Record]) -> bytes:
        packings.append(len(records))
        return real(records)

    async with running(studio), trio.open_nursery() as viewers:
        made = await studio.open()
        seen: list[list[Record]] = [[] for _ in range(200)]
        for into in seen:
            viewers.start_soon(watch_packed, made, made.seq, into)
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(hub, "pack_batch", counted)
        for number in range(50):
            made.add(Kind.OUTPUT, b"%d" % number)
            while min(map(len, seen)) <= number:  # or two groups of them would be at two places
                await trio.sleep(0.005)
        await made.seal("client left")
    recorded = studio.read()
    assert all(records == recorded[1:] for records in seen)
    assert len(packings) <= 55


async def test_a_stalled_viewer_costs_the_tape_its_ring_and_no_more(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        with made.watch() as viewer:
            await anext(viewer)
            for _ in range(100):
                made.add(Kind.OUTPUT, os.urandom(100_000))
                await made.flush()
            assert made._memory_bytes <= tape.RING_BYTES + 200_000
            got = [record async for batch in _until(viewer, 101) for record in batch]
        assert [record.seq for record in got] == list(range(2, 102))
        await made.seal("client left")


async def test_a_viewer_whose_wait_was_cancelled_goes_on_where_it_was(studio: Studio) -> None:
    async with running(studio):
        made = await studio.open()
        for number in range(200):
            made.add(Kind.OUTPUT, b"%d" % number + bytes(5000))
        await made.flush()
        seen: list[Record] = []
        with made.watch() as viewer:
            while len(seen) < 201:
                with trio.move_on_after(random.random() * 0.002):
                    seen += await anext(viewer)
        await made.seal("client left")
    assert seen == studio.read()[:-1]


async def _until(viewer: AsyncIterator[list[Record]], seq: int) -> AsyncIterator[list[Record]]:
    async for batch in viewer:
        yield batch
        if batch[-1].seq >= seq:
            return


async def test_bytes_of_any_length_are_recorded(studio: Studio) -> None:
    flood = os.urandom(2 * tape.BODY_BYTES + 5)
    async with running(studio):
        made = await studio.open()
        made.add(Kind.OUTPUT, flood)
        made.add(Kind.OUTPUT, bytearray(flood))
        await made.seal("closed")
    bodies = [record.body for record in studio.read() if record.kind is Kind.OUTPUT]
    assert max(map(len, bodies)) == tape.BODY_BYTES
    assert b"".join(bodies) == 2 * flood
