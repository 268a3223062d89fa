"""The command lines where no daemon is needed: words, times, sizes, the terminal's filter and keys, the player."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import argon2
import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from proxyd import cli, cli_view, setup
from proxyd.cli_app import Run
from proxyd.cli_log import entries
from proxyd.cli_output import Column, Output, _fitting, clean, duration, position, size
from proxyd.cli_recordings import Place, write_private
from proxyd.cli_sessions import Moment
from proxyd.cli_view import Pace, Player, Scene, View
from proxyd.recorder.record import Kind, Record
from proxyd.terminal import CLEAR, KEPT_BYTES, RESTORE, Harmless, Keys, Picture

PROXYCTL = [sys.executable, "-c", "from proxyd.cli import proxyctl; proxyctl(prog_name='proxyctl')"]
HELP_COSTS = 5  # times what its library's import takes: it is two, and with anything heavy beside it is ten


def records(*items: tuple[int, Kind, int, Any]) -> list[Record]:
    return [
        Record(seq, at_us, kind, channel, body) for seq, (at_us, kind, channel, body) in enumerate(items, 1)
    ]


# ---------------------------------------------------------------- the command lines themselves


def test_help_answers_at_once_and_lists_every_command() -> None:
    said, spent = costing(*PROXYCTL, "--help")
    for name in ("sessions", "show", "watch", "block", "unblock", "blocked", "drop", "status", "reload", "users",
                 "log", "replay", "export", "verify", "hold", "release", "holds", "purge", "fsck", "completion"):  # fmt: skip
        assert re.search(rf"^  {name} ", said, re.MULTILINE)
    assert "..." not in said.split("Commands:")[1]
    assert spent < HELP_COSTS * costing(sys.executable, "-c", "import click")[1]


def costing(*argv: str) -> tuple[str, float]:
    """What a program says, and the seconds of a processor it takes: not waits, other tests run too."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return said, used.ru_utime + used.ru_stime


def test_nothing_heavy_is_imported_for_help() -> None:
    script = "import sys, proxyd.cli; print([m for m in ('trio','rich','msgspec','sqlalchemy','asyncssh','cryptography') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"[]\n"


@pytest.mark.parametrize("words", [["proxyd", "--help"], ["proxyd", "--version"]])
def test_python_m_proxyd_is_proxyd(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=True)
    assert "proxyd" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = CliRunner().invoke(cli.proxyctl, ["completion", shell], prog_name="proxyctl")
    assert done.exit_code == 0
    assert "_PROXYCTL_COMPLETE" in done.stdout


def test_no_configuration_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROXYD_CONFIG", raising=False)
    done = CliRunner().invoke(cli.proxyctl, ["status"], prog_name="proxyctl")
    assert done.exit_code == 2
    assert "proxyd init --dir DIR" in done.stderr
    monkeypatch.setenv("PROXYD_CONFIG", str(tmp_path / "gone.toml"))
    assert "gone.toml" in CliRunner().invoke(cli.proxyctl, ["status"], prog_name="proxyctl").stderr


def test_a_broken_configuration_is_one_line_with_its_place(tmp_path: Path) -> None:
    config = setup.initialise(tmp_path / "made").config
    config.write_text(config.read_text().replace("drain_seconds = 30", "drian_seconds = 30"))
    done = CliRunner().invoke(cli.proxyd, ["check", "--config", str(config)], prog_name="proxyd")
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert re.match(rf"proxyd: {config}:\d+: drian_seconds", line)


def test_init_says_what_it_made_and_what_comes_next(tmp_path: Path) -> None:
    words = ["init", "--dir", str(tmp_path / "made"), "--ssh-port", "0", "--metrics-port", "0"]
    first = CliRunner().invoke(cli.proxyd, words, prog_name="proxyd")
    assert first.exit_code == 0
    assert f"made  {tmp_path}/made/proxyd.toml" in first.stdout
    assert f"proxyd serve --config {tmp_path}/made/proxyd.toml" in first.stdout
    again = CliRunner().invoke(cli.proxyd, words, prog_name="proxyd")
    assert "Everything is there already" in again.stdout
    assert (
        json.loads(CliRunner().invoke(cli.proxyd, [*words, "--json"], prog_name="proxyd").stdout)["created"]
        == []
    )


