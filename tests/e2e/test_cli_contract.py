"""What scripts rely on: init, the ready line, --json, exit statuses."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.lab import Lab, held
from tests.peers import Process, Proxyd, eventually
from tests.peers.clients import OpenSSH
from tests.peers.daemon import PROXYCTL, PROXYD, TARGET, USER
from tests.peers.endpoint import HOST

pytestmark = [pytest.mark.mission("M1", "M17"), pytest.mark.timeout(120)]

SSH = OpenSSH()


def test_init_is_idempotent_and_never_overwrites(short: Path) -> None:
    proxyd = Proxyd(short)
    before = {path: path.read_bytes() for path in proxyd.home.rglob("*") if path.is_file()}
    assert len(before) >= 6
    again = proxyd.init()
    assert again.returncode == 0, again.stderr
    assert {path: path.read_bytes() for path in proxyd.home.rglob("*") if path.is_file()} == before
    private = [path for path, data in before.items() if b"PRIVATE KEY" in data or b"AGE-SECRET-KEY" in data]
    assert len(private) >= 4
    assert {path.stat().st_mode & 0o077 for path in private} == {0}
    assert "proxyd serve" in again.stdout


def test_the_ready_line_names_listeners_that_accept(lab: Lab) -> None:
    ready = lab.proxyd.ready
    assert ready["ssh"] == f"{HOST}:{lab.proxyd.ssh_port}"
    assert ready["metrics"] == f"{HOST}:{lab.proxyd.metrics_port}"
    for name in ("ssh", "metrics"):
        host, _, port = ready[name].rpartition(":")
        with socket.create_connection((host, int(port)), 5):
            pass
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(ready["control"])


def test_port_zero_is_named_in_the_ready_line(short: Path) -> None:
    proxyd = Proxyd(short)
    proxyd.settings["listen"]["ssh"]["address"] = proxyd.settings["listen"]["metrics"]["address"] = (
        f"{HOST}:0"
    )
    with proxyd:
        port = int(proxyd.ready["ssh"].rpartition(":")[2])
        assert port > 0
        with socket.create_connection((HOST, port), 5) as link:
            assert link.recv(4) == b"SSH-"


def test_a_broken_configuration_is_one_line_and_status_two(short: Path) -> None:
    proxyd = Proxyd(short)
    good = proxyd.config.read_text()
    cases = {
        "lisen": good + "\n[lisen]\n",
        "drain_seconds": re.sub(r"(?m)^#? *drain_seconds.*$", 'drain_seconds = "x"', good, count=1),
        "address": good + '\n[targets.x]\naddress = "no port"\n',
    }
    for word, text in cases.items():
        proxyd.config.write_text(text)
        for command in ("check", "serve"):
            done = proxyd.run(command, "--config", str(proxyd.config))
            assert done.returncode == 2, (command, done)
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            assert len(said) == 1, said
            assert re.search(rf"proxyd\.toml:\d+: .*{word}", said[0]), said
    missing = proxyd.run("serve", "--config", str(short / "absent.toml"))
    assert missing.returncode == 2
    assert "absent.toml" in missing.stderr
    proxyd.config.write_text(good)
    assert proxyd.run("check", "--config", str(proxyd.config)).returncode == 0


def test_every_command_prints_one_document(lab: Lab, short: Path) -> None:
    assert SSH.execute(lab.proxied(short), "echo one").code == 0
    lab.proxyd.quiet()
    session = lab.proxyd.sessions()[0]["id"]
    for argv in (
        ("status",),
        ("sessions",),
        ("sessions", "--user", USER, "--target", TARGET, "--state", "ended", "--since", "1h"),
        ("show", session),
        ("show", session[:12]),
        ("blocked",),
        ("log", session),
        ("users", "list"),
        ("reload",),
        ("verify", session),
    ):
        done = lab.proxyd.ctl(*argv)
        assert done.data is not None, argv
        assert done.err == "", argv
        assert len(done.out.splitlines()) >= 1
    assert lab.proxyd.ctl("show", session).data["session"]["id"] == session


def test_json_may_stand_after_the_command(lab: Lab) -> None:
    done = subprocess.run(
        [*PROXYCTL, "--config", lab.proxyd.config, "status", "--json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout)["node"] == "node1"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("show", "feedface"), 1),
        (("block", "feedface"), 1),
        (("unblock", "nobody@nowhere"), 1),
        (("drop", "--yes", "feedface"), 1),
        (("watch", "feedface"), 1),
        (("verify", "feedface"), 1),
        (("frobnicate",), 2),
        (("show",), 2),
        (("sessions", "--state", "odd"), 2),
        (("export", "feedface", "--format", "odd"), 2),
    ],
)
def test_exit_statuses(argv: tuple[str, ...], code: int, lab: Lab) -> None:
    done = lab.proxyd.ctl(*argv, check=False)
    assert done.code == code, (done.out, done.err)
    assert "Traceback" not in done.out + done.err
    said = done.out.strip() or done.err.strip()
    assert json.loads(said)["error"], said


def test_without_a_daemon_it_says_how_to_start_one(short: Path) -> None:
    proxyd = Proxyd(short)
    proxyd.write()
    done = proxyd.ctl("status", check=False)
    assert done.code == 1
    assert "proxyd serve" in done.out + done.err


def test_watch_streams_one_record_a_line(lab: Lab, short: Path) -> None:
    with held(lab, short, "for i in 1 2 3; do echo tick$i; sleep 0.2; done") as (client, session):
        argv = [*PROXYCTL, "--config", str(lab.proxyd.config), "--json", "watch", session]
        log = short / "watch.jsonl"
        with log.open("wb") as sink, Process(argv, log=short / "watch.err", stdout=sink) as viewer:
            assert client.wait(20) == 0
            assert viewer.wait(20) == 0
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert records[0]["kind"] == "meta"
    assert records[-1]["kind"] == "end"
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))


def test_a_second_daemon_on_the_same_state_is_refused(lab: Lab) -> None:
    done = lab.proxyd.run("serve", "--config", str(lab.proxyd.config))
    assert done.returncode in (1, 2)
    assert len([line for line in done.stderr.splitlines() if line.strip()]) == 1, done.stderr
    assert lab.proxyd.ctl("status").code == 0


def test_signals_end_it_with_status_zero(own_lab: Callable[..., Lab]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        lab = own_lab()
        process = lab.proxyd.process
        assert process
        process.popen.send_signal(number)
        assert process.wait(20) == 0
        assert "Traceback" not in lab.proxyd.log()


@pytest.mark.timeout(180)
def test_demo_once_shows_a_verified_recording(short: Path) -> None:
    done = subprocess.run(
        [*PROXYD, "demo", "--once", "--dir", short / "demo"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"verif", done.stdout, re.IGNORECASE)
    eventually("nothing of it is left running", lambda: not running_in(short))


def running_in(directory: Path) -> list[str]:
    """The command lines of processes that name `directory`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line and "pytest" not in line:
            found.append(line)
    return found
