"""Exports are what their formats say, byte for byte, and hold what was on the screen."""

from __future__ import annotations

import base64
import json
import random
from itertools import pairwise
from pathlib import Path

import pytest

from proxyd.errors import FormatError
from proxyd.recorder.export import export, find_terminal
from proxyd.recorder.forms import FORMS, choose
from proxyd.recorder.record import Kind
from proxyd.recorder.replay import Recording

PTY = {"name": "pty-req", "side": "client", "term": "xterm-256color", "columns": 100, "rows": 30}
SHELL = [
    (10_000, Kind.FINDING, 0, {"code": "weak", "severity": "low", "text": "the target offers ssh-rsa"}),
    (500_000, Kind.CHANNEL, 2, {"event": "open", "type": "session"}),
    (500_001, Kind.REQUEST, 2, PTY),
    (500_001, Kind.RESIZE, 2, [100, 30]),
    (500_002, Kind.REQUEST, 2, {"name": "shell", "side": "client"}),
    (1_500_000, Kind.OUTPUT, 2, "$ écho ☃".encode()[:-1]),
    (1_500_001, Kind.INPUT, 2, b"ls\r"),
    (1_500_002, Kind.OUTPUT, 2, "☃".encode()[-1:] + b"\r\n"),
    (2_000_000, Kind.CONTROL, 0, {"action": "watch", "by": "ann", "reason": ""}),
    (2_100_000, Kind.CONTROL, 0, {"action": "block", "by": "ann", "reason": "looks odd"}),
    (2_100_000, Kind.NOTICE, 2, "Session interaction revoked"),
    (2_200_000, Kind.REFUSED, 2, b"secret"),
    (2_300_000, Kind.CONTROL, 0, {"action": "unblock", "by": "ann", "reason": ""}),
    (2_400_000, Kind.RESIZE, 2, [100, 30]),
    (2_500_000, Kind.RESIZE, 2, [90, 25]),
    (2_600_000, Kind.OUTPUT, 5, b"another channel"),
    (12_500_000, Kind.EXIT, 2, {"status": 3}),
    (12_600_000, Kind.OUTPUT, 2, b"bye \xe2\x98"),
    (12_700_000, Kind.CONTROL, 0, {"action": "drop", "by": "bob", "reason": ""}),
    (12_700_000, Kind.END, 0, {"reason": "dropped", "by": "bob", "error": ""}),
]


def recording(press, *parts) -> Recording:
    return Recording.open(press.segments(*parts), press.identity)


@pytest.mark.mission("M6")
def test_asciicast_v3_is_as_its_specification_says(press) -> None:
    lines = list(
        export(recording(press, SHELL[:9], SHELL[9:]), "asciicast", typed=lambda _: [(1_500_001, "ls")])
    )
    assert all(line.endswith("\n") for line in lines)
    assert json.loads(lines[0]) == {
        "version": 3,
        "term": {"cols": 100, "rows": 30, "type": "xterm-256color"},
        "timestamp": 1_700_000_000,
        "title": "alice as root on db-prod",
    }
    assert "".join(lines[1:]) == (
        '[0.0, "m", "finding (low): the target offers ssh-rsa"]\n'
        '[1.0, "o", "$ écho "]\n'
        '[0.000001, "i", "ls\\r"]\n'
        '[0.000001, "o", "☃\\r\\n"]\n'
        '[0.599998, "m", "interaction blocked by ann: looks odd"]\n'
        '[0.0, "o", "\\r\\nSession interaction revoked\\r\\n"]\n'
        '[0.2, "m", "interaction released by ann"]\n'
        '[0.2, "r", "90x25"]\n'
        '[10.1, "o", "bye "]\n'
        '[0.1, "m", "dropped by bob"]\n'
        '[0.0, "o", "\ufffd"]\n'
        '[0.0, "x", "3"]\n'
    )


