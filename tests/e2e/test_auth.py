"""How users prove themselves at the front, with the clients they have: right ways in, every wrong one out."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import paramiko
import pyotp
import pytest

from tests.e2e.lab import Lab, ssh
from tests.e2e.test_target_names import clear_line
from tests.peers import Endpoint, Key, KeyKind, PySshd, Terminal, eventually
from tests.peers.clients import Asyncssh, OpenSSH
from tests.peers.daemon import TARGET, USER
from tests.peers.endpoint import HOST

pytestmark = [pytest.mark.mission("M1"), pytest.mark.timeout(180)]

SSH = OpenSSH()
PASSWORD = "correct horse " + token_hex(4)
BY_PASSWORD = ["-o", "PreferredAuthentications=password", "-o", "PubkeyAuthentication=no"]
BY_KEYBOARD = ["-o", "PreferredAuthentications=keyboard-interactive", "-o", "PubkeyAuthentication=no"]
GRACE_S = 2


@pytest.fixture(scope="session")
def hashed(standing_lab: Lab) -> str:
    """The password's hash, made as the manual says."""
    made = standing_lab.proxyd.run_ctl("users", "hash-password", "--stdin", stdin=PASSWORD + "\n")
    assert made.code == 0, made.err
    return made.out.strip()


def secret_of(lab: Lab) -> str:
    """Put a TOTP secret into the vault; returns it."""
    secret = pyotp.random_base32()
    path = lab.directory / "totp"
    path.write_text(secret)
    path.chmod(0o600)
    return secret


def typed(lab: Lab, directory: Path, options: list[str], answers: list[tuple[str, str]]) -> tuple[int, bytes]:
    """A person at ssh's prompts; gives the exit status and what was shown."""
    at = lab.proxied(directory)
    command = [
        "ssh",
        "-F",
        at.config,
        "-o",
        "NumberOfPasswordPrompts=1",
        *options,
        "peer",
        "echo logged-$((20+3))",
    ]
    with Terminal(command, env=SSH.env(at)) as terminal:
        for prompt, answer in answers:
            terminal.expect(prompt)
            terminal.type(answer + "\n")
        return terminal.wait(), bytes(terminal.seen)


@pytest.mark.parametrize("way", [BY_PASSWORD, BY_KEYBOARD], ids=["password", "keyboard-interactive"])
@pytest.mark.parametrize("right", [True, False])
def test_password(way: list[str], right: bool, hashed: str, own_lab: Callable[..., Lab], short: Path) -> None:
    lab = own_lab(lambda one: one.proxyd.user(USER, password=hashed))
    answer = PASSWORD if right else PASSWORD + "x"
    code, shown = typed(lab, short, way, [(r"[Pp]assword", answer)])
    assert (code == 0) is right, shown
    assert (b"logged-23" in shown) is right
    assert answer.encode() not in shown
    if right:
        assert lab.proxyd.sessions()[0]["how"] == "password"
    else:
        assert b"Permission denied" in shown
        assert lab.proxyd.sessions() == []
        assert lab.proxyd.metric("proxyd_logins_total") >= 1


@pytest.mark.parametrize("kind", list(KeyKind))
def test_key_types(kind: KeyKind, own_lab: Callable[..., Lab], short: Path) -> None:
    key = Key.generate(short / "key", kind)
    lab = own_lab(lambda one: one.proxyd.user(USER, keys=[key.line]))
    done = SSH.execute(lab.proxied(short, key=key), "echo in")
    assert (done.code, done.out) == (0, b"in\n"), done.err
    stranger = SSH.execute(lab.proxied(short, key=Key.generate(short / "other", kind)), "echo in")
    assert (stranger.code, stranger.out) == (255, b"")
    assert b"Permission denied" in stranger.err


def certified(
    lab: Lab, authority: Key, directory: Path, name: str, **wanted: Any
) -> tuple[Endpoint, list[str]]:
    """A key with a certificate of `authority`, and ssh's option to show it."""
    key = Key.generate(directory / name)
    certificate = authority.certify(key, **wanted)
    return lab.proxied(directory, key=key), ["-o", f"CertificateFile={certificate}"]


def test_a_user_certificate_names_the_user_whatever_the_target(
    own_lab: Callable[..., Lab], short: Path
) -> None:
    authority, other = Key.generate(short / "ca"), Key.generate(short / "other_ca")

    def trusts(lab: Lab) -> None:
        lab.proxyd.settings["listen"]["ssh"]["user_ca"] = [authority.line]
        lab.proxyd.user(USER, keys=[])

    lab = own_lab(trusts)
    cases = {
        "good": (authority, {"principals": USER}, True),
        "several": (authority, {"principals": f"bob,{USER}"}, True),
        "stranger": (authority, {"principals": "bob"}, False),
        "whole-name": (authority, {"principals": f"{USER}+{TARGET}"}, False),
        "wrong-ca": (other, {"principals": USER}, False),
        "expired": (authority, {"principals": USER, "validity": "-2h:-1h"}, False),
        "host-certificate": (authority, {"principals": USER, "host": True}, False),
    }
    for name, (signer, wanted, welcome) in cases.items():
        at, option = certified(lab, signer, short, name, **wanted)
        done = subprocess.run(
            SSH.argv(at, *option, command="echo in"),
            capture_output=True,
            env=SSH.env(at),
            timeout=60,
            check=False,
        )
        assert (done.stdout == b"in\n") is welcome, (name, done)
    assert {row["how"] for row in lab.proxyd.sessions()} == {"publickey"}


