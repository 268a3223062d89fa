"""Clients that break, flood, stall or lie: each ends by itself, others notice nothing, memory and descriptors come back.

Everything below login speaks raw bytes on a socket; above it, asyncssh's client is made to misbehave.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import asyncssh
import pytest

from proxyd.memory import HEAPS, KEPT_BYTES
from tests.e2e.lab import Lab, held
from tests.peers import eventually
from tests.peers.clients import Asyncssh, OpenSSH
from tests.peers.endpoint import HOST
from tests.peers.process import open_sockets, rss_bytes

pytestmark = [pytest.mark.mission("M17", "M18"), pytest.mark.timeout(180)]

SSH, CLIENT = OpenSSH(), Asyncssh()
MIB = 1 << 20
KEPT = HEAPS * KEPT_BYTES  # what the C library may keep of what was freed, however much went by
MEMORY = KEPT + 32 * MIB  # what any of these may cost while it lasts; most cost nothing one can measure
LEFT = KEPT + 16 * MIB  # what may stay: caches, too
HUGE_WINDOW = 0x7FFFFFFF
SETTLES_S = 30.0


@pytest.fixture
def steady(lab: Lab, short: Path) -> Iterator[Lab]:
    """The lab with a bystander's session beside the attack; descriptors, memory and the bystander are checked after."""
    SSH.execute(
        lab.proxied(short), "head -c 20000000 /dev/urandom"
    )  # what ordinary use costs is there before
    lab.proxyd.quiet()
    pid = lab.proxyd.pid
    with held(lab, short, "cat") as (bystander, session):
        before_sockets, before_rss = open_sockets(pid), rss_bytes(pid)
        yield lab
        eventually(
            "sockets are back at the baseline",
            lambda: open_sockets(pid) <= before_sockets,
            within_s=SETTLES_S,
        )
        eventually(
            "only the bystander is live",
            lambda: [row["id"] for row in lab.proxyd.live()] == [session],
            within_s=SETTLES_S,
        )
        grown = rss_bytes(pid) - before_rss
        assert grown < LEFT, f"{grown >> 20} MiB stay"
        assert bystander.stdin
        assert bystander.stdout
        bystander.stdin.write(b"undisturbed\n")
        bystander.stdin.flush()
        assert bystander.stdout.readline() == b"undisturbed\n"
    assert "Traceback" not in lab.proxyd.log()
    assert "a bug" not in lab.proxyd.log()
    assert "in trouble" not in lab.proxyd.log()


def connect(lab: Lab) -> socket.socket:
    link = socket.create_connection((HOST, lab.proxyd.ssh_port), 10)
    link.settimeout(15)
    return link


def to_the_end(link: socket.socket) -> bytes:
    """Read until the daemon closes; AssertionError when it does not within the socket's timeout."""
    got = b""
    try:
        while data := link.recv(65536):
            got += data
    except ConnectionError:
        pass
    except TimeoutError:
        raise AssertionError(f"the daemon keeps the connection: {got[-200:]!r}") from None
    return got


def packet(payload: bytes) -> bytes:
    """An unencrypted binary packet (RFC 4253, 6)."""
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def name_lists(*lists: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(one)) + one for one in lists)


