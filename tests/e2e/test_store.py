"""Recordings in a store elsewhere: nothing is lost or there twice, whatever of daemon and store goes away meanwhile."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxyd.recorder import sidecar, store
from proxyd.recorder.ledger import LedgerReader
from proxyd.recorder.remote import Remote
from proxyd.recorder.stored import evidence
from tests.e2e.lab import Lab, held
from tests.peers import eventually, postgres, s3
from tests.peers.clients import OpenSSH
from tests.peers.daemon import Proxyd
from tests.peers.postgres import PASSWORDS, Postgres
from tests.peers.s3 import KEYS, S3

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not s3.INSTALLED, reason="moto is not installed"),
]

SSH = OpenSSH()
STORED_S = 90.0
AT_ONCE = 4


@pytest.fixture
def server(short: Path) -> Iterator[S3]:
    with S3(short / "s3") as running:
        yield running


@pytest.fixture
def database(short: Path) -> Iterator[Postgres]:
    if not postgres.INSTALLED:
        pytest.skip("PostgreSQL is not installed: no catalog elsewhere")
    with Postgres(short / "pg") as running:
        running.psql("create database catalog")
        yield running


def equipped(
    own_lab: Callable[..., Lab], short: Path, server: S3, catalog: Postgres | None = None, **more: object
) -> Lab:
    lab = own_lab()
    if catalog is not None:
        login = f"app:{PASSWORDS['app']}@{catalog.address}"
        lab.proxyd.settings["recording"]["catalog"] = f"postgresql+psycopg://{login}/catalog?sslmode=require"
    lab.proxyd.settings["store"] = server.settings(short / "keys") | more
    lab.proxyd.write()
    lab.proxyd.restart()
    return lab


def remote(server: S3) -> Remote:
    return Remote(server.url, server.options | KEYS)


def run(lab: Lab, short: Path, count: int = 1) -> None:
    at = lab.proxied(short)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert {done.out for done in pool.map(lambda _: SSH.execute(at, "echo in"), range(count))} == {
            b"in\n"
        }


def all_stored(lab: Lab) -> bool:
    return all(row["stored_at"] is not None for row in lab.proxyd.sessions(limit=1000))


def test_what_is_stored_is_what_was_recorded_and_can_be_read_there(
    own_lab: Callable[..., Lab], short: Path, server: S3
) -> None:
    lab = equipped(own_lab, short, server)
    run(lab, short)
    eventually("it is stored", lambda: all_stored(lab), within_s=STORED_S)
    (row,) = lab.proxyd.sessions()
    folder = Path(lab.proxyd.call("read", session=row["id"], kind="export")["path"])
    there = {found.key.rpartition("/")[2]: found for found in remote(server).objects()}
    for path in evidence(folder):
        assert b"".join(remote(server).read(there[path.name].key)) == path.read_bytes()
    assert lab.proxyd.ctl("fsck").out == ""
    before = lab.proxyd.ctl("log", row["id"]).data
    shown = lab.proxyd.ctl("replay", row["id"]).out
    shutil.rmtree(folder)  # as `keep_local_days` does
    assert lab.proxyd.ctl("verify", "--all").code == 0
    assert lab.proxyd.ctl("log", row["id"]).data["entries"] == before["entries"]
    assert lab.proxyd.ctl("replay", row["id"]).out == shown
    assert lab.proxyd.ctl("verify", row["id"]).code == 0
    assert not folder.exists(), "nothing of it is brought back"
    assert KEYS["secret_access_key"] not in lab.proxyd.logs()


def test_local_copies_go_only_when_the_store_has_all(
    own_lab: Callable[..., Lab], short: Path, server: S3
) -> None:
    lab = equipped(own_lab, short, server, keep_local_days=1e-6)
    run(lab, short)
    (row,) = lab.proxyd.sessions()
    eventually("it is stored", lambda: all_stored(lab), within_s=STORED_S)
    lab.proxyd.restart()  # it looks at the start, then hourly
    recordings = lab.proxyd.home / "recordings"
    eventually("the local copy has gone", lambda: not list(recordings.glob(f"*/*/*/{row['id']}")))
    assert lab.proxyd.ctl("fsck").code == 0
    assert lab.proxyd.ctl("verify", "--all").code == 0
    assert lab.proxyd.ctl("verify", row["id"][:8]).code == 0
    assert lab.proxyd.ctl("log", row["id"]).code == 0
    assert lab.proxyd.call("show", session=row["id"])["views"][0]["kind"] == "log"
    indexed_anew(lab, row["id"], remote(server))
    assert not list(recordings.glob(f"*/*/*/{row['id']}")), "nothing of it is brought back"
    assert lab.proxyd.ctl("purge", row["id"], "--reason", "spilled", "--yes").code == 0
    assert list(remote(server).objects()) == []
    assert "was purged on" in lab.proxyd.ctl("log", row["id"], check=False).err
    assert lab.proxyd.ctl("verify", "--all").code == 0


def indexed_anew(lab: Lab, session: str, there: Remote) -> None:
    """Have the index of what the store alone has made anew, and see that it is there, whole and another one."""
    (key,) = (one.key for one in there.objects() if one.key.endswith(sidecar.NAME))
    before = b"".join(there.read(key))
    said = [
        lab.proxyd.run("index", "--json", "--config", str(lab.proxyd.config), *more)
        for more in (["--all"], [session[:8], "--force"], ["--all"])
    ]
    results = [json.loads(one.stdout)["indexes"][0]["result"] for one in said]
    assert results == ["whole", "made", "whole"], [one.stderr for one in said]
    after = b"".join(there.read(key))
    assert len(after) == len(before)
    assert after != before, "each has a key of its own"
    assert lab.proxyd.ctl("fsck").code == 0


@pytest.mark.mission("M7")
def test_a_purge_takes_it_from_the_store_too(own_lab: Callable[..., Lab], short: Path, server: S3) -> None:
    lab = equipped(own_lab, short, server)
    run(lab, short, 2)
    eventually("they are stored", lambda: all_stored(lab), within_s=STORED_S)
    first, second = lab.proxyd.sessions()
    assert lab.proxyd.ctl("purge", first["id"], "--reason", "spilled", "--yes").code == 0
    assert {found.key.split("/")[3] for found in remote(server).objects()} == {second["id"]}
    assert lab.proxyd.ctl("fsck").code == 0


def test_fsck_tells_what_does_not_agree(own_lab: Callable[..., Lab], short: Path, server: S3) -> None:
    lab = equipped(own_lab, short, server)
    run(lab, short)
    eventually("it is stored", lambda: all_stored(lab), within_s=STORED_S)
    (row,) = lab.proxyd.sessions()
    key = next(found.key for found in remote(server).objects() if found.key.endswith(".pxr"))
    assert remote(server).delete(key.rpartition("/")[0]) == 2
    stray = short / "000000.pxr"
    stray.write_bytes(b"x")
    remote(server).put(f"2026/01/01/{'f' * 32}/000000.pxr", stray)
    done = lab.proxyd.ctl("fsck", check=False)
    assert done.code == 1
    assert {(found["session"], found["code"]) for found in done.lines} == {
        (row["id"], "lost"),
        ("f" * 32, "unlisted"),
    }


def survives(lab: Lab, short: Path, server: S3, sessions: int, outage_s: float) -> None:
    """A daemon killed twice, a store away for a while, and sessions all the time: nothing is lost, nothing there twice."""
    part = sessions // 4
    run(lab, short, part)
    lab.proxyd.kill()  # while it sends what just ended
    lab.proxyd.start()
    server.pause(True)
    began = time.monotonic()
    run(lab, short, part)
    with held(lab, short, "cat"):
        lab.proxyd.kill()
        lab.proxyd.start()
    run(lab, short, part)
    eventually("the outage has lasted", lambda: time.monotonic() - began >= outage_s, within_s=outage_s + 10)
    server.pause(False)
    run(lab, short, sessions - 3 * part)
    eventually("all are stored", lambda: all_stored(lab), within_s=240)
    agrees(lab, server, sessions + 1)


def agrees(lab: Lab, server: S3, sessions: int) -> None:
    """Catalog, disk, store and ledger know the same recordings, each once, and every byte of them is what was written."""
    assert lab.proxyd.ctl("fsck").out == ""
    assert lab.proxyd.ctl("verify", "--all").code == 0
    rows = sorted(row["id"] for row in lab.proxyd.sessions(limit=1000))
    assert len(rows) == sessions
    ledger = LedgerReader(lab.proxyd.home / "state" / "ledger")
    # A kill between the ledger and the catalog has the session recovered, though it was sealed: it is named again.
    assert sorted({entry.fields["session"] for entry in ledger.entries(("sealed", "recovered"))}) == rows
    assert len(list(ledger.entries("sealed"))) <= sessions
    there = {found.key: found.size for found in remote(server).objects()}
    root = lab.proxyd.home / "recordings"
    here = {
        file.relative_to(root).as_posix(): file
        for folder in store.recordings(root)
        for file in evidence(folder)
    }
    assert there == {key: file.stat().st_size for key, file in here.items()}
    for key, file in here.items():
        assert b"".join(remote(server).read(key)) == file.read_bytes()


@pytest.mark.mission("M15")
def test_a_daemon_killed_and_a_store_away(own_lab: Callable[..., Lab], short: Path, server: S3) -> None:
    survives(equipped(own_lab, short, server), short, server, 12, 3.0)


@pytest.mark.mission("M6", "M15")
@pytest.mark.slow
def test_what_one_node_recorded_another_shows_once_the_store_has_it(
    own_lab: Callable[..., Lab], short: Path, server: S3, database: Postgres
) -> None:
    lab = equipped(own_lab, short, server, database)
    one, other = lab.proxyd, Proxyd(short / "node2")
    shared = {name: one.settings["recording"][name] for name in ("catalog", "recipients")}
    other.settings |= {"node": "node2", "store": one.settings["store"]}
    other.settings["recording"] |= shared | {
        "identity": str(one.home / one.settings["recording"]["identity"])
    }
    with other:
        with held(lab, short) as (_, live):
            assert other.call("show", session=live)["elsewhere"] == "node1"
            assert {row["id"]: row["elsewhere"] for row in other.call("sessions")["sessions"]} == {
                live: "node1"
            }
        server.pause(True)
        run(lab, short)
        session = one.newest({live})["id"]
        assert one.call("show", session=session)["elsewhere"] == ""
        assert other.call("show", session=session)["elsewhere"] == "node1"
        assert one.call("sessions")["sessions"][0]["elsewhere"] == ""
        refused = other.ctl("log", session, check=False)
        assert (refused.code, "is on node node1, and its recording is not here yet" in refused.err) == (
            1,
            True,
        )
        server.pause(False)
        here = lambda: other.call("show", session=session)["elsewhere"] == ""  # noqa: E731
        eventually("the other node has it", here, within_s=STORED_S)
        assert other.ctl("replay", session).out == one.ctl("replay", session).out
        assert [view["kind"] for view in other.call("show", session=session)["views"]] == ["replay"]


@pytest.mark.slow
def test_a_daemon_killed_and_a_store_away_for_a_minute(
    own_lab: Callable[..., Lab], short: Path, server: S3, database: Postgres
) -> None:
    survives(equipped(own_lab, short, server, database), short, server, 200, 60.0)
    assert database.psql("select count(*) from sessions where stored_at is not null", "catalog") == "201"
