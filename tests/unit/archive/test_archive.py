"""A session through the real recorder: what the archive says of it afterwards, whole, crashed and attacked."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from proxyd.recorder import store
from proxyd.recorder import verify as module
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.ledger import Ledger, LedgerReader
from proxyd.recorder.record import Kind
from proxyd.recorder.recorder import Recorder
from proxyd.recorder.recover import recover
from proxyd.recorder.replay import Recording
from proxyd.recorder.verify import verify, verify_all

META = {
    "protocol": "ssh",
    "user": "alice",
    "user_ip": "192.0.2.7",
    "target": "db",
    "host": "h:22",
    "login": "root",
    "how": "publickey",
}


@dataclass(frozen=True)
class Settings:
    directory: Path
    recipients: list[str]
    signing_key: Path = Path()
    sync_seconds: float = 1.0
    reserve_bytes: int = 0


class Node:
    """One life of a daemon's recording side; `root` outlives it."""

    def __init__(self, press) -> None:
        self.press, self.root = press, press.root / "recordings"
        self.root.mkdir(exist_ok=True)
        self.catalog = Catalog(f"sqlite:///{press.root}/catalog.db")
        self.ledger = Ledger(press.root / "ledger", press.signer, "node1")
        settings = Settings(self.root, [press.recipient])
        self.recorder = Recorder(
            settings, "node1", catalog=self.catalog, ledger=self.ledger, signer=press.signer
        )

    async def open(self, name: str):
        return await self.recorder.open(
            name, META | {"id": name}, strict=True, on_pressure=lambda _: None, on_failure=lambda _: None
        )

    def codes(self) -> dict[str, list[str]]:
        return {
            r.session: [p.code for p in r.problems] for r in verify_all(self.root, self.ledger) if not r.ok
        }

    def close(self) -> None:
        self.ledger.close()
        self.catalog.close()


@asynccontextmanager
async def alive(press) -> AsyncIterator[Node]:
    node = Node(press)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.recorder.run)
            yield node
            nursery.cancel_scope.cancel()
    finally:
        node.close()


def body(i: int) -> bytes:
    return random.Random(i).randbytes(i % 200)


@pytest.mark.mission("M1", "M6", "M16")
async def test_what_was_recorded_is_listed_replayed_and_whole(press) -> None:
    async with alive(press) as node:
        tape = await node.open("a1")
        for i in range(500):
            tape.add(Kind.OUTPUT if i % 3 else Kind.INPUT, body(i), 1)
            if i % 100 == 0:
                await tape.flush()
        live = verify(store.find(node.root, "a1"), [press.signer.public], ledger=node.ledger)
        assert (live.ok, live.state) == (True, "live"), live.text
        early = Recording.open(store.find(node.root, "a1"), press.identity)
        assert [r.body for r in early.records()][1:] == [
            body(i) for i in range(len(list(early.records())) - 1)
        ]
        await tape.seal("closed", by="bob")
        row = node.catalog.session("a1")
        assert (row.state, row.reason, row.by, row.user) == ("ended", "closed", "bob", "alice")

        reports = verify_all(node.root, node.ledger)
        assert [r.ok for r in reports] == [True, True], [r.text for r in reports]
        recording = Recording.open(Path(row.path), press.identity)
        records = list(recording.records())
        assert recording.damage is None
        assert [r.body for r in records if r.kind in (Kind.OUTPUT, Kind.INPUT)] == [
            body(i) for i in range(500)
        ]
        assert (records[0].kind, records[-1].kind) == (Kind.META, Kind.END)
        assert recording.meta["user"] == "alice"
        assert (reports[1].bytes, reports[1].records) == (row.size, len(records))
        shutil.rmtree(row.path)
        assert node.codes() == {"a1": ["recording-missing"]}


async def test_a_crash_is_recovered_whole_and_attacks_on_it_are_found(press) -> None:
    async with alive(press) as node:
        tape = await node.open("a1")
        for i in range(300):
            tape.add(Kind.OUTPUT, body(i), 1)
        await tape.flush()
        crashed = press.root / "crashed"
        shutil.copytree(node.root, crashed)  # as kill -9 leaves it
        await tape.seal("closed")
    shutil.rmtree(node.root)
    (press.root / "ledger").unlink()
    shutil.copytree(crashed, node.root)
    segment = store.segments(store.find(node.root, "a1"))[-1]
    with segment.open("ab") as file:
        file.write(b"a torn frame")

    node = Node(press)
    try:
        await trio.to_thread.run_sync(
            lambda: recover(node.root, press.signer, node="node1", catalog=node.catalog, ledger=node.ledger)
        )
        assert node.catalog.session("a1").state == "recovered"
        assert node.codes() == {}
        recording = Recording.open(segment.parent, press.identity)
        assert [r.body for r in recording.records() if r.kind is Kind.OUTPUT] == [body(i) for i in range(300)]
        data = bytearray(segment.read_bytes())
        data[-200] ^= 4
        segment.write_bytes(data)
        assert "segment-altered" in node.codes()["a1"]
        segment.unlink()
        assert "segment-missing" in node.codes()["a1"]
    finally:
        node.close()


async def test_a_crash_before_the_first_record_is_whole_too(press, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.1)
    node = Node(press)
    try:
        path = press.segments(session="a1")
        place = node.root / path.relative_to(press.root)
        place.parent.mkdir(parents=True)
        path.rename(place)
        store.mark_open(node.root, "a1")
        assert node.codes() == {"a1": ["segment-missing"]}
        recover(node.root, press.signer, node="node1", catalog=node.catalog, ledger=node.ledger)
        assert node.codes() == {}
    finally:
        node.close()


async def test_verifying_while_sessions_begin_and_end_raises_no_false_alarm(press) -> None:
    async with alive(press) as node:
        alarms: list[str] = []
        done = trio.Event()

        async def watch() -> None:
            reader = LedgerReader(node.ledger.path)
            while not done.is_set():
                for report in await trio.to_thread.run_sync(verify_all, node.root, reader):
                    alarms.extend(f"{report.session}: {p.code}" for p in report.problems)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for i in range(12):
                tape = await node.open(f"s{i}")
                for j in range(50):
                    tape.add(Kind.OUTPUT, body(j), 1)
                await tape.flush()
                await tape.seal("closed")
            done.set()
        assert alarms == []
        assert node.codes() == {}
