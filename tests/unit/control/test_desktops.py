"""proxyctl on RDP sessions: pictures and the log of what the real recorder has written; no raw bytes anywhere."""
# ruff: noqa: RUF001 - the marks around keys, and accents

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from unit.control.made import record
from unit.index.tape import demand_active, fast, keys, press, session, slow, tile

from proxyd import cli_decoder
from proxyd.protocols.rdp.events import Mouse
from proxyd.protocols.rdp.updates import build_bitmaps
from proxyd.recorder.record import Kind

SESSION_ID = "7d7d7d7d" + "0" * 24
META = {"id": SESSION_ID, "protocol": "rdp", "user": "alice", "user_ip": "192.0.2.7", "how": "nla", "target": "desk",
        "host": "10.0.0.5:3389", "login": "admin", "started_at": 1_795_000_000.0}  # fmt: skip
WIDTH, HEIGHT = 16, 8
H, I_KEY, ENTER, CTRL, V = 0x23, 0x17, 0x1C, 0x1D, 0x2F
RED, BLUE = (255, 0, 0), (0, 0, 255)


def square(bgrx: bytes) -> Any:
    return tile(0, 0, 4, 4, bgrx * 16)


REFUSED = keys(*press(V), Mouse(3, 4, 0x0800), kind=Kind.REFUSED)
DESKTOP: tuple[tuple[Kind, Any], ...] = (
    (Kind.REQUEST, session(WIDTH, HEIGHT).body),
    (Kind.PDU, demand_active(WIDTH, HEIGHT).body),
    (Kind.PDU, fast(build_bitmaps([square(b"\x00\x00\xff\x00")])).body),
    (Kind.INPUT_PDU, keys(*press(H), *press(I_KEY), *press(ENTER)).body),
    (Kind.CONTROL, {"action": "block", "by": "root", "reason": "why?"}),
    (Kind.REFUSED, REFUSED.body),
    (Kind.REFUSED, REFUSED.body),
    (Kind.CONTROL, {"action": "unblock", "by": "root", "reason": ""}),
    (Kind.INPUT_PDU, keys(*press(CTRL, V)).body),
    (Kind.CLIPBOARD, {"direction": "to target", "format": "text", "size": 5, "text": "p\x1b[2J"}),
    (Kind.FINDING, {"code": "x", "severity": "high", "text": "certificate changed"}),
    (Kind.PDU, slow([square(b"\xff\x00\x00\x00")]).body),
)


@pytest.fixture
def recorded(played: Any, tmp_path: Path) -> Path:
    """Record a session; give the directory `proxyd init` made for it."""
    return record(played, tmp_path / "made", META, DESKTOP)


def seen(played: Any) -> list[str]:
    return [entry.fields["kind"] for entry in played.ledger.viewers(SESSION_ID)]


