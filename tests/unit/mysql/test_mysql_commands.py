"""What a client sends, cut into messages: whatever the chunks, the same messages, and every byte given back."""

from __future__ import annotations

import itertools
import random

import pytest

from proxyd.protocols.mysql.wire import (
    MAX_PACKET,
    Command,
    Commands,
    FileData,
    Part,
    Whole,
    WireError,
    lenenc,
    lenenc_bytes,
    packet,
    text_to_nul,
    to_lenenc,
)

KEPT = 1000


def framed(payload: bytes, first: int = 0) -> bytes:
    """A message in as many packets as it needs."""
    out, sequence = b"", first
    while True:
        piece, payload = payload[:MAX_PACKET], payload[MAX_PACKET:]
        out += len(piece).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + piece
        sequence += 1
        if len(piece) < MAX_PACKET:
            return out


def drained(commands: Commands) -> list[Whole | Part | FileData]:
    found = []
    while (item := commands.next()) is not None:
        found.append(item)
    return found


def messages(items: list[Whole | Part | FileData]) -> list[tuple[int, bytes, int]]:
    """Put parts together: (code, payload, sequence)."""
    found, open_ = [], b""
    for item in items:
        if isinstance(item, Whole):
            found.append((item.code, item.payload, item.sequence))
        elif isinstance(item, Part):
            assert item.first == (open_ == b"")
            open_ += b"".join(item.payload)
            if item.sequence is not None:
                found.append((item.code, open_, item.sequence))
                open_ = b""
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 999, 5000])
def test_any_chunks_give_the_same(size):
    sent = [bytes((Command.QUERY,)) + b"select %d" % n for n in range(20)]
    sent += [
        bytes((Command.PING,)),
        bytes((Command.QUERY,)) + b"x" * 4000,
        bytes((Command.STMT_CLOSE,)) + b"\1\0\0\0",
    ]
    stream = b"".join(map(framed, sent))
    commands, items = Commands(KEPT), []
    for at in range(0, len(stream), size):
        commands.feed(stream[at : at + size])
        items += drained(commands)
    assert [payload for _, payload, _ in messages(items)] == sent
    assert b"".join(item.raw for item in items) == stream
    assert not commands.waiting
    assert not commands.inside


def test_several_in_one_chunk_wait_for_who_asks():
    """Whoever stops asking in between, as for a rule, loses nothing when more arrives meanwhile."""
    commands = Commands(KEPT)
    one, two, three = (framed(bytes((Command.QUERY,)) + text) for text in (b"one", b"two", b"three"))
    commands.feed(one + two)
    assert commands.next().payload[1:] == b"one"
    commands.feed(three)
    assert [item.payload[1:] for item in drained(commands)] == [b"two", b"three"]


def test_longer_than_kept_comes_in_parts_and_no_part_is_large():
    payload = bytes((Command.QUERY,)) + random.Random(1).randbytes(50_000)
    stream = framed(payload)
    commands, items = Commands(KEPT), []
    for at in range(0, len(stream), 700):
        commands.feed(stream[at : at + 700])
        items += drained(commands)
    assert all(isinstance(item, Part) for item in items)
    assert max(len(item.raw) for item in items) <= KEPT + 700
    assert messages(items) == [(Command.QUERY, payload, 0)]


@pytest.mark.parametrize("extra", [-1, 0, 1, 5])
def test_messages_of_several_packets(extra):
    payload = bytes((Command.QUERY,)) + b"z" * (MAX_PACKET - 1 + extra)
    stream = framed(payload) + framed(b"\x0e")
    commands, items = Commands(KEPT), []
    for at in range(0, len(stream), 1 << 18):
        commands.feed(stream[at : at + (1 << 18)])
        items += drained(commands)
    found = messages(items)
    assert found[0] == (Command.QUERY, payload, 1 if extra >= 0 else 0)
    assert found[1] == (Command.PING, b"\x0e", 0)
    assert b"".join(item.raw for item in items) == stream


def test_what_is_against_the_protocol():
    for bad in (packet(1, b"\x03select 1"), packet(0, b""), framed(b"a" * MAX_PACKET)[:-1] + b"\x07"):
        commands = Commands(MAX_PACKET * 2)
        with pytest.raises(WireError):
            commands.feed(bad + b"\0\0\0\0\0")
            drained(commands)


def test_a_length_from_the_wire_allocates_nothing():
    commands = Commands(KEPT)
    commands.feed(b"\xff\xff\xff\x00\x03")
    assert drained(commands) == []
    assert commands.waiting == 5


@pytest.mark.parametrize("size", [1, 3, 4, 5, 11, 1000])
def test_a_file_is_counted_until_its_empty_packet(size):
    data = [b"x" * n for n in (1, 10, 400)]
    stream = b"".join(packet(n + 2, piece) for n, piece in enumerate(data)) + packet(5, b"")
    behind = framed(b"\x03select 1")
    commands, items = Commands(KEPT), []
    commands.expect_file()
    for at in range(0, len(stream + behind), size):
        commands.feed((stream + behind)[at : at + size])
        items += drained(commands)
    files = [item for item in items if isinstance(item, FileData)]
    assert sum(item.size for item in files) == 411
    assert files[-1].ended
    assert b"".join(item.raw for item in files) == stream
    assert isinstance(items[-1], Whole)


@pytest.mark.parametrize("begun", [1, 3, 4, 20])
def test_a_command_begun_before_the_file_was_asked_for_does_not_become_a_part_of_it(begun):
    """What stands in it would be packets of their own to the target, and pass unread as a file."""
    inner = packet(2, b"1\n") + packet(3, b"") + packet(0, b"\x03drop table t")
    sent = packet(0, inner)
    commands = Commands(KEPT)
    commands.feed(sent[:begun])
    assert commands.next() is None
    commands.expect_file()
    assert commands.waiting == begun
    commands.feed(sent[begun:])
    with pytest.raises(WireError):
        commands.next()


@pytest.mark.parametrize("number", [0, 250, 251, 65535, 65536, (1 << 24) - 1, 1 << 24, 1 << 63])
def test_numbers_there_and_back(number):
    assert lenenc(to_lenenc(number), 0) == (number, len(to_lenenc(number)))


@pytest.mark.parametrize("bad", [b"", b"\xfc", b"\xfc\x01", b"\xfe\x01\x02", b"\xff", b"\xfb"])
def test_numbers_cut_short(bad):
    with pytest.raises(WireError):
        lenenc(bad, 0)


def test_strings():
    assert lenenc_bytes(b"\x03abcd", 0) == (b"abc", 4)
    assert text_to_nul(b"ab\0c", 0) == (b"ab", 3)
    for bad in (
        lambda: lenenc_bytes(b"\x05abc", 0),
        lambda: text_to_nul(b"abc", 0),
        lambda: packet(0, bytes(MAX_PACKET)),
    ):
        with pytest.raises(WireError):
            bad()


def test_every_split_of_two_messages():
    stream = framed(b"\x03a") + framed(b"\x0e")
    for one, two in itertools.combinations(range(1, len(stream)), 2):
        commands, items = Commands(KEPT), []
        for chunk in (stream[:one], stream[one:two], stream[two:]):
            commands.feed(chunk)
            items += drained(commands)
        assert messages(items) == [(3, b"\x03a", 0), (14, b"\x0e", 0)]
