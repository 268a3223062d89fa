"""Who may have a session token issued, for whom, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyd.access import Access
from proxyd.config import RdpListen, load
from proxyd.control.client import ControlError
from proxyd.control.commands import COMMANDS
from proxyd.control.issue import RdpFile, RdpRevoke, issue, public_address, revoke
from proxyd.control.permissions import ROLES, Caller, Permission
from proxyd.errors import Denied
from proxyd.rdp_file import render
from proxyd.recorder.keys import Signer
from proxyd.recorder.ledger import Ledger
from proxyd.setup import initialise
from proxyd.tokens import Tokens
from tests.peers.daemon import toml

ROOT = Caller("root", 0, "", ("System Administrator",))
SEED = "file:seed"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    account = {"password": "env:NOWHERE"}
    desk = {"address": "192.0.2.1:3389", "protocol": "rdp", "accounts": {"svc": account}}
    return {
        "listen": {"rdp": {"certificate": "keys/tls.crt", "key": "keys/tls.key"}},
        "users": {"alice": {}, "dave": {"totp": SEED}, "alice%svc": {}, "eve": {}},
        "targets": {
            "desk": desk,
            "two": {**desk, "accounts": {"svc": account, "adm": account}},
            "shell": {"address": "192.0.2.1:22", "accounts": {"svc": account}},
        },
        "grants": [{"users": ["alice", "dave", "alice%svc"], "targets": ["*"], "accounts": ["*"]}],
    }


@pytest.fixture
def services(tmp_path: Path, settings: dict[str, Any]) -> Iterator[Any]:
    """What the daemon gives, as far as it is asked."""
    made = initialise(tmp_path / "p", ssh_port=0, metrics_port=0)
    with made.config.open("a") as file:
        file.write(toml(settings))
    config = load(made.config)
    with Ledger(tmp_path / "ledger", Signer(Ed25519PrivateKey.generate()), "node1") as ledger:
        yield SimpleNamespace(config=config, access=Access(config), tokens=Tokens(), ledger=ledger)


async def test_what_is_issued_says_how_to_use_it_and_is_in_the_ledger(services: Any) -> None:
    before = time.time()
    answer = await issue(services, ROOT, RdpFile("alice", "desk", lifetime=60))
    assert before + 60 <= answer["expires"] <= time.time() + 60
    assert (answer["address"], answer["username"], answer["login"]) == ("127.0.0.1:3389", "alice%desk", "svc")
    token = services.tokens.find("alice", answer["token"], time.monotonic())
    assert (token.target, token.issuer) == ("desk", "root")
    (entry,) = services.ledger.entries("token")
    assert entry.fields == {"user": "alice", "target": "desk", "who": "root", "lifetime": 60}


async def test_an_account_is_named_where_it_is_not_the_only_one(services: Any) -> None:
    with pytest.raises(Denied, match="adm, svc"):
        await issue(services, ROOT, RdpFile("alice", "two"))
    answer = await issue(services, ROOT, RdpFile("alice", "two", "adm"))
    assert (answer["username"], answer["login"]) == ("alice%adm%two", "adm")


@pytest.mark.parametrize(("user", "target"), [("eve", "desk"), ("alice", "shell"), ("alice", "nowhere")])
async def test_none_for_what_the_user_may_not_reach(services: Any, user: str, target: str) -> None:
    with pytest.raises(Denied, match="You may not reach"):
        await issue(services, ROOT, RdpFile(user, target))
    assert not list(services.ledger.entries("token"))
    assert not services.tokens.good(user, time.monotonic())


async def test_none_for_a_name_that_a_login_would_read_as_another(services: Any) -> None:
    with pytest.raises(ControlError, match="can't be told apart"):
        await issue(services, ROOT, RdpFile("alice%svc", "desk"))
    with pytest.raises(ControlError, match="no user mallory: see proxyctl users"):
        await issue(services, ROOT, RdpFile("mallory", "desk"))


async def test_nobody_vouches_for_their_own_second_factor(services: Any) -> None:
    dave = Caller("dave", 1000, "dave", ("System Administrator",))
    with pytest.raises(ControlError, match="nobody vouches for their own second factor"):
        await issue(services, dave, RdpFile("dave", "desk"))
    assert await issue(services, dave, RdpFile("alice", "desk"))
    assert await issue(services, ROOT, RdpFile("dave", "desk"))
    alice = Caller("alice", 1001, "alice", ("PAM Administrator",))
    assert await issue(services, alice, RdpFile("alice", "desk"))


def test_it_takes_an_administrator() -> None:
    having = {role for role, permissions in ROLES.items() if Permission.ISSUE in permissions}
    assert having == {"System Administrator", "PAM Administrator"}
    assert COMMANDS["rdp-file"].permission is COMMANDS["rdp-revoke"].permission is Permission.ISSUE


async def test_revoking_ends_all_or_those_for_a_target(services: Any) -> None:
    for target in ("desk", "desk", "two"):
        await issue(services, ROOT, RdpFile("alice", target, "adm" if target == "two" else ""))
    assert (await revoke(services, ROOT, RdpRevoke("alice", "desk")))["revoked"] == 2
    assert (await revoke(services, ROOT, RdpRevoke("alice")))["revoked"] == 1
    assert (await revoke(services, ROOT, RdpRevoke("alice")))["revoked"] == 0
    assert [entry.fields["tokens"] for entry in services.ledger.entries("revoke-token")] == [2, 1, 0]


@pytest.mark.parametrize("lifetime", [0, 0.5, -1, 3601, float("inf"), float("nan")])
def test_a_lifetime_is_short(lifetime: float) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"user": "a", "target": "b", "lifetime": lifetime}, RdpFile)


async def test_without_a_listener_or_with_one_that_leads_elsewhere(services: Any, tmp_path: Path) -> None:
    rdp = services.config.listen.rdp
    for changed, why in ((None, "there is no listen.rdp"), ("two", "listen.rdp leads to two only")):
        listen = msgspec.structs.replace(
            services.config.listen, rdp=changed and msgspec.structs.replace(rdp, target=changed)
        )
        services.config = msgspec.structs.replace(services.config, listen=listen)
        with pytest.raises(ControlError, match=why):
            await issue(services, ROOT, RdpFile("alice", "desk"))


def test_the_address_is_one_a_client_can_reach(tmp_path: Path) -> None:
    def of(address: str, public: str = "") -> str:
        return public_address(RdpListen(address=address, public=public, certificate=tmp_path, key=tmp_path))

    assert of("192.0.2.1:3390") == "192.0.2.1:3390"
    assert of("0.0.0.0:3390", "proxy.example:3389") == "proxy.example:3389"
    for anywhere in ("0.0.0.0:3390", "[::]:3390"):
        host, port = of(anywhere).rsplit(":", 1)
        assert host not in {"0.0.0.0", "::", "[::]", ""}
        assert port == "3390"


def test_the_file_is_utf_16_with_its_mark_and_has_the_token_only_where_asked() -> None:
    plain, whole = render("proxy:3389", "jürgen%desk"), render("proxy:3389", "jürgen%desk", "secret")
    assert plain.startswith(b"\xff\xfe")
    lines = plain.decode("utf-16").split("\r\n")
    assert lines[:2] == ["full address:s:proxy:3389", "username:s:jürgen%desk"]
    assert lines[-1] == ""
    assert "password" not in plain.decode("utf-16")
    assert "password:s:secret\r\n" in whole.decode("utf-16")
