"""Who saw a session is answered from an index, and always as reading the whole ledger answers it."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyd.errors import FormatError
from proxyd.recorder import ledger as module
from proxyd.recorder import ledger_index
from proxyd.recorder.keys import Signer
from proxyd.recorder.ledger import Ledger, LedgerReader

KEY = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SESSIONS = ("s1", "s12", "s2", "1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(ledger_index, "BATCH", 7)  # more than one
    with Ledger(path, KEY, "node1") as ledger:
        fill(ledger)
        yield ledger


def fill(ledger: Ledger, count: int = 60, seed: int = 5) -> None:
    draw = random.Random(seed)
    for n in range(count):
        session = draw.choice(SESSIONS)
        ledger.append(draw.choice(("view", "view", "hold", "fetch")), session=session, who="ann", seconds=n)


def same(ledger: Ledger) -> None:
    """For every session the index says what the ledger does; asked twice."""
    whole = LedgerReader(ledger.path)
    for session in SESSIONS * 2:
        assert ledger.viewers(session) == whole.viewers(session) != []
        assert ledger.viewers(session, 3) == whole.viewers(session, 3) == whole.viewers(session)[-3:]
    assert ledger.viewers("nobody") == []


@pytest.mark.mission("M5")
def test_views_are_found_as_they_come(ledger: Ledger) -> None:
    same(ledger)
    fill(ledger, 20, seed=6)
    same(ledger)
    ledger.append("view", session="s1", who="eve")
    assert ledger.viewers("s1", 1)[0].fields["who"] == "eve"


def test_only_the_views_of_the_session_are_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ledger.viewers("s1")
    read: list[bytes] = []
    whole = module._parse
    monkeypatch.setattr(module, "_parse", lambda line: (read.append(line), whole(line))[1])
    monkeypatch.setattr(ledger_index, "_viewed", lambda line: pytest.fail("an old line was indexed again"))
    assert ledger.viewers("s1") == asked
    assert len(read) == len(asked)


def test_a_new_start_goes_on_with_the_index(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    same(ledger)
    ledger.close()
    with Ledger(ledger.path, KEY, "node1") as again:
        monkeypatch.setattr(
            ledger_index, "_viewed", lambda line: pytest.fail("an old line was indexed again")
        )
        same(again)


def index_of(ledger: Ledger) -> Path:
    return ledger.path.with_name("ledger.views")


def gone(index: Path) -> None:
    index.unlink()


def garbage(index: Path) -> None:
    index.write_bytes(random.Random(1).randbytes(9000))


def cut(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:5000])


def of_another_version(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def pointing_elsewhere(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("UPDATE views SET offset = offset + 3")
    database.close()


def far_ahead(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("UPDATE place SET last = 1 << 60, end = (1 << 62)")
    database.close()


def of_nowhere(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("UPDATE place SET last = -5, end = -900")
    database.close()


@pytest.mark.parametrize(
    "spoil", [gone, garbage, cut, of_another_version, pointing_elsewhere, far_ahead, of_nowhere]
)
def test_an_index_that_was_spoiled_spoils_no_answer(ledger: Ledger, spoil: object) -> None:
    same(ledger)
    ledger.close()
    spoil(index_of(ledger))  # type: ignore[operator]
    with Ledger(ledger.path, KEY, "node1") as again:
        same(again)
        fill(again, 9, seed=7)
        same(again)


def test_the_index_of_another_ledger_is_none(ledger: Ledger) -> None:
    same(ledger)
    ledger.close()
    ledger.path.rename(ledger.path.with_name("moved-aside"))
    with Ledger(ledger.path, KEY, "node1") as fresh:
        fill(fresh, 80, seed=8)
        same(fresh)


def test_a_ledger_that_lost_its_end_has_lost_those_views_only(ledger: Ledger) -> None:
    same(ledger)
    ledger.close()
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:-9]) + lines[-9][:20])
    with Ledger(ledger.path, KEY, "node1") as again:
        same(again)


def test_an_index_that_cannot_be_kept_is_done_without(ledger: Ledger) -> None:
    index_of(ledger).mkdir()
    same(ledger)


def test_damage_is_told_of_the_session_it_may_be_about(ledger: Ledger) -> None:
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    spoiled = next(n for n, line in enumerate(lines) if b'"session":"s12"' in line and b'"view"' in line)
    lines[spoiled] = lines[spoiled].replace(b'"kind"', b'"kind')
    ledger.path.write_bytes(b"".join(lines))
    reader = LedgerReader(ledger.path)
    for session in ("s2", "1"):
        if session.encode() not in lines[spoiled]:
            assert ledger.viewers(session) == reader.viewers(session)
    with pytest.raises(FormatError, match="is damaged"):
        ledger.viewers("s12")


KILLED = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from proxyd.recorder.keys import Signer
from proxyd.recorder.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32)))), "node1")
n = 0
while True:
    for session in ("s1", "s12", "s2", "1"):
        ledger.append("view", session=session, n=n)
    ledger.viewers("s1", 1)
    n += 1
    print(n, flush=True)
"""


def test_kill_9_leaves_an_index_that_is_true(path: Path) -> None:
    for turn in range(1, 4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(4 * turn):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.stdout.close()
        with Ledger(path, KEY, "node1") as ledger:
            same(ledger)
            assert ledger.verify().ok
