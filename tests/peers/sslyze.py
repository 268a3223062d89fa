"""sslyze, an independent scanner of TLS servers, in a venv of its own, made once and kept under build/: it is AGPL, and its pins are not ours."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSION = "6.3.1"
HOME = Path(__file__).parents[2] / "build" / f"sslyze-{VERSION}"
VENV_S, INSTALL_S, SCAN_S = 120, 240, 240


class NotInstalled(Exception):
    """It can't be had here; says why."""


def python() -> Path:
    """Give the interpreter that has it, installed when it is not there yet; raises NotInstalled."""
    found = HOME / "bin" / "python"
    HOME.parent.mkdir(exist_ok=True)
    with (HOME.parent / "sslyze.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers install one
        if not (HOME / "installed").exists():
            subprocess.run([sys.executable, "-m", "venv", HOME], check=True, timeout=VENV_S)
            uv = Path(sys.executable).with_name("uv")
            argv = (
                [uv, "pip", "install", "-q", "--python", found]
                if uv.exists()
                else [found, "-m", "pip", "install", "-q"]
            )
            done = subprocess.run(
                [*argv, f"sslyze=={VERSION}"], capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
            if done.returncode:
                raise NotInstalled(f"sslyze can't be installed here: {done.stderr.strip()[-200:]}")
            (HOME / "installed").touch()
    return found


def scan(port: int, report: Path, ca: Path) -> tuple[int, str, dict[str, Any]]:
    """Hold a server against Mozilla's "intermediate": its exit status (0: compliant), what it says, all it found; `ca` vouches for it."""
    argv = [python(), "-m", "sslyze", "--mozilla_config=intermediate", f"--certinfo_ca_file={ca}"]
    argv += [f"--json_out={report}", f"localhost:{port}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SCAN_S, check=False)
    return (
        done.returncode,
        done.stdout,
        json.loads(report.read_text())["server_scan_results"][0]["scan_result"],
    )