USABLE = """
[users.ann]
password = "{hash}"
[users.bob]
[targets.db1]
address = "10.0.0.1:22"
[targets.db1.accounts.root]
password = "file:{secret}"
key = "command:no-such-vault-program get x"
[targets.db1.accounts.app]
password = "env:PROXYD_TEST_NOT_SET"
[[grants]]
users = ["ann"]
targets = ["db1"]
accounts = ["root"]
"""


def test_check_finds_what_a_start_or_a_session_would_fail_on(tmp_path: Path) -> None:
    config = setup.initialise(tmp_path / "made").config

    def check(*words: str) -> Any:
        return CliRunner().invoke(cli.proxyd, ["check", "--config", str(config), *words], prog_name="proxyd")

    good = check()
    assert (good.exit_code, good.stdout) == (0, f"{config} is good: 0 users, 0 targets, 0 grants.\n")
    secret = tmp_path / "secret"
    secret.write_text("canary")
    secret.chmod(0o644)
    host_key = tmp_path / "made" / "keys" / "ssh_host_ed25519_key"
    host_key.chmod(0o640)
    config.write_text(
        config.read_text() + USABLE.format(hash=argon2.PasswordHasher().hash("x"), secret=secret)
    )
    found = check()
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    for wanted in (
        f"error: listen.ssh.host_keys: {host_key} can be read by others: chmod 600",
        "warning: users.bob: has neither a password nor a key: can't log in",
        "warning: users.bob: no grant names them or a role of theirs: they reach nothing",
        "error: targets.db1: no host key is pinned (host_keys, known_hosts or host_ca): every session to it is refused",
        f"error: targets.db1.accounts.root.password: {secret} can be read by others: chmod 600",
        "error: targets.db1.accounts.root.key: there is no program no-such-vault-program",
        "warning: targets.db1.accounts.app.password: the variable PROXYD_TEST_NOT_SET is not set here;",
    ):
        assert any(line.startswith(wanted) for line in lines), wanted
    assert "canary" not in found.output
    document = json.loads(check("--json").stdout)
    assert document["ok"] is False
    assert len(document["findings"]) == len(lines)
    host_key.write_text("garbage")
    (tmp_path / "made" / "keys" / "signing.pem").chmod(0o644)
    assert "is no private key" in check().stdout
    assert "signing key can be read by others" in check().stdout


def test_hash_password_reads_a_line_or_asks_twice() -> None:
    done = CliRunner().invoke(
        cli.proxyctl, ["users", "hash-password", "--stdin"], input="s3cret\n", prog_name="proxyctl"
    )
    assert argon2.PasswordHasher().verify(done.stdout.strip(), "s3cret")
    done = CliRunner().invoke(
        cli.proxyctl, ["users", "hash-password"], input="one\ntwo\nsame\nsame\n", prog_name="proxyctl"
    )
    assert argon2.PasswordHasher().verify(done.stdout.strip().splitlines()[-1], "same")
    assert "same\n" not in done.stdout
    done = CliRunner().invoke(
        cli.proxyctl, ["users", "hash-password", "--stdin"], input="\n", prog_name="proxyctl"
    )
    assert done.exit_code == 2


# ---------------------------------------------------------------- words and numbers


