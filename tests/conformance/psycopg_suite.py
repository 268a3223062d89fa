"""psycopg's own test-suite through proxyd against direct.

    python -m tests.conformance.psycopg_suite [--json] [--direct-only] [--source DIRECTORY] [TEST ...]

The suite comes with psycopg's source, not with its packages: `--source` names it unpacked, without it Debian's source
package is fetched. The psycopg of that version runs it, in an environment made for it.

Rule 1: TLS on both legs, the certificate checked; SCRAM with channel binding on both.
Rule 2: left out: what type-checks psycopg itself (`mypy`), what fails on a machine that is busy (`timing`, its authors'
        own word), and what they call `slow` unless `--slow` is given.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from proxyd.verifiers import scram
from tests.conformance.comparison import Result, Results, Verdict, compare, report, report_direct
from tests.conformance.source import SourceError, debian_source, environment
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.mariadb import Authority
from tests.peers.postgres import INSTALLED, PASSWORDS, Postgres
from tests.peers.process import free_port

SUITE: Final = "psycopg"
ACCOUNT: Final = "app"
TEST_SECONDS: Final = 120  # one test; the longest of the suite takes 20 on a machine with nothing else to do
RUN_SECONDS: Final = 7200
SETTINGS: Final = {"max_connections": "200", "max_prepared_transactions": "10", "max_wal_senders": "10"}
"""What the suite asks of a server, beside the defaults of ours."""
OWN_SETTINGS: Final = ("PG", "PYTEST", "PSYCOPG")  # variables of this process that the suite would heed
DEPENDENCIES: Final = ("pytest<10", "pytest-timeout", "anyio>=4", "pproxy>=2.7", "dnspython")

CANNOT_LOG_IN: Final = "logs in as an account it made at the target: proxyd has users of its own"
EXPLAINED: Final = {
    "tests/pq/test_pgconn.py::test_change_password": CANNOT_LOG_IN,
}


@dataclass(frozen=True)
class Leg:
    """One way to the server, with a database of its own."""

    name: str
    port: int
    ca: Path

    @property
    def dsn(self) -> str:
        """Give the connection string, TLS apart."""
        return f"host={HOST} port={self.port} user={ACCOUNT} password={PASSWORDS[ACCOUNT]} dbname={self.name}"


class Suite:
    """The suite's source, and the interpreter that runs it."""

    def __init__(self, source: Path, python: Path, directory: Path, *, slow: bool) -> None:
        self._source, self._python, self._directory = source, python, directory
        self._marks = "not mypy and not timing" if slow else "not mypy and not timing and not slow"

    def run(self, leg: Leg, only: Iterable[str]) -> Results:
        """Run the tests named, or all."""
        report_file, names = self._directory / f"{leg.name}.xml", self._directory / f"{leg.name}.tests"
        names.write_text("\n".join(only) or "tests")
        report_file.unlink(missing_ok=True)
        argv = [str(self._python), "-m", "pytest", "-q", "-p", "no:randomly", "-m", self._marks, f"--timeout={TEST_SECONDS}",
                "--test-dsn", leg.dsn, f"--junitxml={report_file}", "-o", "junit_family=xunit1", f"@{names}"]  # fmt: skip
        env = {name: value for name, value in os.environ.items() if not name.startswith(OWN_SETTINGS)}
        env |= {
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(leg.ca),
        }  # some tests write connection strings
        with (self._directory / f"{leg.name}.log").open("ab") as log:
            subprocess.run(argv, cwd=self._source, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False,
                           timeout=RUN_SECONDS)  # fmt: skip
        found = read(report_file)
        print(f"{leg.name}: {len(found)} ended", file=sys.stderr, flush=True)
        return found


def read(file: Path) -> dict[str, Result]:
    """Read a report of pytest (JUnit's XML) by the names pytest takes."""
    if not file.exists():
        return {}
    found = {}
    for case in ET.parse(file).getroot().iter("testcase"):
        parts = case.get("classname", "").split(
            "."
        )  # `file` is where an inherited test was written, not where it runs
        at = next((place for place, part in enumerate(parts) if part[:1].isupper()), len(parts))
        module, classes = "/".join(parts[:at]) + ".py", "::".join(parts[at:])
        name = "::".join(filter(None, (module, classes, case.get("name", ""))))
        worst = Result(Verdict.PASSED)
        for part in case:
            if part.tag in {"failure", "error"}:
                worst = Result(Verdict.FAILED, (part.get("message") or "").partition("\n")[0])
                break
            if part.tag == "skipped":
                worst = Result(Verdict.SKIPPED, part.get("message") or "")
        found[name] = worst
    return found


def proxied(directory: Path, server: Postgres) -> tuple[Proxyd, Leg]:
    """Make the daemon before the server, and the way through it: the same name and password as at the server."""
    proxyd, front, port = Proxyd(directory / "daemon"), Authority(directory / "front"), free_port()
    proxyd.settings["listen"]["postgres"] = {
        "address": f"{HOST}:{port}", "certificate": str(front.certificate), "key": str(front.key), "target": "pg1",
    }  # fmt: skip
    proxyd.settings["targets"] = {"pg1": server.target(ACCOUNT, directory=directory)}
    proxyd.user(ACCOUNT, scram=scram(PASSWORDS[ACCOUNT]))
    proxyd.grant(channels=["exec", "replication"])
    return proxyd, Leg("proxied", port, front.ca)


@contextmanager
def standing(directory: Path) -> Iterator[Postgres]:
    """Start the server with a database for each leg."""
    directory.chmod(0o755)
    with Postgres(directory / "server", **SETTINGS) as server:
        for name in ("direct", "proxied"):
            server.psql(f"create database {name}")
        yield server


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.psycopg_suite", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--direct-only", action="store_true")
    parser.add_argument("--slow", action="store_true", help="also what the suite marks as slow")
    parser.add_argument("--source", type=Path, help="psycopg's source, unpacked")
    parser.add_argument("--directory", type=Path, help="work in this new directory, and leave the logs")
    parser.add_argument("tests", nargs="*", help="names of tests as pytest has them; all without")
    return parser.parse_args()


def main() -> int:
    """Run what the command line asks for; give the exit status."""
    asked = arguments()
    if not INSTALLED:
        print("Debian's postgresql is needed.", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        directory: Path = asked.directory or Path(stack.enter_context(TemporaryDirectory(prefix="px-")))
        directory.mkdir(parents=True, exist_ok=True)
        try:
            source = (
                asked.source.resolve() if asked.source else debian_source("psycopg3", directory / "source")
            )
            python = environment(source, directory / "venv", DEPENDENCIES)
        except SourceError as error:
            print(error, file=sys.stderr)
            return 2
        server = stack.enter_context(standing(directory))
        suite = Suite(source, python, directory, slow=asked.slow)
        direct = Leg("direct", server.port, server.authority.ca)
        run_direct = functools.partial(suite.run, direct)
        if asked.direct_only:
            return report_direct(SUITE, run_direct(asked.tests), as_json=asked.json)
        proxyd, way = proxied(directory, server)
        with proxyd:
            result = compare(SUITE, run_direct, functools.partial(suite.run, way), EXPLAINED, asked.tests)
    return report(result, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
