"""One fuzzed PostgreSQL session, login or message: what an input does, and what must hold whatever it does.

Rule 1: only WireError and ProxydError come out, of the scanners, the dialogue, the logins.
Rule 2: both sides get what the other sent, in order and unchanged, less what was refused; what is ours is between messages.
Rule 3: while the gate is shut nothing of the client's passes but its goodbye; a message it was shut on is filled up.
Rule 4: each statement that passed has its outcome on the tape; no row, COPY data or detail of an error has come there.
Rule 5: what is held back is bounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, cast

from proxyd.errors import ProxydError
from proxyd.gate import REVOKED, Gate
from proxyd.protocols.postgres import auth, back, front, wire
from proxyd.protocols.postgres.dialogue import REFUSED_CODE, UNJUDGED, Dialogue
from proxyd.protocols.postgres.passing import FILLER
from proxyd.protocols.postgres.reader import Reader
from proxyd.protocols.postgres.scan import HELD, MAX_ANSWER, ClientScanner, ServerScanner
from proxyd.protocols.postgres.wire import WireError
from proxyd.statement import Statements
from proxyd.verifiers import scram_keys
from tests.fuzz import program
from tests.fuzz.program import CANARY, Input, Op, Peer, Step, Tape, driven

LEVELS: Final = ("full", "literals-masked", "fingerprint", "off")
PARAMETERS: Final = ("values", "types", "hash", "off")
JUDGED: Final = 128 << 10  # bytes; shorter than the engine's, so that an input can be too long
TYPED: Final = (WireError, ProxydError)
TOLD_BY_CLIENT: Final = frozenset(b"QPBEDCX")  # of whose bodies something may be on the tape
TOLD_BY_TARGET: Final = frozenset(b"C")
OWN: Final = (wire.SYNC_MESSAGE, wire.copy_fail(REVOKED))
BLOCKED: Final = "Not here"
SAID: Final = "An operator says hello"
OURS: Final = frozenset((wire.notice(SAID), *(wire.error("ERROR", REFUSED_CODE, text) for text in (REVOKED, UNJUDGED, BLOCKED))))  # fmt: skip


class Session:
    """A session's scanners and dialogue, and both streams as they came and as they went on."""

    def __init__(self, settings: int) -> None:
        target = SimpleNamespace(
            statements=LEVELS[settings >> 2 & 3], parameters=PARAMETERS[settings >> 4 & 3], mask_errors=bool(settings & 64)
        )  # fmt: skip
        self.tape, self.gate = Tape(), Gate()
        session = SimpleNamespace(permit=SimpleNamespace(target=target), protocol="postgres", tape=self.tape)
        self.judged = bool(settings & 1)
        statements = Statements(cast("Any", session))
        self.dialogue = Dialogue(statements, self.gate, replication=bool(settings & 2), judged=self.judged)
        self.client, self.server = ClientScanner(self.dialogue), ServerScanner(self.dialogue)
        if self.judged:
            self.client.judged = JUDGED
        elif settings & 128:
            self.dialogue.heard = lambda _: None
        self.up_in, self.up_out, self.down_in, self.down_out = (bytearray() for _ in range(4))
        self.meddled = self.judged  # something of ours may stand between
        self.filling = False

    def run(self, source: Input) -> None:
        """Run a program to its end or to the first typed error; then look at everything."""
        sound = False
        with contextlib.suppress(*TYPED):
            for step in program.steps(source, framed):
                self.step(step)
            sound = True
        self.dialogue.cut()
        self.check_up(sound=sound)
        self.check_down(sound=sound)
        self.tape.check_outcomes()
        if not self.told():
            self.tape.check_canary()

    def step(self, step: Step) -> None:
        """Do one step, as the engine's conduit does it."""
        for piece in step.pieces:
            (self.up if step.op in program.BY_CLIENT else self.down)(piece)
        match step.op:
            case Op.SHUT if not self.gate.closed:
                self.meddled, self.filling = True, self.client.inside_large
                self.gate.shut("ann", "")
                self.up_out += self.dialogue.shut()
            case Op.OPEN if self.gate.closed:
                self.gate.open()
            case Op.VERDICT if self.dialogue.question is not None:
                fate = self.dialogue.verdict(BLOCKED if step.argument & 1 else "")
                self.passed(self.client.decided(fate))
            case Op.NOTIFY:
                self.meddled = True
                self.dialogue.words.append(wire.notice(SAID))
                self.speak()

    def up(self, data: bytes) -> None:
        self.up_in += data
        self.passed(self.client.feed(data))
        if self.dialogue.question is None:
            assert self.client.held_bytes <= (JUDGED if self.judged else HELD), "too much is held"

    def passed(self, pieces: list[bytes | memoryview]) -> None:
        """Send on; recorded first."""
        out = b"".join(pieces)
        if self.gate.closed and not self.filling:
            check_goodbyes(out)
        self.filling = self.filling and self.client.inside_large
        self.up_out += out
        self.dialogue.before_sending()
        self.speak()

    def speak(self) -> None:
        """Say what is ours, where a message of the target has ended."""
        if self.dialogue.words and self.server.at_boundary:
            self.down_out += b"".join(self.dialogue.words)
            self.dialogue.words.clear()

    def down(self, data: bytes) -> None:
        self.down_in += data
        self.down_out += b"".join(self.server.feed(data))
        self.dialogue.chunk_done()

    # ------------------------------------------------------------------ what must hold

    def check_up(self, *, sound: bool) -> None:
        """Rules 2, 3 and 5, towards the target."""
        if not self.meddled:
            assert self.up_in.startswith(self.up_out), "the target got something else"
            assert not sound or len(self.up_in) - len(self.up_out) == self.client.held_bytes, "bytes are lost"
            return
        sent, beginning = split(self.up_in)
        got, rest = split(self.up_out)
        large = [one for one in (*sent, beginning) if len(one) > HELD]
        assert program.in_order(sent, got, lambda one: one in OWN or any(filled(two, one) for two in large)), "the target got something else"  # fmt: skip
        assert not rest or any(filled(two[: len(rest)], rest) for two in (beginning, *large)), "the target got half of something else"  # fmt: skip

    def check_down(self, *, sound: bool) -> None:
        """Rules 2 and 5, towards the client."""
        if not self.meddled:
            assert self.down_in.startswith(self.down_out), "the client got something else"
            missing = len(self.down_in) - len(self.down_out)
        else:
            sent, beginning = split(self.down_in)
            got, rest = split(self.down_out)
            theirs = b"".join(one for one in sent if one[0] != wire.READY and one not in OURS) + beginning
            passed = b"".join(one for one in got if one[0] != wire.READY and one not in OURS) + rest
            assert theirs.startswith(passed), "the client got something else"
            missing = len(theirs) - len(passed)
        assert not sound or missing <= MAX_ANSWER + wire.HEADER_BYTES, "too much is held"

    def told(self) -> bool:
        """Whether the canary stands where it may be recorded: in a statement, a tag, an error's message."""
        client, target = split(self.up_in), split(self.down_in)
        for one in (*client[0], client[1]):
            if CANARY in one and one[0] in TOLD_BY_CLIENT:
                return True
        return any(CANARY in shown(one) for one in (*target[0], target[1]) if CANARY in one)


