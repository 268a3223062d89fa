"""kill -9 at any moment: at most the open block and one write is lost, nothing is damaged, all is sealed again."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest
from recorder_child import TAPES
from recorder_rig import Rig, lines

from proxyd.recorder import store
from proxyd.recorder.record import Kind

BLOCK_MS = 250  # what is promised, beside one write
WRITE_MS = 250  # a generous write; on a machine too busy for that, the slowest the child itself saw
RECOVERY_SECONDS = 10


def storm(rig: Rig, seconds: float) -> tuple[dict[int, int], dict[int, int], float]:
    """Run the child and kill it; give the last number and time of each tape it had added, and its worst lag in ms."""
    child = subprocess.Popen(rig.command("storm"), stdout=subprocess.PIPE)
    assert child.stdout is not None
    while b"ready" not in child.stdout.readline():
        assert child.poll() is None
    time.sleep(seconds)
    child.kill()
    said = lines(child.stdout.read())
    child.stdout.close()
    child.wait()
    last, at_us = {}, {}
    for line in said:
        if "tape" in line:
            last[line["tape"]], at_us[line["tape"]] = line["number"], line["at_us"]
    return last, at_us, 1000 * max((line["lag"] for line in said if "lag" in line), default=0)


def one_round(place: Path, seconds: float) -> tuple[float, float]:
    """Kill once; give the worst loss of any tape, and what is allowed, in ms."""
    rig = Rig.make(place)
    last, at_us, lag = storm(rig, seconds)
    began = time.monotonic()
    recovered = rig.recover()
    assert time.monotonic() - began < RECOVERY_SECONDS
    assert {one.session for one in recovered} == {f"s{n}" for n in range(TAPES)}
    assert not [one for one in recovered if one.problem]
    assert rig.recover() == []
    worst = 0.0
    for n in range(TAPES):
        records = rig.read(f"s{n}")
        outputs = [record for record in records if record.kind is Kind.OUTPUT]
        assert records[0].kind is Kind.META
        assert [int(record.body[:8]) for record in outputs] == list(range(1, len(outputs) + 1))
        assert len(outputs) <= last.get(n, 0) + 1
        worst = max(worst, (at_us.get(n, 0) - records[-1].at_us) / 1000)
        folder = store.find(rig.root, f"s{n}")
        assert folder is not None
        assert store.read_manifest(folder).state == "recovered"
        assert rig.notes.rows[f"s{n}"]["state"] == "recovered"
    assert sorted(kind for kind, _ in rig.notes.entries) == ["recovered"] * TAPES
    return worst, BLOCK_MS + max(WRITE_MS, lag)


@pytest.mark.mission("M16")
def test_kill_at_any_moment(tmp_path: Path) -> None:
    draw = random.Random()
    for turn in range(5):
        place = tmp_path / str(turn)
        place.mkdir()
        lost, allowed = one_round(place, draw.uniform(0.1, 1.5))
        assert lost <= allowed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_at_any_moment_a_hundred_times(tmp_path: Path) -> None:
    draw = random.Random()
    worst = []
    for turn in range(100):
        place = tmp_path / str(turn)
        place.mkdir()
        lost, allowed = one_round(place, draw.uniform(0.1, 2.5))
        assert lost <= allowed
        worst.append(lost)
    print("loss in ms, median and worst of 100:", sorted(worst)[50], max(worst))