@pytest.mark.parametrize("first", ["publickey", "password"])
def test_totp_after_the_first_factor(
    first: str, hashed: str, own_lab: Callable[..., Lab], short: Path
) -> None:
    secrets: list[str] = []

    def two_factors(lab: Lab) -> None:
        secrets.append(secret_of(lab))
        lab.proxyd.user(USER, keys=[lab.key.line], password=hashed, totp=f"file:{lab.directory / 'totp'}")

    lab = own_lab(two_factors)
    code = pyotp.TOTP(secrets[0]).now()
    wrong = f"{(int(code) + 1) % 1_000_000:06d}"
    way = (
        ["-o", "PreferredAuthentications=publickey,keyboard-interactive"]
        if first == "publickey"
        else BY_KEYBOARD
    )
    prompts = [] if first == "publickey" else [(r"[Pp]assword", PASSWORD)]
    status, shown = typed(lab, short, way, [*prompts, ("[Cc]ode", wrong)])
    assert status == 255, shown
    status, shown = typed(lab, short, way, [*prompts, ("[Cc]ode", code)])
    assert (status, b"logged-23" in shown) == (0, True), shown
    assert lab.proxyd.sessions()[0]["how"] == f"{first}+totp"
    status, shown = typed(lab, short, way, [*prompts, ("[Cc]ode", code)])
    assert status == 255, "a code is good once"
    if first == "publickey":
        alone = SSH.execute(lab.proxied(short), "echo in")
        assert (alone.code, alone.out) == (255, b"")


def test_unknown_users_take_as_long_and_hear_the_same(
    hashed: str, own_lab: Callable[..., Lab], short: Path
) -> None:
    lab = own_lab(lambda one: one.proxyd.user(USER, password=hashed))
    took: dict[str, list[float]] = {USER: [], "nobody-here": []}
    said: dict[str, set[str]] = {USER: set(), "nobody-here": set()}
    for _ in range(4):
        for name in (USER, "nobody-here"):
            link = paramiko.Transport(socket.create_connection((HOST, lab.proxyd.ssh_port), 10))
            link.start_client(timeout=20)
            began = time.perf_counter()
            with pytest.raises(paramiko.AuthenticationException) as refused:
                link.auth_password(f"{name}+{TARGET}", "wrong", fallback=False)
            took[name].append(time.perf_counter() - began)
            said[name].add(str(refused.value).replace(name, "NAME"))
            link.close()
    assert said[USER] == said["nobody-here"]
    known, unknown = (min(times) for times in took.values())
    assert 0.5 < known / unknown < 2, took


def test_a_login_that_never_ends_is_cut(own_lab: Callable[..., Lab], short: Path) -> None:
    def impatient(lab: Lab) -> None:
        lab.proxyd.settings["admission"]["grace_seconds"] = GRACE_S

    lab = own_lab(impatient)
    began = time.monotonic()
    with (
        socket.create_connection((HOST, lab.proxyd.ssh_port), 10) as silent,
        socket.create_connection((HOST, lab.proxyd.ssh_port), 10) as slow,
    ):
        for link in (silent, slow):
            link.settimeout(GRACE_S + 30)
        slow.sendall(b"SSH-2.0-slow\r\n")
        for link in (silent, slow):
            while link.recv(4096):
                pass
    assert GRACE_S - 0.5 <= time.monotonic() - began <= GRACE_S + 3
    assert lab.proxyd.metrics()['proxyd_logins_total{protocol="ssh",result="grace"}'] == 2


def test_a_guesser_is_locked_out_and_others_are_not(own_lab: Callable[..., Lab], short: Path) -> None:
    def strict(lab: Lab) -> None:
        lab.proxyd.settings["admission"] = {"penalties": {"authfail": 8.0, "min": 4.0, "noauth": 1.0}}

    lab = own_lab(strict)
    at, stranger = lab.proxied(short), lab.proxied(short, key=Key.generate(short / "stranger"))
    assert SSH.execute(at, "echo in").out == b"in\n"
    assert SSH.execute(stranger, "true").code == 255
    refused = SSH.execute(at, "echo in")
    assert (refused.code, refused.out) == (255, b"")
    assert lab.proxyd.metrics()['proxyd_admission_refused_total{reason="penalty"}'] >= 1
    with socket.socket() as elsewhere:  # another loopback address is another source
        elsewhere.bind(("127.0.0.2", 0))
        elsewhere.settimeout(30)
        elsewhere.connect((HOST, lab.proxyd.ssh_port))
        assert elsewhere.recv(4) == b"SSH-"
    eventually("the penalty is served", lambda: SSH.execute(at, "echo in").code == 0, within_s=30)


