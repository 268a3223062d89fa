"""`proxyd demo`: everything on one machine, one real session through it, and what was recorded of it.

It makes a directory with `proxyd init`, starts a throw-away SSH target and the daemon as processes of their own, types
into a real `ssh` (or asyncssh, where there is no `ssh`), runs a script each in `psql` and `mariadb` where they and
their servers are installed, and shows the sessions with the very commands an operator would use. Then it stays up for
a hand to try, unless it is asked to run once.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncssh
from rich.console import Console
from rich.markup import escape

from proxyd import demo_databases, setup, verifiers
from proxyd.access import hash_password

PASSWORD = "demo"  # noqa: S105 - the demo's own, printed on the screen
USER = (
    "admin"  # of the console; another person than the one whose sessions there are: nobody blocks themselves
)
START_S = 30.0
"""Seconds a process of the demo may take to start; a slow machine needs five."""

STEP_S = 15.0
"""Seconds one typed command may take to show its end."""

TYPING_S = 0.03
"""Seconds between keys, so that the recording replays like a person typing."""

TYPED = (
    "whoami && uname -sr",
    'for host in web1 web2 web3; do echo "checking $host ... ok"; done',
    "df -h / | tail -1",
    "printf '\\033[1;32mdeployed\\033[0m in %s seconds\\n' 3",
)

_console = Console(highlight=False, soft_wrap=True)


def run(*, once: bool = False, directory: Path | None = None) -> int:
    """Run the demo; give its exit status. `directory`: kept when given, else removed at the end."""
    with contextlib.ExitStack() as ending:
        base = directory or Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="proxyd-demo-")))
        return _Demo(base, ending).run(once=once)


class _Demo:
    def __init__(self, base: Path, ending: contextlib.ExitStack) -> None:
        self.base = base
        self.ending = ending
        self.config = base / "proxyd.toml"
        self.port = 0
        self.console = ""
        self.ready: dict[str, str] = {}
        self.before: set[str] = set()
        self.databases: list[demo_databases.Server] = []

    def run(self, *, once: bool) -> int:
        began = time.monotonic()
        _say("Setting up", str(self.base))
        setup.initialise(self.base, ssh_port=0, metrics_port=0)
        servers, missing = demo_databases.installed(self.ending)
        for server in servers:  # they make their files while the other target starts
            server.prepare(self.ca, self.ca.with_suffix(".key"))
        target_port = self._target()
        self._start_databases(servers, missing)
        self._configure(target_port)
        self._daemon()
        self._console()
        _say("Connecting", f"ssh -p {self.port} demo+root+web1@127.0.0.1")
        self.before = {row["id"] for row in json.loads(self._ctl("--json", "sessions"))["sessions"]}
        client = self._drive_openssh if shutil.which("ssh") else self._drive_asyncssh
        client()
        status = self._drive_databases()
        status |= self._show()
        _console.print(f"\n[dim]From start to here: {time.monotonic() - began:.1f} s[/dim]")
        if not once:
            self._stay()
        return status

    # ------------------------------------------------------------------ set up

    def _target(self) -> int:
        """Start the throw-away target; give its port."""
        host_key, login_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        self.base.mkdir(parents=True, exist_ok=True)
        for key, name in ((host_key, "target_host_key"), (login_key, "target_login_key")):
            _private(self.base / name, key.export_private_key())
            (self.base / f"{name}.pub").write_bytes(key.export_public_key())
        port_file = self.base / "port"
        port_file.unlink(missing_ok=True)
        self._start(
            [sys.executable, "-m", "proxyd.protocols.ssh.throwaway", str(self.base)],
            "target.log",
            stdin=subprocess.PIPE,
        )
        _until(lambda: port_file.exists() and bool(port_file.read_text().strip()), "the target")
        return int(port_file.read_text())

    @property
    def ca(self) -> Path:
        """The certificate `proxyd init` made; fronts and database targets show it, and are checked against it."""
        return self.base.absolute() / "keys" / "tls.crt"

    def _start_databases(self, servers: Sequence[demo_databases.Server], missing: str) -> None:
        """Keep what starts; what does not, or is not there, is told in a line."""
        for server in servers:
            try:
                server.start()
            except RuntimeError as error:
                _say("Left out", f"{server.target} did not start: {error}")
            else:
                self.databases.append(server)
        if missing:
            _say("Left out", f"databases that are not installed; with them: apt-get install {missing}")

    def _configure(self, target_port: int) -> None:
        """Add one user, the targets and one grant to the configuration; those of an earlier demo are replaced."""
        user_key = asyncssh.generate_private_key("ssh-ed25519")
        _private(self.base / "demo_key", user_key.export_private_key())
        values = {
            "hash": hash_password(PASSWORD),
            "scram": verifiers.scram(PASSWORD),
            "mysql_native": verifiers.mysql_native(PASSWORD),
            "key": user_key.export_public_key().decode().strip(),
            "host_key": (self.base / "target_host_key.pub").read_text().strip(),
            "port": target_port,
            "base": self.base.absolute(),
            "account": demo_databases.ACCOUNT,
        }
        made = self.config.read_text().partition(_ADDED)[0]
        made = made.replace(_OPERATOR, _OPERATOR.replace("]", ', "Console"]'))
        databases = [server.configuration(self.base.absolute(), self.ca) for server in self.databases]
        self.config.write_text("".join([made, _ADDED, _CONFIG.format(**values), *databases]))

    def _daemon(self) -> None:
        """Start `proxyd serve` and wait for its ready line."""
        self._start([sys.executable, "-m", "proxyd", "serve", "--config", str(self.config)], "proxyd.log")
        log = self.base / "proxyd.log"
        _until(lambda: '"ready"' in log.read_text(), "proxyd")
        self.ready = next(json.loads(line) for line in log.read_text().splitlines() if '"ready"' in line)
        self.port = self._port_of("ssh")
        shown = ("ssh", "postgres", "mysql", "metrics", "control")
        _say("Ready", ", ".join(f"{name} {self.ready[name]}" for name in shown if name in self.ready))

    def _console(self) -> None:
        """Start `proxyd console` and wait for its ready line."""
        self._start([sys.executable, "-m", "proxyd", "console", "--config", str(self.config)], "console.log")
        log = self.base / "console.log"
        _until(lambda: '"ready"' in log.read_text(), "the console")
        ready = next(json.loads(line) for line in log.read_text().splitlines() if '"ready"' in line)
        self.console = str(ready["url"])
        _say("Console", f"{self.console}  sign in as {USER}, password {PASSWORD}")

    def _port_of(self, front: str) -> int:
        return int(self.ready[front].rsplit(":", 1)[1])

    def _start(self, argv: list[str], log: str, **options: Any) -> None:
        with (self.base / log).open("wb") as output:
            process = subprocess.Popen(argv, stdout=output, stderr=output, start_new_session=True, **options)
        self.ending.callback(_stop, process)

    # ------------------------------------------------------------------ the session

    def _ssh(self) -> list[str]:
        known = self.base / "known_hosts"
        host_key = next((self.base / "keys").glob("ssh_host_ed25519_key.pub")).read_text().strip()
        known.write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        return ["ssh", "-F", "none", "-i", str(self.base / "demo_key"), "-p", str(self.port), "-o", "IdentitiesOnly=yes",
                "-o", f"UserKnownHostsFile={known}"]  # fmt: skip

    def _drive_openssh(self) -> None:
        """Type into a real OpenSSH client, and send a file with scp; show what it shows."""
        child, terminal = pty.fork()
        if child == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execvp("ssh", [*self._ssh(), "-tt", "demo+root+web1@127.0.0.1"])  # noqa: S606 - the client itself
        try:
            _read_until(terminal, b"$ ")
            for line in (*TYPED, "exit"):
                for character in line:
                    os.write(terminal, character.encode())
                    time.sleep(TYPING_S)
                os.write(terminal, b"\r")
                _read_until(terminal, b"$ " if line != "exit" else None)
        finally:
            os.close(terminal)
            os.waitpid(child, 0)
        note = self.base / "release-notes.txt"
        note.write_text("proxyd demo: this file went through SFTP.\n" * 64)
        options = ["-P" if option == "-p" else option for option in self._ssh()[1:]]
        if shutil.which("scp"):
            _say("Copying", f"scp {note.name} demo+root+web1@127.0.0.1:")
            self._client(
                ["scp", "-q", *options, str(note), f"demo+root+web1@127.0.0.1:{self.base}/received.txt"]
            )

    def _drive_asyncssh(self) -> None:
        """Run the same commands where no OpenSSH client is installed."""
        _console.print("[yellow]no ssh here: using asyncssh as the client[/yellow]")
        script = "\n".join((*TYPED, "exit\n"))
        self._client(
            [sys.executable, "-c", _ASYNCSSH_CLIENT, str(self.port), str(self.base / "demo_key"), script]
        )

    def _drive_databases(self) -> int:
        """Run each database's script through the proxy."""
        status = 0
        for server in self.databases:
            _say("Connecting", self._command_for(server))
            if server.talk(self._port_of(server.protocol), _user_of(server), PASSWORD, self.ca):
                _say("Failed", f"the client's words are above, the proxy's in {self.base / 'proxyd.log'}")
                status = 1
        return status

    def _command_for(self, server: demo_databases.Server) -> str:
        arguments = server.arguments(self._port_of(server.protocol), _user_of(server), self.ca)
        return shlex.join([server.name, *arguments])

    def _client(self, argv: list[str]) -> None:
        if subprocess.run(argv, check=False).returncode:
            raise SystemExit(f"proxyd demo: {Path(argv[0]).name} failed; {self.base / 'proxyd.log'} says why")

    # ------------------------------------------------------------------ what was recorded

    def _show(self) -> int:
        sessions = json.loads(self._ctl("--json", "sessions"))["sessions"]
        new = [
            row for row in sessions if row["id"] not in self.before
        ]  # a kept directory has those of before
        oldest = sorted(new, key=lambda row: row["started_at"])
        shells = [row for row in oldest if row["protocol"] == "ssh"]
        session, last = shells[0]["id"], shells[-1]["id"]
        statements = [row["id"][:12] for row in oldest if row["protocol"] != "ssh"]
        failed = 0
        for words in (
            ("sessions",),
            ("show", session[:12]),
            ("log", session[:12]),
            *([("log", last[:12])] if last != session else []),
            ("replay", session[:12], "--speed", "20", "--skip-idle", "0.2"),
            *(("log", name) for name in statements),
            ("verify", "--all"),
        ):
            _console.print(f"\n[bold]$ proxyctl {escape(' '.join(words))}[/bold]")
            failed |= subprocess.run(
                [*_PROXYCTL, "--config", str(self.config), *words], check=False
            ).returncode
        return failed

    def _ctl(self, *words: str) -> str:
        return subprocess.run(
            [*_PROXYCTL, "--config", str(self.config), *words], check=True, capture_output=True, text=True
        ).stdout

    def _stay(self) -> None:
        _console.print("\n[bold]It stays up now. Try, in another terminal:[/bold]\n")
        ssh = f"ssh -p {self.port} demo+root+web1@127.0.0.1"
        for command, what in (
            (ssh, f"a session of your own; the password is {PASSWORD}"),
            (f"ssh -p {self.port} demo@127.0.0.1", "the menu of targets"),
            *(
                (f"{self._command_for(server)}{server.asking}", f"{server.target}; the same password")
                for server in self.databases
            ),
            (
                self.console,
                f"the web console, in a browser that trusts {self.ca}: {USER}, password {PASSWORD}, no code",
            ),
            (f"proxyctl --config {self.config} sessions", "what is live and what was"),
            (
                f"proxyctl --config {self.config} watch SESSION",
                "look over its shoulder; b blocks, u unblocks, d drops",
            ),
            (f"proxyctl --config {self.config} replay SESSION", "play a recording in the terminal"),
        ):
            _console.print(f"  [cyan]{escape(command)}[/cyan]\n      {what}")
        _console.print("\nCtrl-C ends it and removes everything.")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


