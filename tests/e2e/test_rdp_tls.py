"""What the RDP front offers, as scanners of others see it: TLS 1.2 and 1.3 alone, and RDP's own security never.

sslyze speaks X.224 before its TLS; nmap's rdp-enum-encryption asks for each security protocol in turn, and for each of
RDP's own ciphers.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.access import hash_password
from proxyd.verifiers import nt_hash
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.process import free_port
from tests.peers.rdp import freerdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.tls import Identity
from tests.peers.toolbox import installed

pytestmark = [pytest.mark.mission("M11"), pytest.mark.timeout(300)]

VERSION = "6.3.1"
OLD = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")
NEW = ("tls_1_2", "tls_1_3")
WEAK = re.compile(r"NULL|anon|EXPORT|RC4|DES|MD5")
SCAN_S = 200
FIELD = re.compile(r"^\|_? +([^:|]+): (\S.*?)\s*$", re.MULTILINE)
CIPHERS = ("40-bit RC4", "56-bit RC4", "128-bit RC4", "FIPS 140-1")
REFUSED = {True: "HYBRID_REQUIRED_BY_SERVER", False: "SSL_REQUIRED_BY_SERVER"}


@pytest.fixture(scope="module", params=[True, False], ids=["nla", "tls"])
def front(request: pytest.FixtureRequest, shared: Path) -> Iterator[tuple[int, bool]]:
    """An RDP front with NLA and without, nothing behind it: its port, and which it is."""
    nla: bool = request.param
    directory, port = shared / f"scanned-{nla}", free_port()
    proxyd, identity = Proxyd(directory), Identity(directory / "tls")
    identity.key.chmod(0o600)
    proxyd.settings["listen"]["rdp"] = {
        "address": f"{HOST}:{port}",
        "certificate": str(identity.certificate),
        "key": str(identity.key),
        "nla": nla,
    }
    proxyd.user("alice", password=hash_password("right"), nt_hash=nt_hash("right"))
    with proxyd:
        yield port, nla
        assert not proxyd.ids()


def test_sslyze_finds_tls_1_2_and_1_3_alone_and_nothing_weak(front: tuple[int, bool], short: Path) -> None:
    program, (port, _), report = installed("sslyze", VERSION), front, short / "report.json"
    argv = [program, "--starttls", "rdp", "--json_out", str(report), "--quiet", f"{HOST}:{port}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SCAN_S, check=False)
    assert report.exists(), done.stderr
    (server,) = json.loads(report.read_text())["server_scan_results"]
    assert server["connectivity_status"] == "COMPLETED"
    scan = server["scan_result"]
    assert {name: accepted(scan, name) for name in OLD} == {name: [] for name in OLD}
    for name in NEW:
        assert accepted(scan, name)
        assert not [suite for suite in accepted(scan, name) if WEAK.search(suite)]
    assert scan["heartbleed"]["result"]["is_vulnerable_to_heartbleed"] is False
    assert scan["openssl_ccs_injection"]["result"]["is_vulnerable_to_ccs_injection"] is False
    assert scan["robot"]["result"]["robot_result"].startswith("NOT_VULNERABLE")
    assert scan["tls_compression"]["result"]["supports_compression"] is False
    assert scan["session_renegotiation"]["result"]["is_vulnerable_to_client_renegotiation_dos"] is False
    assert scan["session_renegotiation"]["result"]["supports_secure_renegotiation"] is True


def accepted(scan: dict[str, Any], name: str) -> list[str]:
    """The cipher suites taken with a version of TLS."""
    found = scan[f"{name}_cipher_suites"]
    assert found["status"] == "COMPLETED"
    return [one["cipher_suite"]["name"] for one in found["result"]["accepted_cipher_suites"]]


@pytest.mark.skipif(shutil.which("nmap") is None, reason="nmap is not installed")
def test_nmap_finds_no_security_of_rdp_s_own(front: tuple[int, bool]) -> None:
    port, nla = front
    done = subprocess.run(
        ["nmap", "-Pn", "-n", "-d1", "-p", str(port), "--script", "+rdp-enum-encryption", HOST],
        capture_output=True,
        text=True,
        timeout=SCAN_S,
        check=True,
    )
    found = dict(FIELD.findall(done.stdout[done.stdout.index("Security layer") :]))
    assert found["SSL"] == "SUCCESS"
    assert found["CredSSP (NLA)"] == "SUCCESS"  # it asks for TLS beside it
    assert (found["CredSSP with Early User Auth"] == "SUCCESS") == nla
    assert found["Native RDP"] == f"FAILED ({REFUSED[nla]})"
    assert found["RDSTLS"] == f"FAILED ({REFUSED[nla]})"
    assert {found[cipher] for cipher in CIPHERS} == {"FAILURE"}


@pytest.mark.skipif(not freerdp.INSTALLED, reason="xfreerdp is not installed")
def test_a_client_that_knows_rdp_s_own_security_alone_is_refused(
    front: tuple[int, bool], short: Path
) -> None:
    port, nla = front
    with FreeRdp(short / "c", port, "alice%desk", "right", security="rdp") as client:
        assert client.ended() != 0
        assert f"Error: {REFUSED[nla]}" in client.said
        assert client.words == ["ERRCONNECT_SECURITY_NEGO_CONNECT_FAILED"]