@pytest.mark.mission("M10")
@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (123_456, "123 KB"), (2_500_000, "2.5 MB"), (7 * 10**9, "7.0 GB"),
     (5 * 10**12, "5000 GB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.42, "0.4 s"), (-1, "0.0 s"), (12, "12 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"),
     (7800, "2 h 10 min"), (90_000, "1 d 1 h")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_positions() -> None:
    assert position(7_250_000) == "0:07.250"
    assert position(3_723_000_000) == "1:02:03.000"


@given(st.text())
def test_clean_text_can_not_act_on_a_terminal(text: str) -> None:
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", clean(text))


@pytest.mark.parametrize(
    ("text", "us"),
    [("12", 12_000_000), ("1:30", 90_000_000), ("1:02:03", 3_723_000_000), ("1h2m3s", 3_723_000_000), ("2m", 120_000_000),
     ("0.5", 500_000), ("1.5s", 1_500_000)],
)  # fmt: skip
def test_places(text: str, us: int) -> None:
    assert Place().convert(text, None, None) == us


@pytest.mark.parametrize("text", ["", "x", "1:2:3:4", "-5", "1h1h", "1 0"])
def test_no_places(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Place().convert(text, None, None)


def test_moments() -> None:
    now = datetime.now(UTC)
    context = click.Context(cli.proxyctl, obj=Run(Output("proxyctl", utc=True)))
    today = now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()

    def at(text: str) -> float:
        return float(Moment().convert(text, None, context))

    assert abs(at("2h") - (now.timestamp() - 7200)) < 5
    assert abs(at("3 d ago") - (now.timestamp() - 3 * 86400)) < 5
    assert at("today") == today
    assert at("yesterday") == today - 86400
    assert at("9:05") == today + 9 * 3600 + 300
    assert at("2026-11-21 14:00") == datetime(2026, 11, 21, 14, tzinfo=UTC).timestamp()
    assert at("2026-11-21T14:00:00+02:00") == datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
    with pytest.raises(click.BadParameter):
        at("soon")


# ---------------------------------------------------------------- what may reach the operator's terminal


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain \xc3\xa9\r\n\t\x08", b"plain \xc3\xa9\r\n\t\x08"),
        (
            b"\x1b[31;1mred\x1b[0m\x1b[2J\x1b[10;20H\x1b[?25l",
            b"\x1b[31;1mred\x1b[0m\x1b[2J\x1b[10;20H\x1b[?25l",
        ),
        (b"\x1b[?1049h\x1b[4h\x1b(0\x1b7\x1b8\x1bM", b"\x1b[?1049h\x1b[4h\x1b(0\x1b7\x1b8\x1bM"),
        (b"a\x1b[6nb\x1b[cc\x1b[>qd\x1b[?1$pe\x1b[21tf\x1bZg\x05h", b"abcdefgh"),  # asks for an answer
        (
            b"\x1b]52;c;QQ==\x07\x1b]0;title\x1b\\\x1bPq#0\x1b\\\x1b_G\x1b\\x",
            b"x",
        ),  # clipboard, title, graphics
        (
            b"\x1b[?1000h\x1b[?1006;25h\x1b[?2004h\x1b[?1h\x1b=\x1b[>4;1m\x1b[?u\x1b[2h",
            b"\x1b[?25h",
        ),  # mouse, keys
        (b"\x1b[3J\x1b[5i\x1b%@\x1bH\x1b[3g", b""),  # scrollback, printer, character coding, tabs
        (b"\x1b[6\x00n\x1b\x00[6n\x1b[\x1b[6n\x1b[ 6n", b""),  # the same, disguised
        (b"\xc2\x9b6n", b"6n"),
        (
            b"\xc2\x1b\x9b6n\xc2\x1b[6n\x9b6n",
            b"\x9b6n\x9b6n",
        ),  # no UTF-8, so nothing to a terminal that reads it
        (b"\x1b[3\n1m", b"\n\x1b[31m"),
        (b"\x1b]0;open\x1b[31mred", b"\x1b[31mred"),
        (b"\x1bc", RESTORE + CLEAR),
        (b"cut \x1b[3", b"cut "),
    ],
)
def test_only_what_paints_passes(data: bytes, shown: bytes) -> None:
    assert Harmless().feed(data) == shown
    bytewise = Harmless()
    assert b"".join(bytewise.feed(data[at : at + 1]) for at in range(len(data))) == shown