def test_a_flood_of_connections_is_throttled(own_lab: Callable[..., Lab], short: Path) -> None:
    def limited(lab: Lab) -> None:
        lab.proxyd.settings["admission"] = {"per_source_rate": 0.5, "per_source_burst": 10}

    lab = own_lab(limited)
    answered, began = 0, time.monotonic()
    for _ in range(60):
        with socket.create_connection((HOST, lab.proxyd.ssh_port), 30) as link:
            link.settimeout(30)
            with_banner = False
            with contextlib.suppress(ConnectionError):
                with_banner = link.recv(4) == b"SSH-"
            answered += with_banner
    assert 10 <= answered <= 10 + math.ceil(0.5 * (time.monotonic() - began))
    assert lab.proxyd.metrics()['proxyd_admission_refused_total{reason="rate"}'] == 60 - answered


def test_the_banner_comes_before_the_login(own_lab: Callable[..., Lab], short: Path) -> None:
    def bannered(lab: Lab) -> None:
        lab.proxyd.settings["listen"]["ssh"]["banner"] = "Authorised use only.\n"

    lab = own_lab(bannered)
    done = SSH.execute(lab.proxied(short, key=Key.generate(short / "stranger")), "true")
    assert done.code == 255
    assert done.err.count(b"Authorised use only.") == 1


def test_targets_by_password_and_by_certificate(own_lab: Callable[..., Lab], short: Path) -> None:
    password = token_hex(12)
    with PySshd(short / "py", password) as target:

        def added(lab: Lab) -> None:
            (short / "password").write_text(password)
            (short / "password").chmod(0o600)
            lab.proxyd.target("web2", target)
            lab.proxyd.settings["targets"]["web2"]["accounts"] = {
                "operator": {"password": f"file:{short / 'password'}"}
            }
            authority = Key.generate(short / "user_ca")
            certificate = authority.certify(Key(lab.sshd.key.path), principals=lab.sshd.user)
            lab.sshd.extra += f"\nTrustedUserCAKeys {authority.path}.pub"
            lab.sshd.stop()
            (lab.directory / "target" / "authorized_keys").write_text("")
            lab.sshd.restart()
            account = lab.proxyd.settings["targets"][TARGET]["accounts"][lab.sshd.user]
            certificate.chmod(0o600)
            account["certificate"] = f"file:{certificate}"

        lab = own_lab(added)
        by_password = SSH.execute(lab.proxied(short, target="web2"), "echo by password")
        assert by_password.out == b"by password\n", by_password.err
        (lab.directory / "target" / "authorized_keys").write_text("")
        certified_login = SSH.execute(lab.proxied(short), "echo by certificate")
        assert certified_login.out == b"by certificate\n", certified_login.err
        (short / "password").write_text("wrong")
        refused = SSH.execute(lab.proxied(short, target="web2"), "echo never")
        assert (refused.code, refused.out) == (255, b"")
        assert "web2" in clear_line(refused)


def test_a_target_vouched_for_by_a_host_ca(own_lab: Callable[..., Lab], short: Path) -> None:
    def vouched(lab: Lab) -> None:
        authority = Key.generate(short / "host_ca")
        lab.sshd.stop()
        certificate = authority.certify(lab.sshd.host_key, principals=f"{HOST},web1", host=True)
        lab.sshd.extra += f"\nHostCertificate {certificate}"
        lab.sshd.restart()
        target = lab.proxyd.settings["targets"][TARGET]
        target["host_keys"], target["host_ca"] = [], [authority.line]

    lab = own_lab(vouched)
    assert SSH.execute(lab.proxied(short), "echo vouched").out == b"vouched\n"


@pytest.mark.mission("M10")
def test_a_grant_ends_and_takes_the_session_along(own_lab: Callable[..., Lab], short: Path) -> None:
    def ending(lab: Lab) -> None:
        lab.proxyd.settings["grants"][0]["expires"] = datetime.now(UTC) + timedelta(seconds=6)

    lab = own_lab(ending)
    with ssh(
        lab.proxied(short), "echo up; exec sleep 60", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stdout
        assert client.stdout.readline() == b"up\n"
        _, err = client.communicate(timeout=30)
    assert b"time" in err.lower(), err
    row = lab.proxyd.sessions()[0]
    assert row["error"] in err.decode()
    eventually("the session is sealed", lambda: lab.proxyd.sessions()[0]["state"] == "ended")


def test_twenty_logins_at_once(lab: Lab, short: Path) -> None:
    client = Asyncssh()
    at = lab.proxied(short)

    async def one(number: int) -> bytes:
        async with client.connection(at) as link:
            return bytes((await link.run(f"echo {number}", encoding=None)).stdout or b"")

    async def work() -> list[bytes]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(one(number) for number in range(20)))

    assert asyncio.run(work()) == [f"{number}\n".encode() for number in range(20)]
    assert os.path.exists(f"/proc/{lab.proxyd.pid}")
