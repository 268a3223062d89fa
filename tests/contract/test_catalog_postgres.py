"""The catalog on PostgreSQL keeps the promises it keeps on SQLite; so do holds, between processes as well."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from proxyd.governance.requests import Request, RequestRefused, Status, Verdict
from proxyd.recorder.catalog import Catalog, CatalogError
from proxyd.recorder.holds import HoldRefused, Holds
from proxyd.recorder.reviews import Reviews
from tests.peers import postgres
from tests.peers.postgres import PASSWORDS, Postgres
from tests.peers.tap import Fault, Tap
from tests.unit.archive.test_catalog import (  # noqa: F401 - the same tests, on another database
    catalog,
    end,
    row,
    test_a_recording_that_lost_its_manifest_can_still_be_listed,
    test_a_session_is_listed_from_its_start_to_its_end,
    test_an_id_may_be_shortened_while_it_stays_clear,
    test_blocks_name_author_and_time_until_released,
    test_ending_an_unknown_session_is_not_silent,
    test_exports_are_for_people_queued_again_and_removed,
    test_many_threads_and_a_second_process_write_at_once,
    test_the_list_filters_and_sorts,
    test_what_a_crash_left_live_can_be_ended_as_recovered_and_said_twice,
)

pytestmark = pytest.mark.skipif(not postgres.INSTALLED, reason="PostgreSQL is not installed")
ROUNDS = 40
_numbers = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("catalog")) as running:
        yield running


@pytest.fixture
def url(server: Postgres) -> str:
    name = f"catalog{os.getpid()}_{next(_numbers)}"
    server.psql(f"create database {name}", "postgres")
    return f"postgresql+psycopg://app:{PASSWORDS['app']}@{server.address}/{name}?sslmode=require"


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unused")


def test_opening_it_again_changes_nothing(url: str) -> None:
    with Catalog(url) as first:
        first.started(row("a"))
    with Catalog(url) as again:
        assert [found.id for found in again.sessions()] == ["a"]


def test_a_server_that_is_not_there_is_one_sentence_without_the_password() -> None:
    with pytest.raises(CatalogError, match="storage failed") as refused:
        Catalog(f"postgresql+psycopg://app:{PASSWORDS['app']}@127.0.0.1:1/none")
    assert PASSWORDS["app"] not in str(refused.value)


@pytest.mark.mission("M15")
def test_nodes_that_start_at_once_make_the_tables_once(url: str) -> None:
    program = "import sys; from proxyd.recorder.catalog import Catalog; Catalog(sys.argv[1]).close()"
    nodes = [subprocess.Popen([sys.executable, "-c", program, url], stderr=subprocess.PIPE) for _ in range(3)]
    said = [node.communicate(timeout=60)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0, 0], said


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(CatalogError, match=r"pip install 'proxyd\[postgresql\]'"):
        Catalog("postgresql+pg8000://app@127.0.0.1/none")


@pytest.mark.mission("M7")
def test_a_hold_and_a_purge_of_two_nodes_never_both_win(url: str) -> None:
    with Catalog(url) as here, Catalog(url) as there:
        for number in range(ROUNDS):
            name = f"s{number}"
            here.started(row(name))
            end(here, name)
            won: dict[str, Any] = {}
            go = threading.Barrier(2)

            def hold(name: str = name, won: dict[str, Any] = won, go: threading.Barrier = go) -> None:
                go.wait(60)
                try:
                    won["held"] = Holds(here).hold(name, "eve", "an inquiry")
                except HoldRefused:
                    won["held"] = None

            def condemn(name: str = name, won: dict[str, Any] = won, go: threading.Barrier = go) -> None:
                go.wait(60)
                won["gone"] = Holds(there).condemn(name, "its time is over")

            threads = [threading.Thread(target=work) for work in (hold, condemn)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert (won["held"] is None) != (won["gone"] is None), won


def test_a_connection_cut_at_any_byte_leaves_a_session_live_or_ended_and_never_between(
    server: Postgres, url: str
) -> None:
    with (
        Catalog(url) as straight,
        Tap(server.port) as tap,
        Catalog(url.replace(f":{server.port}/", f":{tap.port}/")) as tapped,
    ):
        tapped.started(row("whole"))
        before = tap.down
        end(tapped, "whole")
        told = tap.down - before
        outcomes = set()
        for cut in range(1, told + 2, max(1, told // 24)):
            name = f"cut{cut}"
            tapped.close()  # the tap counts a connection's bytes from its beginning
            tap.down = 0
            tapped.started(row(name))
            tap.after_bytes, tap.fault = tap.down + cut, Fault.RESET
            outcomes.add(_ends(tapped, name))
            tap.fault = Fault.NONE
            found = straight.session(name)
            assert (found.state, found.size) in (("live", 0), ("ended", 4096))
            end(tapped, name)
            assert straight.session(name).state == "ended"
        assert outcomes == {True, False}


def _ends(tapped: Catalog, name: str) -> bool:
    try:
        end(tapped, name)
    except CatalogError as error:
        assert PASSWORDS["app"] not in str(error)
        return False
    return True


@pytest.mark.mission("M9", "M15")
def test_of_two_verdicts_of_two_nodes_the_second_sees_the_first(url: str) -> None:
    with Catalog(url) as first, Catalog(url) as second:
        nodes = [Reviews(first), Reviews(second)]
        for number in range(20):
            name = f"{number:032x}"
            first.started({"id": name, "node": "node1", "started_at": 1.0})
            now = nodes[0].now()
            asked = nodes[0].ask(Request("", name, "ann", "audit", "why", "", now, now + 600, now, needed=2))
            outcomes: list[str] = []

            def approve(
                node: Reviews, request: str = asked.id, outcomes: list[str] = outcomes, now: float = now
            ) -> None:
                try:
                    outcomes.append(
                        node.decide(request, "alice", Verdict.APPROVE, may_decide=True).status(now)
                    )
                except RequestRefused as error:
                    outcomes.append(str(error))

            threads = [threading.Thread(target=approve, args=(node,)) for node in nodes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert min(outcomes) == Status.PENDING, outcomes
            assert "somebody else has to" in max(outcomes)
            nodes[1].decide(asked.id, "carl", Verdict.APPROVE, may_decide=True)
            nodes[1].set_auditors(name, ["ann"], "carl")
            standing = nodes[0].standing(name, "ann")
            assert standing.auditors == {"ann"}
            assert [one.covers(now) for one in standing.requests] == [True]
