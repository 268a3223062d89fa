"""What `proxyd demo` starts when databases are installed, and what it says when they are not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd import demo_databases, setup
from proxyd.demo_databases import ACCOUNT, Mariadb, Postgres, Server

KINDS = [
    pytest.param(
        kind, marks=pytest.mark.skipif(not kind.programs_found(), reason=f"not installed: {kind.packages}")
    )
    for kind in (Postgres, Mariadb)
]


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    setup.initialise(tmp_path / "made", ssh_port=0, metrics_port=0)
    return tmp_path / "made" / "keys" / "tls.crt"


@pytest.fixture
def ending() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_answers_its_client_and_leaves_nothing(
    kind: type[Server], ca: Path, ending: contextlib.ExitStack, capfd: pytest.CaptureFixture[str]
) -> None:
    server = kind(kind.programs_found(), ending)
    server.prepare(ca, ca.with_suffix(".key"))
    server.start()
    assert server.talk(server.port, ACCOUNT, server.password, ca) == 0
    shown = capfd.readouterr()
    assert "town 0" in shown.out
    assert "parcel" in shown.err  # the table that does not exist
    assert server.talk(server.port, ACCOUNT, "wrong", ca) != 0
    ending.close()
    assert not server.directory.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_can_not_start_says_why(
    kind: type[Server], ca: Path, ending: contextlib.ExitStack
) -> None:
    programs = kind.programs_found()
    server = kind(programs | dict.fromkeys(programs, shutil.which("false") or ""), ending)
    server.prepare(ca, ca.with_suffix(".key"))
    with pytest.raises(RuntimeError, match="it said nothing"):
        server.start()


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: contextlib.ExitStack
) -> None:
    monkeypatch.setattr(demo_databases, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    servers, missing = demo_databases.installed(ending)
    assert servers == []
    assert missing == "postgresql postgresql-client mariadb-server mariadb-client"


@pytest.mark.timeout(180)
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_no_server_runs_as_root(ca: Path, ending: contextlib.ExitStack) -> None:
    ids = {kind.owner: demo_databases._owner(kind.owner) for kind in (Postgres, Mariadb)}
    assert all(uid != 0 for uid, _ in ids.values())
    for kind in (Postgres, Mariadb):
        if not kind.programs_found():
            continue
        server = kind(kind.programs_found(), ending)
        server.prepare(ca, ca.with_suffix(".key"))
        server.start()
        listening = subprocess.run(
            ["ps", "-wweo", "uid,args"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        mine = [
            line.split()[0] for line in listening if str(server.directory) in line and "ps -wweo" not in line
        ]
        assert set(mine) == {str(ids[kind.owner][0])}
