"""The control socket seen from outside: its frames, its errors, and the client that proxyctl and the console use.

Rule 1: a frame is a length (4 bytes, big endian) and that many bytes of msgpack: one map with text keys.
Rule 2: a request is {id, command, arguments}; its answer {id, ok: map} or {id, error: {code, message}}. Who may act for
        others adds {as: user, address: where that user is}.
Rule 3: a stream's frames are {stream: id, ...}; the last one holds `end` or `error`. While a stream runs the
        client sends nothing: closing the connection leaves it; other commands take another connection.
Rule 4: no length, no nesting and no type a peer can send costs more than the limit, or raises anything but FormatError.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack

from proxyd.errors import FormatError, ProxydError
from proxyd.recorder.record import Kind, Record

LENGTH_BYTES = 4
REQUEST_LIMIT = 1 << 20  # a request is a command and a few words; 1 MiB leaves room for any of them
ANSWER_LIMIT = 1 << 26  # an answer may hold a block of the tape (1 MiB and its records) or 10,000 sessions
READ_BYTES = 1 << 16
ANSWER_SECONDS = 40.0  # longer than the server gives a command (30 s), so that its own answer arrives first
REQUEST_ID = 1  # one request a connection: a client that dies can't leave another's answer behind


class Code(StrEnum):
    """Why a command did not happen."""

    USAGE = "usage"  # unknown command, unknown or wrong argument
    FORMAT = "format"  # not a frame, or not a request
    DENIED = "denied"  # who asks may not
    NOT_FOUND = "not_found"  # no such session, no such block
    REFUSED = "refused"  # may, but not now or not like this
    BUSY = "busy"  # too many connections
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"  # said by the client: nobody answers at the socket
    INTERNAL = "internal"  # a fault of the daemon; its log has it


class ControlError(ProxydError):
    """A command was not done; `code` says why, `str()` is the sentence for the operator."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def pack_frame(message: dict[str, Any], limit: int = ANSWER_LIMIT) -> bytes:
    """Pack one message as a frame. Raises FormatError when it is larger than `limit` bytes."""
    body: bytes = msgpack.packb(message)
    if len(body) > limit:
        raise FormatError(f"a control message of {len(body)} bytes is over the limit of {limit}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Frames:
    """Cuts a stream of bytes into messages; sans-IO, holds at most one frame of `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and is not whole yet."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take received bytes and give the messages they complete, in order.

        Raises FormatError for a frame that is too long, no msgpack, or no map with text keys; the
        connection is of no use after that.
        """
        self._buffer += data
        messages = []
        at = 0
        while (begin := at + LENGTH_BYTES) <= len(self._buffer):
            length = int.from_bytes(self._buffer[at:begin], "big")
            if length > self._limit:
                raise FormatError(f"a frame of {length} bytes is over the limit of {self._limit}")
            if begin + length > len(self._buffer):
                break
            messages.append(_unpack_map(bytes(self._buffer[begin : begin + length])))
            at = begin + length
        del self._buffer[:at]
        return messages


def _unpack_map(body: bytes) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(body)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError):
        raise FormatError("a frame is not valid msgpack") from None
    except TypeError:  # a map or list as a map's key can't be hashed
        raise FormatError("a frame has a key that is no text") from None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise FormatError("a frame is no map with text keys")
    return message


def unpack_records(packed: bytes) -> list[Record]:
    """Unpack the batch of records a `watch` frame carries; kinds this program does not know are left out."""
    known = Kind._value2member_map_
    try:
        rows = msgpack.unpackb(packed, strict_map_key=False)
        return [
            Record(seq, at_us, Kind(kind), channel, body)
            for seq, at_us, kind, channel, body in rows
            if kind in known
        ]
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        raise FormatError("the daemon sent records this program can't read") from None


