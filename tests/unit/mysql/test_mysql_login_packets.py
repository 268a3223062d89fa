"""Packets of a login there and back, as real drivers write them, and cut short anywhere."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from proxyd.protocols.mysql.login_packets import (
    OURS,
    PASSED,
    SHA2,
    Answer,
    Cap,
    Greeting,
    answer_payload,
    attribute,
    error_payload,
    greeting_payload,
    ok_payload,
    read_answer,
    read_greeting,
    read_switch,
    ssl_request,
    switch_payload,
)
from proxyd.protocols.mysql.responses import fault_of, ok_of
from proxyd.protocols.mysql.talk import missing
from proxyd.protocols.mysql.wire import WireError

NONCE = bytes(range(1, 21))
MARIADB = (PASSED | OURS) & ~Cap.LONG_PASSWORD  # which says that this is a MySQL
GREETING = Greeting("10.11.6-MariaDB", 1 << 30, NONCE, MARIADB, 45, 2, SHA2)
ATTRIBUTES = b"\x11\x0c_client_name\x03abc"
EVERY = (
    Cap.PROTOCOL_41
    | Cap.SECURE_CONNECTION
    | Cap.PLUGIN_AUTH
    | Cap.PLUGIN_AUTH_LENENC
    | Cap.CONNECT_WITH_DB
    | Cap.CONNECT_ATTRS
)
ANSWER = Answer(EVERY, 45, b"alice+db1", b"p" * 32, b"bench", SHA2, ATTRIBUTES)


def test_there_and_back():
    assert read_greeting(greeting_payload(GREETING)) == GREETING
    assert read_answer(answer_payload(ANSWER)) == ANSWER
    assert Cap.EXTENDED_METADATA in read_greeting(greeting_payload(GREETING)).flags
    assert attribute(ATTRIBUTES, b"_client_name") == "abc"
    assert attribute(ATTRIBUTES, b"_pid") == ""
    assert attribute(ATTRIBUTES[:-1], b"_client_name") == ""
    assert read_switch(switch_payload(SHA2, NONCE)) == (SHA2, NONCE)
    assert ok_of(ok_payload(3)) == (0, 3)
    assert fault_of(error_payload(1045, "28000", "no")) == (1045, "28000", b"no")


@pytest.mark.parametrize("flags", [EVERY | Cap.EXTENDED_METADATA, EVERY | Cap.LONG_PASSWORD, EVERY])
def test_flags_of_mariadb_are_told_where_it_is_none_of_mysql(flags):
    assert read_answer(answer_payload(replace(ANSWER, flags=flags))).flags == flags
    both = EVERY | Cap.LONG_PASSWORD | Cap.EXTENDED_METADATA
    assert Cap.EXTENDED_METADATA not in read_answer(answer_payload(replace(ANSWER, flags=both))).flags


@pytest.mark.parametrize(
    "left_out", [Cap.PLUGIN_AUTH_LENENC, Cap.CONNECT_WITH_DB, Cap.PLUGIN_AUTH, Cap.CONNECT_ATTRS]
)
def test_without_one_capability(left_out):
    made = Answer(EVERY & ~left_out, 8, b"u", b"p" * 20, b"d", SHA2, ATTRIBUTES)
    found = read_answer(answer_payload(made))
    assert (found.user, found.proof) == (b"u", b"p" * 20)
    assert found.database == (b"" if left_out is Cap.CONNECT_WITH_DB else b"d")
    assert found.attributes == (b"" if left_out is Cap.CONNECT_ATTRS else ATTRIBUTES)


def test_nothing_that_can_not_be_followed_is_offered():
    offered = PASSED | OURS
    for flag in (
        Cap.COMPRESS,
        Cap.ZSTD,
        Cap.QUERY_ATTRIBUTES,
        Cap.OPTIONAL_METADATA,
        Cap.MULTI_FACTOR,
        Cap.CAN_HANDLE_EXPIRED,
    ):
        assert flag not in offered
    assert Cap.LONG_PASSWORD in offered  # without it MariaDB's clients look for flags of their own


@pytest.mark.parametrize("read", [read_greeting, read_answer])
def test_cut_short_anywhere(read):
    whole = greeting_payload(GREETING) if read is read_greeting else answer_payload(ANSWER)
    for end in range(len(whole)):
        with contextlib.suppress(WireError):
            read(whole[:end])


@pytest.mark.parametrize(
    ("read", "bad"),
    [(read_greeting, b""), (read_greeting, b"\x09old\0"), (read_answer, b""), (read_answer, bytes(32)), (read_switch, b"\xfe"),
     (read_answer, ssl_request(EVERY, 45) + b"no end"), (read_answer, ssl_request(EVERY, 45) + b"u\0\xfe\xff")],
)  # fmt: skip
def test_against_the_protocol(read, bad):
    with pytest.raises(WireError):
        read(bad)


def test_how_much_is_missing():
    assert [missing(b"\x03\0\0\0abc"[:end]) for end in range(8)] == [4, 3, 2, 1, 3, 2, 1, 0]
