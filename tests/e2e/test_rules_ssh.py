"""Rules on what is run over SSH: commands and typed lines, with OpenSSH on both sides."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyd.recorder.record import Kind
from tests.e2e.lab import Lab, ssh
from tests.e2e.tape import of_kind
from tests.peers import Terminal
from tests.peers.clients import OpenSSH

pytestmark = [pytest.mark.mission("M11"), pytest.mark.timeout(240)]

SSH = OpenSSH()
RULES = [
    {"name": "own-files", "action": "allow", "pattern": r"touch /tmp/allowed-\w+"},
    {"name": "no-touch", "action": "block", "pattern": r"\btouch\b", "severity": "high"},
    {"name": "look", "action": "flag", "pattern": r"whoami", "severity": "low"},
    {"name": "twice", "action": "interrupt", "pattern": r"uptime", "after": 2},
    {"name": "slow", "action": "block", "pattern": r"^(x+x+)+y$"},
]
NOT_ALLOWED = "The rule no-touch does not allow this."


def ruled(own_lab: Callable[..., Lab], rules: list[dict[str, Any]]) -> Lab:
    return own_lab(lambda lab: lab.proxyd.settings.__setitem__("rules", rules))


def ran(lab: Lab, directory: Path, command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    argv = SSH.argv(lab.proxied(directory), command=command)
    return subprocess.run(
        argv, env=SSH.env(lab.proxied(directory)), input=stdin, capture_output=True, timeout=60, check=False
    )


def newest(lab: Lab, before: set[str]) -> list[Any]:
    return list(lab.proxyd.recording(lab.proxyd.newest(before)["id"]).records())


def test_commands(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = ruled(own_lab, RULES)
    marker = short / "marker"

    passed = ran(lab, short, "cat; exit 7", b"in")
    assert (passed.returncode, passed.stdout, passed.stderr) == (7, b"in", b"")

    before = lab.proxyd.ids()
    refused = ran(lab, short, f"touch {marker}; echo ran")
    assert (refused.returncode, refused.stdout) == (255, b"")
    assert NOT_ALLOWED.encode() in refused.stderr
    assert not marker.exists()
    records = newest(lab, before)
    (asked,) = [body for body in of_kind(records, Kind.REQUEST) if body["name"] == "exec"]
    assert (asked["refused"], asked["command"]) == (NOT_ALLOWED, f"touch {marker}; echo ran".encode())
    (finding,) = of_kind(records, Kind.FINDING)
    assert (finding["code"], finding["severity"]) == ("rule-no-touch", "high")

    before = lab.proxyd.ids()
    assert ran(lab, short, "whoami").returncode == 0
    assert [body["code"] for body in of_kind(newest(lab, before), Kind.FINDING)] == ["rule-look"]
    assert lab.proxyd.metric("proxyd_rule_hits_total") == 2

    slow = ran(lab, short, "x" * 60)
    assert slow.returncode == 255
    assert b"could not be checked" in slow.stderr


def test_a_shell_without_a_terminal_is_asked_for_one(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = ruled(own_lab, RULES)
    at = lab.proxied(short)
    argv = [*SSH.argv(at, command="unused")[:-1]]
    done = subprocess.run(
        [*argv[:1], "-T", *argv[1:]],
        env=SSH.env(at),
        input=b"echo ran\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 255
    assert b"ssh -t" in done.stderr
    assert b"ran" not in done.stdout


def test_typed_lines(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = ruled(own_lab, RULES)
    marker = short / "marker"
    before = lab.proxyd.ids()
    at = lab.proxied(short)
    with Terminal(SSH.argv(at, command="exec bash --norc -i", terminal=True), env=SSH.env(at)) as terminal:
        terminal.type("PS1='rdy''> '\r")
        terminal.expect("rdy> ")
        terminal.type(f"toucx\x7fh {marker}\r")
        terminal.expect(NOT_ALLOWED)
        terminal.expect("rdy> ")
        terminal.type("echo still $((6*7))\r")
        terminal.expect("still 42")
        terminal.expect("rdy> ")
        terminal.type("echo a$((1+1))b\recho c$((1+2))d\r")
        terminal.expect("a2b")
        terminal.expect("c3d")
        terminal.type("uptime\r")
        terminal.expect("load average")
        terminal.type("uptime\r")
        terminal.expect("You have been disconnected")
        assert terminal.wait() != 0
    assert not marker.exists()
    row = lab.proxyd.newest(before)
    assert (row["reason"], row["by"]) == ("dropped", "rule twice")
    records = list(lab.proxyd.recording(row["id"]).records())
    assert [body["code"] for body in of_kind(records, Kind.FINDING)] == [
        "rule-no-touch", "rule-twice", "rule-twice"
    ]  # fmt: skip
    assert b"".join(of_kind(records, Kind.INPUT)).count(b"\x03") == 2
    assert of_kind(records, Kind.REFUSED) == [b"\r", b"\r"]  # of the touch, and of the last uptime
    assert NOT_ALLOWED in of_kind(records, Kind.NOTICE)


def test_force_lets_pass_only_what_it_names(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = ruled(
        own_lab, [{"name": "only", "action": "force", "pattern": r"echo \w+|exec bash --norc -i|exit"}]
    )
    assert ran(lab, short, "echo fine").stdout == b"fine\n"
    refused = ran(lab, short, "echo fine; id")
    assert refused.returncode == 255
    assert b"The rule only does not allow this." in refused.stderr
    at = lab.proxied(short)
    with Terminal(SSH.argv(at, command="exec bash --norc -i", terminal=True), env=SSH.env(at)) as terminal:
        terminal.expect(r"[$#] ")
        terminal.type("echo yes\r")
        terminal.expect("\ryes\r")
        terminal.type("\x1b[A\r")  # the same once more, from history: nobody can know
        terminal.expect("The rule only does not allow this.")
        terminal.type("exit\r")
        assert terminal.wait() == 130  # what bash remembers of the ^C in place of the Enter


def test_the_end_of_input_waits_for_the_last_line(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = ruled(own_lab, RULES)
    at = lab.proxied(short)
    argv = SSH.argv(at, command="cat; echo out", terminal=True)
    with ssh(at, "true") as warm:
        assert warm.wait(60) == 0
    done = subprocess.run(
        argv, env=SSH.env(at), input=b"line one\n\x04", capture_output=True, timeout=60, check=False
    )
    assert done.stdout.replace(b"\r", b"").count(b"line one\n") == 2  # echoed, and from cat
    assert done.stdout.rstrip().endswith(b"out")
