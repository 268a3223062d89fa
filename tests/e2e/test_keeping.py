"""Retention at a running daemon: what is held stays, what went has its tombstone, and `verify` agrees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.lab import Lab, held
from tests.peers import eventually
from tests.peers.clients import OpenSSH

pytestmark = [pytest.mark.mission("M7"), pytest.mark.timeout(120)]

SSH = OpenSSH()


def recorded(lab: Lab, short: Path) -> str:
    """Run a command through proxyd; gives the id of its ended session."""
    before = lab.proxyd.ids()
    assert SSH.execute(lab.proxied(short), "echo in").out == b"in\n"
    return str(lab.proxyd.newest(before)["id"])


def test_purged_held_and_started_again(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = own_lab()
    kept, gone = recorded(lab, short), recorded(lab, short)
    with held(lab, short, "cat") as (_, live):
        assert lab.proxyd.ctl("hold", live, "--reason", "an alarm").code == 0
    lab.proxyd.ended(live)
    assert lab.proxyd.ctl("hold", kept, "--reason", "inquiry 7").code == 0
    folder = lambda name: lab.proxyd.call("read", session=name, kind="export")["path"]  # noqa: E731
    where = {name: Path(folder(name)) for name in (kept, gone, live)}
    lab.proxyd.settings["retention"] = [{"keep_days": 1e-6}]
    lab.proxyd.write()
    lab.proxyd.restart()
    eventually("what is too old goes by itself", lambda: not where[gone].exists())
    eventually(
        "it is noted", lambda: lab.proxyd.call("show", session=gone)["session"]["purged_at"] is not None
    )
    assert where[kept].exists()
    assert where[live].exists()
    refused = lab.proxyd.ctl("log", gone, check=False)
    assert refused.code == 1
    assert "was purged on" in refused.err
    assert lab.proxyd.ctl("verify", "--all").code == 0
    assert lab.proxyd.metric("proxyd_recordings_purged_total") == 1
    assert lab.proxyd.metric("proxyd_recordings_held") == 2
    lab.proxyd.ctl("release", live)
    due = lab.proxyd.ctl("purge", "--dry-run").lines
    assert [(row["session"], row["kept"], row["purged"]) for row in due] == [(live, False, False)]
    assert lab.proxyd.ctl("purge", "--yes").code == 0
    assert not where[live].exists()
    assert where[kept].exists()
    assert lab.proxyd.ctl("verify", "--all").code == 0
