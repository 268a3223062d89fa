"""The packets of a login: the server's greeting, the client's answer, OK and ERR; read and written.

Rule 1: as wire.py's.
Rule 2: what proxyd offers is what the target has, less what it could not follow: see `OFFERED`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from proxyd.protocols.mysql.wire import (
    WireError,
    lenenc,
    lenenc_bytes,
    text_to_nul,
    to_lenenc,
    uint16_at,
    uint32_at,
)

PROTOCOL: Final = 10
NONCE_BYTES: Final = 20
SSL_REQUEST_BYTES: Final = 32  # flags, longest packet, charset, filler
FILLER: Final = bytes(19)
OWN_AT: Final = 28  # where a client's first packet has MariaDB's own flags
LONGEST: Final = 1 << 24  # what clients announce as their longest packet, and servers ignore

NATIVE: Final = "mysql_native_password"
SHA2: Final = "caching_sha2_password"
ED25519: Final = "client_ed25519"
CLEAR: Final = "mysql_clear_password"


class Cap(enum.IntFlag):
    """Capability flags; bits 32 and up are MariaDB's own, told where LONG_PASSWORD ("this is MySQL") is not."""

    LONG_PASSWORD = 1 << 0
    FOUND_ROWS = 1 << 1
    LONG_FLAG = 1 << 2
    CONNECT_WITH_DB = 1 << 3
    NO_SCHEMA = 1 << 4
    COMPRESS = 1 << 5
    ODBC = 1 << 6
    LOCAL_FILES = 1 << 7
    IGNORE_SPACE = 1 << 8
    PROTOCOL_41 = 1 << 9
    INTERACTIVE = 1 << 10
    SSL = 1 << 11
    IGNORE_SIGPIPE = 1 << 12
    TRANSACTIONS = 1 << 13
    SECURE_CONNECTION = 1 << 15
    MULTI_STATEMENTS = 1 << 16
    MULTI_RESULTS = 1 << 17
    PS_MULTI_RESULTS = 1 << 18
    PLUGIN_AUTH = 1 << 19
    CONNECT_ATTRS = 1 << 20
    PLUGIN_AUTH_LENENC = 1 << 21
    CAN_HANDLE_EXPIRED = 1 << 22
    SESSION_TRACK = 1 << 23
    DEPRECATE_EOF = 1 << 24
    OPTIONAL_METADATA = 1 << 25
    ZSTD = 1 << 26
    QUERY_ATTRIBUTES = 1 << 27
    MULTI_FACTOR = 1 << 28
    EXTENDED_METADATA = 1 << 35


OURS: Final = (
    Cap.SSL
    | Cap.PROTOCOL_41
    | Cap.SECURE_CONNECTION
    | Cap.PLUGIN_AUTH
    | Cap.PLUGIN_AUTH_LENENC
    | Cap.CONNECT_ATTRS
)
"""What concerns the login alone, and proxyd does itself on either side."""

PASSED: Final = (
    Cap.LONG_PASSWORD | Cap.FOUND_ROWS | Cap.LONG_FLAG | Cap.CONNECT_WITH_DB | Cap.NO_SCHEMA | Cap.ODBC | Cap.LOCAL_FILES
    | Cap.IGNORE_SPACE | Cap.INTERACTIVE | Cap.IGNORE_SIGPIPE | Cap.TRANSACTIONS | Cap.MULTI_STATEMENTS | Cap.MULTI_RESULTS
    | Cap.PS_MULTI_RESULTS | Cap.SESSION_TRACK | Cap.DEPRECATE_EOF | Cap.EXTENDED_METADATA
)  # fmt: skip
"""What a session may have when its target does. Not: compression (nothing could be read), query attributes, optional and
cached metadata (they change the layouts), expired passwords, several factors (the login is proxyd's)."""

SHAPING: Final = Cap.SESSION_TRACK | Cap.DEPRECATE_EOF | Cap.PROTOCOL_41 | Cap.EXTENDED_METADATA
"""What decides how packets are laid out: both sides must have agreed on the same."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """A server's first packet (HandshakeV10)."""

    version: str
    thread: int
    nonce: bytes
    flags: Cap
    charset: int
    status: int
    plugin: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's first packet (HandshakeResponse41)."""

    flags: Cap
    charset: int
    user: bytes
    proof: bytes
    database: bytes = b""
    plugin: str = ""
    attributes: bytes = b""  # as they came, with their length


def _own(flags: Cap) -> bytes:
    """Write MariaDB's own flags; MySQL leaves these bytes empty."""
    return bytes(4) if Cap.LONG_PASSWORD in flags else (int(flags) >> 32).to_bytes(4, "little")


def greeting_payload(greeting: Greeting) -> bytes:
    """Write a greeting."""
    flags = int(greeting.flags)
    return b"".join(
        (
            bytes((PROTOCOL,)),
            greeting.version.encode("ascii", "replace") + b"\0",
            greeting.thread.to_bytes(4, "little"),
            greeting.nonce[:8] + b"\0",
            (flags & 0xFFFF).to_bytes(2, "little"),
            bytes((greeting.charset & 0xFF,)),
            greeting.status.to_bytes(2, "little"),
            (flags >> 16 & 0xFFFF).to_bytes(2, "little"),
            bytes((NONCE_BYTES + 1,)),
            bytes(6),
            _own(greeting.flags),
            greeting.nonce[8:] + b"\0",
            greeting.plugin.encode("ascii") + b"\0",
        )
    )


