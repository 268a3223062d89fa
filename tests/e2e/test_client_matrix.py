"""Every client does through proxyd what it does without it: the same bytes, the same exit status.

Rule 1: each cell runs direct and proxied in one test and compares; nothing is compared with what we believe is right
        unless the direct half also meets it.
Rule 2: a cell is a scenario or a stated reason; there is no third state.
Rule 3: the table is kept as an artefact (build/client-matrix.md), drawn from the cells that ran.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import asyncssh
import pytest

from tests.e2e.lab import DIRECT_ONLY, Lab, furnish, make_lab
from tests.e2e.x11 import XServer, x11_probe
from tests.peers import (
    CLIENTS,
    Agent,
    Client,
    EchoServer,
    Endpoint,
    Key,
    Outcome,
    PySshd,
    Terminal,
    free_port,
)
from tests.peers.libraries import Asyncssh, Paramiko
from tests.peers.pyssh import AWAIT_SIGNAL, SIGNALLED_STATUS

pytestmark = [
    pytest.mark.mission("M16"),
    pytest.mark.timeout(300),
    # paramiko's agent thread ends with EOFError when its channel does
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

MIB = 1 << 20
EVERY_BYTE = bytes(range(256))
BANNER = "Authorised use only.\nEverything is recorded.\n"
ARTEFACT = Path(__file__).parents[2] / "build" / "client-matrix.md"


@dataclass
class Ground:
    """What a scenario may use; `size` is that of its files."""

    path: Path
    size: int = 10 * MIB

    def payload(self, size: int, seed: int = 1) -> bytes:
        """Incompressible bytes, the same in both halves."""
        return Random(seed).randbytes(size)

    def file(self) -> Path:
        """A file of `size` bytes, half compressible, and not a whole number of blocks."""
        path = self.path / "file"
        if not path.exists():
            path.write_bytes(self.payload(self.size // 2) + bytes(self.size // 2) + b"tail")
        return path


Scenario = Callable[[Any, Endpoint, Ground], Outcome]


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest() if path.exists() else "absent"


def execute(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """Binary stdin comes back, between binary text of the command's own."""
    return client.execute(at, r"printf '\001\377\000start'; cat; printf 'end\r\n'", EVERY_BYTE * 500)


