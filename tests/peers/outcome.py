"""What a client came back with, and the shape every client has."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.peers.agent import Agent
from tests.peers.endpoint import Endpoint

RUN_S = 120.0  # one client run; 100 MB over a loaded machine is the longest


@dataclass(frozen=True)
class Outcome:
    """Exit status (None: the channel ended without one), bytes, and whatever else a case compares."""

    code: int | None
    out: bytes = b""
    err: bytes = b""
    more: dict[str, object] = field(default_factory=dict)


class Client(ABC):
    """One SSH client program or library. What it cannot do is in the matrix's own table, never here."""

    name: str

    @abstractmethod
    def execute(
        self, at: Endpoint, command: str | bytes, stdin: bytes = b"", *, env: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run one command; `env` is asked for through SSH."""

    @abstractmethod
    def rekeyed(self, at: Endpoint, command: str, stdin: bytes) -> Outcome:
        """Run one command with new keys every megabyte."""

    @abstractmethod
    def sftp(self, at: Endpoint, put: tuple[Path, str], get: tuple[str, Path]) -> Outcome:
        """Put one file and get one, in one SFTP session."""

    @abstractmethod
    def local_forward(self, at: Endpoint, port: int, payload: bytes) -> bytes:
        """Send `payload` to `port` of the target through -L and return what comes back."""

    @abstractmethod
    def remote_forward(self, at: Endpoint, target_port: int, port: int, payload: bytes) -> bytes:
        """Have the target listen on `target_port`, forward to our `port` (-R), and send `payload` there."""

    @abstractmethod
    def with_agent(self, at: Endpoint, agent: Agent, command: str) -> Outcome:
        """Run one command with agent forwarding."""


def run(
    argv: Sequence[str | bytes | Path],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    within_s: float = RUN_S,
) -> Outcome:
    """Run a program to its end."""
    done = subprocess.run(
        argv, input=stdin, capture_output=True, env=env and dict(env), cwd=cwd, timeout=within_s, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
