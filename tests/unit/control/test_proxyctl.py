"""proxyctl against a real control socket: what a stranger sees, what a script gets, and how errors end."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxyd import cli
from proxyd.config import Review, User
from proxyd.control.client import Client, Code, ControlError
from proxyd.recorder.record import Kind

SESSION_ID = "1a2b3c4d" + "0" * 24
PROXYCTL = [sys.executable, "-c", "from proxyd.cli import proxyctl; proxyctl(prog_name='proxyctl')"]


@pytest.fixture
def ctl(background: Any) -> Any:
    """Run proxyctl against the background server."""

    def run(*words: str, **options: Any) -> Result:
        found = CliRunner().invoke(
            cli.proxyctl, ["--socket", str(background.path), "--utc", *words], prog_name="proxyctl", **options
        )
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found

    return run


# ---------------------------------------------------------------- tables and JSON


@pytest.mark.mission("M1")
def test_the_list_is_a_table(played: Any, ctl: Any) -> None:
    played.end(played.begin(id="e" * 32, user="bob", target="web1"), reason="dropped", by="root")
    played.begin().gate.closed = True
    heading, live, ended = ctl("sessions").stdout.splitlines()
    assert heading.split() == [
        "ID",
        "STATE",
        "USER",
        "TARGET",
        "TYPE",
        "FROM",
        "STARTED",
        "TIME",
        "SIZE",
        "NOTES",
    ]
    assert live.split()[:6] == ["1a2b3c4d", "blocked", "alice", "root@db1", "ssh", "192.0.2.7"]
    assert "1 min 15 s" in ended
    assert "4.3 KB" in ended
    assert ended.endswith("dropped by root")
    assert ctl("list").stdout.splitlines()[0] == heading


def test_an_empty_list_says_so(ctl: Any) -> None:
    assert ctl("sessions").stdout == "No sessions yet.\n"
    assert ctl("sessions", "--user", "x").stdout == "No such session.\n"


@pytest.mark.parametrize("where", ["before", "after"])
def test_json_is_one_document_with_utc_times(played: Any, ctl: Any, where: str) -> None:
    played.begin()
    words = ["--json", "sessions"] if where == "before" else ["sessions", "--json"]
    (line,) = ctl(*words).stdout.splitlines()
    (row,) = json.loads(line)["sessions"]
    assert row["id"] == SESSION_ID
    assert row["started_at"] == "2026-11-18T11:06:40.000Z"
    assert row["ended_at"] is None


@pytest.mark.mission("M10", "M11")
def test_show_has_the_session_page(played: Any, ctl: Any) -> None:
    session = played.begin()
    session.findings.append(
        {"code": "weak", "severity": "high", "text": "the target offered \x1b]52;c;AA\x07 only"}
    )
    ctl("block", SESSION_ID, "--reason", "look at this")
    shown = ctl("show", "1a2b").stdout
    facts = {line[:13].strip(): line[15:] for line in shown.splitlines() if line[:13].strip()}
    assert facts["ID"] == SESSION_ID
    assert facts["State"] == "blocked"
    assert facts["Start"] == "2026-11-18 11:06:40 UTC"
    assert facts["Type"] == "ssh"
    assert facts["Host"] == "10.0.0.5:22 (db1)"
    assert facts["Username"] == "root"
    assert (facts["User"], facts["User IP"]) == ("alice", "192.0.2.7")
    assert facts["Size"] == "1.2 KB"
    assert facts["Findings"] == "1"
    assert "high: the target offered" in shown
    assert facts["Blocked"].endswith("look at this")
    assert "\x1b" not in shown
    played.end(session, error="You have been disconnected")
    ended = ctl("show", "1a2b").stdout
    assert "Error message  You have been disconnected" in ended
    assert "Time           1 min 15 s" in ended
    assert "see: proxyctl log 1a2b3c4d" in ended


@pytest.mark.mission("M3")
def test_block_blocked_unblock(played: Any, ctl: Any) -> None:
    session = played.begin()
    assert ctl("blocked").stdout == "Nobody is blocked.\n"
    assert ctl("block", "1a2b3c4d").stdout == "Blocked: alice on db1 (1a2b3c4d).\n"
    assert session.gate.closed
    assert ctl("blocked").stdout.splitlines()[1].split()[:3] == ["alice", "db1", "root"]
    assert ctl("unblock", "alice@db1").stdout == "Released: alice on db1.\n"
    assert not session.gate.closed


@pytest.mark.mission("M4")
def test_drop_needs_somebody_to_confirm_or_yes(played: Any, ctl: Any) -> None:
    session = played.begin()
    asked = ctl("drop", "1a2b")
    assert (asked.exit_code, session.drops) == (2, [])
    assert "add --yes" in asked.stderr
    done = ctl("drop", "1a2b", "--yes", "--reason", "bye")
    assert done.stdout == "Dropped: alice on db1 (1a2b3c4d).\n"
    assert session.drops == [("root", "bye")]


@pytest.mark.mission("M17")
def test_message_says_who_reads_it(played: Any, ctl: Any) -> None:
    session = played.begin()
    assert ctl("message", "1a2b", "save your work").stdout == "Shown to alice on db1 (1a2b3c4d).\n"
    assert session.messages == [("root", "save your work")]
    assert json.loads(ctl("--json", "message", "1a2b", "bye").stdout)["text"] == "bye"
    session.protocol = "mysql"
    refused = ctl("message", "1a2b", "bye")
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)


def test_status_reload_users(played: Any, ctl: Any) -> None:
    status = ctl("status").stdout
    assert "Sessions       0 live, 0 blocked, 0 watching" in status
    assert "root (uid" in status
    assert ctl("reload").stdout == "Reloaded: 3 users, 2 targets, 1 grants in force.\n"
    assert "No users" in ctl("users", "list").stdout


# ---------------------------------------------------------------- errors


def test_refusals_are_one_line_and_exit_1(played: Any, ctl: Any) -> None:
    for words, says in (
        (("show", "nope"), "proxyctl: no session nope; see: proxyctl sessions"),
        (("block", "nope"), "proxyctl: no live session nope: see proxyctl sessions --state live"),
        (("unblock", "x@y"), "proxyctl: x is not blocked from y: see proxyctl blocked"),
    ):
        done = ctl(*words)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.rstrip("\n") == says
    played.operate_as("PAM Operator", name="bob")
    done = ctl("watch", "1a2b")
    assert done.exit_code == 1
    assert (
        "it takes sessions.watch, which PAM Administrator or PAM Auditor or System Administrator has"
        in done.stderr
    )


def test_wrong_use_is_one_line_and_exits_2(ctl: Any) -> None:
    for words, says in (
        (("sesions",), "no command 'sesions', did you mean sessions? (see: proxyctl --help)"),
        (("show",), "missing argument 'SESSION' (see: proxyctl show --help)"),
        (("sessions", "--since", "soon"), "'soon' is no time"),
        (("sessions", "--limit", "0"), "--limit"),
    ):
        done = ctl(*words)
        assert (done.exit_code, done.stdout) == (2, ""), words
        assert len(done.stderr.splitlines()) == 1
        assert says in done.stderr


def test_errors_are_json_too(ctl: Any) -> None:
    done = ctl("--json", "show", "nope")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {
        "error": {"code": "not_found", "message": "no session nope; see: proxyctl sessions"}
    }
    assert done.stderr == "proxyctl: no session nope; see: proxyctl sessions\n"
    done = ctl("show", "--json")
    assert (done.exit_code, json.loads(done.stdout)["error"]["code"]) == (2, "usage")


def test_no_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli.proxyctl, ["--socket", str(tmp_path / "none"), "status"], prog_name="proxyctl"
    )
    assert done.exit_code == 1
    assert "the daemon is not running" in done.stderr
    assert "proxyd serve" in done.stderr


# ---------------------------------------------------------------- the client


def test_a_server_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ControlError) as error:
        Client(tmp_path).call("status")
    assert error.value.code is Code.UNREACHABLE


def test_a_stream_cut_by_the_daemons_end_says_so(played: Any, background: Any) -> None:
    played.begin()
    stream = background.client.stream("watch", session="1a2b")
    frames = iter(stream)
    assert next(frames)["meta"]["user"] == "alice"
    background.do(background.end_now)
    with stream, pytest.raises(ControlError, match="the session may live on"):
        for _ in frames:
            pass


# ---------------------------------------------------------------- completion


def test_sessions_complete_with_who_they_are(played: Any, background: Any) -> None:
    played.begin()
    env = {"_PROXYCTL_COMPLETE": "zsh_complete", "COMP_WORDS": f"proxyctl --socket {background.path} watch 1a",
           "COMP_CWORD": "4"}  # fmt: skip
    done = subprocess.run(PROXYCTL, env=os.environ | env, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["plain", "1a2b3c4d", "alice@db1 live"]


# ---------------------------------------------------------------- watching, in a terminal of its own


class Terminal:
    """proxyctl in a pseudo-terminal."""

    def __init__(self, words: list[str], columns: int = 80, rows: int = 24) -> None:
        self.seen, self.place = b"", 0
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen([*PROXYCTL, *words], stdin=slave, stdout=slave, stderr=slave,
                                        start_new_session=True)  # fmt: skip

    def until(self, wanted: bytes, seconds: float = 60) -> bytes:
        """Read until `wanted` has come after what was waited for last; give all that came before it."""
        deadline = time.monotonic() + seconds
        while (at := self.seen.find(wanted, self.place)) < 0:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{wanted!r} did not come; there was {self.seen[self.place :]!r}"
            self.seen += os.read(self.master, 65536)
        before, self.place = self.seen[self.place : at], at + len(wanted)
        return before

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def ended(self) -> int:
        """Wait for the end; the terminal's modes must be as they were."""
        status = self.process.wait(60)
        assert termios.tcgetattr(self.slave) == self.before
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Any]:
    opened: list[Terminal] = []

    def open_one(*words: str, **options: Any) -> Terminal:
        opened.append(Terminal(list(words), **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def with_a_shell(session: Any) -> None:
    session.tape.add(Kind.REQUEST, {"name": "pty-req", "side": "client", "columns": 100, "rows": 30}, 1)
    session.tape.add(Kind.OUTPUT, b"history\r\n$ ", 1)
    session.tape.add(Kind.OUTPUT, b"another channel", 2)


@pytest.mark.mission("M2", "M3", "M4")
def test_watching_in_a_terminal(played: Any, background: Any, terminal: Any) -> None:
    session = played.begin()
    with_a_shell(session)
    screen = terminal("--socket", str(background.path), "watch", "1a2b")
    screen.until(b"history\r\n$ ")
    screen.until(
        b"alice on root@db1 - live - ? for keys - its terminal is 100x30, this one 80x24: enlarge it"
    )
    background.do(session.tape.add, Kind.OUTPUT, b"ls\x1b[6n\x1b]52;c;QQ\x07\x1b[31m\r\n", 1)
    screen.until(b"ls\x1b[31m\r\n")
    screen.press(b"?")
    screen.until(b"b block")
    screen.press(b"b")
    screen.until(b"session blocked")
    screen.until(b"blocked by root - ? for keys")
    assert session.gate.closed
    screen.press(b"b")
    screen.until(b"The session is blocked already.")
    screen.press(b"u")
    screen.until(b"session released")
    screen.press(b"d")
    screen.until(b"Drop this session? y/n")
    screen.press(b"n")
    screen.until(b"history\r\n$ ")
    assert session.drops == []
    screen.press(b"\x1b[24;80R\x1bP1$r0d\x1b\\")  # what a terminal may answer is no key
    screen.press(b"d")
    screen.until(b"Drop this session?")
    screen.press(b"y")
    screen.until(b"the session has ended: dropped by root")
    assert screen.ended() == 0
    assert session.drops == [("root", "")]
    assert b"another channel" not in screen.seen
    assert b"\x1b[6n" not in screen.seen
    assert b"\x1b]52" not in screen.seen


@pytest.mark.mission("M2")
@pytest.mark.parametrize("how", ["q", "ctrl-c", "SIGTERM", "daemon"])
def test_leaving_gives_the_terminal_back(played: Any, background: Any, terminal: Any, how: str) -> None:
    session = played.begin()
    with_a_shell(session)
    session.tape.add(Kind.OUTPUT, b"\x1b[?1049h\x1b[?25l in an editor", 1)
    screen = terminal("--socket", str(background.path), "watch", "1a2b")
    screen.until(b"in an editor")
    if how == "SIGTERM":
        screen.process.terminate()
    elif how == "daemon":
        background.do(background.end_now)
    else:
        screen.press(b"q" if how == "q" else b"\x03")
    screen.until(b"\x1b[?1049l")
    screen.until(b"\x1b[?25h")
    screen.until(b"\x1b[23;2t")
    assert screen.ended() == {"SIGTERM": 143, "daemon": 1}.get(how, 0)


def test_into_a_pipe_goes_the_raw_output(played: Any, background: Any) -> None:
    session = played.begin()
    with_a_shell(session)
    process = subprocess.Popen([*PROXYCTL, "--socket", str(background.path), "watch", "1a2b"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.read(11) == b"history\r\n$ "
    background.do(session.tape.add, Kind.OUTPUT, b"raw \x1b[6n\xff", 1)
    background.do(session.tape.add, Kind.END, {"reason": "closed", "by": "", "error": ""})
    out, err = process.communicate(timeout=60)
    assert out == b"raw \x1b[6n\xff"
    assert err == b"proxyctl: the session has ended: closed\n"
    assert process.returncode == 0


def test_json_gives_every_record_a_line(played: Any, background: Any) -> None:
    session = played.begin()
    with_a_shell(session)
    session.tape.add(Kind.END, {"reason": "closed", "by": "", "error": ""})
    done = subprocess.run([*PROXYCTL, "--json", "--socket", str(background.path), "watch", "1a2b"],
                          capture_output=True, check=True, timeout=60)  # fmt: skip
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["seq"] for record in records] == [1, 2, 3, 4, 5]
    assert records[2]["kind"] == "output"
    assert records[2]["body"]["text"] == "history\r\n$ "


def test_a_reader_who_goes_is_no_error(played: Any, background: Any) -> None:
    session = played.begin()
    with_a_shell(session)
    done = subprocess.run(
        f"{sys.executable} -c 'from proxyd.cli import proxyctl; proxyctl()' --socket {background.path} sessions | true",
        shell=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_comments_and_marks_from_the_terminal(played: Any, ctl: Any) -> None:
    played.end(played.begin())
    played.config.users = {"ann": User(name="ann", roles=["PAM Auditor"])}
    played.operate_as("PAM Auditor", name="root", user="ann")
    assert ctl("comments", "1a2b").stdout == "Nothing was said of it.\n"
    assert ctl("comment", "1a2b", "look\x1b[31m", "--at", "1:02.5").stdout == (
        "Kept with session 1a2b3c4d at 1:02.500.\n"
    )
    assert ctl("comment", "1a2b", "").exit_code == 2
    assert "no such moment" in ctl("comment", "1a2b", "x", "--at", "9:00").stderr
    assert "not marked as reviewed" in ctl("review", "1a2b", "--undo").stderr
    assert "1a2b3c4d" in ctl("sessions", "--not-reviewed").stdout
    assert ctl("sessions", "--reviewed").stdout == "No such session.\n"
    assert ctl("review", "1a2b", "--text", "done").stdout == "Reviewed: 1a2b3c4d.\n"
    assert ctl("sessions", "--not-reviewed").stdout == "No such session.\n"
    assert "reviewed" in ctl("sessions", "--reviewed").stdout
    assert "Reviewed       by ann on " in ctl("show", "1a2b").stdout
    heading, first, second = ctl("comments", "1a2b").stdout.splitlines()
    assert heading.split() == ["WHEN", "WHO", "AT", "MARK", "TEXT"]
    assert "look\N{REPLACEMENT CHARACTER}[31m" in first
    assert "1:02.500" in first
    assert second.split()[-2:] == ["reviewed", "done"]
    (one, _) = json.loads(ctl("comments", "1a2b", "--json").stdout)["comments"]
    assert (one["person"], one["at_us"], one["via"]) == ("ann", 62_500_000, "")


@pytest.mark.mission("M8", "M9")
def test_auditors_and_requests_from_the_terminal(played: Any, ctl: Any) -> None:
    played.end(played.begin())
    played.config.users = {name: User(name=name, roles=["PAM Administrator"]) for name in ("ann", "carl")}
    played.config.users["eve"] = User(name="eve")
    played.config.review = Review(approval=True, reasons=["audit"])
    assert ctl("auditors", "1a2b").stdout == "Auditors of 1a2b3c4d: whoever has the permission.\n"
    done = ctl("auditors", "1a2b", "--set", "carl, ann,eve")
    assert done.stdout == "Auditors of 1a2b3c4d: ann, carl, eve.\n"
    assert "eve has no role that lets them see a session" in done.stderr
    assert "Auditors       ann, carl, eve" in ctl("show", "1a2b").stdout
    played.operate_as("PAM Administrator", name="root", user="ann")
    asked = ctl("request", "1a2b", "--justification", "a complaint", "--reason", "audit", "--until", "4h")
    assert "waits until another user has approved it" in asked.stdout
    name = json.loads(ctl("requests", "--json").stdout)["requests"][0]["id"]
    assert "nobody decides on their own request" in ctl("approve", name).stderr
    played.operate_as("PAM Administrator", name="root2", user="carl")
    assert ctl("approve", name[:8], "--comment", "go on").stdout.startswith(
        f"Approved: request {name[:8]} of ann"
    )
    heading, row = ctl("requests", "--status", "approved").stdout.splitlines()
    assert heading.split()[:4] == ["ID", "STATUS", "USER", "SESSION"]
    assert row.split()[:4] == [name[:8], "approved", "ann", "1a2b3c4d"]
    assert "approved by carl" in row
    assert "is approved already" in ctl("deny", name).stderr
    assert ctl("revoke", name).stdout.startswith("Revoked: ")
    assert ctl("views", "1a2b").stdout == "Nobody saw it.\n"
    assert ctl("request", "1a2b", "--justification", "x", "--until", "soon").exit_code == 2
