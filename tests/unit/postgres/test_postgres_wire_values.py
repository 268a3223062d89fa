"""Layouts: parameters of every form, logins' first packets, and what of them is not passed on."""

from __future__ import annotations

import struct
import uuid
from typing import Any

import pytest
from unit.postgres.table import values

from proxyd.protocols.postgres import wire
from proxyd.protocols.postgres.front import passed_on, replicates
from proxyd.protocols.postgres.wire import WireError

UUID = uuid.UUID("bf346926-acfd-400a-ba8e-004f12120d01")


@pytest.mark.parametrize(
    ("oid", "form", "data", "kind", "value"),
    [
        (0, 0, "ä".encode(), "unknown", "ä"),
        (23, 0, b"42", "int4", "42"),
        (23, 1, b"\0\0\0\x2a", "int4", 42),
        (21, 1, b"\xff\xff", "int2", -1),
        (20, 1, bytes(7) + b"\5", "int8", 5),
        (16, 1, b"\1", "bool", True),
        (26, 1, b"\0\0\0\7", "oid", 7),
        (701, 1, struct.pack(">d", 2.5), "float8", 2.5),
        (700, 1, struct.pack(">f", 0.5), "float4", 0.5),
        (25, 1, b"\xffx", "text", "\\xffx"),
        (2950, 1, UUID.bytes, "uuid", str(UUID)),
        (3802, 1, b'\1{"a": 1}', "jsonb", '{"a": 1}'),
        (23, 1, b"\0", "int4 (binary)", "\\x00"),
        (99999, 1, b"\1\2", "oid 99999 (binary)", "\\x0102"),
    ],
)
def test_values(oid: int, form: int, data: bytes, kind: str, value: Any) -> None:
    assert wire.parse_values(values([data, None], form), (oid,)) == [
        wire.Parameter(kind, value, len(data)),
        wire.Parameter("null", None, 0),
    ]


def test_values_that_are_cut_off_say_so() -> None:
    whole = values([b"first", b"second"])
    for end in range(len(whole) - 2):
        assert wire.parse_values(whole[:end], ())[-1].kind in ("cut off", "unknown")
    assert wire.parse_values(values([b"x"] * 500), ())[-1].value == "x"
    assert len(wire.parse_values(values([b"x"] * 500), ())) == wire.MAX_VALUES


@pytest.mark.parametrize(
    ("tag", "rows"),
    [("SELECT 3", 3), ("INSERT 0 7", 7), ("COPY", None), ("BEGIN", None), ("MERGE 2", 2), ("SELECT x", None), ("SELECT " + "9" * 50, int("9" * 18))],
)  # fmt: skip
def test_rows_of_a_tag(tag: str, rows: int | None) -> None:
    assert wire.parse_tag(tag.encode() + b"\0") == (tag, rows)


def test_error_without_its_end() -> None:
    failure = wire.parse_error(b"SERROR\0C42P01\0Mrelation")
    assert (failure.severity, failure.code, failure.message) == ("ERROR", "42P01", "relation")


@pytest.mark.parametrize("length", [0, 4, 7, 10_001, 0x7FFFFFFF, 0xFFFFFFFF])
def test_first_packet_of_impossible_length(length: int) -> None:
    with pytest.raises(WireError):
        wire.startup_missing(length.to_bytes(4, "big"))


def test_startup_there_and_back() -> None:
    packet = wire.startup([(b"user", b"a"), (b"database", b"b")])
    assert wire.startup_missing(packet) == 0 and wire.startup_missing(packet[:9]) == len(packet) - 9
    code, body = wire.parse_startup(packet)
    assert code == wire.VERSION_3 and wire.parse_parameters(body) == {b"user": b"a", b"database": b"b"}


@pytest.mark.parametrize("body", [b"", b"user\0", b"user\0a\0", b"user\0a\0b\0\0", b"user"])
def test_startup_parameters_that_can_t_be_read(body: bytes) -> None:
    with pytest.raises(WireError):
        wire.parse_parameters(body)


@pytest.mark.parametrize(
    "body", [b"", b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"S\0\0\0\0\5abc", b"S\0\xff\xff\xff\xff"]
)
def test_sasl_that_can_t_be_read(body: bytes) -> None:
    with pytest.raises(WireError):
        wire.parse_sasl(body)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (b"-c work_mem=5MB", b"-c work_mem=5MB"),
        (b"-cwork_mem=5MB --geqo=off", b"-c work_mem=5MB -c geqo=off"),
        (b"-c role=postgres", b""),
        (b"-c ROLE=postgres -crole=x --role=y --session-authorization=z", b""),
        (b"-c r\\ole=postgres -c a=b\\ c", b"-c a=b\\ c"),
        (b"-c role=x\\ -c\\ y -c a=1", b"-c a=1"),
        (b"-d5 -E -c", b""),
    ],
)
def test_options_that_pass(options: bytes, kept: bytes) -> None:
    assert dict(passed_on({b"options": options}, "app")).get(b"options", b"") == kept


def test_parameters_that_pass() -> None:
    given = {
        b"user": b"ann+app+pg1",
        b"database": b"ann+app+pg1",
        b"Role": b"x",
        b"session_authorization": b"y",
        b"application_name": b"psql",
    }
    assert passed_on(given, "app") == [(b"user", b"app"), (b"application_name", b"psql")]
    assert dict(passed_on({b"user": b"a", b"database": b"b"}, "app"))[b"database"] == b"b"


@pytest.mark.parametrize(
    ("value", "is_one"),
    [(b"database", True), (b"true", True), (b"1", True), (b"off", False), (b"", False), (b"FALSE", False)],
)
def test_replication_connections(value: bytes, is_one: bool) -> None:
    assert replicates({b"replication": value}) is is_one


def test_notice_has_no_nul_in_its_text() -> None:
    assert wire.notice("a\0b").count(b"\0") == wire.notice("a b").count(b"\0")
