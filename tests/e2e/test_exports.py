"""Exports at a running daemon: a film made in the background, and what becomes of those a daemon had that stops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.lab import Lab
from tests.e2e.test_keeping import recorded
from tests.peers import eventually

av = pytest.importorskip("av", reason="what makes films is not installed")
pytestmark = [pytest.mark.mission("M13", "M18"), pytest.mark.timeout(180)]


def states(lab: Lab) -> list[str]:
    """Exports, newest first."""
    return [row["state"] for row in lab.proxyd.ctl("exports").data["exports"]]


def test_a_film_in_the_background_and_a_daemon_that_stops(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = own_lab()
    session = recorded(lab, short)
    begun = lab.proxyd.ctl("export", session, "--format", "webm", "--background").data
    made = Path(begun["path"])
    assert made.parent == lab.proxyd.home / "state" / "exports" / session
    eventually("the film is made", lambda: states(lab) == ["done"], within_s=60)
    with av.open(made) as film:
        assert film.streams.video[0].width == 1280
    verified = lab.proxyd.ctl("verify", str(made)).data["reports"][0]
    assert (verified["state"], verified["session"]) == ("exported", session)
    assert lab.proxyd.metrics()['proxyd_exports_ended_total{result="done"}'] == 1

    waiting = short / "waiting.webm"
    with contextlib.closing(
        lab.proxyd.client().stream("export-job", session=session, form="mp4", path=str(short / "held.mp4"))
    ) as held:
        frames = held.receive()
        while not any("go" in frame for frame in frames):
            frames += held.receive()
        lab.proxyd.ctl("export", session, "--format", "webm", "--background", "-o", str(waiting))
        assert states(lab) == ["queued", "running", "done"]
        assert lab.proxyd.metrics()['proxyd_exports{state="queued"}'] == 1
        lab.proxyd.stop()
    lab.proxyd.start()
    # Whoever waits goes on at the next daemon; who held the other has gone, and is given a while to come back.
    eventually("the film is made", lambda: states(lab) == ["done", "queued", "done"], within_s=60)
    assert lab.proxyd.ctl("verify", str(waiting)).data["ok"]
    assert not [path for path in short.iterdir() if path.name.startswith(".waiting")]
    assert lab.proxyd.ctl("verify", "--all").code == 0
