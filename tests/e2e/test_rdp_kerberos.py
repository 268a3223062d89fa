"""An account that logs in at its target by Kerberos: a real KDC, and FreeRDP 3's server with the key of its service.

Debian's FreeRDP 2 has no Kerberos as a server, so this takes a FreeRDP 3 built with it (`freerdp-shadow-cli3` on PATH), and
proxyd's extra `kerberos`.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxyd.access import hash_password
from proxyd.recorder.record import Kind
from tests.peers import kdc
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.kdc import Kdc
from tests.peers.process import free_port
from tests.peers.rdp import freerdp, shadow
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.shadow import PROGRAM_3, Security, Shadow
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import same

PASSWORD = "Alice's pass"
DENIED = ["ERRINFO_SERVER_DENIED_CONNECTION"]
HELP_S = 30


def _serves_kerberos() -> bool:
    """Whether there is a FreeRDP 3 whose server can do it: it says what it was built with."""
    if shutil.which(PROGRAM_3) is None:
        return False
    said = subprocess.run(
        [PROGRAM_3, "/buildconfig"], capture_output=True, text=True, timeout=HELP_S, check=False
    )
    return "WITH_KRB5=ON" in said.stdout


pytestmark = [
    pytest.mark.skipif(not shadow.INSTALLED or not freerdp.INSTALLED, reason="FreeRDP 2 is missing"),
    pytest.mark.skipif(not kdc.INSTALLED, reason="MIT's KDC (krb5-kdc, krb5-user) is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gssapi") is None, reason="no gssapi: proxyd[kerberos]"),
    pytest.mark.skipif(not _serves_kerberos(), reason=f"no {PROGRAM_3} on PATH that was built with Kerberos"),
]


@dataclass
class Rig:
    """A realm, a desktop in it, and proxyd before it."""

    desktop: Shadow
    proxyd: Proxyd
    identity: Identity
    port: int

    def client(self, directory: Path, target: str) -> FreeRdp:
        """An xfreerdp of alice's."""
        return FreeRdp(
            directory, self.port, f"alice%{target}", PASSWORD, fingerprint=self.identity.fingerprint
        )


@pytest.fixture(scope="module")
def rig(shared: Path) -> Iterator[Rig]:
    """The desktop takes Kerberos alone: it knows no NT hash."""
    directory, port = shared / "kerberos", free_port()
    with Kdc(directory / "kdc") as realm:
        host, mine, ticket = (directory / name for name in ("host.keytab", "svc.keytab", "svc.ccache"))
        realm.principal(shadow.USER, shadow.PASSWORD)
        realm.keytab("TERMSRV/localhost", host)
        realm.keytab(shadow.USER, mine)
        realm.ticket(shadow.USER, shadow.PASSWORD, ticket)
        desktop = Shadow(
            directory / "s", Security.NLA, program=PROGRAM_3, options=(f"/keytab:{host}",), env=realm.env,
            accounts=False,
        )  # fmt: skip
        with desktop:
            proxyd, identity = Proxyd(directory / "p", env=realm.env), Identity(directory / "front")
            secret = directory / "password"
            secret.write_text(shadow.PASSWORD)
            for path in (secret, identity.key):
                path.chmod(0o600)
            proxyd.settings["listen"]["rdp"] = {
                "address": f"{HOST}:{port}",
                "certificate": str(identity.certificate),
                "key": str(identity.key),
            }
            kept = {"password": f"file:{secret}"}
            ways: dict[str, dict[str, Any]] = {
                "keytab": {**kept, "keytab": str(mine)},
                "ccache": {**kept, "ccache": str(ticket), "domain": kdc.REALM.lower()},
                "ntlm": kept,
                "none": {**kept, "ccache": str(directory / "nowhere")},
            }
            proxyd.settings["targets"] = {
                name: {
                    "protocol": "rdp",
                    "address": f"localhost:{desktop.port}",
                    "tls_ca": str(desktop.identity.ca),
                    "accounts": {shadow.USER: account},
                }
                for name, account in ways.items()
            }
            proxyd.user("alice", password=hash_password(PASSWORD))
            proxyd.grant(users=["alice"])
            with proxyd:
                yield Rig(desktop, proxyd, identity, port)


@pytest.mark.parametrize("target", ["keytab", "ccache"])
def test_an_account_logs_in_by_its_key_or_its_ticket(rig: Rig, short: Path, target: str) -> None:
    with rig.client(short / "c", target) as client:
        same(client.screen, rig.desktop.screen)
        session = rig.proxyd.the_live_session()["id"]
    rig.proxyd.ended(session)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("ntlm", "login of its account"),
        ("none", "There is no Kerberos ticket for the account of none; tell your administrator."),
    ],
)
def test_without_a_ticket_there_is_no_session(rig: Rig, short: Path, target: str, why: str) -> None:
    before = rig.proxyd.ids()
    with rig.client(short / "c", target) as client:
        assert client.ended() != 0
        assert client.words == DENIED
    (session,) = rig.proxyd.ids() - before
    rig.proxyd.ended(session)
    ends = [record.body for record in rig.proxyd.recording(session).records() if record.kind is Kind.END]
    assert why in ends[0]["error"]