@pytest.mark.mission("M6", "M16")
def test_a_screenshot_is_private_and_told_to_the_ledger(ctl: Any, played: Any, tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    done = ctl("screenshot", "7d7d", "-o", str(target))
    assert done.stdout.startswith(f"{target}: {WIDTH} x {HEIGHT}, at 0:00.")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert Image.open(target).getpixel((0, 0)) == BLUE
    assert seen(played) == ["replay"]
    assert "add --force" in ctl("screenshot", "7d7d", "-o", str(target), status=1).stderr
    assert seen(played) == ["replay"]
    told = json.loads(ctl("--json", "screenshot", "7d7d", "-o", str(target), "--force").stdout)
    assert (told["width"], told["height"], told["bytes"], told["unread"]) == (
        WIDTH, HEIGHT, target.stat().st_size, 0,
    )  # fmt: skip


@pytest.mark.mission("M6", "M16")
def test_a_screenshot_of_the_very_beginning_is_not_of_the_end(
    ctl: Any, tmp_path: Path, recorded: Path
) -> None:
    target = tmp_path / "x.png"
    done = ctl("screenshot", "7d7d", "--at", "0", "-o", str(target), status=1)
    assert done.stderr == "proxyctl: the recording shows no screen up to then\n"
    assert not target.exists()


def test_a_screenshot_wants_a_desktop_a_moment_inside_and_a_file(
    ctl: Any, played: Any, tmp_path: Path
) -> None:
    target = str(tmp_path / "x.png")
    other = played.begin()
    played.end(other)
    assert (
        "has no desktop: see proxyctl replay 1a2b3c4d"
        in ctl("screenshot", "1a2b", "-o", target, status=2).stderr
    )
    assert "not that long" in ctl("screenshot", "7d7d", "--at", "1000000h", "-o", target, status=2).stderr
    assert "had not begun" in ctl("screenshot", "7d7d", "--at", "2001-01-01", "-o", target, status=2).stderr
    assert "is no moment" in ctl("screenshot", "7d7d", "--at", "x", "-o", target, status=2).stderr
    assert "-o" in ctl("screenshot", "7d7d", status=2).stderr
    assert played.ledger.viewers(SESSION_ID) == []


def test_a_screenshot_needs_the_permission_of_a_replay(ctl: Any, played: Any, tmp_path: Path) -> None:
    played.operate_as("PAM Operator")
    done = ctl("screenshot", "7d7d", "-o", str(tmp_path / "x.png"), status=1)
    assert "sessions.replay" in done.stderr
    assert not (tmp_path / "x.png").exists()


@pytest.mark.mission("M5", "M16")
def test_the_log_says_what_was_typed_and_what_a_block_refused(ctl: Any, played: Any) -> None:
    shown = ctl("log", "7d7d").stdout
    lines = [" ".join(line[9:].split()) for line in shown.splitlines()]
    refused = len(REFUSED.body) * 2
    for line in (
        "desktop 16 x 8, 32 bits, keyboard 00000409, channels rdpsnd, drdynvc",
        "typed hi‹Enter›",
        "control block by root: why?",
        f"refused {refused} B of input while blocked",
        "refused vv",
        "typed ‹Ctrl+V›",
        "clipboard to target, text, 5 B: p\ufffd[2J",
        "finding high: certificate changed",
        "end closed",
    ):
        assert line in lines, shown
    assert "\x1b" not in shown
    assert seen(played) == ["log"]
    document = json.loads(ctl("--json", "log", "7d7d").stdout)
    assert [(entry["kind"], entry["text"]) for entry in document["entries"] if entry["kind"] == "typed"] == [
        ("typed", "hi‹Enter›"),
        ("typed", "‹Ctrl+V›"),
    ]


def test_a_decoder_that_fails_leaves_the_rest_of_the_log(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_decoder, "PACKAGE", "no_such_package_here")
    done = ctl("log", "7d7d", status=1)
    assert "certificate changed" in done.stdout
    assert done.stderr == f"proxyctl: what was typed is not shown: {cli_decoder.MISSING}\n"


@pytest.mark.mission("M6", "M16")
def test_no_terminal_gets_a_desktops_bytes(ctl: Any, played: Any, tmp_path: Path) -> None:
    target = str(tmp_path / "x")
    for words in (
        ("replay", "7d7d"),
        ("replay", "7d7d", "--speed", "2"),
        ("watch", "7d7d"),
    ):
        done = ctl(*words, status=2)
        assert done.stdout == ""
        assert "proxyctl screenshot 7d7d7d7d -o FILE" in done.stderr
        assert "proxyctl log 7d7d7d7d" in done.stderr
        assert done.stderr.count("\n") == 1
    for more, said in (
        ((), "webm is no text for a terminal: add -o FILE"),
        (("--format", "pyrdp"), "pyrdp is no text for a terminal: add -o FILE"),
        (
            ("--format", "asciicast2", "-o", target),
            "a desktop is no terminal: export it as webm, mp4, pyrdp, jsonl",
        ),
        (("--format", "csv"), "a desktop is no terminal"),
        (("--channel", "3", "-o", target), "it has no channels"),
        (("--format", "jsonl", "--input"), "no --input"),
    ):
        done = ctl("export", "7d7d", *more, status=2)
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
        assert said in done.stderr
    assert played.ledger.viewers(SESSION_ID) == []


@pytest.mark.mission("M6", "M16")
def test_programs_get_every_record(ctl: Any) -> None:
    for words in (("--json", "replay", "7d7d"), ("export", "7d7d", "--format", "jsonl")):
        records = [json.loads(line) for line in ctl(*words).stdout.splitlines()]
        assert len(records) == len(DESKTOP) + 2  # META before, END behind


def test_a_live_desktop_is_not_watched_in_a_pipe(ctl: Any, played: Any) -> None:
    live = played.begin(protocol="rdp")
    rows = len(live.tape.rows)
    assert "proxyctl screenshot 1a2b3c4d" in ctl("watch", "1a2b", status=2).stderr
    assert len(live.tape.rows) == rows
