"""Live view: whoever joins, whenever, gets the recording from its first record to its last, and costs the session nothing."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxyd.recorder.record import Kind, Record
from tests.e2e.lab import Lab, held, ssh
from tests.e2e.tape import of_kind
from tests.peers import Terminal, eventually
from tests.peers.clients import OpenSSH
from tests.peers.daemon import USER
from tests.peers.process import rss_bytes

pytestmark = [pytest.mark.mission("M2", "M17"), pytest.mark.timeout(900)]

SSH = OpenSSH()
SHOW_S = 5.0  # how long the watched session goes on
TALK = (
    "end=$(($(date +%s)+{seconds})); while [ $(date +%s) -lt $end ]; do "
    "head -c $((RANDOM % 3000)) /dev/urandom | od -c; echo note >&2; sleep 0.0$((RANDOM % 9)); done"
)
JOIN = 0.7  # of its time: who joins last has the rest to get there, on a machine that does other things too
BULK = 60 << 20
MEMORY = 24 << 20  # a stalled viewer is sent back to the file: a ring and socket buffers, not a session
VIEWERS_AT_ONCE = 50


class Viewer:
    """One viewer in a thread: joins after `delay_s`, takes every record to the end."""

    def __init__(self, lab: Lab, session: str, delay_s: float) -> None:
        self.records: list[Record] = []
        self.history = 0
        self.ended = False
        self.failed: BaseException | None = None
        self.thread = threading.Thread(target=self._watch, args=(lab, session, delay_s), daemon=True)
        self.thread.start()

    def _watch(self, lab: Lab, session: str, delay_s: float) -> None:
        time.sleep(delay_s)  # the moment of joining is the test's input
        try:
            with lab.proxyd.client().stream("watch", session=session) as stream:
                for frame in stream:
                    self.history = frame.get("history", self.history)
                    self.records += frame.get("records", ())
                    self.ended = self.ended or "end" in frame
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.failed = error


def comparable(records: list[Record]) -> list[tuple[Any, ...]]:
    return [(one.seq, one.at_us, int(one.kind), one.channel, one.body) for one in records]


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_viewers_see_exactly_the_recording(count: int, lab: Lab, short: Path) -> None:
    at, draw = lab.proxied(short), Random(7)
    seconds = int(SHOW_S) * (1 if count <= VIEWERS_AT_ONCE else 8)
    command = "exec bash -c '" + TALK.format(seconds=seconds) + "'"
    with ssh(at, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        session = lab.proxyd.the_live_session()["id"]
        viewers = [Viewer(lab, session, draw.random() * seconds * JOIN) for _ in range(count)]
        out, err = client.communicate(timeout=120)
    lab.proxyd.ended(session)
    for viewer in viewers:
        viewer.thread.join(60)
        assert viewer.failed is None, viewer.failed
    records = list(lab.proxyd.recording(session).records())
    whole = comparable(records)
    assert b"".join(of_kind(records, Kind.OUTPUT)) == out
    assert b"".join(of_kind(records, Kind.ERROR_OUTPUT)) == err
    watches = [body for body in of_kind(records, Kind.CONTROL) if body["action"] == "watch"]
    assert len(watches) == count
    for viewer in viewers:
        assert comparable(viewer.records) == whole
        assert 0 < viewer.history < len(whole)
    views = lab.proxyd.call("show", session=session)["views"]
    assert sum(view["kind"] == "live" for view in views) == count


def test_a_stalled_viewer_costs_nothing(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    SSH.execute(at, f"head -c {BULK} /dev/urandom | cat")  # what bulk itself costs is there before
    gate = short / "gate"
    command = f"echo up; until [ -e {gate} ]; do sleep 0.02; done; head -c {BULK} /dev/urandom"
    with ssh(at, command, stdout=subprocess.PIPE) as client:
        assert client.stdout
        assert client.stdout.readline() == b"up\n"
        session = lab.proxyd.the_live_session()["id"]
        before = rss_bytes(lab.proxyd.pid)
        with lab.proxyd.client().stream("watch", session=session):  # and never read again
            gate.touch()
            got = 0
            while data := client.stdout.read(1 << 20):
                got += len(data)
            client.wait(20)
            grown = rss_bytes(lab.proxyd.pid) - before
        assert got == BULK
    assert grown < MEMORY, f"{grown >> 20} MiB"
    assert lab.proxyd.ended(session)["output_bytes"] == BULK + 3


def test_proxyctl_watch_shows_the_terminal_and_ends_with_it(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    with Terminal(SSH.argv(at, command="bash --norc -i", terminal=True), env=SSH.env(at)) as user:
        user.type("echo before-$((1+1))\r")
        user.expect("before-2")
        session = lab.proxyd.the_live_session()["id"]
        with Terminal(lab.proxyd.ctl_argv("watch", session), env=lab.proxyd.env) as operator:
            operator.expect("before-2")
            user.type("echo during-$((2+2))\r")
            operator.expect("during-4")
            operator.type("b")
            user.expect("Session interaction revoked")
            operator.expect("blocked")
            operator.type("u")
            user.expect("restored")
            user.type("exit\r")
            user.wait()
            assert operator.wait() == 0
            operator.expect("session has ended")
    assert not [one for one in lab.proxyd.call("blocked")["blocked"] if one["user"] == USER]


def test_a_viewer_leaves_and_the_session_stays(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    with Terminal(SSH.argv(at, command="bash --norc -i", terminal=True), env=SSH.env(at)) as user:
        session = lab.proxyd.the_live_session()["id"]
        with Terminal(lab.proxyd.ctl_argv("watch", session), env=lab.proxyd.env) as operator:
            eventually("the viewer is counted", lambda: lab.proxyd.live()[0]["viewers"] == 1)
            operator.type("q")
            assert operator.wait() == 0
        eventually("the viewer is gone", lambda: lab.proxyd.live()[0]["viewers"] == 0)
        user.type("exit 0\r")
        user.wait()


def test_only_the_right_roles_watch(own_lab: Callable[..., Lab], short: Path) -> None:
    def only_operates(lab: Lab) -> None:
        lab.proxyd.settings["control"]["operators"][0]["roles"] = ["PAM Operator"]

    lab = own_lab(only_operates)
    with held(lab, short) as (_, session):
        refused = lab.proxyd.ctl("watch", session, check=False)
        assert refused.code == 1
        assert refused.out + refused.err
