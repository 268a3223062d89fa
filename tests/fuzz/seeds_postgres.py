"""Where campaigns against PostgreSQL begin: what sessions and logins say, as programs of `program`, and the protocol's words."""

from __future__ import annotations

import base64
from typing import Final

from proxyd.protocols.postgres import auth, wire
from tests.fuzz.program import Op, does, says, says_much

DICTIONARY: Final = tuple(
    sorted(
        {bytes((kind,)) for kind in wire.FROM_CLIENT | wire.FROM_SERVER}
        | {b"SELECT 1\0", b"PREPARE\0", b"DEALLOCATE\0", b"DEALLOCATE ALL\0", b"DISCARD ALL\0", b"BEGIN\0", b"COPY 3\0", b"INSERT 0 7\0",
           b"prepare a as ", b"deallocate ", b'"a""b"', b"client_encoding\0", b"GBK\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x04",
           b"identified by '", b"password", b"'%password%'", b"$tag$", b"/*", b"*/", b"--", b"\\'", b"E'", b"://a:b@", b"\0\1\0\1", b"user\0", b"options\0",
           b"-c role=", b"replication\0", b"_pq_.", b"n,,n=,r=", b"c=biws,r=NONCE,p=", b"r=NONCEx,s=c2FsdA==,i=4096", b"SCRAM-SHA-256\0", b"v=", b"y,,",
           b"p=tls-server-end-point,,"}
    )
)  # fmt: skip

_VALUES = b"\0\1\0\1\0\2\0\0\0\4\0\0\0\x2a\0\0\0\3abc\0\0"
_EXTENDED = (
    says(True, wire.PARSE, b"s\0select $1, $2\0\0\2\0\0\0\x17\0\0\0\x19")
    + says(True, wire.DESCRIBE, b"Ss\0")
    + says(True, wire.BIND, b"p\0s\0" + _VALUES)
    + says(True, wire.EXECUTE, b"p\0\0\0\0\2")
)
_SYNC = says(True, wire.SYNC, b"")
_USUAL = (  # as drivers run a prepared statement, in one piece
    says(True, wire.BIND, b"\0s\0" + _VALUES) + says(True, wire.DESCRIBE, b"P\0") + says(True, wire.EXECUTE, bytes(5)) + _SYNC
)  # fmt: skip
_READY = says(False, wire.READY, b"I")
_ROWS = says(False, wire.DATA_ROW, b"\0\1\0\0\0\x1c", canary=True)
_FAILED = says(False, wire.ERROR, b"SERROR\0VERROR\0C22012\0Mdivision by zero\0Dkey\0\0")
_DETAILED = says(False, wire.ERROR, b"SERROR\0VERROR\0C23505\0Mduplicate key\0D", canary=True)
_ANSWERED = (
    says(False, wire.PARSE_COMPLETE, b"")
    + says(False, wire.PARAMETER_DESCRIPTION, b"\0\2\0\0\0\x17\0\0\0\x19")
    + says(False, wire.ROW_DESCRIPTION, b"\0\1a\0" + bytes(18))
    + says(False, wire.BIND_COMPLETE, b"")
    + _ROWS
    + says(False, wire.SUSPENDED, b"")
)


_USUALLY_ANSWERED = (
    says(False, wire.BIND_COMPLETE, b"")
    + says(False, wire.NO_DATA, b"")
    + _ROWS
    + says(False, wire.COMMAND_COMPLETE, b"SELECT 1\0")
    + _READY
)


def _query(text: bytes) -> bytes:
    return says(True, wire.QUERY, text + b"\0")


def _done(tag: bytes) -> bytes:
    return says(False, wire.COMMAND_COMPLETE, tag + b"\0")


def _copies() -> list[bytes]:
    data = says(True, wire.COPY_DATA, b"1\t", canary=True)
    begin = _query(b"copy t from stdin") + says(False, wire.COPY_IN, b"\0\0\0")
    end = says(True, wire.COPY_DONE, b"") + _done(b"COPY 3") + _READY
    out = (
        says(False, wire.COPY_OUT, b"\0\0\0")
        + says(False, wire.COPY_DATA, b"", canary=True)
        + says(False, wire.COPY_DONE, b"")
    )
    big = says_much(True, wire.COPY_DATA, b"", b"1\n", 100)
    return [
        begin + data * 3 + end,
        begin + big + data + end,
        begin + data + does(Op.SHUT) + data + end + does(Op.OPEN) + _query(b"select 1"),
        begin + does(Op.CHUNKS, 200) + big[:-1] + does(Op.SHUT) + end,
        _query(b"copy t to stdout") + out + _done(b"COPY 1") + _READY,
        _EXTENDED + _SYNC + says(False, wire.BIND_COMPLETE, b"") + says(False, wire.COPY_IN, b"\0\0\0") + data + says(True, wire.COPY_DONE, b"") + _SYNC,
    ]  # fmt: skip


