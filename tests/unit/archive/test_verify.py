"""Verify finds whatever was done to a recording, and finds nothing where nothing was done."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyd.recorder import store
from proxyd.recorder import verify as module
from proxyd.recorder.keys import Signer
from proxyd.recorder.ledger import Ledger
from proxyd.recorder.record import Kind
from proxyd.recorder.replay import Recording
from proxyd.recorder.segment import SegmentWriter, scan
from proxyd.recorder.verify import Report, verify, verify_all

DRAW = random.Random(1)
OUTPUTS = [(2_000 * i, Kind.OUTPUT, 1, DRAW.randbytes(DRAW.randrange(40))) for i in range(1, 91)]
PARTS = (OUTPUTS[:30], OUTPUTS[30:60], OUTPUTS[60:])


class Shelf:
    """A root with three sealed recordings, and the ledger that names them."""

    def __init__(self, press) -> None:
        self.press, self.root = press, press.root
        self.keys = [press.signer.public]
        self.ledger = Ledger(press.root / "ledger", press.signer, "node1")
        self.paths = [press.segments(*PARTS, session=name, sealed=True) for name in ("a1", "b2", "c3")]
        for path in self.paths:
            chain = store.read_manifest(path).chain
            self.ledger.append("sealed", session=path.name, chain=chain.hex())

    def verify(self, path: Path) -> Report:
        return verify(path, self.keys, ledger=self.ledger)

    def codes(self) -> dict[str, list[str]]:
        return {
            r.session: [p.code for p in r.problems] for r in verify_all(self.root, self.ledger) if not r.ok
        }


@pytest.fixture
def shelf(press):
    shelf = Shelf(press)
    yield shelf
    shelf.ledger.close()


def test_a_whole_recording_is_said_to_be_whole(shelf: Shelf) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(
        shelf.paths[0],
        shelf.keys,
        ledger=shelf.ledger,
        progress=lambda done, total: seen.append((done, total)),
    )
    size = sum(f.stat().st_size for f in store.segments(shelf.paths[0]))
    assert report.ok
    assert (report.state, report.segments, report.records, report.bytes, report.unsigned) == (
        "sealed",
        3,
        91,
        size,
        0,
    )
    assert report.frames == sum(len(scan(f.read_bytes()).frames) for f in store.segments(shelf.paths[0]))
    assert report.text == f"recording a1 is whole: sealed, 3 segments, 91 records, {size} bytes"
    assert [total for _, total in seen] == [size] * 3
    assert seen[-1][0] == size


def test_all_recordings_and_the_ledger_are_whole(shelf: Shelf) -> None:
    seen: list[tuple[int, int]] = []
    reports = verify_all(shelf.root, shelf.ledger, progress=lambda done, total: seen.append((done, total)))
    assert [r.ok for r in reports] == [True] * 4
    assert [r.session for r in reports] == ["", "a1", "b2", "c3"]
    assert reports[0].text == "the ledger is whole: 3 entries"
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def flip(shelf: Shelf, path: Path, draw: random.Random) -> str:
    file = draw.choice(sorted(path.iterdir()))
    data = bytearray(file.read_bytes())
    offset, bit = draw.randrange(len(data)), draw.randrange(8)
    data[offset] ^= 1 << bit
    file.write_bytes(data)
    return f"bit {bit} of byte {offset} of {file.name} flipped"


def truncate(shelf: Shelf, path: Path, draw: random.Random) -> str:
    file = draw.choice(sorted(path.iterdir()))
    data = file.read_bytes()
    size = draw.randrange(len(data))
    if file.suffix == store.SUFFIX and draw.random() < 0.5:  # exactly between two frames: nothing looks torn
        size = draw.choice([f.end for f in scan(data).frames])
    file.write_bytes(data[:size])
    return f"{file.name} cut to {size} of {len(data)} bytes"


def reorder(shelf: Shelf, path: Path, draw: random.Random) -> str:
    file = draw.choice(store.segments(path))
    data = file.read_bytes()
    frames = scan(data).frames
    one, two = sorted(draw.sample(range(len(frames)), 2))
    pieces = [data[f.offset : f.end] for f in frames]
    pieces[one], pieces[two] = pieces[two], pieces[one]
    file.write_bytes(data[: frames[0].offset] + b"".join(pieces) + data[frames[-1].end :])
    return f"frames {one} and {two} of {file.name} swapped"


def drop_frames(shelf: Shelf, path: Path, draw: random.Random) -> str:
    file = draw.choice(store.segments(path))
    data = file.read_bytes()
    frames = scan(data).frames
    one = draw.randrange(len(frames))
    two = draw.randrange(one, len(frames))
    file.write_bytes(data[: frames[one].offset] + data[frames[two].end :])
    return f"frames {one} to {two} of {file.name} taken out"


def swap_segments(shelf: Shelf, path: Path, draw: random.Random) -> str:
    one, two = draw.sample(store.segments(path), 2)
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    return f"{one.name} and {two.name} swapped"


def foreign_segment(shelf: Shelf, path: Path, draw: random.Random) -> str:
    other = draw.choice([p for p in shelf.paths if p != path])
    file = draw.choice(store.segments(path))
    shutil.copy(other / file.name, file)
    return f"{file.name} replaced by that of {other.name}"


def remove_segment(shelf: Shelf, path: Path, draw: random.Random) -> str:
    file = draw.choice(store.segments(path))
    file.unlink()
    return f"{file.name} removed"


def add_segment(shelf: Shelf, path: Path, draw: random.Random) -> str:
    last = store.segments(path)[-1]
    shutil.copy(last, store.segment_path(path, 3 + draw.randrange(3)))
    return "a segment added"


def append_bytes(shelf: Shelf, path: Path, draw: random.Random) -> str:
    file = draw.choice(sorted(path.iterdir()))
    with file.open("ab") as end:
        end.write(draw.choice([b"\0", b"\n", draw.randbytes(30)]))
    return f"bytes added to {file.name}"


def remove_recording(shelf: Shelf, path: Path, draw: random.Random) -> str:
    shutil.rmtree(path)
    return f"recording {path.name} removed"


def reopen(shelf: Shelf, path: Path, draw: random.Random) -> str:
    """Cut the last segment at a frame, and put back the manifest from before the end: a crash, it seems."""
    made = shelf.press.root / "again"
    open_one = shelf.press.__class__(made, shelf.press.signer).segments([], session=path.name)
    shutil.copy(open_one / "manifest.json", path / "manifest.json")
    shutil.rmtree(made)
    file = draw.choice(store.segments(path))
    data = file.read_bytes()
    file.write_bytes(data[: draw.choice(scan(data).frames[:-2]).end])
    for later in store.segments(path)[int(file.stem) + 1 :]:
        later.unlink()
    return f"made to look live, ending in {file.name}"


ATTACKS: list[Callable[[Shelf, Path, random.Random], str]] = [
    flip, flip, flip, truncate, truncate, reorder, drop_frames, swap_segments, foreign_segment, remove_segment, add_segment,
    append_bytes, remove_recording, reopen,
]  # fmt: skip


@pytest.mark.mission("M16")
@pytest.mark.parametrize("rounds", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_attack_is_found_and_the_right_recording_named(shelf: Shelf, rounds: int) -> None:
    draw = random.Random(rounds)
    kept = {path: {file.name: file.read_bytes() for file in path.iterdir()} for path in shelf.paths}
    missed = []
    for i in range(rounds):
        path = draw.choice(shelf.paths)
        what = ATTACKS[i % len(ATTACKS)](shelf, path, draw)
        found = {name for name, _ in shelf.codes().items()}
        if found != {path.name}:
            missed.append(f"{path.name}: {what}: found {found}")
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, data in kept[path].items():
            (path / name).write_bytes(data)
    assert missed == []
    assert shelf.codes() == {}, "put back, all is whole again"


def test_every_single_bit_of_a_small_recording_counts(press) -> None:
    path = press.segments(OUTPUTS[:4], session="s", sealed=True)
    keys = [press.signer.public]
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for offset in range(len(whole)):
            data = bytearray(whole)
            data[offset] ^= 1 << (offset % 8)
            file.write_bytes(data)
            assert not verify(path, keys).ok, f"byte {offset} of {file.name}"
        file.write_bytes(whole)
    assert verify(path, keys).ok


def test_problems_say_where(shelf: Shelf) -> None:
    path = shelf.paths[1]
    file = path / "000001.pxr"
    data = bytearray(file.read_bytes())
    frame = scan(bytes(data)).frames[4]
    data[frame.offset + 30] ^= 1
    file.write_bytes(data)
    report = shelf.verify(path)
    first = report.problems[0]
    assert (first.code, first.file, first.offset) == ("segment-altered", "000001.pxr", frame.offset)
    assert report.text.startswith(
        f"recording b2 is not whole: 000001.pxr: bytes from offset {frame.offset} on are torn"
    )


def test_a_recording_that_is_gone_or_unknown_is_named(
    shelf: Shelf, press, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.1)
    shutil.rmtree(shelf.paths[0])
    press.segments(OUTPUTS[:5], session="d4", sealed=True)
    press.segments(OUTPUTS[:5], session="e5")
    assert shelf.codes() == {"a1": ["recording-missing"], "d4": ["ledger-unknown"]}
    store.mark_open(shelf.root, "e5")
    store.mark_open(shelf.root, "f6")
    assert shelf.codes()["f6"] == ["recording-missing"], "begun, never sealed, and not there"
    texts = {r.session: r.text for r in verify_all(shelf.root, shelf.ledger)}
    assert texts["a1"] == "recording a1 is not whole: the ledger has it sealed, and it is not on disk"


def test_a_recording_replaced_by_a_true_one_of_other_content_is_found(shelf: Shelf, press) -> None:
    shutil.rmtree(shelf.paths[0])
    press.segments(OUTPUTS[:5], session="a1", sealed=True)
    assert shelf.codes() == {"a1": ["ledger-differs"]}


def test_a_recording_under_another_name_or_day_is_found(shelf: Shelf) -> None:
    shelf.paths[0].rename(shelf.paths[0].with_name("z9"))
    other_day = shelf.root / "2001" / "01" / "01" / "b2"
    other_day.parent.mkdir(parents=True)
    shelf.paths[1].rename(other_day)
    codes = shelf.codes()
    assert codes["a1"] == ["recording-missing"]
    assert codes["b2"] == ["misplaced"]
    assert "misplaced" in codes["z9"]


def test_a_damaged_ledger_is_named_and_the_rest_still_checked(shelf: Shelf) -> None:
    lines = shelf.ledger.path.read_bytes().splitlines(keepends=True)
    shelf.ledger.path.write_bytes(lines[0] + lines[2])
    assert shelf.codes() == {"": ["ledger"], "b2": ["ledger-unknown"]}


def test_another_signing_key_does_not_pass(shelf: Shelf, press) -> None:
    press.signer = Signer(Ed25519PrivateKey.generate())
    shutil.rmtree(shelf.paths[2])
    forged = press.segments(*PARTS, session="c3", sealed=True)
    report = shelf.verify(forged)
    assert {p.code for p in report.problems} >= {"key-unknown", "ledger-differs"}
    assert verify(forged, [press.signer.public]).ok, "by itself it is whole, to whoever trusts that key"


def test_a_live_recording_is_checked_as_far_as_it_goes(press) -> None:
    path = press.segments(OUTPUTS[:30], OUTPUTS[30:60], session="s")
    report = verify(path, [press.signer.public])
    assert (report.ok, report.state, report.segments, report.records, report.unsigned) == (
        True,
        "live",
        2,
        61,
        0,
    )
    last = path / "000001.pxr"
    data = last.read_bytes()
    frames = scan(data).frames
    last.write_bytes(data[: frames[-1].offset])  # the checkpoint is not written yet
    report = verify(path, [press.signer.public])
    assert (report.ok, report.unsigned) == (True, 30)
    assert "the last 30 not signed yet" in report.text
    last.write_bytes(data[: frames[-1].offset + 10])
    assert [p.code for p in verify(path, [press.signer.public]).problems] == ["segment-altered"]


def test_what_the_recorder_is_at_work_on_is_looked_at_again(press, monkeypatch: pytest.MonkeyPatch) -> None:
    path = press.segments(OUTPUTS[:30], session="s")
    file = path / "000000.pxr"
    data = file.read_bytes()
    frames = scan(data).frames
    states = [b"", data[: frames[3].end + 9], data[: frames[7].end]]
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *how: io.BytesIO(states.pop(0)) if self == file else opened(self, *how)
    )
    store.mark_open(press.root, "s")
    assert verify(path, [press.signer.public]).ok
    assert states == []
    states[:] = [b""]
    store.unmark_open(press.root, "s")
    assert not verify(path, [press.signer.public]).ok, "nobody is at work: it stays as it is"


def test_what_stays_wrong_is_reported_though_it_is_marked_open(
    press, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.1)
    path = press.segments(OUTPUTS[:30], session="s")
    store.mark_open(press.root, "s")
    (path / "000000.pxr").write_bytes((path / "000000.pxr").read_bytes()[:-5])
    assert [p.code for p in verify(path, [press.signer.public]).problems] == ["segment-altered"]


def test_records_lost_to_failing_storage_are_no_tampering(press) -> None:
    path = press.segments(*PARTS, session="s", sealed=True, lost=7)
    assert verify(path, [press.signer.public]).ok
    recording = Recording.open(path, press.identity)
    assert [r.seq for r in recording.records()][30:33] == [31, 39, 40]
    assert recording.damage is None


ENTRY = '{"number":%s,"size":%s,"first_seq":1,"records":1,"start_ms":0,"end_ms":0,"chain":"","sealed":false}'


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("started_ns", "NaN"),
        ("state", "[]"),
        ("keys", "[[1]]"),
        ("meta", "5"),
        ("end", '{"x": 1}'),
        ("segments", "5"),
        ("segments", f"[{ENTRY % ('[]', 1)}]"),
        ("segments", f"[{ENTRY % (0, '[]')}]"),
        ("segments", "[" + ENTRY % ('"0"', 1) + "]"),
        ("segments", f"[{ENTRY % (10**12, 1)}]"),
    ],
)
def test_a_hostile_manifest_is_reported_and_does_not_keep_the_rest_from_being_read(
    press, field: str, value: str
) -> None:
    path = press.segments(OUTPUTS[:3], session="s", sealed=True)
    file = path / "manifest.json"
    fields = json.loads(file.read_bytes()) | {field: "@"}
    file.write_text(json.dumps(fields).replace('"@"', value))
    codes = {p.code for p in verify(path, [press.signer.public]).problems}
    assert codes == {"manifest-altered"}
    recording = Recording.open(path, press.identity)
    assert len(list(recording.records())) == 4


@pytest.mark.parametrize("number", [1, 2**32 - 1])
def test_a_hostile_segment_number_is_reported(press, number: int) -> None:
    path = press.segments(OUTPUTS[:3], session="s")
    header = replace(scan((path / "000000.pxr").read_bytes()).header, number=number)
    writer = SegmentWriter(header, bytes(32), press.signer)
    (path / "000000.pxr").write_bytes(writer.preamble + writer.checkpoint())
    (path / "000000.pxr").rename(path / "999999.pxr")
    codes = [p.code for p in verify(path, [press.signer.public]).problems]
    assert codes == ["segment-missing", "segment-misplaced"]
    assert Recording.open(path, dek=bytes(32)).damage == "segment 0 is missing"


def test_what_is_no_recording_is_reported_not_raised(press, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    report = verify(empty, [press.signer.public])
    assert (report.state, [p.code for p in report.problems]) == (
        "unknown",
        ["manifest-missing", "segment-missing"],
    )
    (empty / "manifest.json").write_bytes(b"[" * 100_000)
    (empty / "000000.pxr").write_bytes(b"")
    assert [p.code for p in verify(empty, [press.signer.public]).problems] == [
        "manifest-altered",
        "segment-altered",
    ]
    assert not verify(tmp_path / "absent", []).ok
