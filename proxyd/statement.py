r"""What of a database session goes on the tape: each statement before it leaves, each outcome once it is known.

Rule 1: nothing leaves this module unredacted. Text, parameters and error messages pass `redact` before the tape sees
        them; what could be cut in the middle of a secret is left out rather than guessed at.
Rule 2: no row gets in: the caller has none to give, and of an error only severity, code and message are taken.
Rule 3: the number of a statement is its only link to its outcome; statements may overlap (pipelining).
Rule 4: bytes that are no text in the session's encoding stay as \\xNN, so that nothing is lost and nothing is guessed.

What is the same each time a prepared statement runs is found out once: `describe`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxyd import redact
from proxyd.recorder.record import Kind
from proxyd.recorder.reel import ITEM_BYTES, weigh

if TYPE_CHECKING:
    from proxyd.session import Session

HEAD_BYTES: Final = 48 << 10  # of a cut statement: what it does stands at its beginning
TAIL_BYTES: Final = 16 << 10  # and its WHERE at its end
KEPT_BYTES: Final = HEAD_BYTES + TAIL_BYTES  # an event stays well below the 1 MiB a viewer takes at once
LEAD_BYTES: Final = 16 << 10
"""Bytes before the tail that are looked at and not kept: a secret in the tail may be named just before it."""

MAX_PARAMETERS: Final = 64  # of one statement; a batch insert binds thousands
MAX_VALUE: Final = 1 << 10  # characters of one parameter
MAX_MESSAGE: Final = 4 << 10  # characters of an error message; PostgreSQL quotes whole statements in some
KEY_BYTES: Final = 32
HASH_BYTES: Final = 16  # enough to tell two values of a session apart

FRAME_WEIGHT: Final = 3 * ITEM_BYTES  # of a statement's record, beside its text
RESULT_WEIGHT: Final = 8 * ITEM_BYTES  # of a result's record
PARAMETER_WEIGHT: Final = 4 * ITEM_BYTES  # of a bound value, beside its bytes

UNDECODABLE: Final = "backslashreplace"
WITHHELD: Final = "(withheld: the statement names a secret)"

CODECS: Final = {
    "utf8": "utf-8", "utf-8": "utf-8", "utf8mb3": "utf-8", "utf8mb4": "utf-8", "unicode": "utf-8", "sql_ascii": "utf-8",
    "latin1": "cp1252", "latin2": "iso8859-2", "latin5": "iso8859-9", "latin7": "iso8859-13", "latin9": "iso8859-15",
    "win1250": "cp1250", "win1251": "cp1251", "win1252": "cp1252", "win1253": "cp1253", "win1254": "cp1254",
    "win1257": "cp1257", "cp1250": "cp1250", "cp1251": "cp1251", "cp1252": "cp1252", "cp1256": "cp1256",
    "koi8r": "koi8-r", "koi8u": "koi8-u", "euc_jp": "euc_jp", "ujis": "euc_jp", "eucjpms": "euc_jp", "sjis": "shift_jis",
    "cp932": "cp932", "euc_kr": "euc_kr", "euckr": "euc_kr", "uhc": "cp949", "euc_cn": "gb2312", "gb2312": "gb2312",
    "gbk": "gbk", "gb18030": "gb18030", "big5": "big5", "ascii": "ascii", "binary": "ascii", "iso-8859-1": "latin-1",
}  # fmt: skip
"""Names both protocols use -> Python's. A name that is not here is read as ASCII, the rest escaped (rule 4)."""


class Parameter(NamedTuple):
    """A bound value: its type's name ("int4", "text", "null", ...), the value decoded, its bytes on the wire."""

    kind: str
    value: str | int | float | bool | None
    size: int


@dataclass(frozen=True, slots=True)
class Failure:
    """What a target said went wrong; `code` is the SQLSTATE, or the server's own number."""

    severity: str
    code: str
    message: str


