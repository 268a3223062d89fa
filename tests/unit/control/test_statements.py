"""proxyctl on database sessions: watched over a real control socket, and opened as the real recorder left them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_proxyctl import Terminal
from unit.control.made import record

from proxyd import cli
from proxyd.recorder.record import Kind

SESSION_ID = "5d5d5d5d" + "0" * 24
META = {"id": SESSION_ID, "protocol": "postgres", "user": "alice", "user_ip": "192.0.2.7", "how": "password",
        "target": "orders", "host": "10.0.0.5:5432", "login": "app", "started_at": 1_795_000_000.0}  # fmt: skip
HOSTILE = "SELECT '\x1b]52;c;QQ==\x07\x1b[2J\u202e\x00', 1"
FEED: tuple[tuple[Kind, Any], ...] = (
    (Kind.STATEMENT, {"event": "statement", "n": 1, "how": "execute", "text": "SELECT * FROM orders WHERE id = $1",
                      "parameters": [{"kind": "int4", "size": 4, "value": 7}]}),
    (Kind.STATEMENT, {"event": "result", "n": 1, "us": 412, "tag": "SELECT 1", "rows": 1, "transaction": "idle"}),
    (Kind.STATEMENT, {"event": "statement", "n": 2, "how": "simple", "text": HOSTILE}),
    (Kind.STATEMENT, {"event": "result", "n": 2, "us": 90, "error":
                      {"severity": "ERROR", "code": "42P01", "message": 'relation "x"\n does not exist'}}),
    (Kind.FINDING, {"code": "rule-no-drop", "severity": "high", "text": "DROP TABLE t matches no-drop"}),
    (Kind.STATEMENT, {"event": "statement", "n": 3, "how": "simple", "text": "DROP TABLE t", "refused": "no-drop"}),
    (Kind.STATEMENT, {"event": "statement", "n": 4, "how": "simple", "text": "=1+cmd|' /C calc'!A0"}),
)  # fmt: skip


@pytest.fixture
def recorded(played: Any, tmp_path: Path) -> Path:
    """Record a session; give the directory `proxyd init` made for it."""
    return record(played, tmp_path / "made", META, FEED)


@pytest.mark.mission("M5", "M11", "M14")
def test_the_log_is_a_table_of_statements(ctl: Any) -> None:
    shown = ctl("log", "5d5d").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    lines = [" ".join(line[10:].split()) for line in shown.splitlines()]
    assert "WHAT DETAILS OUTCOME TOOK" in lines
    for line in (
        "#1 SELECT * FROM orders WHERE id = $1 SELECT, 1 row 0.4 ms",
        "with $1 = 7 (int4)",
        r"""#2 SELECT '\x1b]52;c;QQ==\x07\x1b[2J\u202e\x00', 1 ERROR 42P01: relation "x"\n does not exist 0.1 ms""",
        "finding high: DROP TABLE t matches no-drop",
        "#3 DROP TABLE t refused: no-drop",
        "#4 =1+cmd|' /C calc'!A0 no answer",
        "end closed",
    ):
        assert line in lines, shown
    document = json.loads(ctl("--json", "log", "5d5d").stdout)
    found = [entry["query"] for entry in document["entries"] if entry["kind"] == "statement"]
    assert [(query["n"], query["status"]) for query in found] == [
        (1, "ok"),
        (2, "error"),
        (3, "refused"),
        (4, "unanswered"),
    ]
    assert found[1]["statement"] == HOSTILE


@pytest.mark.mission("M6", "M14")
def test_replay_into_a_pipe_is_the_feed(ctl: Any) -> None:
    shown = ctl("replay", "5d5d").stdout
    assert [line[11:] for line in shown.splitlines()] == [
        "#1     SELECT * FROM orders WHERE id = $1",
        "       $1 = 7 (int4)",
        "#1     SELECT, 1 row, 0.4 ms",
        r"#2     SELECT '\x1b]52;c;QQ==\x07\x1b[2J\u202e\x00', 1",
        '#2     42P01: relation "x"',
        "        does not exist, 0.1 ms",
        "       finding: high: DROP TABLE t matches no-drop",
        "#3     DROP TABLE t",
        "#3     no-drop",
        "#4     =1+cmd|' /C calc'!A0",
        "#4     ",
        "       end: closed",
    ]
    records = [json.loads(line) for line in ctl("--json", "replay", "5d5d").stdout.splitlines()]
    assert len(records) == len(FEED) + 2  # META before, END behind
    assert records[3]["body"]["text"] == HOSTILE