def read_greeting(payload: bytes) -> Greeting:
    """Read a greeting. Raises WireError."""
    if not payload or payload[0] != PROTOCOL:
        raise WireError("not a greeting of protocol 10")
    version, at = text_to_nul(payload, 1)
    if len(payload) < at + 31:  # thread, nonce, flags twice, charset, status, length, filler
        raise WireError("a greeting cut short")
    (thread,) = uint32_at(payload, at)
    nonce = payload[at + 4 : at + 12]
    flags = uint16_at(payload, at + 13)[0] | uint16_at(payload, at + 18)[0] << 16
    if not flags & Cap.LONG_PASSWORD:
        flags |= uint32_at(payload, at + 27)[0] << 32
    rest = at + 31
    second = max(13, payload[at + 20] - 8)
    nonce += payload[rest : rest + second].rstrip(b"\0")
    plugin = payload[rest + second :].split(b"\0", 1)[0]
    return Greeting(
        version.decode("ascii", "replace"),
        thread,
        nonce,
        Cap(flags),
        payload[at + 15],
        uint16_at(payload, at + 16)[0],
        plugin.decode("ascii", "replace") or NATIVE,
    )


def read_flags(payload: bytes) -> Cap:
    """Read the flags of a client's first packet, of which only the head need be there. Raises WireError."""
    if len(payload) < SSL_REQUEST_BYTES:
        raise WireError("a login cut short")
    flags = Cap(uint32_at(payload, 0)[0])
    if Cap.LONG_PASSWORD not in flags:
        flags |= Cap(uint32_at(payload, OWN_AT)[0] << 32)
    if Cap.PROTOCOL_41 not in flags:
        raise WireError("a client older than MySQL 4.1")
    return flags


def read_answer(payload: bytes) -> Answer:
    """Read a client's first packet. Raises WireError."""
    flags = read_flags(payload)
    user, at = text_to_nul(payload, SSL_REQUEST_BYTES)
    if Cap.PLUGIN_AUTH_LENENC in flags:
        proof, at = lenenc_bytes(payload, at)
    elif Cap.SECURE_CONNECTION in flags:
        size, at = lenenc(payload, at)
        proof, at = payload[at : at + size], at + size
    else:
        proof, at = text_to_nul(payload, at)
    database, plugin = b"", b""
    if Cap.CONNECT_WITH_DB in flags and at < len(payload):
        database, at = text_to_nul(payload, at)
    if Cap.PLUGIN_AUTH in flags and at < len(payload):
        name, _, _ = payload[at:].partition(b"\0")  # some clients leave the NUL out at the end
        plugin, at = name, at + len(name) + 1
    attributes = b""
    if Cap.CONNECT_ATTRS in flags and at < len(payload):
        size, begin = lenenc(payload, at)
        attributes = payload[at : begin + size]
        if len(attributes) != begin + size - at:
            raise WireError("a string is cut short")
    return Answer(flags, payload[8], user, proof, database, plugin.decode("ascii", "replace"), attributes)


def ssl_request(flags: Cap, charset: int) -> bytes:
    """Write what a client says before it begins TLS; also the head of `answer_payload`."""
    head = (int(flags) & 0xFFFFFFFF).to_bytes(4, "little") + LONGEST.to_bytes(4, "little") + bytes((charset,))
    return head + FILLER + _own(flags)


def answer_payload(answer: Answer) -> bytes:
    """Write a client's first packet."""
    flags = answer.flags
    proof = answer.proof
    parts = [
        ssl_request(flags, answer.charset),
        answer.user + b"\0",
        to_lenenc(len(proof)) + proof if Cap.PLUGIN_AUTH_LENENC in flags else bytes((len(proof),)) + proof,
    ]
    if Cap.CONNECT_WITH_DB in flags:
        parts.append(answer.database + b"\0")
    if Cap.PLUGIN_AUTH in flags:
        parts.append(answer.plugin.encode("ascii") + b"\0")
    if Cap.CONNECT_ATTRS in flags:
        parts.append(answer.attributes or b"\0")
    return b"".join(parts)


def attribute(attributes: bytes, wanted: bytes) -> str:
    """Find one of the client's attributes, "" when it is not there or not readable."""
    try:
        _, at = lenenc(attributes, 0)
        while at < len(attributes):
            name, at = lenenc_bytes(attributes, at)
            value, at = lenenc_bytes(attributes, at)
            if name == wanted:
                return value.decode("utf-8", "replace")
    except WireError:
        pass
    return ""


def ok_payload(status: int, warnings: int = 0) -> bytes:
    """Write an OK that tells of nothing but the status."""
    return b"\0\0\0" + status.to_bytes(2, "little") + warnings.to_bytes(2, "little")


def error_payload(code: int, state: str, text: str) -> bytes:
    """Write an ERR."""
    return b"\xff" + code.to_bytes(2, "little") + b"#" + state.encode("ascii") + text.encode()


def switch_payload(plugin: str, nonce: bytes) -> bytes:
    """Write an AuthSwitchRequest."""
    return b"\xfe" + plugin.encode("ascii") + b"\0" + nonce


def read_switch(payload: bytes) -> tuple[str, bytes]:
    """Read an AuthSwitchRequest: the plugin and its data. Raises WireError."""
    if len(payload) == 1:  # the old password of MySQL 3
        raise WireError("a login method older than MySQL 4.1")
    plugin, at = text_to_nul(payload, 1)
    return plugin.decode("ascii", "replace"), payload[at:]
