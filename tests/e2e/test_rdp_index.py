"""The index of real desktop sessions: made while they live, whole whatever becomes of the process that makes it."""

# ruff: noqa: RUF001 - the marks around keys

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.test_rdp_cli import PASSWORD, furnished
from proxyd.recorder import sidecar
from proxyd.recorder.sidecar import Derived, Item
from tests.peers.daemon import Proxyd
from tests.peers.process import eventually
from tests.peers.rdp import freerdp, xrdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, same
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and freerdp.INSTALLED), reason="xrdp or xfreerdp is not installed"
    ),
    pytest.mark.mission("M2", "M12", "M16"),
]


class Rig:
    """A desktop, proxyd before it, and a way in."""

    def __init__(self, directory: Path, desktop: Xrdp) -> None:
        self.directory, self.desktop = directory, desktop
        self.proxyd: Proxyd
        self.identity: Identity
        self.proxyd, self.identity, self.port = furnished(directory, desktop)

    def client(self, directory: Path) -> FreeRdp:
        return FreeRdp(directory, self.port, "alice%desk", PASSWORD, fingerprint=self.identity.fingerprint)

    def folder(self, session: str) -> Path:
        return self.proxyd.recording(session).path

    def indexed(self, session: str) -> list[Item]:
        """What is in a session's sidecar, once that is whole."""
        path = sidecar.path_of(self.folder(session))
        eventually("the index is whole", path.exists, within_s=60)
        return list(self.proxyd.recording(session).sidecar().items())

    def indexers(self) -> list[int]:
        """The processes of the indexer."""
        children = Path(f"/proc/{self.proxyd.pid}/task/{self.proxyd.pid}/children").read_text().split()
        threads = Path(f"/proc/{self.proxyd.pid}/task").glob("*/children")
        found = {int(one) for path in threads for one in path.read_text().split()} | set(map(int, children))
        return [pid for pid in found if b"proxyd.index.main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def rig(shared: Path) -> Iterator[Rig]:
    pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")
    directory = shared / "rdpindex"
    with Xrdp(directory / "x") as desktop:
        rig = Rig(directory, desktop)
        with rig.proxyd:
            yield rig


def typed(rig: Rig, client: FreeRdp, line: str) -> Picture:
    """Type a line into the desktop's terminal; what is shown then."""
    client.screen.click(*IN_TERMINAL)
    done = rig.desktop.home / "typed"
    done.unlink(missing_ok=True)
    client.screen.enter(f"echo {line}; echo {line} > typed")
    eventually("what was typed arrives", lambda: done.exists() and done.read_text() == f"{line}\n")
    return same(client.screen, rig.desktop.screen)


def lines(items: list[Item]) -> list[str]:
    return [item.body[1] for item in items if item.kind == Derived.TYPED]


def test_a_session_is_indexed_while_it_lives_and_its_index_is_made_anew_equal(rig: Rig, short: Path) -> None:
    with rig.client(short / "c") as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        shown = typed(rig, client, "one")
        eventually("an indexer runs", rig.indexers)
        assert _index(rig)["sessions"] == 1
    rig.proxyd.ended(session)
    made = rig.indexed(session)
    assert lines(made) == ["echo one; echo one > typed‹Enter›"]
    last = [sidecar.keyframe_of(item) for item in made if item.kind == Derived.KEYFRAME][-1]
    assert Picture(last.width, last.height, last.picture()).differing(shown) == 0
    assert made[-1].kind == Derived.SUMMARY
    assert made[-1].body["faults"] == 0
    heat = [item for item in made if item.kind == Derived.HEAT]
    assert sum(item.body[0] for item in heat) > 0
    assert sum(item.body[1] for item in heat) > 1000
    eventually("nothing is left to index", lambda: _index(rig)["sessions"] == 0)
    path = sidecar.path_of(rig.folder(session))
    whole = path.read_bytes()
    for damage, told in (
        (b"", "there was none"),
        (whole[:-100], "cut short"),
        (whole[: len(whole) // 2] + whole[len(whole) // 2 + 1 :], "index.pxi"),
        (bytes([*whole[:300], whole[300] ^ 1, *whole[301:]]), "index.pxi was altered"),
    ):
        path.unlink()
        if damage:
            path.write_bytes(damage)
        (row,) = _rebuilt(rig, session)
        assert (row["result"], row["faults"]) == ("made", 0)
        assert told in row["text"]
        assert rig.indexed(session) == made
    assert _rebuilt(rig, session)[0]["result"] == "whole"
    assert _rebuilt(rig, session, "--force")[0]["result"] == "made"
    assert path.read_bytes() != whole  # another salt, another key
    assert rig.indexed(session) == made
    assert rig.proxyd.ctl("verify", session).data["ok"]


def _rebuilt(rig: Rig, session: str, *more: str) -> list[dict[str, Any]]:
    done = rig.proxyd.run("index", session, "--json", "--config", str(rig.proxyd.config), *more)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["indexes"]
    return rows


def _index(rig: Rig) -> dict[str, Any]:
    return dict(rig.proxyd.call("status")["index"])


def test_an_indexer_that_is_killed_is_replaced_and_loses_nothing(rig: Rig, short: Path) -> None:
    with rig.client(short / "c") as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        for number in range(3):
            (pid,) = eventually("an indexer runs", rig.indexers)
            os.kill(pid, signal.SIGKILL)
            shown = typed(rig, client, f"kill{number}")
            assert client.connected
            eventually("another indexer runs", lambda pid=pid: rig.indexers() not in ([], [pid]))
        rig_kill = rig.indexers()[0]
    os.kill(rig_kill, signal.SIGKILL)  # as the session ends
    rig.proxyd.ended(session)
    made = rig.indexed(session)
    assert len(lines(made)) == 3
    last = [sidecar.keyframe_of(item) for item in made if item.kind == Derived.KEYFRAME][-1]
    assert Picture(last.width, last.height, last.picture()).differing(shown) == 0
    assert rig.proxyd.metric("proxyd_index_restarts_total") >= 4
    assert rig.proxyd.ctl("verify", session).data["ok"]
