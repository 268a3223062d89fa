"""The daemon's pool of indexers with real processes: tapes are followed, deaths survived, what can't be read given up."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from recorder_studio import META, Studio
from structlog.testing import capture_logs
from unit.index.tape import demand_active, session, slow, tile

from proxyd.config import Index
from proxyd.errors import FormatError
from proxyd.indexing import child as child_module
from proxyd.indexing import keyring, pool
from proxyd.indexing.keyring import Keyring
from proxyd.indexing.looking import NoPicture
from proxyd.indexing.pool import Indexer
from proxyd.recorder.record import Kind
from proxyd.recorder.sidecar import Derived, Item, Sidecar, keyframe_of, path_of
from proxyd.recorder.tape import Tape

pytestmark = [
    pytest.mark.mission("M12", "M16"),
    pytest.mark.skipif(bool(Indexer(Index(), SimpleNamespace(reserve_bytes=0)).missing), reason=pool.MISSING),
]

WIDTH, HEIGHT = 64, 48
WAIT_S = 60.0
DEADLY = b"\x03\x00\x00\x08\x02\xf0\x80\x00deadly"
FAULTY = f"""
import os
from proxyd.index import main
from proxyd.index.rdp import derived
feed = derived.Session.feed
def feed_or_die(self, record):
    if record.body == {DEADLY!r}:
        os.abort()
    return feed(self, record)
