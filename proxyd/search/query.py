"""What people type to search, turned into an expression of SQLite's FTS5; and where in a text it fits. Pure.

A query is words, all of which stand in one piece of text: a command, a statement, a line of a screen. "Words in quotes"
stand there side by side; so do the parts of a word that is none to FTS5: /etc/passwd is etc before passwd. A word that ends
in * fits every longer one. OR divides a query into queries of which one must fit; NOT before a word says that it is not
there. Capitals and accents do not count. All else is text: no character of FTS5's own language reaches it but in quotes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxyd.errors import ProxydError

LONGEST: Final = 500  # characters of a query: a long statement pasted whole
MOST_TERMS: Final = 32
LEAST_PREFIX: Final = 3  # characters before a *: what begins with fewer is everything
OR: Final = "OR"
NOT: Final = "NOT"

_TERM = re.compile(r'"([^"]*)"(\*?)|(\S+)')
_UNSPEAKABLE: Final = frozenset({"Cc", "Cs"})  # controls, and halves of characters, as of a broken locale


class QueryError(ProxydError):
    """What was typed can't be searched for; the text says why, and what to type."""


class Span(NamedTuple):
    """Characters `begin` to `end` of a text."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Term:
    """Words that stand side by side; `prefix`: the last may go on."""

    words: tuple[str, ...]
    prefix: bool = False

    def expression(self) -> str:
        """Write it for FTS5."""
        return f'"{" ".join(self.words)}"{"*" if self.prefix else ""}'

    def spans(self, words: Sequence[tuple[str, Span]]) -> Iterator[Span]:
        """Yield where it is among the words of a text."""
        count = len(self.words)
        for at in range(len(words) - count + 1):
            there = [word for word, _ in words[at : at + count]]
            last = there[-1].startswith(self.words[-1]) if self.prefix else there[-1] == self.words[-1]
            if last and tuple(there[:-1]) == self.words[:-1]:
                yield Span(words[at][1].begin, words[at + count - 1][1].end)


@dataclass(frozen=True, slots=True)
class Group:
    """Terms that must all be in one text, and terms that must not."""

    wanted: tuple[Term, ...]
    unwanted: tuple[Term, ...] = ()

    def expression(self) -> str:
        """Write it for FTS5."""
        both = " AND ".join(term.expression() for term in self.wanted)
        return f"({both})" + "".join(f" NOT {term.expression()}" for term in self.unwanted)


@dataclass(frozen=True, slots=True)
class Query:
    """A query: one of its groups must fit."""

    groups: tuple[Group, ...]

    def expression(self) -> str:
        """Write it for FTS5."""
        return " OR ".join(f"({group.expression()})" for group in self.groups)

    def spans(self, text: str) -> list[Span]:
        """Give where in a text its words are, in order and apart from each other."""
        words = list(words_of(text))
        found = sorted(span for group in self.groups for term in group.wanted for span in term.spans(words))
        apart: list[Span] = []
        for span in found:
            if apart and span.begin < apart[-1].end:
                apart[-1] = Span(apart[-1].begin, max(apart[-1].end, span.end))
            else:
                apart.append(span)
        return apart


def parse(text: str) -> Query:
    """Read what was typed; raises QueryError."""
    if len(text) > LONGEST:
        raise QueryError(f"a query has at most {LONGEST} characters, this one has {len(text):,}")
    if any(unicodedata.category(one) in _UNSPEAKABLE and not one.isspace() for one in text):
        raise QueryError("a query is text, and this one holds a control character, or half of a character")
    if text.count('"') % 2:
        raise QueryError("a quote is not closed: words between two quotes stand side by side")
    groups, wanted, unwanted = list[Group](), list[Term](), list[Term]()
    negated = False
    for match in _TERM.finditer(text):
        quoted, star, bare = match.groups()
        if bare == OR:
            groups.append(_group(wanted, unwanted, negated=negated))
            wanted, unwanted = [], []
        elif bare == NOT and not negated:
            negated = True
        elif term := _term(quoted, star) if bare is None else _term(bare.rstrip("*"), bare[-1:]):
            (unwanted if negated else wanted).append(term)
            negated = False
    groups.append(_group(wanted, unwanted, negated=negated))
    if sum(len(group.wanted) + len(group.unwanted) for group in groups) > MOST_TERMS:
        raise QueryError(f"a query has at most {MOST_TERMS} words or quotes")
    return Query(tuple(groups))


def _group(wanted: list[Term], unwanted: list[Term], *, negated: bool) -> Group:
    if negated:
        raise QueryError(f'{NOT} stands before the word that must not be there; for the word itself: "not"')
    if not wanted:
        raise QueryError("nothing to search for: name a word with letters or digits; OR and NOT need one too")
    return Group(tuple(wanted), tuple(unwanted))


def _term(text: str, star: str) -> Term | None:
    """Make a term; None where there is no letter and no digit, as of the | between two commands."""
    words = tuple(word for word, _ in words_of(text))
    if not words:
        return None
    prefix = star == "*"
    if prefix and len(words[-1]) < LEAST_PREFIX:
        raise QueryError(f"before a * stand at least {LEAST_PREFIX} letters or digits")
    return Term(words, prefix)


def words_of(text: str) -> Iterator[tuple[str, Span]]:
    """Yield the words of a text as FTS5's unicode61 cuts and folds them, and where they are."""
    begin, word = 0, ""
    for place, one in enumerate(text):
        kind = unicodedata.category(one)
        if kind[0] in "LN" or kind == "Co" or (word and kind == "Mn"):
            if not word:
                begin = place
            word += _folded(one)
        elif word:
            yield word, Span(begin, place)
            word = ""
    if word:
        yield word, Span(begin, len(text))


def _folded(one: str) -> str:
    """Give a character small and without accents."""
    if one.isascii():
        return one.lower()
    plain = "".join(part for part in unicodedata.normalize("NFD", one) if unicodedata.category(part) != "Mn")
    return plain.lower()
