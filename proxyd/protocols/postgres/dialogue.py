"""What both sides of a session have said and still owe each other: statements, their outcomes, refusals in their place.

Rule 1: a statement is recorded before its last byte leaves, its outcome when the target gives it.
Rule 2: a refused message is answered where its answer would have stood: behind the answers to all before it. After a
        refusal inside a batch the rest of the batch is refused too, as a server skips to the Sync after an error.
Rule 3: shutting the gate closes the batch that is open at the target: what is committed is what passed before.
Rule 4: a message that was half at the target when the gate was shut is filled up with FILLER, which no server takes
        for a statement, a parameter or data that counts: not one more byte of the client's gets there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxyd.gate import REVOKED
from proxyd.protocols.postgres import wire
from proxyd.protocols.postgres.names import SHORT_TEXT, Bound, Names, Prepared, Unit
from proxyd.protocols.postgres.passing import Passing
from proxyd.protocols.postgres.scan import Fate
from proxyd.protocols.postgres.wire import WireError
from proxyd.statement import CODECS, Cutting, Failure, Parameter

if TYPE_CHECKING:
    from proxyd.gate import Gate
    from proxyd.protocols.postgres.scan import Large
    from proxyd.statement import Statements

MAX_PENDING: Final = 100_000  # messages sent ahead of their answers; a driver's pipeline has thousands
MAX_TAGS: Final = 16  # of one query of many statements
REFUSED_CODE: Final = "42501"  # insufficient_privilege; a class 57 or 08 would make pools drop the connection

UNJUDGED: Final = "The statement is too long to be judged by the rules of this target"

LARGE: Final = frozenset((wire.QUERY, wire.PARSE, wire.BIND, wire.FUNCTION, wire.COPY_DATA))
COPY_ENDS: Final = (wire.COPY_DONE, wire.COPY_FAIL)
UNANSWERED: Final = frozenset((wire.FLUSH, wire.COPY_DATA, wire.COPY_DONE, wire.COPY_FAIL))
SKIPPED_TO: Final = frozenset((wire.QUERY, wire.SYNC, wire.FUNCTION))  # what a ReadyForQuery answers


@dataclass(frozen=True, slots=True)
class Refusal:
    """Stands where the answer to refused messages belongs."""

    text: str  # empty: no error
    ready: bool


class Dialogue:
    """One session's; the Judge of its ClientScanner, the Answers of its ServerScanner."""

    def __init__(
        self, statements: Statements, gate: Gate, *, replication: bool = False, judged: bool = False
    ) -> None:
        """Start behind the login; with `judged`, every Query and Parse waits for `verdict`."""
        self.words: list[bytes] = []
        self.owed = b""  # what the target must get at once: it wants COPY data, and the gate is shut
        self.question: bytes | None = None  # the text that waits for its verdict
        self.heard: Callable[[bytes], None] | None = None  # told the texts that pass unjudged
        self.transaction = wire.IDLE
        self._statements = statements
        self._gate = gate
        self._how = "replication" if replication else "simple"
        self._judged = judged
        self._asked: tuple[int, bytes] | None = None
        self._pending: deque[Unit | Refusal] = deque()
        self._refusals = self._folded = 0  # of what is pending
        self._finished: Unit | None = None  # executed; its record waits for the transaction's state
        self._skipping = False  # the target skips to the next Sync, which has not been sent
        self._discarding = False  # we do
        self._told = ""  # why, once the client knows
        self._open = False  # messages of a batch are at the target and no Sync behind them
        self._large: Passing | None = None
        self._names = Names()
        self._unrecorded: list[Unit] = []
        self._codec = "utf-8"

    @property
    def busy(self) -> bool:
        """Whether the target owes an answer."""
        return any(isinstance(unit, Unit) for unit in self._pending)

    @property
    def refusing(self) -> bool:
        """Whether COPY data is thrown away now."""
        return self._gate.closed or self._discarding

    # ------------------------------------------------------------------ from the client

    def message(self, kind: int, body: bytes) -> Fate:
        """Decide about a complete message."""
        if kind == wire.TERMINATE:
            if body:
                raise WireError("says more than goodbye")
            return Fate.PASS
        if self._gate.closed or self._discarding:
            return self._refuse(kind, body, REVOKED if self._gate.closed else self._told or REVOKED)
        if self._judged and kind in (wire.QUERY, wire.PARSE):
            self.question = wire.parse_query(body) if kind == wire.QUERY else wire.parse_parse(body).text
            self._asked = kind, body
            return Fate.WAIT
        self._pass(kind, body)
        return Fate.PASS

    def batch(self, body: bytes, kinds: bytes) -> bool:
        """Pass a Bind to the unnamed portal, and the messages of these kinds with it, as one."""
        end = body.find(b"\0", 1)
        unusual = self._gate.closed or self._discarding or self._skipping or len(self._pending) >= MAX_PENDING
        if unusual or end < 0 or body[0]:
            return False
        bound = self._names.bind(wire.Bind(b"", body[1:end], body[end + 1 :]))
        prepared = bound.prepared
        n = self._begin("execute", prepared, bound.name, self._decoded(bound))
        self._pending.append(Unit(wire.BIND, n, prepared.text, prepared=prepared, folded=kinds))
        self._folded += 1
        self._open = False
        return True

    def verdict(self, why: str) -> Fate:
        """Decide about the message that waits: refused for `why`, or passed when that is empty."""
        assert self._asked is not None  # noqa: S101 - asked for by `question`
        (kind, body), self._asked, self.question = self._asked, None, None
        if self._gate.closed:
            why = REVOKED
        if why:
            return self._refuse(kind, body, why)
        self._pass(kind, body)
        return Fate.PASS

    def large(self, kind: int, size: int) -> Large | None:
        """Decide about a message whose body is too large to be held."""
        if self.refusing:
            self._gate.refused_bytes += size + wire.HEADER_BYTES
            if kind != wire.COPY_DATA:
                self._refuse_large(kind, REVOKED)
            return None
        if self._judged and kind in (wire.QUERY, wire.PARSE):
            self._gate.refused_bytes += size + wire.HEADER_BYTES
            self._refuse_large(kind, UNJUDGED)
            return None
        if kind not in LARGE:
            raise WireError("sent a message of impossible length")
        self._large = Passing(self, kind)
        return self._large

    def before_sending(self) -> None:
        """Record what a chunk prepares and does not execute; called before the chunk is sent."""
        for unit in self._unrecorded:
            prepared = unit.prepared
            if prepared is not None and not prepared.recorded:
                unit.n = self._begin("prepare", prepared, unit.name)
        self._unrecorded.clear()

    # ------------------------------------------------------------------ what passes

    def _pass(self, kind: int, body: bytes) -> None:
        match kind:  # the most frequent first
            case wire.BIND:
                self.bind(wire.parse_bind(body))
            case wire.EXECUTE:
                self._execute(wire.parse_execute(body))
            case wire.SYNC:
                self._open = self._skipping = False
                self._owe(Unit(kind))
            case wire.QUERY:
                text = wire.parse_query(body)
                self._tell(text)
                short = text if len(text) <= SHORT_TEXT else b""
                self._owe(Unit(kind, self._statements.begin(text, how=self._how), short))
            case wire.PARSE:
                parsed = wire.parse_parse(body)
                self._tell(parsed.text)
                self.prepare(parsed.name, Prepared(parsed.text, parsed.types))
            case wire.DESCRIBE | wire.CLOSE:
                self._describe_or_close(kind, *wire.parse_named(body))
            case wire.FUNCTION:
                self.call(wire.parse_function(body))
            case wire.COPY_DONE | wire.COPY_FAIL:
                if self._pending:
                    self._owe(Unit(kind))
            case _:  # Flush asks for nothing, COPY data is not ours to look at
                pass

    def _tell(self, text: bytes) -> None:
        if self.heard is not None:
            self.heard(text)

    def _owe(self, unit: Unit) -> None:
        """Expect an answer, unless the target skips the message."""
        if unit.kind not in COPY_ENDS:
            self._open = unit.kind not in SKIPPED_TO
        if self._skipping:
            self._statements.end(unit.n, outcome="aborted")
            return
        if len(self._pending) >= MAX_PENDING:
            raise WireError("sent too many messages ahead of their answers")
        self._pending.append(unit)

    def query(self, cutting: Cutting) -> None:
        """Pass a large Query, of which this was kept."""
        self._tell(cutting.text)
        n = self._statements.begin(cutting.text, how=self._how, total=cutting.total, sha256=cutting.sha256)
        self._owe(Unit(wire.QUERY, n))

    def prepare(self, name: bytes, prepared: Prepared) -> None:
        """Pass a Parse."""
        self._names.shorten(prepared)
        unit = Unit(wire.PARSE, name=name, prepared=prepared, before=self._names.statement(name))
        if self._skipping:
            unit.n = self._begin("prepare", prepared, name)
        else:
            self._names.call(name, prepared)
            self._unrecorded.append(unit)
        self._owe(unit)

    def prepare_large(self, name: bytes, cutting: Cutting, types: tuple[int, ...]) -> None:
        """Pass a large Parse, of which this was kept."""
        self._tell(cutting.text)
        self.prepare(name, Prepared(cutting.text, types, cutting.total, cutting.sha256))

    def bind(self, bound: wire.Bind) -> None:
        """Pass a Bind."""
        prepared = None if self._skipping else self._names.bind(bound).prepared
        self._owe(Unit(wire.BIND, name=bound.portal, prepared=prepared))

    def _execute(self, portal: bytes) -> None:
        bound = self._names.portal(portal)
        n = self._begin("execute", bound.prepared, bound.name, self._decoded(bound))
        self._owe(Unit(wire.EXECUTE, n, bound.prepared.text, portal, bound.prepared))

    def filled(self, kind: int, cutting: Cutting | None) -> bytes:
        """Take notice that a large message has left with FILLER at its end; gives what must follow it."""
        if self._large is not None:
            self._gate.refused_bytes += self._large.refused_bytes
        self._large = None
        if kind != wire.COPY_DATA:
            how, kept = (self._how if kind == wire.QUERY else "prepare"), cutting or Cutting()
            self._statements.refused(kept.text, how=how, why=REVOKED, total=kept.total, sha256=kept.sha256)
            self._owe(Unit(kind))
        return self.wind_up()

    def _decoded(self, bound: Bound) -> list[Parameter]:
        if bound.values[:2] == b"\0\0" and bound.values[2:4] == b"\0\0":  # no formats, no values
            return []
        return wire.parse_values(bound.values, bound.prepared.types, self._codec) if bound.values else []

    def _begin(self, how: str, prepared: Prepared, name: bytes, parameters: Sequence[Parameter] = ()) -> int:
        prepared.recorded = True
        described = prepared.described
        if described is None:
            described = prepared.described = self._statements.describe(
                prepared.text, prepared.total, prepared.sha256, name.decode(self._codec, "backslashreplace")
            )
        return self._statements.run(described, how, parameters)

    def _describe_or_close(self, kind: int, what: int, name: bytes) -> None:
        statement = what == ord("S")
        unit = Unit(kind, name=name, prepared=self._names.statement(name) if statement else None)
        if kind == wire.CLOSE and not self._skipping:
            if statement:
                unit.before, unit.prepared = unit.prepared, None
                self._names.call(name, None)
            else:
                self._names.close_portal(name)
        self._owe(unit)

    def call(self, function: int) -> None:
        """Pass a FunctionCall; of its arguments nothing is recorded: large objects go this way."""
        n = self._statements.begin(b"function %d" % function, how="function")
        self._owe(Unit(wire.FUNCTION, n))

    # ------------------------------------------------------------------ what is refused

    def _refuse(self, kind: int, body: bytes, why: str) -> Fate:
        self._gate.refused_bytes += len(body) + wire.HEADER_BYTES
        if kind == wire.QUERY:
            self._statements.refused(wire.parse_query(body), how=self._how, why=why)
            self._refuse_whole(why)
        elif kind == wire.FUNCTION:
            self._statements.refused(b"function %d" % wire.parse_function(body), how="function", why=why)
            self._refuse_whole(why)
        elif kind == wire.SYNC:
            return self._refuse_sync()
        elif kind not in UNANSWERED:
            self._refuse_step(kind, body, why)
        return Fate.REFUSE

    def _refuse_step(self, kind: int, body: bytes, why: str) -> None:
        """Refuse a message of a batch; the first one is answered with the error, the rest is skipped (rule 2)."""
        if kind == wire.PARSE:
            parsed = wire.parse_parse(body)
            name = parsed.name.decode(self._codec, "backslashreplace")
            self._statements.refused(parsed.text, how="prepare", why=why, name=name)
        elif kind == wire.BIND:
            bound = wire.parse_bind(body)
            prepared = self._names.statement(bound.name)
            if prepared is not None and bound.name:
                portal = Bound(bound.name, prepared, bound.values)
                name = bound.name.decode(self._codec, "backslashreplace")
                self._statements.refused(
                    prepared.text, how="execute", why=why, name=name, parameters=self._decoded(portal)
                )
        self._refuse_rest(why)

    def _refuse_large(self, kind: int, why: str) -> None:
        whole = kind in (wire.QUERY, wire.FUNCTION)
        self._statements.refused(b"", how=self._how if whole else "prepare", why=why)
        if whole:
            self._refuse_whole(why)
        else:
            self._refuse_rest(why)

    def _refuse_whole(self, why: str) -> None:
        """Answer a refused Query or FunctionCall; inside a refused batch it is skipped with the rest."""
        if not self._told:
            self._discarding = False
            self._answer(why, ready=True)

    def _refuse_rest(self, why: str) -> None:
        """Refuse the batch from here on; the client is told once."""
        if not self._told:
            self._discarding, self._told = True, why
            self._answer(why, ready=False)

    def _refuse_sync(self) -> Fate:
        """End a refused batch: by the target where it has a part of it, else by ourselves."""
        self._discarding, self._told = False, ""
        if self._open and not self._gate.closed:
            self._pass(wire.SYNC, b"")
            return Fate.PASS
        self._answer("", ready=True)
        return Fate.REFUSE

    def _answer(self, text: str, *, ready: bool) -> None:
        """Say it in its turn; where the target skips to the next Sync nobody answers anything."""
        if self._skipping:
            return
        if len(self._pending) + len(self.words) >= MAX_PENDING:
            raise WireError("sent too many messages ahead of their answers")
        self._gate.refused_requests += bool(text)
        self._pending.append(Refusal(text, ready))
        self._refusals += 1
        self._advance()

    def shut(self) -> bytes:
        """Take notice that the gate has been shut; gives what the target must get now (rules 3 and 4)."""
        if self._large is not None:
            self._large.fill()
            return b""
        return self.wind_up()

    def wind_up(self) -> bytes:
        """End what the target still waits for: COPY data, a Sync."""
        head = self._head()
        out = b""
        if isinstance(head, Unit) and head.copies_in:
            out = wire.copy_fail(REVOKED)
            head.copies_in = False
            self._discarding = self._open = head.kind == wire.EXECUTE
            self._told = REVOKED if self._open else ""
        if self._open:
            if self._skipping:  # the client has its error already
                self._told = REVOKED
            self._open, self._skipping, self._discarding = False, False, True
            self._pending.append(Unit(wire.SYNC, ours=True))
            out += wire.SYNC_MESSAGE
        return out

    def passed(self) -> None:
        """Take notice that a large message has left whole."""
        self._large = None

    # ------------------------------------------------------------------ from the target

    def answered(self, tag: bytes, rows: int, state: int, *, parsed: bool) -> bool:
        """Take the whole answer to a Query or a folded batch, its Parse perhaps, if that is what it is."""
        pending = self._pending
        if len(pending) <= parsed or self._refusals or self._finished is not None:
            return False
        head, transaction = pending[parsed], wire.TRANSACTIONS.get(state)
        if not isinstance(head, Unit) or transaction is None:
            return False
        if parsed:
            if pending[0].kind != wire.PARSE or not head.folded:  # type: ignore[union-attr]  # no refusal is pending
                return False
            self._statements.end(pending.popleft().n)  # type: ignore[union-attr]
        elif not head.folded and (head.kind != wire.QUERY or head.tags or head.error or head.copies_in):
            return False
        pending.popleft()
        self._folded -= bool(head.folded)
        self.transaction = state
        word, counted = wire.parse_tag(tag)
        self._names.follow(word, head.text)
        if counted is None and rows:
            counted = rows
        self._statements.end(head.n, tag=word, rows=counted, transaction=transaction)
        if not pending and state == wire.IDLE and not self._open:
            self._names.transaction_over()
        return True

    def completed(self, kind: int, body: bytes, rows: int) -> None:
        """Take the end of a command."""
        unit = self._command()
        unit.copies_in = False
        if kind == wire.COMMAND_COMPLETE:
            tag, counted = wire.parse_tag(body)
            if counted is None and rows:
                counted = rows
            self._names.follow(tag, unit.text)
        else:
            tag, counted = ("", None) if kind == wire.EMPTY_QUERY else ("", rows)
        if len(unit.tags) < MAX_TAGS and tag:
            unit.tags += (tag,)
        if counted is not None:
            unit.rows = (unit.rows or 0) + counted
        if unit.kind == wire.EXECUTE:
            self._pending.popleft()
            if kind == wire.SUSPENDED:
                self._statements.end(unit.n, rows=rows, outcome="suspended")
            else:
                self.flush()
                self._finished = unit
            self._advance()

    def _command(self) -> Unit:
        """Give the command that is being answered; what stands before it was skipped by the target."""
        while (head := self._head()) is not None and head.kind not in (wire.SYNC, wire.QUERY, wire.EXECUTE):
            self._drop(head)
        if head is None or head.kind == wire.SYNC:
            raise WireError("ended a command nobody had sent")
        return head

    def stepped(self, kind: int) -> None:
        """Take an answer without content."""
        head = self._head()
        if head is None:
            return
        if kind == wire.COPY_IN:
            self._command().copies_in = True
            self._forget_syncs()
            if self._gate.closed and self._large is None:
                self.owed += self.wind_up()
        elif _STEP_OF.get(kind) == head.kind or (
            kind in (wire.ROW_DESCRIPTION, wire.NO_DATA) and head.kind == wire.DESCRIBE
        ):
            self._pending.popleft()
            self._statements.end(head.n)
            self._advance()
        elif kind == wire.FUNCTION_RESULT and head.kind == wire.FUNCTION:
            head.tags = ("FUNCTION",)

    def _forget_syncs(self) -> None:
        """Forget what a server ignores while it takes COPY data: each Sync up to the end of that data."""
        kept: deque[Unit | Refusal] = deque()
        while self._pending:
            unit = self._pending.popleft()
            if isinstance(unit, Unit) and unit.kind in COPY_ENDS:
                break
            if not (isinstance(unit, Unit) and unit.kind == wire.SYNC):
                kept.append(unit)
        head = kept[0]
        self._open = isinstance(head, Unit) and head.kind == wire.EXECUTE and not self._pending
        self._pending.extendleft(reversed(kept))

    def failed(self, body: bytes) -> None:
        """Take an ErrorResponse: of a query, of a batch, of its commit, or the target's goodbye."""
        failure = wire.parse_error(body)
        head = self._head()
        if head is None:
            n = self._statements.begin(b"", how="command", name="target")
            self._statements.end(n, error=failure)
        elif head.kind in (wire.QUERY, wire.FUNCTION):
            head.error, head.copies_in = failure, False
        elif head.kind == wire.SYNC:
            if self._finished is None:
                self._finished = Unit(wire.SYNC, self._statements.begin(b"", how="command", name="sync"))
            self._finished.error = failure
        else:
            self._abort(head, failure)

    def _abort(self, culprit: Unit, failure: Failure) -> None:
        """End a batch after an error: the target skips all up to the Sync."""
        self.flush()
        if self._discarding and not self._told:  # the batch the gate was shut on has its error by this
            self._told = REVOKED
        skipped: list[Unit] = []
        refusals: list[Refusal] = []
        while self._pending:
            unit = self._pending[0]
            if isinstance(unit, Unit) and unit.kind == wire.SYNC:
                break
            self._pending.popleft()
            if isinstance(unit, Unit):
                skipped.append(unit)
            else:
                refusals.append(unit)
        else:
            self._skipping = True
        run = (
            u.n for u in skipped if u.n and culprit.prepared in (u.prepared, None)
        )  # None: of a portal's Describe
        blamed = culprit.n or next(run, 0)
        if not blamed and culprit.prepared is not None:
            blamed = self._begin("prepare", culprit.prepared, culprit.name)
        self._finished = Unit(wire.EXECUTE, blamed, error=failure)
        for unit in reversed(skipped):
            self._drop(unit, queued=False, blamed=blamed)
        kept = [refusal for refusal in refusals if refusal.ready]
        self._refusals -= len(refusals) - len(kept)
        self._pending.extendleft(reversed(kept))

    def _drop(self, unit: Unit, *, queued: bool = True, blamed: int = 0) -> None:
        """Forget a message the target has skipped, and what it would have changed."""
        if queued:
            self._pending.popleft()
        if unit.n != blamed:
            self._statements.end(unit.n, outcome="aborted")
        self._names.undo(unit)

    def described(self, body: bytes) -> None:
        """Take a ParameterDescription: the types of what is being described."""
        types = wire.parse_types(body)
        head = self._head()
        if head is not None and head.kind == wire.DESCRIBE and head.prepared is not None:
            head.prepared.types = types

    def ready(self, body: bytes) -> bool:
        """Take a ReadyForQuery; False when it answers our own Sync."""
        if len(body) != 1 or body[0] not in wire.TRANSACTIONS:
            raise WireError("was ready in no known state")
        self.transaction = body[0]
        while (head := self._head()) is not None and head.kind not in SKIPPED_TO:
            self._drop(head)
        if head is None:
            raise WireError("was ready for a query nobody had asked about")
        self._pending.popleft()
        state = wire.TRANSACTIONS[self.transaction]
        if head.n:
            self._statements.end(
                head.n, tag="; ".join(head.tags), rows=head.rows, error=head.error, transaction=state
            )
        self.flush(state)
        if not self._pending and self.transaction == wire.IDLE and not self._open:
            self._names.transaction_over()
        self._advance()
        return not head.ours

    def status(self, body: bytes) -> None:
        """Take a ParameterStatus; the client's encoding is what its texts are decoded with."""
        name, value = wire.parse_status(body)
        if name == b"client_encoding":
            self._statements.encoding = value.decode("ascii", "replace")
            self._codec = CODECS.get(value.decode("ascii", "replace").lower(), "ascii")

    def chunk_done(self) -> None:
        """Let no outcome wait for more than the rest of a chunk; one that failed waits for the Sync that must come."""
        if self._finished is not None and self._finished.error is None:
            self.flush()

    def flush(self, transaction: str = "") -> None:
        """Record the outcome that waits for the transaction's state."""
        unit, self._finished = self._finished, None
        if unit is not None:
            self._statements.end(
                unit.n, tag="; ".join(unit.tags), rows=unit.rows, error=unit.error, transaction=transaction
            )

    def cut(self) -> None:
        """Record that what is not answered yet will not be any more."""
        self.before_sending()
        self.flush()
        for unit in self._pending:
            if isinstance(unit, Unit):
                self._statements.end(unit.n, rows=unit.rows, error=unit.error, outcome="cut")
        self._pending.clear()

    # ------------------------------------------------------------------ inside

    def _head(self) -> Unit | None:
        """Give the message that is being answered now."""
        if self._folded:
            self._unfold()
        pending = self._pending
        while pending:
            head = pending[0]
            if isinstance(head, Refusal):
                return None
            if head.kind not in COPY_ENDS:
                return head
            pending.popleft()
        return None

    def _unfold(self) -> None:
        """Let every message stand for itself: the answers are not the usual ones."""
        units: list[Unit | Refusal] = []
        for unit in self._pending:
            units += unit.unfold() if isinstance(unit, Unit) and unit.folded else (unit,)
        self._pending = deque(units)
        self._folded = 0

    def _advance(self) -> None:
        """Say the refusals whose turn has come."""
        if not self._refusals:
            return
        self._head()
        while self._pending and isinstance(refusal := self._pending[0], Refusal):
            self._pending.popleft()
            self._refusals -= 1
            if refusal.text:
                self.words.append(wire.error("ERROR", REFUSED_CODE, refusal.text))
            if refusal.ready:
                self.words.append(wire.ready(self.transaction))
            self._head()


_STEP_OF: Final = {
    wire.PARSE_COMPLETE: wire.PARSE,
    wire.BIND_COMPLETE: wire.BIND,
    wire.CLOSE_COMPLETE: wire.CLOSE,
}
