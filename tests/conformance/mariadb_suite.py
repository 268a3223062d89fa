"""MariaDB's own test-suite, `mysql-test` suite `main`, through proxyd against direct.

    python -m tests.conformance.mariadb_suite [--json] [--direct-only] [--directory DIRECTORY] [TEST ...]

Debian's mariadb-test drives a server that runs already (`--extern`): its client, dump and check programs included.

Rule 1: TLS on both legs. Tests log in as root without a password; towards proxyd a client certificate stands for it.
Rule 2: what can't be asked of one running server is left out before: tests with server settings of their own or that
        stop the server, accounts other than root (proxyd has users of its own), IPv6.
Rule 3: mariadb-test-run ends with the first test that fails, and the server goes on with data as new: a test that left
        its tables behind would let others fail that have done nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.conformance.comparison import Result, Results, Verdict, compare, report, report_direct
from tests.conformance.mariadb_server import DRIVER, ROOT, ROOT_PASSWORD, TREE, SuiteServer
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.mariadb import INSTALLED, Authority
from tests.peers.process import free_port

SUITE: Final = "mysql-test main"
TEST_MINUTES: Final = 10  # ssl-big opens 4,000 connections with TLS
RUN_SECONDS: Final = 3600  # one call of the driver; the whole suite takes a quarter of it
NO_KEY: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWxX8QcjvxVvPX6bVkLoNzrHHkdhIxIvAqGGdVGIQfQ root"
"""A user needs something to log in with; here it is the certificate, and this key is nobody's."""

CONNECT: Final = re.compile(
    r"^\s*(?:--\s*)?connect\s*\(?\s*[\w$-]+\s*,[^,;]*,\s*([^,;)\s]*)", re.IGNORECASE | re.MULTILINE
)
CHANGE: Final = re.compile(r"^\s*(?:--\s*)?change_user\s+([^,;\s]+)", re.IGNORECASE | re.MULTILINE)
OTHERWISE: Final = re.compile(
    r"::1|ipv6|(?:restart|shutdown|kill|start)_mysqld|shutdown_server|not_as_root", re.IGNORECASE
)
SOURCE: Final = re.compile(r"^\s*(?:--\s*)?source\s+([^\s;$]+)", re.IGNORECASE | re.MULTILINE)
OWN_SETTINGS: Final = (".opt", "-master.opt", "-slave.opt", ".cnf", "-master.sh")
LINE: Final = re.compile(
    r"^main\.(\S+)\s+(?:'[^']*'\s+)*(?:w\d+ )?\[ (pass|fail|skipped|disabled) \]", re.MULTILINE
)
WHY: Final = re.compile(r"^(?:mysqltest: .*|[-+](?![-+]).*)", re.MULTILINE)
VERDICTS: Final = {"pass": Verdict.PASSED, "fail": Verdict.FAILED, "skipped": Verdict.SKIPPED, "disabled": Verdict.SKIPPED}  # fmt: skip

CHANGES_USER: Final = "logs in again inside a session (COM_CHANGE_USER): a session of proxyd is one login"
NO_COMPRESSION: Final = (
    "looks at compression, which is not offered: nothing could be read of what is compressed"
)
EXPLAINED: Final = {
    "compress": NO_COMPRESSION,
    "cte_nonrecursive": CHANGES_USER,
    "plugin_vars": CHANGES_USER,
    "user_var": CHANGES_USER,
    "ssl_compress": NO_COMPRESSION,
    "grant_utf8_cli": "logs in as an account it has made at the target: proxyd has users of its own",
    "mdev375": "connects without TLS, which the listener refuses",
}


@dataclass(frozen=True)
class Leg:
    """One way to the server: the options a client of MariaDB takes."""

    name: str
    port: int
    ca: Path
    certificate: Path
    key: Path

    def options(self) -> list[str]:
        """Give what mariadb-test-run hands on to every program it starts."""
        pairs = {"host": "localhost", "port": str(self.port), "protocol": "tcp", "user": ROOT, "ssl-ca": str(self.ca),
                 "ssl-cert": str(self.certificate), "ssl-key": str(self.key)}  # fmt: skip
        return [word for name, value in pairs.items() for word in ("--extern", f"{name}={value}")]


def askable() -> list[str]:
    """Name the tests that can be asked of a server behind one account (rule 2)."""
    found = []
    for path in sorted((TREE / "main").glob("*.test")):
        if any(path.with_name(path.stem + ending).exists() for ending in OWN_SETTINGS):
            continue
        text = "".join(_texts(path, set()))
        accounts = {name.strip("'\"`") for name in CONNECT.findall(text) + CHANGE.findall(text)}
        if accounts <= {ROOT, "", "$user"} and not OTHERWISE.search(text):
            found.append(path.stem)
    return found


def _texts(path: Path, seen: set[Path]) -> Iterator[str]:
    """Give a test's text and that of all it takes in."""
    if path in seen or not path.is_file():
        return
    seen.add(path)
    text = path.read_text(errors="replace")
    yield text
    for name in SOURCE.findall(text):
        for directory in (TREE, path.parent):
            yield from _texts(directory / name, seen)


