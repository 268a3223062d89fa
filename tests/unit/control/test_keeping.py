"""Holding and purging recordings at the control socket, as proxyctl asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxyd import cli
from proxyd.config import Retention
from proxyd.recorder import store

OLD, YOUNG = "a" * 32, "b" * 32


@pytest.fixture
def ctl(background: Any) -> Any:
    """Run proxyctl against the background server."""

    def run(*words: str, **options: Any) -> Result:
        found = CliRunner().invoke(
            cli.proxyctl, ["--socket", str(background.path), "--utc", *words], prog_name="proxyctl", **options
        )
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found

    return run


@pytest.fixture
def folders(played: Any) -> dict[str, Path]:
    """Two sessions that have ended, years and a minute ago, with files where their recordings are."""
    made = {}
    for name, target, ended in ((OLD, "db1", 1.0e9), (YOUNG, "web1", 4.0e9)):
        played.end(played.begin(id=name, target=target), ended_at=ended, size=4321)
        made[name] = store.folder_of(played.base, name, 1_700_000_000 * 10**9)
        made[name].mkdir(parents=True)
        store.segment_path(made[name], 0).write_bytes(b"x")
    return made


def kinds(played: Any) -> list[str]:
    return [entry.kind for entry in played.ledger.entries()]


@pytest.mark.mission("M7")
def test_hold_holds_release(played: Any, ctl: Any, folders: dict[str, Path]) -> None:
    assert ctl("holds").stdout == "Nothing is held.\n"
    assert ctl("hold", "aaaa", "--reason", "inquiry 7").stdout == (
        "Held: aaaaaaaa. Release it with: proxyctl release aaaaaaaa\n"
    )
    heading, line = ctl("holds").stdout.splitlines()
    assert heading.split() == ["SESSION", "BY", "SINCE", "REASON"]
    assert line.split()[:2] == ["aaaaaaaa", "root"]
    assert line.endswith("inquiry 7")
    assert "Held           by root since" in ctl("show", "aaaa").stdout
    again = ctl("hold", "aaaa", "--reason", "mine")
    assert again.exit_code == 1
    assert "held already" in again.stderr
    kept = ctl("purge", "aaaa", "--reason", "too large", "--yes")
    assert kept.exit_code == 1
    assert "is held: see proxyctl holds; nothing was purged" in kept.stderr
    assert folders[OLD].exists()
    assert ctl("release", "aaaa").stdout == "Released: aaaaaaaa, held by root for: inquiry 7\n"
    assert ctl("release", "aaaa").exit_code == 1
    assert kinds(played) == ["hold", "release"]


@pytest.mark.mission("M7")
def test_a_live_session_is_held_and_never_purged(played: Any, ctl: Any) -> None:
    session = played.begin()
    assert ctl("hold", session.id, "--reason", "an alarm").exit_code == 0
    assert "it is live or gone" in ctl("purge", session.id, "--reason", "x", "--yes").stderr
    assert ctl("hold", session.id).exit_code == 2, "without a reason"


def test_a_dry_run_says_what_would_go_and_why(played: Any, ctl: Any, folders: dict[str, Path]) -> None:
    assert ctl("purge", "--dry-run").stdout == "Nothing is due.\n"
    played.config.retention = [Retention(targets=["db*"], keep_days=30)]
    said = ctl("purge", "--dry-run").stdout.splitlines()
    assert said == [
        "aaaaaaaa  db1  2001-09-09 01:46:40 UTC  4.3 KB  would go: it is older than 30 days",
        "1 recordings, 4.3 KB would go.",
    ]
    assert all(folder.exists() for folder in folders.values())
    assert kinds(played) == []


@pytest.mark.mission("M7")
def test_a_purge_by_the_policies_takes_what_was_said(played: Any, ctl: Any, folders: dict[str, Path]) -> None:
    played.config.retention = [Retention(targets=["db*"], keep_days=30)]
    (line,) = ctl("purge", "--yes", "--json").stdout.splitlines()
    assert json.loads(line)["session"] == OLD
    assert json.loads(line)["purged"] is True
    assert not folders[OLD].exists()
    assert folders[YOUNG].exists()
    (stone,) = played.ledger.entries("purged")
    assert (stone.fields["session"], stone.fields["who"]) == (OLD, "root")
    assert "Purged" in ctl("show", "aaaa").stdout
    assert ctl("sessions", "--target", "db1").stdout.splitlines()[1].endswith("purged")
    assert ctl("purge", "--dry-run").stdout == "Nothing is due.\n"


def test_those_that_are_named_need_a_reason_and_a_yes(ctl: Any, folders: dict[str, Path]) -> None:
    assert "--reason" in ctl("purge", "aaaa").stderr
    assert "add --yes" in ctl("purge", "aaaa", "--reason", "spilled secrets").stderr
    assert ctl("purge", "aaaa", "bbbb", "--reason", "spilled secrets", "--yes").exit_code == 0
    assert not any(folder.exists() for folder in folders.values())


def test_an_auditor_may_hold_and_not_purge(played: Any, ctl: Any, folders: dict[str, Path]) -> None:
    played.operate_as("PAM Auditor")
    assert ctl("hold", "aaaa", "--reason", "look").exit_code == 0
    assert "recordings.purge" in ctl("purge", "--dry-run").stderr
    played.operate_as("PAM Operator")
    assert "recordings.hold" in ctl("release", "aaaa").stderr
    assert folders[OLD].exists()
