"""The command log of terminals: bash, zsh and fish through proxyd, with OpenSSH on both sides; and no password in it."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import pytest

from proxyd.index.terminal.derived import Session
from proxyd.recorder import sidecar
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.sidecar import Derived, Item
from tests.e2e.lab import Lab
from tests.peers import Terminal
from tests.peers.clients import OpenSSH
from tests.peers.process import eventually
from tests.peers.shells import (
    BASH,
    COLUMNS,
    FISH,
    ROWS,
    SHELLS,
    ZSH,
    Line,
    Secret,
    Step,
    Worker,
    furnish,
    plain,
    script,
    secrets,
)

pytestmark = [pytest.mark.mission("M5", "M12"), pytest.mark.timeout(600)]

SSH = OpenSSH()
VERSIONS = {BASH: "version 5.", ZSH: "zsh 5.", FISH: "version 3."}  # what the lines were written for
WHOLE = (3, 17)  # rounds of lines, and passwords, in each of three shells: 300 and 50, and some more
SHORT = (1, 4)
CUTS = 3  # ways the bytes of a session are cut anew


@contextmanager
def working(lab: Lab, directory: Path, shell: str) -> Iterator[Worker]:
    """Somebody in that shell, through proxyd."""
    home = directory / "home"
    furnish(home)
    at = lab.proxied(directory)
    command = f"cd {home} && exec env HOME={home} LC_ALL=C.UTF-8 {' '.join(SHELLS[shell])}"
    with Terminal(
        SSH.argv(at, command=command, terminal=True), rows=ROWS, columns=COLUMNS, env=SSH.env(at)
    ) as terminal:
        worker = Worker(terminal)
        worker.wait(Step(""))
        yield worker
        terminal.type("exit\r")
        terminal.wait()


@contextmanager
def locked(lab: Lab, directory: Path) -> Iterator[str]:
    """Give a command that asks for the passphrase of a key, which the target knows meanwhile."""
    key, known = directory / "locked", lab.sshd.directory / "authorized_keys"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "another one", "-f", key], check=True, timeout=60
    )
    before = known.read_text()
    known.write_text(before + key.with_suffix(".pub").read_text())
    options = "-F none -o NumberOfPasswordPrompts=1 -o IdentitiesOnly=yes -o StrictHostKeyChecking=no"
    try:
        yield f"ssh {options} -o UserKnownHostsFile=/dev/null -i {key} -p {lab.sshd.port} 127.0.0.1 true"
    finally:
        known.write_text(before)


def indexed(lab: Lab, session: str) -> list[Item]:
    """Give what is in a session's sidecar, once that is whole."""
    recording = lab.proxyd.recording(session)
    eventually("the index is whole", sidecar.path_of(recording.path).exists, within_s=60)
    return list(recording.sidecar().items())


def lines_of(items: Sequence[Item]) -> list[str]:
    """Give the commands that were typed, not what the session was begun with."""
    lines = [item.body["line"] for item in items if item.kind == Derived.COMMAND]
    return [line for line in lines if not line.startswith("cd ") and line != "exit"]


def exact(wanted: Sequence[str], got: Sequence[str]) -> tuple[int, list[str]]:
    """Count the commands that are exact, in order, less those that were none, and tell those that are not."""
    same, wrong = max(0, len(got) - len(wanted)) * -1, []
    for tag, first, last, begin, end in SequenceMatcher(None, wanted, got, autojunk=False).get_opcodes():
        if tag == "equal":
            same += last - first
        else:
            wrong.append(f"{wanted[first:last]} reads {got[begin:end]}")
    return same, wrong


def recut(records: Sequence[Record], seed: int) -> list[Record]:
    """Cut what was typed and shown into other pieces of the same times."""
    draw = random.Random(seed)
    pieces: list[Record] = []
    for record in records:
        if record.kind not in (Kind.INPUT, Kind.OUTPUT):
            pieces.append(record)
            continue
        cuts = sorted(
            {0, len(record.body), *(draw.randrange(len(record.body) + 1) for _ in range(draw.randrange(6)))}
        )
        pieces += [record._replace(body=record.body[a:b]) for a, b in pairwise(cuts)]
    return pieces


def derived(records: Sequence[Record]) -> list[Item]:
    """Give the commands and typed lines of records."""
    session = Session()
    items = [item for record in records for item in session.feed(record)[0]]
    return [item for item in items + session.finish() if item.kind in (Derived.COMMAND, Derived.TYPED)]


def worked(
    lab: Lab, directory: Path, shell: str, rounds: int, count: int
) -> tuple[str, list[Line], list[Secret]]:
    """Have somebody work in a shell; gives the session, the lines and the passwords."""
    lines = script(shell, rounds)
    before = lab.proxyd.ids()
    with locked(lab, directory) as ssh, working(lab, directory, shell) as worker:
        asked = list(secrets(shell, ssh, count, quick=count <= SHORT[1]))
        lines += [*(secret.line for secret in asked), *plain(rounds)]
        for line in lines:
            worker.do(line)
    session = lab.proxyd.newest(before)["id"]
    lab.proxyd.ended(session)
    return session, lines, asked


def check(lab: Lab, directory: Path, shell: str, rounds: int, count: int) -> tuple[str, list[Secret]]:
    """Work in a shell, and look at what is derived of it; gives the session and the passwords."""
    version = subprocess.run(
        [shell, "--version"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert VERSIONS[shell] in version, f"these lines were written for {VERSIONS[shell]}, this is {version}"
    session, lines, asked = worked(lab, directory, shell, rounds, count)
    items = indexed(lab, session)
    wanted = [command for line in lines for command in line.commands]
    same, wrong = exact(wanted, lines_of(items))
    assert same >= 0.99 * len(wanted), "\n".join(wrong)
    assert len(asked) == count
    found = [
        one.password
        for one in asked
        if one.password in repr([i for i in items if i.kind != Derived.TERMINAL])
    ]
    assert not found

    records = list(lab.proxyd.recording(session).records())
    once = derived(records)
    assert once == [item for item in items if item.kind in (Derived.COMMAND, Derived.TYPED)]
    for seed in range(CUTS):
        assert derived(recut(records, seed)) == once
    return session, asked


def tell(lab: Lab, session: str, asked: Sequence[Secret]) -> None:
    """Look for passwords in all that is shown of a session, in which the lines are."""
    told = {
        "the log": lab.proxyd.run_ctl("log", session).out,
        "the commands": lab.proxyd.ctl("log", session, "--commands").out,
    }
    for words in (("asciicast", "--input"), ("asciicast2", "--input"), ("jsonl",)):
        told[" ".join(words)] = lab.proxyd.run_ctl("export", session, "--format", *words).out
    assert all("echo w0" in text for text in told.values())
    assert not [
        (place, one.password) for one in asked for place, text in told.items() if one.password in text
    ]


@pytest.mark.parametrize("shell", [BASH, ZSH, FISH])
def test_commands_are_exact_and_passwords_nowhere(lab: Lab, short: Path, shell: str) -> None:
    session, asked = check(lab, short, shell, *SHORT)
    if shell == BASH:
        tell(lab, session, asked)


@pytest.mark.slow
@pytest.mark.parametrize("shell", [BASH, ZSH, FISH])
def test_the_whole_corpus(lab: Lab, short: Path, shell: str) -> None:
    tell(lab, *check(lab, short, shell, *WHOLE))
