"""xfreerdp and rdesktop as clients: each on a display of its own, what they say read from their output.

A client's screen is exactly the size of the desktop it asks for, so what its display shows is the session and nothing else.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.endpoint import HOST
from tests.peers.process import Process
from tests.peers.rdp.x11 import INSTALLED as X_INSTALLED
from tests.peers.rdp.x11 import SIZE, Screen, Xvfb

XFREERDP, XFREERDP3, RDESKTOP = "xfreerdp", "xfreerdp3", "rdesktop"
INSTALLED = X_INSTALLED and shutil.which(XFREERDP) is not None
INSTALLED_3 = X_INSTALLED and shutil.which(XFREERDP3) is not None
INSTALLED_FUSE = (
    INSTALLED_3
    and "WITH_FUSE=ON"
    in subprocess.run(
        [XFREERDP3, "/buildconfig"], capture_output=True, text=True, timeout=30, check=False
    ).stdout
)  # which can fetch files from a target's clipboard
RDESKTOP_INSTALLED = X_INSTALLED and shutil.which(RDESKTOP) is not None
WORDS = re.compile(r"\bERR(?:CONNECT|INFO)_[A-Z0-9_]+")
END_S = 30.0


def plays(program: str) -> bool:
    """Whether a FreeRDP was built with PulseAudio; one without ends when it is asked to play there."""
    done = subprocess.run([program, "/buildconfig"], capture_output=True, text=True, timeout=30, check=False)
    return "WITH_PULSE=OFF" not in done.stdout + done.stderr


class Client:
    """A client program on its own display; `screen` is what its user sees and the keys they press.

    `sink` is where it plays (`Ear.env`).
    """

    def __init__(self, directory: Path, size: tuple[int, int], sink: dict[str, str] | None = None) -> None:
        self._sink = sink or {}
        self.directory = directory
        self.size = size
        self.home = directory / "home"
        self._xvfb = Xvfb(directory / "x", size)
        self._stack = ExitStack()
        self._process: Process | None = None

    @property
    def screen(self) -> Screen:
        """The client's display."""
        return self._xvfb

    @property
    def said(self) -> str:
        """Everything the program has printed."""
        return self._running().text()

    @property
    def words(self) -> list[str]:
        """FreeRDP's names of what went wrong, in the order it said them, each once."""
        return list(dict.fromkeys(WORDS.findall(self.said)))

    @property
    def connected(self) -> bool:
        """Whether the program still runs."""
        return self._running().running

    def ended(self, within_s: float = END_S) -> int:
        """Wait for the program's own end; gives its exit status."""
        return self._running().wait(within_s)

    def close(self) -> None:
        """End the program, as closing its window does, and its display."""
        self._stack.close()

    def signal(self, number: signal.Signals) -> None:
        """Send the program a signal; stopped, it neither reads nor paints."""
        self._running().popen.send_signal(number)

    def _running(self) -> Process:
        assert self._process is not None, "not started"
        return self._process

    def _argv(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> str:
        return ""

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(self._xvfb)
            answers = stack.enter_context(tempfile.TemporaryFile())
            answers.write(self._answers().encode())
            answers.seek(0)
            config = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / ".config")}
            self._process = stack.enter_context(
                Process(
                    self._argv(),
                    log=self.directory / "log",
                    env={**self._xvfb.env, **config, **self._sink},
                    cwd=self.home,
                    stdin=answers,
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class FreeRdp(Client):
    """`with FreeRdp(directory, port, user, password, security="nla") as client`.

    `security` is FreeRDP's /sec (nla, tls, ext). With a `fingerprint` (SHA-256, hex with colons) only that certificate
    is taken, without one any. `options` are more of FreeRDP's own, `sink` is where it plays (`Ear.env`).
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        user: str,
        password: str,
        *,
        security: str = "tls",
        fingerprint: str = "",
        size: tuple[int, int] = SIZE,
        options: tuple[str, ...] = (),
        sink: dict[str, str] | None = None,
        program: str = XFREERDP,
    ) -> None:
        super().__init__(directory, size, sink)
        width, height = size
        trust = f"fingerprint:sha256:{fingerprint}" if fingerprint else "ignore"
        self._words = [program, f"/v:{HOST}:{port}", f"/u:{user}", f"/p:{password}", f"/sec:{security}",
                       f"/cert:{trust}", f"/size:{width}x{height}", "/bpp:32", "/log-level:INFO", *options]  # fmt: skip

    def _argv(self) -> list[str]:
        return self._words


class Opened(Client):
    """`with Opened(directory, file) as client`: xfreerdp with a .rdp file that has everything; the password may lack.

    What it asks for on its terminal is answered with `password`.
    """

    def __init__(
        self, directory: Path, file: Path, *, password: str = "", fingerprint: str, size: tuple[int, int] = SIZE
    ) -> None:  # fmt: skip
        super().__init__(directory, size)
        width, height = size
        more = ["/from-stdin:force"] if password else []
        self._words = [XFREERDP, str(file), f"/cert:fingerprint:sha256:{fingerprint}",
                       f"/size:{width}x{height}", "/log-level:INFO", *more]  # fmt: skip
        self._password = password

    def _argv(self) -> list[str]:
        return self._words

    def _answers(self) -> str:
        return f"{self._password}\n"


class RDesktop(Client):
    """`with RDesktop(directory, port, user, password) as client`: TLS, and the certificate taken when it asks."""

    def __init__(
        self,
        directory: Path,
        port: int,
        user: str,
        password: str,
        *,
        size: tuple[int, int] = SIZE,
        options: tuple[str, ...] = (),
        sink: dict[str, str] | None = None,
    ) -> None:
        super().__init__(directory, size, sink)
        width, height = size
        self._words = [RDESKTOP, "-u", user, "-p", password, "-g", f"{width}x{height}", "-a", "32", *options,
                       f"{HOST}:{port}"]  # fmt: skip

    def _argv(self) -> list[str]:
        return self._words

    def _answers(self) -> str:
        return "yes\n"
