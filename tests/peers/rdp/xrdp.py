"""A real xrdp with its session manager: TLS, the password asked of PAM, a desktop by Xorg, sound by chansrv.

Rule 1: xrdp looks for its session manager's port in /etc/xrdp/sesman.ini whatever it is told, and both use /run/xrdp:
        each instance sees its own of both, in a mount namespace.
Rule 2: a process namespace ends Xorg, chansrv and the desktop with the server, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.endpoint import HOST
from tests.peers.process import Process, eventually, free_port
from tests.peers.rdp.account import Account
from tests.peers.rdp.listening import listening
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import DARK, TERMINAL, TITLE, Screen
from tests.peers.rdp.x11 import INSTALLED as X_INSTALLED

XRDP, SESMAN, XORG = "/usr/sbin/xrdp", "/usr/sbin/xrdp-sesman", "/usr/lib/xorg/Xorg"
MODULE = Path("/usr/lib/xorg/modules/drivers/xrdpdev_drv.so")
UNSHARE = ("unshare", "--mount", "--propagation", "private", "--ipc", "--pid", "--fork", "--kill-child",
           "--mount-proc")  # fmt: skip


def _usable() -> bool:
    if os.getuid() != 0 or not MODULE.exists() or not all(map(shutil.which, (XRDP, SESMAN, XORG, "useradd"))):
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=30, check=False).returncode == 0


INSTALLED = X_INSTALLED and _usable()  # root, as adding a user and mounting need it
MOUNTS = INSTALLED and Path("/dev/fuse").exists() and shutil.which("fusermount") is not None
"""Whether a session's client's drives can be mounted: chansrv does it by FUSE, as the session's user."""
PASSWORD = "Target-Pw1"
START_S = 30.0
STOP_S = 20.0
SESSION_S = 60.0  # a cold Xorg on a busy machine
TRIES = 5
FIRST_PORT = 10_000  # of `free_port`
FIRST_DISPLAY = 100  # sesman counts up from a number drawn above this, Xvfb from 0
SESSIONS = 10  # sesman looks at this many display numbers
SOUND = "xrdp_chansrv_audio_out_socket_{}"  # takes what pulseaudio's module for xrdp would write
START = f"""
set -e
mkdir -p "$1/run/xrdp"
mount --bind "$1/run" /run
mount --bind "$1/sesman.ini" /etc/xrdp/sesman.ini
{SESMAN} --nodaemon &
exec {XRDP} --nodaemon --config "$1/xrdp.ini"
"""
DESKTOP = f"""#!/bin/sh
xsetroot -solid '{DARK}'
cd
exec xterm {" ".join(TERMINAL)} -e /bin/sh
"""
GLOBALS: Mapping[str, str] = {
    "ini_version": "1",
    "fork": "true",
    "tcp_nodelay": "true",
    "security_layer": "tls",
    "crypt_level": "high",
    "ssl_protocols": "TLSv1.2, TLSv1.3",
    "autorun": "Xorg",  # a client that asks for no login screen gets none
    "allow_channels": "true",
    "bitmap_cache": "true",
    "bitmap_compression": "true",
    "bulk_compression": "true",
    "max_bpp": "32",
    "new_cursors": "true",
    "use_fastpath": "both",
}
LOGGING = {"LogLevel": "INFO", "EnableSyslog": "false"}
CHANNELS = dict.fromkeys(("rdpdr", "rdpsnd", "drdynvc", "cliprdr", "rail", "xrdpvr", "tcutils"), "true")
MODULE_SECTION = {
    "name": "Xorg",
    "lib": "libxup.so",
    "username": "ask",
    "password": "ask",
    "ip": HOST,  # any other address and it looks for the X server over TCP
    "port": "-1",
    "code": "20",
}
XORG_LINE = (
    XORG,
    "-config",
    "xrdp/xorg.conf",
    "-noreset",
    "-nolisten",
    "tcp",
    "-logfile",
    ".xorgxrdp.%s.log",
)


def _ini(sections: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for name, settings in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key}={value}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


