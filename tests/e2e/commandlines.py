"""Command lines that somebody was shown, run as they are: in a shell, or typed into on a terminal."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Self

from tests.peers import eventually
from tests.peers.console import PASSWORD

TYPED_S = 60.0  # a client's login on a busy machine


def run(command: str, directory: Path, env: dict[str, str], stdin: str = "") -> str:
    """Run a command as it is shown, in a shell; it must succeed."""
    done = subprocess.run(
        ["sh", "-c", command], cwd=directory, env=env, input=stdin, capture_output=True, text=True,
        timeout=TYPED_S, check=False)  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Typed:
    """A command on a terminal of its own, ended with the block; `answer` types a line once a text has been shown."""

    def __init__(self, command: str, directory: Path, env: dict[str, str]) -> None:
        self.command, self.log = command, directory / f"typed.{time.monotonic_ns()}"
        self.client = subprocess.Popen(
            ["script", "-qefc", command, str(self.log)], cwd=directory, env={**env, "TERM": "dumb", "PAGER": ""},
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.kill()
        self.client.communicate()
        print(f"{self.command}: {self.said()}")  # seen where a test fails

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def answer(self, asked: str, line: str) -> None:
        eventually(f"{self.command} says {asked}", lambda: asked in self.said(), within_s=TYPED_S)
        assert self.client.stdin is not None
        self.client.stdin.write(f"{line}\n".encode())
        self.client.stdin.flush()


def type_into(
    command: str, directory: Path, env: dict[str, str], prompt: str, question: str, wanted: str
) -> None:
    """Run a command on a terminal of its own; type the password, then at the prompt a question; wait for its answer."""
    with Typed(command, directory, env) as client:
        client.answer("assword", PASSWORD)
        client.answer(prompt, question)
        eventually(f"{command} says {wanted}", lambda: wanted in client.said(), within_s=TYPED_S)
