"""The little of DER (X.690) that SPNEGO and CredSSP are written in; bytes in, bytes out.

Rule 1: only definite lengths and one-byte tags, as both have; a length may be written longer than it need be, since
        Windows does.
Rule 2: what is read is a slice of what was given: nothing is allocated by a length from the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import WireError

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30
CONTEXT: Final = 0xA0  # [0] EXPLICIT; [n] is CONTEXT + n
APPLICATION: Final = 0x60  # [APPLICATION 0] IMPLICIT, the frame of a GSS-API token (RFC 2743 3.1)

LONG_FORM: Final = 0x80  # X.690 8.1.3.5: the low bits count the octets of the length
MANY_TAGS: Final = 0x1F  # X.690 8.1.2.4: the tag goes on in the next octet
MAX_LENGTH_OCTETS: Final = 4  # 4 GiB: more than any peer may send
MAX_INTEGER_OCTETS: Final = 5  # a sign octet and 32 bits


class Head(NamedTuple):
    """Tag and sizes of an element: `body` is where its contents begin, `end` where they end."""

    tag: int
    body: int
    end: int


def head(data: bytes | bytearray, at: int = 0) -> Head | None:
    """Read the head of the element at `at`; None: bytes of it are missing. Raises WireError."""
    if len(data) < at + 2:
        return None
    tag, length, body = data[at], data[at + 1], at + 2
    if tag & MANY_TAGS == MANY_TAGS:
        raise WireError("a DER tag of more than one byte")
    if length & LONG_FORM:
        octets = length & ~LONG_FORM
        if not 1 <= octets <= MAX_LENGTH_OCTETS:
            raise WireError("a DER length without end, or longer than any message")
        if len(data) < body + octets:
            return None
        length, body = int.from_bytes(data[body : body + octets], "big"), body + octets
    return Head(tag, body, body + length)


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give tag and contents of one element after another, to the end. Raises WireError."""
    at = 0
    while at < len(data):
        found = head(data, at)
        if found is None or found.end > len(data):
            raise WireError("a DER element is cut off")
        yield found.tag, data[found.body : found.end]
        at = found.end


def only(data: bytes, tag: int) -> bytes:
    """Give the contents of the one element there is, which must have this tag. Raises WireError."""
    found = head(data)
    if found is None or found.tag != tag or found.end != len(data):
        raise WireError("a DER element of another kind, or not alone")
    return data[found.body :]


def fields(data: bytes) -> dict[int, bytes]:
    """Give the fields of a SEQUENCE by their numbers: [0], [1], ... Raises WireError."""
    found: dict[int, bytes] = {}
    for tag, contents in elements(only(data, SEQUENCE)):
        if tag - CONTEXT in found or not CONTEXT <= tag < CONTEXT + MANY_TAGS:
            raise WireError("a DER field that is there twice, or has no number")
        found[tag - CONTEXT] = contents
    return found


def integer(data: bytes, tag: int = INTEGER) -> int:
    """Read an INTEGER or ENUMERATED of at most 32 bits. Raises WireError."""
    contents = only(data, tag)
    if not 1 <= len(contents) <= MAX_INTEGER_OCTETS:
        raise WireError("a DER integer of no size, or too large")
    return int.from_bytes(contents, "big", signed=True)


def element(tag: int, *parts: bytes) -> bytes:
    """Build an element of its contents."""
    contents = b"".join(parts)
    size = len(contents)
    if size < LONG_FORM:
        return bytes((tag, size)) + contents
    octets = (size.bit_length() + 7) // 8
    return bytes((tag, LONG_FORM | octets)) + size.to_bytes(octets, "big") + contents


def field(number: int, tag: int, *parts: bytes) -> bytes:
    """Build the field [number] EXPLICIT of a SEQUENCE, an element with this tag in it."""
    return element(CONTEXT + number, element(tag, *parts))


def number(value: int) -> bytes:
    """Give the contents of an INTEGER."""
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
