"""PostgreSQL's messages (protocol 3.0): their layouts, read and written; bytes in, values out.

Rule 1: no socket, clock, loop or log. Whatever a peer sends is a value or a WireError, never another exception.
Rule 2: a length from the wire is compared with what is there before it is used, and nothing is allocated by it.
Rule 3: of an error only severity, code and message are read: DETAIL, HINT, CONTEXT and the rest may quote rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Final, NamedTuple

from proxyd.statement import Failure, Parameter

# What a client sends, PostgreSQL manual 55.7.
QUERY: Final = ord("Q")
PARSE: Final = ord("P")
BIND: Final = ord("B")
EXECUTE: Final = ord("E")
DESCRIBE: Final = ord("D")
CLOSE: Final = ord("C")
FLUSH: Final = ord("H")
SYNC: Final = ord("S")
FUNCTION: Final = ord("F")
TERMINATE: Final = ord("X")
PASSWORD: Final = ord("p")  # and SASL's messages: a login's only
# What both send.
COPY_DATA: Final = ord("d")
COPY_DONE: Final = ord("c")
COPY_FAIL: Final = ord("f")
# What a server sends.
AUTHENTICATION: Final = ord("R")
KEY_DATA: Final = ord("K")
PARAMETER_STATUS: Final = ord("S")
READY: Final = ord("Z")
ERROR: Final = ord("E")
NOTICE: Final = ord("N")
NOTIFICATION: Final = ord("A")
NEGOTIATE: Final = ord("v")
DATA_ROW: Final = ord("D")
ROW_DESCRIPTION: Final = ord("T")
NO_DATA: Final = ord("n")
PARAMETER_DESCRIPTION: Final = ord("t")
PARSE_COMPLETE: Final = ord("1")
BIND_COMPLETE: Final = ord("2")
CLOSE_COMPLETE: Final = ord("3")
COMMAND_COMPLETE: Final = ord("C")
EMPTY_QUERY: Final = ord("I")
SUSPENDED: Final = ord("s")
FUNCTION_RESULT: Final = ord("V")
COPY_IN: Final = ord("G")
COPY_OUT: Final = ord("H")
COPY_BOTH: Final = ord("W")

FROM_CLIENT: Final = frozenset(b"QPBEDCHSFXdcf")
FROM_SERVER: Final = frozenset(b"SZENADTnt123CIsVGHWdc")

SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104
CANCEL_REQUEST: Final = 80877102
MAX_STARTUP: Final = 10_000  # MAX_STARTUP_PACKET_LENGTH of the server
MAX_TAG: Final = 64  # bytes, COMPLETION_TAG_BUFSIZE of the server
MAX_LOGIN_MESSAGE: Final = 64 << 10  # PG_MAX_AUTH_TOKEN_LENGTH: the largest thing a login has to say
VERSION_3: Final = 3 << 16
HEADER_BYTES: Final = 5
LEAST_LENGTH: Final = 4  # a length counts itself

IDLE: Final = ord("I")
OPEN: Final = ord("T")
FAILED: Final = ord("E")
TRANSACTIONS: Final = {IDLE: "idle", OPEN: "open", FAILED: "failed"}

header: Final[Callable[..., tuple[int, int]]] = Struct(">BI").unpack_from
_u16: Final = Struct(">H").unpack_from
_u32: Final = Struct(">I").unpack_from
_i32: Final = Struct(">i").unpack_from


class WireError(ValueError):
    """A peer sent what the protocol does not allow; the text is one clause without any of its bytes."""


# ---------------------------------------------------------------------------------------------- writing


def message(kind: int, body: bytes = b"") -> bytes:
    """Frame a message."""
    return bytes((kind,)) + (len(body) + LEAST_LENGTH).to_bytes(4, "big") + body


SYNC_MESSAGE: Final = message(SYNC)
PARSE_COMPLETE_MESSAGE: Final = message(PARSE_COMPLETE)
BIND_COMPLETE_MESSAGE: Final = message(BIND_COMPLETE)
USUAL_BATCHES: Final = {
    bytes((BIND, EXECUTE, SYNC)): message(EXECUTE, bytes(5)) + SYNC_MESSAGE,
    bytes((BIND, DESCRIBE, EXECUTE, SYNC)): message(DESCRIBE, b"P\0")
    + message(EXECUTE, bytes(5))
    + SYNC_MESSAGE,
}
"""What drivers send behind the Bind of a statement they run once, by the kinds of messages in the whole batch."""


def authentication(method: int, body: bytes = b"") -> bytes:
    """Frame an Authentication request."""
    return message(AUTHENTICATION, method.to_bytes(4, "big") + body)


def _said(kind: int, severity: str, code: str, text: str) -> bytes:
    fields = (("S", severity), ("V", severity), ("C", code), ("M", text.replace("\0", " ")))
    body = b"".join(f"{name}{value}\0".encode("utf-8", "replace") for name, value in fields)
    return message(kind, body + b"\0")


def error(severity: str, code: str, text: str) -> bytes:
    """Frame an ErrorResponse."""
    return _said(ERROR, severity, code, text)


def notice(text: str) -> bytes:
    """Frame a NoticeResponse of proxyd's own."""
    return _said(NOTICE, "NOTICE", "00000", text)


