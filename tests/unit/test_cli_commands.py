"""Commands of terminals as `proxyctl log` shows them, and what of an index is not believed."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest

from proxyd.cli_commands import UNSEEN, Ran, commands, print_commands, refuse_others, typed
from proxyd.cli_log import Entry
from proxyd.cli_output import Output
from proxyd.errors import FormatError
from proxyd.recorder.sidecar import Derived, Item

pytestmark = pytest.mark.mission("M5")

BODY = {"line": "make", "ended_us": 63_500_000, "exit": 2, "channel": 1}


def test_a_table_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    ran = [
        Ran(3_500_000, 1, "make", 63_500_000, 2),
        Ran(70_000_000, 1, "for i in 1\ndo true\x1b[2J", None, None),
    ]
    print_commands(Output("proxyctl"), ran)
    lines = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["AT", "CH", "TOOK", "EXIT", "COMMAND"],
        ["0:03.500", "1", "1 min 00 s", "2", "make"],
        ["1:10.000", "1", "for i in 1 \u21b5 do true\ufffd[2J"],
    ]


def test_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_commands(Output("proxyctl"), [])
    assert capsys.readouterr().out == "No command was run.\n"


def test_what_an_index_says_of_lines() -> None:
    items = [
        Item(Derived.TYPED, 5, [False, "ls", 1]),
        Item(Derived.COMMAND, 9, BODY),
        Item(Derived.TYPED, 7, [False, "", 2]),
        Item(Derived.COMMAND, 8, BODY | {"ended_us": None, "exit": None}),
    ]
    assert typed(items) == [Entry(5, 1, "typed", "ls"), Entry(7, 2, "typed", UNSEEN)]
    assert [(one.at_us, one.exit) for one in commands(items)] == [(8, None), (9, 2)]


@pytest.mark.parametrize("body", [None, [], {}, [False], [False, b"ls", 1], [False, "ls", "1"], BODY])
def test_lines_of_another_shape_are_refused(body: Any) -> None:
    with pytest.raises(FormatError, match="can't be read"):
        typed([Item(Derived.TYPED, 1, body)])


@pytest.mark.parametrize(
    "body", [None, [], {}, BODY | {"exit": "0"}, BODY | {"line": b"ls"}, BODY | {"ended_us": 1.5}]
)
def test_commands_of_another_shape_are_refused(body: Any) -> None:
    with pytest.raises(FormatError, match="can't be read"):
        commands([Item(Derived.COMMAND, 1, body)])


@pytest.mark.parametrize("protocol", ["rdp", "mysql"])
def test_sessions_without_terminals_have_no_commands(protocol: str) -> None:
    with pytest.raises(click.UsageError, match=f"this is a session of {protocol}: see proxyctl log 0123"):
        refuse_others({"protocol": protocol, "id": "0123456789abcdef"})