@pytest.mark.mission("M6", "M14")
def test_exports_have_one_row_for_each_statement(ctl: Any, tmp_path: Path) -> None:
    for words in ((), ("--format", "jsonl")):
        lines = [json.loads(line) for line in ctl("export", "5d5d", *words).stdout.splitlines()]
        assert [line["n"] for line in lines] == [1, 2, 3, 4]
        assert lines[1]["statement"] == HOSTILE
    target = tmp_path / "statements.csv"
    assert ctl("export", "5d5d", "--format", "csv", "-o", str(target)).stdout.startswith(f"{target}: csv, ")
    rows = list(csv.DictReader(io.StringIO(target.read_bytes().decode(), newline="")))
    assert [row["status"] for row in rows] == ["ok", "error", "refused", "unanswered"]
    assert rows[1]["error_message"] == r'relation "x"\n does not exist'
    assert rows[3]["statement"] == "'=1+cmd|' /C calc'!A0"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("replay", "5d5d", "--channel", "1"),
            "--channel is about terminals, and this postgres session has none",
        ),
        (("export", "5d5d", "--channel", "1"), "--channel is about terminals"),
        (("export", "5d5d", "--input"), "--input is about terminals"),
        (
            ("export", "5d5d", "--format", "asciicast"),
            "has statements and no screen: export it as jsonl or csv",
        ),
    ],
)
def test_what_is_for_terminals_is_refused_before_the_ledger_says_view(
    ctl: Any, played: Any, words: tuple[str, ...], says: str
) -> None:
    done = ctl(*words, status=2)
    assert says in done.stderr
    assert done.stdout == ""
    assert played.ledger.viewers(SESSION_ID) == []


# ---------------------------------------------------------------- live


@pytest.fixture
def live(played: Any, background: Any) -> Any:
    """A live database session with some history, and what adds to it."""
    session = played.begin(protocol="postgres", target="orders", login="app")
    for kind, body in FEED[:2]:
        background.do(session.tape.add, kind, body)
    return session


def test_watching_through_a_pipe(live: Any, background: Any) -> None:
    for kind, body in FEED[2:]:
        background.do(live.tape.add, kind, body)
    background.do(live.tape.add, Kind.END, {"reason": "closed"})
    words = ["--socket", str(background.path), "watch", "1a2b"]
    shown = CliRunner().invoke(cli.proxyctl, words, prog_name="proxyctl").stdout
    assert "\x1b" not in shown
    assert "#1     SELECT, 1 row, 0.4 ms\n" in shown
    assert "refused #3     no-drop\n" in shown


@pytest.mark.usefixtures("live")
def test_a_channel_can_not_be_watched(background: Any) -> None:
    words = ["--socket", str(background.path), "watch", "1a2b", "--channel", "1"]
    done = CliRunner().invoke(cli.proxyctl, words, prog_name="proxyctl")
    assert done.exit_code == 2
    assert (
        "--channel is about terminals, and this postgres session has none: it has statements" in done.stderr
    )


@pytest.mark.mission("M2", "M3", "M4", "M14")
def test_watching_in_a_terminal(live: Any, background: Any) -> None:
    screen = Terminal(["--socket", str(background.path), "watch", "1a2b"], columns=80, rows=24)
    try:
        screen.until(b"SELECT * FROM orders WHERE id = $1")
        screen.until(b"SELECT, 1 row, 0.4 ms")
        title = b"alice on app@orders - live - ? for keys"
        if title not in screen.seen:  # it is set beside the feed, before or after what is there already
            screen.until(title)
        for kind, body in FEED[2:4]:
            background.do(live.tape.add, kind, body)
        screen.until(rb"SELECT '\x1b]52;c;QQ==\x07\x1b[2J\u202e\x00', 1")
        screen.until(b"ERROR #2")
        screen.press(b"b")
        screen.until(b"session blocked")
        screen.until(b"blocked by root - ? for keys")
        screen.press(b"d")
        screen.until(b"Drop this session? y/n")
        screen.press(b"y")
        screen.until(b"the session has ended: dropped by root")
        assert screen.ended() == 0
        assert live.drops == [("root", "")]
    finally:
        screen.close()
