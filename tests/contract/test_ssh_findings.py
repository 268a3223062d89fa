"""What a session shows about its target or its user (M11), each by peers that do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncssh
import pytest

from proxyd.host import on_host
from proxyd.protocols.ssh.wire import string, uint32
from proxyd.recorder.record import Kind
from tests.contract.ssh_rig import Rig, rigged, until

pytestmark = [pytest.mark.hosted, pytest.mark.mission("M11")]


GOOD: dict[str, Any] = {
    "kex_algs": ["curve25519-sha256"],
    "mac_algs": ["hmac-sha2-256-etm@openssh.com", "hmac-sha1"],
}


async def findings(rig: Rig, username: str = "alice+web1") -> list[tuple[str, str, str]]:
    """Log in, leave, and read the findings: code, severity, text."""
    try:
        client = await rig.attack(username)
    except asyncssh.DisconnectError:
        pass
    else:
        client.abort()
    await until("the session is over", lambda: rig.core.catalog.sessions() and not len(rig.core.registry))
    (row,) = rig.core.catalog.sessions()
    found = rig.bodies(row.id, Kind.FINDING)
    assert row.findings == len(found)
    return [(body["code"], body["severity"], body["text"]) for body in found]


async def test_a_target_of_today_has_none(tmp_path: Path) -> None:
    async with rigged(tmp_path, server={**GOOD}) as rig:
        assert await findings(rig) == []


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize(
    ("server", "named"),
    [
        ({"encryption_algs": ["aes128-ctr"], "mac_algs": ["hmac-sha1"]}, "hmac-sha1"),
        ({"kex_algs": ["diffie-hellman-group14-sha1"]}, "diffie-hellman-group14-sha1"),
    ],
)
async def test_a_weak_algorithm_in_use(server: dict[str, Any], named: str, tmp_path: Path) -> None:
    async with rigged(tmp_path, server={**GOOD, **server}) as rig:
        wanted = ("weak-algorithm", "medium", f"web1 negotiated the weak algorithm {named}.")
        assert await findings(rig) == [wanted]


async def test_a_weak_host_key_signature(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)

    def sha1_only(options: Any) -> None:
        (pair,) = set(options.server_host_keys.values())
        options.server_host_keys = {b"ssh-rsa": pair}

    async with rigged(tmp_path, server={**GOOD}, host_key=key, change=sha1_only) as rig:
        wanted = ("weak-algorithm", "medium", "web1 negotiated the weak algorithm ssh-rsa.")
        assert await findings(rig) == [wanted]


async def test_weak_algorithms_that_are_only_offered(tmp_path: Path) -> None:
    server = {
        "kex_algs": ["curve25519-sha256", "diffie-hellman-group1-sha1"],
        "encryption_algs": ["aes128-gcm@openssh.com", "3des-cbc"],
        "mac_algs": ["hmac-sha2-256", "hmac-md5"],
    }
    async with rigged(tmp_path, server=server) as rig:
        ((code, severity, text),) = await findings(rig)
        assert (code, severity) == ("weak-algorithm", "low")
        assert (
            text
            == "web1 offers weak algorithms, not used here: 3des-cbc, diffie-hellman-group1-sha1, hmac-md5."
        )


async def test_a_host_key_that_is_not_the_pinned_one(tmp_path: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519")
    line = other.export_public_key().decode().strip()
    async with rigged(tmp_path, pinned=line) as rig:
        ((code, severity, text),) = await findings(rig)
        assert (code, severity) == ("host-key-changed", "critical")
        assert rig.host_key.get_fingerprint() in text


async def test_a_host_key_nobody_has_pinned(tmp_path: Path) -> None:
    async with rigged(tmp_path, pinned="") as rig:
        ((code, severity, text),) = await findings(rig)
        assert (code, severity) == ("host-key-unknown", "high")
        assert rig.host_key.get_fingerprint() in text


@pytest.mark.parametrize("kind", [b"direct-tcpip", b"direct-streamlocal@openssh.com"])
async def test_ssh_inside_a_forward(kind: bytes, tmp_path: Path) -> None:
    place = string(b"localhost") + uint32(22) + string(b"::1") + uint32(9)
    async with rigged(tmp_path, server={**GOOD}) as rig:
        client = await rig.attack("alice+web1")
        for _ in range(2):
            channel = await client.channel(
                kind, place if kind == b"direct-tcpip" else string(b"/run/ssh") + bytes(8)
            )
            channel.write(b"SSH-2.0")
            channel.write(b"-inner\r\n")
        session = await rig.session()
        await until("it is found", lambda: session.findings)
        client.abort()
        await rig.ended(session)
        (found,) = rig.bodies(session, Kind.FINDING)
        assert (found["code"], found["severity"]) == ("ssh-in-forward", "high")


async def test_a_command_that_pretends_to_be_a_transfer(tmp_path: Path) -> None:
    async with rigged(tmp_path, server={**GOOD}) as rig:
        client = await rig.attack("alice+web1")
        channel = await client.channel()
        assert await on_host(channel._make_request(b"exec", string(b"scp -t /tmp; bash")))
        channel.write(b"id\n")
        sink = await rig.sink()
        await until("it has arrived", lambda: sink.got == b"id\n")
        session = await rig.session()
        client.abort()
        await rig.ended(session)
        assert [body["code"] for body in rig.bodies(session, Kind.FINDING)] == ["pretends-transfer"]
        assert b"".join(rig.bodies(session, Kind.INPUT)) == b"id\n"


async def test_a_stream_that_is_not_what_its_command_says(tmp_path: Path) -> None:
    async with rigged(tmp_path, server={**GOOD}) as rig:
        client = await rig.attack("alice+web1")
        channel = await client.channel()
        assert await on_host(channel._make_request(b"exec", string(b"scp -t /tmp")))
        channel.write(b"id\n")
        sink = await rig.sink()
        await until("it has arrived", lambda: sink.got == b"id\n")
        session = await rig.session()
        client.abort()
        await rig.ended(session)
        assert [body["code"] for body in rig.bodies(session, Kind.FINDING)] == ["not-scp"]
        assert b"".join(rig.bodies(session, Kind.INPUT)) == b"id\n"