KEXINIT = b"\x14" + bytes(16)
BAD_STARTS = {
    "no version": b"GET / HTTP/1.0\r\n\r\n",
    "a version without end": b"SSH-2.0-" + b"x" * 300_000,
    "protocol 1": b"SSH-1.5-old\r\n",
    "version, then noise": b"SSH-2.0-x\r\n" + Random(1).randbytes(4096),
    "a packet of 4 GiB": b"SSH-2.0-x\r\n" + b"\xff\xff\xff\xff" + bytes(4096),
    "a packet of length 0": b"SSH-2.0-x\r\n" + bytes(64),
    "all padding": b"SSH-2.0-x\r\n" + struct.pack(">IB", 12, 255) + bytes(64),
    "name-lists longer than the packet": b"SSH-2.0-x\r\n" + packet(KEXINIT + b"\x7f\xff\xff\xff" + bytes(60)),
    "nothing in common": b"SSH-2.0-x\r\n"
    + packet(KEXINIT + name_lists(*[b"none-of-these"] * 8, b"", b"") + bytes(5)),
    "names that are no ASCII": b"SSH-2.0-x\r\n"
    + packet(KEXINIT + name_lists(*[b"\xff\xfe,\x00"] * 10) + bytes(5)),
    "a login before the keys": b"SSH-2.0-x\r\n"
    + packet(b"\x32" + name_lists(b"alice", b"ssh-connection", b"none")),
    "a disconnect at once": b"SSH-2.0-x\r\n"
    + packet(b"\x01" + struct.pack(">I", 11) + name_lists(b"bye", b"")),
    "a channel before the login": b"SSH-2.0-x\r\n" + packet(b"\x5a" + name_lists(b"session") + bytes(12)),
}


@pytest.mark.parametrize("start", BAD_STARTS, ids=str)
def test_a_broken_handshake_is_closed(start: str, steady: Lab) -> None:
    with connect(steady) as link:
        with suppress(ConnectionError):
            link.sendall(BAD_STARTS[start])
        got = to_the_end(link)
    assert got.startswith(b"SSH-2.0-") or got == b""


def test_truncated_and_random_handshakes(steady: Lab) -> None:
    whole = recorded_handshake(steady)
    draw = Random(3)
    for _ in range(60):
        bad = bytearray(whole[: draw.randrange(len(whole))])
        for _ in range(draw.randrange(4)):
            if bad:
                bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        with connect(steady) as link:
            with suppress(ConnectionError):
                link.sendall(bytes(bad))
                link.shutdown(socket.SHUT_WR)
            to_the_end(link)


def recorded_handshake(lab: Lab) -> bytes:
    """What a real client sends up to its first key exchange packet."""
    sent = bytearray()
    listener = socket.create_server((HOST, 0))

    def pump() -> None:
        client, _ = listener.accept()
        with client, connect(lab) as server:
            client.settimeout(20)
            threading.Thread(target=copy, args=(server, client), daemon=True).start()
            with suppress(OSError):
                while data := client.recv(65536):
                    sent.extend(data)
                    server.sendall(data)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    subprocess.run(quiet_ssh(listener.getsockname()[1]), check=False, timeout=30, stdin=subprocess.DEVNULL)
    thread.join(60)
    listener.close()
    assert len(sent) > 500
    return bytes(sent)


def quiet_ssh(port: int) -> list[str]:
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=QUIET",
        "ConnectTimeout=5",
    ]
    return [
        "ssh",
        "-F",
        "/dev/null",
        *[part for one in options for part in ("-o", one)],
        "-p",
        str(port),
        f"x@{HOST}",
        "true",
    ]


def copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)


def test_many_that_never_finish_their_login(steady: Lab) -> None:
    links = [connect(steady) for _ in range(100)]
    for number, link in enumerate(links):
        if number % 2:
            link.sendall(b"SSH-2.0-slow\r\n")
    client = steady.proxied(steady.directory)
    assert SSH.execute(client, "echo through").out == b"through\n"
    for link in links:
        link.close()


def run(work: Any, within_s: float = 60.0) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(within_s):
            return await work

    return asyncio.run(bounded())


class Sink(asyncssh.SSHClientSession[bytes]):
    """Never reads: neither its channel nor, when told, the socket."""

    def __init__(self) -> None:
        self.chan: Any = None

    def connection_made(self, chan: Any) -> None:
        self.chan = chan
        chan.pause_reading()


@pytest.mark.parametrize("window", [2 * MIB, HUGE_WINDOW], ids=["usual window", "2 GiB window"])
def test_a_client_that_never_reads_costs_no_memory(window: int, steady: Lab, short: Path) -> None:
    pid = steady.proxyd.pid
    before = rss_bytes(pid)

    async def work() -> int:
        async with CLIENT.connection(steady.proxied(short)) as link:
            _, session = await link.create_session(
                Sink, "head -c 1500M /dev/zero", encoding=None, window=window
            )
            link._transport.pause_reading()  # the window lies: the socket is not read
            most = 0
            for _ in range(30):
                await asyncio.sleep(0.1)  # three seconds in which a gigabyte would pass
                most = max(most, rss_bytes(pid) - before)
            assert session.chan is not None
            link.abort()
            return most

    assert run(work()) < MEMORY