def read(output: str) -> dict[str, Result]:
    """Read what mariadb-test-run printed: each test once, the first line of a failure with it."""
    found: dict[str, Result] = {}
    lines = list(LINE.finditer(output))
    for line, after in zip(lines, [*lines[1:], None], strict=True):
        verdict, said = VERDICTS[line[2]], ""
        if verdict is Verdict.FAILED:
            why = WHY.findall(output[line.end() : after.start() if after else len(output)])
            said = " | ".join(why[:3])
        if line[1] not in found or verdict is Verdict.FAILED:  # of several combinations the worst
            found[line[1]] = Result(verdict, said)
    return found


class Suite:
    """The server, and the runs on it."""

    def __init__(self, server: SuiteServer) -> None:
        self._server = server
        self._names = askable()

    def run(self, leg: Leg, only: Iterable[str]) -> Results:
        """Run the tests named, or all; each failure is followed by data as new (rule 3)."""
        left, found = list(only) or list(self._names), dict[str, Result]()
        while left:
            self._server.renew()
            output = self._driver(leg, left)
            new = read(output) or {left[0]: Result(Verdict.FAILED, output[-300:])}
            found |= new
            left = [name for name in left if name not in new]
            failed = [name for name, result in new.items() if result.verdict is Verdict.FAILED]
            note(f"{leg.name}: {len(found)} ended, {len(left)} left; failed: {' '.join(failed) or 'none'}")
        return found

    def _driver(self, leg: Leg, names: list[str]) -> str:
        scratch = self._server.scratch
        argv = ["perl", str(DRIVER), f"--vardir={scratch}", f"--tmpdir={scratch}/tmp", "--nocheck-testcases", "--nowarnings",
                "--retry=0", f"--testcase-timeout={TEST_MINUTES}", "--suite=main", "--skip-rpl", f"--user={ROOT}",
                *leg.options(), *(f"main.{name}" for name in names)]  # fmt: skip
        env = {**os.environ, "MASTER_MYPORT": str(leg.port), "MASTER_MYSOCK": str(self._server.socket)}
        log = scratch.parent / f"{leg.name}.log"
        with log.open("ab") as file:
            began = file.tell()
            subprocess.run(argv, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=TREE, env=env, check=False,
                           timeout=RUN_SECONDS)  # fmt: skip
        return log.read_bytes()[began:].decode(errors="replace")


def note(text: str) -> None:
    """Say how far it is, beside the result."""
    print(text, file=sys.stderr, flush=True)


def proxied(directory: Path, server: SuiteServer) -> tuple[Proxyd, Leg]:
    """Make the daemon before the server, and the way through it."""
    proxyd, front, port = Proxyd(directory / "daemon"), Authority(directory / "front"), free_port()
    secret = directory / "root.password"
    secret.write_text(ROOT_PASSWORD)
    secret.chmod(0o600)
    proxyd.settings["listen"]["mysql"] = {
        "address": f"{HOST}:{port}", "certificate": str(front.certificate), "key": str(front.key),
        "client_ca": str(front.ca), "target": "db1",
    }  # fmt: skip
    proxyd.settings["targets"] = {
        "db1": {"address": f"localhost:{server.port}", "protocol": "mysql", "tls_ca": str(server.authority.ca),
                "accounts": {ROOT: {"password": f"file:{secret}"}}},
    }  # fmt: skip
    proxyd.user(ROOT, keys=[NO_KEY])
    proxyd.grant(channels=["exec", "local-infile"])
    return proxyd, Leg("proxied", port, front.ca, *front.client(ROOT, directory))


@contextmanager
def workplace(kept: Path | None) -> Iterator[Path]:
    """Give a directory the server's own user may come to."""
    with contextlib.ExitStack() as stack:
        made = kept or Path(stack.enter_context(TemporaryDirectory(prefix="px-")))
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(0o755)
        yield made


def main() -> int:
    """Run what the command line asks for; give the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.mariadb_suite", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--direct-only", action="store_true")
    parser.add_argument("--directory", type=Path, help="work in this new directory, and leave the logs")
    parser.add_argument("tests", nargs="*", help="names of tests of the suite; all without")
    asked = parser.parse_args()
    if not (INSTALLED and DRIVER.exists()):
        print("Debian's mariadb-server, mariadb-client and mariadb-test are needed.", file=sys.stderr)
        return 2
    with workplace(asked.directory) as directory, SuiteServer(directory / "db") as server:
        suite = Suite(server)
        direct = Leg(
            "direct", server.port, server.authority.ca, *server.authority.client(ROOT, directory / "db")
        )
        run_direct = functools.partial(suite.run, direct)
        if asked.direct_only:
            return report_direct(SUITE, run_direct(asked.tests), as_json=asked.json)
        proxyd, way = proxied(directory, server)
        with proxyd:
            result = compare(SUITE, run_direct, functools.partial(suite.run, way), EXPLAINED, asked.tests)
    return report(result, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