_SNIPPETS = st.lists(
    st.sampled_from([b"\x1b", b"[", b"]", b"P", b"6n", b"?", b"1000", b"h", b";", b"52", b"\x07", b"\\", b"\x00", b"\x18",
                     b" ", b"$", b"q", b"c", b"\xc2", b"\x9b", b"\xff", b"text", b"\x05", b"t"]), max_size=25
)  # fmt: skip
_ASKING = re.compile(
    rb"\x05|\x1b\[[0-9;?>=]*[ $]*[nctx]|\x1b\[>[0-9]*q|\x1bZ|\xc2[\x80-\x9f]|\x1b[\]P_^X]|\x1b\[\?[0-9;]*1000"
)


@given(_SNIPPETS, st.integers(1, 7))
def test_no_disguise_gets_through(snippets: list[bytes], cut: int) -> None:
    data = b"".join(snippets)
    whole, parts = Harmless(), Harmless()
    shown = whole.feed(data)
    assert not _ASKING.search(shown)
    assert b"".join(parts.feed(data[at : at + cut]) for at in range(0, len(data), cut)) == shown


def test_hostile_output_costs_no_more_than_its_length() -> None:
    for data in (
        b"\x1b" + b"\x00" * 400_000,
        b"\x1b[" + b"1;" * 200_000,
        b"\x1b]" + b"x" * 400_000,
        b"\x1b" * 400_000,
    ):
        began = time.process_time()
        Harmless().feed(data)
        assert time.process_time() - began < 2


def test_a_picture_keeps_enough_to_paint_and_no_more() -> None:
    picture = Picture()
    for number in range(60_000):
        picture.feed(b"line %06d of a long output, which scrolls by\r\n" % number)
    painted = picture.painted()
    assert len(painted) < 2 * KEPT_BYTES + 200
    assert painted.startswith(RESTORE + CLEAR)
    assert painted.endswith(b"line 059999 of a long output, which scrolls by\r\n")
    assert re.match(rb"line \d{6} of", painted[len(RESTORE + CLEAR) :])


def test_a_picture_stays_in_the_editor_it_is_in() -> None:
    picture = Picture()
    picture.feed(b"\x1b[?1049h")
    for _ in range(40):
        picture.feed(b"x" * 79_998 + b"\r\n")
    assert picture.painted().startswith(RESTORE + CLEAR + b"\x1b[?1049h")


def test_keys_are_keys_and_answers_are_none() -> None:
    keys = Keys()
    assert keys.feed(b"q \x1b[C\x1b[D\x1bOA\x1b[B\x03") == ["q", " ", "right", "left", "up", "down", "\x03"]
    assert keys.feed(b"\x1b[12;40R\x1b[?62;22c\x1b]11;rgb:dddd/bbbb/uuuu\x07\x1bP>|xterm(388)\x1b\\") == []
    assert keys.feed(b"\x1b") == []
    assert keys.feed(b"[C") == ["right"]
    assert keys.feed(b"\x1b]") == []
    assert keys.feed(b"x" * 300) == []  # no terminal's answer is that long: given up
    assert keys.feed(b"q") == ["q"]


# ---------------------------------------------------------------- which channel, and how


def pty(channel: int, columns: int = 80, rows: int = 24) -> tuple[int, Kind, int, Any]:
    return 0, Kind.REQUEST, channel, {"name": "pty-req", "side": "client", "columns": columns, "rows": rows}


def shown(scene: Scene, items: list[Record]) -> bytes:
    return b"".join(scene.take(record) for record in items)


def test_the_terminal_is_shown_and_a_later_one_when_it_closes() -> None:
    scene = Scene()
    items = records(
        (0, Kind.OUTPUT, 3, b"sftp"), pty(1, 100, 40), (0, Kind.OUTPUT, 1, b"one"), pty(2), (0, Kind.OUTPUT, 2, b"two"),
        (0, Kind.RESIZE, 1, [120, 50]), (0, Kind.CHANNEL, 1, {"event": "close"}), pty(4), (0, Kind.OUTPUT, 4, b"four"),
    )  # fmt: skip
    assert shown(scene, items[:6]) == b"sftpone"
    assert scene.size == (120, 50)
    assert shown(scene, items[6:]) == b"four"
    assert shown(Scene(2), items) == b"two"


