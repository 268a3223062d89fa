"""proxyctl's log, replay, export and verify, on a recording the real recorder has made."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from unit.control.made import record

from proxyd import cli
from proxyd.config import Review
from proxyd.recorder.record import Kind

SESSION_ID = "1a2b3c4d" + "0" * 24
META = {"id": SESSION_ID, "protocol": "ssh", "user": "alice", "user_ip": "192.0.2.7", "how": "password", "target": "db1",
        "host": "10.0.0.5:22", "login": "root", "started_at": 1_795_000_000.0}  # fmt: skip
SHELL = (
    (Kind.CHANNEL, {"event": "open", "type": "session"}, 1),
    (Kind.REQUEST, {"name": "pty-req", "side": "client", "term": "xterm", "columns": 80, "rows": 24}, 1),
    (Kind.REQUEST, {"name": "shell", "side": "client"}, 1),
    (Kind.OUTPUT, b"$ ", 1),
    (Kind.INPUT, b"uname -a\r", 1),
    (Kind.OUTPUT, b"uname -a\r\nLinux\r\n$ ", 1),
    (Kind.INPUT, b"sudo -s\r", 1),
    (Kind.OUTPUT, b"sudo -s\r\n[sudo] password: ", 1),
    (Kind.INPUT, b"canary-Passw0rd\r", 1),
    (Kind.OUTPUT, b"\r\n# ", 1),
    (Kind.CONTROL, {"action": "block", "by": "root", "reason": "why sudo?"}, 0),
    (Kind.REFUSED, b"rm -rf", 1),
    (
        Kind.TRANSFER,
        {"operation": "put", "path": "/tmp/a.txt", "size": 2048, "sha256": b"\xab" * 32, "result": "ok"},
        2,
    ),
    (Kind.FINDING, {"code": "x", "severity": "high", "text": "host key changed \x1b[2J"}, 0),
    (Kind.INPUT, b"exit\r", 1),
    (Kind.OUTPUT, b"exit\r\n", 1),
    (Kind.EXIT, {"status": 0}, 1),
)


@pytest.fixture
def recorded(played: Any, tmp_path: Path) -> Path:
    """Record a session, all at once; give the directory `proxyd init` made for it."""
    return record(played, tmp_path / "made", META, SHELL)


@pytest.mark.mission("M5", "M11")
def test_the_log_tells_what_happened_and_no_password(ctl: Any, played: Any) -> None:
    ctl("replay", "1a2b")
    shown = ctl("log", "1a2b").stdout
    assert shown.startswith("alice on root@db1 (1a2b3c4d), 2026-11-18 11:06:40 UTC")
    for text in ("channel   open session", "typed     uname -a", "typed     sudo -s", "(not shown on the screen)",
                 "control   block by root: why sudo?", "refused   6 B of input while blocked",
                 "put  /tmp/a.txt  2.0 KB  sha256 abababab", "finding   high: host key changed \ufffd[2J",
                 "typed     exit", "exit      status 0", "end       closed"):  # fmt: skip
        assert text in shown, shown
    assert "canary" not in shown
    assert "\x1b" not in shown
    assert "root (replay) on 20" in shown
    assert [entry.fields["kind"] for entry in played.ledger.viewers(SESSION_ID)] == ["replay", "log"]
    document = json.loads(ctl("--json", "log", "1a2b").stdout)
    assert document["session"]["user"] == "alice"
    assert {entry["kind"] for entry in document["entries"]} >= {
        "typed",
        "transfer",
        "finding",
        "control",
        "exit",
    }
    assert [view["kind"] for view in document["views"]] == ["replay", "log"]


@pytest.mark.mission("M5", "M12")
def test_commands_are_shown_with_their_end_and_status(ctl: Any) -> None:
    shown = ctl("log", "1a2b", "--commands").stdout
    assert re.search(r"AT +CH +TOOK +EXIT +COMMAND\n", shown)
    for text in ("uname -a", "sudo -s", "exit"):
        assert text in shown
    assert "canary" not in shown
    document = json.loads(ctl("--json", "log", "1a2b", "--commands").stdout)
    assert [one["line"] for one in document["commands"]] == ["uname -a", "sudo -s", "exit"]
    assert {"at_us", "ended_us", "exit", "channel"} < set(document["commands"][0])


@pytest.mark.mission("M6")
def test_replay_into_a_pipe_is_the_raw_output(ctl: Any) -> None:
    shown = b"".join(body for kind, body, channel in SHELL if kind is Kind.OUTPUT)
    assert ctl("replay", "1a2b").stdout_bytes == shown
    assert ctl("replay", "1a2b", "--follow").stdout_bytes == shown
    records = [json.loads(line) for line in ctl("--json", "replay", "1a2b").stdout.splitlines()]
    assert len(records) == len(SHELL) + 2  # META before, END behind
    assert records[-1]["kind"] == "end"


@pytest.mark.mission("M6", "M9")
def test_a_replay_asks_for_each_piece_and_ends_where_it_may_not_go_on(
    ctl: Any, played: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyd.cli_reading.PIECE_US", 1)  # each moment is a piece
    whole = ctl("--json", "replay", "1a2b").stdout.splitlines()
    views = played.ledger.viewers(SESSION_ID)
    assert len(views) > 3
    assert {entry.fields["kind"] for entry in views} == {"replay"}
    append = played.ledger.append

    def until_three(kind: str, /, **fields: Any) -> Any:
        if len(played.ledger.viewers(SESSION_ID)) == len(views) + 2:
            played.config.review = Review(approval=True)
        return append(kind, **fields)

    monkeypatch.setattr(played.ledger, "append", until_three)
    done = ctl("--json", "replay", "1a2b", status=1)
    assert "with approval only" in done.stderr
    *shown, _error = done.stdout.splitlines()
    assert 0 < len(shown) < len(whole)
    assert shown == whole[: len(shown)]
    assert len(played.ledger.viewers(SESSION_ID)) == len(views) + 3


@pytest.mark.mission("M6")
def test_what_the_ledger_could_not_keep_is_not_opened(
    ctl: Any, played: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(played.ledger, "append", broken)
    done = ctl("replay", "1a2b", status=1)
    assert done.stdout == ""


def test_a_missing_or_open_identity_is_said_before_the_ledger_says_view(
    ctl: Any, played: Any, recorded: Path, tmp_path: Path
) -> None:
    done = ctl("replay", "1a2b", "--identity", str(tmp_path / "none"), status=1)
    assert "can't be read by you" in done.stderr
    assert played.ledger.viewers(SESSION_ID) == []
    identity = recorded / "keys" / "vault.identity"
    identity.chmod(0o644)
    assert "make it 0600" in ctl("replay", "1a2b", status=2).stderr


@pytest.mark.mission("M6")
def test_export_makes_a_private_file_once(ctl: Any, tmp_path: Path) -> None:
    target = tmp_path / "out.cast"
    done = ctl("export", "1a2b", "-o", str(target))
    assert done.stdout.startswith(f"{target}: asciicast, ")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert json.loads(target.read_text().splitlines()[0])["version"] == 3
    assert "canary" not in target.read_text()
    assert "add --force" in ctl("export", "1a2b", "-o", str(target), status=1).stderr
    ctl("export", "1a2b", "-o", str(target), "--force", "--format", "asciicast2")
    assert json.loads(target.read_text().splitlines()[0])["version"] == 2
    assert json.loads(ctl("--json", "export", "1a2b", "-o", str(target), "--force").stdout)["bytes"] > 0
    assert "add -o FILE" in ctl("--json", "export", "1a2b", status=2).stderr
    assert ctl("export", "1a2b", "--format", "jsonl").stdout.count("\n") == len(SHELL) + 2
    assert sorted(path.name for path in tmp_path.glob("*out.cast*")) == ["out.cast", "out.cast.manifest.json"]


@pytest.mark.mission("M6", "M13")
@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_a_film_of_a_terminal_is_private_signed_and_told_to_the_ledger(
    form: str, ctl: Any, played: Any, tmp_path: Path
) -> None:
    av = pytest.importorskip("av", reason="what makes films is not installed")
    target = tmp_path / f"out.{form}"
    done = ctl("export", "1a2b", "-o", str(target), "--format", form)
    assert done.stdout.startswith(f"{target}: {form}, 1280 x 720, ")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with av.open(target) as film:
        assert not film.streams.audio
        assert next(film.decode(video=0)).to_image().size == (1280, 720)
        titles = [one["metadata"]["title"] for one in film.chapters()]
    if (
        form == "mp4"
    ):  # readers of WebM leave out chapters behind the end, and all of this takes a few milliseconds
        assert titles == [
            "beginning",
            "interaction blocked by root: why sudo?",
            "finding (high): host key changed \x1b[2J",
        ]
    assert [entry.fields["kind"] for entry in played.ledger.viewers(SESSION_ID)] == ["export"]
    assert "made by root" in ctl("verify", str(target)).stdout
    ctl("export", "1a2b", "-o", str(tmp_path / "y"), "--format", form, "--input")
    with av.open(tmp_path / "y") as film:
        assert film.streams.subtitles


def test_an_export_that_fails_leaves_nothing(ctl: Any, tmp_path: Path) -> None:
    assert (
        "channel 9" in ctl("export", "1a2b", "--channel", "9", "-o", str(tmp_path / "out"), status=1).stderr
    )
    assert list(tmp_path.glob("*out*")) == []


def test_verify_needs_no_daemon_and_finds_a_flipped_bit(recorded: Path, played: Any) -> None:
    def verify(*words: str) -> Result:
        return CliRunner().invoke(
            cli.proxyctl, ["--config", str(recorded / "proxyd.toml"), *words], prog_name="proxyctl"
        )

    for words in (("verify", "1a2b"), ("verify", "--all")):
        done = verify(*words)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.endswith("Whole and unaltered.\n")
        assert "ok" in done.stdout
    assert verify("verify").exit_code == 2
    assert verify("verify", "zzz").exit_code == 1
    (segment,) = (recorded / "recordings").glob("*/*/*/*/*.pxr")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.chmod(0o600)
    segment.write_bytes(data)
    done = verify("verify", str(segment.parent))
    assert done.exit_code == 1
    assert "damaged" in done.stdout
    assert "000000.pxr" in done.stderr
    document = json.loads(verify("--json", "verify", "--all").stdout)
    assert document["ok"] is False
    assert [report["ok"] for report in document["reports"]] == [True, False]
    for path in sorted(segment.parent.iterdir()):
        path.unlink()
    segment.parent.rmdir()
    assert "it is not on disk" in verify("verify", "--all").stderr


def test_replay_in_a_terminal_ends_by_itself(background: Any, recorded: Path) -> None:
    command = (
        f"{sys.executable} -c \"from proxyd.cli import proxyctl; proxyctl()\" --config {recorded / 'proxyd.toml'}"
        f" --socket {background.path} replay 1a2b --speed 50"
    )  # fmt: skip
    done = subprocess.run(["script", "-qec", command, os.devnull], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=30, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert b"uname -a\r\nLinux" in done.stdout
    assert b"\x1b[?1049l" in done.stdout
