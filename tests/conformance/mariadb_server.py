"""The MariaDB server that `mysql-test` expects: the suite's own settings, and data that can be as new at any time."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.peers.endpoint import HOST
from tests.peers.mariadb import MARIADBD, RUN_AS, MariaDb
from tests.peers.process import Process, eventually, free_port

TREE: Final = Path("/usr/share/mysql/mysql-test")  # where Debian's mariadb-test puts it
DRIVER: Final = TREE / "mysql-test-run.pl"
SETTINGS: Final = TREE / "include" / "default_mysqld.cnf"
TIME_ZONES: Final = TREE.parent / "mysql_test_data_timezone.sql"
NOT_OURS: Final = ("loose-ssl", "plugin-maturity", "disable-getopt-prefix-matching")
"""Settings left out: the server has certificates of its own, and two are options of the configuration file alone."""

ROOT: Final = "root"
ROOT_PASSWORD: Final = "RootPw1"
SET_UP: Final = f"""
alter user {ROOT}@localhost identified via mysql_native_password using '' or ed25519 using password('{ROOT_PASSWORD}');
create database if not exists test;
use mysql;
set sql_mode = '';
source {TIME_ZONES}
create database mtr;
use mtr;
create table test_suppressions (pattern varchar(255));
create procedure add_suppression(pattern varchar(255)) insert into test_suppressions values (pattern);
"""
"""Root has no password for the tests and one for proxyd, which keeps no empty ones; both are of one account."""
START_S: Final = 60.0


class SuiteServer(MariaDb):
    """One server on one port: `with SuiteServer(directory) as server: server.renew()`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.scratch = directory / "var"  # the suite's own directory, which the server may read and write
        self._pristine = directory / "pristine"
        self.data = self.scratch / "mysqld.1" / "data"  # where tests look for the server's files

    def __enter__(self) -> Self:
        for path in (self.scratch, *(self.scratch / name for name in ("log", "run", "tmp", "mysqld.1"))):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        self._install()
        self.port = free_port()
        assert self._start(), self.log
        self.sql(SET_UP)
        assert self.process is not None
        self.process.stop()
        self.data.rename(self._pristine)
        self.renew()
        return self

    def renew(self) -> None:
        """Start again, on the same port, with the data of the beginning."""
        if self.process is not None:
            self.process.kill()
        shutil.rmtree(self.data, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self._pristine), str(self.data)], check=True)
        assert self._start(), self.log

    def _settings(self) -> list[str]:
        """Give the suite's own settings as options."""
        found = []
        for line in SETTINGS.read_text().partition("[embedded]")[0].splitlines():
            name, _, value = (part.strip() for part in line.partition("#")[0].partition("="))
            if name and not name.startswith(("[", *NOT_OURS)):
                value = value.replace("@ENV.MYSQLTEST_VARDIR", str(self.scratch))
                found.append(f"--{name}={value}" if value else f"--{name}")
        return found

    def _start(self) -> bool:
        tls, user = self.authority, [f"--user={RUN_AS}"] if os.getuid() == 0 else []
        argv = [str(MARIADBD), "--no-defaults", *user, f"--datadir={self.data}", f"--port={self.port}", f"--bind-address={HOST}",
                f"--socket={self.socket}", f"--pid-file={self.directory}/pid", *self._settings(), f"--ssl-cert={tls.certificate}",
                f"--ssl-key={tls.key}", f"--ssl-ca={tls.ca}", "--plugin-load-add=auth_ed25519",
                "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", f"--tmpdir={self.scratch}/tmp"]  # fmt: skip
        process = self.process = Process(argv, log=self.directory / "log")
        eventually("mariadbd listens", lambda: self._answers() or not process.running, within_s=START_S)
        return process.running