def big_output(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """More than a window in both directions at once."""
    done = client.execute(at, "cat; cat", ground.payload(5 * MIB))
    return Outcome(done.code, sha256(done.out).digest(), done.err, {"size": len(done.out)})


def stderr(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """The two outputs stay apart."""
    return client.execute(at, "echo to-out; echo to-err >&2; head -c 100000 /dev/zero >&2; echo last; exit 3")


def exit_code(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """Every kind of status, an unknown command's among them."""
    codes = [client.execute(at, f"exit {code}").code for code in (0, 1, 42, 127, 255)]
    codes.append(client.execute(at, "no-such-command-here 2>/dev/null").code)
    return Outcome(0, more={"codes": codes})


def killed_by_signal(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """The command dies of a signal; each client reports exit-signal in its own way."""
    done = client.execute(at, "echo before; kill -TERM $$")
    return Outcome(done.code, done.out, b"", done.more)


def sends_signal(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """The client sends signal requests and a break (asyncssh), or ^C through the terminal."""
    command = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    if isinstance(client, Asyncssh):
        return _signals(client, at)
    if isinstance(client, Paramiko):

        def dialogue(channel: Any) -> bytes:
            seen = _until(channel, b"ready")
            channel.sendall(b"\x03")
            return seen + _until(channel, None)

        return client.terminal(at, command, dialogue)
    with Terminal(client.argv(at, command=command, terminal=True), env=client.env(at)) as terminal:
        terminal.expect("ready")
        terminal.type(b"\x03")
        terminal.expect("caught")
        return Outcome(terminal.wait(), bytes(terminal.seen))


def _signals(client: Asyncssh, at: Endpoint) -> Outcome:
    sends: list[Callable[[Any], None]] = [
        lambda process: process.send_signal("TERM"),
        lambda process: process.send_signal("USR1"),
        lambda process: process.send_break(500),
    ]
    done = [client.signalled(at, AWAIT_SIGNAL, b"ready\n", send) for send in sends]
    assert done[0] == Outcome(SIGNALLED_STATUS, b"ready\nsignal TERM\n", b"", {"signal": None})
    return Outcome(0, b"".join(one.out for one in done), more={"codes": [one.code for one in done]})


PTY = "stty size; while [ \"$(stty size)\" = '31 97' ]; do sleep 0.02; done; stty size; stty -a | head -3; echo $TERM; exit 7"


def _until(channel: Any, wanted: bytes | None) -> bytes:
    seen = b""
    while (wanted is None or wanted not in seen) and (data := channel.recv(65536)):
        seen += data
    return seen


def pty_and_resize(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """The remote terminal has the local one's size, modes and type, and follows a resize."""
    if isinstance(client, Asyncssh):
        return client.terminal(at, PTY, b"31 97", lambda process: process.change_terminal_size(111, 44))
    if isinstance(client, Paramiko):

        def dialogue(channel: Any) -> bytes:
            seen = _until(channel, b"31 97")
            channel.resize_pty(111, 44)
            return seen + _until(channel, None)

        return client.terminal(at, PTY, dialogue)
    with Terminal(
        client.argv(at, command=PTY, terminal=True), rows=31, columns=97, env=client.env(at)
    ) as terminal:
        terminal.expect("31 97")
        terminal.resize(44, 111)
        terminal.expect("44 111")
        return Outcome(terminal.wait(), _remote_part(bytes(terminal.seen)))


def _remote_part(seen: bytes) -> bytes:
    """Without the client's own closing line (its wording names the connection)."""
    return b"".join(line for line in seen.splitlines(keepends=True) if not line.startswith(b"Connection to "))


def sftp(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """One file there and back."""
    there, back = ground.path / f"there.{at.name}", ground.path / f"back.{at.name}"
    done = client.sftp(at, (ground.file(), str(there)), (str(there), back))
    return Outcome(
        done.code, more={"there": digest(there), "back": digest(back), "sent": digest(ground.file())}
    )


def _scp(client: Any, at: Endpoint, ground: Ground, *, legacy: bool) -> Outcome:
    there, back = ground.path / f"there.{at.name}", ground.path / f"back.{at.name}"
    put = client.scp(at, str(ground.file()), f"peer:{there}", legacy=legacy)
    get = client.scp(at, f"peer:{there}", str(back), legacy=legacy)
    missing = (
        client.scp(at, f"peer:{there}.absent", str(back) + ".x", legacy=legacy)
        if client.name == "OpenSSH"
        else put
    )
    codes = [put.code, get.code, missing.code]
    return Outcome(
        0, more={"codes": codes, "there": digest(there), "back": digest(back), "sent": digest(ground.file())}
    )


def scp(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """scp over SFTP."""
    return _scp(client, at, ground, legacy=False)


def scp_legacy(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """scp -O, the old protocol."""
    return _scp(client, at, ground, legacy=True)


def rsync(client: Any, at: Endpoint, ground: Ground) -> Outcome:
    """A file there and back, with its time and mode."""
    there, back = ground.path / f"there.{at.name}", ground.path / f"back.{at.name}"
    done = client.rsync(at, (ground.file(), str(there)), (str(there), back))
    same = back.exists() and int(back.stat().st_mtime) == int(ground.file().stat().st_mtime)
    return Outcome(done.code, more={"there": digest(there), "back": digest(back), "time": same})


def local_forward(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """-L, with a half-close inside."""
    with EchoServer() as server:
        return Outcome(0, client.local_forward(at, server.port, ground.payload(MIB)))


def remote_forward(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """-R, with a half-close inside."""
    with EchoServer() as server:
        return Outcome(0, client.remote_forward(at, free_port(), server.port, ground.payload(MIB)))


def dynamic_forward(client: Any, at: Endpoint, ground: Ground) -> Outcome:
    """-D: SOCKS5."""
    with EchoServer() as server:
        return Outcome(0, client.dynamic_forward(at, server.port, ground.payload(MIB)))


def agent(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """The target sees the key in the client's agent, and can sign with it."""
    with Agent(ground.path / f"agent.{at.name}", _agent_key(ground)) as one:
        return client.with_agent(
            at,
            one,
            "ssh-add -l; t=$(mktemp); ssh-add -L >$t; ssh-add -T $t; echo signed=$?; rm $t",
        )


def _agent_key(ground: Ground) -> Key:
    path = ground.path / "agent_key"
    return Key(path) if path.exists() else Key.generate(path)


def ansible(client: Any, at: Endpoint, ground: Ground) -> Outcome:
    """ansible -m ping."""
    done = client.ansible_ping(at)
    assert b'"ping": "pong"' in done.out, (done.out, done.err)
    return Outcome(done.code, done.out)


def git_clone(client: Any, at: Endpoint, ground: Ground) -> Outcome:
    """A repository with a large file is cloned whole."""
    origin = ground.path / "origin"
    if not origin.exists():
        git = f"git -C {origin} -c user.name=t -c user.email=t@example.org"
        origin.mkdir()
        (origin / "data").write_bytes(ground.payload(2 * MIB))
        assert os.system(f"{git} init -q -b main && {git} add . && {git} commit -q -m first") == 0
    clone = ground.path / f"clone.{at.name}"
    done = client.git_clone(at, str(origin), clone)
    return Outcome(done.code, done.out, done.err, {"data": digest(clone / "data")})


def multiplexed(client: Any, at: Endpoint, ground: Ground) -> Outcome:
    """Three sessions on one connection at the same time."""
    return client.multiplexed(
        at,
        [
            f"head -c 300000 /dev/zero | tr '\\0' {letter}; exit {code}"
            for letter, code in (("a", 0), ("b", 4), ("c", 9))
        ],
    )


def unix_forwards(client: Any, at: Endpoint, ground: Ground) -> Outcome:
    """Unix sockets forwarded in both directions."""
    there, here = ground.path / f"u1.{at.name}", ground.path / f"u2.{at.name}"
    with EchoServer(path=there), EchoServer(path=here):
        return client.unix_forwards(at, there, ground.path / f"u3.{at.name}", here, ground.payload(MIB // 2))


def x11(client: Any, at: Endpoint, ground: Ground) -> Outcome:
    """A remote X client reaches the local display with the real cookie."""
    directory = ground.path / f"x.{at.name}"
    directory.mkdir()
    with XServer(directory) as server:
        where: Any = (
            (server.number, server.cookie)
            if isinstance(client, Paramiko)
            else (server.display, server.authority)
        )
        done = client.x11(at, *where, x11_probe())
    return Outcome(done.code, done.out, more={"cookies_right": server.right, "cookies_wrong": server.wrong})


def half_close(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """Our end of input does not end the command's output."""
    return client.execute(
        at, "wc -c; sleep 0.3; echo after; sleep 0.2; echo later >&2; exit 5", b"x" * 70_000
    )


def environment(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """Variables asked for arrive where the target accepts them, and only there."""
    command = 'echo "$LC_PROXYD|$PROXYD_TEST|$NOT_ACCEPTED"'
    return client.execute(
        at, command, env={"LC_PROXYD": "grüße", "PROXYD_TEST": "one-two", "NOT_ACCEPTED": "x"}
    )


def not_utf8(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """A command in Latin-1 reaches the target unchanged."""
    return client.execute(at, b"printf %s 'caf\xe9\xff\xfe' | od -An -tx1; exit 6")


def banner(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """The banner is shown before the login, once."""
    if isinstance(client, Paramiko):
        with client.transport(at) as link:
            return Outcome(0, link.get_banner() or b"")
    if isinstance(client, Asyncssh):
        return Outcome(0, _asyncssh_banner(client, at).encode())
    return client.execute(at, "echo done")


def _asyncssh_banner(client: Asyncssh, at: Endpoint) -> str:
    heard: list[str] = []

    class Listening(asyncssh.SSHClient):
        def auth_banner_received(self, msg: str, lang: str) -> None:
            heard.append(msg)

    async def work() -> None:
        async with client.connection(at, client_factory=Listening):
            pass

    client._run(work())
    return "".join(heard)


def rekey(client: Client, at: Endpoint, ground: Ground) -> Outcome:
    """New keys every megabyte, in both directions; the pause keeps the close out of paramiko's last exchange.

    (Its transport thread waits for itself when the channel's close meets its own new keys, against any server.)
    """
    done = client.rekeyed(at, "cat; sleep 0.5", ground.payload(8 * MIB))
    return Outcome(done.code, sha256(done.out).digest(), done.err, {"size": len(done.out)})


SCENARIOS: dict[str, Scenario] = {
    "exec": execute,
    "exec, more than a window": big_output,
    "stderr": stderr,
    "exit code": exit_code,
    "killed by a signal": killed_by_signal,
    "signal or ^C": sends_signal,
    "pty + resize": pty_and_resize,
    "sftp put/get": sftp,
    "scp": scp,
    "scp -O": scp_legacy,
    "rsync": rsync,
    "-L": local_forward,
    "-R": remote_forward,
    "-D": dynamic_forward,
    "agent": agent,
    "ansible ping": ansible,
    "git clone": git_clone,
    "several sessions, one connection": multiplexed,
    "unix forwards": unix_forwards,
    "X11": x11,
    "half-close": half_close,
    "env": environment,
    "non-UTF-8 exec": not_utf8,
    "banner": banner,
    "rekey 1 MB": rekey,
}
LIBRARY = "a library: nothing to name as remote shell"
NOT_OFFERED: dict[tuple[str, str], str] = {
    ("paramiko", "scp"): "has no scp",
    ("paramiko", "scp -O"): "has no scp",
    ("paramiko", "rsync"): LIBRARY,
    ("paramiko", "-D"): "has no SOCKS server",
    ("paramiko", "ansible ping"): "Ansible's own Python has no paramiko",
    ("paramiko", "git clone"): LIBRARY,
    ("paramiko", "unix forwards"): "knows no streamlocal channel",
    ("plink", "ansible ping"): "Ansible has no plink connection",
    ("plink", "unix forwards"): "forwards TCP only",
    ("dbclient", "-D"): "has no SOCKS server",
    ("dbclient", "ansible ping"): "Ansible has no dbclient connection",
    ("dbclient", "several sessions, one connection"): "one session a connection",
    ("dbclient", "unix forwards"): "forwards TCP only",
    ("dbclient", "X11"): "has no X11 forwarding",
    ("dbclient", "env"): "sends no variables",
    ("dbclient", "rekey 1 MB"): "its limit is fixed at 1 GiB",
    ("asyncssh", "scp"): "its scp speaks the old protocol only",
    ("asyncssh", "rsync"): LIBRARY,
    ("asyncssh", "ansible ping"): "Ansible has no asyncssh connection",
    ("asyncssh", "git clone"): LIBRARY,
    ("asyncssh", "non-UTF-8 exec"): "encodes a command as UTF-8",
}
BY_NAME = {client.name: client for client in CLIENTS}
CELLS = [
    pytest.param(client.name, case, id=f"{client.name}-{case}")
    for case in SCENARIOS
    for client in CLIENTS
    if (client.name, case) not in NOT_OFFERED
]
BULK = ("sftp put/get", "scp", "scp -O", "rsync")


@pytest.fixture(scope="session")
def banner_lab(shared: Path) -> Iterator[Lab]:
    """A target with a banner; the front adds none, so the user sees what they would see without it."""
    made = make_lab(shared / "banner", banner=BANNER)
    with made.sshd:
        if DIRECT_ONLY:
            yield made
            return
        furnish(made)
        with made.proxyd:
            yield made


def compare(client: str, case: str, lab: Lab, path: Path, size: int) -> None:
    ground = Ground(path, size)
    results, seconds = [], []
    for way in lab.ways(path):
        started = time.monotonic()
        results.append(SCENARIOS[case](BY_NAME[client], way, ground))
        seconds.append(time.monotonic() - started)
    keep(client, case, seconds, equal=all(result == results[0] for result in results))
    for result in results[1:]:
        assert result == results[0]
    worth = results[0]
    assert worth.out or worth.more, "the scenario compared nothing"


@pytest.fixture(scope="session")
def signal_lab(shared: Path) -> Iterator[Lab]:
    """A target that delivers signals to root too."""
    made = make_lab(shared / "signals")
    with PySshd(shared / "signals" / "py") as target:
        made.sshd = target  # type: ignore[assignment]
        if DIRECT_ONLY:
            yield made
            return
        furnish(made)
        with made.proxyd:
            yield made


ROOMS = {"banner": "banner_lab", "signal or ^C asyncssh": "signal_lab"}


@pytest.mark.parametrize(("client", "case"), CELLS)
def test_a_client_sees_no_difference(
    client: str, case: str, request: pytest.FixtureRequest, short: Path
) -> None:
    room = ROOMS.get(case) or ROOMS.get(f"{case} {client}") or "lab"
    compare(client, case, request.getfixturevalue(room), short, 10 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize(("client", "case"), [cell for cell in CELLS if cell.values[1] in BULK], ids=str)
def test_a_hundred_megabytes(client: str, case: str, lab: Lab, short: Path) -> None:
    compare(client, case, lab, short, 100 * MIB)


def test_every_cell_is_a_scenario_or_a_reason() -> None:
    names = set(BY_NAME)
    assert len(CELLS) + len(NOT_OFFERED) == len(SCENARIOS) * len(CLIENTS)
    assert {client for client, _ in NOT_OFFERED} <= names
    assert {case for _, case in NOT_OFFERED} <= set(SCENARIOS)
    assert all(NOT_OFFERED.values())


def keep(client: str, case: str, seconds: list[float], *, equal: bool) -> None:
    """Note one cell and draw the table again; several workers write, one after the other."""
    ARTEFACT.parent.mkdir(exist_ok=True)
    cells_path = ARTEFACT.with_suffix(".json")
    with cells_path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        cells = json.loads(file.read() or "{}")
        how = "equal" if len(seconds) == 2 else "direct only"
        cells[f"{case}|{client}"] = (
            (how if equal else "DIFFERENT") + " (" + " / ".join(f"{one:.1f} s" for one in seconds) + ")"
        )
        file.seek(0)
        file.truncate()
        file.write(json.dumps(cells, indent=1))
        file.flush()
        ARTEFACT.write_text(table(cells))


def table(cells: dict[str, str]) -> str:
    """The matrix as Markdown: equal (seconds direct / proxied), n/a with its reason, or not run."""
    rows = ["| case | " + " | ".join(BY_NAME) + " |", "|---" * (len(BY_NAME) + 1) + "|"]
    for case in SCENARIOS:
        row = [
            f"n/a: {NOT_OFFERED[name, case]}"
            if (name, case) in NOT_OFFERED
            else cells.get(f"{case}|{name}", "not run")
            for name in BY_NAME
        ]
        rows.append(f"| {case} | " + " | ".join(row) + " |")
    return "\n".join(rows) + "\n"
