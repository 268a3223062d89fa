"""A session: one user on one target, from the permit to the sealed recording; and the list of those that live.

Rule 1: the tape is open, and META on disk, before the target is dialled; no tape, no session.
Rule 2: the first cause of an end is the one recorded; whatever follows from it is not.
Rule 3: `block`, `unblock`, `message` and `drop` work the same on every protocol; an engine brings only its Conduit.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import trio

from proxyd import __version__, log, metrics
from proxyd.characters import visible
from proxyd.errors import ClientError, Denied, Dropped, ProxydError, RecordingFailed, TargetUntrusted
from proxyd.gate import RESTORED, REVOKED, Gate, Settled
from proxyd.governance.notices import Event, Notice
from proxyd.recorder.database import CatalogError
from proxyd.recorder.record import Kind

if TYPE_CHECKING:
    from proxyd.access import Permit
    from proxyd.engine import Core
    from proxyd.recorder.recorder import Tape

DISCONNECTED = "You have been disconnected"
TIME_OVER = "Your time on this target is over"
SHUTTING_DOWN = "The session proxy is shutting down"
UNREADABLE = (
    "No session can be started now: the list of blocked users can't be read. Tell your administrator."
)

DROP_S = 2.0
"""Seconds `drop` waits for the session to be gone before it says so anyway; both links close within one."""

SEAL_S = 12.0
"""Seconds the end of a session may take in all; the recorder's own deadline for a seal is ten."""

MAX_FINDINGS = 1000
"""Findings a session keeps and logs; a user who makes more is known by then, and the metric counts on."""

ID_BYTES = 16

_log = log.get("session")


class State(StrEnum):
    """Where a session is; `TRANSITIONS` says what may follow."""

    CONNECTING = "connecting"
    LIVE = "live"
    ENDING = "ending"
    ENDED = "ended"


TRANSITIONS = {
    State.CONNECTING: frozenset({State.LIVE, State.ENDING}),
    State.LIVE: frozenset({State.ENDING}),
    State.ENDING: frozenset({State.ENDED}),
    State.ENDED: frozenset[State](),
}


@dataclass(frozen=True, slots=True)
class Login:
    """Who came, from where, and how they proved it (`publickey`, `password+totp`, ...)."""

    user: str
    user_ip: str
    how: str
    allowed: frozenset[str] | None = None  # channels the user's own certificate leaves open; None: all
    client: str = ""  # the client's version string


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ended; `error` is the sentence the user was shown, if any."""

    reason: str
    by: str = ""
    error: str = ""


class Conduit(Protocol):
    """What an engine lends its session: the protocol's own way to hold, to tell and to part."""

    def notify(self, text: str) -> bool:
        """Show the user a text, in the protocol's way, and tell whether it has one; never waits."""

    async def settle(self) -> Settled:
        """Wait until no client byte is in flight; what has not left is thrown away."""

    def hold(self, held: bool) -> None:  # noqa: FBT001 - a state, not an option
        """Stop, or resume, reading from both sides; never waits."""

    def part(self, text: str) -> None:
        """Tell the user `text` and close both sides, at the latest after a second; never waits."""


