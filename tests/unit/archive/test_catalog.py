"""The catalog keeps what it answered, from any thread, across upgrades."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from proxyd.errors import ProxydError
from proxyd.recorder import schema
from proxyd.recorder.catalog import Catalog, CatalogError, NotFound, SessionFilter
from proxyd.recorder.database import MIGRATIONS
from proxyd.recorder.jobs import Jobs, State
from proxyd.recorder.summary import Finding

DAY = 86_400.0


def row(name: str, **more):
    return {
        "id": name,
        "node": "node1",
        "protocol": "ssh",
        "user": "alice",
        "user_ip": "192.0.2.7",
        "target": "db-prod",
        "host": "10.0.0.5:22",
        "login": "root",
        "how": "publickey+totp",
        "started_at": 1000.0,
        "path": f"2026/11/21/{name}",
    } | more


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state/catalog.db"


@pytest.fixture
def catalog(url: str):
    with Catalog(url) as catalog:
        yield catalog


def end(catalog: Catalog, name: str, **more) -> None:
    values = {
        "ended_at": 1060.0,
        "reason": "closed by the client",
        "size": 4096,
        "input_bytes": 12,
        "output_bytes": 3456,
    }
    catalog.ended(name, **({"chain": b"\xab" * 32} | values | more))


@pytest.mark.mission("M1", "M10")
def test_a_session_is_listed_from_its_start_to_its_end(catalog: Catalog) -> None:
    catalog.started(row("a1", version="SSH-2.0-OpenSSH_9.2"))
    live = catalog.session("a1")
    assert (live.state, live.ended_at, live.size, live.findings, dict(live.channels)) == (
        "live",
        None,
        0,
        0,
        {},
    )
    catalog.found("a1")
    catalog.found("a1", 2)
    end(catalog, "a1", by="bob", error="You have been disconnected", channels={"shell": 1, "sftp": 2})
    ended = catalog.session("a1")
    assert (ended.state, ended.ended_at, ended.reason, ended.by) == (
        "ended",
        1060.0,
        "closed by the client",
        "bob",
    )
    assert (ended.error, ended.size, ended.input_bytes, ended.output_bytes) == (
        "You have been disconnected",
        4096,
        12,
        3456,
    )
    assert (ended.findings, ended.channels, ended.chain) == (3, {"shell": 1, "sftp": 2}, "ab" * 32)
    assert (ended.user, ended.user_ip, ended.target, ended.host, ended.login, ended.how) == (
        "alice", "192.0.2.7", "db-prod", "10.0.0.5:22", "root", "publickey+totp",
    )  # fmt: skip


@pytest.mark.mission("M11")
def test_what_was_found_is_kept_with_its_moment_and_may_be_said_again(catalog: Catalog) -> None:
    catalog.started(row("a1"))
    catalog.started(row("a2"))
    found = [Finding(5, "weak", "low", "one"), Finding(9, "rule-x", "high", "two")]
    for _ in range(2):
        end(catalog, "a1", findings=2, found=found)
    assert catalog.findings("a1") == found
    end(catalog, "a1", state="recovered")  # who does not know leaves them
    assert catalog.findings("a1") == found
    assert catalog.findings("a2") == []


def test_what_a_crash_left_live_can_be_ended_as_recovered_and_said_twice(catalog: Catalog) -> None:
    catalog.started(row("a1"))
    for _ in range(2):
        end(catalog, "a1", state="recovered", reason="the daemon ended without sealing it")
    assert [s.state for s in catalog.sessions()] == ["recovered"]
    catalog.started(row("a1", user="carol"))
    assert (catalog.session("a1").user, catalog.session("a1").state) == ("carol", "live")


@pytest.mark.mission("M1")
def test_the_list_filters_and_sorts(catalog: Catalog) -> None:
    catalog.started(row("a", started_at=1 * DAY))
    catalog.started(row("b", user="alan", target="web-1", started_at=2 * DAY, protocol="rdp"))
    catalog.started(row("c", user="Alice", target="web_1", started_at=3 * DAY, size=7))
    catalog.started(row("d", user="bob", target="w*", started_at=4 * DAY, size=9))
    end(catalog, "a", ended_at=1.5 * DAY, size=5)
    end(catalog, "b", ended_at=2.5 * DAY, size=50, state="failed")

    def ids(**wanted) -> str:
        return "".join(s.id for s in catalog.sessions(SessionFilter(**wanted)))

    assert ids() == "dcba"
    assert ids(order="oldest") == "abcd"
    assert ids(order="largest") == "bdca"
    assert ids(limit=2) == "dc"
    assert ids(limit=None) == "dcba"
    assert ids(user="al*") == "ba"
    assert ids(user="al??e") == "a"
    assert ids(user="*e") == "ca"
    assert ids(target="web_1") == "c", "an underscore is itself"
    assert ids(target="web?1") == "cb"
    assert ids(target="%") == ""
    assert ids(protocol="rdp") == "b"
    assert ids(state="live") == "dc"
    assert ids(state="failed", user="alice") == ""
    assert ids(since=1.5 * DAY, until=2 * DAY) == "ba", "who was there at any moment of the window"
    assert ids(since=2.6 * DAY) == "dc"
    assert ids(until=1.9 * DAY) == "a"


def test_an_id_may_be_shortened_while_it_stays_clear(catalog: Catalog) -> None:
    for name in ("abc1", "abd2", "abd2x", "f%", "f0"):
        catalog.started(row(name))
    assert catalog.session("abc").id == "abc1"
    assert catalog.session("abd2").id == "abd2", "a whole id is clear although another begins with it"
    assert catalog.session("f%").id == "f%"
    with pytest.raises(NotFound, match=r"^ab is the beginning of more than one session: abc1, abd2, abd2x$"):
        catalog.session("ab")
    with pytest.raises(NotFound, match=r"^no session ABC$"):
        catalog.session("ABC")
    with pytest.raises(NotFound):
        catalog.session("")
    for i in range(7):
        catalog.started(row(f"z{i}"))
    with pytest.raises(NotFound, match=r"z0, z1, z2, z3, z4, \.\.\.$"):
        catalog.session("z")


def test_ending_an_unknown_session_is_not_silent(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="no session nope"):
        end(catalog, "nope")
    with pytest.raises(NotFound):
        catalog.found("nope")
    with pytest.raises(CatalogError, match="lacks node, started_at"):
        catalog.started({"id": "a", "user": "alice"})


def test_a_recording_that_lost_its_manifest_can_still_be_listed(catalog: Catalog) -> None:
    bare = {"id": "a", "node": "node1", "started_at": 1.0}
    catalog.started(bare)
    assert (catalog.session("a").user, catalog.session("a").how) == ("", "")
    catalog.started(row("b"))
    catalog.started(bare | {"id": "b"})
    assert (catalog.session("b").user, catalog.session("b").started_at) == ("alice", 1.0)


@pytest.mark.mission("M3")
def test_blocks_name_author_and_time_until_released(url: str) -> None:
    now = [5000.0]
    with Catalog(url, clock=lambda: now[0]) as catalog:
        assert catalog.blocked("alice", "db-prod") is None
        catalog.block("alice", "db-prod", "bob", "looked odd")
        now[0] = 6000.0
        catalog.block("alice", "web-1", "eve", "")
        block = catalog.blocked("alice", "db-prod")
        assert block is not None
        assert (block.author, block.at, block.reason) == ("bob", 5000.0, "looked odd")
        assert catalog.blocked("alice", "db-prod2") is None
        assert catalog.blocked("Alice", "db-prod") is None
        assert [(b.user, b.target) for b in catalog.blocks()] == [("alice", "web-1"), ("alice", "db-prod")]
        now[0] = 7000.0
        catalog.block("alice", "db-prod", "dave", "again")
        assert [(b.target, b.author, b.at) for b in catalog.blocks()] == [
            ("db-prod", "dave", 7000.0),
            ("web-1", "eve", 6000.0),
        ]
    with Catalog(url) as catalog:  # the list outlives the daemon
        assert catalog.unblock("alice", "db-prod", "bob") is True
        assert catalog.unblock("alice", "db-prod", "bob") is False
        assert catalog.blocked("alice", "db-prod") is None
        catalog.block("alice", "db-prod", "bob")
        assert catalog.blocked("alice", "db-prod") is not None


def test_many_threads_and_a_second_process_write_at_once(catalog: Catalog, url: str) -> None:
    failures: list[Exception] = []

    def work(which: Catalog, name: str) -> None:
        try:
            for i in range(20):
                which.started(row(f"{name}-{i}"))
                which.sessions(SessionFilter(limit=5))
                end(which, f"{name}-{i}")
                which.block(name, str(i), "bob")
        except Exception as error:  # noqa: BLE001  whatever it is, the test names it
            failures.append(error)

    with Catalog(url) as other:
        threads = [
            threading.Thread(target=work, args=(c, f"{n}{i}"))
            for n, c in (("a", catalog), ("b", other))
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert {s.state for s in catalog.sessions(SessionFilter(limit=None))} == {"ended"}
    assert len(catalog.sessions(SessionFilter(limit=None))) == 8 * 20 == len(catalog.blocks())


def alembic_to(url: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    config.set_main_option("path_separator", "os")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_an_older_catalog_is_upgraded_with_all_it_holds(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    alembic_to(url, "0001")
    with sqlite3.connect(tmp_path / "catalog.db") as old:
        assert "findings" not in {c[1] for c in old.execute("PRAGMA table_info(sessions)")}
        names = [*row("a"), "state"]
        old.execute(
            f"INSERT INTO sessions ({','.join(map(repr, names))}) VALUES ({','.join('?' * len(names))})",
            [*row("a").values(), "live"],
        )
    old.close()
    with Catalog(url) as catalog:
        kept = catalog.session("a")
        assert (kept.user, kept.findings, dict(kept.channels)) == ("alice", 0, {})
        catalog.found("a")
        assert catalog.session("a").findings == 1


def test_an_empty_first_revision_is_upgraded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    alembic_to(url, "0001")
    with Catalog(url) as catalog:
        assert catalog.sessions() == []
        catalog.started(row("a", channels={"shell": 1}))
        assert catalog.session("a").channels == {"shell": 1}


def test_the_tables_queried_are_the_tables_migrated(catalog: Catalog, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state/catalog.db") as database:
        for table in schema.SCHEMA.sorted_tables:
            migrated = {c[1] for c in database.execute(f"PRAGMA table_info({table.name})")}
            assert migrated == {c.name for c in table.columns}
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_a_newer_catalog_is_refused_untouched(catalog: Catalog, tmp_path: Path, url: str) -> None:
    catalog.close()
    with sqlite3.connect(tmp_path / "state/catalog.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(CatalogError, match=r"made by a newer proxyd; nothing was changed$"):
        Catalog(url)


@pytest.mark.parametrize(("url", "says"), [("sqlite://", "in memory"), ("what", "no database URL"), ("sqlite:////proc/no/x", "can't be opened")])  # fmt: skip
def test_an_address_of_no_use_is_one_clear_sentence(url: str, says: str) -> None:
    with pytest.raises(CatalogError, match=says):
        Catalog(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(os.urandom(8192))
    with pytest.raises(ProxydError, match="file is not a database"):
        Catalog(f"sqlite:///{tmp_path}/catalog.db")


def test_the_files_are_the_daemons_alone(catalog: Catalog, tmp_path: Path) -> None:
    catalog.started(row("a"))
    files = list((tmp_path / "state").iterdir())
    assert {f.name for f in files} >= {"catalog.db", "catalog.db-wal"}
    assert {f.stat().st_mode & 0o777 for f in files} == {0o600}


def test_storage_errors_show_neither_sql_nor_values(catalog: Catalog, tmp_path: Path) -> None:
    catalog.started(row("a"))
    with sqlite3.connect(tmp_path / "state/catalog.db") as database:
        database.execute("DROP TABLE blocks")
    database.close()
    with pytest.raises(CatalogError) as caught:
        catalog.block("hunter2", "db", "bob")
    assert "hunter2" not in str(caught.value)
    assert "INSERT" not in str(caught.value).upper()


@pytest.mark.mission("M13")
def test_exports_are_for_people_queued_again_and_removed(catalog: Catalog) -> None:
    for name in ("a", "b"):
        catalog.started(row(name))
        end(catalog, name)
    now = iter(range(2000, 3000))
    jobs, other = Jobs(catalog, "node1", clock=lambda: float(next(now))), Jobs(catalog, "node2")
    asked = {"who": "ann by web", "person": "ann", "form": "webm", "path": "/x", "settings": '{"keys":true}'}
    first = jobs.add("1", session="a", unattended=True, address="192.0.2.9", **asked)
    assert jobs.find("1") == first
    assert first.unattended
    jobs.add("2", session="b", **(asked | {"person": "bob"}))
    other.add("3", session="b", **asked)
    assert jobs.move("1", State.RUNNING)
    jobs.keep("1", sha256="ab", size=1 << 40)
    assert [(one.id, one.state, one.started_at, one.sha256) for one in jobs.left()] == [
        ("1", "queued", None, "ab"),
        ("2", "queued", None, ""),
    ]
    assert {one.id for one in jobs.newest(10, person="ann")} == {"1", "3"}
    assert {one.id for one in jobs.newest(10, "b")} == {"2", "3"}
    assert jobs.about(["a", "none"]) == {"a": "alice on root@db-prod"}
    for job in ("1", "2"):
        assert jobs.move(job, State.RUNNING)
        assert jobs.move(job, State.DONE)
        assert not jobs.move(job, State.QUEUED)
    ended = jobs.find("2").ended_at
    assert ended is not None
    assert [one.id for one in jobs.due(ended)] == ["1"]
    jobs.removed("1")
    assert jobs.due(ended) == []
    assert jobs.find("1").removed_at is not None