class Xrdp:
    """One server: `with Xrdp(directory) as target: target.port, target.user, target.password`.

    `settings` are those of xrdp.ini's [Globals]. A client that logs in gets a terminal with a shell in `home`, and the
    same session again when it comes back.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.identity = Identity(directory / "tls")
        self.account = Account(directory, PASSWORD)
        self.port = 0
        self.process: Process | None = None
        self._settings = {**GLOBALS, **settings}

    @property
    def address(self) -> str:
        """host:port, as proxyd's configuration has it."""
        return f"{HOST}:{self.port}"

    @property
    def user(self) -> str:
        """Who may log in."""
        return self.account.user

    @property
    def password(self) -> str:
        """By which password."""
        return self.account.password

    @property
    def home(self) -> Path:
        """Where the session's shell starts."""
        return self.account.home

    @property
    def log(self) -> str:
        """What xrdp and its session manager have logged."""
        logs = (self.directory / name for name in ("xrdp.log", "sesman.log", "log"))
        return "".join(path.read_text(errors="replace") for path in logs if path.exists())

    @property
    def screen(self) -> Screen:
        """The session's own display, as the server draws it; waits until its terminal is shown."""
        number = eventually("the session has a display", self.account.displays, within_s=SESSION_S)[0]
        authority = self.home / ".Xauthority"
        eventually("the display has a key", authority.exists, within_s=SESSION_S)
        screen = Screen(number, authority)
        eventually("the session shows its terminal", lambda: screen.windows(f"^{TITLE}$"), within_s=SESSION_S)
        return screen

    def run(self, script: str, *, within_s: float = START_S) -> str:
        """Run a shell script as the session's user, where its mounts are seen; gives what it printed."""
        inside = ["nsenter", "--target", str(self.account.processes()[0]), "--mount"]
        argv = [*inside, "su", self.user, "-s", "/bin/sh", "-c", f"cd\n{script}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=within_s, check=False)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def sound(self) -> Path:
        """The socket that takes what the session plays; waits until the client's sound channel is up."""
        path = self.directory / "run" / "xrdp" / "sockdir" / SOUND.format(self.screen.number)
        eventually("the session can play", path.exists, within_s=SESSION_S)
        return path

    def __enter__(self) -> Self:
        assert INSTALLED, "xrdp and xorgxrdp are not installed, or this is not root"
        self.account.__enter__()
        try:
            for _ in range(TRIES):
                if self._start():
                    return self
                self._stop()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.__exit__(None, None, None)
        raise AssertionError(f"xrdp does not start: {self.log}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop()
        finally:
            self.account.__exit__(kind, error, trace)

    def _configure(self, sesman: int) -> None:
        desktop = self.directory / "desktop"
        desktop.write_text(DESKTOP)
        desktop.chmod(0o755)
        tls, own = self.identity, f"tcp://{HOST}:{self.port}"
        files = {"port": own, "certificate": str(tls.certificate), "key_file": str(tls.key)}
        log = {"LogFile": str(self.directory / "xrdp.log"), **LOGGING}
        sections = {"Globals": {**files, **self._settings}, "Logging": log, "Channels": CHANNELS}
        (self.directory / "xrdp.ini").write_text(_ini({**sections, "Xorg": MODULE_SECTION}))
        log = {"LogFile": str(self.directory / "sesman.log"), **LOGGING}
        display = FIRST_DISPLAY + free_port() - FIRST_PORT
        text = _ini(
            {
                "Globals": {
                    "ListenAddress": HOST,
                    "ListenPort": str(sesman),
                    "EnableUserWindowManager": "false",
                    "DefaultWindowManager": str(desktop),
                },
                "Security": {"AllowRootLogin": "false", "MaxLoginRetry": "4"},
                "Sessions": {
                    "X11DisplayOffset": str(display),
                    "MaxSessions": str(SESSIONS),
                    "Policy": "Default",
                },
                "Logging": log,
                "Chansrv": {"FileUmask": "077"},
                "ChansrvLogging": LOGGING,
            }
        )
        text += "[Xorg]\n" + "".join(f"param={word}\n" for word in XORG_LINE)
        (self.directory / "sesman.ini").write_text(text)

    def _start(self) -> bool:
        self.port, sesman = free_port(), free_port()
        self._configure(sesman)
        argv = [*UNSHARE, "sh", "-c", START, "sh", str(self.directory)]
        process = self.process = Process(argv, log=self.directory / "log", cwd=Path("/"))

        def up() -> bool:
            return not process.running or (listening(self.port) and listening(sesman))

        eventually("xrdp and its session manager listen, or have ended", up, within_s=START_S)
        return process.running

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with contextlib.suppress(
            OSError
        ):  # the first process of the namespace: everything in it ends with it
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            process.popen.wait(STOP_S)
        process.kill()