def check_goodbyes(out: bytes) -> None:
    """What passes a shut gate is nothing, or Terminate."""
    while out:
        kind, length = wire.header(out)
        assert kind == wire.TERMINATE, "something passed a shut gate"
        out = out[length + 1 :]


def shown(one: bytes) -> bytes:
    """Give what of a target's message may be on the tape."""
    if one[0] in TOLD_BY_TARGET:
        return one
    if one[0] == wire.ERROR:
        return b"".join(
            field for field in one[wire.HEADER_BYTES :].split(b"\0") if field[:1] in (b"S", b"V", b"C", b"M")
        )
    return b""


def filled(sent: bytes, got: bytes) -> bool:
    """Tell whether this is what was sent, from somewhere on filled up."""
    if len(sent) != len(got) or sent[: wire.HEADER_BYTES] != got[: wire.HEADER_BYTES]:
        return False
    kept = got.rstrip(FILLER)
    return sent.startswith(kept)


def split(stream: bytes | bytearray) -> tuple[list[bytes], bytes]:
    """Cut a stream into messages by their lengths alone, and what is no whole one."""
    stream, at, found = bytes(stream), 0, []
    while len(stream) - at >= wire.HEADER_BYTES:
        _, length = wire.header(stream, at)
        if length < wire.LEAST_LENGTH or at + length + 1 > len(stream):
            break
        found.append(stream[at : at + length + 1])
        at += length + 1
    return found, stream[at:]


