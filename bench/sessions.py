"""Many people logged in and idle: what each costs the daemon.

Promise: an idle interactive session costs at most 100 KiB of the daemon's memory, with 500 of them.

The sessions are shells on terminals, opened by one asyncssh process that then does nothing; memory is the daemon's
resident set less what it had when WARM sessions had been and gone, and the recorder had given back what they left. The daemon is this script's own: one that has done other
work would take the sessions' memory from what that left free.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import asyncssh

from bench.rig import Promise, Report, Rig, Table
from tests.peers import Proxyd
from tests.peers.daemon import TARGET, USER
from tests.peers.endpoint import HOST
from tests.peers.process import cpu_seconds, open_files, rss_bytes

SESSIONS, SESSIONS_QUICK = 500, 50
REST_S, REST_QUICK_S = 60, 10
EACH_KIB = 100
WARM = 40  # more than what makes the recorder trim its memory
AT_ONCE = 8  # logins at the same time
LOGIN_S = 300
KIB = 1 << 10


def measure(rig: Rig) -> Report:
    """Open them, look, wait, look again."""
    count, rest = rig.pick(SESSIONS_QUICK, SESSIONS), rig.pick(REST_QUICK_S, REST_S)
    proxyd = rig.another_proxyd("crowded")
    with Crowd(rig, proxyd, WARM):
        time.sleep(REST_QUICK_S)
    proxyd.quiet()
    rig.calm()
    before, cpu_before, began = rss_bytes(proxyd.pid), cpu_seconds(proxyd.pid), time.monotonic()
    with Crowd(rig, proxyd, count):
        took = time.monotonic() - began
        login_cpu = (cpu_seconds(proxyd.pid) - cpu_before) / count
        at_once = rss_bytes(proxyd.pid)
        live, files = len(proxyd.sessions(state="live", limit=10_000)), open_files(proxyd.pid)
        time.sleep(rest)  # the promise is about sessions that idle
        rested, idle, idle_began = rss_bytes(proxyd.pid), cpu_seconds(proxyd.pid), time.monotonic()
        time.sleep(rest)
        idle_cpu = (cpu_seconds(proxyd.pid) - idle) / (time.monotonic() - idle_began)
        last = rss_bytes(proxyd.pid)
    proxyd.quiet(within_s=120)
    after = rss_bytes(proxyd.pid)
    proxyd.stop()
    assert live == count, f"{live} of {count} sessions are live"
    each = {
        name: (value - before) / count / KIB
        for name, value in (("at once", at_once), ("rested", rested), ("last", last))
    }
    table = Table(f"{count} idle interactive sessions", ("", "daemon, MiB", "KiB a session"))
    table.rows = [
        ("before", f"{before / KIB / KIB:.1f}", ""),
        ("all logged in", f"{at_once / KIB / KIB:.1f}", f"{each['at once']:.1f}"),
        (f"{rest} s later", f"{rested / KIB / KIB:.1f}", f"{each['rested']:.1f}"),
        (f"{2 * rest} s later", f"{last / KIB / KIB:.1f}", f"{each['last']:.1f}"),
        ("all gone", f"{after / KIB / KIB:.1f}", ""),
    ]
    costs = Table("and", ("", ""))
    costs.rows = [
        ("the daemon's CPU for a login, ms", f"{login_cpu * 1e3:.1f}"),
        ("logins a second, client and target on the same processors", f"{count / took:.1f}"),
        ("the daemon's CPU while all idle, % of a processor", f"{idle_cpu * 100:.2f}"),
        ("descriptors a session", f"{files / count:.1f}"),
    ]
    promises = [
        Promise("memory of an idle session, right after set-up", each["at once"], EACH_KIB, unit=" KiB"),
        Promise(f"memory of an idle session, {rest} s later", each["rested"], EACH_KIB, unit=" KiB"),
    ]
    data = {
        "sessions": count,
        "rss_bytes": {
            "before": before,
            "at_once": at_once,
            "rested": rested,
            "last": last,
            "after": after,
        },
        "kib_each": each,
        "login_cpu_seconds": login_cpu,
        "idle_cpu_share": idle_cpu,
    }
    return Report("sessions", [table, costs], promises, data=data)


class Crowd:
    """A child process with `count` sessions open, while the block runs."""

    def __init__(self, rig: Rig, proxyd: Proxyd, count: int) -> None:
        at = proxyd.endpoint(rig.key, rig.place("clients"), user=USER, target=TARGET)
        argv = [sys.executable, "-m", "bench.sessions", str(at.port), at.user, str(rig.key.path), str(count)]
        self.root = Path(__file__).resolve().parent.parent
        self.argv, self.log = argv, rig.place("sessions") / "crowd.log"

    def __enter__(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=self.root
            )
        assert self.child.stdout
        if self.child.stdout.readline() != b"up\n":
            self.child.wait(10)
            raise RuntimeError(f"not all sessions came up: {self.log.read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.close()  # that is what it waits for
        self.child.wait(60)
        self.child.stdout.close()


async def crowd(port: int, user: str, key: str, count: int) -> None:
    """Open the sessions, say so, wait for the end of standard input."""
    private = asyncssh.read_private_key(key)
    turn = asyncio.Semaphore(AT_ONCE)
    connections = []

    async def one() -> None:
        async with turn:
            connection = await asyncssh.connect(
                HOST,
                port,
                username=user,
                client_keys=[private],
                known_hosts=None,
                config=[],
                agent_path=None,
                connect_timeout=LOGIN_S,
                login_timeout=LOGIN_S,
            )
            process = await connection.create_process(term_type="xterm", term_size=(80, 24))
            await process.stdout.read(1)  # the prompt has come
            connections.append((connection, process))

    await asyncio.gather(*(one() for _ in range(count)))
    print("up", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for connection, _ in connections:
        connection.abort()


if __name__ == "__main__":
    asyncio.run(crowd(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