class Session:
    """One live session; made by `opened`, listed in the Registry until its recording is sealed."""

    def __init__(self, login: Login, permit: Permit, protocol: str) -> None:
        self.id = secrets.token_hex(ID_BYTES)
        self.protocol = protocol
        self.login_record = login
        self.permit = permit
        self.started_at = time.time()
        self.gate = Gate()
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.ending: Ending | None = None
        self.state = State.CONNECTING
        self.viewers = 0
        self.findings: list[dict[str, str]] = []
        self.conduit: Conduit | None = None
        self.farewell: Callable[[str], None] | None = None  # how the client is told while there is no conduit
        self.tell: Callable[[Notice], None] | None = None  # have somebody notified; never waits
        self.on_drop: Callable[[], None] | None = None  # what else is over with a session that is dropped
        self._pressed = False
        self.tape: Tape

    @property
    def user(self) -> str:
        """The user's name."""
        return self.login_record.user

    @property
    def user_ip(self) -> str:
        """Where the user came from."""
        return self.login_record.user_ip

    @property
    def how(self) -> str:
        """How the user proved who they are."""
        return self.login_record.how

    @property
    def target(self) -> str:
        """The target's name."""
        return self.permit.target.name

    @property
    def host(self) -> str:
        """The target's address."""
        return self.permit.target.address

    @property
    def login(self) -> str:
        """The account on the target."""
        return self.permit.account

    @property
    def parting(self) -> str:
        """What the user is told when the scope has ended: by someone, because time is over, or with the daemon."""
        if self.ending is not None:
            return self.ending.error
        return TIME_OVER if trio.current_time() >= self.scope.deadline else SHUTTING_DOWN

    def meta(self, node: str) -> dict[str, Any]:
        """Give the META record: who, where, when, under what."""
        return {
            "id": self.id,
            "node": node,
            "protocol": self.protocol,
            "user": self.user,
            "user_ip": self.user_ip,
            "how": self.how,
            "target": self.target,
            "host": self.host,
            "login": self.login,
            "started_at": self.started_at,
            "client": self.login_record.client,
            "policy": self.permit.target.recording,
            "version": __version__,
        }

    def became(self, state: State) -> None:
        """Move on; raises RuntimeError for a step TRANSITIONS does not have."""
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"a session can't go from {self.state} to {state}")
        self.state = state

    def attach(self, conduit: Conduit) -> None:
        """Go live: from here on `conduit` carries what operators want."""
        self.conduit = conduit
        self.became(State.LIVE)
        if self._pressed:
            conduit.hold(True)

    # ------------------------------------------------------------------ what operators and rules do

    async def block(self, by: str, reason: str = "") -> dict[str, Any]:
        """Shut the gate, tell the user, and return when no client byte is in flight.

        Raises Denied when it is shut already or the session is not live.
        """
        conduit = self._live_conduit()
        self.gate.shut(by, reason)
        self.control("block", by, reason)
        conduit.notify(REVOKED)
        metrics.BLOCKS.inc()
        settled = await conduit.settle()
        return {
            "passed_bytes": settled.passed_bytes,
            "discarded_bytes": settled.discarded_bytes,
            "settled": settled.settled,
        }

    async def unblock(self, by: str) -> None:
        """Open the gate again; what was refused stays refused. Raises Denied when it is not shut."""
        conduit = self._live_conduit()
        self.gate.open()
        self.control("unblock", by, "")
        conduit.notify(RESTORED)

    def message(self, by: str, text: str) -> str:
        """Show the user a text of an operator's, and give it as it was shown: what acts on a terminal as its escape.

        Raises Denied when the session is not live, the text is empty, or the protocol has no way to show it.
        """
        shown = visible(text.strip())
        if not shown:
            raise Denied("There is no text to show.")
        if not self._live_conduit().notify(shown):
            raise Denied(
                f"This {self.protocol} session has nothing to show a message on: its user can't be told anything."
            )
        self.control("message", by, shown)
        return shown

    async def drop(
        self, by: str, reason: str = "", *, text: str = DISCONNECTED, kind: str = "operator"
    ) -> None:
        """Show the user `text`, close both sides, and return when the session is gone (at most DROP_S)."""
        self.control("drop", by, reason)
        metrics.DROPS.labels(by=kind).inc()
        self.end(Ending("dropped", by, text))
        with trio.move_on_after(DROP_S):
            await self.ended.wait()

    def _live_conduit(self) -> Conduit:
        if self.state is not State.LIVE or self.conduit is None:
            raise Denied("The session is not live.")
        return self.conduit

    # ------------------------------------------------------------------ what happens to it

    def control(self, action: str, by: str, reason: str) -> None:
        """Put on the tape what was done to the session, by whom and why."""
        self.tape.add(Kind.CONTROL, {"action": action, "by": by, "reason": reason})
        _log.info(
            "session " + action, session=self.id, user=self.user, target=self.target, by=by, reason=reason
        )

    def settled(self, passed: int, discarded: int, *, confirmed: bool) -> Settled:
        """Put on the tape what a conduit's `settle` found, and give it."""
        found = {"passed": passed, "discarded": discarded, "confirmed": confirmed}
        self.tape.add(Kind.CONTROL, {"action": "settled", "by": "", "reason": "", **found})
        return Settled(passed, discarded, confirmed)

    def finding(self, code: str, severity: str, text: str) -> None:
        """Put a finding (M11) on the tape, in the metrics and in the log."""
        metrics.FINDINGS.labels(code=code, severity=severity).inc()
        if len(self.findings) >= MAX_FINDINGS:
            return
        found = {"code": code, "severity": severity, "text": text}
        self.findings.append(found)
        self.tape.add(Kind.FINDING, found)
        _log.warning(
            "finding",
            session=self.id,
            user=self.user,
            target=self.target,
            finding=code,  # the log takes `code` for a one-time code
            severity=severity,
            text=text,
        )
        if severity == "critical" and self.tell is not None:
            title = f"critical finding: {self.user} on {self.login}@{self.target}"
            self.tell(
                Notice(Event.FINDING, time.time(), self.id, title, details={"finding": text, "code": code})
            )

    def end(self, ending: Ending) -> None:
        """End the session for this cause, unless it is ending already; never waits."""
        if self.ending is not None:
            return
        self.ending = ending
        self.scope.cancel()
        if ending.reason == "dropped" and self.on_drop is not None:
            self.on_drop()
        part = self.farewell if self.conduit is None else self.conduit.part
        if part is None or not ending.error:
            return
        try:
            part(ending.error)
        except Exception:  # noqa: BLE001 - the session ends all the same, and so must who asked for it go on
            _log.exception("a bug while parting", session=self.id)

    def failed(self, error: RecordingFailed) -> None:
        """Strict recording has failed: end at once, and say so."""
        self.end(Ending("recording failed", error=str(error)))

    def pressed(self, held: bool) -> None:  # noqa: FBT001 - the recorder's callback
        """Storage is behind, or has caught up: the session waits with it."""
        self._pressed = held
        if self.conduit is not None:
            self.conduit.hold(held)