def ready(transaction: int) -> bytes:
    """Frame a ReadyForQuery."""
    return message(READY, bytes((transaction,)))


def key_data(pid: int, secret: bytes) -> bytes:
    """Frame a BackendKeyData."""
    return message(KEY_DATA, pid.to_bytes(4, "big") + secret)


def copy_fail(why: str) -> bytes:
    """Frame a CopyFail."""
    return message(COPY_FAIL, why.encode() + b"\0")


def negotiate(unknown: Iterable[bytes]) -> bytes:
    """Frame a NegotiateProtocolVersion: 3.0, and these options are not known."""
    names = list(unknown)
    return message(NEGOTIATE, bytes(4) + len(names).to_bytes(4, "big") + b"".join(n + b"\0" for n in names))


def untyped(code: int, body: bytes = b"") -> bytes:
    """Frame one of the packets without a kind, with which connections begin."""
    return (len(body) + 8).to_bytes(4, "big") + code.to_bytes(4, "big") + body


def startup(parameters: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Frame a StartupMessage of protocol 3.0."""
    return untyped(VERSION_3, b"".join(name + b"\0" + value + b"\0" for name, value in parameters) + b"\0")


def cancel_request(key: bytes) -> bytes:
    """Frame a CancelRequest with the key a BackendKeyData gave."""
    return untyped(CANCEL_REQUEST, key)


# ---------------------------------------------------------------------------------------------- reading a login


class Startup(NamedTuple):
    """The packet without a kind: its code (a version, or a request) and what follows."""

    code: int
    body: bytes


def startup_missing(got: bytes) -> int:
    """Say how many bytes a packet without a kind still lacks; raises WireError when its length is no length."""
    if len(got) < LEAST_LENGTH:
        return LEAST_LENGTH - len(got)
    (length,) = _u32(got)
    if not 8 <= length <= MAX_STARTUP:
        raise WireError("its first packet is no startup packet")
    return int(length) - len(got)


def parse_startup(packet: bytes) -> Startup:
    """Take a complete packet without a kind apart."""
    return Startup(int(_u32(packet, 4)[0]), packet[8:])


def parse_parameters(body: bytes) -> dict[bytes, bytes]:
    """Read a StartupMessage's names and values; raises WireError."""
    if not body.endswith(b"\0"):
        raise WireError("its startup packet does not end")
    fields = body[:-1].split(b"\0")
    if fields.pop() != b"" or len(fields) % 2:
        raise WireError("its startup packet has a name without a value")
    return dict(zip(fields[::2], fields[1::2], strict=True))


class Sasl(NamedTuple):
    """SASLInitialResponse."""

    mechanism: bytes
    data: bytes


def parse_sasl(body: bytes) -> Sasl:
    """Read a SASLInitialResponse; raises WireError."""
    mechanism, rest = _string(body, 0)
    if len(body) < rest + 4 or _i32(body, rest)[0] != len(body) - rest - 4:
        raise WireError("its SASL response has a wrong length")
    return Sasl(mechanism, body[rest + 4 :])


def parse_password(body: bytes) -> bytes:
    """Read a PasswordMessage; raises WireError."""
    password, end = _string(body, 0)
    if end != len(body):
        raise WireError("its password message goes on behind the password")
    return password


# ---------------------------------------------------------------------------------------------- reading statements


class Parse(NamedTuple):
    """A statement's name, its text, the types of its parameters as far as the client says them."""

    name: bytes
    text: bytes
    types: tuple[int, ...]


class Bind(NamedTuple):
    """Portal, statement, and the part of the message that holds the values."""

    portal: bytes
    name: bytes
    values: bytes


def _string(body: bytes, start: int) -> tuple[bytes, int]:
    end = body.find(b"\0", start)
    if end < 0:
        raise WireError("a string does not end")
    return body[start:end], end + 1


def parse_query(body: bytes) -> bytes:
    """Give a Query's text; raises WireError."""
    text, end = _string(body, 0)
    if end != len(body):
        raise WireError("a query goes on behind its text")
    return text


def parse_parse(body: bytes) -> Parse:
    """Read a Parse; raises WireError."""
    name, start = _string(body, 0)
    text, start = _string(body, start)
    return Parse(name, text, parse_types(body[start:]))


def parse_types(body: bytes) -> tuple[int, ...]:
    """Read a count and as many type numbers, as Parse and ParameterDescription have them; raises WireError."""
    if len(body) < 2 or len(body) != 2 + 4 * _u16(body)[0]:
        raise WireError("a list of types has a wrong length")
    return Struct(f">{len(body) // 4}I").unpack_from(body, 2)


def parse_bind(body: bytes) -> Bind:
    """Read a Bind's names; raises WireError."""
    portal, start = _string(body, 0)
    name, start = _string(body, start)
    return Bind(portal, name, body[start:])


def parse_execute(body: bytes) -> bytes:
    """Give an Execute's portal; raises WireError."""
    portal, end = _string(body, 0)
    if len(body) != end + 4:
        raise WireError("an execute message has a wrong length")
    return portal


def parse_named(body: bytes) -> tuple[int, bytes]:
    """Read a Describe or Close: S(tatement) or P(ortal), and its name; raises WireError."""
    name, end = _string(body, 1)
    if end != len(body) or body[0] not in b"SP":
        raise WireError("a describe or close message names neither a statement nor a portal")
    return body[0], name


def parse_function(body: bytes) -> int:
    """Give the number of the function a FunctionCall calls; raises WireError."""
    if len(body) < 4:
        raise WireError("a function call names no function")
    return int(_u32(body)[0])


# ---------------------------------------------------------------------------------------------- parameters

MAX_VALUE: Final = 4 << 10  # bytes of one value that are decoded: the record keeps 1 KiB of characters of it
MAX_VALUES: Final = 65  # decoded: one more than the record keeps, so that it can say there were more
_TEXTS: Final = frozenset(
    {17 + 8, 19, 18, 1042, 1043, 114, 142, 705}
)  # text name char bpchar varchar json xml unknown
_NUMBERS: Final = {16: Struct(">?"), 20: Struct(">q"), 21: Struct(">h"), 23: Struct(">i"), 26: Struct(">I"),
                   700: Struct(">f"), 701: Struct(">d")}  # fmt: skip
_NAMES: Final = {
    16: "bool", 17: "bytea", 18: "char", 19: "name", 20: "int8", 21: "int2", 23: "int4", 25: "text", 26: "oid", 114: "json",
    142: "xml", 700: "float4", 701: "float8", 705: "unknown", 869: "inet", 1042: "bpchar", 1043: "varchar", 1082: "date",
    1083: "time", 1114: "timestamp", 1184: "timestamptz", 1186: "interval", 1700: "numeric", 2950: "uuid", 3802: "jsonb",
}  # fmt: skip


def type_name(oid: int) -> str:
    """Name a type; 0 is what a client leaves to the server."""
    return _NAMES.get(oid) or (f"oid {oid}" if oid else "unknown")


def parse_values(values: bytes, types: tuple[int, ...], codec: str = "utf-8") -> list[Parameter]:
    """Decode a Bind's values, the first MAX_VALUES; what is cut off or not understood says so by its kind.

    `values` may be the beginning of a longer message; bytes that are no text in `codec` stay, escaped.
    """
    found: list[Parameter] = []
    try:
        (count,) = _u16(values)
        formats = Struct(f">{count}H").unpack_from(values, 2) if count > 1 else None
        form = _u16(values, 2)[0] if count == 1 else 0
        at = 2 + 2 * count
        (total,) = _u16(values, at)
        at += 2
        for place in range(min(MAX_VALUES, total)):
            (size,) = _i32(values, at)
            at += 4
            if size < 0:
                found.append(Parameter("null", None, 0))
                continue
            oid = types[place] if place < len(types) else 0
            if formats is not None:
                form = formats[place] if place < count else 0
            data = values[at : at + (min(MAX_VALUE, size))]
            if form == 0:
                found.append(Parameter(type_name(oid), data.decode(codec, "backslashreplace"), size))
            else:
                found.append(_value(data, oid, size, codec))
            at += size
    except (StructError, IndexError):
        found.append(Parameter("cut off", None, 0))
    return found


def _value(data: bytes, oid: int, size: int, codec: str) -> Parameter:
    """Decode a value in binary form."""
    kind = type_name(oid)
    if oid in _TEXTS:
        return Parameter(kind, data.decode(codec, "backslashreplace"), size)
    number = _NUMBERS.get(oid)
    if number is not None and size == number.size == len(data):
        return Parameter(kind, number.unpack(data)[0], size)
    if oid == 2950 and size == 16:
        text = data.hex()
        return Parameter(kind, f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}", size)
    if oid == 3802 and data[:1] == b"\1":
        return Parameter(kind, data[1:].decode(codec, "backslashreplace"), size)
    return Parameter(f"{kind} (binary)", "\\x" + data.hex(), size)


# ---------------------------------------------------------------------------------------------- reading answers


def parse_error(body: bytes) -> Failure:
    """Read severity, code and message of an ErrorResponse or its beginning (rule 3)."""
    found = {}
    at = 0
    while at < len(body) and body[at]:
        end = body.find(b"\0", at + 1)
        if end < 0:
            end = len(body)
        if body[at] in b"SVCM":
            found[body[at]] = body[at + 1 : end].decode("utf-8", "backslashreplace")
        at = end + 1
    severity = found.get(ord("V")) or found.get(ord("S"), "")
    return Failure(severity, found.get(ord("C"), ""), found.get(ord("M"), ""))


COUNTED: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "FETCH", "MOVE"})


@lru_cache(maxsize=256)  # sessions end their commands in few words
def parse_tag(body: bytes) -> tuple[str, int | None]:
    """Give a CommandComplete's tag, and the rows it tells of, if it does."""
    tag = body[:MAX_TAG].removesuffix(b"\0").decode("ascii", "backslashreplace")
    words = tag.split(" ")
    if words[0] in COUNTED and len(words) > 1 and words[-1].isascii() and words[-1].isdigit():
        return tag, int(words[-1][:18])  # 18 digits fit 64 bits
    return tag, None


def parse_status(body: bytes) -> tuple[bytes, bytes]:
    """Read a ParameterStatus; raises WireError."""
    name, start = _string(body, 0)
    return name, _string(body, start)[0]
