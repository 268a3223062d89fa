"""Retention: what goes, why, and how; a hold always wins, and what went has its tombstone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from proxyd.config import Retention
from proxyd.recorder import store
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.holds import HoldRefused, Holds, Kept
from proxyd.recorder.ledger import PURGED, Ledger
from proxyd.recorder.retention import DAY_S, Doomed, Undertaker, plan
from proxyd.recorder.verify import verify_all
from tests.unit.archive.conftest import WALL_NS, Press

NOW = 1_000 * DAY_S
PLENTY = 1 << 40


def kept(name: str, days_ago: float, size: int = 100, *, target: str = "db1", held: bool = False) -> Kept:
    return Kept(name, target, NOW - days_ago * DAY_S, size, held)


def gone(*kept: Kept, free: int = PLENTY, policies: list[Retention]) -> dict[str, str]:
    ordered = sorted(kept, key=lambda one: (one.ended_at, one.session))
    return {one.session: one.why for one in plan(ordered, policies, NOW, free)}


@pytest.mark.mission("M7")
def test_by_age() -> None:
    old, young, held = kept("old", 31), kept("young", 29), kept("held", 99, held=True)
    month = [Retention(keep_days=30)]
    assert gone(old, young, held, policies=month) == {"old": "it is older than 30 days"}
    assert gone(old, young, held, policies=[]) == {}
    assert gone(kept("just", 30), policies=month) == {"just": "it is older than 30 days"}


def test_by_size_the_oldest_go_and_what_is_held_counts() -> None:
    some = [kept("a", 9), kept("b", 8, held=True), kept("c", 7), kept("d", 6)]
    assert set(gone(*some, policies=[Retention(max_bytes=400)])) == set()
    assert set(gone(*some, policies=[Retention(max_bytes=399)])) == {"a"}
    assert set(gone(*some, policies=[Retention(max_bytes=250)])) == {"a", "c"}
    assert set(gone(*some, policies=[Retention(max_bytes=1)])) == {"a", "c", "d"}


def test_for_space_only_as_many_as_it_takes_and_only_where_the_policy_says_so() -> None:
    some = [kept("a", 9, target="vault"), kept("b", 8, held=True), kept("c", 7), kept("d", 6)]
    policies = [Retention(targets=["vault"]), Retention(free_bytes=1000)]
    assert gone(*some, free=1000, policies=policies) == {}
    assert gone(*some, free=950, policies=policies) == {"c": "the disk has less than 1000 bytes free"}
    assert set(gone(*some, free=0, policies=policies)) == {"c", "d"}


def test_what_goes_by_age_makes_room_first() -> None:
    some = [kept("a", 40), kept("b", 8)]
    assert set(gone(*some, free=900, policies=[Retention(keep_days=30, free_bytes=1000)])) == {"a"}


def test_the_first_policy_that_fits_decides() -> None:
    policies = [Retention(targets=["db-*", "pay"], keep_days=365), Retention(keep_days=1)]
    some = [kept("a", 2, target="db-1"), kept("b", 2, target="pay"), kept("c", 2, target="web")]
    assert set(gone(*some, policies=policies)) == {"c"}


# ---------------------------------------------------------------------------- what really goes


class Shelf:
    """A store with recordings, a catalog and a ledger."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.press = Press(base / "recordings")
        self.open()

    def open(self) -> None:
        base = self.base
        self.catalog = Catalog(f"sqlite:///{base}/catalog.db")
        self.ledger = Ledger(base / "ledger", self.press.signer, "node1")
        self.holds = Holds(self.catalog)
        self.undertaker = Undertaker(self.press.root, self.holds, self.ledger)

    def close(self) -> None:
        self.ledger.close()
        self.catalog.close()

    def begin(self, name: str) -> Path:
        began = WALL_NS / 1e9
        folder = store.folder_of(self.press.root, name, WALL_NS)
        self.catalog.started(
            {"id": name, "node": "node1", "started_at": began, "target": "db1", "path": str(folder)}
        )
        return folder

    def end(self, name: str) -> Path:
        folder = self.press.segments([], session=name, sealed=True)
        size = sum(file.stat().st_size for file in folder.iterdir())
        self.catalog.ended(
            name,
            ended_at=WALL_NS / 1e9 + 1,
            reason="closed",
            size=size,
            input_bytes=0,
            output_bytes=0,
            chain="ab",
        )
        self.ledger.append("sealed", session=name)
        return folder

    def doomed(self, name: str) -> Doomed:
        return Doomed(name, "db1", 0, 0, "its time is over")

    def tombstones(self) -> list[str]:
        return [str(entry.fields["session"]) for entry in self.ledger.entries(PURGED)]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.close()


@pytest.mark.mission("M7")
def test_a_purge_leaves_a_tombstone_and_nothing_else(shelf: Shelf) -> None:
    shelf.begin("a")
    folder = shelf.end("a")
    assert [one.session for one in shelf.holds.kept()] == ["a"]
    assert shelf.undertaker.purge(shelf.doomed("a"), "root")
    assert not folder.exists()
    (entry,) = shelf.ledger.entries(PURGED)
    assert entry.fields["session"] == "a"
    assert entry.fields["who"] == "root"
    assert entry.fields["why"] == "its time is over"
    assert entry.fields["chain"] == "ab"
    row = shelf.catalog.session("a")
    assert (row.path, row.purged_why) == ("", "its time is over")
    assert row.purged_at is not None
    assert shelf.holds.kept() == []
    assert not shelf.undertaker.purge(shelf.doomed("a"), "root")
    assert all(report.ok for report in verify_all(shelf.press.root, shelf.ledger)), (
        "a purged one is none that is missing"
    )


