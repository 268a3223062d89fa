"""What the command policy says of a session's commands.

Rule 1: only a rule that may forbid is waited for; others are asked behind the statement's back.
Rule 2: what is prepared is judged when it is prepared, so that a forbidden statement is not even read by the target;
        a hit counts when it is executed, each time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from proxyd import metrics
from proxyd.policy import Policy
from proxyd.protocols.mysql.wire import Command, Whole
from proxyd.session import Ending
from proxyd.statement import CODECS, UNDECODABLE

if TYPE_CHECKING:
    from proxyd.config import Config
    from proxyd.protocols.mysql.script import Script
    from proxyd.session import Session

DIALECT: Final = "mysql"
MAX_LATER: Final = 64  # commands put aside; who sends more waits for the rules
CATCH_UP_SECONDS: Final = 5.0  # the end of a session waits for what was put aside
_AS_SQL: Final = {Command.CREATE_DB: "CREATE DATABASE", Command.DROP_DB: "DROP DATABASE"}
_ASKED: Final = frozenset({Command.QUERY, Command.STMT_PREPARE, Command.STMT_EXECUTE, *_AS_SQL})


class Ruled(NamedTuple):
    """What becomes of a command; both empty: it passes."""

    refusal: str = ""
    ends: Ending | None = None


PASSES: Final = Ruled()


class Rules:
    """The rules that apply to one session."""

    def __init__(self, session: Session, settings: Config) -> None:
        user = settings.users.get(session.user)
        self._session = session
        self._policy = Policy(settings.rules, user, session.target)
        self.active = self._policy.active
        self._later: deque[str] = deque()
        self._news = trio.Event()

    @staticmethod
    def asks(code: int) -> bool:
        """Tell whether commands of this code are a matter for rules."""
        return code in _ASKED

    def noted(self, script: Script, item: Whole) -> bool:
        """Put a command aside for `run`, if that will do (rule 1)."""
        if self._policy.decides or len(self._later) >= MAX_LATER:
            return False
        if item.code != Command.STMT_PREPARE:
            self._later.append(_text(script, item))
            self._news.set()
        return True

    async def run(self) -> None:
        """Ask the rules about what was put aside, until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await self.catch_up()

    async def catch_up(self) -> None:
        """Ask the rules about all that was put aside."""
        while self._later:
            verdict = await self._policy.judge_in_thread(self._later[0], DIALECT)
            self._later.popleft()
            if verdict is not None:
                self._policy.hit(self._session, verdict)

    async def judge(self, script: Script, item: Whole) -> Ruled:
        """Ask the rules, off the relay's path; a hit is a finding and counted."""
        if not self.active or not self.asks(item.code):
            return PASSES
        verdict = await self._policy.judge_in_thread(_text(script, item), DIALECT)
        if verdict is None or (item.code == Command.STMT_PREPARE and verdict.action != "block"):
            return PASSES
        session = self._session
        if self._policy.hit(session, verdict):
            by = f"rule {verdict.rule.name}"
            session.control("drop", by, verdict.text)
            metrics.DROPS.labels(by="rule").inc()
            return Ruled(verdict.text, Ending("dropped", by, verdict.text))
        return Ruled(verdict.text) if verdict.action == "block" else PASSES


def _text(script: Script, item: Whole) -> str:
    codec = CODECS.get(script.statements.encoding.lower(), "ascii")
    if item.code in _AS_SQL:
        name = item.payload[1:].decode(codec, UNDECODABLE).replace("`", "``")
        return f"{_AS_SQL[Command(item.code)]} `{name}`"
    return script.text_of(item.code, item.payload).kept.decode(codec, UNDECODABLE)
