"""ssh-audit on the front: no failure, and no warning but about algorithms that are not post-quantum."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import Lab
from tests.peers.endpoint import HOST
from tests.peers.toolbox import installed

pytestmark = [pytest.mark.mission("M11"), pytest.mark.timeout(240)]

VERSION = "3.9.0"
ALLOWED_WARNING = "does not provide protection against post-quantum attacks"


@pytest.fixture(scope="session")
def ssh_audit() -> Path:
    """The program; installed when it is not there yet."""
    return installed("ssh-audit", VERSION)


def audit(program: Path, port: int, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *options, "-p", str(port), HOST], capture_output=True, text=True, timeout=150, check=False
    )


def notes(report: dict[str, Any], level: str) -> list[tuple[str, str]]:
    """Every (algorithm, text) of one level, over key exchanges, host keys, ciphers and MACs."""
    return [
        (one["algorithm"], text)
        for part in ("kex", "key", "enc", "mac")
        for one in report[part]
        for text in one["notes"].get(level, [])
    ]


@pytest.mark.parametrize("chacha", [False, True])
def test_no_failure_and_only_post_quantum_warnings(
    chacha: bool, ssh_audit: Path, own_lab: Callable[..., Lab]
) -> None:
    def settle(lab: Lab) -> None:
        lab.proxyd.settings["listen"]["ssh"]["chacha"] = chacha

    lab = own_lab(settle)
    done = audit(ssh_audit, lab.proxyd.ssh_port, "-j", "--skip-rate-test")
    report = json.loads(done.stdout)
    assert notes(report, "fail") == []
    warned = [(name, text) for name, text in notes(report, "warn") if ALLOWED_WARNING not in text]
    assert warned == []
    assert next(one["algorithm"] for one in report["kex"]).startswith("mlkem768x25519")
    assert report["cves"] == []
    if not chacha:
        assert not [one for one in report["enc"] if "chacha" in one["algorithm"]]


def test_its_connection_rate_test_is_throttled(ssh_audit: Path, own_lab: Callable[..., Lab]) -> None:
    def limited(lab: Lab) -> None:
        lab.proxyd.settings["admission"] = {}  # as a stranger is met

    lab = own_lab(limited)
    done = audit(ssh_audit, lab.proxyd.ssh_port)
    assert "insufficient connection throttling" not in done.stdout, done.stdout[-2000:]
    assert "[fail]" not in done.stdout
    assert lab.proxyd.metric("proxyd_admission_refused_total") > 0
