"""A dialogue on the table: scanners and Dialogue joined without a socket, and what Statements was told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from proxyd.gate import Gate
from proxyd.protocols.postgres import wire
from proxyd.protocols.postgres.dialogue import Dialogue
from proxyd.protocols.postgres.scan import ClientScanner, Fate, ServerScanner
from proxyd.statement import Failure, Parameter

message = wire.message


class Told:
    """Stands for Statements: keeps what it is told."""

    def __init__(self) -> None:
        self.encoding = "utf-8"
        self.begun: dict[int, dict[str, Any]] = {}
        self.ended: dict[int, dict[str, Any]] = {}
        self.refusals: list[dict[str, Any]] = []
        self._count = 0

    def begin(self, text: bytes, *, how: str, parameters: Sequence[Parameter] = (), **more: Any) -> int:
        self._count += 1
        self.begun[self._count] = {"text": bytes(text), "how": how, "parameters": list(parameters), **more}
        return self._count

    def describe(
        self, text: bytes, total: int | None = None, sha256: bytes | None = None, name: str = ""
    ) -> dict[str, Any]:
        return {"text": bytes(text), "total": total, "sha256": sha256, "name": name}

    def run(self, described: dict[str, Any], how: str, parameters: Sequence[Parameter] = ()) -> int:
        return self.begin(**described, how=how, parameters=parameters)

    def end(self, n: int, *, tag: str = "", rows: int | None = None, error: Failure | None = None, transaction: str = "",
            outcome: str = "") -> None:  # fmt: skip
        if n not in self.begun:
            assert n == 0
            return
        assert n not in self.ended, f"statement {n} ended twice"
        self.ended[n] = {
            "tag": tag,
            "rows": rows,
            "error": error,
            "transaction": transaction,
            "outcome": outcome,
        }

    def refused(self, text: bytes, *, how: str, why: str, **more: Any) -> int:
        self.refusals.append({"text": bytes(text), "how": how, "why": why, **more})
        return 0

    def texts(self, how: str = "") -> list[bytes]:
        return [one["text"] for one in self.begun.values() if not how or one["how"] == how]


class Table:
    """Both directions; `up` and `down` give what is sent on."""

    def __init__(self, *, judged: bool = False, replication: bool = False) -> None:
        self.told, self.gate = Told(), Gate()
        self.dialogue = Dialogue(self.told, self.gate, judged=judged, replication=replication)  # type: ignore[arg-type]
        self.client, self.server = ClientScanner(self.dialogue), ServerScanner(self.dialogue)
        self.said = b""  # by us, to the client, past the target

    def up(self, *data: bytes) -> bytes:
        """The client sends."""
        return self._sent(piece for part in data for piece in self.client.feed(part))

    def decide(self, why: str = "") -> bytes:
        """The rules decide about what waits."""
        return self._sent(self.client.decided(self.dialogue.verdict(why)))

    def _sent(self, pieces: Iterable[bytes | memoryview]) -> bytes:
        out = b"".join(pieces)
        self.dialogue.before_sending()
        if self.server.at_boundary:
            self.said += b"".join(self.dialogue.words)
            self.dialogue.words.clear()
        return out

    def down(self, *data: bytes) -> bytes:
        """The target sends."""
        out = b"".join(piece for part in data for piece in self.server.feed(part))
        self.dialogue.chunk_done()
        return out

    def hear(self) -> list[tuple[str, bytes]]:
        """Take what we have said: kind and body."""
        said, self.said = self.said, b""
        return messages(said)


def messages(data: bytes) -> list[tuple[str, bytes]]:
    """Split messages."""
    found = []
    while data:
        kind, length = wire.header(data)
        found.append((chr(kind), data[5 : length + 1]))
        data = data[length + 1 :]
    return found


def query(text: bytes) -> bytes:
    return message(wire.QUERY, text + b"\0")


def parse(text: bytes, name: bytes = b"", types: Sequence[int] = ()) -> bytes:
    oids = b"".join(oid.to_bytes(4, "big") for oid in types)
    return message(wire.PARSE, name + b"\0" + text + b"\0" + len(types).to_bytes(2, "big") + oids)


def values(found: Sequence[bytes | None], form: int = 0) -> bytes:
    body = b"\0\1" + form.to_bytes(2, "big") + len(found).to_bytes(2, "big")
    for value in found:
        body += b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value
    return body + b"\0\0"


def bind(*found: bytes | None, name: bytes = b"", portal: bytes = b"", form: int = 0) -> bytes:
    return message(wire.BIND, portal + b"\0" + name + b"\0" + values(found, form))


def execute(portal: bytes = b"", rows: int = 0) -> bytes:
    return message(wire.EXECUTE, portal + b"\0" + rows.to_bytes(4, "big"))


def describe(kind: bytes, name: bytes = b"") -> bytes:
    return message(wire.DESCRIBE, kind + name + b"\0")


SYNC = wire.SYNC_MESSAGE
FLUSH = message(wire.FLUSH)
PARSED, BOUND, CLOSED = (
    message(kind) for kind in (wire.PARSE_COMPLETE, wire.BIND_COMPLETE, wire.CLOSE_COMPLETE)
)
READY, IN_BLOCK, BROKEN = (wire.ready(state) for state in (wire.IDLE, wire.OPEN, wire.FAILED))


def done(tag: str) -> bytes:
    return message(wire.COMMAND_COMPLETE, tag.encode() + b"\0")


def row(body: bytes = b"\0\1\0\0\0\4abcd") -> bytes:
    return message(wire.DATA_ROW, body)


def failed(code: str = "22012", text: str = "division by zero", **more: str) -> bytes:
    fields = {"S": "FEHLER", "V": "ERROR", "C": code, "M": text, **more}
    return message(wire.ERROR, b"".join(f"{key}{value}\0".encode() for key, value in fields.items()) + b"\0")


__all__ = ["Fate", "Table", "Told"]
