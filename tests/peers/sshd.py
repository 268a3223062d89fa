"""A real OpenSSH server as a throw-away target, reached by key, as the user who runs the tests."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.endpoint import HOST, Endpoint
from tests.peers.keys import Key
from tests.peers.process import Process, eventually, free_port

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
START_S = 60.0
TRIES = 5  # ports are drawn, so another worker may be faster once
CONFIG = """
ListenAddress {host}:{port}
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitUserEnvironment no
AcceptEnv LANG LC_* PROXYD_*
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
AllowAgentForwarding yes
GatewayPorts no
X11Forwarding yes
X11UseLocalhost yes
XAuthLocation /usr/bin/xauth
MaxStartups 1000
MaxSessions 20000
MaxAuthTries 100
LoginGraceTime 60
ClientAliveInterval 0
Subsystem sftp internal-sftp
SetEnv HOME={directory}/home
LogLevel VERBOSE
{extra}
"""


class Sshd:
    """One sshd: `with Sshd(directory) as target: target.endpoint(...)`."""

    def __init__(self, directory: Path, *, extra: str = "", banner: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        (directory / "home").mkdir(exist_ok=True)  # the shells' own start-up files are nobody's business here
        self.user = getpass.getuser()
        self.host_key = Key.generate(directory / "host_key")
        self.key = Key.generate(directory / "login_key")
        self.extra = extra
        if banner:
            (directory / "banner").write_text(banner)
            self.extra += f"\nBanner {directory}/banner"
        self.port = 0
        self.process: Process | None = None

    @property
    def address(self) -> str:
        """host:port, as proxyd's configuration has it."""
        return f"{HOST}:{self.port}"

    def __enter__(self) -> Self:
        (self.directory / "authorized_keys").write_text(self.key.line + "\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation directory
        for _ in range(TRIES):
            self.port = free_port()
            if self._start():
                return self
        raise AssertionError(f"sshd does not start: {self.log}")

    def restart(self) -> None:
        """Start again on the same port, after `stop()`."""
        assert self._start(), self.log

    def _start(self) -> bool:
        assert SSHD, "OpenSSH's sshd is not installed"
        config = self.directory / "sshd_config"
        config.write_text(
            CONFIG.format(host=HOST, port=self.port, directory=self.directory, extra=self.extra)
        )
        process = Process([SSHD, "-D", "-e", "-f", str(config)], log=self.directory / "sshd.log")
        self.process = process
        eventually("sshd listens", lambda: self._answers() or not process.running, within_s=START_S)
        return process.running

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), 1) as probe:
                probe.settimeout(2)
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    @property
    def log(self) -> str:
        """What sshd has logged."""
        return (self.directory / "sshd.log").read_text(errors="replace")

    def stop(self) -> None:
        """End the server and every session of it."""
        if self.process is not None:
            self.process.stop()
            self.process = None
            self._end_leftovers()

    def _end_leftovers(self) -> None:
        """Kill what sessions of this server left running: a command without a terminal outlives its connection."""
        mark = f" {HOST} {self.port}\0".encode()  # the end of SSH_CONNECTION: the server's address and port
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environ.read_bytes():
                    os.kill(int(environ.parent.name), signal.SIGKILL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def endpoint(self, directory: Path) -> Endpoint:
        """The direct way in."""
        return Endpoint("direct", self.port, self.user, self.key, self.host_key, directory)
