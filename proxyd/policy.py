"""Decide by the rules of the configuration what becomes of a command or a statement.

Rule 1: the first rule that matches decides. Where a `force` rule applies, what no `allow` or `force` rule matched first
        is blocked.
Rule 2: a rule that forbids matches when any statement of a text does; one that permits, when every statement does, and
        its pattern the whole of each.
Rule 3: what can't be read in time is blocked wherever a rule could have blocked it.
Rule 4: no finding holds a word of the statement: it may be a secret.
Rule 5: of a text over SEARCHED bytes head and tail are searched, and as SQL it is "unparsable": who minds what
        stands in the middle blocks that kind.

Cost: nothing when no rule applies, 0.5 us for a text that is remembered (up to CACHED_CHARS); else 0.4 ms in a worker
(matcher.py), 0.7 where rules have kinds, 15 and 45 ms for 17 KB. The first text waits 0.3 s for its worker to start.
"""

from __future__ import annotations

import fnmatch
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import trio

from proxyd import config, metrics
from proxyd.config import Rule
from proxyd.matcher import WORK, WORKERS, Pattern, Question, Reading, TooSlow, read

if TYPE_CHECKING:
    from proxyd.session import Session

HEAD_CHARS: Final = 48 << 10
TAIL_CHARS: Final = 16 << 10
SEARCHED: Final = HEAD_CHARS + TAIL_CHARS
CACHED: Final = 256  # verdicts; an application has some dozens of statements
CACHED_CHARS: Final = 4 << 10

PERMITS: Final = ("allow", "force")
UNCHECKED: Final = "unchecked"

Action = Literal["flag", "block", "interrupt"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says: `flag` and `interrupt` let it pass, `block` does not. `text`: for the user and the finding."""

    rule: Rule
    action: Action
    text: str


class Policy:
    """The rules that apply to one user on one target; one Policy for a session, as it counts."""

    def __init__(
        self, rules: Iterable[Rule], user: config.User | None, target_name: str, *, sql: bool = True
    ) -> None:
        """Take the rules that apply; `sql` False: for shell commands, which have no kinds."""
        self._rules = [
            rule for rule in rules if _applies(rule, user, target_name) and (sql or rule.pattern != "")
        ]
        self._patterns = tuple(
            Pattern(rule.pattern, rule.action in PERMITS) for rule in self._rules if rule.pattern
        )
        self._forced = next((rule for rule in self._rules if rule.action == "force"), None)
        self._counts: Counter[str] = Counter()
        self._known: OrderedDict[tuple[str, str], Verdict | None] = OrderedDict()
        self._places = trio.CapacityLimiter(WORKERS)
        self.active = bool(self._rules)
        self.decides = any(rule.action in ("block", "interrupt", "force") for rule in self._rules)
        self.parses = sql and any(rule.kinds for rule in self._rules)

    def judge(self, text: str, dialect: str) -> Verdict | None:
        """Judge here and now, however long it takes; None: it passes, and nothing is to be said."""
        return self._decide(read(self._question(text, dialect)))

    def judge_apart(self, text: str, dialect: str, unsure: bool = False) -> Verdict | None:  # noqa: FBT001, FBT002 - for executors
        """Judge in a worker process; blocks the calling thread for some seconds at most (rule 3).

        `unsure`: the text may not be all that will run, so no rule permits it.
        """
        try:
            return self._decide(WORK.ask(self._question(text, dialect)), unsure=unsure)
        except TooSlow:
            return self._unread()

    async def judge_in_thread(self, text: str, dialect: str) -> Verdict | None:
        """Judge in a worker process while the session's task waits; short texts are remembered."""
        if not self.active:
            return None
        key = (dialect, text)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        verdict = await trio.to_thread.run_sync(
            self.judge_apart, text, dialect, limiter=self._places, abandon_on_cancel=True
        )
        if len(text) <= CACHED_CHARS and not (verdict and verdict.rule.name == UNCHECKED):
            self._known[key] = verdict
            if len(self._known) > CACHED:
                self._known.popitem(last=False)
        return verdict

    def count(self, verdict: Verdict) -> bool:
        """Count a hit; True when it is the one at which an `interrupt` rule ends the session."""
        self._counts[verdict.rule.name] += 1
        return verdict.action == "interrupt" and self._counts[verdict.rule.name] >= verdict.rule.after

    def hit(self, session: Session, verdict: Verdict) -> bool:
        """Count a hit, as finding and metric too; True when the session is to end for it."""
        rule = verdict.rule
        session.finding(f"rule-{rule.name}", rule.severity, verdict.text)
        metrics.RULE_HITS.labels(rule=rule.name, action=verdict.action).inc()
        return self.count(verdict)

    # ------------------------------------------------------------------ how it is decided

    def _question(self, text: str, dialect: str) -> Question:
        cut = _is_cut(text)
        if len(text) > SEARCHED:
            text = f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"
        return Question(text, dialect, self._patterns, self.parses and dialect != "", cut)

    def _decide(self, reading: Reading, *, unsure: bool = False) -> Verdict | None:
        found = iter(reading.found)
        for rule in self._rules:
            by_pattern = bool(rule.pattern) and next(found)
            if (by_pattern or _is_of(rule, reading.kinds)) and not (unsure and rule.action in PERMITS):
                return _verdict(rule)
        if self._forced is None:
            return None
        return Verdict(self._forced, "block", f"The rule {self._forced.name} does not allow this.")

    def _unread(self) -> Verdict | None:
        severe = [rule for rule in self._rules if rule.action in ("block", "interrupt", "force")]
        if not severe:
            return None
        rule = Rule(name=UNCHECKED, action="block", pattern=".", severity=severe[0].severity)
        return Verdict(rule, "block", "This could not be checked against the rules in time.")


def _is_cut(text: str) -> bool:
    """Tell whether the text is longer than SEARCHED bytes: what came in pieces has lost its middle then."""
    if len(text) * 4 <= SEARCHED:  # UTF-8 takes at most four
        return False
    return len(text.encode("utf-8", "surrogatepass")) > SEARCHED


def _applies(rule: Rule, user: config.User | None, target_name: str) -> bool:
    if rule.targets and not _named(rule.targets, target_name):
        return False
    if not rule.users and not rule.roles:
        return True
    return user is not None and (_named(rule.users, user.name) or not set(rule.roles).isdisjoint(user.roles))


def _named(patterns: list[str], name: str) -> bool:
    return any(
        fnmatch.fnmatchcase(name, pattern) if config.is_glob(pattern) else name == pattern
        for pattern in patterns
    )


def _is_of(rule: Rule, statements: tuple[frozenset[str], ...]) -> bool:
    """Tell whether the rule's kinds say so (rule 2)."""
    if not rule.kinds or not statements:
        return False
    wanted = frozenset(rule.kinds)
    if rule.action in PERMITS:
        return all(_within(one, wanted) for one in statements)
    return any(not wanted.isdisjoint(one) for one in statements)


def _within(kinds: frozenset[str], wanted: frozenset[str]) -> bool:
    """Tell whether all kinds of a statement are permitted; whoever permits `delete` permits the one without WHERE."""
    return all(kind in wanted or kind.removesuffix("-without-where") in wanted for kind in kinds)


def _verdict(rule: Rule) -> Verdict | None:
    match rule.action:
        case "allow" | "force":
            return None
        case "block":
            return Verdict(rule, "block", f"The rule {rule.name} does not allow this.")
        case "interrupt":
            return Verdict(rule, "interrupt", f"The rule {rule.name} ends a session at match {rule.after}.")
    return Verdict(rule, "flag", f"The rule {rule.name} matches this.")
