"""proxyctl screen, on recordings the real recorder has made: any moment, from the index or without it, in every form."""

from __future__ import annotations

import json
import stat
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from unit.control.made import record

from proxyd import cli
from proxyd.cli_derive import Decoder
from proxyd.config import load
from proxyd.recorder.record import Kind
from proxyd.recorder.replay import Recording
from proxyd.recorder.sidecar import ASIDE, NAME, Derived, Sidecar, Writer, packed, path_of

pytestmark = pytest.mark.mission("M6", "M12")

APART_S = 0.002  # each record has a moment of its own
SESSION_ID = "5c5c5c5c" + "0" * 24
META = {"id": SESSION_ID, "protocol": "ssh", "user": "alice", "user_ip": "192.0.2.7", "how": "password", "target": "db1",
        "host": "10.0.0.5:22", "login": "root", "started_at": 1_795_000_000.0}  # fmt: skip
SHELL = (
    (Kind.CHANNEL, {"event": "open", "type": "session"}, 1),
    (Kind.REQUEST, {"name": "pty-req", "side": "client", "term": "xterm", "columns": 40, "rows": 6}, 1),
    (
        Kind.OUTPUT,
        "\x1b]0;db1: <root> \x07$ \x1b[31mred & <b>\x1b[0m \x1b[1;44mblue\x1b[0m 字 \u202e!\r\n".encode(),
        1,
    ),
    (Kind.CHANNEL, {"event": "open", "type": "session"}, 2),
    (Kind.REQUEST, {"name": "exec", "side": "client", "command": b"id"}, 2),
    (Kind.OUTPUT, b"uid=0\n", 2),
    (Kind.OUTPUT, b"x" * (300 << 10) + b"\x1b[2J\x1b[Hlast", 1),
)


@pytest.fixture
def recorded(played: Any, tmp_path: Path) -> Path:
    """Record a session; give the directory `proxyd init` made for it."""
    return record(played, tmp_path / "made", META, SHELL, apart_s=APART_S)


def recording(recorded: Path) -> Recording:
    (folder,) = recorded.rglob(SESSION_ID)
    return Recording.open(folder, load(recorded / "proxyd.toml").recording.identity)


def indexed(recorded: Path) -> Sidecar:
    """Make the index as the administrator does."""
    named = ["index", SESSION_ID, "--config", str(recorded / "proxyd.toml")]
    done = CliRunner().invoke(cli.proxyd, named, prog_name="proxyd")
    assert done.exit_code == 0, done.stderr
    assert "made" in done.stdout
    return recording(recorded).sidecar()


def seen(played: Any) -> list[str]:
    return [entry.fields["kind"] for entry in played.ledger.viewers(SESSION_ID)]


def test_the_last_moment_is_printed_and_told_to_the_ledger(ctl: Any, played: Any) -> None:
    assert ctl("screen", "5c5c").stdout == "last\n"
    assert ctl("screen", "5c5c", "--channel", "2").stdout == "uid=0\n"
    assert seen(played) == ["replay", "replay"]
    done = ctl("screen", "5c5c", "--channel", "9", status=1)
    assert "channel 9 showed nothing up to then; channels that did: 1, 2" in done.stderr
    assert "no terminal showed anything" in ctl("screen", "5c5c", "--at", "0", status=1).stderr


def test_any_moment_is_the_same_with_and_without_the_index(ctl: Any, recorded: Path) -> None:
    moments = [f"{record.at_us / 1e6:.6f}" for record in recording(recorded).records()][3:-1]

    def every() -> list[str]:
        return [ctl("screen", "5c5c", "--at", at).stdout for at in moments]

    straight = every()
    assert straight[0] == "$ red & <b> blue 字 \ufffd!\n" == straight[2]
    assert straight[-1] == "last\n"
    assert len(indexed(recorded).keyframes) == 1
    assert every() == straight


def test_an_index_nobody_can_go_on_from_is_said_and_not_needed(ctl: Any, recorded: Path) -> None:
    sidecar = indexed(recorded)
    items = list(sidecar.items())
    writer = Writer((found := recording(recorded)).path, SESSION_ID, found.dek)
    for item in items:
        body = item.body | {"saved": packed(b"no state")} if item.kind == Derived.TERMINAL else item.body
        writer.add([item._replace(body=body)])
    writer.finish()
    done = ctl("screen", "5c5c")
    assert done.stdout == "last\n"
    assert "the index can't be gone on from; proxyd index 5c5c" in done.stderr


