"""A coverage-guided campaign against one protocol, or one side of it: `python -m tests.fuzz.campaign postgres --seconds 600 [--json]`.

What it promises when it ends well (status 0): no input made anything but a typed error come out or broke a rule of
its `atheris_*`, none took SLOW_SECONDS, and the process stayed below RSS_MB. Otherwise the input
is in the directory it names, and `--replay FILE` plays it again, without the fuzzer.

What drives it is atheris (libFuzzer for Python), which the fuzzed process alone imports.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

PROTOCOLS: Final = (
    *("postgres", "mysql", "rdp_wire", "rdp_channels", "rdp_decode", "rdp_graphics", "terminal"),
    "console",
)
MISSING: Final = "The fuzzer is not installed: run `pip install atheris` (or `uv sync --group fuzz`) in the environment of the tests."
SLOW_SECONDS: Final = 1.0  # of processor time: what else runs on the machine makes no input slow
HANGS_SECONDS: Final = 20  # after which libFuzzer ends an input that does not end by itself
RSS_MB: Final = 512
LONGEST: Final = 4096  # bytes of an input: a program, which may say a hundred times as much
GRACE_SECONDS: Final = 120  # for instrumenting, reading the corpus and ending
INSTRUMENTED: Final = ["proxyd"]
NOT_INSTRUMENTED: Final = [
    "proxyd.redact"
]  # regular expressions, which coverage says nothing of; it would treble their cost
_PROGRESS: Final = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
_STATISTIC: Final = re.compile(r"stat::(\w+):\s+(\d+)")
_RAISED: Final = re.compile(r"\w*(Error|Exception)\b|.*ERROR: libFuzzer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; give the status to exit with."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.campaign", description=__doc__)
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("--seconds", type=int, default=600, help="how long (600)")
    parser.add_argument("--json", action="store_true", help="tell the figures as one JSON object")
    parser.add_argument(
        "--directory",
        type=Path,
        help="where corpus and findings stay; without it they are kept only if something was found",
    )
    parser.add_argument("--replay", type=Path, nargs="+", help="play these inputs again")
    parser.add_argument("--fuzzed", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.replay:
        return replay(chosen.protocol, chosen.replay)
    if importlib.util.find_spec("atheris") is None:
        print(MISSING, file=sys.stderr)
        return 2
    if chosen.fuzzed is not None:
        return fuzzed(chosen.protocol, chosen.fuzzed)
    directory = chosen.directory or Path(mkdtemp(prefix=f"fuzz-{chosen.protocol}-"))
    found = campaign(chosen.protocol, chosen.seconds, directory)
    if chosen.directory is None and found.well:
        shutil.rmtree(directory)
    print(json.dumps(found.figures) if chosen.json else found.told(directory))
    return not found.well


@dataclass(frozen=True, slots=True)
class Found:
    """What a campaign has measured; `findings`: the files of inputs that broke something."""

    figures: dict[str, Any]
    findings: list[Path]
    complaint: str

    @property
    def well(self) -> bool:
        return not self.findings and not self.complaint

    def told(self, directory: Path) -> str:
        """Say it for people."""
        lines = [f"{name:18} {value}" for name, value in self.figures.items()]
        if not self.well:
            lines += [
                "",
                self.complaint,
                *(f"finding: {path}" for path in self.findings),
                f"kept in {directory}",
            ]
        return "\n".join(lines)


def campaign(protocol: str, seconds: int, directory: Path) -> Found:
    """Fuzz for so long in a process of its own; give what became of it."""
    corpus, findings, notes = (directory / name for name in ("corpus", "findings", "notes.json"))
    for made in (corpus, findings):
        made.mkdir(parents=True, exist_ok=True)
    begun = module("seeds", protocol)
    for seed in begun.seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    words = directory / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in begun.DICTIONARY))
    flags = [f"-max_total_time={seconds}", f"-timeout={HANGS_SECONDS}", f"-rss_limit_mb={RSS_MB}", f"-report_slow_units={HANGS_SECONDS}",
             f"-artifact_prefix={findings}/", f"-dict={words}", f"-max_len={LONGEST}", "-print_final_stats=1", "-len_control=20", str(corpus)]  # fmt: skip
    argv = [sys.executable, "-m", "tests.fuzz.campaign", protocol, "--fuzzed", str(notes), *flags]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        try:
            status = process.wait(seconds + GRACE_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
    return measured(
        protocol, status, (directory / "log").read_text(errors="replace"), notes, sorted(findings.iterdir())
    )


def measured(protocol: str, status: int, log: str, notes: Path, findings: list[Path]) -> Found:
    """Read the figures of a campaign that has ended."""
    statistics = {name: int(value) for name, value in _STATISTIC.findall(log)}
    progress = _PROGRESS.findall(log)
    own = json.loads(notes.read_text()) if notes.exists() else {}
    figures = {
        "protocol": protocol,
        "executions": statistics.get("number_of_executed_units", 0),
        "per_second": statistics.get("average_exec_per_sec", 0),
        "coverage": int(progress[-1][0]) if progress else 0,
        "features": int(progress[-1][1]) if progress else 0,
        "corpus": int(progress[-1][2]) if progress else 0,
        "peak_rss_mb": statistics.get("peak_rss_mb", 0),
        "findings": len(findings),
        **own,
    }
    complaint = ""
    if status or not progress:
        raised = [line for line in log.splitlines() if _RAISED.match(line)]
        complaint = f"the fuzzed process ended with status {status}: {raised[0] if raised else log[-300:]}"
    return Found(figures, findings, complaint)


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def module(what: str, protocol: str) -> Any:
    """Give what knows the protocol: `seeds` and `DICTIONARY`, or `play` and `quiet`."""
    return importlib.import_module(f"tests.fuzz.{what}_{protocol}")


def replay(protocol: str, paths: Sequence[Path]) -> int:
    """Play inputs again; what they raise comes out."""
    side = module("atheris", protocol)
    side.quiet()
    for path in paths:
        began = time.process_time()
        side.play(path.read_bytes())
        print(f"{path}: {time.process_time() - began:.3f} s")
    return 0


# ---------------------------------------------------------------------------------------------- the fuzzed process


class Noted:
    """Plays inputs, and notes the slowest at once: libFuzzer ends the process without a word to Python."""

    def __init__(self, play: Callable[[bytes], None], notes: Path) -> None:
        self._play, self._notes = play, notes
        self._slowest = 0.0

    def __call__(self, data: bytes) -> None:
        began = time.process_time()
        self._play(data)
        took = time.process_time() - began
        if took > self._slowest:
            self._slowest = took
            self._notes.write_text(json.dumps({"slowest_s": round(took, 3)}))
            assert took < SLOW_SECONDS, f"an input took {took:.1f} s"


def fuzzed(protocol: str, arguments: Sequence[str]) -> int:
    """Be the fuzzed process; does not return but for an error."""
    atheris = importlib.import_module("atheris")  # only here, and only where it is installed
    with atheris.instrument_imports(include=INSTRUMENTED, exclude=NOT_INSTRUMENTED):
        side = module("atheris", protocol)
    side.quiet()
    notes, *flags = arguments
    atheris.Setup([sys.argv[0], *flags], Noted(side.play, Path(notes)))
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