def framed(by_client: bool, kind: int, body: bytes) -> bytes:
    return wire.message(kind, body)


# ---------------------------------------------------------------------------------------------- logins


async def _client_begins(reader: Reader) -> None:
    packet = await reader.packet()
    parameters = wire.parse_parameters(packet.body)
    front.replicates(parameters)
    passed = front.passed_on(parameters, "app")
    assert passed[0] == (b"user", b"app") and not any(
        name.lower() in front.BECOMING for name, _ in passed[1:]
    )
    wire.parse_parameters(wire.startup(passed)[8:])
    _, body = await reader.message()
    for read in (wire.parse_sasl, wire.parse_password):
        with contextlib.suppress(WireError):
            read(body)
    reader.done()


def client_login(source: Input) -> None:
    """A client's first packets."""
    chunk = source.byte()
    driven(_client_begins(Reader(cast("Any", Peer(source.rest(), chunk)))))


def target_login(source: Input) -> None:
    """A target's side of its login, from its first message to the session."""
    settings, chunk = source.byte(), source.byte()
    peer = Peer(source.rest(), chunk, certificate=b"no certificate" if settings & 1 else None)
    target = SimpleNamespace(name="db")
    login = back._Login(cast("Any", peer), cast("Any", target), "app", "TargetPw1" if settings & 2 else None)
    driven(login.run([(b"user", b"app")]))


def scram_of_client(source: Input) -> None:
    """Both messages of a client's SCRAM; NONCE stands for what it was given."""
    binding = b"b" * 32 if source.byte() & 1 else None
    server = auth.ScramServer(auth.ScramVerifier.doomed(b"s", b"u"), binding)
    said = server.first(source.counted(), source.counted())
    nonce = said[2:].split(b",")[0]
    with contextlib.suppress(auth.WrongPassword):
        server.final(source.rest().replace(b"NONCE", nonce))


def scram_of_target(source: Input) -> None:
    """A target's SCRAM; NONCE stands for what it was sent."""
    settings = source.byte()
    offered = frozenset(source.counted().split(b"\0")) | (
        frozenset([auth.SCRAM]) if settings & 2 else frozenset()
    )
    client = auth.ScramClient(offered, b"b" * 32 if settings & 1 else None)
    nonce = client.first().rpartition(b"r=")[2]
    salt, iterations = client.challenge(source.counted().replace(b"NONCE", nonce))
    assert 1 <= iterations <= auth.MAX_ITERATIONS
    client.final(scram_keys("TargetPw1", salt, min(iterations, 16)))
    client.check(source.rest())


def layouts(source: Input) -> None:
    """One message's body, by every reader there is."""
    which, codec = (
        source.byte(),
        ("utf-8", "cp1252", "gbk", "ascii", "shift_jis", "euc_jp", "big5", "iso8859-2")[source.byte() & 7],
    )
    if which & 1:
        types = tuple(int.from_bytes(source.take(2), "big") for _ in range(source.byte() % 70))
        found = wire.parse_values(source.rest(), types, codec)
        assert len(found) <= wire.MAX_VALUES + 1
        Tape().add(20, {"parameters": [list(one) for one in found]})
        return
    body = source.rest()
    wire.parse_error(body)
    wire.parse_tag(body)
    auth.certificate_hash(body)
    readers: tuple[Callable[[bytes], object], ...] = (
        wire.parse_query, wire.parse_parse, wire.parse_bind, wire.parse_execute, wire.parse_named, wire.parse_function,
        wire.parse_types, wire.parse_sasl, wire.parse_password, wire.parse_parameters, wire.parse_status, wire.startup_missing,
    )  # fmt: skip
    for read in readers:
        with contextlib.suppress(WireError):
            read(body)


LOGINS: Final = (client_login, target_login, scram_of_client, scram_of_target)


def play(data: bytes) -> None:
    """Run one input; AssertionError, or whatever else comes out, is a finding."""
    source = Input(data)
    mode = source.byte() % 8
    if mode < 6:
        Session(source.byte()).run(source)
        return
    work = layouts if mode == 6 else LOGINS[source.byte() % len(LOGINS)]
    with contextlib.suppress(*TYPED):
        work(source)


def quiet() -> None:
    """Log nothing of what logins say: millions fail."""
    back._log = cast("Any", SimpleNamespace(warning=lambda *_, **__: None))
