"""What every test shares."""

from __future__ import annotations

import inspect
import os
from functools import partial

import pytest
from hypothesis import settings

from tests.mission import items_of

# `make test` runs the same examples each time, with no database of earlier ones; `make exam` runs others each time.
settings.load_profile("default" if os.environ.get("PROPERTIES") == "random" else "ci")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker for tests of what lives on both planes."""
    config.addinivalue_line("markers", "hosted: an async test that runs under proxyd.host.run, not bare trio")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a mission item that does not exist, before any test runs."""
    for item in items:
        items_of(item)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `hosted` async tests as the guest of a host loop: an exception nobody took on it fails the test."""
    if pyfuncitem.get_closest_marker("hosted") is None or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    from proxyd import host  # noqa: PLC0415 - not every test needs it

    wanted = inspect.signature(pyfuncitem.obj).parameters
    host.run(partial(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run under trio."""
    return "trio"
