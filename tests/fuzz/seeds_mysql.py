"""Where campaigns against MySQL begin: what sessions and logins say, as programs of `program`, and the protocol's words."""

from __future__ import annotations

from typing import Final

from proxyd.protocols.mysql.login_packets import (
    CLEAR,
    ED25519,
    NATIVE,
    SHA2,
    Answer,
    Cap,
    Greeting,
    answer_payload,
    greeting_payload,
    ok_payload,
    switch_payload,
)
from proxyd.protocols.mysql.wire import Command, packet
from tests.fuzz import program
from tests.fuzz.program import Op, does, says, says_much

SHORT_PACKET: Final = 300  # in place of MAX_PACKET, where messages of several packets are played
LONG_DATA: Final = int(Command.STMT_SEND_LONG_DATA)
RSA_KEY: Final = b"""-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArjzr1A1Fb46url3oaF7D
nIC8Rpv+GiVSN0OWHyao1Z+tteca+stRhE+oLA5yCM0D2oQYLQWXDa+h7ZAY3zGZ
+vNaXaVixvkRzGqCE9cxFNwKwUmNL5UcwZ6u2BVcXYnph8ksEcmJB1DUytEexDkS
oJLKVo93v0NXWbBmc4c+riaYkcBJQYTJ4dVujLY0ZPtYPAYkzXx3GoxkOVzAZOYY
c2xHPwfxQS5/LDlZOUa0j4WxvIDtEPR1iW3hcjigTSSt/aTftsd6x13Klqhw6Xoz
vD+RywkDXKuhqSk2CADCHUjDiUHCp5roMIyN9rjlieyVfqFqPfCbEch+6Ltgkf3K
HQIDAQAB
-----END PUBLIC KEY-----
"""

DICTIONARY: Final = tuple(
    sorted(
        {bytes((int(code),)) for code in Command}
        | {b"\xfe\0\0\x02\0", b"\xfe\0\0\x0a\0", b"\xff\x28\x04#42000", b"\xfb/etc/passwd", b"\0\0\0\x02\0\0\0", b"\xff\xff\xff", b"\xff\xff\xff\xff",
           b"\xfc\xff\xff", b"\xfd\xff\xff\xff", b"\xfe" + b"\xff" * 8, b"set names gbk", b"kill 2147483649", b"identified by '", b"password", b"'%password%'",
           b"/*", b"*/", b"-- ", b"\\'", b"KEY", b"\x01\x04", b"\x01\x03", b"\x01KEY", NATIVE.encode() + b"\0", SHA2.encode() + b"\0",
           ED25519.encode() + b"\0", CLEAR.encode() + b"\0", b"\x2c\x01\0\0", b"\x2c\x01\0\1"}
    )
)  # fmt: skip

_Q, _P, _X = int(Command.QUERY), int(Command.STMT_PREPARE), int(Command.STMT_EXECUTE)
_OK = says(False, 0, b"\1\0\2\0\0\0")
_EOF = says(False, 0xFE, b"\0\0\2\0")
_END = says(False, 0xFE, b"\0\0\2\0\0\0")
_ROW = says(False, 0x24, b"", canary=True)
_COLUMN = says(False, 3, b"def\0\0\0\1a\0\x0c\x3f\0\1\0\0\0\3\0\0\0\0\0")
_FAILED = says(False, 0xFF, b"\x28\x04#42000You have an error")
_MORE = says(False, 0xFE, b"\0\0\x0a\0")


def _result(*, deprecated: bool, rows: int = 2) -> bytes:
    return (
        says(False, 1, b"")
        + _COLUMN
        + (b"" if deprecated else _EOF)
        + _ROW * rows
        + (_END if deprecated else _EOF)
    )


