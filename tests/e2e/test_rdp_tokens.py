"""Session tokens and .rdp files, with a real client: what opens, for whom, for how long, and what ends it."""

from __future__ import annotations

import contextlib
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxyd.access import hash_password
from proxyd.recorder.ledger import LedgerReader
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.process import eventually, free_port
from tests.peers.rdp import freerdp, shadow
from tests.peers.rdp.freerdp import XFREERDP3, FreeRdp, Opened
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import same
from tests.peers.tap import LINGER_RESET, Tap

pytestmark = [
    pytest.mark.skipif(not shadow.INSTALLED, reason="FreeRDP's shadow server is missing"),
    pytest.mark.skipif(not freerdp.INSTALLED, reason="xfreerdp is not installed"),
]

PASSWORD = "Alice's pass"
TOTP_SECRET = "KRSXG5CTMVRXEZLUKN2XAZLSKRSXG5CT"
DENIED = ["ERRINFO_SERVER_DENIED_CONNECTION"]
FAILED = ["ERRCONNECT_LOGON_FAILURE"]
BACK_S = 30.0  # FreeRDP waits for 5 s before it comes again


@dataclass
class Rig:
    """A desktop, proxyd before it, and a wire before proxyd that can be cut."""

    desktop: Shadow
    proxyd: Proxyd
    identity: Identity
    wire: Tap

    def token(self, directory: Path, user: str = "dave", target: str = "desk", **more: Any) -> str:
        """Have one issued."""
        answer = self.proxyd.call("rdp-file", user=user, target=target, **more)
        return str(answer["token"])

    def client(self, directory: Path, user: str, password: str, **more: Any) -> FreeRdp:
        """An xfreerdp that takes proxyd's certificate alone."""
        given = {"security": "nla", **more}
        return FreeRdp(
            directory, self.wire.port, user, password, fingerprint=self.identity.fingerprint, **given
        )

    def refused(self, directory: Path, user: str, token: str, words: list[str], **more: Any) -> None:
        """Try to log in, and see it refused in these words."""
        with self.client(directory, user, token, **more) as client:
            assert client.ended() != 0
            assert client.words == words, client.said

    def ledger(self, kind: str) -> list[dict[str, Any]]:
        """What the ledger holds of a kind."""
        path = self.proxyd.home / "state" / "ledger"
        return [entry.fields for entry in LedgerReader(path).entries(kind)]


@pytest.fixture(scope="module")
def rig(shared: Path) -> Iterator[Rig]:
    """One desktop under two names, and users of whom none could log in by NLA."""
    directory = shared / "tokens"
    port = free_port()
    with Shadow(directory / "s", Security.NLA) as desktop, Tap(port) as wire:
        proxyd, identity = Proxyd(directory / "p"), Identity(directory / "front")
        identity.key.chmod(0o600)
        proxyd.settings["listen"]["rdp"] = {
            "address": f"{HOST}:{port}",
            "public": f"{HOST}:{wire.port}",
            "certificate": str(identity.certificate),
            "key": str(identity.key),
        }
        secret, seed = directory / "password", directory / "totp"
        for path, text in ((secret, desktop.password), (seed, TOTP_SECRET)):
            path.write_text(text)
            path.chmod(0o600)
        target = {
            "protocol": "rdp",
            "address": desktop.address,
            "tls_ca": str(desktop.identity.ca),
            "accounts": {desktop.user: {"password": f"file:{secret}"}},
        }
        proxyd.settings["targets"] = {"desk": target, "other": target}
        proxyd.user("alice", password=hash_password(PASSWORD))
        proxyd.user("dave", password=hash_password(PASSWORD), totp=f"file:{seed}")
        proxyd.user("erin", password=hash_password(PASSWORD))
        proxyd.grant(users=["alice", "dave"])
        proxyd.settings["log"] = {"format": "json", "level": "debug"}
        with proxyd:
            yield Rig(desktop, proxyd, identity, wire)


def test_a_file_and_the_token_typed_open_a_session_for_a_user_with_a_second_factor(
    rig: Rig, short: Path
) -> None:
    path = short / "desk.rdp"
    told = rig.proxyd.ctl("rdp-file", "dave", "--target", "desk", "-o", str(path)).data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_bytes().decode("utf-16").split("\r\n")
    assert f"full address:s:{HOST}:{rig.wire.port}" in lines
    assert "username:s:dave%desk" in lines
    assert told["token"] not in path.read_text("utf-16")
    with Opened(short / "c", path, password=told["token"], fingerprint=rig.identity.fingerprint) as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()
        assert (session["user"], session["how"]) == ("dave", "token issued by root")
    rig.proxyd.ended(session["id"])


def test_a_file_with_its_token_asks_nothing(rig: Rig, short: Path) -> None:
    path = short / "desk.rdp"
    told = rig.proxyd.ctl("rdp-file", "alice", "--target", "desk", "-o", str(path), "--with-token").data
    assert f"password:s:{told['token']}" in path.read_bytes().decode("utf-16").split("\r\n")
    with Opened(short / "c", path, fingerprint=rig.identity.fingerprint) as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
    rig.proxyd.ended(session)
    refused = rig.proxyd.run_ctl("rdp-file", "alice", "--target", "desk", "-o", str(path))
    assert (refused.code, refused.out) == (1, "")
    assert "add --force to replace it" in refused.err


