"""Programs from PyPI in venvs of their own, made once and kept under build/: their dependencies are not ours."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build"
INSTALL_S = 240


def installed(name: str, version: str) -> Path:
    """Give the program of a PyPI package of the same name; skips the test where it can't be installed."""
    home = BUILD / f"{name}-{version}"
    program = home / "bin" / name
    BUILD.mkdir(exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers install one
        if not program.exists():
            subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=INSTALL_S)
            done = subprocess.run(
                [home / "bin" / "pip", "install", "-q", f"{name}=={version}"],
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"{name} can't be installed here: {done.stderr.strip()[-200:]}")
    return program
