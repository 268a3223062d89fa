"""`proxyctl search` at a running daemon: what a real shell showed and a real psql ran is found, where it was and for whom it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from proxyd.verifiers import scram
from tests.e2e.databases import PASSWORD, PostgresRig, assert_no_bug, listener
from tests.e2e.lab import Lab, furnish, held, make_lab
from tests.peers import eventually
from tests.peers.clients import OpenSSH
from tests.peers.mariadb import Authority
from tests.peers.postgres import DATABASE, INSTALLED, Postgres
from tests.peers.process import free_port

pytestmark = [
    pytest.mark.mission("M5", "M14"),
    pytest.mark.skipif(not INSTALLED, reason="Debian's postgresql is not installed"),
    pytest.mark.timeout(180),
]

SSH = OpenSSH()
MEMORY = Path("/dev/shm")  # as /run is: keys of sessions not indexed yet are kept in memory alone


class Both:
    """proxyd before a shell and before a database."""

    def __init__(self, lab: Lab, databases: PostgresRig) -> None:
        self.lab, self.databases, self.proxyd = lab, databases, lab.proxyd

    def shell(self, directory: Path, command: str) -> dict[str, Any]:
        """Run a command by ssh; gives its ended session."""
        before = self.proxyd.ids()
        assert SSH.execute(self.lab.proxied(directory), command).code == 0
        return self.proxyd.newest(before)

    def psql(self, *statements: str) -> dict[str, Any]:
        """Run statements by psql; gives the ended session."""
        before = self.proxyd.ids()
        self.databases.run(
            "psql", "-X", "-d", DATABASE, *(word for one in statements for word in ("-c", one))
        )
        return self.proxyd.newest(before)

    def search(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.proxyd.ctl("search", "--json", *words).data["hits"]
        return found

    def hits(self, *words: str) -> list[dict[str, Any]]:
        """Search until there is something."""
        eventually(f"{words} is found", lambda: self.search(*words), within_s=60)
        return self.search(*words)


@pytest.fixture(scope="module")
def both(shared: Path) -> Iterator[Both]:
    directory = shared / "search"
    lab = make_lab(directory)
    directory.chmod(0o755)
    memory = TemporaryDirectory(prefix="proxyd-", dir=MEMORY if MEMORY.is_dir() else None)
    with memory as run, lab.sshd, Postgres(directory / "server") as server:
        furnish(lab)
        lab.proxyd.settings["control"]["socket"] = f"{run}/control.sock"
        front, port = Authority(directory / "authority"), free_port()
        lab.proxyd.settings["listen"]["postgres"] = listener(front, port)
        lab.proxyd.settings["targets"]["pg1"] = server.target("app", directory=directory)
        lab.proxyd.settings["users"]["alice"]["scram"] = scram(PASSWORD)
        with lab.proxyd:
            yield Both(lab, PostgresRig(directory, lab.proxyd, front, port, server))
            assert_no_bug(lab.proxyd)


def seconds_of(hit: dict[str, Any]) -> float:
    return datetime.fromisoformat(hit["at"]).timestamp()


def test_what_was_shown_and_run_is_found_with_session_moment_and_text(both: Both, short: Path) -> None:
    shell = both.shell(short, "echo first; echo the xylophone fell")
    statements = both.psql(
        "CREATE TABLE xylophones (bars int)", "SELECT * FROM glockenspiels", "DROP TABLE xylophones"
    )
    (shown,) = both.hits("--in", "screen", '"xylophone fell"')
    assert (shown["session"], shown["source"], shown["user"], shown["target"]) == (
        shell["id"],
        "screen",
        "alice",
        "web1",
    )
    assert "the xylophone fell" in shown["snippet"]
    assert [shown["snippet"][begin:end] for begin, end in shown["spans"]] == ["xylophone fell"]
    row = both.proxyd.call("show", session=shell["id"])["session"]
    assert row["started_at"] - 0.01 <= seconds_of(shown) <= row["ended_at"] + 0.01
    both.hits("drop", "table")
    run = both.hits("--in", "sql", "xylophones")
    assert [hit["session"] for hit in run] == [statements["id"]] * 2
    assert {hit["snippet"] for hit in run} == {"CREATE TABLE xylophones (bars int)", "DROP TABLE xylophones"}
    (failed,) = both.hits("does not exist")
    assert failed["snippet"].startswith("ERROR 42P01: ")
    assert {hit["session"] for hit in both.search("xyloph*")} == {shell["id"], statements["id"]}
    assert {hit["session"] for hit in both.search("--protocol", "ssh", "xyloph*")} == {shell["id"]}
    assert both.search("--until", "2001-01-01", "xyloph*") == []
    text = both.proxyd.run_ctl("search", "xyloph*").out
    assert f"alice on app@pg1 ({statements['id'][:8]}), postgres, " in text
    assert re.search(r"^ +\d+:\d\d\.\d{3}  sql +DROP TABLE xylophones$", text, re.MULTILINE), text
    assert sum("search" in one for one in both.proxyd.run_ctl("show", shell["id"]).out.splitlines()) > 0


def test_what_a_live_session_shows_is_found_while_it_lives(both: Both, short: Path) -> None:
    with held(both.lab, short, "echo marimba; sleep 0.5; echo a bell; exec sleep 1000") as (_, session):
        hit = both.hits("marimba")[0]
        assert (hit["session"], hit["live"], hit["snippet"]) == (session, True, None)


def test_a_purged_session_is_not_found_and_does_not_come_back(both: Both, short: Path) -> None:
    gone, kept = both.shell(short, "echo sousaphone one"), both.shell(short, "echo sousaphone two")
    eventually(
        "both are found", lambda: len({hit["session"] for hit in both.search("sousaphone")}) == 2, within_s=60
    )
    assert both.proxyd.ctl("purge", gone["id"], "--reason", "asked for", "--yes").code == 0
    assert {hit["session"] for hit in both.search("sousaphone")} == {kept["id"]}
    made = both.proxyd.run("index", "--config", str(both.proxyd.config), "--all", "--search")
    assert made.returncode == 0, made.stderr
    assert {hit["session"] for hit in both.search("sousaphone")} == {kept["id"]}
    assert both.proxyd.metric("proxyd_search_failures_total") == 0


def test_who_may_not_see_a_session_or_any_finds_nothing_of_it(both: Both, short: Path) -> None:
    others, seen = both.shell(short, "echo theremin solo"), both.shell(short, "echo theremin duo")
    eventually(
        "both are found", lambda: len({hit["session"] for hit in both.search("theremin")}) == 2, within_s=60
    )
    assert both.proxyd.ctl("auditors", others["id"], "--set", "alice").code == 0
    assert {hit["session"] for hit in both.search("theremin")} == {seen["id"]}
    assert both.search("solo") == []
    operators = both.proxyd.settings["control"]["operators"]
    before = operators[0]["roles"]
    try:
        operators[0]["roles"] = ["PAM Operator"]
        both.proxyd.write()
        both.proxyd.hup()
        eventually("the role counts", lambda: both.proxyd.ctl("search", "theremin", check=False).code == 1)
        refused = both.proxyd.ctl("search", "theremin", check=False)
        assert "sessions.search" in refused.err
        assert "hits" not in refused.out
    finally:
        operators[0]["roles"] = before
        both.proxyd.write()
        both.proxyd.hup()
        eventually("the role counts", lambda: both.proxyd.ctl("search", "theremin", check=False).code == 0)


@pytest.mark.skipif(not MEMORY.is_dir(), reason="no file system in memory: who was killed leaves no key")
def test_what_a_killed_daemon_had_not_indexed_is_found_behind_its_restart(both: Both, short: Path) -> None:
    keys = both.proxyd.socket.parent / "keys"
    eventually("what ended is indexed", lambda: not list(keys.iterdir()), within_s=60)
    with held(both.lab, short, "echo harpsichord; sleep 0.5; echo a trombone; exec sleep 1000") as (_, live):
        both.hits("harpsichord")
        both.proxyd.kill()
        assert live in {path.name for path in keys.iterdir()}
        (folder,) = (both.proxyd.home / "recordings").glob(f"*/*/*/{live}")
        assert [path.name for path in folder.glob("index.pxi*")] == ["index.pxi.new"]
        both.proxyd.start()
    eventually("what was left is indexed", lambda: not list(keys.iterdir()), within_s=60)
    (hit,) = both.hits("--in", "screen", "harpsichord")
    assert (hit["session"], hit["live"], hit["snippet"]) == (live, False, "harpsichord")
    assert len(both.search("--in", "screen", "trombone")) == 1
    assert both.proxyd.ended(live)["state"] == "recovered"
    assert [path.name for path in folder.glob("index.pxi*")] == ["index.pxi"]
    eventually("all is well", lambda: both.proxyd.health() == (200, "ok\n"))
    assert both.proxyd.metric("proxyd_index_left") == 0
