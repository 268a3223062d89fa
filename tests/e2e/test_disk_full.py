"""A full disk: each target's policy decides, the user is told, and nothing is lost without a word.

The recording directory is a tmpfs of a few megabytes: the kernel itself says ENOSPC.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from proxyd.recorder.record import Kind
from tests.e2e.lab import Lab, ssh
from tests.e2e.tape import of_kind
from tests.e2e.test_target_names import clear_line
from tests.peers import eventually
from tests.peers.clients import OpenSSH

pytestmark = [pytest.mark.mission("M16"), pytest.mark.timeout(180)]

SSH = OpenSSH()
SIZE = 24 << 20
TOLD_S = 2.0
SAYS = "record"  # whatever the sentence is, it names the recording


@pytest.fixture
def disk(short: Path) -> Iterator[Path]:
    """A small tmpfs; mounting is root's."""
    if os.getuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = short / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "proxyd-test", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def free(disk: Path) -> int:
    return os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize


def on(disk: Path, reserve: int) -> Callable[[Lab], None]:
    def settle(lab: Lab) -> None:
        lab.proxyd.settings["recording"]["directory"] = str(disk / "recordings")
        lab.proxyd.settings["recording"]["reserve_bytes"] = reserve

    return settle


def random_output(size: int) -> str:
    """A command that prints incompressible bytes, always the same."""
    return f"openssl enc -aes-128-ctr -K {'0' * 32} -iv {'0' * 32} -in /dev/zero 2>/dev/null | head -c {size}"


def test_strict_ends_the_session_and_says_so(disk: Path, own_lab: Callable[..., Lab], short: Path) -> None:
    lab = own_lab(on(disk, 0), recording="strict", disk_full="drop")
    at = lab.proxied(short)
    with ssh(
        at, random_output(SIZE * 4) + "; sleep 100", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as client:
        # The recorder writes blocks of up to a MiB: below that the next one meets ENOSPC.
        eventually("the disk is full", lambda: free(disk) < 1 << 20 or client.poll() is not None, within_s=60)
        began = time.monotonic()
        _, err = client.communicate(timeout=30)
        took = time.monotonic() - began
    assert client.returncode not in (0, None)
    assert SAYS in err.decode().lower(), err
    assert took <= TOLD_S, took
    row = lab.proxyd.ended(lab.proxyd.sessions()[0]["id"])
    assert (row["reason"], row["state"]) == ("recording failed", "failed")
    assert row["error"]
    assert lab.proxyd.metric("proxyd_recordings_failed_total") == 1


def test_hold_waits_for_space_and_loses_nothing(disk: Path, own_lab: Callable[..., Lab], short: Path) -> None:
    ballast = disk / "ballast"
    lab = own_lab(on(disk, 0), recording="strict", disk_full="hold")
    ballast.write_bytes(bytes(SIZE // 2))
    at, size = lab.proxied(short), SIZE // 4 * 3
    with ssh(at, random_output(size), stdout=subprocess.PIPE) as client:
        assert client.stdout
        got = bytearray()
        os.set_blocking(client.stdout.fileno(), False)

        def read() -> int:
            while data := client.stdout.read(1 << 20):
                got.extend(data)
            return len(got)

        eventually("the disk is full", lambda: read() >= 0 and free(disk) < 1 << 20, within_s=60)
        eventually("the session is held", lambda: still(read), within_s=60)
        assert client.poll() is None
        assert len(got) < size
        ballast.unlink()
        eventually("the session goes on to its end", lambda: read() == size, within_s=60)
        assert client.wait(20) == 0
    session = lab.proxyd.sessions()[0]["id"]
    row = lab.proxyd.ended(session)
    assert row["state"] == "ended"
    records = list(lab.proxyd.recording(session).records())
    taped = b"".join(of_kind(records, Kind.OUTPUT))
    assert sha256(taped).digest() == sha256(bytes(got)).digest()
    assert not of_kind(records, Kind.LOST)


def still(read: Callable[[], int]) -> bool:
    before, until = read(), time.monotonic() + 1.0
    while time.monotonic() < until:
        if read() != before:
            return False
        time.sleep(0.05)  # the interval the growth is measured over
    return True


def test_below_the_reserve_nobody_begins(disk: Path, own_lab: Callable[..., Lab], short: Path) -> None:
    lab = own_lab(on(disk, SIZE // 2))
    at = lab.proxied(short)
    assert SSH.execute(at, "echo before").out == b"before\n"
    (disk / "ballast").write_bytes(bytes(SIZE // 4 * 3))
    refused = SSH.execute(at, "echo never")
    assert (refused.code, refused.out) == (255, b"")
    assert SAYS in clear_line(refused).lower()
    (disk / "ballast").unlink()
    assert SSH.execute(at, "echo after").out == b"after\n"


@pytest.mark.timeout(90)
def test_best_effort_goes_on_and_says_what_is_missing(
    disk: Path, own_lab: Callable[..., Lab], short: Path
) -> None:
    lab = own_lab(on(disk, 0), recording="best_effort")
    ballast, go = disk / "ballast", short / "go"
    ballast.write_bytes(bytes(SIZE // 2))
    command = f"{random_output(SIZE)}; until [ -e {go} ]; do sleep 0.05; done; sleep 3; echo the end"
    with ssh(lab.proxied(short), command, stdout=subprocess.PIPE) as client:
        assert client.stdout
        whole = client.stdout.read(SIZE)
        assert len(whole) == SIZE
        ballast.unlink()
        go.touch()
        assert client.stdout.read() == b"the end\n"
        assert client.wait(20) == 0
    row = lab.proxyd.ended(lab.proxyd.sessions()[0]["id"])
    records = list(lab.proxyd.recording(row["id"]).records())
    taped = b"".join(of_kind(records, Kind.OUTPUT))
    assert taped.startswith(whole[:100_000])
    assert taped.endswith(b"the end\n")
    assert len(taped) < SIZE
    assert sum(lost["records"] for lost in of_kind(records, Kind.LOST)) > 0
    assert lab.proxyd.metrics()['proxyd_recordings_failed_total{policy="best_effort"}'] >= 1
