"""kill -9 of the daemon with twenty live sessions: what is lost is bounded, nothing is corrupt, all is sealed at restart.

Each session ticks the time, so the loss is read off the tape: the last tick the client saw against the last recorded.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.e2e.lab import Lab
from tests.e2e.tape import channels
from tests.peers import eventually
from tests.peers.clients import OpenSSH

pytestmark = [pytest.mark.mission("M16"), pytest.mark.timeout(3600)]

SSH = OpenSSH()
SESSIONS = 20
LOSS_S = 0.25  # the promise: a quarter of a second of traffic ...
FLUSH_S = 0.25  # ... and one flush, which this machine's load may stretch
RECOVERED_S = 10.0
TICK = re.compile(rb"(\d{19})\n")
COMMAND = "while date +%s%N; do sleep 0.05; done"  # ends with its output: sshd leaves no orphan when the proxy is killed


class Ticking:
    """A client that sees ticks."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        at = lab.proxied(directory)
        self.seen = bytearray()
        self.popen = subprocess.Popen(
            SSH.argv(at, command=COMMAND),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=SSH.env(at),
        )
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.popen.stdout
        while data := self.popen.stdout.read1(65536):  # type: ignore[attr-defined]
            self.seen += data

    def ticks(self) -> list[int]:
        return [int(one) for one in TICK.findall(bytes(self.seen))]

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait(10)
        self.thread.join(10)
        assert self.popen.stdout
        self.popen.stdout.close()


def a_round(lab: Lab, directory: Path, pause_s: float) -> float:
    """One crash; returns the largest loss in seconds."""
    known = lab.proxyd.ids()
    clients = [Ticking(lab, directory) for _ in range(SESSIONS)]
    try:
        eventually("all sessions tick", lambda: all(len(one.ticks()) > 2 for one in clients), within_s=60)
        time.sleep(pause_s)  # the random moment
        lab.proxyd.kill()
        for one in clients:
            one.popen.wait(20)
    finally:
        for one in clients:
            one.close()
    began = time.monotonic()
    lab.proxyd.start()
    new = lambda: [row for row in lab.proxyd.sessions(limit=10_000) if row["id"] not in known]  # noqa: E731
    eventually("all are sealed", lambda: all(row["state"] != "live" for row in new()), within_s=RECOVERED_S)
    assert time.monotonic() - began <= RECOVERED_S
    rows = new()
    assert [row["state"] for row in rows] == ["recovered"] * SESSIONS
    return max(loss(lab, rows, clients))


def loss(lab: Lab, rows: list[dict[str, object]], clients: list[Ticking]) -> list[float]:
    """Match recordings to clients by their first tick; give the seconds each lost."""
    taped: dict[int, bytes] = {}
    for row in rows:
        recording = lab.proxyd.recording(str(row["id"]))
        heard = channels(list(recording.records()))
        shown = b"".join(bytes(one.shown) for one in heard.values())
        if ticks := TICK.findall(shown):
            taped[int(ticks[0])] = shown
    lost = []
    for one in clients:
        first = one.ticks()[0]
        shown = taped.pop(first, b"")  # without a tick: killed before the first one was written
        saw = bytes(one.seen)
        assert shown.startswith(saw) or saw.startswith(shown), "the recording differs from what was seen"
        missing = TICK.findall(saw[len(shown) :] if len(saw) > len(shown) else b"")
        kept = int(TICK.findall(shown)[-1]) if shown else first
        lost.append((int(missing[-1]) - kept) / 1e9 if missing else 0.0)
    assert not taped, "a recording shows what no client saw"
    return lost


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_crash_loses_a_quarter_of_a_second_at_most(
    rounds: int, own_lab: Callable[..., Lab], short: Path
) -> None:
    lab, draw = own_lab(), Random(5)
    losses = [a_round(lab, short, draw.random() * 1.5) for _ in range(rounds)]
    print(f"kill -9, {rounds} rounds of {SESSIONS} sessions: largest loss {max(losses) * 1e3:.0f} ms")
    assert max(losses) <= LOSS_S + FLUSH_S
    checked = lab.proxyd.ctl("verify", "--all", check=False)
    assert checked.code == 0, checked.out[-2000:]