class Cutting:
    """Collects what is kept of a statement that arrives in pieces; holds at most some 150 KiB, whatever it is fed."""

    __slots__ = ("_hash", "_head", "_tail", "total")

    def __init__(self) -> None:
        self.total = 0
        self._head = bytearray()
        self._tail = bytearray()
        self._hash: hashlib._Hash | None = None

    def feed(self, view: bytes | bytearray | memoryview) -> None:
        """Take the next piece."""
        self.total += len(view)
        if self._hash is None and self.total > KEPT_BYTES:
            self._hash = hashlib.sha256(self._head)
            self._hash.update(self._tail)
        if self._hash is not None:
            self._hash.update(view)
        room = HEAD_BYTES - len(self._head)
        if room > 0:
            self._head += view[:room]
            view = view[room:]
        self._tail += view[-(LEAD_BYTES + TAIL_BYTES) :]
        if len(self._tail) > 3 * (LEAD_BYTES + TAIL_BYTES):  # seldom, so that small pieces cost no copy each
            del self._tail[: -(LEAD_BYTES + TAIL_BYTES)]

    @property
    def text(self) -> bytes:
        """The statement; of one over KEPT_BYTES its head, what leads to its tail, and its tail."""
        return bytes(self._head + self._tail[-(LEAD_BYTES + TAIL_BYTES) :])

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of the whole."""
        if self._hash is None:
            return hashlib.sha256(self._head + self._tail).digest()
        return self._hash.digest()


class Described(NamedTuple):
    """A statement as the target's level has it: what each of its records says, redacted; bytes it weighs on a tape."""

    fields: dict[str, Any]
    secret: bool
    weight: int


