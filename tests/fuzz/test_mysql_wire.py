"""Whatever bytes a client or a server sends, the scanners give a WireError or go on: no other error, nothing grows."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.errors import ProxydError
from proxyd.protocols.mysql import auth
from proxyd.protocols.mysql.login_packets import attribute, read_answer, read_greeting, read_switch
from proxyd.protocols.mysql.parameters import Binding
from proxyd.protocols.mysql.responses import HEAD_BYTES, Responses, fault_of, ok_of
from proxyd.protocols.mysql.wire import Command, Commands, WireError, packet
from tests.fuzz import atheris_mysql, seeds_mysql
from tests.fuzz.campaign import SLOW_SECONDS

pytestmark = [pytest.mark.mission("M14"), pytest.mark.timeout(600)]

KEPT = 500
SECONDS = 1.0
EXAMPLES = 1500

payloads = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda head, rest: bytes((head,)) + rest, st.sampled_from([0, 1, 0xFB, 0xFC, 0xFE, 0xFF, 3, 0x16, 0x17, 0x18]),
              st.binary(max_size=40)),
)  # fmt: skip
framed = st.builds(packet, st.integers(0, 3), payloads)
streams = st.lists(st.one_of(framed, framed, framed, st.binary(max_size=20)), max_size=30).map(b"".join)
cuts = st.lists(st.integers(1, 200), min_size=1, max_size=20)


def chunks(stream: bytes, sizes: list[int]) -> list[bytes]:
    found, at, turn = [], 0, 0
    while at < len(stream):
        found.append(stream[at : at + sizes[turn % len(sizes)]])
        at += len(found[-1])
        turn += 1
    return found


@settings(max_examples=EXAMPLES, deadline=None)
@given(streams, cuts, st.booleans())
def test_clients(stream, sizes, file):
    commands, out = Commands(KEPT), b""
    commands.reading_file = file
    began = time.process_time()
    with contextlib.suppress(WireError):
        for chunk in chunks(stream, sizes):
            commands.feed(chunk)
            while (item := commands.next()) is not None:
                out += item.raw
                assert len(item.raw) <= KEPT + 4 + max(sizes)
        assert len(out) + commands.waiting == len(stream)
    assert stream.startswith(out)
    assert time.process_time() - began < SECONDS


@settings(max_examples=EXAMPLES, deadline=None)
@given(streams, cuts, st.booleans(), st.lists(st.sampled_from(list(Command)), max_size=20))
def test_servers(stream, sizes, deprecate_eof, asked):
    """Cut in any way, the same answers: what a chunk boundary changed would be a hole."""
    whole = Responses(deprecate_eof=deprecate_eof, local_infile=True)
    parted = Responses(deprecate_eof=deprecate_eof, local_infile=True)
    for code in asked:
        whole.expect(code, 0)
        parted.expect(code, 0)
    at, found = 0, []
    began = time.process_time()
    try:
        wanted = whole.feed(stream)
    except WireError:
        wanted = None
    try:
        for chunk in chunks(stream, sizes):
            for reply in parted.feed(chunk):
                reply.at += at
                found.append(reply)
            assert -1 <= parted.boundary <= len(chunk)
            assert len(parted._carry) <= HEAD_BYTES + 4
            at += len(chunk)
    except WireError:
        assert wanted is None or not wanted
    else:
        if wanted is not None:
            assert found == wanted
            assert (parted.between, parted.pending) == (whole.between, whole.pending)
    assert time.process_time() - began < SECONDS


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=300))
def test_login_packets(payload):
    for read in (read_greeting, read_answer, read_switch, ok_of, fault_of):
        with contextlib.suppress(WireError):
            read(payload)
    attribute(payload, b"x")


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.binary(max_size=300),
    st.integers(0, 70),
    st.sampled_from(["utf8mb4", "latin1", "gbk", "binary", "no such"]),
)
def test_bound_values(payload, count, encoding):
    found = Binding(count).decode(b"\x17" + payload, encoding, {1})
    assert len(found) <= 65


# ---------------------------------------------------------------------------------------------- what campaigns begin with, and found


def test_seeds_of_the_campaign():
    atheris_mysql.quiet()
    for seed in seeds_mysql.seeds():
        began = time.process_time()
        atheris_mysql.play(seed)
        assert time.process_time() - began < SLOW_SECONDS


def asking(*commands):
    """A session whose client sends these."""
    session = atheris_mysql.Session(0, 0)
    for command in commands:
        session.up_in += command
        session.target.send(session.conduit._from_client(command))
    return session


def test_client_that_breaks_the_protocol_inside_a_row_is_not_told_there():
    """It would read our error's bytes as the row's."""
    session = asking(packet(0, b"\x03select 1"))
    row = packet(1, b"\1") + packet(2, b"def") + packet(3, b"\xfe\0\0\2\0") + packet(4, b"r" * 200)[:100]
    session.client.send(session.conduit._from_target(row))
    with pytest.raises(ProxydError):
        session.conduit._from_client(packet(7, b"\x03select 2"))
    assert session.down_out == row


def test_refusal_is_not_put_into_a_message_nobody_asked_for():
    """A server that shuts down says so unasked; its word may come in two chunks."""
    session, half = asking(), packet(1, b"\xff\x17\x04#08S01shutdown")[:10]
    session.client.send(session.conduit._from_target(half))
    session.conduit._from_client(packet(0, b"\x65"))
    assert session.down_out == half


def test_commands_sent_ahead_of_their_answers_are_bounded():
    session = asking(packet(0, b"\x03select sleep(9999)"))
    with pytest.raises(ProxydError):
        for _ in range(1000):
            session.conduit._from_client(packet(0, b"\x0e") * 1000)


def test_refusals_sent_ahead_of_answers_are_bounded():
    session = asking(packet(0, b"\x03select sleep(9999)"))
    session.gate.shut("ann", "")
    with pytest.raises(ProxydError):
        for _ in range(1000):
            session.conduit._from_client(packet(0, b"\x0e") * 1000)


def test_client_that_reads_no_refusals_is_not_listened_to():
    session = asking()
    refused = packet(0, b"\x11bob\0") * 1000
    for _ in range(100):
        session.conduit._from_client(refused)
        if session.client.reasons:
            break
    assert session.client.reasons, f"{len(session.down_out)} bytes wait for a client that may never read them"


def test_public_key_of_a_target_whose_nonce_is_short():
    with pytest.raises(WireError):
        auth.rsa_password(seeds_mysql.RSA_KEY, "TargetPw1", b"n" * 8)
