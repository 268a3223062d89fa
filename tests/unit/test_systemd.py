"""The units are valid, sandboxed, and agree with what the daemon does."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from proxyd.config import Config
from proxyd.systemd_notify import notify

UNITS = Path(__file__).parents[2] / "systemd"
UNIT = UNITS / "proxyd.service"
CONSOLE = UNITS / "proxyd-console.service"
MOST_EXPOSED = 1.5  # of 10, in systemd-analyze's own measure; a bare unit has 9.6

pytestmark = pytest.mark.mission("M19")


def tool(name: str) -> str:
    """Find one of systemd's tools; `make test` installs them where it can."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} IS MISSING: install systemd, nothing checks the units without it")
    return path


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def service() -> dict[str, list[str]]:
    """The [Service] section, every key with all its values."""
    found: dict[str, list[str]] = {}
    section = UNIT.read_text().split("[Service]")[1].split("[Install]")[0]
    for key, value in re.findall(r"^(\w+)=(.*)$", section, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", [UNIT, CONSOLE], ids=["daemon", "console"])
def test_exposure_is_low(unit):
    done = run(tool("systemd-analyze"), "security", "--offline=true", "--no-pager", str(unit))
    level = re.search(rf"exposure level for {unit.name}: ([\d.]+)", done.stdout)
    assert level, done.stderr
    assert float(level[1]) <= MOST_EXPOSED


def test_low_ports_cost_one_capability_only(tmp_path):
    dropins = tmp_path / "proxyd.service.d"
    dropins.mkdir()
    shutil.copy(UNIT, tmp_path)
    shutil.copy(UNITS / "examples" / "low-port.conf", dropins)
    done = run(tool("systemd-analyze"), "security", "--offline=true", "--no-pager", str(tmp_path / UNIT.name))
    level = re.search(r"exposure level for proxyd.service: ([\d.]+)", done.stdout)
    assert level, done.stderr
    assert float(level[1]) <= MOST_EXPOSED + 0.1
    for line in (dropins / "low-port.conf").read_text().split("[Service]")[1].splitlines():
        assert line == "" or line.endswith("=CAP_NET_BIND_SERVICE")


@pytest.mark.parametrize("unit", [UNIT, CONSOLE], ids=["daemon", "console"])
def test_unit_is_valid(tmp_path, unit):
    """Every directive is known; only the program's own path is exchanged, it need not be installed here."""
    for one in (UNIT, CONSOLE):
        (tmp_path / one.name).write_text(one.read_text().replace("/opt/proxyd/bin/proxyd", sys.executable))
    done = run(tool("systemd-analyze"), "verify", "--man=no", str(tmp_path / unit.name))
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_user_and_directories_are_made(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can make users and give directories away")
    (tmp_path / "etc").mkdir()
    made = run(tool("systemd-sysusers"), f"--root={tmp_path}", str(UNITS / "sysusers.d" / "proxyd.conf"))
    assert made.returncode == 0, made.stderr
    fields = (tmp_path / "etc/passwd").read_text().splitlines()[-1].split(":")
    assert (fields[0], fields[5], fields[6]) == ("proxyd", "/var/lib/proxyd", "/usr/sbin/nologin")
    conf = str(UNITS / "tmpfiles.d" / "proxyd.conf")
    made = run(tool("systemd-tmpfiles"), f"--root={tmp_path}", "--create", conf)
    assert made.returncode == 0, made.stderr
    state, uid = (tmp_path / "var/lib/proxyd").stat(), int(fields[2])
    assert (state.st_mode & 0o7777, state.st_uid) == (0o700, uid)
    configuration = (tmp_path / "etc/proxyd").stat()
    assert (configuration.st_mode & 0o7777, configuration.st_uid, configuration.st_gid) == (
        0o750,
        0,
        int(fields[3]),
    )
    assert (tmp_path / "etc/proxyd/secrets").stat().st_mode & 0o7777 == 0o700


def test_drain_fits_into_the_stop():
    drain = {field.name: field.default for field in msgspec.structs.fields(Config)}["drain_seconds"]
    assert float(service()["TimeoutStopSec"][0]) >= drain + 20
    assert service()["KillMode"] == ["mixed"]


def test_unit_agrees_with_the_daemon():
    """Not PrivateUsers: SO_PEERCRED would show every operator as nobody. Exit status 2 is a wrong configuration."""
    unit = service()
    assert "PrivateUsers" not in unit
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert unit["Type"] == ["notify"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    assert "AF_UNIX" in unit["RestrictAddressFamilies"][0]
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(UNIT)
    assert parsed["Service"]["RuntimeDirectory"] == parsed["Service"]["StateDirectory"] == "proxyd"


def test_everything_loads_without_writable_code():
    """MemoryDenyWriteExecute: the kernel's own switch for it (prctl PR_SET_MDWE, Linux 6.3), then all we import."""
    code = """
        import ctypes, mmap, os, sys
        PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
        if len(sys.argv) == 1:
            if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
                sys.exit(77)
            os.execv(sys.executable, [sys.executable, "-c", sys.stdin.read(), "restricted"])
        try:
            mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            sys.exit("the switch is off")
        except PermissionError:
            pass
        import proxyd.daemon, proxyd.cli, proxyd.console.main
        from argon2 import PasswordHasher
        from proxyd import host
        PasswordHasher().hash("x")
        async def main(): return "runs"
        print(host.run(main))
    """
    code = textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", code], input=code, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == 77:
        pytest.skip(
            "THIS KERNEL HAS NO PR_SET_MDWE: nothing shows that the daemon lives with MemoryDenyWriteExecute"
        )
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path, monkeypatch, abstract):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("" if abstract else str(tmp_path / "notify"))
        name = manager.getsockname()
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name[1:].decode() if abstract else name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
