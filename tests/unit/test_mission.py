"""The table of proofs counts what is marked and refuses what does not exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mission import ITEMS

REPO = Path(__file__).parents[2]
COLLECT_SECONDS = 60  # starting pytest in a child, on a loaded machine


def collect(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run the tool over one test file instead of ours."""
    (directory / "tests").mkdir()
    (directory / "tests" / "test_it.py").write_text(code)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = mission\n")
    return subprocess.run(
        [sys.executable, "-m", "tests.mission"],
        cwd=directory,
        env={"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=COLLECT_SECONDS,
        check=False,
    )


def test_table_counts_cases(tmp_path):
    code = (
        "import pytest\n"
        "@pytest.mark.mission('M1', 'M17')\n@pytest.mark.parametrize('n', [1, 2])\ndef test_a(n): pass\n"
        "@pytest.mark.mission('M1')\ndef test_b(): pass\n"
        "def test_c(): pass\n"
    )
    done = collect(tmp_path, code)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["M1", "Remote", "sessions", "list", "3"] in lines
    assert ["M17", "Control", "socket", "2"] in lines
    assert ["M19", "systemd", "-"] in lines
    assert ["tests/test_it.py::test_a", "x", "2"] in lines
    assert lines[-1][:3] == ["2", "of", str(len(ITEMS))]


@pytest.mark.parametrize(
    "code", ["import pytest\n@pytest.mark.mission('M99')\ndef test_a(): pass\n", "import nothing_there\n"]
)
def test_unknown_item_and_broken_file_fail(tmp_path, code):
    done = collect(tmp_path, code)
    assert done.returncode == 1
    assert "no such mission item: M99" in done.stderr or "nothing_there" in done.stderr
    assert done.stdout == ""
