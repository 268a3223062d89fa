"""The model of who may see what knows every address of the console and every command: a new one is tried like the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from starlette.routing import Route, WebSocketRoute

from proxyd.console.app import application
from proxyd.control.commands import COMMANDS
from tests import access_model, access_table

WHERE = "tests/access_table.py has to say what it takes to use"


def served() -> set[tuple[str, str]]:
    """Give every (method, path) the application answers."""
    site: Any = SimpleNamespace(assets=SimpleNamespace(serve=lambda _: None))
    found: set[tuple[str, str]] = set()
    for route in application(site).routes:
        if isinstance(route, WebSocketRoute):
            found.add(("WEBSOCKET", route.path))
        else:
            assert isinstance(route, Route), f"{route}: a mount hides its routes from this test"
            found |= {(method, route.path) for method in (route.methods or set()) - {"HEAD"}}
    return found


def test_the_model_knows_every_address() -> None:
    known = set(access_table.ADDRESSES)
    assert not (missing := sorted(served() - known)), f"{WHERE} {missing}"
    assert not (gone := sorted(known - served())), gone


def test_the_model_knows_every_command() -> None:
    known = set(access_table.COMMANDS)
    assert not (missing := sorted(set(COMMANDS) - known)), f"{WHERE} {missing}"
    assert not (gone := sorted(known - set(COMMANDS))), gone


def test_what_the_table_says_the_model_understands() -> None:
    words = frozenset().union(*access_model.MAY.values(), {access_table.NOBODY, access_table.OWN})
    assert {one.needs for one in access_table.ADDRESSES.values()} <= words
    assert {one.needs for one in access_table.COMMANDS.values()} <= words
    assert {sight for one in access_table.ADDRESSES.values() for sight in one.sees} <= access_model.EVERY
    parts = {path for (_, path), one in access_table.ADDRESSES.items() if one.drawn}
    named = {part.strip("{}") for path in parts for part in path.split("/") if part.startswith("{")} - {
        "session"
    }
    assert named <= set(access_table.FILLED)
