"""What is replayed is what the client sent and saw, byte for byte, for sessions nobody wrote by hand."""

from __future__ import annotations

import base64
import json
import os
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from proxyd.recorder.record import Kind
from tests.e2e.lab import Lab
from tests.e2e.tape import channels, of_kind
from tests.peers import Terminal
from tests.peers.clients import OpenSSH

pytestmark = [pytest.mark.mission("M16"), pytest.mark.timeout(3600)]

SSH = OpenSSH()
CLI_EVERY = 10  # every so many sessions are exported with proxyctl too: a second an interpreter start
SEED = int(os.environ.get("FIDELITY_SEED", "20"))
TEXTS = ("plain ascii ", "grüße ", "日本語 ", "\x1b[31mred\x1b[0m ", "tab\tbell\x07 ")


@dataclass
class Said:
    """What one client knows of its session."""

    sent: bytes
    shown: bytes
    errors: bytes
    code: int


def blob(draw: Random, limit: int) -> bytes:
    """Text, binary, one repeated byte or nothing."""
    size = draw.choice((0, 1, draw.randrange(100), draw.randrange(limit)))
    match draw.randrange(4):
        case 0:
            return "".join(draw.choice(TEXTS) for _ in range(size // 10)).encode()
        case 1:
            return bytes([draw.randrange(256)]) * size
        case _:
            return draw.randbytes(size)


def script(draw: Random, directory: Path) -> str:
    """A shell script of random prints to both outputs, pauses and an exit status."""
    steps = []
    for number in range(draw.randrange(1, 8)):
        path = directory / f"part{number}"
        path.write_bytes(blob(draw, 60_000))
        steps.append(f"cat {shlex.quote(str(path))}" + draw.choice(("", " >&2")))
        if draw.random() < 0.2:
            steps.append(f"sleep 0.0{draw.randrange(1, 9)}")
    if draw.random() < 0.6:
        steps.insert(draw.randrange(len(steps) + 1), "cat")
    steps.append(f"exit {draw.choice((0, 1, draw.randrange(256)))}")
    return "; ".join(steps)


def run_plain(draw: Random, lab: Lab, directory: Path) -> Said:
    """Without a terminal: input, both outputs, status. Input counts only if the command reads it to its end."""
    command = script(draw, directory)
    stdin = blob(draw, 100_000) if "cat;" in command.replace("cat /", "") else b""
    done = SSH.execute(lab.proxied(directory), command, stdin)
    assert done.code is not None
    return Said(stdin, done.out, done.err, done.code)


def run_terminal(draw: Random, lab: Lab, directory: Path) -> Said:
    """On a terminal: typed lines, each answered, then an end."""
    at = lab.proxied(directory)
    code = draw.randrange(256)
    command = (
        f'echo ready; while read -r line; do case $line in end) exit {code};; esac; echo "<$line>"; done'
    )
    sent = bytearray()
    argv = SSH.argv(at, "-q", "-e", "none", command=command, terminal=True)
    with Terminal(
        argv, env=SSH.env(at), rows=draw.randrange(5, 60), columns=draw.randrange(300, 400)
    ) as terminal:
        terminal.expect("ready")
        for number in range(draw.randrange(1, 6)):
            line = draw.choice(TEXTS[:3]).strip() + str(number)
            typed = line.encode() + b"\r"
            if draw.random() < 0.3:
                typed = b"wrong" + b"\x7f" * 5 + typed
            terminal.type(typed)
            sent += typed
            terminal.expect(f"<{line}>".encode())
        terminal.type(b"end\r")
        sent += b"end\r"
        status = terminal.wait()
    assert status == code
    return Said(bytes(sent), bytes(terminal.seen), b"", status)


def exported(lab: Lab, session: str, directory: Path) -> dict[str, bytes]:
    """The same through proxyctl export: one JSON object a record."""
    path = directory / "export.jsonl"
    lab.proxyd.ctl("export", session, "--format", "jsonl", "--input", "-o", str(path))
    found = {"input": b"", "output": b"", "error_output": b""}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["kind"] in found:
            found[record["kind"]] += base64.b64decode(record["body"]["base64"])
    return found


def check(number: int, lab: Lab, directory: Path) -> None:
    draw = Random(f"{SEED}.{number}")
    directory.mkdir()
    before = lab.proxyd.ids()
    said = (run_terminal if draw.random() < 0.3 else run_plain)(draw, lab, directory)
    row = lab.proxyd.newest(before)
    recording = lab.proxyd.recording(row["id"])
    records = list(recording.records())
    assert recording.damage is None
    (heard,) = [one for one in channels(records).values() if one.exit]
    assert bytes(heard.sent) == said.sent, f"session {number}: input"
    assert bytes(heard.shown) == said.shown, f"session {number}: output"
    assert bytes(heard.errors) == said.errors, f"session {number}: error output"
    assert heard.exit == {"status": said.code}
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert all(one.at_us <= two.at_us for one, two in pairwise(records))
    assert (row["input_bytes"], row["output_bytes"]) == (len(said.sent), len(said.shown) + len(said.errors))
    assert len(of_kind(records, Kind.END)) == 1
    if number % CLI_EVERY == 0:
        assert exported(lab, row["id"], directory) == {
            "input": said.sent,
            "output": said.shown,
            "error_output": said.errors,
        }
        assert lab.proxyd.ctl("verify", row["id"]).code == 0


@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_replay_is_what_the_client_sent_and_saw(count: int, lab: Lab, short: Path) -> None:
    for number in range(count):
        check(number, lab, short / str(number))


@pytest.mark.mission("M12")
def test_a_terminal_session_is_a_cast_any_player_reads(lab: Lab, short: Path) -> None:
    before = lab.proxyd.ids()
    draw = Random(3)
    said = run_terminal(draw, lab, short)
    row = lab.proxyd.newest(before)
    path = short / "session.cast"
    lab.proxyd.ctl("export", row["id"], "--format", "asciicast", "-o", str(path))
    header, *events = (json.loads(line) for line in path.read_text().splitlines())
    assert header["version"] == 3
    assert header["term"]["type"] == "xterm-256color"
    assert "".join(text for _, code, text in events if code == "o") == said.shown.decode()
    assert events[-1][1:] == ["x", str(said.code)]
