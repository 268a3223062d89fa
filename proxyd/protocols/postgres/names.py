"""What a client's names for statements and portals mean, so that an execution is recorded with its text and values.

Rule 1: a name means what the last Parse that took effect said; a Parse the target skipped or refused is undone.
Rule 2: a name that SQL itself may have changed (PREPARE, DEALLOCATE, DISCARD) is never taken for what it was: what is
        executed by it is recorded as that name, unless the SQL was plain enough to follow.
Rule 3: memory is bounded: MAX_NAMES, MAX_TEXTS, and NAMED_VALUES of each portal that has a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxyd.protocols.postgres import wire
from proxyd.protocols.postgres.wire import WireError
from proxyd.statement import Cutting, Described, Failure

MAX_NAMES: Final = 10_000  # statements or portals at once; drivers keep hundreds
MAX_TEXTS: Final = 8 << 20  # bytes of texts kept for their next execution; further ones are kept short
SHORT_TEXT: Final = 1 << 10  # bytes
NAMED_VALUES: Final = 4 << 10  # bytes

_PREPARED_BY_SQL: Final = re.compile(
    rb"""\s*+(?:prepare|deallocate(?:\s++prepare(?=\s++[^\s;]))?+)\s++
         (?: "((?:[^"\x80-\xff]|""){1,63}+)" | ([a-z_]\w{0,62}+) ) (?=[\s(;]|\Z) [^;]*+ ;?+ \s*+""",
    re.IGNORECASE | re.VERBOSE,
)
"""Plain enough to follow: one statement, a name that means what it says (no escapes, nothing the server cuts off)."""


@dataclass(slots=True)
class Prepared:
    """A statement the client has named, or the unnamed one."""

    text: bytes
    types: tuple[int, ...] = ()
    total: int | None = None
    sha256: bytes | None = None
    recorded: bool = False
    described: Described | None = None  # once it has been recorded under its name


class Bound(NamedTuple):
    """A portal: a statement and its values, undecoded."""

    name: bytes
    prepared: Prepared
    values: bytes


@dataclass(slots=True)
class Unit:
    """A client's message that the target owes an answer to; `n`: its statement's number, 0 for none.

    One that is `folded` stands for the messages of these kinds, which the client sent together.
    """

    kind: int
    n: int = 0
    text: bytes = b""
    name: bytes = b""
    prepared: Prepared | None = None
    before: Prepared | None = None  # what had the name before
    ours: bool = False  # nobody but us has asked, nobody else gets the answer
    copies_in: bool = False
    tags: tuple[str, ...] = ()
    rows: int | None = None
    error: Failure | None = None
    folded: bytes = b""

    def unfold(self) -> list[Unit]:
        """Give the messages a folded one stands for: a Bind, a Describe perhaps, an Execute, a Sync."""
        units = {
            wire.BIND: Unit(wire.BIND, prepared=self.prepared),
            wire.DESCRIBE: Unit(wire.DESCRIBE),
            wire.EXECUTE: Unit(wire.EXECUTE, self.n, self.text, prepared=self.prepared),
            wire.SYNC: Unit(wire.SYNC),
        }
        return [units[kind] for kind in self.folded]


class Names:
    """The statements and portals of one session."""

    def __init__(self) -> None:
        self._statements: dict[bytes, Prepared] = {}
        self._portals: dict[bytes, Bound] = {}
        self._kept = 0

    def statement(self, name: bytes) -> Prepared | None:
        """Give what a statement's name means, None when that is not known."""
        return self._statements.get(name)

    def shorten(self, prepared: Prepared) -> None:
        """Keep less of a text where enough is kept already (rule 3)."""
        if self._kept + len(prepared.text) > MAX_TEXTS:
            kept = Cutting()
            kept.feed(prepared.text)
            prepared.total, prepared.sha256 = prepared.total or kept.total, prepared.sha256 or kept.sha256
            prepared.text = prepared.text[:SHORT_TEXT]

    def call(self, name: bytes, prepared: Prepared | None) -> None:
        """Let a statement's name mean this from now on; raises WireError when there are too many."""
        old = self._statements.pop(name, None)
        self._kept -= len(old.text) if old is not None else 0
        if prepared is not None:
            if len(self._statements) >= MAX_NAMES:
                raise WireError("prepared too many statements")
            self._statements[name] = prepared
            self._kept += len(prepared.text)

    def bind(self, bound: wire.Bind) -> Bound:
        """Open a portal; raises WireError when there are too many."""
        if len(self._portals) >= MAX_NAMES and bound.portal not in self._portals:
            raise WireError("opened too many portals")
        prepared = self._statements.get(bound.name) or unknown("statement", bound.name)
        values = bound.values[:NAMED_VALUES] if bound.portal else bound.values
        portal = self._portals[bound.portal] = Bound(bound.name, prepared, values)
        return portal

    def portal(self, name: bytes) -> Bound:
        """Give what a portal's name means."""
        return self._portals.get(name) or Bound(b"", unknown("portal", name), b"")

    def close_portal(self, name: bytes) -> None:
        """Forget a portal."""
        self._portals.pop(name, None)

    def transaction_over(self) -> None:
        """Forget all portals: they end with their transaction."""
        self._portals.clear()

    def undo(self, unit: Unit) -> None:
        """Take back what a message has changed that took no effect (rule 1)."""
        renamed = unit.kind == wire.PARSE and self._statements.get(unit.name) is unit.prepared
        unnamed = unit.kind == wire.CLOSE and unit.before is not None and unit.name not in self._statements
        if renamed or unnamed:
            self.call(unit.name, unit.before)

    def follow(self, tag: str, text: bytes) -> None:
        """Follow what a statement that ended with `tag` did to names (rule 2); `text` may be empty where it is long."""
        word = tag.split(" ", maxsplit=1)[0]
        if word not in ("PREPARE", "DEALLOCATE", "DISCARD"):
            return
        match = _PREPARED_BY_SQL.fullmatch(text) if tag in ("PREPARE", "DEALLOCATE") else None
        if match is None:
            self._statements.clear()
            self._kept = 0
            return
        name = match[1].replace(b'""', b'"') if match[1] is not None else match[2].lower()
        self.call(name, Prepared(text) if word == "PREPARE" else None)


def unknown(what: str, name: bytes) -> Prepared:
    """Stand in for what was made by SQL and is known to the target alone."""
    return Prepared(b"-- the %s %s, made by SQL" % (what.encode(), name or b"without a name"), recorded=True)
