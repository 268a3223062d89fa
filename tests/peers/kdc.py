"""A real MIT Kerberos KDC of its own realm and files, on a port of its own, run by whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.endpoint import HOST
from tests.peers.process import Process, eventually, free_port
from tests.peers.rdp.listening import listening

SBIN = "/usr/sbin"  # where Debian keeps what only root used to run
REALM = "PROXYD.TEST"
COMMAND_S = 60.0


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


INSTALLED = all(map(_program, ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")))


class Kdc:
    """`with Kdc(directory) as kdc: kdc.principal("svc", "password"); kdc.env`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.port = free_port()
        self._stack = ExitStack()

    @property
    def env(self) -> dict[str, str]:
        """What a program needs to find it."""
        return {
            "KRB5_CONFIG": str(self.directory / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(self.directory / "kdc.conf"),
        }

    def principal(self, name: str, password: str) -> None:
        """Add one with a password."""
        self._admin(f"addprinc -pw {password} {name}")

    def keytab(self, name: str, path: Path) -> None:
        """Write the keys of a principal, which is made when there is none; a password it has stays."""
        if f"{name}@{REALM}" not in self._admin("listprincs").split():
            self._admin(f"addprinc -randkey {name}")
        self._admin(f"ktadd -k {path} -norandkey {name}")
        path.chmod(0o600)

    def ticket(self, name: str, password: str, path: Path) -> None:
        """Log in, as a person does, into a cache."""
        self._run("kinit", "-c", str(path), name, stdin=f"{password}\n")

    def _admin(self, query: str) -> str:
        return self._run("kadmin.local", "-r", REALM, "-q", query)

    def _run(self, name: str, *argv: str, stdin: str = "") -> str:
        program = _program(name)
        assert program is not None
        done = subprocess.run([program, *argv], input=stdin, env={**os.environ, **self.env}, capture_output=True,
                              text=True, timeout=COMMAND_S, check=False)  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr}"
        return done.stdout

    def __enter__(self) -> Self:
        where = self.directory
        (where / "krb5.conf").write_text(
            f"[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n rdns = false\n"
            f" dns_canonicalize_hostname = false\n[realms]\n {REALM} = {{\n  kdc = {HOST}:{self.port}\n }}\n"
        )
        (where / "kdc.conf").write_text(
            f"[kdcdefaults]\n kdc_listen = {HOST}:{self.port}\n kdc_tcp_listen = {HOST}:{self.port}\n[realms]\n"
            f" {REALM} = {{\n  database_name = {where}/principal\n  key_stash_file = {where}/stash\n"
            f"  acl_file = {where}/acl\n }}\n"
        )
        self._run("kdb5_util", "create", "-s", "-r", REALM, "-P", "master")
        with ExitStack() as stack:
            program = _program("krb5kdc")
            assert program is not None
            argv = [program, "-n", "-r", REALM, "-P", str(where / "pid")]
            process = stack.enter_context(Process(argv, log=where / "log", env={**os.environ, **self.env}))
            up = lambda: not process.running or listening(self.port)  # noqa: E731
            eventually("the KDC listens or has ended", up, within_s=30)
            assert process.running, process.text()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