def test_a_command_of_200_megabytes_is_refused(steady: Lab, short: Path) -> None:
    pid = steady.proxyd.pid
    before = rss_bytes(pid)

    async def work() -> None:
        async with CLIENT.connection(steady.proxied(short)) as link:
            with pytest.raises((asyncssh.Error, ConnectionError, OSError)):
                await link.run("x" * (200 * MIB))

    run(work(), 120)
    assert rss_bytes(pid) - before < MEMORY


def test_ten_thousand_channels_are_bounded(steady: Lab, short: Path) -> None:
    pid = steady.proxyd.pid
    before = rss_bytes(pid)

    async def work() -> tuple[int, int]:
        async with CLIENT.connection(steady.proxied(short)) as link:
            opened = await asyncio.gather(
                *(link.create_session(Sink, "sleep 100", encoding=None) for _ in range(10_000)),
                return_exceptions=True,
            )
            refused = [one for one in opened if isinstance(one, asyncssh.ChannelOpenError)]
            most = rss_bytes(pid) - before
            link.abort()
            return len(refused), most

    refused, most = run(work(), 150)
    assert refused >= 9_000
    assert most < 2 * MEMORY


def test_a_flood_of_requests_is_bounded(steady: Lab, short: Path) -> None:
    async def work() -> None:
        async with CLIENT.connection(steady.proxied(short)) as link:
            chan, _ = await link.create_session(Sink, "sleep 100", encoding=None)
            for number in range(100_000):
                chan._send_request(
                    b"env",
                    asyncssh.packet.String(f"A{number}") + asyncssh.packet.String("x" * 100),
                    want_reply=bool(number % 2),
                )
                if number % 1000 == 0:
                    await asyncio.sleep(0)
            link.abort()

    pid = steady.proxyd.pid
    before = rss_bytes(pid)
    with suppress(asyncssh.Error, ConnectionError):
        run(work())
    assert rss_bytes(pid) - before < MEMORY


def test_a_client_that_vanishes_in_the_middle(steady: Lab, short: Path) -> None:
    async def one(way: int) -> None:
        link = await asyncssh.connect(
            HOST,
            steady.proxyd.ssh_port,
            username=steady.proxied(short).user,
            client_keys=[str(steady.key.path)],
            known_hosts=None,
            config=[],
            agent_path=None,
        )
        await link.create_session(Sink, "cat /dev/zero", encoding=None)
        sock = link.get_extra_info("socket")
        if way:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
        link.abort()
        await link.wait_closed()

    async def work() -> None:
        await asyncio.gather(*(one(number % 2) for number in range(10)))

    run(work())


def test_rekeying_without_end(steady: Lab, short: Path) -> None:
    async def work() -> bytes:
        async with CLIENT.connection(steady.proxied(short), rekey_bytes=4096) as link:
            done = await link.run("cat", input=b"x" * 300_000, encoding=None)
            return bytes(done.stdout or b"")

    assert run(work()) == b"x" * 300_000


def test_a_forwarded_port_nobody_reads(steady: Lab, short: Path) -> None:
    pid = steady.proxyd.pid
    before = rss_bytes(pid)
    listener = socket.create_server((HOST, 0))  # accepts in the kernel, and is never read

    async def work() -> int:
        async with CLIENT.connection(steady.proxied(short)) as link:
            reader, writer = await link.open_connection(HOST, listener.getsockname()[1], encoding=None)
            sent = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(3):
                    while True:
                        writer.write(bytes(1 * MIB))
                        await writer.drain()
                        sent += MIB
            del reader
            link.abort()
            return sent

    run(work())
    listener.close()
    assert rss_bytes(pid) - before < MEMORY
