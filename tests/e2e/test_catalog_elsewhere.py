"""The catalog in a PostgreSQL database: sessions are listed there, and its absence loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import Lab, held
from tests.peers import eventually, postgres
from tests.peers.clients import OpenSSH
from tests.peers.postgres import PASSWORDS, Postgres

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not postgres.INSTALLED, reason="PostgreSQL is not installed"),
]

SSH = OpenSSH()


@pytest.fixture
def server(short: Path) -> Iterator[Postgres]:
    with Postgres(short / "pg") as running:
        yield running


@pytest.mark.mission("M1", "M15")
def test_a_catalog_that_goes_away_and_comes_back(
    own_lab: Callable[..., Lab], short: Path, server: Postgres
) -> None:
    lab = own_lab()
    server.psql("create database catalog")
    url = f"postgresql+psycopg://app:{PASSWORDS['app']}@{server.address}/catalog?sslmode=require"
    lab.proxyd.settings["recording"]["catalog"] = url
    lab.proxyd.write()
    lab.proxyd.restart()
    assert SSH.execute(lab.proxied(short), "echo in").out == b"in\n"
    assert server.psql("select count(*) from sessions", "catalog") == "1"
    with held(lab, short, "cat") as (client, session):
        server.stop()
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"still here\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"still here\n"
        refused = SSH.execute(lab.proxied(short), "echo in")
        assert refused.code == 255
        assert b"the list of blocked users can't be read" in refused.err
        assert server.address.encode() not in refused.err
        eventually(
            "it says so", lambda: lab.proxyd.health() == (503, "failing\ncatalog: it can't be reached\n")
        )
        client.kill()
        eventually("its end is on disk", lambda: "is not in the catalog" in lab.proxyd.logs())
        server.start_again()
        assert lab.proxyd.ended(session)["state"] == "ended"
        eventually("all is well", lambda: lab.proxyd.health() == (200, "ok\n"))
    assert SSH.execute(lab.proxied(short), "echo in").out == b"in\n"
    lab.proxyd.restart()
    states = {row["id"]: row["state"] for row in lab.proxyd.sessions()}
    assert len(states) == 3
    assert set(states.values()) == {"ended"}
    assert lab.proxyd.ctl("verify", "--all").code == 0
    assert PASSWORDS["app"] not in lab.proxyd.logs()
