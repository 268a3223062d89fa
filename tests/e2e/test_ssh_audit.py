"""ssh-audit on the front: no failure, and no warning but about algorithms that are not post-quantum.

ssh-audit lives in a venv of its own, made once and kept under build/: its dependencies are not ours.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import Lab
from tests.peers.endpoint import HOST

pytestmark = [pytest.mark.mission("M11"), pytest.mark.timeout(240)]

VERSION = "3.9.0"
HOME = Path(__file__).parents[2] / "build" / f"ssh-audit-{VERSION}"
ALLOWED_WARNING = "does not provide protection against post-quantum attacks"


@pytest.fixture(scope="session")
def ssh_audit() -> Path:
    """The program; installed when it is not there yet."""
    program = HOME / "bin" / "ssh-audit"
    HOME.parent.mkdir(exist_ok=True)
    with (HOME.parent / "ssh-audit.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers install one
        if not program.exists():
            subprocess.run([sys.executable, "-m", "venv", HOME], check=True, timeout=120)
            done = subprocess.run(
                [HOME / "bin" / "pip", "install", "-q", f"ssh-audit=={VERSION}"],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"ssh-audit can't be installed here: {done.stderr.strip()[-200:]}")
    return program


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
