"""Replay gives back what was recorded, as far as it is there, to who may open it and to nobody else."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pyrage
import pytest

from proxyd.errors import ConfigError, FormatError
from proxyd.recorder.record import Kind
from proxyd.recorder.replay import Recording
from proxyd.recorder.segment import scan

OUTPUTS = [(1_000 * i + 7, Kind.OUTPUT, 1, b"line %d\r\n" % i) for i in range(1, 300)]


def bodies(recording: Recording, start_us: int = 0) -> list:
    return [
        (r.at_us, r.kind, r.channel, r.body) for r in recording.records(start_us) if r.kind is not Kind.META
    ]


@pytest.mark.mission("M6", "M16")
def test_all_records_come_back_across_segments(press) -> None:
    path = press.segments(OUTPUTS[:100], OUTPUTS[100:200], OUTPUTS[200:])
    recording = Recording.open(path, press.identity)
    assert bodies(recording) == OUTPUTS
    assert [r.seq for r in recording.records()] == list(range(1, 301))
    assert (recording.meta["user"], recording.damage) == ("alice", None)
    assert recording.started_at == 1_700_000_000
    assert recording.duration_us == OUTPUTS[-1][0] // 1000 * 1000
    assert bodies(Recording.open(path, str(press.identity))) == OUTPUTS, "a second reading starts over"


@pytest.mark.parametrize(
    "start_us", [0, 1, 50_007, 50_008, 99_999, 100_007, 101_007, 101_008, 299_007, 299_008, 10**9]
)
def test_a_start_in_the_middle_gives_exactly_the_rest(press, start_us: int) -> None:
    path = press.segments(OUTPUTS[:100], OUTPUTS[100:200], OUTPUTS[200:])
    recording = Recording.open(path, press.identity)
    assert bodies(recording, start_us) == [o for o in OUTPUTS if o[0] >= start_us]
    assert recording.damage is None


def test_a_late_start_reads_only_the_late_segments(press) -> None:
    path = press.segments(OUTPUTS[:100], OUTPUTS[100:200], OUTPUTS[200:])
    recording = Recording.open(path, press.identity)
    (path / "000001.pxr").unlink()
    assert len(bodies(recording, 250_000)) == 50


def test_a_recording_cut_anywhere_gives_a_true_beginning_and_says_so(press) -> None:
    path = press.segments(OUTPUTS[:30])
    file = path / "000000.pxr"
    whole = file.read_bytes()
    draw = random.Random(3)
    ends = {frame.end for frame in scan(whole).frames}
    for cut in draw.sample(range(min(ends), len(whole)), 40):
        file.write_bytes(whole[:cut])
        recording = Recording.open(path, press.identity)
        found = bodies(recording)
        assert found == OUTPUTS[: len(found)]
        assert (recording.damage is None) == (cut in ends)


def test_a_lost_middle_is_passed_over_and_named(press) -> None:
    path = press.segments(OUTPUTS[:100], OUTPUTS[100:200], OUTPUTS[200:])
    (path / "000001.pxr").unlink()
    recording = Recording.open(path, press.identity)
    assert recording.damage == "segment 1 is missing"
    assert bodies(recording) == OUTPUTS[:100] + OUTPUTS[200:]

    data = bytearray((path / "000000.pxr").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "000000.pxr").write_bytes(data)
    recording = Recording.open(path, press.identity)
    found = bodies(recording)
    assert 30 < len(found) - 99 < 70
    assert found == OUTPUTS[: len(found) - 99] + OUTPUTS[200:]
    assert recording.damage is not None


def test_a_lost_beginning_still_shows_the_rest(press) -> None:
    path = press.segments(OUTPUTS[:100], OUTPUTS[100:200])
    (path / "000000.pxr").write_bytes(b"PXR1 no more")
    recording = Recording.open(path, press.identity)
    assert bodies(recording) == OUTPUTS[100:200]
    assert recording.damage is not None
    assert recording.damage.startswith("000000.pxr: ")


def test_nothing_to_read_is_said_so(press, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="no segment that can be read"):
        Recording.open(tmp_path / "empty", press.identity)
    with pytest.raises(FormatError, match="no segment"):
        Recording.open(tmp_path / "absent", press.identity)


def test_only_the_right_identity_opens_it(press, tmp_path: Path) -> None:
    path = press.segments(OUTPUTS[:3])
    other = tmp_path / "other"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    other.chmod(0o600)
    with pytest.raises(FormatError, match="no identity given here opens"):
        Recording.open(path, other)
    with pytest.raises(FormatError, match="does not open with this key"):
        Recording.open(path, dek=bytes(32))
    with pytest.raises(ConfigError, match="only with an identity"):
        Recording.open(path)
    other.write_text(other.read_text() + "\n" + press.identity.read_text())
    assert bodies(Recording.open(path, other)) == OUTPUTS[:3], "one identity of several is enough"


def test_an_identity_others_can_read_is_refused(press, tmp_path: Path) -> None:
    path = press.segments(OUTPUTS[:3])
    press.identity.chmod(0o640)
    with pytest.raises(
        ConfigError, match=r"vault\.identity: the identity file can be read by others; make it 0600"
    ):
        Recording.open(path, press.identity)
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        Recording.open(path, tmp_path / "none")
    press.identity.chmod(0o600)
    press.identity.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no text"):
        Recording.open(path, press.identity)


def test_memory_is_bounded_by_a_block_not_by_the_recording(press) -> None:
    noise = [(i * 1000, Kind.OUTPUT, 1, bytes(64_000)) for i in range(1, 401)]  # 25.6 MB, 0.1 MB on disk
    path = press.segments(noise[:200], noise[200:])
    recording = Recording.open(path, press.identity)
    tracemalloc.start()
    total = sum(len(r.body) for r in recording.records() if r.kind is Kind.OUTPUT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 400 * 64_000
    assert peak < 4_000_000
