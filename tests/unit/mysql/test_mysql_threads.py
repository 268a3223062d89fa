"""Numbers of connections: a KILL of one's own reaches the target with the target's number, any other as it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxyd.protocols.mysql.threads import Threads
from proxyd.protocols.mysql.wire import Command, Whole, packet

ALICE: Any = SimpleNamespace(user="alice", target="db1")


def command(payload: bytes) -> Whole:
    return Whole(payload[0], payload, packet(0, payload), 0)


@pytest.mark.parametrize(
    "text", ["KILL QUERY %d", "kill %d", " Kill  connection %d ; ", "kill hard query %d"]
)
def test_own_numbers_are_translated(text):
    threads = Threads()
    ours = threads.new()
    threads.began(ours, ALICE, 77)
    sent = threads.translated(command(b"\x03" + (text % ours).encode()), ALICE)
    assert sent.payload == b"\x03" + (text % 77).encode()
    assert sent.raw == packet(0, sent.payload)
    killed = threads.translated(command(bytes((Command.PROCESS_KILL,)) + ours.to_bytes(4, "little")), ALICE)
    assert killed.payload[1:] == (77).to_bytes(4, "little")
    threads.ended(ours)
    assert threads.translated(command(b"\x03kill %d" % ours), ALICE).payload == b"\x03kill %d" % ours


def test_others_are_left_alone():
    threads = Threads()
    ours = threads.new()
    threads.began(ours, ALICE, 77)
    asked = [
        b"kill %d + 0" % ours,
        b"kill 77",
        b"select %d" % ours,
        b"killer %d" % ours,
        b"kill query '%d'" % ours,
    ]
    for text in asked:
        item = command(b"\x03" + text)
        assert threads.translated(item, ALICE) is item
    for user, target in (("bob", "db1"), ("alice", "db2")):
        item = command(b"\x03kill %d" % ours)
        assert threads.translated(item, SimpleNamespace(user=user, target=target)) is item
    assert threads.new() != ours
