"""psycopg's source with its tests, and an environment that runs them.

Rule 1: nothing of the machine changes: Debian's source package is fetched with lists and settings of apt of our own.
Rule 2: the psycopg that runs is the one the tests were written for, in the build with a libpq of its own if there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SOURCES: Final = Path("/etc/apt")
FETCH_SECONDS: Final = 600
VERSION: Final = re.compile(r'^version\s*=\s*"?([0-9][0-9.]*)', re.MULTILINE)
NAMES_VERSION: Final = ("pyproject.toml", "setup.cfg", "version.py")  # where it stood from 3.2 on, and before


class SourceError(Exception):
    """The suite can't be had; says what to do."""


def debian_source(package: str, directory: Path) -> Path:
    """Fetch and unpack a source package; give its directory. Raises SourceError."""
    parts = directory / "apt"
    for name in ("parts", "lists/partial"):
        (parts / name).mkdir(parents=True, exist_ok=True)
    found = [SOURCES / "sources.list", *sorted((SOURCES / "sources.list.d").glob("*"))]
    for path in (one for one in found if one.is_file() and one.suffix in {".list", ".sources"}):
        text = re.sub(r"^Types:.*", "Types: deb-src", path.read_text(), flags=re.MULTILINE)
        (parts / "parts" / path.name).write_text(re.sub(r"^deb ", "deb-src ", text, flags=re.MULTILINE))
    options = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": parts / "parts",
        "Dir::State::Lists": parts / "lists",
    }
    apt = ["apt-get", "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run([*apt, "update"], directory)
    _run([*apt, "source", "--download-only", package], directory)
    (archive,) = directory.glob("*.orig.tar.*[!c]")  # not its signature
    unpacked = directory / package
    unpacked.mkdir(exist_ok=True)
    _run(
        ["tar", "--extract", "--strip-components=1", f"--file={archive}", f"--directory={unpacked}"],
        directory,
    )
    return unpacked


def environment(source: Path, directory: Path, dependencies: Iterable[str]) -> Path:
    """Make an environment with psycopg as old as its source, and what the tests need; give its interpreter."""
    python = directory / "bin" / "python"
    wanted = [
        f"psycopg[binary]=={_version(source / 'psycopg')}",
        f"psycopg-pool=={_version(source / 'psycopg_pool')}",
    ]
    _run([sys.executable, "-m", "venv", str(directory)], source)
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    _run([*install, *wanted, *dependencies], source)
    return python


def _version(package: Path) -> str:
    for name in NAMES_VERSION:
        file = package / name
        if file.exists() and (found := VERSION.search(file.read_text())):
            return found[1]
    raise SourceError(f"{package} is no source of psycopg.")


def _run(argv: list[str], directory: Path) -> None:
    done = subprocess.run(
        argv, cwd=directory, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise SourceError(
            f"{' '.join(argv[:1])} failed: {last}\nGive psycopg's source, unpacked, by --source."
        )