def test_input_is_left_out_unless_asked_for(press) -> None:
    session = recording(press, SHELL)
    lines = list(export(session, "asciicast"))
    assert '"i"' not in "".join(lines)
    assert "secret" not in "".join(lines)
    shown = [json.loads(line) for line in export(session, "jsonl")]
    assert [line["body"] for line in shown if line["kind"] in ("input", "refused")] == [
        {"bytes": 3},
        {"bytes": 6},
    ]


def test_asciicast_v2_has_times_since_the_start(press) -> None:
    lines = [json.loads(line) for line in export(recording(press, SHELL), "asciicast2")]
    assert lines[0] == {
        "version": 2,
        "width": 100,
        "height": 30,
        "timestamp": 1_700_000_000,
        "title": "alice as root on db-prod",
        "env": {"TERM": "xterm-256color"},
    }
    assert [tuple(line[:2]) for line in lines[1:]] == [
        (0.0, "m"), (1.0, "o"), (1.000002, "o"), (1.6, "m"), (1.6, "o"), (1.8, "m"), (2.0, "r"), (12.1, "o"), (12.2, "m"), (12.2, "o"),
    ]  # fmt: skip


def test_text_is_whole_wherever_records_are_cut(press) -> None:
    text = "日本語 ☃ é 🦀 plain\r\n" * 40
    data = text.encode()
    draw = random.Random(11)
    cuts = [0, *sorted(draw.sample(range(1, len(data)), 200)), len(data)]
    records = [(i * 1000, Kind.OUTPUT, 1, data[a:b]) for i, (a, b) in enumerate(pairwise(cuts), 1)]
    records.insert(0, (1, Kind.REQUEST, 1, PTY))
    events = [json.loads(line) for line in list(export(recording(press, records), "asciicast"))[1:]]
    assert "".join(e[2] for e in events if e[1] == "o") == text
    assert sum(round(e[0] * 1e6) for e in events) <= 200_999


def test_the_two_outputs_of_a_channel_do_not_mix_their_characters(press) -> None:
    snowman = "☃".encode()
    records = [
        (1, Kind.OUTPUT, 1, snowman[:1]),
        (2, Kind.ERROR_OUTPUT, 1, snowman[:2]),
        (3, Kind.OUTPUT, 1, snowman[1:]),
        (4, Kind.ERROR_OUTPUT, 1, snowman[2:]),
    ]
    events = [json.loads(line) for line in list(export(recording(press, records), "asciicast"))[1:]]
    assert [e[2] for e in events] == ["☃", "☃"]


def test_without_a_terminal_line_feeds_become_new_lines(press) -> None:
    records = [
        (1, Kind.REQUEST, 1, {"name": "pty-req", "refused": "no"} | PTY),
        (2, Kind.REQUEST, 1, {"name": "exec", "side": "client", "command": b"ls /\xff"}),
        (3, Kind.OUTPUT, 1, b"a\nb\r\nc\r"),
        (4, Kind.OUTPUT, 1, b"\nd\n"),
        (5, Kind.OUTPUT, 1, b"\n"),
        (6, Kind.EXIT, 1, {"signal": "TERM"}),
    ]
    header, *events = [json.loads(line) for line in export(recording(press, records), "asciicast")]
    assert header["command"] == "ls /\ufffd"
    assert header["term"] == {"cols": 80, "rows": 24}
    assert "".join(e[2] for e in events if e[1] == "o") == "a\r\nb\r\nc\r\nd\r\n\r\n"
    assert events[-1][1:] == ["x", "143"]


@pytest.mark.parametrize(
    ("body", "status"), [({"status": 0}, "0"), ({"signal": "KILL"}, "137"), ({"signal": "WAT"}, "255")]
)
def test_the_exit_status_is_a_shells(press, body: dict, status: str) -> None:
    records = [(1, Kind.OUTPUT, 1, b"x"), (2, Kind.EXIT, 1, body)]
    assert list(export(recording(press, records), "asciicast"))[-1] == f'[0.000001, "x", "{status}"]\n'