def test_a_token_opens_inside_tls_too(rig: Rig, short: Path) -> None:
    with rig.client(short / "c", "dave%desk", rig.token(short), security="tls") as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()
        assert session["how"] == "token issued by root"
    rig.proxyd.ended(session["id"])


@pytest.mark.parametrize("security", ["nla", "tls"])
def test_a_token_is_for_one_target_and_one_user(rig: Rig, short: Path, security: str) -> None:
    token = rig.token(short)
    failed = DENIED if security == "tls" else FAILED
    rig.refused(short / "t", "dave%other", token, DENIED, security=security)
    rig.refused(short / "u", "alice%desk", token, failed, security=security)
    rig.refused(short / "x", "dave%desk", token + "a", failed, security=security)
    assert not rig.proxyd.live()


@pytest.mark.skipif(not freerdp.INSTALLED_3, reason="no xfreerdp3 on PATH, and FreeRDP 2 can't do HYBRID_EX")
def test_hybrid_ex_is_taken_where_a_client_offers_it(rig: Rig, short: Path) -> None:
    token = rig.token(short)
    with rig.client(short / "c", "dave%desk", token, security="ext", program=XFREERDP3) as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
    rig.proxyd.ended(session)


def test_a_client_whose_line_breaks_comes_back_by_the_same_token(rig: Rig, short: Path) -> None:
    token = rig.token(short, lifetime=10)
    issued = time.monotonic()
    options = ("+auto-reconnect", "/auto-reconnect-max-retries:5")
    with rig.client(short / "c", "dave%desk", token, options=options) as client:
        same(client.screen, rig.desktop.screen)
        first = rig.proxyd.the_live_session()["id"]
        eventually("the token is older than its lifetime", lambda: time.monotonic() - issued > 10)
        before = rig.proxyd.ids()
        _cut(rig.wire)
        eventually("a second session", lambda: rig.proxyd.ids() - before, within_s=BACK_S)
        rig.proxyd.ended(first)
        same(client.screen, rig.desktop.screen)
        second = rig.proxyd.the_live_session()["id"]
        assert second != first
    rig.proxyd.ended(second)


def _cut(wire: Tap) -> None:
    """Break every connection, as a network does that is gone."""
    for end in wire.sockets:
        with contextlib.suppress(OSError):  # of an earlier connection
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            end.shutdown(socket.SHUT_RDWR)


@pytest.mark.mission("M4")
def test_who_is_dropped_does_not_come_back_by_the_token(rig: Rig, short: Path) -> None:
    token = rig.token(short)
    options = ("+auto-reconnect", "/auto-reconnect-max-retries:5")
    with rig.client(short / "c", "dave%desk", token, options=options) as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
        rig.proxyd.call("drop", session=session)
        assert client.ended() != 0
        assert client.words[0] == "ERRINFO_RPC_INITIATED_DISCONNECT"
    rig.proxyd.ended(session)
    rig.refused(short / "r", "dave%desk", token, FAILED)


def test_a_revoked_token_and_an_expired_one_open_nothing(rig: Rig, short: Path) -> None:
    token, other = rig.token(short), rig.token(short, target="other")
    told = rig.proxyd.run_ctl("rdp-revoke", "dave", "--target", "desk")
    assert told.out.startswith("Ended: ")
    assert not told.out.startswith("Ended: 0 ")
    rig.refused(short / "r", "dave%desk", token, FAILED)
    assert rig.proxyd.ctl("rdp-revoke", "dave").data["revoked"] >= 1
    rig.refused(short / "o", "dave%other", other, FAILED)
    issued = rig.proxyd.call("rdp-file", user="alice", target="desk", lifetime=1)
    eventually("it has expired", lambda: time.time() > issued["expires"])
    rig.refused(short / "e", "alice%desk", issued["token"], FAILED)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("erin", "--target", "desk"), "You may not reach desk"),
        (("alice", "--target", "nowhere"), "You may not reach nowhere"),
        (("nobody", "--target", "desk"), "no user nobody: see proxyctl users"),
        (("alice", "--target", "desk", "--lifetime", "2h"), "rdp-file: "),
        (("alice", "--target", "desk", "--login", "root"), "You may not reach desk as root"),
    ],
)
def test_what_is_not_issued_says_why(rig: Rig, short: Path, words: tuple[str, ...], why: str) -> None:
    path = short / "x.rdp"
    done = rig.proxyd.run_ctl("rdp-file", *words, "-o", str(path))
    assert done.code in {1, 2}
    assert why in done.err
    assert not path.exists()


def test_the_ledger_says_who_vouched_for_whom_and_no_token_is_kept_anywhere(rig: Rig, short: Path) -> None:
    token = rig.token(short, lifetime=60)
    rig.refused(short / "c", "dave%other", token, DENIED)
    assert {"user": "dave", "target": "desk", "who": "root", "lifetime": 60} in rig.ledger("token")
    assert any(entry["user"] == "dave" and entry["who"] == "root" for entry in rig.ledger("revoke-token"))
    assert token not in rig.proxyd.logs()
    kept = [path for path in rig.proxyd.home.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if token.encode() in path.read_bytes()]


def test_a_token_does_not_outlive_the_daemon(rig: Rig, short: Path) -> None:
    """The last of this file: the daemon is another one behind it."""
    token = rig.token(short)
    rig.proxyd.restart()
    rig.refused(short / "c", "dave%desk", token, FAILED)
