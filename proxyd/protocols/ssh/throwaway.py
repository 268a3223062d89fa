"""A throw-away SSH server for the demo: one account, one key, a real shell on a real terminal.

Not for anything else: whoever holds the key has the rights of the user who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import shutil
import signal
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import asyncssh

READ_BYTES = 32 * 1024


class _Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:  # noqa: ARG002 - asyncssh's signature
        return True


class _Files(asyncssh.SFTPServer):
    """asyncssh's SFTP server, with the exit status that scp waits for."""

    def exit(self) -> None:
        self.channel.exit(0)


class _Shell:
    """One shell or command of one channel."""

    def __init__(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.process = process

    async def run(self) -> None:
        shell = shutil.which("bash") or "/bin/sh"
        command = self.process.command
        argv = [shell, "-c", command] if command else [shell, "-i"]
        with contextlib.suppress(asyncssh.TerminalSizeChanged, asyncssh.BreakReceived):
            if self.process.term_type:
                await self._on_terminal(argv)
            else:
                await self._on_pipes(argv)

    async def _on_pipes(self, argv: list[str]) -> None:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await self.process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        status = await child.wait()
        await self.process.stdout.drain()
        self.process.exit(status if status >= 0 else 128 - status)

    async def _on_terminal(self, argv: list[str]) -> None:
        child, terminal = pty.fork()
        if child == 0:
            os.environ |= {
                "TERM": self.process.term_type or "dumb",
                "PS1": "web1:\\W$ ",
                "HISTFILE": "/dev/null",
            }
            argv = [argv[0], "--norc", *argv[1:]] if argv[0].endswith("bash") else argv
            os.execv(argv[0], argv)  # noqa: S606 - the shell the user asked for
        self._resize(terminal, *self.process.term_size[:2])
        typing = asyncio.create_task(self._typed(terminal))
        try:
            await self._shown(terminal)
        finally:
            typing.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGHUP)
            os.close(terminal)
        _, status = await asyncio.get_running_loop().run_in_executor(None, os.waitpid, child, 0)
        self.process.exit(os.waitstatus_to_exitcode(status) & 0xFF)

    async def _shown(self, terminal: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(terminal, _once, readable)
            try:
                await readable
            finally:
                loop.remove_reader(terminal)
            try:
                data = os.read(terminal, READ_BYTES)
            except OSError:
                return
            if not data:
                return
            self.process.stdout.write(data)
            await self.process.stdout.drain()

    async def _typed(self, terminal: int) -> None:
        while True:
            try:
                data = await self.process.stdin.read(READ_BYTES)
            except asyncssh.TerminalSizeChanged as change:
                self._resize(terminal, change.width, change.height)
                continue
            except asyncssh.SignalReceived:
                continue
            if not data:
                return
            os.write(terminal, data)

    @staticmethod
    def _resize(terminal: int, columns: int, rows: int) -> None:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows or 24, columns or 80, 0, 0))


def _once(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


async def _shell(process: asyncssh.SSHServerProcess[bytes]) -> None:
    await _Shell(process).run()


async def _serve(directory: Path) -> None:
    """Serve on a free loopback port, write it to DIRECTORY/port, until the parent closes our standard input."""
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=_Server,
        server_host_keys=[str(directory / "target_host_key")],
        authorized_client_keys=str(directory / "target_login_key.pub"),
        process_factory=_shell,
        sftp_factory=_Files,
        encoding=None,
        line_editor=False,
        config=None,
        reuse_address=True,
    )
    (directory / "port").write_text(f"{server.get_port()}\n")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    server.close()
    os._exit(0)  # shells of the demo's sessions end with their terminals


def main(argv: list[Any] | None = None) -> None:
    """Run the server; `argv`: the directory with its keys."""
    (directory,) = argv if argv is not None else sys.argv[1:]
    asyncio.run(_serve(Path(directory)))


if __name__ == "__main__":
    main()