def _programs() -> list[bytes]:
    """What sessions say, the common and the odd."""
    simple = _query(b"select 1, 'a'") + _ROWS + _done(b"SELECT 1") + _READY
    named = [
        _query(b'prepare "a""b" as select 1') + _done(b"PREPARE") + _READY + _query(b"deallocate a") + _done(b"DEALLOCATE") + _READY,
        _query(b"discard all") + _done(b"DISCARD ALL") + _READY,
        _query(b"alter user bob password 'hunter2'") + _FAILED + _READY,
    ]  # fmt: skip
    large = [
        says_much(True, wire.QUERY, b"select '", b"x' '", 90, b"\0") + _done(b"SELECT 1") + _READY,
        says_much(True, wire.PARSE, b"s\0select ", b"a,", 70, b"\0\0\0") + _SYNC + says(False, wire.PARSE_COMPLETE, b"") + _READY,
        says_much(True, wire.PARSE, b"\0prepare a as select '", b" ", 40, b";a'\0\0\0") + says(True, wire.BIND, b"\0\0" + bytes(6)) + says(True, wire.EXECUTE, b"\0" + bytes(4)) + _SYNC + says(False, wire.PARSE_COMPLETE, b"") + says(False, wire.BIND_COMPLETE, b"") + _done(b"PREPARE") + _READY,
        says_much(True, wire.BIND, b"p\0s\0\0\0\0\1\0\1\0\0", b"v", 64) + _SYNC,
        says_much(True, wire.FUNCTION, b"\0\0\3\xba", b"v", 65) + says(False, wire.FUNCTION_RESULT, b"", canary=True) + _READY,
        _query(b"x") + says_much(False, wire.ERROR, b"SERROR\0VERROR\0C42601\0M", b"m", 80, b"\0\0") + _READY,
        _query(b"x") + says_much(False, wire.DATA_ROW, b"", b"r", 120) + does(Op.PART) + _done(b"SELECT 1") + _READY,
        does(Op.CHUNKS, 9) + says_much(True, wire.QUERY, b"select", b" 1,", 70) + does(Op.SHUT) + _SYNC,
    ]  # fmt: skip
    return [
        simple,
        simple + does(Op.SHUT) + simple + does(Op.OPEN) + simple,
        does(Op.CHUNKS, 3) + _EXTENDED + _SYNC + _ANSWERED + _READY,
        _EXTENDED + does(Op.SHUT) + _ANSWERED + _SYNC + _READY + does(Op.OPEN) + _EXTENDED + _SYNC,
        _EXTENDED + _SYNC + says(False, wire.PARSE_COMPLETE, b"") + _FAILED + _READY,
        _EXTENDED + says(True, wire.CLOSE, b"Ss\0") + says(True, wire.FLUSH, b"") + _DETAILED + _SYNC + _READY,
        says(False, wire.PARAMETER_STATUS, b"client_encoding\0GBK\0") + says(False, wire.NOTICE, b"SNOTICE\0M", canary=True)
        + says(False, wire.NOTIFICATION, b"\0\0\0\1c\0", canary=True),
        _query(b"begin") + does(Op.VERDICT, 0) + _query(b"drop table t") + does(Op.VERDICT, 1) + _done(b"BEGIN") + says(False, wire.READY, b"T"),
        _EXTENDED + does(Op.VERDICT, 1) + _SYNC + does(Op.VERDICT, 1) + _READY + does(Op.NOTIFY),
        _USUAL + _USUALLY_ANSWERED + _USUAL * 2 + _USUALLY_ANSWERED * 2,
        _USUAL * 2 + does(Op.SHUT) + _USUALLY_ANSWERED + _FAILED + _READY + _USUAL + does(Op.OPEN) + _USUAL,
        _USUAL * 3 + _FAILED + _READY + _USUALLY_ANSWERED + says(False, wire.BIND_COMPLETE, b"") + says(False, wire.SUSPENDED, b""),
        says(True, wire.TERMINATE, b""),
        *named, *large, *_copies(),
    ]  # fmt: skip


def _login_seeds() -> list[bytes]:
    salt = base64.b64encode(b"salt")
    startup = wire.startup(
        [(b"user", b"ann"), (b"database", b"d"), (b"options", b"-c role=x --work_mem=1 -c a\\ b=c")]
    )
    sasl = b"SCRAM-SHA-256\0" + len(b"n,,n=,r=abcdefgh").to_bytes(4, "big") + b"n,,n=,r=abcdefgh"
    first, final = b"n,,n=,r=abcdefgh", b"c=biws,r=NONCE,p=" + base64.b64encode(bytes(32))
    mechanism = bytes((13,)) + auth.SCRAM
    greeting = (
        wire.authentication(0)
        + wire.message(wire.PARAMETER_STATUS, b"a\0b\0")
        + wire.key_data(7, b"1234")
        + wire.ready(wire.IDLE)
    )
    return [
        b"\0\0" + startup + wire.message(wire.PASSWORD, sasl),
        b"\0\3" + wire.untyped(wire.SSL_REQUEST),
        b"\1\2\0" + greeting,
        b"\1\3\5" + wire.authentication(3) + greeting,
        b"\1\2\0" + wire.authentication(5, b"salt") + greeting,
        b"\1\2\0" + wire.authentication(10, b"SCRAM-SHA-256\0\0") + wire.authentication(11, b"r=x,s=c2FsdA==,i=4096"),
        b"\1\2\0" + wire.error("FATAL", "28P01", "no"),
        b"\1\2\0" + wire.negotiate([b"_pq_.x"]) + wire.notice("hello") + greeting,
        b"\2\0" + mechanism + bytes((len(first),)) + first + final,
        b"\3\2\0" + bytes((len(b"r=NONCEx,s=,i=4096") + len(salt),)) + b"r=NONCEx,s=" + salt + b",i=4096v=" + base64.b64encode(bytes(32)),
    ]  # fmt: skip


def seeds() -> list[bytes]:
    """Give what the corpus begins with."""
    sessions = [bytes((0, settings)) + one for one in _programs() for settings in (0, 1, 2, 0x04, 0x18, 0xAC)]
    return [
        *sessions,
        *(b"\7" + one for one in _login_seeds()),
        *(b"\6\1\0\2\0\x17\0\x19" + _VALUES[at:] for at in range(3)),
        *(
            b"\6\0\0" + body
            for body in (b"a\0b\0\0\0", b"Ss\0", b"SERROR\0C42\0Mx\0\0", b"COPY 12\0", b"\0\1\0\0\0\x17")
        ),
    ]
