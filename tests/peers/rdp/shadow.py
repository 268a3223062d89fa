"""FreeRDP's shadow server, which shows a display of its own: by NLA it asks a password, by TLS alone it asks nothing.

Where a FreeRDP 3 is installed beside Debian's 2, `program` names it.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.endpoint import HOST
from tests.peers.process import Process, eventually, free_port
from tests.peers.rdp.listening import listening
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import DARK, SIZE, TERMINAL, TITLE, Screen, Xvfb
from tests.peers.rdp.x11 import INSTALLED as X_INSTALLED

PROGRAM, PROGRAM_3 = "freerdp-shadow-cli", "freerdp-shadow-cli3"
HASH = "winpr-hash"
INSTALLED = X_INSTALLED and all(map(shutil.which, (PROGRAM, HASH)))
USER, PASSWORD = "svc", "Target-Pw1"
START_S = 30.0
COMMAND_S = 30.0
TRIES = 5
IDENTITY = Path(".config/freerdp/shadow")  # below $HOME; the server makes a certificate when there is none


class Security(Enum):
    """What the server takes, as FreeRDP's /sec has it."""

    NLA = "nla"
    TLS = "tls"


class Shadow:
    """One server: `with Shadow(directory) as target: target.port, target.user, target.password, target.screen`.

    Its display shows a terminal with a shell in `home`.
    """

    def __init__(
        self,
        directory: Path,
        security: Security = Security.NLA,
        *,
        size: tuple[int, int] = SIZE,
        program: str = PROGRAM,
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        accounts: bool = True,
    ) -> None:
        """`env`: more of the server's environment. `accounts`: whether it knows passwords by their NT hash."""
        self.directory = directory
        self.security = security
        self.user, self.password = USER, PASSWORD
        self.home = directory / "home"
        self.port = 0
        self._xvfb = Xvfb(directory / "x", size)
        self._argv = (program, *options)
        self._more = env or {}
        self._knows = accounts
        self._stack = ExitStack()
        (self.home / IDENTITY).mkdir(parents=True)
        self.identity = Identity(directory / "tls")
        shutil.copy(self.identity.certificate, self.home / IDENTITY / "shadow.crt")
        shutil.copy(self.identity.key, self.home / IDENTITY / "shadow.key")

    @property
    def address(self) -> str:
        """host:port, as proxyd's configuration has it."""
        return f"{HOST}:{self.port}"

    @property
    def screen(self) -> Screen:
        """The display it shows."""
        return self._xvfb

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (self.directory / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        assert INSTALLED, "FreeRDP's shadow server is not installed"
        with ExitStack() as stack:
            stack.enter_context(self._xvfb)
            self._xvfb.colour(DARK)
            self._show_terminal(stack)
            for _ in range(TRIES):
                self.port = free_port()
                if self._start(stack):
                    self._stack = stack.pop_all()
                    return self
        raise AssertionError(f"the shadow server does not start: {self.log}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _show_terminal(self, stack: ExitStack) -> None:
        argv = ["xterm", *TERMINAL, "-e", "/bin/sh"]
        env = {**self._xvfb.env, "HOME": str(self.home)}
        process = stack.enter_context(Process(argv, log=self.directory / "xterm.log", env=env, cwd=self.home))
        shown = lambda: not process.running or self._xvfb.windows(f"^{TITLE}$")  # noqa: E731
        eventually("the target's terminal is shown", shown, within_s=START_S)
        assert process.running, process.text()

    def _start(self, stack: ExitStack) -> bool:
        rule = [f"/sec:{self.security.value}", "-auth"]
        if self.security is Security.NLA:
            known = [f"/sam-file:{self._accounts()}"] if self._knows else []
            rule = [f"/sec:{self.security.value}", "+auth", *known]
        argv = [*self._argv, f"/port:{self.port}", f"/bind-address:{HOST}", *rule]
        env = {**self._xvfb.env, "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / ".config"),
               "WLOG_LEVEL": "INFO", **self._more}  # fmt: skip
        process = stack.enter_context(Process(argv, log=self.directory / "log", env=env, cwd=self.home))
        up = lambda: not process.running or listening(self.port)  # noqa: E731
        eventually("the shadow server listens or has ended", up, within_s=START_S)
        return process.running

    def _accounts(self) -> Path:
        """Write the accounts as user:domain:LM hash:NT hash (MS-NLMP 3.3.1) in FreeRDP's SAM file."""
        path = self.directory / "sam"
        argv = [HASH, "-u", self.user, "-p", self.password, "-f", "sam"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_S, check=True)
        path.write_text(done.stdout)
        return path
