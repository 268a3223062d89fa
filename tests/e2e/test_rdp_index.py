"""The index of real desktop sessions: made while they live, whole whatever becomes of the process that makes it."""

# ruff: noqa: RUF001 - the marks around keys

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from e2e.test_rdp_cli import PASSWORD, furnished
from proxyd.cli_look import Desktop
from proxyd.control.client import ControlError
from proxyd.recorder import sidecar
from proxyd.recorder.record import Kind
from proxyd.recorder.sidecar import Derived, Item
from tests.peers.daemon import Proxyd
from tests.peers.process import eventually
from tests.peers.rdp import freerdp, xrdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, same
from tests.peers.rdp.xrdp import Xrdp
from tests.peers.terminal import Terminal

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


class Viewer:
    """A live view of a desktop, in a thread of its own; `times` are session times and when they were seen."""

    def __init__(self, rig: Rig, session: str) -> None:
        self.desktop = Desktop()
        self.wholes = 0
        self.times: list[tuple[int, float]] = []
        self.ended = self.blocked = False
        self.row: dict[str, Any] = {}
        self._stream = rig.proxyd.client().stream("look", session=session)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(ControlError), self._stream as stream:
            for frame in stream:
                now = time.time()
                self.blocked = bool(frame.get("blocked"))
                self.row = frame.get("session", self.row)
                for shown in frame.get("shown", ()):
                    with self._lock:
                        self.desktop.take(shown)
                        self.wholes += shown["whole"]
                        self.times.append((shown["at_us"], now))
            self.ended = True

    def picture(self) -> Picture | None:
        with self._lock:
            image = self.desktop.image
            return Picture(*image.size, image.tobytes()) if image else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._stream._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)


def test_a_live_view_is_what_the_client_sees_from_the_first_picture_on(rig: Rig, short: Path) -> None:
    with rig.client(short / "c") as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        before = typed(rig, client, "joined")
        with Viewer(rig, session) as first:
            eventually("a picture", lambda: first.picture() == before)
            assert (first.wholes, len(first.times)) == (1, 1)
            after = typed(rig, client, "while-watched")
            eventually("what was typed is seen", lambda: first.picture() == after)
            with Viewer(rig, session) as second:
                eventually("another picture", lambda: second.picture() == after)
                rig.proxyd.call("block", session=session)
                eventually("both learn of the block", lambda: first.blocked and second.blocked)
                rig.proxyd.call("unblock", whom=session)
                eventually("both learn of its end", lambda: not (first.blocked or second.blocked))
                later = typed(rig, client, "both")
                eventually("both see it", lambda: first.picture() == second.picture() == later)
            live = rig.proxyd.call("picture", session=session)
            assert (live["width"], live["height"]) == (later.width, later.height)
            (pid,) = rig.indexers()
            os.kill(pid, signal.SIGKILL)
            last = typed(rig, client, "killed")
            eventually("the view goes on", lambda: first.picture() == last, within_s=30)
        began = first.row["started_at"]
        lags = sorted(seen - began - at_us / 1e6 for at_us, seen in first.times[1:-1])
        print(
            f"lag of {len(lags)} updates: p50 {lags[len(lags) // 2] * 1000:.0f} ms, most {lags[-1] * 1000:.0f} ms"
        )
        assert lags[len(lags) // 2] < 0.5
        with Viewer(rig, session) as third:
            eventually("a third picture", lambda: third.picture() == last)
            client.__exit__(None, None, None)
            eventually("the view ends with the session", lambda: third.ended)
    rig.proxyd.ended(session)
    views = rig.proxyd.ctl("log", session).data["views"]
    assert [view["kind"] for view in views].count("live") == 3
    watched = [
        record.body for record in rig.proxyd.recording(session).records() if record.kind is Kind.CONTROL
    ]
    assert [body["action"] for body in watched].count("watch") == 3


def test_a_desktop_is_watched_in_a_terminal(rig: Rig, short: Path) -> None:
    with rig.client(short / "c") as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        piped = rig.proxyd.run_ctl("watch", session)
        assert piped.code == 2
        assert "proxyctl screenshot" in piped.err
        with Terminal(
            rig.proxyd.ctl_argv("watch", session), rows=40, columns=120, env=rig.proxyd.env
        ) as terminal:
            terminal.expect("48;2;32;64;96m")  # the desktop's own colour, #204060
            terminal.expect("1024 x 768, live")
            assert terminal.seen.count("\N{UPPER HALF BLOCK}".encode()) > 1000
            terminal.type("b")
            terminal.expect("input blocked")
            terminal.type("u")
            eventually("it is released", lambda: not rig.proxyd.live()[0]["blocked"])
            terminal.type("q")
            assert terminal.wait() == 0


def killing(rig: Rig, over: threading.Event, kills: list[int]) -> None:
    """Kill whatever process indexes, at random moments, until it is over."""
    dice = random.Random(11)
    while not over.wait(dice.uniform(0.05, 1.5)):
        for pid in rig.indexers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills.append(pid)


def sessions_under_fire(rig: Rig, short: Path, count: int) -> None:
    """Sessions one after the other while indexers are killed: none notices, and every index is whole in the end."""
    over, kills, seen = threading.Event(), list[int](), {}
    killer = threading.Thread(target=killing, args=(rig, over, kills))
    killer.start()
    try:
        for number in range(count):
            with rig.client(short / f"c{number}") as client:
                same(client.screen, rig.desktop.screen)
                session = rig.proxyd.the_live_session()["id"]
                seen[session] = (typed(rig, client, f"fire{number}"), f"fire{number}")
                assert client.connected
            assert rig.proxyd.ended(session)["reason"] == "closed"
    finally:
        over.set()
        killer.join()
    assert len(kills) >= count / 4  # one that dies again and again is waited with for up to 10 s
    for session, (shown, line) in seen.items():
        made = rig.indexed(session)
        assert lines(made) == [f"echo {line}; echo {line} > typed‹Enter›"]
        last = [sidecar.keyframe_of(item) for item in made if item.kind == Derived.KEYFRAME][-1]
        assert Picture(last.width, last.height, last.picture()).differing(shown) == 0
        assert made[-1].body["seq"] == len(list(rig.proxyd.recording(session).records()))
        assert rig.proxyd.ctl("verify", session).data["ok"]
    print(f"{count} sessions, {len(kills)} indexers killed")


def test_sessions_do_not_notice_that_indexers_are_killed(rig: Rig, short: Path) -> None:
    sessions_under_fire(rig, short, 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_sessions_do_not_notice_that_indexers_are_killed(rig: Rig, short: Path) -> None:
    sessions_under_fire(rig, short, 50)
