"""Fuzzed streams of MySQL packets, bound values and logins: read alike however they are cut, and only typed errors come out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final, cast

from proxyd.errors import ProxydError
from proxyd.protocols.mysql import auth, back, responses, wire
from proxyd.protocols.mysql.login_packets import (
    SHA2,
    Answer,
    Cap,
    attribute,
    read_answer,
    read_greeting,
    read_switch,
)
from proxyd.protocols.mysql.parameters import Binding
from proxyd.protocols.mysql.responses import HEAD_BYTES, Responses, fault_of, ok_of
from proxyd.protocols.mysql.talk import Talk
from proxyd.protocols.mysql.wire import HEADER, Commands, Whole, WireError, packet
from tests.fuzz import program
from tests.fuzz.program import Input, Tape, driven
from tests.fuzz.seeds_mysql import RSA_KEY, SHORT_PACKET


@contextlib.contextmanager
def short_packets() -> Iterator[None]:
    """Let messages of more than SHORT_PACKET bytes take several packets, as those of 16 MB do."""
    whole = wire.MAX_PACKET
    for one in (wire, responses):
        vars(one)["MAX_PACKET"] = SHORT_PACKET
    try:
        yield
    finally:
        for one in (wire, responses):
            vars(one)["MAX_PACKET"] = whole


def possible(stream: bytes) -> bytes:
    """Give a stream up to the first packet that would be longer than the longest."""
    at = 0
    while len(stream) - at >= HEADER:
        size = int.from_bytes(stream[at : at + 3], "little")
        if size > SHORT_PACKET:
            return stream[:at]
        at += HEADER + size
    return stream


def clients(source: Input) -> None:
    """What a client sends, in chunks and whole: the same bytes come out, of the same commands."""
    kept, chunk, reading = 50 + source.byte(), source.byte() + 1, bool(source.byte() & 1)
    stream = possible(source.rest())
    with short_packets():
        seen = [_commands(stream, size, kept, reading=reading) for size in (chunk, 0)]
    assert seen[0] == seen[1], "a stream means something else when it is cut"


def _commands(stream: bytes, chunk: int, kept: int, *, reading: bool) -> tuple[bytes, list[int], str]:
    commands = Commands(kept)
    commands.reading_file = reading
    out, codes, why = b"", [], ""
    try:
        for piece in program.cut(stream, chunk):
            commands.feed(piece)
            while (item := commands.next()) is not None:
                out += item.raw
                if isinstance(item, Whole) or getattr(item, "first", False):
                    codes.append(item.code)  # type: ignore[union-attr]
            assert len(out) + commands.waiting <= len(stream)
        assert len(out) + commands.waiting == len(stream), "bytes are lost"
    except WireError as error:
        why = str(error)
    assert stream.startswith(out), "what comes out is not what came in"
    return (b"" if why else out[: len(out) - kept - HEADER - SHORT_PACKET], codes, why)


def servers(source: Input) -> None:
    """What a target sends, in chunks and whole: the same replies."""
    settings, chunk = source.byte(), source.byte() + 1
    asked = source.counted()[:40]
    stream = possible(source.rest())
    with short_packets():
        seen = [_replies(stream, size, asked, settings) for size in (chunk, 0)]
    if "" in (seen[0][1], seen[1][1]):
        assert seen[0] == seen[1], "a stream means something else when it is cut"


def _replies(stream: bytes, chunk: int, asked: bytes, settings: int) -> tuple[list[Any], str, object]:
    scanner = Responses(deprecate_eof=bool(settings & 1), local_infile=bool(settings & 2))
    for code in asked:
        scanner.expect(code, 0)
    found: list[Any] = []
    at = 0
    try:
        for piece in program.cut(stream, chunk):
            for reply in scanner.feed(piece):
                reply.at += at
                found.append(reply)
            assert -1 <= scanner.boundary <= len(piece)
            assert len(scanner._carry) <= HEAD_BYTES + HEADER, "too much is held"
            at += len(piece)
    except WireError as error:
        return [], str(error), None
    return found, "", (scanner.between, scanner.pending, scanner.wants_file)


def values(source: Input) -> None:
    """Bound values, and every packet of a login there is a reader for."""
    count, encoding = source.byte() % 70, ("utf8mb4", "latin1", "gbk", "binary", "no such")[source.byte() % 5]
    long_data, rest = set(source.counted()), source.rest()
    binding = Binding(count)
    for payload in (b"\x17" + rest, b"\x17" + rest[1:]):
        found = binding.decode(payload, encoding, long_data)
        assert len(found) <= 65
        Tape().add(20, {"parameters": [list(one) for one in found]})
    readers: tuple[Callable[[bytes], object], ...] = (
        read_greeting,
        read_answer,
        read_switch,
        ok_of,
        fault_of,
    )
    for read in readers:
        with contextlib.suppress(WireError):
            read(rest)
    attribute(rest, b"_client_name")


# ---------------------------------------------------------------------------------------------- logins


class Peer:
    """Stands for a stream: gives what was sent in chunks, keeps what it is told."""

    def __init__(self, data: bytes, chunk: int) -> None:
        self._pieces = list(program.cut(data, chunk))[::-1]
        self.side = SimpleNamespace(fault=ProxydError)
        self.told = b""

    async def receive(self) -> bytes:
        return self._pieces.pop() if self._pieces else b""

    def send(self, data: bytes) -> None:
        self.told += data

    def unread(self, data: bytes) -> None:
        self._pieces.append(data)


def target_login(source: Input) -> None:
    """A target's side of its login: its greeting, and whatever it asks then; sequence numbers are put right."""
    settings, chunk = source.byte(), source.byte()
    greeting = read_greeting(source.counted().replace(b"KEY", RSA_KEY))
    answer = Answer(Cap.PROTOCOL_41, 45, b"ann", b"", b"d", SHA2)
    said = b""
    for number in range(source.byte() & 7):
        said += packet(2 + 2 * number, source.counted().replace(b"KEY", RSA_KEY))
    session = SimpleNamespace(permit=SimpleNamespace(target=SimpleNamespace(name="db")), login="app")
    login = back.Login(cast("Any", session), cast("Any", None))
    talk = Talk(cast("Any", Peer(said + source.rest(), chunk)), 1)
    driven(login._log_in(talk, greeting, greeting.flags, answer, "TargetPw1", inside_tls=bool(settings & 1)))


def client_login(source: Input) -> None:
    """A client's answer, and what it proves itself with."""
    chunk = source.byte()
    stored = ("*" + "94BDCEBE19083CE2A1F959FD02F964C7AF4CFC29", "A" * 43)
    talk = Talk(cast("Any", Peer(source.rest(), chunk)), 1)
    answer = read_answer(driven(talk.receive()))
    attribute(answer.attributes, b"_client_name")
    proof = driven(talk.receive())
    nonce = bytes(20)
    assert not auth.native_proves(stored[0], nonce, proof)
    assert not auth.ed25519_proves(stored[1], nonce, proof)
    assert not auth.sha2_proves(bytes(32), nonce, proof)
    talk.leave()


PLAYED: Final = (clients, servers, values, target_login, client_login)