def test_the_channel_shown_is_the_first_with_a_terminal(press) -> None:
    records = [
        (1, Kind.CHANNEL, 1, {"event": "open", "type": "direct-tcpip"}),
        (2, Kind.OUTPUT, 3, b"exec"),
        (3, Kind.REQUEST, 4, PTY | {"columns": 0, "rows": 100_000}),
        (4, Kind.OUTPUT, 4, b"shell"),
        (5, Kind.REQUEST, 6, PTY),
        (6, Kind.OUTPUT, 6, b"second shell"),
    ]
    session = recording(press, records)
    assert find_terminal(session.records()).channel == 4
    assert find_terminal(session.records()).size == (80, 65535)
    assert find_terminal(session.records(), 3).channel == 3
    assert '"second shell"' in "".join(export(session, "asciicast", channel=6))
    with pytest.raises(FormatError, match="channel 1 showed nothing; channels that did: 3, 4, 6"):
        list(export(session, "asciicast", channel=1))


def test_what_can_not_be_shown_is_one_clear_sentence(press) -> None:
    session = recording(press, [(1, Kind.PDU, 0, b"rdp")])
    with pytest.raises(FormatError, match="no channel of this recording showed anything"):
        list(export(session, "asciicast"))
    with pytest.raises(FormatError, match=r"gif is none of the forms .* asciicast, asciicast2, jsonl"):
        export(session, "gif")
    assert FORMS == ("asciicast", "asciicast2", "jsonl", "csv")
    with pytest.raises(FormatError, match="pyrdp is of desktops, and this is a session of ssh"):
        choose("pyrdp", "ssh")
    with pytest.raises(FormatError, match="webm is a film of a screen, and a mysql session has statements"):
        choose("webm", "mysql")
    assert (choose("webm", "ssh"), choose("mp4", "ssh")) == ("webm", "mp4")
    with pytest.raises(FormatError, match="a desktop is no terminal: export it as webm, mp4, pyrdp, jsonl"):
        choose("asciicast", "rdp")
    assert [choose("", protocol) for protocol in ("ssh", "mysql", "rdp")] == ["asciicast", "jsonl", "webm"]
    assert choose("jsonl", "rdp") == "jsonl"


def test_jsonl_holds_every_record_exactly(press) -> None:
    records = [
        *SHELL,
        (
            13_000_000,
            Kind.STATEMENT,
            7,
            {"text": "select 1", "parameters": [b"\xff\x00", None, 1.5, True], b"k": {1: []}},
        ),
    ]
    session = recording(press, records)
    lines = [json.loads(line) for line in export(session, "jsonl", typed=lambda _: ())]
    assert [(line["seq"], line["at_us"], line["kind"], line["channel"]) for line in lines] == [
        (r.seq, r.at_us, r.kind.name.lower(), r.channel) for r in session.records()
    ]
    for line, record in zip(lines, session.records(), strict=True):
        if isinstance(record.body, bytes):
            assert base64.b64decode(line["body"]["base64"]) == record.body
            assert line["body"].get("text") == (record.body.decode() if record.body.isascii() else None)
    assert lines[-1]["body"] == {
        "text": "select 1",
        "parameters": [{"base64": "/wA="}, None, 1.5, True],
        "k": {"1": []},
    }


def test_lost_records_are_marked(press) -> None:
    records = [(1, Kind.OUTPUT, 1, b"x"), (5_000_000, Kind.LOST, 0, {"why": "no space", "records": 12})]
    assert (
        list(export(recording(press, records), "asciicast"))[-1]
        == '[4.999999, "m", "not recorded: 12 records (no space)"]\n'
    )


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_recording_is_exported_as_far_as_it_goes(press, cut: int) -> None:
    path = press.segments(SHELL)
    file: Path = path / "000000.pxr"
    file.write_bytes(file.read_bytes()[: -300 - cut])
    lines = list(export(Recording.open(path, press.identity), "asciicast"))
    assert '"m", "interaction blocked by ann: looks odd"' in "".join(lines)
