"""The console asks for the person who has signed in: their permissions count, and the ledger has both."""

from __future__ import annotations

from typing import Any

import pytest

from proxyd.config import User
from proxyd.control.client import Client, ControlError

SESSION_ID = "1a2b3c4d" + "0" * 24
Played = Any  # tests/unit/control/conftest.py has them
Background = Any


async def ask_as(
    wire: Any, user: str, command: str, /, address: str = "", **arguments: Any
) -> dict[str, Any]:
    request = {"id": 7, "command": command, "arguments": arguments, "as": user, "address": address}
    await wire.send(request)
    answer = await wire.answer()
    assert answer is not None
    return dict(answer)


def people(played: Played) -> None:
    played.operate_as("Console", name="web")
    played.config.users = {
        "ann": User(name="ann", roles=["PAM Auditor"]),
        "bob": User(name="bob", roles=["PAM Operator"]),
        "eve": User(name="eve", roles=["ops"]),
        "alice": User(name="alice", roles=["PAM Administrator"]),
    }


async def test_the_persons_permissions_count_and_not_the_consoles(played: Played, connect: Any) -> None:
    people(played)
    played.begin()
    wire = await connect()
    assert (await wire.ask("sessions"))["error"]["code"] == "denied"
    assert (await ask_as(wire, "ann", "sessions"))["ok"]["sessions"][0]["id"] == SESSION_ID
    assert (await ask_as(wire, "eve", "sessions"))["error"]["code"] == "denied"
    assert (await ask_as(wire, "bob", "read", session=SESSION_ID, kind="replay"))["error"]["code"] == "denied"
    assert (await ask_as(wire, "ann", "drop", session=SESSION_ID))["error"]["code"] == "denied"
    status = (await ask_as(wire, "ann", "status"))["ok"]["caller"]
    assert (status["name"], status["user"], status["via"]) == ("ann", "ann", "web")


async def test_ledger_and_tape_name_the_person_and_the_ledger_who_acted(played: Played, connect: Any) -> None:
    people(played)
    session = played.begin()
    wire = await connect()
    assert "ok" in await ask_as(wire, "bob", "message", "192.0.2.9", session=session.id, text="hello")
    (entry,) = played.ledger.entries("message")
    assert (entry.fields["who"], entry.fields["via"], entry.fields["address"]) == ("bob", "web", "192.0.2.9")
    assert session.messages == [("bob", "hello")]


@pytest.mark.mission("M3")
async def test_nobody_blocks_themselves_by_the_console(played: Played, connect: Any) -> None:
    people(played)
    session = played.begin()
    wire = await connect()
    refused = await ask_as(wire, "alice", "block", session=session.id)
    assert "nobody blocks themselves" in refused["error"]["message"]
    assert not session.gate.closed


async def test_an_operator_without_the_permission_acts_for_nobody(played: Played, connect: Any) -> None:
    people(played)
    played.operate_as("System Administrator", "PAM Administrator")
    wire = await connect()
    refused = await ask_as(wire, "ann", "status")
    assert refused["error"]["code"] == "denied"
    assert "console.act" in refused["error"]["message"]
    assert "ok" in await wire.ask("status")


async def test_one_request_does_not_lend_its_person_to_the_next(played: Played, connect: Any) -> None:
    people(played)
    wire = await connect()
    assert "ok" in await ask_as(wire, "ann", "status")
    assert (await wire.ask("status"))["error"]["code"] == "denied"


@pytest.mark.parametrize(
    "given", [{"as": 1}, {"as": "ann", "address": "here"}, {"address": 5}, {"As": "ann"}]
)
async def test_what_is_no_person_is_refused(played: Played, connect: Any, given: dict[str, Any]) -> None:
    people(played)
    wire = await connect()
    await wire.send({"id": 7, "command": "status", "arguments": {}} | given)
    answer = await wire.answer()
    assert answer is not None
    assert answer["error"]["code"] == "format"


async def test_a_reload_counts_for_connections_that_are_open(played: Played, connect: Any) -> None:
    wire = await connect()
    assert "ok" in await wire.ask("status")
    renewed = type(played.config)(**vars(played.config))
    renewed.control = type(played.config.control)(**vars(played.config.control))
    played.config = renewed
    played.operate_as("Console")
    assert (await wire.ask("status"))["error"]["code"] == "denied"


def test_the_client_asks_for_a_person(background: Background) -> None:
    people(background.played)
    client: Client = background.client.acting_for("ann", "192.0.2.9")
    assert client.call("status")["caller"]["name"] == "ann"
    with pytest.raises(ControlError, match=r"sessions\.drop"):
        client.call("drop", session=SESSION_ID)