def test_a_recording_that_is_gone_without_a_tombstone_still_shows(shelf: Shelf) -> None:
    shelf.begin("a")
    shutil.rmtree(shelf.end("a"))
    assert [report.state for report in verify_all(shelf.press.root, shelf.ledger) if not report.ok] == [
        "missing"
    ]


@pytest.mark.mission("M7")
def test_a_hold_wins_whenever_it_came(shelf: Shelf) -> None:
    shelf.begin("a")
    shelf.holds.hold("a", "eve", "an inquiry")  # it lives
    folder = shelf.end("a")
    assert shelf.holds.kept() == [
        Kept("a", "db1", WALL_NS / 1e9 + 1, shelf.catalog.session("a").size, held=True)
    ]
    assert not shelf.undertaker.purge(shelf.doomed("a"), "root")
    assert folder.exists()
    with pytest.raises(HoldRefused, match="held already"):
        shelf.holds.hold("a", "mallory", "to release it later")
    assert shelf.holds.release("a", "eve").author == "eve"
    with pytest.raises(HoldRefused, match="not held"):
        shelf.holds.release("a", "eve")
    assert shelf.undertaker.purge(shelf.doomed("a"), "root")
    with pytest.raises(HoldRefused, match="purged already"):
        shelf.holds.hold("a", "eve", "too late")


def test_a_live_session_is_never_purged(shelf: Shelf) -> None:
    shelf.begin("a")
    assert not shelf.undertaker.purge(shelf.doomed("a"), "root")


@pytest.mark.parametrize("after", ["condemned", "tombstone", "half", "all"])
def test_what_a_crash_left_half_gone_goes_at_the_next_start(shelf: Shelf, after: str) -> None:
    shelf.begin("a")
    folder = shelf.end("a")
    row = shelf.holds.condemn("a", "its time is over")
    assert row is not None
    if after != "condemned":
        shelf.ledger.append(PURGED, session="a", why="its time is over")
    if after == "half":
        store.segment_path(folder, 0).unlink()
    if after == "all":
        shutil.rmtree(folder)
    assert shelf.undertaker.finish() == ["a"]
    assert not folder.exists()
    assert shelf.tombstones() == ["a"]
    assert shelf.undertaker.finish() == []


# ---------------------------------------------------------------------------- any order of anything


class Keeping(RuleBasedStateMachine):
    """Sessions begin, end, are held, released and purged, and the daemon starts again, in any order."""

    @initialize()
    def open(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="keeping"))
        self.shelf = Shelf(self.base)
        self.live: set[str] = set()
        self.there: set[str] = set()
        self.held: set[str] = set()
        self.gone: set[str] = set()
        self.begun = 0

    def teardown(self) -> None:
        if hasattr(self, "shelf"):
            self.shelf.close()
            shutil.rmtree(self.base)

    @property
    def known(self) -> list[str]:
        return sorted(self.live | self.there | self.gone)

    @rule()
    def begin(self) -> None:
        name = f"s{self.begun}"
        self.begun += 1
        self.shelf.begin(name)
        self.live.add(name)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        self.shelf.end(name)
        self.live.remove(name)
        self.there.add(name)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.known))
        try:
            self.shelf.holds.hold(name, "eve", "an inquiry")
        except HoldRefused:
            assert name in self.held | self.gone
        else:
            assert name not in self.held | self.gone
            self.held.add(name)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.known))
        try:
            self.shelf.holds.release(name, "eve")
        except HoldRefused:
            assert name not in self.held
        else:
            assert name in self.held
            self.held.remove(name)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.known))
        done = self.shelf.undertaker.purge(self.shelf.doomed(name), "root")
        assert done == (name in self.there - self.held)
        if done:
            self.there.remove(name)
            self.gone.add(name)

    @precondition(lambda self: self.there - self.held)
    @rule(data=st.data())
    def crash_in_a_purge(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.there - self.held)))
        assert self.shelf.holds.condemn(name, "its time is over") is not None
        self.shelf.close()
        self.shelf.open()
        assert self.shelf.undertaker.finish() == [name]
        self.there.remove(name)
        self.gone.add(name)

    @rule(days=st.integers(0, 2), size=st.integers(1, 5000), free=st.integers(0, 3000))
    def sweep(self, days: int, size: int, free: int) -> None:
        policies = [Retention(keep_days=days + 0.5, max_bytes=size, free_bytes=2000)]
        for one in plan(self.shelf.holds.kept(), policies, WALL_NS / 1e9 + DAY_S, free):
            assert one.session in self.there - self.held
            assert self.shelf.undertaker.purge(one, "proxyd")
            self.there.remove(one.session)
            self.gone.add(one.session)

    @invariant()
    def what_is_held_is_there_and_what_went_has_its_tombstone(self) -> None:
        if not hasattr(self, "shelf"):
            return
        on_disk = {path.name for path in store.recordings(self.shelf.press.root)}
        assert on_disk == self.there
        assert sorted(self.shelf.tombstones()) == sorted(self.gone)
        assert {entry.session for entry in self.shelf.holds.holds()} == self.held


def kept_in_any_order(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Keeping,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.mission("M7")
def test_whatever_happens_in_any_order() -> None:
    kept_in_any_order(8, 40)


@pytest.mark.slow
@pytest.mark.mission("M7")
def test_whatever_happens_in_any_order_ten_thousand_times() -> None:
    kept_in_any_order(200, 50)
