"""A recording in the store is read with a ticket: its own files, by who got it, while they may and while it is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxyd.control.client import ControlError
from proxyd.control.fetching import IDLE_S, TICKETS, Range, Tickets, fetch
from proxyd.control.permissions import Caller, Permission
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.record import Kind
from proxyd.recorder.remote import Remote, StoreError
from proxyd.recorder.stored import Stored
from tests.unit.archive.conftest import WALL_NS, Press

AUDITOR = Caller("ann", 1000, "ann", ("PAM Auditor",))


@dataclass
class Far:
    """A recording that only the store, a real directory, has."""

    base: Path

    def __post_init__(self) -> None:
        press = Press(self.base / "recordings")
        self.catalog = Catalog(f"sqlite:///{self.base}/catalog.db")
        folder = press.segments([(1, Kind.OUTPUT, 1, b"x" * 500)], session="s1", sealed=True)
        self.catalog.started({"id": "s1", "node": "n", "started_at": WALL_NS / 1e9, "path": str(folder)})
        self.stored = Stored(press.root, self.catalog, Remote(f"file://{self.base}/store", {}))
        self.bytes = {path.name: path.read_bytes() for path in folder.iterdir()}
        for path in folder.iterdir():
            self.stored.remote.put(self.stored.key(path), path)
        self.now = 0.0
        self.tickets = Tickets(clock=lambda: self.now)
        archive = SimpleNamespace(uploads=SimpleNamespace(stored=self.stored))
        self.services: Any = SimpleNamespace(catalog=self.catalog, tickets=self.tickets, archive=archive)

    def ticket(self, caller: Caller = AUDITOR) -> str:
        files = {name: len(data) for name, data in self.bytes.items()}
        row = self.catalog.session("s1")
        return str(self.tickets.give(row, caller, Permission.REPLAY, files)["ticket"])

    async def read(self, ticket: str, caller: Caller = AUDITOR, **wanted: Any) -> bytes:
        asked: dict[str, Any] = {"file": "000000.pxr", "start": 3, "length": 40} | wanted
        answer = await fetch(self.services, caller, Range(ticket=ticket, **asked))
        return bytes(answer["data"])


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    made = Far(tmp_path)
    yield made
    made.catalog.close()


@pytest.mark.mission("M6")
async def test_a_ticket_reads_ranges_of_its_recordings_files(far: Far) -> None:
    ticket = far.ticket()
    assert await far.read(ticket) == far.bytes["000000.pxr"][3:43]
    assert await far.read(ticket, file="manifest.json", start=0, length=1) == b"{"
    size = len(far.bytes["000000.pxr"])
    assert await far.read(ticket, start=size - 1, length=1) == far.bytes["000000.pxr"][-1:]
    for asked in ({"start": size}, {"file": "../../../catalog.db"}, {"file": "index.pxi"}, {"start": 10**15}):
        with pytest.raises(ControlError, match="no such range"):
            await far.read(ticket, **asked)


async def test_a_ticket_is_its_readers_own(far: Far) -> None:
    ticket = far.ticket()
    for other in (
        replace(AUDITOR, name="bob", uid=1001),
        replace(AUDITOR, name="bob"),
        replace(AUDITOR, via="console"),
    ):
        with pytest.raises(ControlError, match="not by you"):
            await far.read(ticket, other)
    with pytest.raises(ControlError, match=r"it takes sessions\.replay"):
        await far.read(ticket, replace(AUDITOR, roles=("PAM Operator",)))
    with pytest.raises(ControlError, match="open it again"):
        await far.read("0" * 32)


async def test_a_ticket_lasts_while_it_is_used(far: Far) -> None:
    ticket = far.ticket()
    for _ in range(3):
        far.now += IDLE_S - 1
        await far.read(ticket)
    far.now += IDLE_S + 1
    with pytest.raises(ControlError, match="too long ago"):
        await far.read(ticket)


async def test_of_too_many_tickets_the_least_used_goes(far: Far) -> None:
    kept, gone = far.ticket(), far.ticket()
    for _ in range(TICKETS - 1):
        await far.read(kept)
        far.ticket()
    assert await far.read(kept)
    with pytest.raises(ControlError, match="open it again"):
        await far.read(gone)


async def test_what_has_been_purged_is_read_no_more(far: Far) -> None:
    ticket = far.ticket()
    assert await far.read(ticket)
    assert far.stored.remote.delete("2023/11/14/s1") == 2
    with pytest.raises(StoreError, match="can't be read"):
        await far.read(ticket)
    with far.catalog.database.write() as connection:
        connection.exec_driver_sql("update sessions set purged_at = 1, purged_why = 'old'")
    with pytest.raises(ControlError, match="has been purged"):
        await far.read(ticket)