def _programs(*, deprecated: bool) -> list[bytes]:
    """What sessions say, the common and the odd."""
    select = says(True, _Q, b"select 'a', 1")
    result = _result(deprecated=deprecated)
    prepared = (
        says(True, _P, b"select ?, ?")
        + says(False, 0, b"\1\0\0\0\0\0\2\0\0\0\0")
        + _COLUMN * 2
        + (b"" if deprecated else _EOF)
    )
    execute = says(True, _X, b"\1\0\0\0\0\1\0\0\0\0\1\x03\0\xfd\0\x2a\0\0\0\3abc")
    last = says(True, _X, b"\xff\xff\xff\xff\0\1\0\0\0\0\1\x03\0\xfd\0\x2a\0\0\0\3abc")
    long = says(True, LONG_DATA, b"\1\0\0\0\1\0", canary=True)
    statement = b"\1\0\0\0"
    load = says(True, _Q, b"load data local infile 'x' into table t") + says(False, 0xFB, b"x")
    file = says(True, LONG_DATA, b"1,2\n", canary=True) + program.sends(True, b"\0\0\0\1")
    return [
        select + result,
        select + _FAILED + says(True, int(Command.PING), b"") + _OK + says(True, int(Command.QUIT), b""),
        select + does(Op.SHUT) + select + result + does(Op.OPEN) + select + result,
        says(True, _Q, b"begin; select 1") + _MORE + result,
        prepared + long + execute + result + says(True, int(Command.STMT_RESET), statement) + _OK + says(True, int(Command.STMT_CLOSE), statement),
        prepared + does(Op.SHUT) + long + does(Op.OPEN) + execute + result,
        says(True, _P, b"select ?, ?") + last + says(False, 0, b"\1\0\0\0\0\0\2\0\0\0\0") + _COLUMN * 2 + _EOF + result,
        prepared + execute + says(False, 1, b"") + _COLUMN + says(False, 0xFE, b"\0\0\x42\0") + says(True, int(Command.STMT_FETCH), statement + statement) + _ROW + _EOF,
        load + file + _OK,
        load + does(Op.CHUNKS, 5) + file[:20] + does(Op.SHUT) + does(Op.OPEN) + file + _OK,
        says_much(True, _Q, b"select '", b"x' '", 70) + result,
        does(Op.CHUNKS, 77) + says_much(True, _Q, b"select ", b"a,", 90) + does(Op.SHUT) + result,
        does(Op.SHUT) + says_much(True, _Q, b"select ", b"a,", 90) + does(Op.OPEN) + select + result,
        prepared + says_much(True, LONG_DATA, b"\1\0\0\0\1\0", b"l", 80) + execute + result,
        select + says(False, 1, b"") + _COLUMN + says_much(False, 5, b"", b"r", 200) + does(Op.PART) + _ROW + _EOF,
        does(Op.CHUNKS, 3) + select + result + select + _FAILED + does(Op.NOTIFY),
        select + does(Op.VERDICT, 0) + result + says(True, _Q, b"drop table t") + does(Op.VERDICT, 1) + select + does(Op.VERDICT, 0),
        says(True, int(Command.CHANGE_USER), b"bob\0") + select + result,
        says(True, 0x55, b"?") + says(True, int(Command.INIT_DB), b"d") + _OK + says(True, int(Command.FIELD_LIST), b"t\0") + _COLUMN + _EOF,
        says(True, _Q, b"kill query 2147483649") + _OK + says(True, int(Command.PROCESS_KILL), b"\1\0\0\x80") + _OK,
        says(True, _Q, b"set names gbk") + _OK + says(True, _Q, b"alter user bob identified by 'hunter2'") + _FAILED,
        says(True, int(Command.STATISTICS), b"") + says(False, ord("U"), b"ptime: 1") + says(True, int(Command.RESET_CONNECTION), b"") + _OK,
        select * 3 + does(Op.SHUT) + select + result * 3 + _FAILED,
        says(False, 0xFF, b"\x7c\x04#08S01shutdown"),
    ]  # fmt: skip


