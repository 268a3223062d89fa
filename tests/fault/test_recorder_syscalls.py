"""The N-th system call on the recording directory fails: whatever is lost, somebody is told.

strace makes one call, or (in that thread) every call from the N-th on, return ENOSPC or EIO; only calls on this recording's own files
and directories count. What the child said it had recorded is compared with what can be read afterwards.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from recorder_child import PER_ROUND
from recorder_rig import Rig, lines

from proxyd.recorder import store
from proxyd.recorder.record import Kind, Record

CALLS = ("write", "fdatasync", "fsync", "rename", "openat")
SEGMENTS = 60  # more than any story fills
TOLD_SECONDS = (
    1.0 + 0.25
)  # from the record to the callback: a second after the write, which comes 250 ms later
STORY_SECONDS = 60
ATTEMPTS = 5

pytestmark = [
    pytest.mark.mission("M16"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes the calls fail"),
]


@dataclass(frozen=True)
class Fault:
    """`forever`: every such call from the N-th on fails, not only that one."""

    call: str
    error: str
    when: int
    policy: str = "strict"
    forever: bool = False

    def __str__(self) -> str:
        return f"{self.call}-{self.error}-{self.when}{'+' if self.forever else ''}-{self.policy}"


def places(root: Path) -> list[Path]:
    """Every path of the recording to come, today or, just before midnight, tomorrow."""
    found = [root / store.OPEN, root / store.OPEN / "s1"]
    for day in (datetime.now(UTC), datetime.now(UTC) + timedelta(minutes=5)):
        folder = store.folder_of(root, "s1", int(day.timestamp() * 1e9))
        found += [folder, folder.parent, folder.parent.parent, folder.parent.parent.parent]
        found += [folder / "manifest.json", folder / "manifest.json.new"]
        found += [store.segment_path(folder, number) for number in range(SEGMENTS)]
    return found


def run(rig: Rig, fault: Fault, rounds: int) -> tuple[list[dict[str, Any]], bool]:
    """Tell the story under a fault; give what the child said and whether the fault happened."""
    trace = rig.root.parent / "trace"
    only = [word for path in places(rig.root) for word in ("-P", str(path))]
    inject = f"inject={fault.call}:error={fault.error}:when={fault.when}{'+' if fault.forever else ''}"
    strace = ["strace", "-f", "-qq", "-o", str(trace), *only, "-e", f"trace={fault.call}", "-e", inject]
    command = rig.command("story", fault.policy, rounds)
    done = subprocess.run([*strace, *command], capture_output=True, timeout=STORY_SECONDS, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return lines(done.stdout), "INJECTED" in trace.read_text()


def judge(rig: Rig, said: list[dict[str, Any]], fault: Fault, rounds: int) -> None:
    """Compare what was said with what can be read."""
    told = [line for line in said if line.keys() & {"failed", "refused", "trouble"}]
    recovered = rig.recover()
    assert not [one for one in recovered if one.problem]
    flushed = max((line["flushed"] for line in said if "flushed" in line), default=0)
    if any("refused" in line for line in said):
        assert not flushed
        return
    records = rig.read("s1")
    numbers = [int(record.body[:8]) for record in records if record.kind is Kind.OUTPUT]
    assert numbers == sorted(set(numbers))
    if fault.policy == "best_effort":
        judge_gaps(records, numbers, told, max(line.get("added", 0) for line in said))
    else:
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= flushed
    if not told:
        assert records[0].kind is Kind.META
        assert records[-1].kind is Kind.END
        assert fault.policy == "best_effort" or numbers[-1] == rounds * PER_ROUND
        assert any(line.get("ledger") == "sealed" for line in said)
    for line in said:
        assert line.get("seconds", 0) <= TOLD_SECONDS


def judge_gaps(records: list[Record], numbers: list[int], told: list[dict[str, Any]], added: int) -> None:
    """Best effort: what is missing is counted in LOST records, or the end itself could not be kept, and that was told."""
    missing = added - len(numbers)
    counted = sum(record.body["records"] for record in records if record.kind is Kind.LOST)
    if records[-1].kind is Kind.END:
        assert counted >= missing
    else:
        assert told
    assert told or not missing


def one(place: Path, fault: Fault, rounds: int = 25) -> bool:
    """Tell the story under one fault and judge it; give whether the fault happened."""
    rig = Rig.make(place)
    said, happened = run(rig, fault, rounds)
    judge(rig, said, fault, rounds)
    retried = fault.policy == "hold" and fault.call == "fsync"  # of names and manifests, which are made anew
    if happened and "sync" in fault.call and not retried:  # nobody sees what it lost until the power fails
        assert any(line.keys() & {"failed", "refused", "trouble"} for line in said)
    return happened


FEW = [
    Fault("write", "ENOSPC", 9),
    Fault("write", "EIO", 2),
    Fault("write", "ENOSPC", 12, forever=True),
    Fault("fdatasync", "EIO", 2),
    Fault("fsync", "EIO", 3),
    Fault("rename", "ENOSPC", 2),
    Fault("openat", "EIO", 9),
    Fault("write", "ENOSPC", 9, "best_effort"),
    Fault("fdatasync", "EIO", 3, "best_effort"),
    Fault("write", "ENOSPC", 9, "hold"),
]


@pytest.mark.parametrize("fault", FEW, ids=str)
def test_a_failed_call_loses_nothing_in_silence(tmp_path: Path, fault: Fault) -> None:
    """strace counts by thread, and which worker thread makes a call is chance: tried until the fault has happened."""
    for attempt in range(ATTEMPTS):
        place = tmp_path / str(attempt)
        place.mkdir()
        if one(place, fault):
            return
    pytest.fail("the fault never happened")


def test_a_full_disk_that_is_waited_for_costs_nothing(tmp_path: Path) -> None:
    for attempt in range(ATTEMPTS):
        place = tmp_path / str(attempt)
        place.mkdir()
        rig = Rig.make(place)
        said, happened = run(rig, Fault("write", "ENOSPC", 9, "hold"), 25)
        assert not [line for line in said if line.keys() & {"failed", "trouble"}]
        assert len(rig.read("s1")) == 25 * PER_ROUND + 2
        if happened:
            assert [line["held"] for line in said if "held" in line] == [True, False]
            return
    pytest.fail("the fault never happened")


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("policy", ["strict", "best_effort", "hold"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_from_the_first_to_the_hundredth(
    tmp_path: Path, call: str, error: str, policy: str
) -> None:
    """Until the story makes no such call any more; once, and (but for hold, which then waits) from there on."""
    for forever in (False, True) if policy != "hold" else (False,):
        missed = 0
        for when in range(1, 101):
            place = tmp_path / f"{when}-{forever}"
            place.mkdir()
            happened = one(place, Fault(call, error, when, policy, forever), rounds=80)
            shutil.rmtree(place)
            missed = 0 if happened else missed + 1
            if missed == ATTEMPTS:
                break
