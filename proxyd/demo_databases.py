"""The database part of `proxyd demo`: throw-away PostgreSQL and MariaDB servers, and real clients that talk to them.

Each server lives in a directory of its own below the system's temporary one, on a free loopback port, with a password
nobody is shown, and is gone with the demo. What is not installed is left out, and said so.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

ACCOUNT = "app"
"""The account on the targets; users never see its password."""

START_S = 30.0
"""Seconds a server may take to make its files, and again to answer; a slow machine needs five."""

SESSION_S = 30.0
"""Seconds a client may take for its script; it takes one."""

_DEBIAN = Path("/usr/lib/postgresql")  # where Debian keeps each version's programs, off the PATH


def _open_to_all() -> str | None:
    """Give a directory for temporary files that other users may enter: a server does not run as root."""
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - below it a directory of our own is made
        path = Path(place)
        if path.is_dir() and all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents)):
            return place
    return None


class Server(ABC):
    """A throw-away server; `prepare` begins to make it, `start` waits until it answers."""

    protocol: ClassVar[str]
    target: ClassVar[str]
    packages: ClassVar[str]
    owner: ClassVar[str]  # whom it runs as when root starts the demo: both refuse to be root
    stop: ClassVar[signal.Signals]  # nothing of it is kept, so it need not end in order
    script: ClassVar[str]
    name: ClassVar[str]  # of the client
    asking: ClassVar[str] = ""  # what lets it ask for the password where it does not by itself
    quietly: ClassVar[
        tuple[str, ...]
    ]  # how the client runs the script: as nobody set it up, and showing what it is told

    def __init__(self, programs: dict[str, str], ending: contextlib.ExitStack) -> None:
        self.programs = programs
        self.port = 0
        self.password = secrets.token_urlsafe(24)
        self._ending = ending
        self._making: subprocess.Popen[bytes] | None = None

    @classmethod
    @abstractmethod
    def programs_found(cls) -> dict[str, str]:
        """Find its programs, and the client's; without one of them, nothing."""

    def prepare(self, certificate: Path, key: Path) -> None:
        """Begin to make the server's files; `certificate` and `key` are what it shows for TLS."""
        made = tempfile.TemporaryDirectory(
            prefix=f"proxyd-{self.protocol}-", dir=_open_to_all(), ignore_cleanup_errors=True
        )
        self.directory = Path(self._ending.enter_context(made))
        for source, name in ((certificate, "tls.crt"), (key, "tls.key")):
            self._private(name, source.read_bytes())
        self._private("secret", self.password.encode())
        self._private("init.sql", self._first_statements().encode())
        self._own(self.directory)
        self._making = self._run(self._make(), "making.log")

    def start(self) -> None:
        """Start the server and wait until it answers. Raises RuntimeError when it does not."""
        if self._making is None or self._making.wait(START_S):
            raise RuntimeError(self._last_words("making.log"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        serving = self._run(self._serve(), "server.log")
        deadline = time.monotonic() + START_S
        while not self._answers():
            if serving.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._last_words("server.log"))
            time.sleep(0.1)

    def configuration(self, base: Path, ca: Path) -> str:
        """Give what the configuration says of the front and of this target; leaves the password below `base`."""
        secret = base / f"{self.target}.password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        values = {"ca": ca, "key": ca.with_suffix(".key"), "port": self.port, "secret": secret}
        return _CONFIG.format(protocol=self.protocol, target=self.target, account=ACCOUNT, **values)

    def talk(self, port: int, user: str, password: str, ca: Path) -> int:
        """Run the script with the real client through the front at `port`; show what it shows, give its status."""
        environment = dict(os.environ) | self._environment(password)
        argv = [self.programs[self.name], *self.quietly, *self.arguments(port, user, ca)]
        done = subprocess.run(
            argv, input=self.script.encode(), env=environment, timeout=SESSION_S, check=False
        )
        return done.returncode

    @abstractmethod
    def arguments(self, port: int, user: str, ca: Path) -> list[str]:
        """Give what the client `name` needs to be told, but the password."""

    @abstractmethod
    def _first_statements(self) -> str: ...

    @abstractmethod
    def _make(self) -> list[str]: ...

    @abstractmethod
    def _serve(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @abstractmethod
    def _environment(self, password: str) -> dict[str, str]: ...

    def _private(self, name: str, data: bytes) -> None:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(data)
        self._own(path)

    def _own(self, path: Path) -> None:
        if os.getuid() == 0:
            shutil.chown(path, *_owner(self.owner))

    def _run(self, argv: list[str], log: str) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {"env": {**os.environ, "TMPDIR": str(self.directory)}}
        if os.getuid() == 0:
            user, group = _owner(self.owner)
            options |= {"user": user, "group": group, "extra_groups": []}
        with (self.directory / log).open("wb") as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.directory,
                                       start_new_session=True, **options)  # fmt: skip
        self._ending.callback(_end, process, self.stop)
        return process

    def _last_words(self, log: str) -> str:
        lines = (self.directory / log).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


class Postgres(Server):
    """PostgreSQL, and psql."""

    protocol = "postgres"
    target = "parcels-pg"
    packages = "postgresql postgresql-client"
    owner = "postgres"
    stop = signal.SIGQUIT
    name = "psql"
    quietly = ("--no-psqlrc", "--echo-all", "--pset=pager=off")
    script = """\
CREATE TABLE parcels (id int PRIMARY KEY, town text, paid numeric);
INSERT INTO parcels SELECT n, 'town ' || n % 7, n * 1.5 FROM generate_series(1, 1000) n;
SELECT town, count(*), sum(paid) FROM parcels GROUP BY town ORDER BY town LIMIT 3;
BEGIN;
UPDATE parcels SET paid = 0 WHERE town = 'town 3';
SELECT * FROM parcel;
ROLLBACK;
CREATE ROLE clerk PASSWORD 'nobody-will-see-this';
"""

    @classmethod
    def programs_found(cls) -> dict[str, str]:
        """Find its programs, and psql; without one of them, nothing."""
        versions = [path for path in _DEBIAN.glob("*/bin") if path.parent.name.isdigit()]
        newest = max(versions, key=lambda path: int(path.parent.name), default=_DEBIAN)
        return _found(("initdb", "postgres", "pg_isready", "psql"), f"{newest}:{os.environ.get('PATH', '')}")

    def arguments(self, port: int, user: str, ca: Path) -> list[str]:
        """Give psql's arguments."""
        return [
            f"host=127.0.0.1 port={port} user={user} dbname=postgres sslmode=verify-full sslrootcert={ca}"
        ]

    def _first_statements(self) -> str:
        return ""

    def _make(self) -> list[str]:
        here = self.directory
        return [self.programs["initdb"], "-D", f"{here}/data", "-U", ACCOUNT, f"--pwfile={here}/secret", "--no-sync",
                "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]  # fmt: skip

    def _serve(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": self.directory / "tls.crt",
            "ssl_key_file": self.directory / "tls.key",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self.programs["postgres"], "-D", f"{self.directory}/data", *options]

    def _answers(self) -> bool:
        asking = [self.programs["pg_isready"], "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asking, check=False).returncode == 0

    def _environment(self, password: str) -> dict[str, str]:
        return {"PGPASSWORD": password}


class Mariadb(Server):
    """MariaDB, and its client."""

    protocol = "mysql"
    target = "parcels-maria"
    packages = "mariadb-server mariadb-client"
    owner = "mysql"
    stop = signal.SIGKILL
    name = "mariadb"
    asking = " --password"
    quietly = ("--no-defaults", "--table", "--force", "-vv")
    script = """\
CREATE TABLE demo.parcels (id int PRIMARY KEY, town text, paid decimal(10, 2));
INSERT INTO demo.parcels SELECT seq, CONCAT('town ', seq % 7), seq * 1.5 FROM demo.seq_1_to_1000;
SELECT town, COUNT(*), SUM(paid) FROM demo.parcels GROUP BY town ORDER BY town LIMIT 3;
SELECT * FROM demo.parcel;
DELETE FROM demo.parcels WHERE town = 'town 3';
CREATE USER clerk IDENTIFIED BY 'nobody-will-see-this';
"""

    @classmethod
    def programs_found(cls) -> dict[str, str]:
        """Find its programs, and the client; without one of them, nothing."""
        path = (
            f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"  # where Debian keeps it, for root alone
        )
        return _found(("mariadb-install-db", "mariadbd", "mariadb"), path)

    def arguments(self, port: int, user: str, ca: Path) -> list[str]:
        """Give the mariadb client's arguments."""
        return [
            "--host=127.0.0.1",
            f"--port={port}",
            f"--user={user}",
            f"--ssl-ca={ca}",
            "--ssl-verify-server-cert",
        ]

    def _first_statements(self) -> str:
        return (
            f"CREATE USER {ACCOUNT}@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO {ACCOUNT}@'%' WITH GRANT OPTION;\n"
            "CREATE DATABASE demo;\n"
        )

    def _make(self) -> list[str]:
        return [self.programs["mariadb-install-db"], "--no-defaults", f"--datadir={self.directory}/data", "--skip-test-db",
                "--auth-root-authentication-method=normal"]  # fmt: skip

    def _serve(self) -> list[str]:
        here = self.directory
        return [self.programs["mariadbd"], "--no-defaults", f"--datadir={here}/data", f"--port={self.port}",
                "--bind-address=127.0.0.1", f"--socket={here}/socket", f"--pid-file={here}/pid", "--skip-name-resolve",
                f"--ssl-cert={here}/tls.crt", f"--ssl-key={here}/tls.key", f"--init-file={here}/init.sql"]  # fmt: skip

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as there:
            return bool(there.recv(1))
        return False

    def _environment(self, password: str) -> dict[str, str]:
        return {"MYSQL_PWD": password}


_CONFIG = """
[listen.{protocol}]
address = "127.0.0.1:0"
certificate = "{ca}"
key = "{key}"

[targets.{target}]
protocol = "{protocol}"
address = "127.0.0.1:{port}"
tls_ca = "{ca}"

[targets.{target}.accounts.{account}]
password = "file:{secret}"
"""


def installed(ending: contextlib.ExitStack) -> tuple[list[Server], str]:
    """Give the servers that can be started here, and what to install for the others."""
    servers: list[Server] = []
    missing: list[str] = []
    for kind in (Postgres, Mariadb):
        if programs := kind.programs_found():
            servers.append(kind(programs, ending))
        else:
            missing.append(kind.packages)
    return servers, " ".join(missing)


def _found(names: Sequence[str], path: str) -> dict[str, str]:
    places = {name: shutil.which(name, path=path) for name in names}
    there = {name: place for name, place in places.items() if place}
    return there if len(there) == len(names) else {}


def _owner(name: str) -> tuple[int, int]:
    """Give the ids of the package's own user; of nobody where there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)
    try:
        process.wait(START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
