"""The ledger keeps order, shows every change, and survives what kills its writer."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyd.errors import FormatError
from proxyd.recorder import ledger as module
from proxyd.recorder.keys import Signer
from proxyd.recorder.ledger import Head, Ledger, LedgerError, LedgerReader, public_path

KEY = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger"


def filled(path: Path, count: int = 5, key: Signer = KEY) -> Ledger:
    ledger = Ledger(path, key, "node1", clock=lambda: 1_700_000_000.25)
    for i in range(count):
        ledger.append("sealed", session=f"s{i}", chain=bytes([i]) * 4, size=i)
    return ledger


def test_entries_are_chained_and_come_back_as_they_were(path: Path) -> None:
    with filled(path) as ledger:
        ledger.append("view", session="s1", by="ann", how="live")
        ledger.append("view", session="s2", by="ben", how="replay", path=Path("/x"))
        entries = list(ledger.entries())
        assert [e.n for e in entries] == [1, 2, 3, 4, 5, 6, 7]
        assert [b.prev for b in entries] == [module.FIRST, *(a.hash for a in entries[:-1])]
        assert (entries[0].at, entries[0].node, entries[0].fields) == (
            1_700_000_000.25, "node1", {"session": "s0", "chain": "00000000", "size": 0},
        )  # fmt: skip
        assert [e.n for e in ledger.entries("sealed", after=2)] == [3, 4, 5]
        assert [e.kind for e in ledger.entries(["sealed", "view"], session="s1")] == ["sealed", "view"]
        assert list(ledger.entries(since=1_700_000_001)) == []
        assert ledger.head == Head(7, entries[-1].hash)
        report = ledger.verify(ledger.head)
        assert (report.ok, report.entries, report.head) == (True, 7, ledger.head)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.mission("M5")
def test_who_watched_is_answered(path: Path) -> None:
    with filled(path, 3) as ledger:
        ledger.append("view", session="s1", by="ann", how="live")
        ledger.append("view", session="s12", by="ben", how="live")
        ledger.append("drop", session="s1", by="ann")
        assert [(e.fields["by"], e.fields["how"]) for e in ledger.viewers("s1")] == [("ann", "live")]


def test_a_new_start_goes_on_where_the_last_ended(path: Path) -> None:
    filled(path, 2).close()
    with filled(path, 2) as ledger:
        assert ledger.head.n == 4
        assert ledger.verify().ok
        assert ledger.verify().repairs == 0


def test_every_byte_flipped_is_found(path: Path) -> None:
    filled(path, 3).close()
    whole = path.read_bytes()
    reader = LedgerReader(path, [KEY.public])
    head = reader.verify().head
    draw = random.Random(7)
    for offset in range(len(whole)):
        broken = bytearray(whole)
        broken[offset] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        report = reader.verify(head)
        assert not report.ok, f"byte {offset}"
        assert report.bad == 1 + whole[:offset].count(b"\n") or report.bad == head.n, report.text
    path.write_bytes(whole)
    assert reader.verify(head).ok


def test_removed_moved_doubled_and_foreign_entries_are_found(path: Path) -> None:
    filled(path, 6).close()
    lines = path.read_bytes().splitlines(keepends=True)
    head = LedgerReader(path).verify().head

    def verify(*kept: bytes):
        path.write_bytes(b"".join(kept))
        return LedgerReader(path, [KEY.public]).verify(head)

    for i in range(6):
        assert not verify(*lines[:i], *lines[i + 1 :]).ok, f"entry {i + 1} removed"
    assert verify(*lines[:2], lines[3], lines[2], *lines[4:]).bad == 3
    assert verify(*lines[:2], lines[1], *lines[2:]).bad == 3
    cut = verify(*lines[:4])
    assert (cut.ok, cut.bad) == (False, 5)
    assert "entries were removed" in cut.text
    assert verify(*lines[:4], lines[4][:-9]).bad == 5
    assert verify(*lines, b"\n").bad == 7
    assert verify(*lines).ok

    path.unlink()
    with Ledger(path, Signer(Ed25519PrivateKey.generate()), "node1") as forged:
        for i in range(6):
            forged.append("sealed", session=f"s{i}")
    other = LedgerReader(path, [KEY.public]).verify()
    assert (other.ok, other.bad) == (False, 1)
    assert "key is not trusted" in other.text


def test_a_whole_other_history_does_not_pass_for_the_known_head(path: Path) -> None:
    filled(path, 3).close()
    head = LedgerReader(path).verify().head
    path.unlink()
    with Ledger(path, KEY, "node1") as ledger:
        for _ in range(4):
            ledger.append("sealed", session="other")
        report = ledger.verify(head)
    assert (report.ok, report.bad) == (False, 3)


def test_a_false_signature_is_found(path: Path) -> None:
    filled(path, 2).close()
    first, second = path.read_bytes().splitlines()
    body = json.loads(second)
    body["sig"] = json.loads(first)["sig"]
    path.write_bytes(first + b"\n" + module._canonical(body) + b"\n")
    report = LedgerReader(path).verify()
    assert (report.bad, report.offset) == (2, len(first) + 1)
    assert "signature is false" in report.text


def test_a_replaced_signing_key_leaves_old_entries_good(path: Path) -> None:
    filled(path, 2).close()
    filled(path, 2, Signer(Ed25519PrivateKey.generate())).close()
    assert LedgerReader(path).verify().entries == 4
    assert public_path(path).read_bytes().count(b"BEGIN PUBLIC KEY") == 2
    assert LedgerReader(path, [KEY.public]).verify().bad == 3


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_torn_last_line_is_moved_aside_and_noted(path: Path, cut: int) -> None:
    filled(path, 4).close()
    torn = path.read_bytes()[:-cut]
    path.write_bytes(torn)
    assert not LedgerReader(path).verify().ok
    assert [e.n for e in LedgerReader(path).entries()] == [1, 2, 3]
    with Ledger(path, KEY, "node1") as ledger:
        note = next(ledger.entries("repaired"))
        assert (note.n, note.fields["bytes"]) == (4, len(torn) - torn.rfind(b"\n") - 1)
        kept = path.with_name(note.fields["kept"])
        assert kept.read_bytes() == torn[torn.rfind(b"\n") + 1 :]
        ledger.append("start")
        assert (ledger.verify().ok, ledger.verify().repairs, ledger.head.n) == (True, 1, 5)


def test_zeros_after_power_loss_are_moved_aside(path: Path) -> None:
    filled(path, 2).close()
    with path.open("ab") as file:
        file.write(bytes(3000) + b"\n" + bytes(2000))
    with Ledger(path, KEY, "node1") as ledger:
        assert ledger.verify().ok
        assert ledger.head.n == 3


def test_a_torn_first_line_is_moved_aside(path: Path) -> None:
    filled(path, 1).close()
    path.write_bytes(path.read_bytes()[:50])
    with Ledger(path, KEY, "node1") as ledger:
        assert [(e.n, e.kind) for e in ledger.entries()] == [(1, "repaired")]


def test_what_is_no_ledger_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"hello\nworld\n")
    with pytest.raises(LedgerError, match="is no ledger"):
        Ledger(path, KEY, "node1")
    assert path.read_bytes() == b"hello\nworld\n"
    with pytest.raises(FormatError, match="damaged"):
        list(LedgerReader(path).entries())
    assert list(LedgerReader(path).entries("sealed", past_damage=True)) == []
    with pytest.raises(LedgerError, match="can't be read"):
        LedgerReader(path.with_name("none")).verify()


def test_one_writer_at_a_time(path: Path) -> None:
    with filled(path, 1), pytest.raises(LedgerError, match="another process writes"):
        Ledger(path, KEY, "node1")
    filled(path, 1).close()
    closed = filled(path, 0)
    closed.close()
    closed.close()
    with pytest.raises(LedgerError, match="it is closed"):
        closed.append("start")


def test_threads_share_syncs_and_every_answer_is_on_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs, sync = [0], os.fdatasync
    wait = threading.Event()

    def slow(fd: int) -> None:
        syncs[0] += 1
        if syncs[0] == 1:
            wait.wait(10)
        sync(fd)

    monkeypatch.setattr(module.os, "fdatasync", slow)
    answered: list[int] = []
    with Ledger(path, KEY, "node1") as ledger:
        threads = [
            threading.Thread(target=lambda i=i: answered.append(ledger.append("view", session=f"s{i}").n))
            for i in range(16)
        ]
        for thread in threads:
            thread.start()
        while len(path.read_bytes().splitlines()) < 16:  # all written, while the first still syncs
            os.sched_yield()
        assert answered == []
        wait.set()
        for thread in threads:
            thread.join()
        assert sorted(answered) == list(range(1, 17))
        assert syncs[0] == 2, "the first, and one for all that came meanwhile"
        assert ledger.verify().ok
        assert ledger.head.n == 16


def test_a_full_disk_keeps_nothing_half_and_heals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(path, 2) as ledger:
        write = os.write
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
            with pytest.raises(LedgerError, match="written in part"):
                ledger.append("view")
        with monkeypatch.context() as patch:
            patch.setattr(
                module.os,
                "write",
                lambda fd, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
            )
            with pytest.raises(LedgerError, match="No space left"):
                ledger.append("view")
        ledger.append("stop")
        assert [e.kind for e in ledger.entries()] == ["sealed", "sealed", "stop"]
        assert ledger.verify().ok


def test_after_a_failed_sync_nothing_is_promised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = filled(path, 2)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fdatasync", fail)
        with pytest.raises(LedgerError, match="Input/output error"):
            ledger.append("view")
    assert ledger.head.n == 2
    with pytest.raises(LedgerError, match="its disk failed"):
        ledger.append("view")
    ledger.close()
    filled(path, 1).close()
    assert LedgerReader(path).verify().ok


def test_a_field_that_is_no_json_and_an_endless_one_are_refused(path: Path) -> None:
    with filled(path, 1) as ledger:
        with pytest.raises(TypeError, match="can't be a set"):
            ledger.append("view", by={1})
        with pytest.raises(LedgerError, match="too long"):
            ledger.append("view", reason="x" * module.LINE_LIMIT)
        ledger.append("view", by="\udcff ☃", kinds=("a", "b"))
        assert ledger.verify().ok


WRITER = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from proxyd.recorder.keys import Signer
from proxyd.recorder.ledger import Ledger
with Ledger(Path(sys.argv[1]), Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32)))), "node1") as ledger:
    while True:
        print(ledger.append("view", session="s", by="ann", pad="x" * 500).n, flush=True)
"""


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_dash_nine_loses_nothing_that_was_answered(path: Path, rounds: int) -> None:
    draw = random.Random(rounds)
    for _ in range(rounds):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
        ) as writer:
            assert writer.stdout
            answered = [writer.stdout.readline() for _ in range(draw.randrange(1, 60))]
            writer.send_signal(signal.SIGKILL)
            answered += writer.stdout.readlines()
        last = int(next(line for line in reversed(answered) if line.endswith(b"\n")))
        with Ledger(path, KEY, "node1") as ledger:
            assert ledger.verify().ok, ledger.verify().text
            assert ledger.head.n >= last
