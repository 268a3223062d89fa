"""One target and one proxyd a worker for the tests that share them; their own for those that change them.

PEERS_DIRECT=1 leaves proxyd out: the scenarios then check the harness against OpenSSH alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.e2e.console_lab import console_lab  # noqa: F401  a fixture
from tests.e2e.lab import DIRECT_ONLY, RUNNING, Lab, furnish, make_lab
from tests.peers import Sshd

LOG_TAIL = 6000  # characters of the daemon's log a failed test shows


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path: unix sockets fit into 108 characters, below pytest's own they do not."""
    with TemporaryDirectory(prefix="px-") as made:
        yield Path(made)


@pytest.fixture(scope="session")
def shared() -> Iterator[Path]:
    """The same for what lives as long as the worker."""
    with TemporaryDirectory(prefix="px-") as made:
        yield Path(made)


@pytest.fixture(scope="session")
def standing_lab(shared: Path) -> Iterator[Lab]:
    """The lab all tests of a worker share."""
    made = make_lab(shared / "lab")
    with made.sshd:
        if DIRECT_ONLY:
            yield made
            return
        furnish(made)
        with made.proxyd:
            yield made
    RUNNING.remove(made)


@pytest.fixture
def lab(standing_lab: Lab) -> Iterator[Lab]:
    """The shared lab, handed on with no session live and nobody blocked."""
    yield standing_lab
    if not DIRECT_ONLY:
        standing_lab.proxyd.quiet()


@pytest.fixture
def own_lab(short: Path) -> Iterator[Callable[..., Lab]]:
    """Make a lab of the test's own: `own_lab(before, **target)`; started, and ended with the test."""
    made: list[Lab] = []

    def make(
        before: Callable[[Lab], object] | None = None,
        *,
        banner: str = "",
        tapped: Callable[[Sshd], int] | None = None,
        **target: Any,
    ) -> Lab:
        if DIRECT_ONLY:
            pytest.skip("PEERS_DIRECT leaves proxyd out")
        one = make_lab(short / f"lab{len(made)}", banner=banner)
        made.append(one)
        one.sshd.__enter__()
        furnish(one, port=tapped(one.sshd) if tapped else 0, **target)
        if before:
            before(one)
        one.proxyd.start()
        return one

    yield make
    for one in made:
        one.proxyd.__exit__(None, None, None)
        one.sshd.stop()
        RUNNING.remove(one)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the daemons said."""
    report = yield
    if report.failed:
        for one in RUNNING:
            if one.proxyd.process is not None:
                state = (
                    "running"
                    if one.proxyd.process.running
                    else f"ended with {one.proxyd.process.popen.returncode}"
                )
                report.sections.append((f"proxyd's log ({state})", one.proxyd.log()[-LOG_TAIL:]))
    return report
