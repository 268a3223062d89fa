"""One suite run twice, directly and through proxyd: what differs, and whether that is little enough.

Rule 1: what counts is what passes directly; what fails or is skipped there says nothing of a proxy.
Rule 2: a test differs when it fails through proxyd twice and passes directly twice, so a busy machine is no difference.
Rule 3: at most MAX_SHARE of what counts may differ, explained or not; each explanation is one line beside the suite.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

MAX_SHARE: Final = 0.005  # of the tests that pass directly
SHOWN_ERROR: Final = 160  # characters of an error in the table


class Verdict(enum.Enum):
    """How a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Result(NamedTuple):
    """How one test ended, and the first line of why."""

    verdict: Verdict
    error: str = ""


Results = Mapping[str, Result]
Run = Callable[[Iterable[str]], Results]
"""Runs the tests named, all of the suite for none."""


@dataclass(frozen=True)
class Comparison:
    """Both runs of a suite; `explained`: a reason for each test that is known to differ."""

    suite: str
    direct: Results
    proxied: Results
    explained: Mapping[str, str]

    @property
    def counted(self) -> list[str]:
        """The tests that pass directly (rule 1)."""
        return sorted(name for name, result in self.direct.items() if result.verdict is Verdict.PASSED)

    @property
    def differing(self) -> list[str]:
        """Those of them that do not pass through proxyd."""
        lost = Result(Verdict.FAILED, "not run")
        return [name for name in self.counted if self.proxied.get(name, lost).verdict is not Verdict.PASSED]

    @property
    def share(self) -> float:
        """What part differs."""
        return len(self.differing) / max(len(self.counted), 1)

    @property
    def holds(self) -> bool:
        """Tell whether the promise is kept (rule 3)."""
        return bool(self.counted) and self.share <= MAX_SHARE

    def _error(self, name: str) -> str:
        return self.proxied[name].error if name in self.proxied else "not run"

    def as_json(self) -> str:
        """Give one document."""
        differing = [
            {"test": name, "error": self._error(name), "reason": self.explained.get(name)}
            for name in self.differing
        ]
        return json.dumps(
            {
                "suite": self.suite,
                "tests": len(self.direct),
                "passed_direct": len(self.counted),
                "passed_proxied": len(self.counted) - len(differing),
                "share_differing": self.share,
                "holds": self.holds,
                "differing": differing,
            },
            indent=2,
        )

    def table(self) -> str:
        """Give the counts, and under them each test that differs with its error and the reason known."""
        counts = [
            ("suite", self.suite),
            ("tests", f"{len(self.direct):,}"),
            ("passed directly", f"{len(self.counted):,}"),
            ("of these passed through proxyd", f"{len(self.counted) - len(self.differing):,}"),
            ("differ", f"{len(self.differing)} ({self.share:.2%}; at most {MAX_SHARE:.1%})"),
        ]
        lines = [f"{name:<32}{value}" for name, value in counts]
        for name in self.differing:
            lines += ["", name, f"    {self._error(name)[:SHOWN_ERROR]}"]
            lines.append(f"    reason: {self.explained.get(name, 'NOT EXPLAINED')}")
        return "\n".join(lines)


def compare(
    suite: str, run_direct: Run, run_proxied: Run, explained: Mapping[str, str], only: Iterable[str] = ()
) -> Comparison:
    """Run both legs, and what differs once more on both (rule 2)."""
    direct = dict(run_direct(only))
    proxied = dict(run_proxied(Comparison(suite, direct, {}, explained).counted))
    again = Comparison(suite, direct, proxied, explained).differing
    if again:
        direct.update(run_direct(again))
        proxied.update(run_proxied(again))
    return Comparison(suite, direct, proxied, explained)


def report(comparison: Comparison, *, as_json: bool) -> int:
    """Print it; give the exit status."""
    print(comparison.as_json() if as_json else comparison.table())
    return 0 if comparison.holds else 1


def report_direct(suite: str, direct: Results, *, as_json: bool) -> int:
    """Print the counts of the direct leg alone: what the suite says of this machine without proxyd."""
    counts = {verdict.value: sum(one.verdict is verdict for one in direct.values()) for verdict in Verdict}
    failed = {name: one.error for name, one in direct.items() if one.verdict is Verdict.FAILED}
    if as_json:
        print(json.dumps({"suite": suite, "direct": counts, "failed": failed}, indent=2))
    else:
        print(f"{suite}, direct: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
        for name, error in failed.items():
            print(f"  {name}: {error[:SHOWN_ERROR]}")
    return 0 if counts[Verdict.PASSED.value] else 1