def _login_seeds() -> list[bytes]:
    greeting = greeting_payload(Greeting("8.0.36", 7, b"n" * 20, Cap(0xFFFFFF), 45, 2, SHA2))
    empty = greeting.replace(b"n" * 12, bytes(12))
    answer = answer_payload(Answer(Cap.PROTOCOL_41 | Cap.SECURE_CONNECTION | Cap.PLUGIN_AUTH | Cap.CONNECT_ATTRS | Cap.CONNECT_WITH_DB
                                   | Cap.PLUGIN_AUTH_LENENC, 45, b"ann", b"p" * 20, b"d", NATIVE, b"\x12\x0c_client_name\4me:)"))  # fmt: skip
    ok, fast, send, key = ok_payload(2), b"\x01\x03", b"\x01\x04", b"\x01KEY"

    def target(tls: int, *said: bytes, greeting: bytes = greeting) -> bytes:
        return (
            b"\x08"
            + bytes((tls, 0, len(greeting)))
            + greeting
            + bytes((len(said),))
            + b"".join(bytes((len(one),)) + one for one in said)
        )

    return [
        target(1, ok),
        target(1, fast, ok),
        target(1, send, ok),
        target(0, send, key, ok),
        target(0, send, key, ok, greeting=empty),
        target(0, switch_payload(SHA2, b"n" * 20 + b"\0"), send, key, ok),
        target(0, switch_payload(NATIVE, b"n" * 20 + b"\0"), ok),
        target(1, switch_payload(ED25519, b"n" * 32), ok),
        target(1, switch_payload(CLEAR, b""), ok),
        target(1, b"\xff\x15\x04#28000Access denied"),
        b"\x09\0" + packet(1, answer) + packet(2, b"p" * 20),
        b"\x09\7" + packet(1, answer[:32]) + packet(2, b""),
    ]  # fmt: skip


def _packet_seeds() -> list[bytes]:
    long = b"".join(packet(number, b"\3" + b"s" * (SHORT_PACKET - 1)) for number in range(3))
    rows = (
        packet(1, b"\1")
        + packet(2, b"def")
        + packet(3, b"\xfe\0\0\2\0")
        + packet(4, b"\4rrrr")
        + packet(5, b"\xfe\0\0\2\0")
    )
    huge = (
        packet(1, b"\1")
        + packet(2, b"def")
        + packet(3, b"\xfe\0\0\2\0")
        + packet(4, b"r" * SHORT_PACKET)
        + packet(5, b"r")
        + packet(6, b"\xfe\0\0\2\0")
    )
    return [
        b"\x0a\x60\7\0" + packet(0, b"\3select 1") + long + packet(3, b"end") + packet(0, b"\x0e"),
        b"\x0a\0\1\1" + packet(2, b"file") + packet(3, b"") + packet(0, b"\x0e"),
        b"\x0b\0\5\1\3" + rows,
        b"\x0b\0\xff\2\3\3" + rows + huge,
        b"\x0b\1\3\2\x16\x17" + packet(1, b"\0\1\0\0\0\1\0\1\0\0\0\0") + packet(2, b"d") + packet(3, b"d") + packet(1, b"\0\1\0\2\0\0\0"),
        b"\x0c\2\0\0\0\1\0\0\0\0\1\0\0\0\0\1\x03\0\xfd\0\x2a\0\0\0\3abc",
        b"\x0c\1\1\0" + bytes(9) + b"\0\1\x0c\0\x0b\xe8\7\1\2\3\4\5\6\0\0\0",
    ]  # fmt: skip


def seeds() -> list[bytes]:
    """Give what the corpus begins with."""
    found = [
        bytes((0, settings, flags)) + one
        for flags, settings in ((0, 0), (3, 0), (2, 3), (3, 1), (2, 0x04), (3, 0x18), (2, 0x6C))
        for one in _programs(deprecated=bool(flags & 1))
    ]
    return [*found, *_login_seeds(), *_packet_seeds()]
