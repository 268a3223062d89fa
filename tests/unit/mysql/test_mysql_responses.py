"""What a server answers, followed: each case in whole and in chunks of every size, with both ways to end rows."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest

from proxyd.protocols.mysql.responses import Fault, Prepared, Reply, Responses
from proxyd.protocols.mysql.wire import MAX_PACKET, Command, WireError, packet, to_lenenc

MORE, TRANS, CURSOR = 8, 1, 0x40
DEFINITION = b"\x03def" + b"d" * 40


def ok(affected: int = 0, status: int = 2, head: int = 0, info: bytes = b"") -> bytes:
    return bytes((head,)) + to_lenenc(affected) + b"\0" + status.to_bytes(2, "little") + b"\0\0" + info


def eof(status: int = 2) -> bytes:
    return b"\xfe\0\0" + status.to_bytes(2, "little")


def error(code: int = 1146, text: bytes = b"no such table") -> bytes:
    return b"\xff" + code.to_bytes(2, "little") + b"#42S02" + text


class Server:
    """Writes answers; numbers packets as a server does."""

    def __init__(self, deprecate_eof: bool) -> None:
        self.deprecate_eof = deprecate_eof
        self.data = b""
        self.sequence = 0

    def put(self, *payloads: bytes) -> Server:
        for rest in payloads:
            payload = rest
            while True:
                piece, payload = payload[:MAX_PACKET], payload[MAX_PACKET:]
                self.sequence = (self.sequence + 1) & 0xFF
                self.data += len(piece).to_bytes(3, "little") + bytes((self.sequence,)) + piece
                if len(piece) < MAX_PACKET:
                    break
        return self

    def begin(self) -> Server:
        self.sequence = 0
        return self

    def result(self, *rows: bytes, columns: int = 2, status: int = 2) -> Server:
        self.put(bytes((columns,)), *[DEFINITION] * columns)
        if not self.deprecate_eof:
            self.put(eof())
        self.put(*rows)
        return self.put(ok(status=status, head=0xFE) if self.deprecate_eof else eof(status))


def followed(
    server: Server, codes: list[int], chunk: int, *, local_infile: bool = False
) -> tuple[list[Reply], Responses]:
    responses = Responses(deprecate_eof=server.deprecate_eof, local_infile=local_infile)
    for code in codes:
        responses.expect(code, 0)
    found = []
    for at in range(0, len(server.data), chunk):
        for reply in responses.feed(server.data[at : at + chunk]):
            assert reply.at <= len(server.data[at : at + chunk])
            found.append(replace(reply, at=at + reply.at))
    return found, responses


CHUNKS = [1, 2, 3, 4, 5, 6, 9, 17, 64, 1000, 1 << 20]
both = pytest.mark.parametrize("deprecate_eof", [True, False])
chunked = pytest.mark.parametrize("chunk", CHUNKS)


@both
@chunked
def test_a_conversation(deprecate_eof, chunk):
    server = Server(deprecate_eof)
    server.begin().put(ok(3, TRANS))
    first = len(server.data)
    server.begin().result(b"\x01a\x01b", b"\xfb\xfb", b"\x01c\x01d")
    server.begin().put(error())
    server.begin().result(b"\x01a", status=2 | MORE, columns=1).put(ok(5, 2 | MORE)).result(columns=3)
    server.begin().put(b"Uptime: 7  Threads: 1")
    found, responses = followed(
        server, [Command.QUERY, Command.QUERY, Command.QUERY, Command.QUERY, Command.STATISTICS], chunk
    )
    assert [reply.tags for reply in found] == [["OK 3"], ["ROWS 3"], [], ["ROWS 1", "OK 5", "ROWS 0"], []]
    assert [reply.rows for reply in found] == [0, 3, 0, 1, 0]
    assert found[0].at == first
    assert found[0].status == TRANS
    assert found[2].fault == Fault(1146, "42S02", b"no such table")
    assert found[-1].at == len(server.data)
    assert responses.pending == 0
    assert responses.between
    assert responses.next_sequence == 1


@both
@chunked
def test_prepared_statements(deprecate_eof, chunk):
    server = Server(deprecate_eof)
    for columns, parameters in ((2, 3), (0, 1), (1, 0), (0, 0)):
        server.begin().put(
            b"\0"
            + (7).to_bytes(4, "little")
            + columns.to_bytes(2, "little")
            + parameters.to_bytes(2, "little")
            + b"\0\0\0"
        )
        for count in (parameters, columns):
            server.put(*[DEFINITION] * count)
            if count and not deprecate_eof:
                server.put(eof())
    server.begin().result(b"\0\0\x01x", columns=1)
    found, responses = followed(server, [Command.STMT_PREPARE] * 4 + [Command.STMT_EXECUTE], chunk)
    assert [reply.prepared for reply in found] == [
        Prepared(7, 3),
        Prepared(7, 1),
        Prepared(7, 0),
        Prepared(7, 0),
        None,
    ]
    assert found[-1].rows == 1
    assert not responses.pending


@both
@chunked
@pytest.mark.parametrize("code", [Command.QUERY, Command.STMT_EXECUTE])
def test_a_cursor_of_a_procedure_is_none_of_the_client_s(deprecate_eof, chunk, code):
    """FOR ... DO SELECT in a compound statement: its own cursor is open, its results have rows none the less."""
    server = Server(deprecate_eof).begin()
    for _ in range(2):
        server.put(b"\x01", DEFINITION)
        if not deprecate_eof:
            server.put(eof(2 | MORE | CURSOR))
        server.put(b"\x01a")
        server.put(ok(status=2 | MORE | CURSOR, head=0xFE) if deprecate_eof else eof(2 | MORE | CURSOR))
    server.put(ok())
    responses = Responses(deprecate_eof=deprecate_eof, local_infile=False)
    responses.expect(code, 0, cursor=False)
    pieces = [server.data[at : at + chunk] for at in range(0, len(server.data), chunk)]
    (reply,) = [reply for piece in pieces for reply in responses.feed(piece)]
    assert (reply.tags, reply.rows, responses.pending) == (["ROWS 1", "ROWS 1", "OK 0"], 2, 0)


@both
@chunked
def test_cursors_and_fetches(deprecate_eof, chunk):
    server = Server(deprecate_eof)
    server.begin().put(b"\x01", DEFINITION)
    server.put(ok(status=CURSOR, head=0xFE) if deprecate_eof else eof(CURSOR))
    server.begin().put(b"\0\0\x01x", b"\0\0\x01y")
    server.put(ok(status=CURSOR | 0x80, head=0xFE) if deprecate_eof else eof(CURSOR | 0x80))
    server.begin().put(error())
    found, responses = followed(server, [Command.STMT_EXECUTE, Command.STMT_FETCH, Command.STMT_FETCH], chunk)
    assert [reply.tags for reply in found] == [["CURSOR"], ["ROWS 2"], []]
    assert found[2].fault is not None
    assert not responses.pending


@both
def test_long_rows_are_stepped_over(deprecate_eof):
    """A row of several packets, one that begins like an EOF, and one exactly as long as a packet."""
    rows = [
        b"\xfe" + (1 << 24).to_bytes(8, "little") + b"\xff" * (1 << 24),
        b"\x01" + b"\xfe" * (MAX_PACKET - 1),
        b"\x01z",
    ]
    server = Server(deprecate_eof).begin().result(*rows, columns=1)
    for chunk in (1 << 16, (1 << 16) + 1, 1 << 26):
        found, responses = followed(server, [Command.QUERY], chunk)
        assert [astuple(reply)[3] for reply in found] == [3]
        assert responses.between


@both
@chunked
def test_a_long_error_and_a_long_ok(deprecate_eof, chunk):
    server = Server(deprecate_eof)
    server.begin().put(error(text=b"e" * 9000))
    server.begin().put(ok(1, info=b"i" * 9000))
    found, responses = followed(server, [Command.QUERY, Command.QUERY], chunk)
    assert found[0].fault.message.startswith(b"eeee")
    assert len(found[0].fault.message) <= 4096
    assert found[1].affected == 1
    assert found[1].at == len(server.data)
    assert responses.between


@both
def test_an_error_inside_rows_ends_them(deprecate_eof):
    server = Server(deprecate_eof).begin().put(b"\x01", DEFINITION)
    if not deprecate_eof:
        server.put(eof())
    server.put(b"\x01a", b"\x01b", error(1317, b"interrupted"))
    found, _ = followed(server, [Command.QUERY], 7)
    assert (found[0].rows, found[0].fault.code) == (2, 1317)


@both
def test_where_a_word_can_be_put_in(deprecate_eof):
    server = Server(deprecate_eof).begin().result(b"\x01" + b"a" * 100, b"\x01" + b"b" * 100, columns=1)
    row = server.data.index(b"b" * 100) - 5
    responses = Responses(deprecate_eof=deprecate_eof, local_infile=False)
    assert responses.next_sequence == 1
    responses.expect(Command.QUERY, 4)
    assert responses.next_sequence == 5
    responses.feed(server.data[: row + 50])
    assert (responses.boundary, responses.next_sequence) == (row, server.data[row + 3])
    assert not responses.between
    responses.feed(server.data[row + 50 : row + 60])
    assert responses.boundary == -1
    responses.feed(server.data[row + 60 : row + 105])
    assert responses.between
    assert responses.boundary == 45
    assert responses.next_sequence == server.data[row + 3] + 1


def test_files_are_asked_for_only_where_that_was_agreed():
    server = Server(True).begin().put(b"\xfb/etc/passwd")
    with pytest.raises(WireError, match="asked for a file"):
        followed(server, [Command.QUERY], 100)
    found, responses = followed(server, [Command.QUERY], 3, local_infile=True)
    assert found == []
    assert responses.wants_file
    (reply,) = responses.feed(packet(5, ok(2)))
    assert reply.affected == 2


def test_what_nobody_asked():
    responses = Responses(deprecate_eof=True, local_infile=False)
    assert responses.feed(packet(0, error(1927, b"killed"))) == []
    with pytest.raises(WireError, match="nobody had asked"):
        responses.feed(packet(0, ok()))


@pytest.mark.parametrize(
    "payload",
    [b"\xfe" + b"\xff" * 8, b"\xfd\xff\xff\xff", b"\xff\x01", b"\xfc", b"\x00", b"\x00\xfc\x01", b""],
)
def test_malformed_answers(payload):
    responses = Responses(deprecate_eof=True, local_infile=False)
    responses.expect(Command.QUERY, 0)
    with pytest.raises(WireError):
        responses.feed(packet(1, payload) + b"\0\0\0\0\0")


def test_a_pipeline_is_answered_in_order():
    server = Server(True)
    for count in range(5):
        server.begin().put(ok(count))
    found, _ = followed(server, [Command.QUERY] * 5, 1 << 10)
    assert [reply.affected for reply in found] == [0, 1, 2, 3, 4]
    assert [reply.at for reply in found] == [11, 22, 33, 44, 55]


@both
def test_a_select_may_have_more_columns_than_any_table(deprecate_eof):
    server = Server(deprecate_eof).begin().put(to_lenenc(70_000), *[DEFINITION] * 70_000)
    if not deprecate_eof:
        server.put(eof())
    server.put(b"\xfb" * 70_000, ok(head=0xFE) if deprecate_eof else eof())
    found, responses = followed(server, [Command.QUERY], 1 << 16)
    assert ([reply.tags for reply in found], responses.pending) == ([["ROWS 1"]], 0)
