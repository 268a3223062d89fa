"""Data keys of sessions whose index is not whole yet: what a daemon that was killed leaves to the next, in memory.

Rule 1: a key lies in a file system that is in memory (tmpfs, ramfs), for the daemon's user alone: what holds it is gone with
        the power, as the daemon's own memory is. Where the directory is on a disk, none is kept.
Rule 2: it is there from before its session's recording is known to anybody until index and search have all of it, or it was
        given up: no longer. Who may read it may read that session, and no other.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from proxyd.recorder.keys import DEK_BYTES
from proxyd.recorder.store import DIRECTORY_MODE, FILE_MODE

NAME: Final = "keys"  # of the directory, beside the control socket
MOUNTS: Final = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_DEVICE: Final = 2  # of a line's fields; the file system's kind stands behind a lone -


class Keyring:
    """The keys in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def open(cls, directory: Path) -> Self | None:
        """Make the directory ready; None where it is not in memory (rule 1), or can't be made."""
        try:
            directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            if not in_memory(directory):
                directory.rmdir()
                return None
            directory.chmod(DIRECTORY_MODE)
        except OSError:
            return None
        return cls(directory)

    def keep(self, session: str, dek: bytes) -> None:
        """Keep a session's key; without room for it there is none."""
        with suppress(OSError):
            fd = os.open(
                self._directory / session, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE
            )
            try:
                os.write(fd, dek)
            finally:
                os.close(fd)

    def forget(self, session: str) -> None:
        """Forget a session's key; idempotent."""
        with suppress(OSError):
            (self._directory / session).unlink(missing_ok=True)

    def kept(self) -> dict[str, bytes]:
        """Give the keys that are there, by session."""
        found: dict[str, bytes] = {}
        with suppress(OSError):
            for path in sorted(self._directory.iterdir()):
                with path.open("rb") as file:
                    dek = file.read(DEK_BYTES + 1)
                if len(dek) == DEK_BYTES:
                    found[path.name] = dek
                else:  # it was being written
                    self.forget(path.name)
        return found


def in_memory(directory: Path) -> bool:
    """Say whether a directory's file system is in memory; False where nobody says. Raises OSError."""
    device = directory.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text().splitlines():
        fields = line.split()
        if fields[_DEVICE] == name:
            return fields[fields.index("-") + 1] in IN_MEMORY
    return False
