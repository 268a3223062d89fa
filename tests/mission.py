"""Which test proves which item of the mission: `python -m tests.mission` prints the table.

A test names its items with `@pytest.mark.mission("M16")`. An item that does not exist is an error of the whole run,
here and in every other run of pytest; an item nobody proves shows as "-".
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter

import pytest

ITEMS = {
    "M1": "Remote sessions list",
    "M2": "Live stream",
    "M3": "Block interactivity",
    "M4": "Drop",
    "M5": "Session logs",
    "M6": "Video of session",
    "M7": "Prevent purge",
    "M8": "Configure auditors",
    "M9": "Request to view",
    "M10": "Session info",
    "M11": "Vulnerability analysis",
    "M12": "Player",
    "M13": "Video generation for download",
    "M14": "Database sessions",
    "M15": "Cluster",
    "M16": "Keystrokes, screen updates, audio in segments",
    "M17": "Control socket",
    "M18": "Prometheus",
    "M19": "systemd",
}


def items_of(test: pytest.Item) -> set[str]:
    """Give the mission items a test names; UsageError when one does not exist."""
    named = {str(item) for marker in test.iter_markers("mission") for item in marker.args}
    if unknown := named - ITEMS.keys():
        raise pytest.UsageError(f"{test.nodeid}: no such mission item: {', '.join(sorted(unknown))}")
    return named


class Proofs:
    """A pytest plugin that notes the proofs of every item; cases of one parametrised test count one by one."""

    def __init__(self) -> None:
        self.by_item: dict[str, Counter[str]] = {item: Counter() for item in ITEMS}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for test in session.items:
            for item in items_of(test):
                self.by_item[item][test.nodeid.split("[")[0]] += 1


def table(proofs: Proofs) -> list[str]:
    """Give the lines of the table."""
    lines = []
    for item, title in ITEMS.items():
        tests = proofs.by_item[item]
        lines.append(f"{item:<4} {title:<46} {tests.total() or '-':>5}")
        lines += [
            f"       {name}" + (f" x {count}" if count > 1 else "") for name, count in sorted(tests.items())
        ]
    proved = sum(1 for tests in proofs.by_item.values() if tests)
    return [*lines, f"{proved} of {len(ITEMS)} items have tests"]


def main() -> int:
    """Collect all tests, print the table; 1 when collecting failed."""
    proofs, said = Proofs(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main(["--collect-only", "-q", "tests"], plugins=[proofs])
    if status != pytest.ExitCode.OK:
        print(said.getvalue(), file=sys.stderr)
        return 1
    print("\n".join(table(proofs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
