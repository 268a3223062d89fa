"""DER as SPNEGO and CredSSP use it."""

from __future__ import annotations

import pytest

from proxyd.protocols.rdp import der
from proxyd.protocols.rdp.wire import WireError


@pytest.mark.parametrize(
    ("size", "octets"),
    [(0, "00"), (127, "7f"), (128, "8180"), (255, "81ff"), (256, "820100"), (70000, "83011170")],
)
def test_lengths_are_as_short_as_they_can_be(size: int, octets: str) -> None:
    built = der.element(der.OCTET_STRING, bytes(size))
    assert built[1 : -size or None].hex() == octets
    assert der.only(built, der.OCTET_STRING) == bytes(size)
    assert der.head(built) == der.Head(der.OCTET_STRING, len(built) - size, len(built))


def test_a_length_may_be_longer_than_it_need_be() -> None:
    assert der.only(bytes.fromhex("30840000000141"), der.SEQUENCE) == b"A"


@pytest.mark.parametrize("value", [0, 1, 6, 127, 128, 255, 256, 2**31 - 1, 2**31, -1, -128, -129])
def test_integers(value: int) -> None:
    built = der.element(der.INTEGER, der.number(value))
    assert der.integer(built) == value


def test_the_head_of_what_has_not_come_yet() -> None:
    built = der.element(der.SEQUENCE, bytes(300))
    assert [der.head(built[:size]) for size in range(4)] == [None] * 4
    assert der.head(built[:4]) == der.Head(der.SEQUENCE, 4, 304)


@pytest.mark.parametrize(
    "data",
    [
        "3080",  # without end
        "308500000000 01",  # a length of five octets
        "3f0100",  # a tag of two
        "3002",  # cut off
        "300100",  # cut off inside
        "3005a0030201",  # and again
    ],
)
def test_what_cannot_be_read(data: str) -> None:
    with pytest.raises(WireError):
        list(der.elements(der.only(bytes.fromhex(data), der.SEQUENCE)))


@pytest.mark.parametrize("data", ["0205ff", "0200 04", "0200 048105"])
def test_the_last_of_several_is_cut_off(data: str) -> None:
    with pytest.raises(WireError, match="cut off"):
        list(der.elements(bytes.fromhex(data)))


@pytest.mark.parametrize(
    "data",
    [
        "3000 00",  # more behind it
        "3100",  # another tag
        "300aa003020101a003020101",  # [0] twice
        "3003020101",  # a field without a number
        "3003bf0101",  # a number above 30
    ],
)
def test_fields_that_are_none(data: str) -> None:
    with pytest.raises(WireError):
        der.fields(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["0200", "0206010203040506", "0a0101"])
def test_integers_that_are_none(data: str) -> None:
    with pytest.raises(WireError):
        der.integer(bytes.fromhex(data))
