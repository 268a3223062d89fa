"""Dialling a target and the keys it is pinned to, against real sockets, ssh-keygen and asyncssh."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import asyncssh
import pytest
import trio

from proxyd.config import Target
from proxyd.errors import TargetError, TargetUnreachable
from proxyd.target import HostKeys, dial


def target(address: str, **more: object) -> Target:
    return Target(name="web1", address=address, **more)


async def test_a_connected_socket() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0] as listener:
        connected = await dial(target(f"localhost:{listener.socket.getsockname()[1]}"))
        with connected:
            async with await listener.accept() as peer:
                assert not connected.getblocking()
                assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert connected.family == socket.AF_INET
                await peer.send_all(b"x")
                await trio.lowlevel.wait_readable(connected)
                assert connected.recv(10) == b"x"


async def told(address: str, **more: object) -> str:
    with pytest.raises(TargetUnreachable) as caught:
        await dial(target(address, **more))
    return str(caught.value)


async def test_refused() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, not listening
        port = reserved.getsockname()[1]
        assert await told(f"127.0.0.1:{port}") == "web1 refused the connection."
        assert await told(f"localhost:{port}") == "web1 refused the connection."


async def test_silent() -> None:
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        rest = []
        for _ in range(4):  # whatever room the backlog has left
            more = socket.socket()
            more.setblocking(False)
            more.connect_ex(full.getsockname())
            rest.append(more)
        assert (
            await told(f"127.0.0.1:{full.getsockname()[1]}", connect_seconds=0.3)
            == "web1 does not answer (waited 0.3 s)."
        )
        for more in rest:
            more.close()


async def test_unknown_name() -> None:
    assert await told("no-such-host.invalid:22") == "web1 can't be reached: its name is not known."
    assert await told(f"{'x' * 80}.invalid:22") == "web1 can't be reached: its name is not known."


async def test_no_way() -> None:
    assert await told("255.255.255.255:22") == "web1 can't be reached: there is no way to its address."


# -- host keys


def keygen(*arguments: str) -> str:
    return subprocess.run(["ssh-keygen", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def keys() -> list[str]:
    return [
        asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip() for _ in range(6)
    ]


def pins(path: Path, *lines: str, **more: object) -> HostKeys:
    path.write_text("".join(f"{line}\n" for line in lines))
    return HostKeys(target("web1:22", known_hosts=path, **more))


def test_inline_keys_hold_for_any_address(keys: list[str]) -> None:
    pinned = HostKeys(target("web1:22", host_keys=keys[:2], host_ca=keys[2:3]))
    assert pinned.trusted("anything", "10.0.0.1", 2222) == (keys[:2], keys[2:3], [])


def test_nothing_pinned_trusts_nothing() -> None:
    assert HostKeys(target("web1:22")).trusted("web1", "10.0.0.1", 22) == ([], [], [])


def test_known_hosts_syntax(tmp_path: Path, keys: list[str]) -> None:
    pinned = pins(
        tmp_path / "known",
        "# a comment",
        "",
        f"web1,10.0.0.1 {keys[0]} with a comment",
        f"[web1]:2222 {keys[1]}",
        f"@cert-authority *.corp.example,!bad.corp.example {keys[2]}",
        f"@revoked * {keys[3]}",
        f"@unknown web1 {keys[4]}",
        "web1 ssh-ed25519 AAAA",
        "web1 ssh-ed25519",
        f"web? {keys[5]}",
    )
    assert pinned.trusted("web1", "10.0.0.9", 22) == ([bare(keys[0]), bare(keys[5])], [], [bare(keys[3])])
    assert pinned.trusted("WEB1", "", None).host_keys == [bare(keys[0]), bare(keys[5])]
    assert pinned.trusted("other", "10.0.0.1", 22).host_keys == [bare(keys[0])]
    assert pinned.trusted("web1", "10.0.0.1", 2222).host_keys == [bare(keys[1])]
    assert pinned.trusted("a.corp.example", "", 22).ca_keys == [bare(keys[2])]
    assert pinned.trusted("bad.corp.example", "", 22).ca_keys == []
    assert pinned.trusted("nobody", "10.9.9.9", 22) == ([], [], [bare(keys[3])])


def bare(line: str) -> str:
    return " ".join(line.split()[:2])


def test_names_hashed_by_openssh(tmp_path: Path, keys: list[str]) -> None:
    path = tmp_path / "known"
    path.write_text(
        f"web1 {keys[0]}\n[web1]:2222 {keys[1]}\n10.0.0.1 {keys[2]}\n|1|broken|=== {keys[3]}\n|1|x {keys[3]}\n"
    )
    keygen("-H", "-f", str(path))
    assert "web1" not in path.read_text()
    pinned = HostKeys(target("web1:22", known_hosts=path))
    assert pinned.trusted("web1", "10.0.0.1", 22).host_keys == [bare(keys[0]), bare(keys[2])]
    assert pinned.trusted("web1", "10.0.0.1", 2222).host_keys == [bare(keys[1])]
    assert pinned.trusted("web2", "10.0.0.2", 22) == ([], [], [])


def test_what_asyncssh_makes_of_it(tmp_path: Path, keys: list[str]) -> None:
    pinned = pins(
        tmp_path / "known", f"web1 {keys[0]}", f"@revoked web1 {keys[1]}", f"@cert-authority web1 {keys[2]}"
    )
    found = asyncssh.match_known_hosts(pinned.known_hosts, "web1", "10.0.0.1", 22)
    lines = [[key.export_public_key().decode().strip() for key in part] for part in found[:3]]
    assert lines == [[bare(keys[0])], [bare(keys[2])], [bare(keys[1])]]


def test_a_lost_file_trusts_nothing(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"^The pinned host keys of web1 can't be read\.$"):
        HostKeys(target("web1:22", known_hosts=tmp_path / "none"))
