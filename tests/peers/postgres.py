"""A real PostgreSQL server as a throw-away target: TLS by a CA of its own, an account for each login method."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.peers.endpoint import HOST
from tests.peers.mariadb import Authority
from tests.peers.process import Process, eventually, free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
BIN = BINARIES[-1].parent if BINARIES else None
INSTALLED = BIN is not None
RUN_AS = "postgres"  # the server refuses to be root
START_S = 60.0
STOP_S = 20.0
TRIES = 5
DATABASE = "bench"
PASSWORDS = {"app": "TargetPw1", "old": "Md5Pw1", "plain": "ClearPw1", "weak": "WeakPw1"}
CERTIFIED = "certified"  # logs in by certificate
HBA = f"""
local all all trust
hostssl all old all md5
hostssl all plain all password
hostssl all {CERTIFIED} all cert
hostssl replication all all scram-sha-256
hostssl all all all scram-sha-256
"""
SETTINGS = {
    "fsync": "off",
    "wal_level": "logical",
    "max_wal_senders": "4",
    "max_connections": "80",
    "shared_buffers": "32MB",
    "ssl": "on",
    "log_statement": "none",
    "listen_addresses": HOST,
    "lc_messages": "C",
}
SET_UP = f"""
create role app login superuser password '{PASSWORDS["app"]}';
create role weak login password '{PASSWORDS["weak"]}';
create role plain login password '{PASSWORDS["plain"]}';
create role {CERTIFIED} login;
set password_encryption = 'md5';
create role old login password '{PASSWORDS["old"]}';
"""


def run_as_server(*argv: str | Path) -> list[str]:
    """Give a command line that runs as the server's user when we are root."""
    words = [str(word) for word in argv]
    return (
        ["setpriv", "--reuid", RUN_AS, "--regid", RUN_AS, "--init-groups", "--", *words]
        if os.getuid() == 0
        else words
    )


class Postgres:
    """One server: `with Postgres(directory) as target: target.port`."""

    def __init__(self, directory: Path, **settings: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.authority = Authority(directory / "tls")
        self.data = directory / "data"
        self.port = 0
        self.process: Process | None = None
        self._settings = {**SETTINGS, **settings}

    @property
    def address(self) -> str:
        """host:port, as proxyd's configuration has it."""
        return f"{HOST}:{self.port}"

    def __enter__(self) -> Self:
        assert BIN is not None, "Debian's postgresql is not installed"
        self._install()
        for _ in range(TRIES):
            self.port = free_port()
            if self._start():
                self.psql(SET_UP)
                self.psql(f"create database {DATABASE}")
                return self
        raise AssertionError(f"postgres does not start: {self.log}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server, if it runs."""
        if self.process is not None:
            self.process.stop(signal.SIGINT)  # at once, whoever is connected

    def start_again(self) -> None:
        """Start it as it was, on its port."""
        assert self._start(), self.log

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (self.directory / "log").read_text(errors="replace")

    def _install(self) -> None:
        assert BIN is not None
        tls = self.directory / "tls"
        self.authority.key.chmod(0o600)
        if os.getuid() == 0:
            for path in (self.directory, tls, *tls.iterdir()):
                shutil.chown(path, RUN_AS, RUN_AS)
            for parent in self.directory.parents:  # the server must be able to come here
                if parent.stat().st_uid == 0 and parent not in (Path("/"), Path("/tmp")):
                    parent.chmod(parent.stat().st_mode | 0o011)
        argv = run_as_server(BIN / "initdb", "-D", self.data, "-U", RUN_AS, "--auth-local=trust", "-E", "UTF8",
                             "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr
        (self.data / "pg_hba.conf").write_text(HBA)

    def _start(self) -> bool:
        assert BIN is not None
        files = {
            "ssl_cert_file": self.authority.certificate,
            "ssl_key_file": self.authority.key,
            "ssl_ca_file": self.authority.ca,
        }
        settings = {**self._settings, **{name: str(path) for name, path in files.items()},
                    "unix_socket_directories": str(self.directory)}  # fmt: skip
        words = [f"--{name}={value}" for name, value in settings.items()]
        argv = run_as_server(BIN / "postgres", "-D", self.data, "-p", str(self.port), *words)
        self.process = Process(argv, log=self.directory / "log", cwd=Path("/"))
        process = self.process

        def up() -> bool:
            return not process.running or self._ask("select 1").returncode == 0

        eventually("postgres answers or has ended", up, within_s=START_S)
        return process.running

    def _ask(self, text: str, database: str = "postgres") -> subprocess.CompletedProcess[str]:
        argv = ["psql", "-XAtq", "-h", str(self.directory), "-p", str(self.port), "-U", RUN_AS, "-d", database,
                "-v", "ON_ERROR_STOP=1", "-f", "-"]  # fmt: skip
        return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=30, check=False)

    def psql(self, text: str, database: str = "postgres") -> str:
        """Run SQL as the superuser, past the proxy; gives what it prints."""
        done = self._ask(text, database)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def running(self, like: str) -> list[str]:
        """The statements that run now and contain `like`."""
        text = f"select query from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() and query like '%{like}%'"
        return self.psql(text).splitlines()

    def target(self, *accounts: str, directory: Path, **settings: Any) -> dict[str, Any]:
        """Give proxyd's settings for this server, the credentials in files of `directory`."""
        made: dict[str, Any] = {}
        for account in accounts or ("app",):
            if account == CERTIFIED:
                pair = self.authority.client(account, directory)
                for path in pair:
                    path.chmod(0o600)
                made[account] = {"certificate": f"file:{pair[0]}", "key": f"file:{pair[1]}"}
                continue
            secret = directory / f"{account}.password"
            secret.write_text(PASSWORDS[account])
            secret.chmod(0o600)
            made[account] = {"password": f"file:{secret}"}
        return {
            "address": self.address,
            "protocol": "postgres",
            "tls_ca": str(self.authority.ca),
            "accounts": made,
            **settings,
        }