derived.Session.feed = feed_or_die
main.main()
"""


def _pixels(number: int) -> Any:
    return slow([tile(8 * (number % 8), 8 * (number % 6), 8, 8, bytes((number % 256,)) * 256)])


async def begun(studio: Studio, name: str) -> Tape:
    tape = await studio.recorder.open(
        name, META | {"protocol": "rdp"}, strict=True, on_pressure=lambda _: None, on_failure=lambda _: None
    )
    for record in (session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT)):
        tape.add(record.kind, record.body)
    return tape


@asynccontextmanager
async def indexing(studio: Studio, keys: Keyring | None = None, **settings: Any) -> AsyncIterator[Indexer]:
    indexer = Indexer(Index(**settings), SimpleNamespace(reserve_bytes=0))
    indexer.keyring = keys
    indexer.find_left()
    studio.recorder.follower = indexer
    async with trio.open_nursery() as nursery:
        await nursery.start(studio.recorder.run)
        nursery.start_soon(indexer.run)
        nursery.start_soon(indexer.catch_up, studio.root)
        try:
            yield indexer
        finally:
            nursery.cancel_scope.cancel()


async def sidecar_of(studio: Studio, tape: Tape) -> list[Item]:
    path = path_of(studio.folder(tape.id))
    with trio.fail_after(WAIT_S):
        while not path.exists():
            await trio.sleep(0.02)
    return list(Sidecar(path, tape.id, tape.reel.dek).items())


async def until(what: Any) -> None:
    with trio.fail_after(WAIT_S):
        while not what():
            await trio.sleep(0.02)


async def test_a_tape_is_followed_to_its_end_and_others_are_not(studio: Studio) -> None:
    async with indexing(studio) as indexer:
        tape = await begun(studio, "desk")
        other = await studio.recorder.open(
            "statements",
            META | {"protocol": "other"},
            strict=True,
            on_pressure=lambda _: None,
            on_failure=lambda _: None,
        )
        for number in range(50):
            tape.add(Kind.PDU, _pixels(number).body)
        await until(lambda: indexer.status()["sessions"] == 1)
        await tape.seal("closed")
        await other.seal("closed")
        items = await sidecar_of(studio, tape)
        assert items[-1].body == {"seq": 54, "faults": 0}
        assert items[-2].kind == Derived.KEYFRAME
        await until(lambda: indexer.status()["sessions"] == 0)
        assert not path_of(studio.folder("statements")).exists()
        assert studio.notes.watching == 0
        with pytest.raises(NoPicture):
            indexer.look("desk")


async def test_terminals_are_followed_and_have_no_picture(studio: Studio) -> None:
    async with indexing(studio) as indexer:
        tape = await studio.open("terminal")
        tape.add(Kind.REQUEST, {"name": "pty-req", "columns": 40, "rows": 10}, 1)
        tape.add(Kind.OUTPUT, b"$ whoami\r\nroot\r\n", 1)
        await until(lambda: indexer.status()["sessions"] == 1)
        with pytest.raises(NoPicture):
            indexer.look("terminal")
        await tape.seal("closed")
        items = await sidecar_of(studio, tape)
        assert [item.body for item in items if item.kind == Derived.TEXT] == [["screen", "$ whoami\nroot"]]
        last = [keyframe_of(item) for item in items if item.kind == Derived.TERMINAL][-1]
        assert (last.width, last.height) == (40, 10)
        assert items[-1].kind == Derived.SUMMARY


async def test_killed_ones_are_replaced_and_nothing_is_missing(studio: Studio) -> None:
    async with indexing(studio) as indexer:
        tape = await begun(studio, "desk")
        for _ in range(3):
            (worker,) = indexer._workers
            await until(lambda worker=worker: worker._child is not None)
            os.kill(worker._child.pid, signal.SIGKILL)
            for number in range(20):
                tape.add(Kind.PDU, _pixels(number).body)
            await until(lambda worker=worker, before=worker._child: worker._child is not before)
        await tape.seal("closed")
        assert (await sidecar_of(studio, tape))[-1].body == {"seq": 64, "faults": 0}
        assert indexer.status()["restarts"] >= 3


async def test_records_that_end_the_process_are_given_up_and_others_are_whole(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "ARGV", (sys.executable, "-P", "-c", FAULTY))
    with capture_logs() as logs:
        async with indexing(studio) as indexer:
            good, bad = await begun(studio, "good"), await begun(studio, "bad")
            bad.add(Kind.PDU, DEADLY)
            followed, looker = indexer.look("bad")
            with pytest.raises(NoPicture, match="given up"), trio.fail_after(WAIT_S):
                while True:
                    await looker.take()
            followed.leave(looker)
            for number in range(20):
                good.add(Kind.PDU, _pixels(number).body)
                bad.add(Kind.PDU, _pixels(number).body)
            await good.seal("closed")
            await bad.seal("closed")
            assert (await sidecar_of(studio, good))[-1].body == {"seq": 24, "faults": 0}
            assert list(studio.folder("bad").glob("index.pxi*")) == []
    assert len(studio.read("bad")) == 25
    (told,) = [entry for entry in logs if entry["event"] == "an index was given up"]
    assert told["session"] == "bad"
    assert "proxyd index bad" in told["then"]


async def test_what_can_not_be_read_at_all_is_given_up(studio: Studio) -> None:
    async with indexing(studio) as indexer:
        tape = await begun(studio, "desk")
        tape.add(Kind.REQUEST, {"name": "rdp"})  # without what every such record has
        await until(lambda: indexer.status()["sessions"] == 0)
        assert indexer.status()["restarts"] == 0
        await tape.seal("closed")
        with pytest.raises(FormatError):
            Sidecar(path_of(studio.folder("desk")), "desk", tape.reel.dek)


async def test_a_full_disk_costs_the_index_only(studio: Studio) -> None:
    indexer = Indexer(Index(), SimpleNamespace(reserve_bytes=1 << 60))
    studio.recorder.follower = indexer
    async with trio.open_nursery() as nursery:
        await nursery.start(studio.recorder.run)
        nursery.start_soon(indexer.run)
        tape = await begun(studio, "desk")
        tape.add(Kind.PDU, _pixels(1).body)
        await tape.seal("closed")
        await until(lambda: indexer.status()["sessions"] == 0)
        assert list(studio.folder("desk").glob("index.pxi*")) == []
        nursery.cancel_scope.cancel()
    assert len(studio.read("desk")) == 5


async def test_without_a_pool_nothing_is_followed(studio: Studio) -> None:
    async with indexing(studio, enabled=False) as indexer:
        tape = await begun(studio, "desk")
        assert indexer.status() == {"workers": 0, "sessions": 0, "lag_seconds": 0.0, "left": 0, "restarts": 0}
        with pytest.raises(NoPicture, match=r"index\.enabled"):
            indexer.look("desk")
        await tape.seal("closed")


MEMORY = Path("/dev/shm")
in_memory = pytest.mark.skipif(
    not MEMORY.is_dir() or not keyring.in_memory(MEMORY),
    reason="no file system in memory: no key may be kept",
)


@pytest.fixture
def keys() -> Iterator[Path]:
    with TemporaryDirectory(prefix="proxyd-keys-", dir=MEMORY) as directory:
        yield Path(directory, "keys")


async def left_behind(studio: Studio, keys: Keyring, name: str) -> Tape:
    """A session whose daemon went away when it had ended, and before anything of it was indexed."""
    studio.recorder.follower = Indexer(Index(), SimpleNamespace(reserve_bytes=0))
    studio.recorder.follower.keyring = keys
    async with trio.open_nursery() as nursery:
        await nursery.start(studio.recorder.run)
        tape = await begun(studio, name)
        for number in range(20):
            tape.add(Kind.PDU, _pixels(number).body)
        await tape.seal("closed")
        nursery.cancel_scope.cancel()
    return tape


@in_memory
async def test_a_key_is_kept_until_the_index_is_whole_or_given_up(studio: Studio, keys: Path) -> None:
    ring = Keyring.open(keys)
    assert ring is not None
    async with indexing(studio, ring) as indexer:
        tape, bad = await begun(studio, "desk"), await begun(studio, "bad")
        assert ring.kept() == {"desk": tape.reel.dek, "bad": bad.reel.dek}
        assert [path.stat().st_mode & 0o777 for path in (keys, *keys.iterdir())] == [0o700, 0o600, 0o600]
        bad.add(Kind.REQUEST, {"name": "rdp"})
        await until(lambda: indexer.status()["sessions"] == 1)
        assert set(ring.kept()) == {"desk"}
        await bad.seal("closed")
        await tape.seal("closed")
        await sidecar_of(studio, tape)
        await until(lambda: not ring.kept())


@in_memory
async def test_what_the_last_daemon_left_is_indexed_by_the_next(studio: Studio, keys: Path) -> None:
    ring = Keyring.open(keys)
    assert ring is not None
    tapes = [await left_behind(studio, ring, name) for name in ("one", "two")]
    assert set(ring.kept()) == {"one", "two"}
    ring.keep("gone", tapes[0].reel.dek)
    (keys / "torn").write_bytes(b"half a key")
    path = studio.folder("two") / "000000.pxr"
    spoiled = bytearray(path.read_bytes())
    spoiled[-200] ^= 1
    path.write_bytes(spoiled)
    with capture_logs() as logs:
        async with indexing(studio, ring) as indexer:
            assert indexer.left() == 3
            assert (await sidecar_of(studio, tapes[0]))[-1].body == {"seq": 24, "faults": 0}
            await until(lambda: not indexer.left())
            assert indexer.lag() == 0
            assert ring.kept() == {}
    assert list(studio.folder("two").glob("index.pxi*")) == []
    told = {entry["session"]: entry for entry in logs if entry["log_level"] == "warning"}
    assert "altered" in told["two"]["why"]
    assert "gone" in told["gone"]["why"]
    assert list(keys.iterdir()) == []


@in_memory
@pytest.mark.parametrize("settings", [{"resume": False}, {"enabled": False}])
async def test_keys_go_where_nothing_is_to_be_resumed(
    studio: Studio, keys: Path, settings: dict[str, bool]
) -> None:
    ring = Keyring.open(keys)
    assert ring is not None
    ring.keep("s1", b"k" * 32)
    async with indexing(studio, ring, **settings) as indexer:
        await begun(studio, "desk")
        assert indexer.left() == 0
        assert list(keys.iterdir()) == []


def test_no_key_is_kept_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    device = tmp_path.stat().st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / / rw,noatime shared:1 - {{}} /dev/root rw\n"
    monkeypatch.setattr(keyring, "MOUNTS", mounts)
    for kind, kept in (("ext4", False), ("tmpfs", True)):
        mounts.write_text(line.format(kind))
        assert (Keyring.open(tmp_path / kind) is not None) == kept
        assert (tmp_path / kind).exists() == kept
    mounts.unlink()
    assert Keyring.open(tmp_path / "nobody says") is None
