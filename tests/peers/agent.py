"""A real ssh-agent holding one key."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.keys import Key
from tests.peers.process import Process, eventually


class Agent:
    """`with Agent(directory, key) as agent: env = agent.env`."""

    def __init__(self, directory: Path, key: Key) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.socket = directory / "agent"
        self.key = key
        self.directory = directory

    @property
    def env(self) -> dict[str, str]:
        """What a client's environment needs to find it."""
        return {"SSH_AUTH_SOCK": str(self.socket)}

    def __enter__(self) -> Self:
        self.process = Process(["ssh-agent", "-D", "-a", str(self.socket)], log=self.directory / "agent.log")
        eventually("ssh-agent listens", self.socket.exists)
        subprocess.run(
            ["ssh-add", "-q", self.key.path],
            check=True,
            env={**self.env, "PATH": "/usr/bin:/bin"},
            timeout=10,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()
