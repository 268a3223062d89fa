"""A real MariaDB server as a throw-away target: TLS by a CA of its own, accounts for each login method."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.peers.endpoint import HOST
from tests.peers.process import Process, eventually, free_port

SBIN = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
MARIADBD = shutil.which("mariadbd", path=SBIN)
INSTALL = shutil.which("mariadb-install-db", path=SBIN)
CLIENT = shutil.which("mariadb", path=SBIN)
DUMP = shutil.which("mariadb-dump", path=SBIN)
INSTALLED = bool(MARIADBD and INSTALL and CLIENT and DUMP)
START_S = 60.0
TRIES = 5
RUN_AS = "mysql"  # the server refuses to be root

ROOT = "root"
ACCOUNTS = {
    "app": "TargetPw1",
    "edu": "EdPw1",
    "weak": "WeakPw1",
}  # native, ed25519, may read and kill only its own
DATABASE = "bench"
SET_UP = f"""
create user app@'%' identified by '{ACCOUNTS["app"]}';
grant all on *.* to app@'%' with grant option;
create user edu@'%' identified via ed25519 using password('{ACCOUNTS["edu"]}');
grant all on *.* to edu@'%';
create user weak@'%' identified by '{ACCOUNTS["weak"]}';
create database {DATABASE};
grant all on {DATABASE}.* to weak@'%';
"""


class Authority:
    """A CA with a certificate of localhost, in files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        signer, name = ec.generate_private_key(ec.SECP256R1()), _name("test CA")
        _write(self.ca, _certificate(name, name, signer, signer, ca=True))
        own = ec.generate_private_key(ec.SECP256R1())
        _write(self.certificate, _certificate(_name("localhost"), name, own, signer, ca=False))
        self.key.write_bytes(_pem(own))
        self._signer, self._name = signer, name

    def client(self, user: str, directory: Path) -> tuple[Path, Path]:
        """Make a client's certificate for a user; give certificate and key."""
        own = ec.generate_private_key(ec.SECP256R1())
        certificate, key = directory / f"{user}.pem", directory / f"{user}.key"
        _write(certificate, _certificate(_name(user), self._name, own, self._signer, ca=False))
        key.write_bytes(_pem(own))
        return certificate, key


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )


class MariaDb:
    """One server: `with MariaDb(directory) as target: target.port`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.authority = Authority(directory / "tls")
        self.data = directory / "data"
        self.socket = directory / "s.sock"
        self.port = 0
        self.process: Process | None = None

    @property
    def address(self) -> str:
        """host:port, as proxyd's configuration has it."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (self.directory / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        self._install()
        for _ in range(TRIES):
            self.port = free_port()
            if self._start():
                self.sql(SET_UP)
                return self
        raise AssertionError(f"mariadbd does not start: {self.log}")

    def _install(self) -> None:
        assert MARIADBD and INSTALL, "Debian's mariadb-server is not installed"
        if os.getuid() == 0:
            for path in (self.directory, self.directory / "tls", *(self.directory / "tls").iterdir()):
                shutil.chown(path, RUN_AS)
            for parent in self.directory.parents:  # the server must be able to come here
                if parent.stat().st_uid == 0 and parent not in (Path("/"), Path("/tmp")):
                    parent.chmod(parent.stat().st_mode | 0o011)
        user = [f"--user={RUN_AS}"] if os.getuid() == 0 else []
        argv = [INSTALL, "--no-defaults", *user, f"--datadir={self.data}", "--auth-root-authentication-method=normal",
                "--skip-test-db"]  # fmt: skip
        own = {**os.environ, "TMPDIR": str(self.directory)}  # the test's may be closed to the server's user
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=own)
        assert done.returncode == 0, done.stdout + done.stderr

    def _start(self) -> bool:
        tls = self.authority
        argv = [
            str(MARIADBD), "--no-defaults", *([f"--user={RUN_AS}"] if os.getuid() == 0 else []),
            f"--datadir={self.data}", f"--port={self.port}", f"--bind-address={HOST}", f"--socket={self.socket}",
            f"--pid-file={self.directory}/pid", f"--ssl-cert={tls.certificate}", f"--ssl-key={tls.key}", f"--ssl-ca={tls.ca}",
            "--plugin-load-add=auth_ed25519", "--local-infile=1", "--max-allowed-packet=256M", "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M", "--max-connections=300", "--skip-log-bin",
            "--performance-schema=off", "--tmpdir=" + str(self.data),
        ]  # fmt: skip
        process = self.process = Process(argv, log=self.directory / "log")
        eventually("mariadbd listens", lambda: self._answers() or not process.running, within_s=START_S)
        return process.running

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), 1) as probe:
                probe.settimeout(2)
                return len(probe.recv(5)) == 5
        except OSError:
            return False

    def sql(self, text: str) -> str:
        """Run statements as root over the server's own socket; give what the client printed, tab-separated."""
        argv = [str(CLIENT), "--no-defaults", f"--socket={self.socket}", "-uroot", "-N", "-B"]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def running(self, mark: str) -> int:
        """Count the statements running now that hold `mark`."""
        listed = self.sql(
            "select info from information_schema.processlist where info is not null and id<>connection_id()"
        )
        return sum(mark in line for line in listed.splitlines())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.process.kill()  # nothing of it is kept
            self.process = None