def test_without_a_terminal_line_feeds_become_lines() -> None:
    scene = Scene()
    assert (
        shown(scene, records((0, Kind.OUTPUT, 1, b"a\nb\r\n"), (0, Kind.ERROR_OUTPUT, 1, b"c\n")))
        == b"a\r\nb\r\nc\r\n"
    )
    assert Scene().raw(records((0, Kind.OUTPUT, 1, b"a\nb"))[0]) == b"a\nb"


# ---------------------------------------------------------------- the player


class PlayedScreen:
    """A screen that keeps what it is given, and when; a keyboard that presses keys at certain waits; their clock."""

    def __init__(self, presses: dict[int, list[str]] | None = None) -> None:
        self.now = 100.0
        self.written: list[tuple[float, bytes]] = []
        self.titles: list[str] = []
        self.notes: list[str] = []
        self._presses = presses or {}
        self._waits = 0

    def monotonic(self) -> float:
        return self.now

    def size(self) -> tuple[int, int]:
        return 80, 24

    def write(self, data: bytes) -> None:
        self.written.append((self.now - 100, data))

    def title(self, text: str) -> None:
        self.titles.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def keys(self, seconds: float | None, *_: int) -> tuple[list[str], bool]:
        self._waits += 1
        if self._waits in self._presses:
            return self._presses.pop(self._waits), False
        self.now += seconds or 0
        return [], False

    def when(self, text: bytes) -> float:
        return next(at for at, data in self.written if text in data)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Play records on a screen, on the screen's own clock; say whether it came to the end."""

    def run(screen: PlayedScreen, items: list[Record], pace: Pace, more: Any = None) -> bool:
        monkeypatch.setattr(cli_view, "time", screen)
        view = View(screen, "alice on root@db1", None)  # type: ignore[arg-type]
        return Player(lambda: iter(items), view, pace, items[-1].at_us, more).play()

    return run


TIMED = records(
    pty(1), (100_000, Kind.OUTPUT, 1, b"first"), (300_000, Kind.OUTPUT, 1, b"second"), (10_300_000, Kind.OUTPUT, 1, b"late")
)  # fmt: skip


@pytest.mark.mission("M6", "M12")
def test_replay_keeps_time_and_cuts_pauses(play: Any) -> None:
    screen = PlayedScreen()
    assert play(screen, TIMED, Pace(speed=1))
    assert [screen.when(text) for text in (b"first", b"second", b"late")] == pytest.approx([0.1, 0.3, 10.3])
    screen = PlayedScreen()
    assert play(screen, TIMED, Pace(speed=1, skip_idle_us=400_000))
    assert [screen.when(text) for text in (b"first", b"second", b"late")] == pytest.approx([0.1, 0.3, 0.7])


def test_replay_at_twice_the_speed(play: Any) -> None:
    screen = PlayedScreen()
    assert play(screen, TIMED, Pace(speed=2))
    assert [screen.when(text) for text in (b"first", b"second", b"late")] == pytest.approx([0.05, 0.15, 5.15])


def test_replay_from_a_time_begins_with_the_picture_of_then(play: Any) -> None:
    screen = PlayedScreen()
    assert play(screen, TIMED, Pace(start_us=10_200_000))
    assert screen.written[0][1] == RESTORE + CLEAR + b"firstsecond"
    assert screen.written[1][1] == b"late"