_PROXYCTL = [sys.executable, "-c", "from proxyd.cli import proxyctl; proxyctl(prog_name='proxyctl')"]

_OPERATOR = 'roles = ["PAM Administrator", "System Administrator"]'  # as `proxyd init` writes it

_ADDED = """
# ---- added by `proxyd demo`
"""

_CONFIG = """
[console]
address = "127.0.0.1:0"
certificate = "keys/tls.crt"
key = "keys/tls.key"
second_factor = false

[users.admin]
password = "{hash}"
roles = ["PAM Administrator"]

[users.demo]
password = "{hash}"
keys = ["{key}"]
scram = "{scram}"
mysql_native = "{mysql_native}"

[targets.web1]
address = "127.0.0.1:{port}"
description = "the demo's throw-away target"
host_keys = ["{host_key}"]

[targets.web1.accounts.root]
key = "file:{base}/target_login_key"

[[grants]]
users = ["demo"]
targets = ["*"]
accounts = ["root", "{account}"]
channels = ["shell", "exec", "sftp", "local-forward", "remote-forward", "agent", "x11"]
"""

_ASYNCSSH_CLIENT = """
import asyncio, sys, asyncssh
async def main(port, key, script):
    async with asyncssh.connect("127.0.0.1", int(port), username="demo+root+web1", client_keys=[key],
                                known_hosts=None, config=None) as connection:
        result = await connection.run(term_type="xterm", input=script, check=False)
        print(result.stdout)
asyncio.run(main(*sys.argv[1:]))
"""


def _user_of(server: demo_databases.Server) -> str:
    return f"demo+{demo_databases.ACCOUNT}+{server.target}"


def _say(what: str, details: str) -> None:
    _console.print(f"[bold green]{what:>12}[/bold green] {escape(details)}")


def _private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process of the demo; a stopping proxyd drops what is still live on the second signal."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
            return
        process.terminate()
    try:
        process.wait(START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(ready: Any, what: str) -> None:
    for _ in _ticks(START_S):
        if ready():
            return
    raise SystemExit(
        f"proxyd demo: {what} did not start within {START_S:g} s; see its log in the demo's directory"
    )


def _ticks(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)


def _read_until(terminal: int, mark: bytes | None) -> None:
    """Show what the client shows, until `mark` (None: its end)."""
    seen = b""
    deadline = time.monotonic() + STEP_S
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            data = os.read(terminal, 4096)
        except OSError:
            return
        if not data:
            return
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        seen += data
        if mark is not None and seen.endswith(mark):
            return
    raise SystemExit("proxyd demo: the session did not answer in time")
