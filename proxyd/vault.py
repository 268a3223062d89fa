"""Credential references turned into secrets: `file:PATH`, `env:NAME`, `systemd:NAME`, `command:ARGV`.

Rule 1: the text of an error is for the user and names nothing; its `detail` is for the log and never holds
    a secret, a command's arguments or anything a command wrote.
Rule 2: a secret lives in a Secret, which shows itself nowhere.
Rule 3: every fetch has a deadline; a command that misses it is killed with all it started.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
from pathlib import Path
from typing import Final, NoReturn

import trio

from proxyd.errors import TargetLoginFailed

MAX_SECRET_BYTES: Final = 64 << 10  # an RSA-16384 key with its certificate is a quarter of it
KILL_SECONDS: Final = 1.0  # a killed process is reaped well within it
OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
SAID_TO_USERS: Final = "The credential for this target can't be fetched; tell your administrator."


class VaultError(TargetLoginFailed):
    """A reference can't be turned into a secret; `detail` says why, for the log."""

    def __init__(self, detail: str) -> None:
        super().__init__(SAID_TO_USERS)
        self.detail = detail


class Secret:
    """Bytes that don't show in a repr, a format, a log or a pickle."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def data(self) -> bytes:
        """The bytes as the vault gave them."""
        return self._data

    def text(self) -> str:
        """Return the secret as text without the one line ending a file or a command adds; raises VaultError."""
        try:
            return self._data.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise VaultError("not UTF-8 text") from None

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


async def fetch(reference: str, *, deadline_s: float = 10) -> Secret:
    """Fetch the secret that `reference` names, within `deadline_s` seconds.

    Raises VaultError: no such thing, readable by others, too large, empty, failed, or no answer in time.
    """
    scheme, _, rest = reference.partition(":")
    found = b""
    with trio.move_on_after(deadline_s) as scope:
        match scheme:
            case "file":
                found = await trio.to_thread.run_sync(read_private, Path(rest), abandon_on_cancel=True)
            case "env":
                found = _variable(rest)
            case "systemd":
                found = await trio.to_thread.run_sync(_systemd, rest, abandon_on_cancel=True)
            case "command":
                found = await _command(rest)
            case _:
                raise VaultError("unknown kind of reference")
    if scope.cancelled_caught:
        raise VaultError(f"{scheme}: no answer within {deadline_s:g} s")
    if not found.strip():
        raise VaultError(f"{scheme}: empty")
    return Secret(found)


def read_private(path: Path) -> bytes:
    """Read a small file that only we or root may own and nobody else may read; raises VaultError.

    Waits for the disk: call it in a thread.
    """
    return _read(path, OPEN_TO_OTHERS)


def _read(path: Path, forbidden: int) -> bytes:
    try:
        # not blocking: opening a FIFO that someone put there must not wait for a writer
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check_private(path, os.fstat(fd), forbidden)
            with os.fdopen(fd, "rb", closefd=False) as file:
                data = file.read(MAX_SECRET_BYTES + 1)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise VaultError(f"{path}: {getattr(error, 'strerror', None) or 'not a path'}") from None
    if len(data) > MAX_SECRET_BYTES:
        raise VaultError(f"{path}: larger than {MAX_SECRET_BYTES} bytes")
    return data


def _check_private(path: Path, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise VaultError(f"{path}: not a regular file")
    if found.st_mode & forbidden:
        raise VaultError(f"{path}: others may read it (mode {stat.S_IMODE(found.st_mode):04o}); chmod 600 it")
    if found.st_uid not in (0, os.geteuid()):
        raise VaultError(f"{path}: belongs to another user (uid {found.st_uid})")


def _variable(name: str) -> bytes:
    value = os.environb.get(os.fsencode(name))
    if value is None:
        raise VaultError(f"env: {name} is not set")
    return value


def _systemd(name: str) -> bytes:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise VaultError("systemd: no credentials were passed to this service")
    if not re.fullmatch(r"[A-Za-z0-9_.:@-]+", name) or name in (".", ".."):
        raise VaultError("systemd: not the name of a credential")
    # systemd lets our user in by an access list, which shows as a group bit; others never get in
    return _read(Path(directory) / name, stat.S_IRWXO)


async def _command(line: str) -> bytes:
    try:
        argv = shlex.split(line)
    except ValueError:
        raise VaultError("command: its quotes don't match") from None
    if not argv:
        raise VaultError("command: empty")
    try:
        process = await trio.lowlevel.open_process(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise VaultError(
            f"command: can't be started: {getattr(error, 'strerror', None) or 'bad argument'}"
        ) from None
    status: int | None = None
    try:
        data = await _output(process)
        status = await process.wait()
    finally:
        await _end(process, running=status is None)
    if status:
        raise VaultError(f"command: ended with status {status}")
    return data


async def _output(process: trio.Process) -> bytes:
    assert process.stdout is not None  # noqa: S101 - asked for above
    data = bytearray()
    async for part in process.stdout:
        data += part
        if len(data) > MAX_SECRET_BYTES:
            raise VaultError(f"command: wrote more than {MAX_SECRET_BYTES} bytes")
    return bytes(data)


async def _end(process: trio.Process, *, running: bool) -> None:
    """Kill an unfinished command and what it started; shielded, bounded by KILL_SECONDS."""
    with trio.CancelScope(shield=True), trio.move_on_after(KILL_SECONDS):
        if running:  # not reaped yet, so the group's id is still its own
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()
