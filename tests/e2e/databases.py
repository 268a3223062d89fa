"""Rigs of the database matrix: a real server, proxyd before it, TLS with every certificate checked on both legs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyd.access import hash_password
from proxyd.recorder.record import Kind
from proxyd.verifiers import mariadb_ed25519, scram
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.mariadb import ACCOUNTS, DATABASE, Authority, MariaDb
from tests.peers.postgres import BIN, Postgres
from tests.peers.process import free_port

PASSWORD = "AlicePw1"
PROGRAM_S = 120.0  # the longest a client program of the matrix may take


@dataclass(frozen=True)
class Rig:
    """proxyd before a server: who may come in, and what their sessions left on the tape."""

    directory: Path
    proxyd: Proxyd
    front: Authority
    port: int

    def statements(self, session: str) -> list[dict[str, Any]]:
        """The statements of a sealed recording in their order, each with its outcome as `result`."""
        told: dict[int, dict[str, Any]] = {}
        for record in self.proxyd.recording(session).records():
            if record.kind is not Kind.STATEMENT:
                continue
            body = dict(record.body)
            if body["event"] == "statement":
                told[body["n"]] = body
            else:
                assert "result" not in told[body["n"]], body
                told[body["n"]]["result"] = body
        return [told[n] for n in sorted(told)]

    def told_since(self, before: set[str]) -> list[dict[str, Any]]:
        """Every statement of every session that has begun since; waits until all have ended."""
        self.proxyd.quiet()
        return [one for session in sorted(self.proxyd.ids() - before) for one in self.statements(session)]


@dataclass(frozen=True)
class PostgresRig(Rig):
    """The same, before PostgreSQL."""

    server: Postgres

    def options(self, user: str = "alice+app+pg1", **more: Any) -> dict[str, Any]:
        """What psycopg needs."""
        return {"host": HOST, "port": self.port, "user": user, "password": PASSWORD, "dbname": DATABASE, "sslmode": "verify-full",
                "sslrootcert": str(self.front.ca), "connect_timeout": 20, **more}  # fmt: skip

    def run(
        self, program: str, *argv: str | Path, stdin: bytes = b"", **more: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one of PostgreSQL's own programs, or one that reads its environment too, through proxyd; it must succeed."""
        ways = {"PGHOST": HOST, "PGPORT": str(self.port), "PGUSER": "alice+app+pg1", "PGPASSWORD": PASSWORD}
        tls = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(self.front.ca)}
        return self._finish(program, *argv, env={**ways, **tls, **more}, stdin=stdin)

    def run_directly(self, program: str, *argv: str | Path) -> subprocess.CompletedProcess[bytes]:
        """The same past proxyd, over the server's own socket."""
        ways = {
            "PGHOST": str(self.server.directory),
            "PGPORT": str(self.server.port),
            "PGUSER": "postgres",
        }
        return self._finish(program, *argv, env=ways)

    def _finish(
        self, program: str, *argv: str | Path, env: dict[str, str], stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        assert BIN is not None
        words = [str(word) for word in (BIN / program, *argv)]
        done = subprocess.run(
            words, input=stdin, capture_output=True, env={**os.environ, **env}, timeout=PROGRAM_S, check=False
        )
        assert done.returncode == 0, f"{program} {argv}: {done.stderr.decode()}"
        return done


@dataclass(frozen=True)
class MariaRig(Rig):
    """The same, before MariaDB."""

    server: MariaDb

    def options(self, user: str = "alice+app+db1", **more: Any) -> dict[str, Any]:
        """What PyMySQL and mysql-connector-python both need."""
        return {"host": "localhost", "port": self.port, "user": user, "password": PASSWORD, "database": DATABASE,
                "ssl_ca": str(self.front.ca), "ssl_verify_identity": True, **more}  # fmt: skip

    def run(
        self, program: str, *argv: str, stdin: bytes = b"", user: str = "alice+app+db1"
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one of MariaDB's own programs through proxyd; it must succeed."""
        way = ["--protocol=TCP", "-hlocalhost", f"-P{self.port}", f"-u{user}", f"-p{PASSWORD}"]
        return self._finish(
            program, *way, f"--ssl-ca={self.front.ca}", "--ssl-verify-server-cert", *argv, stdin=stdin
        )

    def run_directly(self, program: str, *argv: str) -> subprocess.CompletedProcess[bytes]:
        """The same past proxyd, over the server's own socket."""
        return self._finish(program, f"--socket={self.server.socket}", "-uroot", *argv)

    def _finish(self, program: str, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [program, "--no-defaults", *argv],
            input=stdin,
            capture_output=True,
            timeout=PROGRAM_S,
            check=False,
        )
        assert done.returncode == 0, f"{program} {argv}: {done.stderr.decode()}"
        return done


def listener(front: Authority, port: int, **more: str) -> dict[str, str]:
    """Give a listener's settings."""
    return {
        "address": f"{HOST}:{port}",
        "certificate": str(front.certificate),
        "key": str(front.key),
        **more,
    }


@contextlib.contextmanager
def postgres_rig(directory: Path, **targets: dict[str, Any]) -> Iterator[PostgresRig]:
    """Start PostgreSQL and proxyd; `targets`: what differs from `pg1` in more targets of the same server."""
    directory.mkdir()
    directory.chmod(0o755)
    with Postgres(directory / "server") as server:
        proxyd, front, port = Proxyd(directory / "proxyd"), Authority(directory / "front"), free_port()
        proxyd.settings["listen"]["postgres"] = listener(front, port)
        made = server.target("app", "weak", "old", directory=directory)
        proxyd.settings["targets"] = {
            "pg1": made,
            **{name: {**made, **more} for name, more in targets.items()},
        }
        proxyd.user("alice", scram=scram(PASSWORD))
        proxyd.grant()
        with proxyd:
            yield PostgresRig(directory, proxyd, front, port, server)
            assert_no_bug(proxyd)


@contextlib.contextmanager
def mariadb_rig(directory: Path) -> Iterator[MariaRig]:
    """Start MariaDB and proxyd: `alice` is known by argon2, `nat` by her native hash, `edd` by his ed25519 key."""
    directory.mkdir()
    directory.chmod(0o755)
    with MariaDb(directory / "server") as server:
        proxyd, front, port = Proxyd(directory / "proxyd"), Authority(directory / "front"), free_port()
        secret = directory / "app.password"
        secret.write_text(ACCOUNTS["app"])
        secret.chmod(0o600)
        proxyd.settings["listen"]["mysql"] = listener(front, port, version="10.11.6-MariaDB-proxyd")
        proxyd.settings["targets"] = {
            "db1": {"address": f"localhost:{server.port}", "protocol": "mysql", "tls_ca": str(server.authority.ca),
                    "accounts": {"app": {"password": f"file:{secret}"}}}
        }  # fmt: skip
        proxyd.user("alice", password=hash_password(PASSWORD))
        native = hashlib.sha1(hashlib.sha1(PASSWORD.encode()).digest()).hexdigest().upper()
        proxyd.user("nat", mysql_native="*" + native)
        proxyd.user("edd", mariadb_ed25519=mariadb_ed25519(PASSWORD))
        proxyd.grant()
        with proxyd:
            yield MariaRig(directory, proxyd, front, port, server)
            assert_no_bug(proxyd)


def assert_no_bug(proxyd: Proxyd) -> None:
    """The daemon met nothing it did not expect."""
    assert "Traceback" not in proxyd.log() and "a bug" not in proxyd.log(), proxyd.log()[-4000:]
