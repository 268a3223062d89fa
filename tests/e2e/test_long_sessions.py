"""A session of a day, and one of a gigabyte: everything that reads them does so in bounded memory, and finds it whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from proxyd.recorder.catalog import Catalog
from proxyd.recorder.keys import load_signer
from proxyd.recorder.ledger import Ledger
from proxyd.recorder.replay import Recording
from proxyd.recorder.source import Elsewhere, Folder
from tests.e2e.lab import Lab
from tests.peers.longtape import KEYS_US, listed, typed_and_shown, wound

pytestmark = [pytest.mark.mission("M12", "M16"), pytest.mark.timeout(1800), pytest.mark.slow]
MIB = 1 << 20
RSS_MIB = 128  # 69 measured, most of it the interpreter and what the command line imports
KEPT = 2 * MIB  # of an output's beginning and of its end
MEASURE = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)  # from a small process: what forks counts as the child's
_, status, used = os.wait4(child, 0)
sys.stderr.write(f"\\n{used.ru_maxrss}\\n")
sys.exit(os.waitstatus_to_exitcode(status))
"""
TABLE = Path("build/long-sessions.md")


class Used(NamedTuple):
    """What a command took."""

    seconds: float
    rss_mib: int
    out: bytes


class Long:
    """A daemon with one long recording."""

    def __init__(self, lab: Lab, name: str, seconds: int, size: int, piece: int) -> None:
        self.lab, self.name, self.seconds, self.size = lab, name, seconds, size
        lab.proxyd.stop()
        home, settings = lab.proxyd.home, lab.proxyd.settings["recording"]
        signer = load_signer(home / settings["signing_key"])
        with pytest.MonkeyPatch.context() as patched:
            items = typed_and_shown(seconds, size, piece)
            reel, manifest = wound(
                name, items, home / "recordings", signer, settings["recipients"][0], patched
            )
        with Catalog(f"sqlite:///{home}/state/catalog.db") as catalog:
            with Ledger(home / "state" / "ledger", signer, "node1") as ledger:
                listed(reel, manifest, catalog, ledger)
        self.folder, self.identity = reel.folder, home / settings["identity"]
        self.on_disk = manifest.size
        lab.proxyd.start()

    def run(self, *words: str, program: str = "proxyctl") -> Used:
        """Run a command to its end, with its output in a file."""
        run = f"from proxyd.cli import {program}; {program}()"
        config = ("--config", str(self.lab.proxyd.config))
        asked = (words[0], *config, *words[1:]) if program == "proxyd" else (*config, *words)
        out = self.lab.directory / "out"
        began = time.monotonic()
        with out.open("wb") as file:
            done = subprocess.run(
                [sys.executable, "-S", "-c", MEASURE, sys.executable, "-c", run, *asked],
                stdout=file,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                env=self.lab.proxyd.env,
                check=False,
            )
        took = time.monotonic() - began
        told, _, rss = done.stderr.decode().rstrip().rpartition("\n")
        assert done.returncode == 0, told
        with out.open("rb") as file:
            head = file.read(KEPT)
            file.seek(max(len(head), out.stat().st_size - KEPT))
            return Used(took, int(rss) // 1024, head + file.read())


@pytest.fixture(
    params=[
        pytest.param(("a day", 86_400, 64 * MIB, 400), id="day"),
        pytest.param(("a gigabyte", 3600, 1024 * MIB, 16 << 10), id="gigabyte"),
    ]
)
def long(request: pytest.FixtureRequest, own_lab: Callable[..., Lab]) -> Iterator[Long]:
    name, seconds, size, piece = request.param
    yield Long(own_lab(), name.replace("a ", "long-"), seconds, size, piece)


def test_it_is_verified_read_exported_and_indexed_in_bounded_memory(long: Long) -> None:
    asked = long.name
    used = {
        "verify": long.run("verify", asked),
        "log": long.run("log", asked),
        "index": long.run("index", asked, "--force", program="proxyd"),
        "export": long.run("export", asked, "-o", str(long.lab.directory / "x.cast")),
        "replay, the last minute": long.run("replay", asked, "--from", str(long.seconds - 60)),
        "replay, all of it": long.run("replay", asked),
    }
    tell(long, used)
    assert b"Whole and unaltered." in used["verify"].out
    commands = (long.seconds * 1_000_000 - 1) // KEYS_US
    assert b"make step-%d" % commands in used["log"].out
    assert b"make step-%d\r" % commands in used["replay, the last minute"].out
    with (long.lab.directory / "x.cast").open("rb") as cast:
        cast.seek(-4096, os.SEEK_END)
        assert cast.read().rstrip().endswith(b"]")
    recording = Recording.open(long.folder, long.identity)
    assert recording.duration_us == long.seconds * 1_000_000
    assert recording.sidecar().keyframes[-1] > (long.seconds - 600) * 1_000_000
    assert jumps(long) < 4 * MIB
    assert {name: one.rss_mib for name, one in used.items() if one.rss_mib > RSS_MIB} == {}


def jumps(long: Long) -> int:
    """Read the record five minutes before the end as if the store alone had the recording; gives the bytes fetched."""

    def fetch(file: str, start: int, length: int) -> bytes:
        with (long.folder / file).open("rb") as opened:
            opened.seek(start)
            return opened.read(length)

    source = Elsewhere(long.folder, Folder(long.folder).sizes(), fetch)
    wanted = (long.seconds - 300) * 1_000_000
    records = Recording.open(source, long.identity).records(wanted)
    assert wanted <= next(records).at_us < wanted + 60_000_000
    records.close()
    return source.fetched


def tell(long: Long, used: dict[str, Used]) -> None:
    """Leave the figures where they can be looked at."""
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("a") as table:
        table.write(
            f"\n{long.name}: {long.seconds} s, {long.size // MIB} MiB shown, {long.on_disk / MIB:.1f} MiB on disk\n\n"
        )
        table.write("| what | seconds | largest memory, MiB |\n|---|---|---|\n")
        table.writelines(f"| {name} | {one.seconds:.1f} | {one.rss_mib} |\n" for name, one in used.items())
