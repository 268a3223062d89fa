"""Fuzz the front end to end: whatever comes before a login, the daemon answers or closes, and lives.

What is sent is a real handshake's beginning, mutated: bytes flipped, cut, repeated, lengths set to extremes, packets of
every message type out of turn.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.lab import Lab, furnish, make_lab
from tests.peers import eventually
from tests.peers.clients import OpenSSH
from tests.peers.endpoint import HOST
from tests.peers.process import open_sockets, rss_bytes

pytestmark = [pytest.mark.mission("M17"), pytest.mark.timeout(900)]

ANSWERS_S = 10.0
GROWTH = 24 << 20
VERSION = b"SSH-2.0-OpenSSH_9.2\r\n"
NAMES = [
    b"mlkem768x25519-sha256,curve25519-sha256,ext-info-c,kex-strict-c-v00@openssh.com",
    b"ssh-ed25519",
    b"aes128-gcm@openssh.com,aes256-ctr",
    b"aes128-gcm@openssh.com,aes256-ctr",
    b"hmac-sha2-256-etm@openssh.com",
    b"hmac-sha2-256-etm@openssh.com",
    b"none",
    b"none",
    b"",
    b"",
]


@pytest.fixture(scope="module")
def front() -> Iterator[Lab]:
    """A daemon nobody may log in to but the check at the end."""
    with TemporaryDirectory(prefix="px-") as made:
        lab = make_lab(Path(made) / "lab")
        with lab.sshd:
            furnish(lab)
            lab.proxyd.settings["admission"]["grace_seconds"] = 5
            with lab.proxyd:
                still_serves(lab, Path(made))
                sockets, memory = open_sockets(lab.proxyd.pid), rss_bytes(lab.proxyd.pid)
                yield lab
                eventually("sockets are back", lambda: open_sockets(lab.proxyd.pid) <= sockets, within_s=20)
                assert rss_bytes(lab.proxyd.pid) - memory < GROWTH
                still_serves(lab, Path(made))
                assert "Traceback" not in lab.proxyd.log()
                assert "a bug" not in lab.proxyd.log()


def still_serves(lab: Lab, directory: Path) -> None:
    """Someone honest still gets in."""
    assert OpenSSH().execute(lab.proxied(directory), "echo fine").out == b"fine\n"


def packet(payload: bytes, length: int | None = None, padding: int | None = None) -> bytes:
    """A binary packet in clear (RFC 4253, 6), with a length and a padding that may lie."""
    fill = 8 - (5 + len(payload)) % 8
    fill += 8 if fill < 4 else 0
    real = 1 + len(payload) + fill
    return (
        struct.pack(">IB", real if length is None else length, fill if padding is None else padding)
        + payload
        + bytes(fill)
    )


def kexinit(lists: list[bytes]) -> bytes:
    return b"\x14" + bytes(16) + b"".join(struct.pack(">I", len(one)) + one for one in lists) + bytes(5)


extreme = st.sampled_from([0, 1, 4, 8, 11, 12, 0x7FFF, 0x8000, 0x40000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
lists = st.lists(st.one_of(st.sampled_from(NAMES), st.binary(max_size=60)), min_size=0, max_size=12)
bodies = st.one_of(
    lists.map(kexinit),
    st.tuples(st.integers(0, 255), st.binary(max_size=200)).map(lambda pair: bytes([pair[0]]) + pair[1]),
    st.just(kexinit(NAMES)),
    st.binary(min_size=32, max_size=32).map(lambda key: b"\x1e" + struct.pack(">I", 32) + key),
    st.just(b"\x15"),
)
packets = st.one_of(
    bodies.map(packet),
    st.tuples(bodies, extreme).map(lambda pair: packet(pair[0], length=pair[1])),
    st.tuples(bodies, st.integers(0, 255)).map(lambda pair: packet(pair[0], padding=pair[1])),
    st.binary(max_size=300),
)
versions = st.one_of(
    st.just(VERSION),
    st.just(b""),
    st.binary(max_size=400),
    st.text(max_size=255).map(lambda text: b"SSH-2.0-" + text.encode() + b"\r\n"),
)


def answers(front: Lab, sent: bytes) -> bytes:
    """Send, half-close, and read to the daemon's end; AssertionError when it keeps the connection."""
    got = b""
    with socket.create_connection((HOST, front.proxyd.ssh_port), ANSWERS_S) as link:
        link.settimeout(ANSWERS_S)
        try:
            link.sendall(sent)
            with suppress(OSError):
                link.shutdown(socket.SHUT_WR)
            while data := link.recv(65536):
                got += data
        except ConnectionError:
            pass
        except TimeoutError:
            raise AssertionError("the daemon keeps a connection whose client has left") from None
    return got


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(version=versions, following=st.lists(packets, max_size=4))
def test_whatever_comes_is_answered_or_closed(front: Lab, version: bytes, following: list[bytes]) -> None:
    got = answers(front, version + b"".join(following))
    assert got == b"" or got.startswith(b"SSH-2.0-")
    assert b"Traceback" not in got


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_real_beginning_damaged(front: Lab, data: st.DataObject) -> None:
    whole = bytearray(
        VERSION + packet(kexinit(NAMES)) + packet(b"\x1e" + struct.pack(">I", 32) + bytes(range(32)))
    )
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(whole)))
    got = answers(front, bytes(whole[:cut]))
    assert got == b"" or got.startswith(b"SSH-2.0-")


@pytest.mark.slow
@settings(
    max_examples=5000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(version=versions, following=st.lists(packets, max_size=6))
def test_whatever_comes_for_longer(front: Lab, version: bytes, following: list[bytes]) -> None:
    got = answers(front, version + b"".join(following))
    assert got == b"" or got.startswith(b"SSH-2.0-")
