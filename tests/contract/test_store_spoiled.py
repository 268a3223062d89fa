"""A store that answers 500, late, half or never: every file gets there once and whole, and no file here is touched."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
import trio

from proxyd import uploads
from proxyd.recorder import fsck, remote, store
from proxyd.recorder.catalog import Catalog, SessionFilter
from proxyd.recorder.holds import Holds
from proxyd.recorder.ledger import STORED, Ledger
from proxyd.recorder.record import Kind
from proxyd.recorder.remote import Remote, StoreError
from proxyd.recorder.replay import Recording
from proxyd.recorder.retention import Doomed, Undertaker
from proxyd.recorder.source import Elsewhere
from proxyd.recorder.stored import Stored
from proxyd.uploads import Uploads
from tests.peers import s3
from tests.peers.flaky import Flaky, Spoil
from tests.peers.s3 import KEYS, S3
from tests.unit.archive.conftest import WALL_NS, Press

pytestmark = pytest.mark.skipif(not s3.INSTALLED, reason="moto is not installed")
SPOILED = [spoil for spoil in Spoil if spoil not in (Spoil.NOTHING, Spoil.SHORT)]
CONTENT = random.Random(1).randbytes(300_000)
_prefixes = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with S3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRIES", 0)
    monkeypatch.setattr(uploads, "FIRST_S", 0.01)
    monkeypatch.setattr(uploads, "LONGEST_S", 0.05)
    monkeypatch.setattr(uploads, "LOOK_S", 0.05)


Spoiling = Callable[..., Remote]


@pytest.fixture
def spoiled(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spoiling]:
    """A remote behind a proxy that spoils requests, each on a prefix of its own."""
    proxies: list[Flaky] = []

    def make(*script: Spoil, prefix: str = "") -> Remote:
        if Spoil.STUCK in script:  # the others answer, in time on the slowest machine
            monkeypatch.setattr(remote, "TIMEOUT", timedelta(seconds=3))
        proxies.append(Flaky(server.port, iter(script)).__enter__())
        options = server.options | KEYS | {"endpoint": proxies[-1].endpoint}
        return Remote(f"{server.url}/{prefix or next(_prefixes)}", options)

    yield make
    for proxy in proxies:
        proxy.__exit__(None, None, None)


@pytest.mark.parametrize("spoil", [spoil for spoil in SPOILED if spoil is not Spoil.HALF_ANSWERED])
def test_a_put_that_is_spoiled_leaves_the_whole_object_or_none(
    spoil: Spoil, spoiled: Spoiling, tmp_path: Path
) -> None:
    path = tmp_path / "000000.pxr"
    path.write_bytes(CONTENT)
    store = spoiled(spoil)
    with pytest.raises(StoreError, match="can't be stored") as failed:
        store.put("a/b", path)
    assert KEYS["secret_access_key"] not in str(failed.value)
    assert [found.size for found in store.objects()] in ([], [len(CONTENT)])
    assert store.put("a/b", path) == len(CONTENT), "tried again, as a restart does"
    assert b"".join(store.read("a/b")) == CONTENT == path.read_bytes()


@pytest.mark.parametrize("spoil", [*SPOILED, Spoil.SHORT])
def test_a_range_that_is_spoiled_is_an_error_and_never_other_bytes(
    spoil: Spoil, spoiled: Spoiling, tmp_path: Path
) -> None:
    path = tmp_path / "000000.pxr"
    path.write_bytes(CONTENT)
    store = spoiled(Spoil.NOTHING, spoil)
    store.put("a/b", path)
    with pytest.raises(StoreError, match="can't be read"):
        b"".join(store.read("a/b", 1000, 200_000))
    assert b"".join(store.read("a/b", 1000, 200_000)) == CONTENT[1000:201_000]


class Node:
    """Recordings, a catalog that knows them, a ledger, and a store."""

    def __init__(self, base: Path) -> None:
        self.press = Press(base / "recordings")
        self.catalog = Catalog(f"sqlite:///{base}/catalog.db")
        self.ledger = Ledger(base / "ledger", self.press.signer, "node1")

    def record(self, name: str) -> Path:
        outputs = [(i * 1000, Kind.OUTPUT, 1, b"%d" % i) for i in range(1, 60)]
        folder = self.press.segments(outputs[:20], outputs[20:40], outputs[40:], session=name, sealed=True)
        began = WALL_NS / 1e9
        self.catalog.started({"id": name, "node": "node1", "started_at": began, "path": str(folder)})
        self.catalog.ended(name, ended_at=began + 1, reason="closed", size=1, input_bytes=0, output_bytes=0,
                           chain="ab")  # fmt: skip
        return folder

    def hashes(self) -> dict[str, str]:
        found = self.press.root.glob("[0-9]*/*/*/*/*")
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def waiting(self) -> list[str]:
        return [row.id for row in self.catalog.sessions(SessionFilter()) if row.stored_at is None]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.ledger.close()
    made.catalog.close()


async def sent(node: Node, stored: Stored, until: Callable[[Uploads], bool]) -> Uploads:
    """Send until it is so."""
    at_work = Uploads(stored, node.ledger, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_work.run)
        with trio.fail_after(120):
            while not await trio.to_thread.run_sync(until, at_work):
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    return at_work


async def test_whatever_the_store_does_all_gets_there_once(node: Node, spoiled: Spoiling) -> None:
    for number in range(6):
        node.record(f"s{number}")
    before = node.hashes()
    draw = random.Random(7)
    script = [draw.choice([*SPOILED[:-1], Spoil.NOTHING]) for _ in range(60)]
    prefix = f"once{next(_prefixes)}"
    stored = Stored(node.press.root, node.catalog, spoiled(*script, Spoil.STUCK, prefix=prefix))
    at_work = await sent(node, stored, lambda one: not node.waiting() and one.lag_s() == 0)
    assert list(fsck.check(node.press.root, node.catalog, stored, "node1")) == []
    assert {found.key for found in stored.remote.objects()} == {
        str(Path(path).relative_to(node.press.root)) for path in before
    }
    assert sorted({str(entry.fields["session"]) for entry in node.ledger.entries(STORED)}) == [
        f"s{number}" for number in range(6)
    ]
    assert node.hashes() == before, "evidence is only read"
    assert at_work.failing_since is None


async def test_what_another_node_has_yet_to_store_is_not_lost(
    node: Node, spoiled: Spoiling, tmp_path: Path
) -> None:
    node.record("a")
    stored = Stored(node.press.root, node.catalog, spoiled())
    assert list(fsck.check(tmp_path / "elsewhere", node.catalog, stored, "node2")) == []
    (lost,) = fsck.check(tmp_path / "elsewhere", node.catalog, stored, "node1")
    assert (lost.session, lost.code) == ("a", "lost")


async def test_a_file_the_store_has_otherwise_holds_up_its_own_recording_only(
    node: Node, spoiled: Spoiling, tmp_path: Path
) -> None:
    folders = [node.record(name) for name in ("a", "b", "c")]
    stored = Stored(node.press.root, node.catalog, spoiled())
    other = tmp_path / "other"
    other.write_bytes(b"somebody else's")
    stored.remote.put(stored.key(folders[0] / "000001.pxr"), other)
    before = node.hashes()
    at_work = await sent(node, stored, lambda _: node.waiting() == ["a"])
    assert at_work.failing_since is not None
    assert at_work.lag_s() > 0
    assert b"".join(stored.remote.read(stored.key(folders[0] / "000001.pxr"))) == b"somebody else's"
    assert node.hashes() == before


async def test_what_is_purged_while_it_is_sent_is_not_left_in_the_store(
    node: Node, spoiled: Spoiling, tmp_path: Path
) -> None:
    node.record("a")
    stored = Stored(node.press.root, node.catalog, spoiled())
    at_work = Uploads(stored, node.ledger, 0)
    pending = stored.pending()
    assert len(pending) == 4
    at_work._send(pending[0])
    last = tmp_path / "last"
    last.write_bytes(pending[1].path.read_bytes())
    undertaker = Undertaker(node.press.root, Holds(node.catalog), node.ledger, stored)
    assert undertaker.purge(Doomed("a", "", 0, 0, "its time is over"), "root")
    stored.remote.put(stored.key(pending[1].path), last)  # as if its last byte came there behind the purge
    stored.note(pending[1], 1)
    assert list(stored.remote.objects()) == []
    assert stored.pending() == []


async def test_a_local_copy_goes_whole_or_stays_and_its_index_goes_along(
    node: Node, spoiled: Spoiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = node.record("a")
    (folder / "index.pxi").write_bytes(b"derived")
    first, second = spoiled(prefix="evict"), spoiled(*[Spoil.ERROR] * 3, prefix="evict")
    stored = Stored(node.press.root, node.catalog, first)
    await sent(node, stored, lambda _: not node.waiting())
    before = node.hashes()
    away = Stored(node.press.root, node.catalog, second)
    for _ in range(3):
        with pytest.raises(StoreError):
            away.evict(0)
    assert node.hashes() == before, "a store that can't be asked may have lost it"
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", _crash)
        with pytest.raises(SystemError):
            stored.evict(0)
    assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["a.going"], "as a crash leaves it"
    assert list(store.recordings(node.press.root)) == []
    assert stored.evict(0) == []
    assert list(folder.parent.iterdir()) == []
    row = node.catalog.session("a")
    path, files = stored.find(row)
    assert (path, files["index.pxi"]) == (folder, 7)
    source = Elsewhere(path, files, lambda *asked: stored.read(row, *asked))
    assert len(list(Recording.open(source, node.press.identity).records())) == 60
    assert list(fsck.check(node.press.root, node.catalog, stored, "node1")) == []


def _crash(_path: Path) -> None:
    raise SystemError("killed here")
