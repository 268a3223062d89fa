"""The bound values of COM_STMT_EXECUTE, decoded (MySQL "Binary Protocol Value").

Layout: 17, int<4> statement, int<1> flags, int<4> iterations; then, where there are parameters: a bitmap of the NULLs,
int<1> whether types follow, the types (int<1> type, int<1> 0x80 for unsigned) and the values without the NULLs.
The types stand there once; a client that executes again may leave them out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container
from struct import Struct
from typing import Final

from proxyd.protocols.mysql.wire import WireError, lenenc
from proxyd.statement import CODECS, UNDECODABLE, Parameter

BEGIN: Final = 10  # of the bitmap
UNSIGNED: Final = 0x80
LONG_DATA: Final = "long data"
UNDECODED: Final = "undecoded"
MAX_DECODED: Final = 64  # the record keeps no more of a statement
MAX_VALUE: Final = 4096  # bytes of one value looked at: four times what the record keeps

NULL: Final = 6
_INTEGERS: Final = {
    1: ("tinyint", 1),
    2: ("smallint", 2),
    13: ("year", 2),
    3: ("int", 4),
    9: ("mediumint", 4),
    8: ("bigint", 8),
}
_FLOATS: Final = {4: ("float", Struct("<f")), 5: ("double", Struct("<d"))}
_DATES: Final = {7: "timestamp", 10: "date", 12: "datetime", 14: "date", 17: "timestamp", 18: "datetime"}
_TIMES: Final = (11, 19)
_BLOBS: Final = {249: "tinyblob", 250: "mediumblob", 251: "longblob", 252: "blob", 16: "bit", 255: "geometry"}
_TEXTS: Final = {
    0: "decimal", 246: "decimal", 15: "varchar", 253: "varchar", 254: "char", 245: "json", 247: "enum", 248: "set"
}  # fmt: skip

Types = list[tuple[int, bool]]


class Binding:
    """What a prepared statement's parameters are bound to; remembers the types between executions."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._types: Types = []

    def decode(self, payload: bytes, encoding: str, long_data: Container[int] = ()) -> list[Parameter]:
        """Decode the values of one execution; what can't be is told as UNDECODED, never guessed.

        `payload`: from the command's byte on, perhaps cut. `long_data`: the parameters sent before in pieces.
        """
        if not self.count:
            return []
        found: list[Parameter] = []
        try:
            self._read(payload, encoding, long_data, found)
        except (WireError, IndexError, struct.error):
            found.append(Parameter(UNDECODED, None, 0))
        return found

    def _read(self, payload: bytes, encoding: str, long_data: Container[int], found: list[Parameter]) -> None:
        nulls = payload[BEGIN : BEGIN + (self.count + 7) // 8]
        at = BEGIN + len(nulls)
        if payload[at]:
            types = payload[at + 1 : at + 1 + 2 * self.count]
            self._types = [
                (types[i], bool(types[i + 1] & UNSIGNED))
                for i in range(0, 2 * min(self.count, MAX_DECODED), 2)
            ]
            at += 2 * self.count
        at += 1
        text = _decoder(encoding)
        if not self._types:
            raise WireError("types that never came")
        for number, (kind, unsigned) in enumerate(self._types):
            if nulls[number >> 3] >> (number & 7) & 1 or kind == NULL:
                found.append(Parameter("null", None, 0))
            elif number in long_data:
                found.append(Parameter(LONG_DATA, None, 0))
            else:
                value, at = _value(payload, at, kind, unsigned=unsigned, text=text)
                found.append(value)


def _decoder(encoding: str) -> Callable[[bytes], str]:
    codec = CODECS.get(encoding.lower(), "ascii")
    return lambda data: data.decode(codec, UNDECODABLE)


def _value(
    payload: bytes, at: int, kind: int, *, unsigned: bool, text: Callable[[bytes], str]
) -> tuple[Parameter, int]:
    """Decode one value; give it and where the next begins. Raises WireError, IndexError, struct.error."""
    if kind in _INTEGERS:
        name, size = _INTEGERS[kind]
        data = _exactly(payload, at, size)
        number = int.from_bytes(data, "little", signed=not unsigned)
        return Parameter(name + " unsigned" * unsigned, number, size), at + size
    if kind in _FLOATS:
        name, layout = _FLOATS[kind]
        return Parameter(name, layout.unpack_from(payload, at)[0], layout.size), at + layout.size
    if kind in _DATES or kind in _TIMES:
        size = payload[at]
        data = _exactly(payload, at + 1, size)
        written = _time(data) if kind in _TIMES else _date(data)
        return Parameter(_DATES.get(kind, "time"), written, size), at + 1 + size
    if kind not in _TEXTS and kind not in _BLOBS:
        raise WireError("a type that is not known")
    size, at = lenenc(payload, at)
    data = payload[at : at + min(size, MAX_VALUE)]
    if kind in _TEXTS:
        return Parameter(_TEXTS[kind], text(data), size), at + size
    return Parameter(_BLOBS[kind], _printable(data), size), at + size


def _exactly(payload: bytes, at: int, size: int) -> bytes:
    data = payload[at : at + size]
    if len(data) != size:
        raise WireError("a value cut short")
    return data


def _printable(data: bytes) -> str | None:
    """Give what a driver sent as binary and is text all the same; None for what is not."""
    try:
        found = data.decode()
    except UnicodeDecodeError:
        return None
    return found if all(mark.isprintable() or mark in "\r\n\t" for mark in found) else None


def _date(data: bytes) -> str:
    """int<2> year, month, day [, hour, minute, second [, int<4> microseconds]]."""
    if len(data) < 4:
        return "0000-00-00"
    text = f"{int.from_bytes(data[:2], 'little'):04}-{data[2]:02}-{data[3]:02}"
    if len(data) >= 7:
        text += f" {data[4]:02}:{data[5]:02}:{data[6]:02}"
    if len(data) >= 11:
        text += f".{int.from_bytes(data[7:11], 'little'):06}"
    return text


def _time(data: bytes) -> str:
    """int<1> negative, int<4> days, hour, minute, second [, int<4> microseconds]."""
    if len(data) < 8:
        return "00:00:00"
    hours = int.from_bytes(data[1:5], "little") * 24 + data[5]
    text = f"{'-' if data[0] else ''}{hours:02}:{data[6]:02}:{data[7]:02}"
    if len(data) >= 12:
        text += f".{int.from_bytes(data[8:12], 'little'):06}"
    return text