class Statements:
    """The statements of one session."""

    def __init__(self, session: Session, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Take the levels from the session's target; `clock` gives nanoseconds."""
        target = session.permit.target
        self._session = session
        self._clock = clock
        self._dialect = session.protocol
        self._level = target.statements
        self._parameter_level = target.parameters
        self._mask_errors = target.mask_errors or target.statements != "full"
        self._key = secrets.token_bytes(KEY_BYTES)
        self._codec = "utf-8"
        self._encoding = "utf-8"
        self._count = 0
        self._open: dict[int, tuple[int, bool, int]] = {}  # began, ns; names a secret; channel

    @property
    def encoding(self) -> str:
        """What the client's text is in, by either protocol's name or Python's."""
        return self._encoding

    @encoding.setter
    def encoding(self, name: str) -> None:
        self._encoding = name
        self._codec = CODECS.get(name.lower(), "ascii")

    def begin(
        self,
        text: bytes,
        *,
        how: str,
        total: int | None = None,
        sha256: bytes | None = None,
        parameters: Sequence[Parameter] = (),
        name: str = "",
        channel: int = 0,
    ) -> int:
        """Record a statement that is about to be sent, and give its number; its `end` must follow.

        `how`: "simple", "execute", "prepare", "copy", "function", "replication", "long-data" or "command".
        `total`, `sha256`: of the whole, when `text` is what a Cutting kept. `name`: of a prepared statement.
        """
        return self.run(self.describe(text, total, sha256, name), how, parameters, channel)

    def describe(
        self, text: bytes, total: int | None = None, sha256: bytes | None = None, name: str = ""
    ) -> Described:
        """Find out what the records of a statement say; what it gives is good for all its runs, and not changed."""
        fields: dict[str, Any] = {}
        secret = self._write(fields, text, total, sha256)
        if name and self._level != "off":
            fields["name"] = redact.redact(name[:MAX_VALUE], self._dialect)
        return Described(fields, secret, weigh(fields) + FRAME_WEIGHT)

    def run(
        self, described: Described, how: str, parameters: Sequence[Parameter] = (), channel: int = 0
    ) -> int:
        """Record a run of a statement as `begin` does."""
        self._count = n = self._count + 1
        body = {"event": "statement", "n": n, "how": how, **described.fields}
        weight = described.weight
        if parameters and self._parameter_level != "off":
            weight += self._bind(body, parameters, secret=described.secret)
        self._open[n] = (self._clock(), described.secret, channel)
        self._session.tape.add(Kind.STATEMENT, body, channel, weight)
        return n

    def refused(
        self,
        text: bytes,
        *,
        how: str,
        why: str,
        total: int | None = None,
        sha256: bytes | None = None,
        parameters: Sequence[Parameter] = (),
        name: str = "",
        channel: int = 0,
    ) -> int:
        """Record a statement that will not reach the target, and give its number; it has no `end`."""
        described = self.describe(text, total, sha256, name)
        self._count = n = self._count + 1
        body = {"event": "statement", "n": n, "how": how, **described.fields}
        if parameters and self._parameter_level != "off":
            self._bind(body, parameters, secret=described.secret)
        body["refused"] = why
        self._session.tape.add(Kind.STATEMENT, body, channel)
        return n

    def end(
        self,
        n: int,
        *,
        tag: str = "",
        rows: int | None = None,
        error: Failure | None = None,
        transaction: str = "",
        outcome: str = "",
    ) -> None:
        """Record what became of statement `n`; a second end of the same is ignored.

        `rows`: affected or returned. `transaction`: "idle", "open" or "failed". `outcome`: "suspended", "aborted"
        (skipped after an error) or "cut" (the session ended first); empty when the target answered.
        """
        found = self._open.pop(n, None)
        if found is None:
            return
        began_ns, secret, channel = found
        body: dict[str, Any] = {"event": "result", "n": n, "us": (self._clock() - began_ns) // 1000}
        weight = RESULT_WEIGHT
        if tag:
            body["tag"] = tag
        if rows is not None:
            body["rows"] = rows
        if error is not None:
            body["error"] = self._failure(error, secret=secret)
            weight += weigh(body["error"])
        if transaction:
            body["transaction"] = transaction
        if outcome:
            body["outcome"] = outcome
        self._session.tape.add(Kind.STATEMENT, body, channel, weight)

    # ------------------------------------------------------------------ what is written, rule 1

    def _bind(self, body: dict[str, Any], parameters: Sequence[Parameter], *, secret: bool) -> int:
        """Put the bound values into `body`; gives what they weigh."""
        described = body["parameters"] = []
        weight = 0
        for one in parameters[:MAX_PARAMETERS] if len(parameters) > MAX_PARAMETERS else parameters:
            described.append(self._parameter(one, secret=secret))
            weight += PARAMETER_WEIGHT + (min(MAX_VALUE, one[2]))
        if len(parameters) > MAX_PARAMETERS:
            body["parameters_total"] = len(parameters)
        return weight

    def _write(self, body: dict[str, Any], text: bytes, total: int | None, sha256: bytes | None) -> bool:
        """Put the text into `body` as the target's level has it; tell whether it names a secret."""
        if len(text) > KEPT_BYTES + LEAD_BYTES:
            whole = Cutting()
            whole.feed(text)
            text, total, sha256 = whole.text, whole.total, whole.sha256
        total = max(len(text), total or 0)
        cut = total > min(len(text), KEPT_BYTES)
        head = (text[:HEAD_BYTES] if cut else text).decode(self._codec, UNDECODABLE)
        tail = text[HEAD_BYTES:] if cut else b""
        secret = redact.names_secret(head)
        if tail and not secret:
            secret = redact.names_secret(tail.decode(self._codec, UNDECODABLE))
        if self._level == "off":
            body["kind"], body["length"] = redact.verb(head), total
            return secret
        if cut:
            body["truncated"], body["length"] = True, total
        if self._level == "fingerprint":
            body["text"] = redact.fingerprint(head, self._dialect)
            body["fingerprint"] = redact.digest(body["text"])
        elif self._level == "literals-masked":
            body["text"] = redact.mask_literals(head, self._dialect)
        elif secret:
            body["text"], body["redacted"] = redact.redact(head, self._dialect), True
        elif cut:  # the only case with a tail or a hash: both could give away what was masked
            body["text"] = head + tail[-TAIL_BYTES:].decode(self._codec, UNDECODABLE)
            body["cut_at"] = len(head)
            body["sha256"] = sha256 or (hashlib.sha256(text).digest() if total == len(text) else b"")
        else:
            body["text"] = head
        return secret

    def _parameter(self, parameter: Parameter, *, secret: bool) -> dict[str, Any]:
        """Describe a bound value as the target's level has it."""
        kind, value, size = parameter
        described: dict[str, Any] = {"kind": kind, "size": size}
        if value is None or self._parameter_level == "types":
            return described
        if self._parameter_level == "hash":
            plain = f"{kind}\0{value}".encode("utf-8", UNDECODABLE)
            described["hash"] = hashlib.blake2b(plain, key=self._key, digest_size=HASH_BYTES).hexdigest()
        elif secret or (isinstance(value, str) and not value.isdigit() and redact.names_secret(value)):
            described["masked"] = True
        elif isinstance(value, str):
            described["value"] = value[:MAX_VALUE]
            if len(value) > MAX_VALUE:
                described["truncated"] = True
        else:
            described["value"] = value
        return described

    def _failure(self, error: Failure, *, secret: bool) -> dict[str, str]:
        message = error.message[:MAX_MESSAGE]
        if secret:
            message = WITHHELD
        elif self._mask_errors or redact.names_secret(message):
            message = redact.mask_quoted(message)
        return {"severity": error.severity, "code": error.code, "message": message}
