"""Targets that refuse, black-hole, reset, talk noise or never answer: one clear line in time, and nothing is left."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from tests.e2e.lab import Lab, held
from tests.e2e.test_target_names import clear_line
from tests.peers import EchoServer, Sshd, Tap, eventually
from tests.peers.clients import OpenSSH
from tests.peers.process import open_sockets
from tests.peers.tap import Fault

pytestmark = [pytest.mark.mission("M10"), pytest.mark.timeout(120)]

SSH = OpenSSH()
LOGIN_S = 2
IN_TIME_S = LOGIN_S + 3.0


def silent(peer: socket.socket) -> None:
    while peer.recv(4096):
        pass


def noise(peer: socket.socket) -> None:
    with suppress(OSError):
        while True:
            peer.sendall(os.urandom(1024))


def noise_after_version(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    noise(peer)


def endless_version(peer: socket.socket) -> None:
    with suppress(OSError):
        while True:
            peer.sendall(b"x" * 1024)


def endless_lines(peer: socket.socket) -> None:
    with suppress(OSError):
        while True:
            peer.sendall(b"a line before the version\r\n" * 100)


def web_server(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    peer.recv(4096)


def old_protocol(peer: socket.socket) -> None:
    peer.sendall(b"SSH-1.5-old\r\n")
    silent(peer)


def hangs_up(peer: socket.socket) -> None:
    peer.recv(1)


def huge_packet(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-x\r\n" + b"\x7f\xff\xff\xff" + bytes(8192))
    silent(peer)


PRETENDERS = (
    silent,
    noise,
    noise_after_version,
    endless_version,
    endless_lines,
    web_server,
    old_protocol,
    hangs_up,
    huge_packet,
)


@pytest.fixture
def watched(own_lab: Callable[..., Lab]) -> Iterator[Callable[..., Lab]]:
    """Make a lab; sockets must be back afterwards, and no bug logged."""
    made: list[tuple[Lab, int]] = []

    def make(port: int, **target: object) -> Lab:
        lab = own_lab(tapped=lambda _: port, connect_seconds=LOGIN_S, login_seconds=LOGIN_S, **target)
        made.append((lab, open_sockets(lab.proxyd.pid)))
        return lab

    yield make
    for lab, before in made:
        eventually("sockets are back", lambda lab=lab, before=before: open_sockets(lab.proxyd.pid) <= before)
        lab.proxyd.quiet()
        assert "Traceback" not in lab.proxyd.log()
        assert "a bug" not in lab.proxyd.log()


@pytest.mark.parametrize("pretender", PRETENDERS)
def test_what_is_no_ssh_server(
    pretender: Callable[[socket.socket], None], watched: Callable[..., Lab], short: Path
) -> None:
    with EchoServer(pretender) as server:
        lab = watched(server.port)
        began = time.monotonic()
        done = SSH.execute(lab.proxied(short), "echo never")
        took = time.monotonic() - began
        assert (done.code, done.out) == (255, b"")
        assert "web1" in clear_line(done)
        assert took < IN_TIME_S, took
        eventually("it is on the list", lambda: lab.proxyd.sessions()[0]["state"] != "live")
        row = lab.proxyd.sessions()[0]
        assert row["error"] in clear_line(done)
        assert row["reason"] == "target error"


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.CLOSE, Fault.HOLE, Fault.NOISE])
@pytest.mark.parametrize("after", [10, 700, 1500], ids=lambda size: f"after {size} bytes")
def test_a_target_that_breaks_off_in_the_handshake(
    fault: Fault, after: int, watched: Callable[..., Lab], own_sshd: Sshd, short: Path
) -> None:
    with Tap(own_sshd.port, fault=fault, after_bytes=after) as tap:
        lab = watched(tap.port, host_keys=[own_sshd.host_key.line])
        began = time.monotonic()
        done = SSH.execute(lab.proxied(short), "echo never")
        assert (done.code, done.out) == (255, b"")
        assert "web1" in clear_line(done)
        assert time.monotonic() - began < IN_TIME_S


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.CLOSE, Fault.NOISE])
def test_a_target_that_breaks_off_in_the_session(
    fault: Fault, watched: Callable[..., Lab], own_sshd: Sshd, short: Path
) -> None:
    with Tap(own_sshd.port, fault=fault, after_bytes=2_000_000) as tap:
        lab = watched(tap.port, host_keys=[own_sshd.host_key.line])
        credential(lab, own_sshd)
        done = SSH.execute(lab.proxied(short), "head -c 5000000 /dev/zero")
        assert done.code == 255
        assert 500_000 < len(done.out) <= 2_000_000
        assert "web1" in clear_line(done)
        eventually("it is sealed", lambda: lab.proxyd.sessions()[0]["state"] == "ended")


def test_a_target_that_vanishes_is_noticed_by_keepalive(
    watched: Callable[..., Lab], own_sshd: Sshd, short: Path
) -> None:
    with Tap(own_sshd.port) as tap:
        lab = watched(tap.port, host_keys=[own_sshd.host_key.line])
        credential(lab, own_sshd)
        lab.proxyd.settings["listen"]["ssh"]["keepalive_seconds"] = 1
        lab.proxyd.restart()
        with held(lab, short) as (client, _):
            tap.stalled.set()
            tap.stalled_down.set()
            _, err = client.communicate(timeout=30)
        assert client.returncode == 255
        assert b"web1" in err, err


def credential(lab: Lab, sshd: Sshd) -> None:
    """Let the lab's target be another sshd, behind whatever port it has."""
    path = Path(lab.proxyd.settings["targets"]["web1"]["accounts"][sshd.user]["key"].removeprefix("file:"))
    path.write_bytes(sshd.key.path.read_bytes())


@pytest.fixture
def own_sshd(short: Path) -> Iterator[Sshd]:
    """A target of the test's own, to stand behind a tap."""
    with Sshd(short / "own_sshd") as sshd:
        yield sshd


def test_the_target_is_restarted_under_a_session(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = own_lab()
    with held(lab, short) as (client, _):
        assert lab.sshd.process is not None
        children = (
            Path(f"/proc/{lab.sshd.process.pid}/task/{lab.sshd.process.pid}/children").read_text().split()
        )
        for (
            child
        ) in children:  # sshd's end of the session, not what runs in it: that would end with its own signal
            os.kill(int(child), signal.SIGKILL)
        _, err = client.communicate(timeout=30)
    assert client.returncode == 255
    assert b"web1" in err
    lab.sshd.stop()
    lab.sshd.restart()
    assert SSH.execute(lab.proxied(short), "echo back").out == b"back\n"


def test_noise_inside_the_encrypted_session_is_found(
    watched: Callable[..., Lab], own_sshd: Sshd, short: Path
) -> None:
    draw = Random(9)
    for _ in range(3):
        with Tap(own_sshd.port, fault=Fault.NOISE, after_bytes=draw.randrange(6_000, 400_000)) as tap:
            lab = watched(tap.port, host_keys=[own_sshd.host_key.line])
            credential(lab, own_sshd)
            done = SSH.execute(lab.proxied(short), "head -c 1000000 /dev/zero")
            assert done.code == 255
            assert set(done.out) <= {0}, "bytes that fail their check are never shown"
            assert re.search(r"web1", clear_line(done))
