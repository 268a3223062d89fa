"""Bound values, decoded from what mysql-connector-python itself makes of them, and from bytes by hand."""

from __future__ import annotations

import datetime as dt
import struct

import pytest
from mysql.connector.protocol import MySQLProtocol

from proxyd.protocols.mysql.parameters import BEGIN, UNDECODED, Binding
from proxyd.statement import Parameter

HEAD = b"\x17" + (1).to_bytes(4, "little") + b"\0" + (1).to_bytes(4, "little")


def execute(types: list[tuple[int, int]], values: bytes, nulls: int = 0, *, bound: bool = True) -> bytes:
    bitmap = nulls.to_bytes((len(types) + 7) // 8, "little")
    told = b"\x01" + b"".join(bytes(pair) for pair in types) if bound else b"\0"
    return HEAD + bitmap + told + values


def test_what_a_driver_sends():
    moment = dt.datetime(2026, 11, 21, 22, 5, 9, 123456, tzinfo=dt.UTC)
    data = (
        42,
        -7,
        "héllo",
        None,
        2.5,
        moment,
        dt.date(2020, 1, 2),
        dt.timedelta(days=2, hours=3, seconds=4),
        b"\x00\xff",
        1 << 40,
    )
    made = MySQLProtocol().make_stmt_execute(
        1, data, tuple([0] * len(data)), long_data_used={}, charset="utf8"
    )
    found = Binding(len(data)).decode(b"\x17" + bytes(made), "utf8mb4")
    assert [one.value for one in found] == [
        42, -7, "héllo", None, 2.5, "2026-11-21 22:05:09.123456", "2020-01-02", "51:00:04", "\0\\xff", 1 << 40
    ]  # fmt: skip


def test_types_by_hand():
    cases: list[tuple[int, int, bytes, Parameter]] = [
        (1, 0, b"\xff", Parameter("tinyint", -1, 1)),
        (1, 0x80, b"\xff", Parameter("tinyint unsigned", 255, 1)),
        (2, 0, b"\x00\x80", Parameter("smallint", -32768, 2)),
        (8, 0x80, b"\xff" * 8, Parameter("bigint unsigned", (1 << 64) - 1, 8)),
        (4, 0, struct.pack("<f", 0.5), Parameter("float", 0.5, 4)),
        (5, 0, struct.pack("<d", -1.25), Parameter("double", -1.25, 8)),
        (10, 0, b"\0", Parameter("date", "0000-00-00", 0)),
        (11, 0, b"\0", Parameter("time", "00:00:00", 0)),
        (11, 0, b"\x08\x01\x01\0\0\0\x02\x03\x04", Parameter("time", "-26:03:04", 8)),
        (246, 0, b"\x041.25", Parameter("decimal", "1.25", 4)),
        (252, 0, b"\x02ab", Parameter("blob", "ab", 2)),
        (252, 0, b"\x02\x00\x01", Parameter("blob", None, 2)),
        (253, 0, b"\x03\xe9ab", Parameter("varchar", "éab", 3)),
        (6, 0, b"", Parameter("null", None, 0)),
    ]
    payload = execute([(kind, flag) for kind, flag, _, _ in cases], b"".join(data for _, _, data, _ in cases))
    assert Binding(len(cases)).decode(payload, "latin1") == [wanted for _, _, _, wanted in cases]


def test_types_are_remembered_and_long_data_is_not_there():
    binding = Binding(3)
    assert binding.decode(execute([(3, 0)] * 3, struct.pack("<iii", 1, 2, 3)), "utf8")[2].value == 3
    again = execute([(3, 0)] * 3, struct.pack("<i", 9), 0b001, bound=False)
    assert [one.value for one in binding.decode(again, "utf8", {1: 5000})] == [None, None, 9]


def test_what_can_not_be_decoded_says_so():
    whole = execute(
        [(3, 0), (253, 0), (5, 0), (10, 0)], struct.pack("<i", 1) + b"\x03abc" + bytes(8) + b"\x04\0\0\1\1"
    )
    for end in range(BEGIN, len(whole)):
        found = Binding(4).decode(whole[:end], "utf8")
        assert found[-1].kind in (UNDECODED, "varchar", "date")
    assert Binding(1).decode(execute([(99, 0)], b""), "utf8") == [Parameter(UNDECODED, None, 0)]
    assert Binding(1).decode(execute([(3, 0)], b"\1\0\0\0", bound=False), "utf8") == [
        Parameter(UNDECODED, None, 0)
    ]
    assert Binding(0).decode(HEAD, "utf8") == []


@pytest.mark.parametrize("count", [1, 64, 65, 500])
def test_many_values_cost_no_more_than_the_record_keeps(count):
    payload = execute([(3, 0)] * count, struct.pack("<i", 7) * count)
    assert len(Binding(count).decode(payload, "utf8")) == min(count, 64)
