"""proxyd itself, as a stranger runs it: init, a configuration, serve, and proxyctl beside it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tests.peers.endpoint import HOST, Endpoint
from tests.peers.keys import Key
from tests.peers.process import Process, eventually, free_port
from tests.peers.pyssh import PySshd
from tests.peers.sshd import Sshd

if TYPE_CHECKING:
    from proxyd.control.client import Client
    from proxyd.recorder.replay import Recording

READY_S = 30.0
CONTROL_S = 30.0
TRIES = 5
PROXYD = (sys.executable, "-m", "proxyd")
PROXYCTL = (sys.executable, "-c", "from proxyd.cli import proxyctl; proxyctl()")
METRIC = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})? (\S+)", re.MULTILINE)
USER = "alice"
TARGET = "web1"
EVERY_CHANNEL = (
    *("shell", "exec", "sftp", "local-forward", "remote-forward", "agent", "x11"),
    *("clipboard", "clipboard-files", "devices"),
)


@dataclass(frozen=True)
class Control:
    """What one proxyctl call gave."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The one JSON document printed."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """A stream: one document a line."""
        return [json.loads(line) for line in self.out.splitlines() if line.strip()]


class Proxyd:
    """`with Proxyd(directory) as proxyd: proxyd.endpoint(target, ...)`."""

    def __init__(self, directory: Path, *, env: Mapping[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.home = directory / "proxyd"
        self.config = self.home / "proxyd.toml"
        self.env = {**os.environ, "PROXYD_CONFIG": "", **(env or {})}
        self.process: Process | None = None
        self.ready: dict[str, Any] = {}
        self.starts = 0
        self._draw_ports()
        self.settings: dict[str, Any] = tomllib.loads(self.config.read_text())
        # Every client here comes from loopback: limits are off but where a test is about them.
        self.settings["admission"] = {"exempt": ["127.0.0.0/8"], "max_startups": "1000:30:2000"}

    def _draw_ports(self) -> None:
        self.ssh_port, self.metrics_port = free_port(), free_port()
        made = self.init()
        assert made.returncode == 0, made.stderr

    def init(self) -> subprocess.CompletedProcess[str]:
        """`proxyd init` for this directory and these ports."""
        ports = ["--ssh-port", str(self.ssh_port), "--metrics-port", str(self.metrics_port)]
        return self.run("init", "--dir", str(self.home), *ports)

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `proxyd ARGV` to its end."""
        return subprocess.run(
            [*PROXYD, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.env,
            timeout=60,
            check=False,
        )

    # configuration

    def user(self, name: str = USER, **settings: Any) -> None:
        """Add or replace a user."""
        self.settings.setdefault("users", {})[name] = settings

    def target(
        self, name: str, sshd: Sshd | PySshd, *, port: int = 0, account: str = "", **settings: Any
    ) -> None:
        """Add or replace a target: `sshd`, reached on `port` when a tap stands before it."""
        credential = self.directory / f"{name}.credential"
        credential.write_bytes(sshd.key.path.read_bytes())
        credential.chmod(0o600)
        self.settings.setdefault("targets", {})[name] = {
            "address": f"{HOST}:{port or sshd.port}",
            "host_keys": [sshd.host_key.line],
            "accounts": {account or sshd.user: {"key": f"file:{credential}"}},
            **settings,
        }

    def grant(self, **settings: Any) -> None:
        """Add a grant; everything allowed unless said otherwise."""
        filled = {
            "users": ["*"],
            "targets": ["*"],
            "accounts": ["*"],
            "channels": list(EVERY_CHANNEL),
            **settings,
        }
        self.settings.setdefault("grants", []).append(filled)

    def write(self) -> None:
        """Write the configuration file from `settings`."""
        self.config.write_text(toml(self.settings))

    def endpoint(
        self, key: Key, directory: Path, *, user: str = USER, target: str = TARGET, login: str = ""
    ) -> Endpoint:
        """The way in for one user to one target."""
        name = f"{user}+{login}+{target}" if login else f"{user}+{target}"
        return Endpoint("proxied", self.ssh_port, name, key, self.host_key, directory)

    @property
    def host_key(self) -> Key:
        """The front's own host key."""
        return Key(self.home / "keys" / "ssh_host_ed25519_key")

    # life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.process.stop()

    def start(self) -> None:
        """Write the configuration, serve, wait for the ready line."""
        self.write()
        self.starts += 1
        log = self.directory / f"proxyd.{self.starts}.log"
        self.process = Process([*PROXYD, "serve", "--config", str(self.config)], log=log, env=self.env)
        eventually("proxyd is ready", self._is_ready, within_s=READY_S)

    def _is_ready(self) -> bool:
        assert self.process is not None
        for event in self.events():
            if event.get("event") == "ready":
                self.ready = event
                return True
        assert self.process.running, f"proxyd ended with {self.process.popen.returncode}: {self.log()}"
        return False

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self.process is not None
        return self.process.pid

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        return self.process.stop()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()

    def hup(self) -> None:
        """SIGHUP: read the configuration again."""
        assert self.process is not None
        self.process.popen.send_signal(signal.SIGHUP)

    def restart(self) -> None:
        """Stop and start on the same ports."""
        self.stop()
        self.start()

    # looking in

    def log(self) -> str:
        """Everything the running daemon logged since it started."""
        assert self.process is not None
        return self.process.text()

    def logs(self) -> str:
        """Everything every start of it logged."""
        return "".join(
            path.read_text(errors="replace") for path in sorted(self.directory.glob("proxyd.*.log"))
        )

    def events(self) -> list[dict[str, Any]]:
        """The log's JSON lines."""
        return [
            json.loads(line)
            for line in self.log().splitlines()
            if line.startswith("{") and line.endswith("}")
        ]

    def ctl(self, *argv: str, check: bool = True, stdin: str = "") -> Control:
        """Run proxyctl --json; `check` wants exit status 0."""
        done = subprocess.run(
            [*PROXYCTL, "--config", str(self.config), "--json", *argv],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.env,
            timeout=CONTROL_S,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"proxyctl {argv}: {done.returncode}: {done.stdout}{done.stderr}"
        return Control(done.returncode, done.stdout, done.stderr)

    def run_ctl(self, *argv: str, stdin: str = "") -> Control:
        """Run proxyctl without --json."""
        done = subprocess.run(
            self.ctl_argv(*argv),
            input=stdin,
            capture_output=True,
            text=True,
            env=self.env,
            timeout=CONTROL_S,
            check=False,
        )
        return Control(done.returncode, done.stdout, done.stderr)

    def ctl_argv(self, *argv: str) -> list[str]:
        """proxyctl as a person at a terminal runs it."""
        return [*PROXYCTL, "--config", str(self.config), *argv]

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.home / self.settings["control"]["socket"]

    def client(self) -> Client:
        """A client of the control socket in this process: no interpreter start between asking and the answer."""
        from proxyd.control.client import Client  # noqa: PLC0415 - PEERS_DIRECT runs without the package

        return Client(self.socket)

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Ask the control socket one command."""
        return self.client().call(name, **arguments)

    def sessions(self, **wanted: Any) -> list[dict[str, Any]]:
        """Sessions as the daemon lists them, newest first."""
        listed: list[dict[str, Any]] = self.call("sessions", **wanted)["sessions"]
        return listed

    def live(self) -> list[dict[str, Any]]:
        """The live ones."""
        return self.sessions(state="live")

    def the_live_session(self, *, within_s: float = 60.0) -> dict[str, Any]:
        """Wait for exactly one live session and return its row."""
        one = lambda: rows if len(rows := self.live()) == 1 else []  # noqa: E731
        return eventually("one session is live", one, within_s=within_s)[0]

    def quiet(self, *, within_s: float = 60.0) -> None:
        """Wait until no session is live, and release whoever a test left blocked."""
        eventually("no session is live", lambda: not self.live(), within_s=within_s)
        for block in self.call("blocked")["blocked"]:
            self.call("unblock", whom=f"{block['user']}@{block['target']}")

    def ended(self, session: str, *, within_s: float = 60.0) -> dict[str, Any]:
        """Wait for a session's recording to be sealed and return its row."""
        row = lambda: next(one for one in self.sessions(limit=10_000) if one["id"] == session)  # noqa: E731
        eventually(f"session {session} has ended", lambda: row()["state"] != "live", within_s=within_s)
        return row()

    def newest(self, before: set[str], *, within_s: float = 60.0) -> dict[str, Any]:
        """Wait for the one session not in `before` (ids) to have ended, and return its row."""
        new = lambda: [one for one in self.sessions(limit=10_000) if one["id"] not in before]  # noqa: E731
        eventually("a new session is listed", new, within_s=within_s)
        assert len(new()) == 1, new()
        return self.ended(new()[0]["id"], within_s=within_s)

    def ids(self) -> set[str]:
        """The ids of all sessions."""
        return {row["id"] for row in self.sessions(limit=10_000)}

    def recording(self, session: str) -> Recording:
        """Open a recording as an auditor's own process does: path from the daemon, identity from the configuration."""
        from proxyd.recorder.replay import Recording  # noqa: PLC0415 - as above

        path = self.call("read", session=session, kind="export")["path"]
        return Recording.open(Path(path), self.home / self.settings["recording"]["identity"])

    def health(self) -> tuple[int, str]:
        """What /health says: the status, and the text."""
        connection = http.client.HTTPConnection(HOST, self.metrics_port, timeout=10)
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels as written there."""
        with urllib.request.urlopen(f"http://{HOST}:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {name + labels: float(value) for name, labels, value in METRIC.findall(text)}

    def metric(self, name: str) -> float:
        """The sum of one metric over all its labels."""
        return sum(value for sample, value in self.metrics().items() if sample.split("{")[0] == name)


def toml(settings: Mapping[str, Any], prefix: str = "") -> str:
    """Write nested mappings as TOML: plain values first, then tables, then arrays of tables."""
    plain, tables = [], []
    for key, value in settings.items():
        name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
        if isinstance(value, Mapping):
            tables.append(f"\n[{prefix}{name}]\n" + toml(value, f"{prefix}{name}."))
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            tables += [f"\n[[{prefix}{name}]]\n" + toml(item, f"{prefix}{name}.") for item in value]
        else:
            plain.append(f"{name} = {_value(value)}\n")
    return "".join(plain + tables)


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, (str, bool, int, float)):
        return json.dumps(value, ensure_ascii=False)
    return str(value.isoformat())
