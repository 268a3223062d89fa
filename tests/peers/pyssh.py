"""A second SSH server, asyncssh's, for what OpenSSH's can't be had for without changing the machine.

It takes a password, tells which signal or break it got (OpenSSH refuses both for root), and says nothing when told so.
It runs in a process of its own (`main`), whose output is one line, `ready`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncssh

from tests.peers.endpoint import HOST, Endpoint
from tests.peers.keys import Key
from tests.peers.process import Process, eventually, free_port

AWAIT_SIGNAL = "await a signal"
SIGNALLED_STATUS = 9
USER = "operator"
PROGRAM = "from tests.peers.pyssh import main; main()"


class PySshd:
    """`with PySshd(directory, password) as target:`; any user, by that password or by `key`."""

    def __init__(self, directory: Path, password: str = "not the right one") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.user = USER
        self.password = password
        self.host_key = Key.generate(directory / "host_key")
        self.key = Key.generate(directory / "login_key")
        self.port = free_port()

    def __enter__(self) -> Self:
        argv = [sys.executable, "-c", PROGRAM, str(self.directory), str(self.port)]
        env = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYSSH_PASSWORD": self.password}
        self.process = Process(argv, log=self.directory / "pyssh.log", env=env)
        eventually("pyssh listens", lambda: "ready" in self.process.text(), within_s=20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def endpoint(self, directory: Path) -> Endpoint:
        """The direct way in, by key."""
        return Endpoint("direct", self.port, self.user, self.key, self.host_key, directory)


class _Server(asyncssh.SSHServer):
    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == os.environ["PYSSH_PASSWORD"]


async def _session(process: asyncssh.SSHServerProcess[bytes]) -> None:
    if process.command == AWAIT_SIGNAL:
        process.stdout.write(b"ready\n")
        try:
            await process.stdin.read()
        except asyncssh.SignalReceived as got:
            process.stdout.write(f"signal {got.signal}\n".encode())
        except asyncssh.BreakReceived as got:
            process.stdout.write(f"break {got.msec}\n".encode())
        process.exit(SIGNALLED_STATUS)
        return
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", process.command or "cat", stdin=-1, stdout=-1, stderr=-1
    )
    out, err = await shell.communicate(await process.stdin.read())
    process.stdout.write(out)
    process.stderr.write(err)
    process.exit(shell.returncode or 0)


async def _serve(directory: Path, port: int) -> None:
    acceptor = await asyncssh.listen(
        HOST,
        port,
        server_factory=_Server,
        server_host_keys=[str(directory / "host_key")],
        authorized_client_keys=str(directory / "login_key.pub"),
        process_factory=_session,
        encoding=None,
    )
    print("ready", flush=True)
    await acceptor.wait_closed()


def main() -> None:
    """Serve until killed."""
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