def test_seeking_pausing_and_leaving(play: Any) -> None:
    screen = PlayedScreen(
        {3: ["right"], 4: ["left"], 5: [" "], 6: [".", "."], 7: ["up", "down", "-", "?"], 8: ["q"]}
    )
    assert play(screen, TIMED, Pace()) is False
    painted = [data for _, data in screen.written if data.startswith(RESTORE)]
    assert painted[0] == RESTORE + CLEAR
    assert painted[1].endswith(b"firstsecond")  # five seconds on
    assert b"second" not in painted[2]  # and back
    assert any("paused" in title for title in screen.titles)
    assert any("0.5x" in title for title in screen.titles)
    assert screen.notes == ["space pause   . next   left/right 5 s   up/down speed   r repaint   q leave"]


def test_following_goes_on_to_the_end_of_the_session(play: Any) -> None:
    grown = [
        *TIMED[:3],
        Record(4, 310_000, Kind.OUTPUT, 1, b"grown"),
        Record(5, 320_000, Kind.END, 0, {"reason": "closed"}),
    ]
    asked: list[tuple[int, int]] = []

    def more(seq: int, at_us: int) -> Iterator[Record]:
        asked.append((seq, at_us))
        return iter(grown[seq : seq + (1 if len(asked) > 1 else 0)])

    screen = PlayedScreen()
    assert play(screen, TIMED[:3], Pace(speed=10), more)
    assert screen.when(b"grown")
    assert asked == [(3, 300_000), (3, 300_000), (4, 310_000)]


# ---------------------------------------------------------------- the log


def told(*items: tuple[int, Kind, int, Any]) -> list[tuple[str, str]]:
    return [(entry.kind, entry.text) for entry in entries(records(*items))]


def test_every_kind_that_tells_something_is_told() -> None:
    found = told(
        (0, Kind.REQUEST, 1, {"name": "exec", "side": "client", "command": b"tar cz /etc"}),
        (1, Kind.REQUEST, 1, {"name": "x11-req", "side": "client", "refused": "policy"}),
        (2, Kind.REQUEST, 1, {"name": "env", "side": "client"}),
        (3, Kind.OMITTED, 1, {"why": "rsync", "input": 10, "output": 2000}),
        (4, Kind.LOST, 0, {"why": "disk", "records": 3}),
        (5, Kind.NOTICE, 1, "Session interaction revoked"),
        (6, Kind.EXIT, 1, {"signal": "TERM"}),
        (7, Kind.STATEMENT, 0, {"event": "statement", "n": 1, "text": "select 1"}),
        (7, Kind.STATEMENT, 0, {"event": "result", "n": 1, "tag": "SELECT 1"}),
        (8, Kind.END, 0, {"reason": "dropped", "by": "root", "error": "You have been disconnected"}),
    )
    assert found == [
        ("command", "tar cz /etc"), ("request", "x11-req (refused)"), ("omitted", "10 B in, 2.0 KB out: rsync"),
        ("lost", "3 records: disk"), ("notice", "Session interaction revoked"), ("exit", "signal TERM"),
        ("statement", "select 1"), ("end", "dropped by root: You have been disconnected"),
    ]  # fmt: skip


# ---------------------------------------------------------------- tables


def test_a_narrow_terminal_loses_the_least_important_columns() -> None:
    columns = [Column("ID", str), Column("TYPE", str, keep=1), Column("TEXT", str, keep=5, fold=30)]
    cells = [["12345678", "ssh", "x" * 200]]
    assert _fitting(columns, cells, 80) == [0, 1, 2]
    assert _fitting(columns, cells, 42) == [0, 2]
    assert _fitting(columns, cells, 20) == [0]


def test_colours_go_where_they_are_seen_and_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Tty())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Output("x").console().no_color is False
    assert Output("x", color=False).console().no_color is True
    monkeypatch.setenv("NO_COLOR", "1")
    assert Output("x").console().no_color is True


def test_files_an_export_leaves_are_private(tmp_path: Path) -> None:
    def lines() -> Iterator[str]:
        yield "one\n"
        raise ValueError

    with pytest.raises(ValueError):
        write_private(tmp_path / "a", lines())
    assert list(tmp_path.iterdir()) == []
    write_private(tmp_path / "a", ["x\n"])
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert (tmp_path / "a").read_text() == "x\n"
