"""What /health says: failing when no session can begin, degraded when something behind is late, and never who or where."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from proxyd import health, metrics
from proxyd.health import Fault, Health, Level, Watch
from proxyd.recorder.catalog import Catalog

pytestmark = pytest.mark.mission("M18")


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """A watch of parts that are well; the catalog is a real one."""
    recorder = SimpleNamespace(behind_s=lambda: 0.0, live={}, untold=0)
    recording = SimpleNamespace(directory=tmp_path, reserve_bytes=0)
    with Catalog(f"sqlite:///{tmp_path}/catalog.db") as catalog:
        core: Any = SimpleNamespace(
            catalog=catalog, config=SimpleNamespace(recording=recording), recorder=recorder
        )
        archive: Any = SimpleNamespace(uploads=None, purges_fail=False)
        indexer: Any = SimpleNamespace(lag=lambda: 0.0, left=lambda: 0)
        yield Watch(core, archive, indexer)


def parts(watch: Watch) -> Any:
    return SimpleNamespace(
        recording=watch._core.config.recording,
        catalog=watch._core.catalog,
        recorder=watch._core.recorder,
        archive=watch._archive,
        indexer=watch._indexer,
    )


async def said(watch: Watch) -> tuple[bool, str]:
    found = await watch.look()
    return found.failing, found.text


async def test_all_is_well(watch: Watch) -> None:
    assert await said(watch) == (False, "ok\n")


def gauge(name: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name)


async def test_a_disk_below_its_reserve_fails(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts(watch).recording, "reserve_bytes", 1 << 60)
    text = "failing\nrecordings: their disk has less free than recording.reserve_bytes\n"
    assert await said(watch) == (True, text)
    assert (gauge("proxyd_recordings_possible"), gauge("proxyd_catalog_reachable")) == (0, 1)
    monkeypatch.setattr(parts(watch).recording, "directory", Path("/nonexistent"))
    assert await said(watch) == (True, "failing\nrecordings: their directory can't be read\n")


async def test_a_disk_that_is_read_only_fails(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs
    flagged = SimpleNamespace(f_flag=os.ST_RDONLY, f_bavail=1, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: flagged if real(path) else None)
    assert await said(watch) == (True, "failing\nrecordings: their disk is read-only\n")


async def test_a_catalog_that_is_damaged_fails_and_no_path_is_told(watch: Watch, tmp_path: Path) -> None:
    parts(watch).catalog.close()
    (tmp_path / "catalog.db").write_bytes(b"no database at all" * 1000)
    for name in ("catalog.db-wal", "catalog.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    failing, text = await said(watch)
    assert (failing, text) == (True, "failing\ncatalog: it can't be reached\n")
    assert gauge("proxyd_catalog_reachable") == 0


async def test_storage_that_never_answers_fails_and_hangs_one_thread(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LIMIT_S", 0.05)
    release, hung = threading.Event(), []

    def stuck() -> None:
        hung.append(1)
        release.wait()

    monkeypatch.setattr(parts(watch).catalog.database, "ask", stuck)
    try:
        for _ in range(3):
            assert await said(watch) == (True, "failing\ncatalog: it does not answer\n")
        assert hung == [1]
    finally:
        release.set()


async def test_what_is_late_degrades_and_is_named(watch: Watch) -> None:
    its = parts(watch)
    its.recorder.behind_s = lambda: 7.0
    its.recorder.live = {
        "a": SimpleNamespace(outage=True, held=False),
        "b": SimpleNamespace(outage=False, held=True),
    }
    its.recorder.untold = 3
    its.archive.purges_fail = True
    its.indexer.lag = lambda: 61.0
    its.indexer.left = lambda: 2
    its.archive.uploads = SimpleNamespace(failing_since=trio.current_time() - 75, lag_s=lambda: 80.0)
    failing, text = await said(watch)
    assert not failing
    assert text.splitlines() == [
        "degraded",
        "recordings: records wait for 7 s to be written",
        "recordings: sessions that go on and are not recorded now: 1",
        "recordings: sessions that wait for room on the disk: 1",
        "catalog: sessions whose end it lacks: 3",
        "store: for 75 s it has not taken all it was given",
        "index: it is 61 s behind live sessions",
        "index: sessions of before the start it has yet to read: 2",
        "retention: the last purge failed",
    ]
    assert gauge("proxyd_store_reachable") == 0


async def test_a_store_is_given_time(watch: Watch) -> None:
    its = parts(watch)
    its.archive.uploads = SimpleNamespace(failing_since=trio.current_time() - 30, lag_s=lambda: 200.0)
    assert await said(watch) == (False, "ok\n")
    its.archive.uploads = SimpleNamespace(failing_since=None, lag_s=lambda: 301.0)
    assert await said(watch) == (False, "degraded\nstore: it has yet to get what is 301 s old\n")


async def test_a_change_is_logged_once(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_S", 0.01)
    looks = iter([Health((Fault(Level.FAILING, "x"),))] * 3 + [Health()] * 100_000)
    done = trio.Event()

    async def look() -> Health:
        await trio.lowlevel.checkpoint()
        found = next(looks)
        if watch.now.level is Level.OK and gauge("proxyd_health") == 2 and lines:
            done.set()
        return found

    monkeypatch.setattr(watch, "look", look)
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            with trio.fail_after(30):
                await done.wait()
            nursery.cancel_scope.cancel()
    assert [line["level"] for line in lines if line["event"] == "health"] == ["failing", "ok"]
