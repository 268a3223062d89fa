"""PyRDP in a venv of its own, made once and kept under build/: it is GPL, and its pins are not ours."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

VERSION = "2.1.0"
PACKAGES = (f"pyrdp-mitm=={VERSION}", "progressbar2<4.4")  # its converter breaks with later bars
HOME = Path(__file__).parents[3] / "build" / f"pyrdp-{VERSION}"
VENV_S, INSTALL_S = 120, 240


class NotInstalled(Exception):
    """It can't be had here; says why."""


def programs() -> Path:
    """Give where its programs are, installed when they are not there yet; raises NotInstalled."""
    found = HOME / "bin"
    HOME.parent.mkdir(exist_ok=True)
    with (HOME.parent / "pyrdp.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers install one
        if not (found / "pyrdp-convert").exists():
            subprocess.run([sys.executable, "-m", "venv", HOME], check=True, timeout=VENV_S)
            argv = [found / "pip", "install", "-q", "--only-binary", "pyrdp-mitm", *PACKAGES]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if done.returncode:
                raise NotInstalled(f"PyRDP can't be installed here: {done.stderr.strip()[-200:]}")
    return found