class Registry:
    """The live sessions, by id."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._closed = False

    def close(self) -> None:
        """Let no session begin any more; the live ones go on."""
        self._closed = True

    def is_closed(self) -> bool:
        """Tell whether no session may begin any more."""
        return self._closed

    def add(self, session: Session) -> None:
        """List a session."""
        self._sessions[session.id] = session

    def remove(self, session: Session) -> None:
        """Take a session off the list."""
        self._sessions.pop(session.id, None)

    def list(self) -> list[Session]:
        """Give all, oldest first."""
        return list(self._sessions.values())

    def get(self, name: str) -> Session | None:
        """Give the session whose id is `name` or, if only one does, begins with it."""
        exact = self._sessions.get(name)
        if exact is not None:
            return exact
        found = [session for key, session in self._sessions.items() if name and key.startswith(name)]
        return found[0] if len(found) == 1 else None

    def __len__(self) -> int:
        return len(self._sessions)


@asynccontextmanager
async def opened(core: Core, login: Login, permit: Permit, protocol: str) -> AsyncIterator[Session]:
    """Open a session and its tape; seal it when the body ends, for whatever cause.

    Raises Denied when the user is on the block list, RecordingFailed when there can be no tape, and what the
    body raises once the tape is sealed; an end from outside (drop, failed tape, time over) raises Dropped.
    """
    if core.registry.is_closed():
        raise Denied(SHUTTING_DOWN)
    await _refuse_blocked(core, login, permit)
    session = Session(login, permit, protocol)
    target = permit.target
    session.tell = core.tell
    session.tape = await core.recorder.open(
        session.id,
        session.meta(core.config.node),
        strict=target.recording == "strict",
        hold=target.disk_full == "hold",
        on_pressure=session.pressed,
        on_failure=session.failed,
    )
    core.registry.add(session)
    metrics.SESSIONS.labels(protocol=protocol, state="live").inc()
    metrics.SESSIONS_STARTED.labels(protocol=protocol).inc()
    _log.info("session began", session=session.id, user=session.user, user_ip=session.user_ip, how=session.how,
              target=session.target, login=session.login, protocol=protocol)  # fmt: skip
    if core.registry.is_closed():  # while its tape was opened
        session.end(Ending("dropped", "proxyd", SHUTTING_DOWN))
    try:
        async with _timed(session):
            yield session
    except ProxydError as error:
        if isinstance(error, TargetUntrusted):
            session.finding(error.code, error.severity, f"{session.target}: {error}")
        session.end(Ending(_reason(error), error=str(error)))
        raise
    except Exception:
        session.end(Ending("failed"))
        raise
    finally:
        await _seal(core, session)
    if session.ending is not None and session.ending.error:
        raise Dropped(session.ending.error)


async def _refuse_blocked(core: Core, login: Login, permit: Permit) -> None:
    try:
        block = await trio.to_thread.run_sync(core.catalog.blocked, login.user, permit.target.name)
    except CatalogError as error:  # its text is for whoever runs the database
        _log.error("the list of blocked users can't be read", why=str(error))
        raise RecordingFailed(UNREADABLE) from None
    if block is not None:
        when = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(block.at))
        raise Denied(f"User has been prevented to start sessions by {block.author} on {when}")


@asynccontextmanager
async def _timed(session: Session) -> AsyncIterator[None]:
    """Run the body in the session's scope, which ends with the permit at the latest."""
    expires = session.permit.expires
    if expires is not None:
        session.scope.deadline = trio.current_time() + max(0.0, expires - time.time())
    with session.scope:
        yield
    if session.scope.cancelled_caught and session.ending is None:
        session.end(Ending("time over", error=TIME_OVER))


def _reason(error: ProxydError) -> str:
    if isinstance(error, ClientError):
        return "client error"
    return {"Denied": "denied", "RecordingFailed": "recording failed"}.get(
        type(error).__name__, "target error"
    )


async def _seal(core: Core, session: Session) -> None:
    session.became(State.ENDING)
    ending = session.ending or Ending("closed")
    with trio.CancelScope(deadline=trio.current_time() + SEAL_S, shield=True):
        await session.tape.seal(ending.reason, by=ending.by, error=ending.error)
    core.registry.remove(session)
    session.became(State.ENDED)
    session.ended.set()
    metrics.SESSIONS.labels(protocol=session.protocol, state="live").dec()
    metrics.SESSIONS_ENDED.labels(protocol=session.protocol, reason=ending.reason).inc()
    metrics.REFUSED_BYTES.inc(session.gate.refused_bytes)
    metrics.BYTES.labels(protocol=session.protocol, direction="input").inc(session.tape.input_bytes)
    metrics.BYTES.labels(protocol=session.protocol, direction="output").inc(session.tape.output_bytes)
    _log.info("session ended", session=session.id, user=session.user, target=session.target, reason=ending.reason,
              by=ending.by, error=ending.error)  # fmt: skip
