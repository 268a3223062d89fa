"""Who is signed in to consoles: said by the console, seen and ended by who may, at a real control socket with the console's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from proxyd.config import Console
from proxyd.console.daemon import Daemon
from proxyd.console.signin import SignIns
from proxyd.console.telling import Teller
from proxyd.control import signins
from proxyd.control.client import ControlError
from proxyd.control.commands import COMMANDS
from proxyd.control.permissions import ROLES, Permission
from proxyd.control.signins import CONSOLES, MOST, Consoles, Row

SETTINGS = Console(certificate=Path("c"), key=Path("k"))


def row(number: str, user: str = "ann", began: float = 1.0) -> Row:
    return Row(number, user, "192.0.2.7", "Firefox", began, began)


@pytest.fixture
def served(played: Any) -> Any:
    played.operate_as("System Administrator", "Console")
    return played


@asynccontextmanager
async def telling(served: Any, console: SignIns) -> AsyncIterator[None]:
    """A console's own task, beside the test."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Teller(Daemon(served.config.control.socket), console).run)
        yield
        nursery.cancel_scope.cancel()


async def listed(wire: Any, good: Callable[[list[str]], bool]) -> list[dict[str, Any]]:
    """Ask until the users who are signed in are as expected."""
    with trio.fail_after(20):
        while True:
            rows = (await wire.ask("sign-ins"))["ok"]["sign_ins"]
            if good([one["user"] for one in rows]):
                return rows
            await trio.sleep(0.01)


async def test_whoever_signs_in_is_seen_and_ended_before_the_answer(served: Any, connect: Any) -> None:
    console = SignIns(SETTINGS)
    first = console.begin("ann", "192.0.2.7", agent="Firefox")
    wire = await connect()
    async with telling(served, console):
        (one,) = await listed(wire, lambda users: users == ["ann"])
        assert (one["address"], one["agent"]) == ("192.0.2.7", "Firefox")
        assert not first.startswith(one["number"])
        second, other = console.begin("ann", "192.0.2.8"), console.begin("bob", "192.0.2.9")
        rows = await listed(wire, lambda users: sorted(users) == ["ann", "ann", "bob"])
        assert {one["number"] for one in rows} == set(console.all())
        watching = console.find(second)
        (number,) = [one["number"] for one in rows if one["address"] == "192.0.2.8"]
        assert (await wire.ask("sign-out", user="ann", number=number))["ok"] == {"user": "ann", "ended": 1}
        assert watching.over
        assert [console.find(token) is not None for token in (first, second, other)] == [True, False, True]
        assert (await wire.ask("sign-out", user="ann"))["ok"]["ended"] == 1
        assert console.find(first) is None
        assert "not signed in" in (await wire.ask("sign-out", user="ann"))["error"]["message"]
        assert "by that number" in (await wire.ask("sign-out", user="bob", number="f"))["error"]["message"]
        console.end(other)
        await listed(wire, lambda users: not users)
    told = [entry.fields for entry in served.ledger.entries("sign-out")]
    assert [(one["user"], one["count"], one["addresses"], one["who"]) for one in told] == [
        ("ann", 1, ["192.0.2.8"], "root"),
        ("ann", 1, ["192.0.2.7"], "root"),
    ]


async def test_a_console_that_goes_takes_its_sign_ins_along_and_one_that_comes_back_says_them_again(
    served: Any, connect: Any
) -> None:
    console, wire = SignIns(SETTINGS), await connect()
    console.begin("ann", "192.0.2.7")
    async with telling(served, console):
        await listed(wire, lambda users: users == ["ann"])
    await listed(wire, lambda users: not users)
    async with telling(served, console):
        await listed(wire, lambda users: users == ["ann"])


async def test_who_may_not_neither_sees_nor_ends_nor_tells(played: Any, connect: Any) -> None:
    played.operate_as("PAM Auditor")
    wire = await connect()
    for command, arguments in {"sign-ins": {}, "sign-out": {"user": "ann"}, "sign-ins-join": {},
                               "sign-ins-tell": {"console": "x", "rows": []}}.items():  # fmt: skip
        assert (await wire.ask(command, **arguments))["error"]["code"] == "denied", command
    assert COMMANDS["sign-out"].permission is COMMANDS["sign-ins"].permission is Permission.SIGN_INS
    assert [name for name, may in ROLES.items() if Permission.SIGN_INS in may] == [
        "PAM Administrator", "System Administrator"]  # fmt: skip


async def test_what_a_console_says_is_bounded_and_of_one_that_is_joined(served: Any, connect: Any) -> None:
    wire = await connect()
    told = {"number": "1", "user": "ann", "address": "", "agent": "", "began_at": 1.0, "seen_at": 1.0}
    assert (await wire.ask("sign-ins-tell", console="0" * 32, rows=[told]))["error"]["code"] == "not_found"
    assert (await wire.ask("sign-ins-tell", console="x", rows=[told | {"agent": "x" * 201}]))["error"][
        "code"
    ] == "usage"
    assert (await wire.ask("sign-ins-tell", console="x", rows=[told] * (MOST + 1)))["error"][
        "code"
    ] == "usage"


async def test_a_console_that_does_not_confirm_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signins, "CONFIRM_S", 0.05)
    consoles = Consoles()
    with consoles.joined() as deaf:
        consoles.tell(deaf.name, [row("1"), row("2", "bob")])
        with pytest.raises(ControlError, match="not confirmed"):
            await consoles.end(frozenset({"1"}))
        assert deaf.asked == {"1"}
        consoles.tell(deaf.name, [row("2", "bob")])
        assert not deaf.asked
        await consoles.end(frozenset({"1"}))


async def test_a_console_that_goes_meanwhile_has_ended_them() -> None:
    consoles, leaving = Consoles(), trio.Event()

    async def console() -> None:
        with consoles.joined() as one:
            consoles.tell(one.name, [row("1")])
            await one.wanted.wait()
        leaving.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(console)
        with trio.fail_after(20):
            while not consoles.rows():
                await trio.sleep(0)
        await consoles.end(frozenset({"1"}))
    assert leaving.is_set()
    assert consoles.rows() == []


async def test_there_are_so_many_consoles_and_the_newest_sign_in_is_first() -> None:
    consoles = Consoles()
    with consoles.joined() as one, consoles.joined() as two:
        consoles.tell(one.name, [row("1", began=5.0)])
        consoles.tell(two.name, [row("2", began=9.0)])
        assert [found.number for found in consoles.rows()] == ["2", "1"]
    with ExitStack() as stack:
        for _ in range(CONSOLES):
            stack.enter_context(consoles.joined())
        with pytest.raises(ControlError, match="consoles are open"):
            stack.enter_context(consoles.joined())