def test_an_index_is_made_anew_with_equal_content(recorded: Path) -> None:
    first = list(indexed(recorded).items())
    path_of(recording(recorded).path).unlink()
    assert list(indexed(recorded).items()) == first
    texts = [item.body for item in first if item.kind == Derived.TEXT and item.body[0] in ("title", "screen")]
    assert texts == [
        ["title", "db1: <root>"],
        ["screen", "$ red & <b> blue 字 !"],
        ["screen", "last"],
        ["screen", "uid=0"],
    ]


def test_a_session_that_lives_is_read_from_the_last_keyframe_made_so_far(
    ctl: Any, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = indexed(recorded)
    path = path_of(recording(recorded).path)
    path.rename(path.with_name(NAME + ASIDE))
    begun: list[int] = []
    shown_at = Decoder.shown_at

    def noted(self: Decoder, read: Recording, keyframe: Any, *rest: Any) -> Any:
        begun.append(keyframe.at_us if keyframe else 0)
        return shown_at(self, read, keyframe, *rest)

    monkeypatch.setattr(Decoder, "shown_at", noted)
    shown = ctl("--json", "screen", "5c5c")
    assert json.loads(shown.stdout)["lines"][0] == "last"
    assert "index" not in shown.stderr
    assert begun == [whole.keyframes[-1]] != [0]


def test_it_is_written_with_colours_as_svg_and_as_png(ctl: Any, recorded: Path, tmp_path: Path) -> None:
    at = f"{list(recording(recorded).records())[3].at_us / 1e6:.6f}"
    shown = ctl("screen", "5c5c", "--at", at, "--format", "ansi").stdout
    assert shown == "$ \x1b[0;31mred & <b>\x1b[0m \x1b[0;1;44mblue\x1b[0m 字 \ufffd!\n"

    svg = tmp_path / "x.svg"
    done = ctl("screen", "5c5c", "--at", at, "-o", str(svg))
    assert done.stdout.startswith(f"{svg}: 40 x 6, at 0:00.")
    assert done.stdout.endswith(", db1: <root> \n")
    assert stat.S_IMODE(svg.stat().st_mode) == 0o600
    texts = ["".join(one.itertext()) for one in ET.parse(svg).iter() if one.tag.endswith("}text")]
    assert texts == ["$ ", "red & <b>", "blue", "字", " \ufffd", "!"]
    assert svg.read_text().count('xml:space="preserve"') == len(texts)  # browsers keep blanks of no others
    assert "add --force" in ctl("screen", "5c5c", "-o", str(svg), status=1).stderr

    png = tmp_path / "x.png"
    told = json.loads(ctl("--json", "screen", "5c5c", "--at", at, "-o", str(png)).stdout)
    assert (told["format"], told["path"], told["bytes"]) == ("png", str(png), png.stat().st_size)
    assert (told["columns"], told["rows"], told["channel"], told["title"]) == (40, 6, 1, "db1: <root> ")
    with Image.open(png) as picture:
        assert len(picture.getcolors(1 << 16) or ()) > 10


def test_programs_get_what_stood_there(ctl: Any) -> None:
    told = json.loads(ctl("--json", "screen", "5c5c").stdout)
    assert told["lines"] == ["last", "", "", "", "", ""]
    assert told["cursor"] == {"column": 4, "row": 0, "visible": True}
    assert told["channels"] == [1, 2]
    assert told["full_screen"] is False


def test_it_wants_a_terminal_a_moment_inside_and_a_file_for_a_picture(ctl: Any, played: Any) -> None:
    assert "name a file for it with -o" in ctl("screen", "5c5c", "--format", "png", status=2).stderr
    assert "not that long" in ctl("screen", "5c5c", "--at", "1000000h", status=2).stderr
    for protocol, said in (
        ("rdp", "proxyctl screenshot 7e7e7e7e -o FILE"),
        ("mysql", "proxyctl log 7e7e7e7e"),
    ):
        other = played.begin(id="7e7e7e7e" + "0" * 24, protocol=protocol)
        assert said in ctl("screen", "7e7e", status=2).stderr
        played.end(other)
    assert seen(played) == []


def test_it_needs_the_permission_of_a_replay(ctl: Any, played: Any) -> None:
    played.operate_as("PAM Operator")
    assert "sessions.replay" in ctl("screen", "5c5c", status=1).stderr
