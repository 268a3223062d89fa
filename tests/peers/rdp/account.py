"""A login of this machine that lives as long as a test: xrdp asks PAM and runs the desktop as that user.

Rule: nobody else is this user, so every process and every file of its id outside the test's directory is ours to end.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Self

from tests.peers.process import eventually

COMMAND_S = 30.0
LOCK_S = 60.0  # useradd of several workers wait for one lock, and give up by themselves before it is free
GONE_S = 20.0
X_SOCKETS = Path("/tmp/.X11-unix")
X_LOCKS = (Path("/tmp"), ".X*-lock")


class Account:
    """A user with a password and a home: `with Account(directory, password) as account: account.user`."""

    def __init__(self, directory: Path, password: str) -> None:
        self.user = f"rdp{token_hex(4)}"
        self.password = password
        self.home = directory / "home"
        self.uid = -1

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True)
        argv = ["useradd", "--no-create-home", "--home-dir", str(self.home), "--shell", "/bin/sh", self.user]
        eventually(f"{argv}", lambda: _succeeds(*argv), within_s=LOCK_S)
        try:
            entry = pwd.getpwnam(self.user)
            self.uid = entry.pw_uid
            os.chown(self.home, entry.pw_uid, entry.pw_gid)
            for parent in self.home.parents:  # the user must be able to come here
                if parent.stat().st_uid == 0 and parent not in (Path("/"), Path("/tmp")):
                    parent.chmod(parent.stat().st_mode | 0o011)
            told = f"{self.user}:{self.password}\n"
            subprocess.run(["chpasswd"], input=told, text=True, timeout=COMMAND_S, check=True)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end_processes()
        finally:
            self._remove()

    def processes(self) -> list[int]:
        """Give the ids of the user's processes; what only waits to be reaped does not count."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == self.uid and (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def displays(self) -> list[int]:
        """Give the numbers of the X displays the user runs."""
        sockets = X_SOCKETS.glob("X[0-9]*") if X_SOCKETS.exists() else ()
        return sorted(int(path.name[1:]) for path in sockets if self._owns(path))

    def _owns(self, path: Path) -> bool:
        try:
            return path.lstat().st_uid == self.uid
        except OSError:  # gone since it was listed
            return False

    def _end_processes(self) -> None:
        def none() -> bool:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.processes()

        eventually(f"processes of {self.user} end", none, within_s=GONE_S)

    def _remove(self) -> None:
        for path in (*X_SOCKETS.glob("X[0-9]*"), *X_LOCKS[0].glob(X_LOCKS[1])):
            if self._owns(path):
                path.unlink(missing_ok=True)
        eventually(f"userdel {self.user}", lambda: _succeeds("userdel", self.user), within_s=LOCK_S)


def _succeeds(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, timeout=COMMAND_S, check=False).returncode == 0