class Client:
    """Asks the daemon; every call is a connection of its own."""

    def __init__(
        self,
        path: Path,
        *,
        deadline_s: float = ANSWER_SECONDS,
        start: str = "proxyd serve",
        acting_for: tuple[str, str] | None = None,
    ) -> None:
        """`start` is the command line that an error names when no daemon runs; `acting_for`: see the method."""
        self.path = path
        self._start = start
        self._deadline_s = deadline_s
        self._person = dict(zip(("as", "address"), acting_for or (), strict=False))

    def acting_for(self, user: str, address: str = "") -> Client:
        """Give a client that asks for a user of the proxy, who sits at this IP address; it takes `console.act`."""
        return Client(self.path, deadline_s=self._deadline_s, start=self._start, acting_for=(user, address))

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Ask one command and wait for its answer. Raises ControlError."""
        connection, frames = self._send(name, arguments)
        with connection:
            messages: list[dict[str, Any]] = []
            while not messages:
                messages = frames.feed(self._receive(connection))
            return answer_of(messages[0])

    def stream(self, name: str, **arguments: Any) -> Stream:
        """Ask a command that answers for as long as it runs. Raises ControlError, here or while it runs."""
        connection, frames = self._send(name, arguments)
        connection.settimeout(None)  # a session may be silent for hours
        return Stream(connection, frames)

    def _send(self, name: str, arguments: dict[str, Any]) -> tuple[socket.socket, Frames]:
        request = {"id": REQUEST_ID, "command": name, "arguments": arguments} | self._person
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self._deadline_s)
            self._connect(connection)
            # A daemon that refuses who we are closes before it reads us; its answer is there to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(pack_frame(request, REQUEST_LIMIT))
        except BaseException:
            connection.close()
            raise
        return connection, Frames(ANSWER_LIMIT)

    def _connect(self, connection: socket.socket) -> None:
        try:
            connection.connect(str(self.path))
        except (FileNotFoundError, ConnectionRefusedError):
            text = f"the daemon is not running: nothing listens at {self.path}; start it with: {self._start}"
            raise ControlError(Code.UNREACHABLE, text) from None
        except PermissionError:
            text = f"no permission to open {self.path}: it takes the daemon's own user, or its group"
            raise ControlError(Code.UNREACHABLE, text) from None
        except OSError as error:
            text = f"can't reach the daemon at {self.path}: {error.strerror or error}"
            raise ControlError(Code.UNREACHABLE, text) from None

    def _receive(self, connection: socket.socket) -> bytes:
        try:
            data = connection.recv(READ_BYTES)
        except TimeoutError:
            text = f"the daemon did not answer within {self._deadline_s:g} s"
            raise ControlError(Code.TIMEOUT, text) from None
        except OSError:
            data = b""
        if not data:
            raise ControlError(Code.UNREACHABLE, "the daemon closed the connection without an answer")
        return data


class Stream:
    """A running command's frames: maps with `meta`, `records` (a list of Record) or `end`."""

    def __init__(self, connection: socket.socket, frames: Frames) -> None:
        self._connection = connection
        self._frames = frames
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while not self.ended:
            yield from self.receive()

    def fileno(self) -> int:
        """Give the socket to wait on with select(); readable means that `receive` does not wait."""
        return self._connection.fileno()

    def receive(self) -> list[dict[str, Any]]:
        """Wait for bytes and give the whole frames among them, maybe none; sets `ended` after the last.

        Raises ControlError when the daemon refuses, or goes away.
        """
        try:
            data = self._connection.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            text = "the daemon has stopped, or closed the stream; the session may live on: proxyctl sessions"
            raise ControlError(Code.UNREACHABLE, text)
        return [self._frame(message) for message in self._frames.feed(data)]

    def close(self) -> None:
        """Leave the stream; idempotent."""
        self._connection.close()

    def _frame(self, message: dict[str, Any]) -> dict[str, Any]:
        if "error" in message:
            answer_of(message)
        if isinstance(packed := message.get("records"), bytes):
            message["records"] = unpack_records(packed)
        self.ended = self.ended or "end" in message
        return message


def answer_of(message: dict[str, Any]) -> dict[str, Any]:
    """Give an answer's map, or raise the ControlError it carries."""
    match message:
        case {"ok": dict() as answer}:
            return answer
        case {"error": {"code": str() as code, "message": str() as text}}:
            known = code in Code._value2member_map_  # a newer daemon may have reasons of its own
            raise ControlError(Code(code) if known else Code.REFUSED, text)
    raise FormatError("the daemon's answer is no answer")
