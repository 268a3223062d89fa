r"""Take secrets out of SQL before it is recorded: pure functions from text to text, for both dialects.

Rule 1: a statement that names a secret (`password`, `identified`, `token`, ...) anywhere, comments and literals
        included, loses every string literal it has, whole: the one that holds the secret may stand before the word, far
        behind it, or inside another literal. Only account names ('bob'@'%') and '%password%' itself stay.
Rule 2: what can't be read for sure is masked to its end: an unterminated literal, and all that follows a backslash
        that may or may not have hidden a quote.
Rule 3: masked text reads the same when it is redacted again.
Rule 4: a secret that nothing names (`EXECUTE p('hunter2')`) can't be known: `mask_literals` is for those who mind.

Cost, for a 56-character SELECT and a 17 KB INSERT: 0.9 and 115 us where no secret is named, which is what everybody
pays; masking 15 and 4,500 us; a fingerprint 13 and 1,800 us (it reads FINGERPRINT_CHARS).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final

MASK: Final = "'***'"
MASKED_WORD: Final = "***"
MASKED_COMMENT: Final = "/* *** */"

FINGERPRINT_CHARS: Final = 8 << 10  # two statements that differ only behind this are the same to an auditor
DIGEST_BYTES: Final = 8

STEMS: Final = (
    "passw", "pwd", "secret", "identified", "credential", "token", "passphrase", "apikey", "api_key", "access_key",
    "accesskey", "accountkey", "account_key", "private_key", "authentication_string", "crypt(",
)  # fmt: skip
"""What names a secret, as lower-case substrings: plain `in` tests cost a tenth of a regex that ignores case."""

_PATTERN = re.compile(r"'%(?:password|passwd|pwd|secret|token|credential)s?%'", re.IGNORECASE)
_URI = re.compile(r"(://[^\s/'\"@:]*:)[^\s/'\"@]*@")

_POSTGRES = re.compile(
    r"""
      (?P<comment>--[^\r\n]*)
    | (?P<nested>/\*)
    | (?P<escaped>[eE]'[^'\\]*(?:(?:\\.|''|\\\Z)[^'\\]*)*(?:'|\Z))
    | (?P<plain>(?:[uU]&|[nNbBxX])?'[^']*(?:''[^']*)*(?:'|\Z))
    | (?P<parameter>\$\d+)
    | (?P<dollar>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z))
    | (?P<quoted>"[^"]*(?:""[^"]*)*(?:"|\Z))
    | (?P<number>(?:\d|\.\d)(?:[eE][-+](?=\d)|[\w.])*)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_MYSQL = re.compile(
    r"""
      (?P<comment>(?:--(?=\s|\Z)|\#)[^\r\n]*|/\*.*?(?:\*/|\Z))
    | (?P<escaped>[nNbBxX]?'[^'\\]*(?:(?:\\.|''|\\\Z)[^'\\]*)*(?:'|\Z)
        | "[^"\\]*(?:(?:\\.|""|\\\Z)[^"\\]*)*(?:"|\Z))
    | (?P<quoted>`[^`]*(?:``[^`]*)*(?:`|\Z))
    | (?P<number>(?:\d|\.\d)(?:[eE][-+](?=\d)|[\w.])*)
    | (?P<word>(?:[^\W\d]|\$)[\w$]*)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_NAME, _HOST = "'name", "'host"  # no token reads so
_ACCOUNT_WORDS = frozenset({"user", "for", "to", "from", "role", "exists"})
_VALUE_WORDS = frozenset({"password", "passwd", "pwd", "secret", "by", "identified", "passphrase", "token"})
_NO_VALUE = frozenset(
    {
        "null", "default", "expire", "to", "is", "from", "as", "and", "or", "in", "like", "text", "varchar", "char",
        "require", "not", "for", "history", "reuse", "never", "interval", "by", "with", "via", "password", "random",
        "valid", "asc", "desc", "where", "order", "group", "limit", "on", "set", "bytea", "json", "jsonb", "drop", "old",
        "user", "encryption", "required", "must_change", "md5", "old_password", "hash", "using", "blob", "unlock", "lock",
    }
)  # fmt: skip
_ALTERING = frozenset({"alter", "create", "grant", "set", "change", "execute"})

_VERBS = frozenset(
    {
        "select", "insert", "update", "delete", "merge", "with", "values", "truncate", "drop", "create", "alter", "grant",
        "revoke", "copy", "call", "do", "set", "show", "begin", "start", "commit", "rollback", "savepoint", "release",
        "prepare", "execute", "deallocate", "declare", "fetch", "close", "explain", "analyze", "vacuum", "listen", "notify",
        "unlisten", "lock", "use", "replace", "load", "describe", "desc", "rename", "kill", "flush", "change", "reset",
        "table", "comment", "refresh", "reindex", "cluster", "checkpoint", "discard", "import", "handler", "optimize",
    }
)  # fmt: skip
_FIRST_WORD = re.compile(r"(?>\s+|--[^\r\n]*|\#[^\r\n]*|/\*.*?\*/|[(;])*+([a-zA-Z_]+)", re.DOTALL)

_OPENING = re.compile(r"(?<!\w)['\"`]|[\"`\u00ab\u2018\u201c\u201e]")
_QUOTES = "'\"`\u00bb\u2019\u201c\u201d"

_LIST = re.compile(r"\(\s*\?(?:\s*,\s*\?)+\s*\)")
_ROWS = re.compile(r"(\(\?\))(?:\s*,\s*\(\?\))+")


def names_secret(text: str) -> bool:
    """Tell whether the statement names a secret, or holds the user part of a URI with a password in it."""
    low = text.lower()
    for stem in STEMS:  # a generator would cost as much again
        if stem in low:
            return True
    return "://" in low and _URI.search(text) is not None


def redact(text: str, dialect: str) -> str:
    """Give the statement without the secrets it names (rule 1); others come back as they are."""
    return _masked(text, dialect, numbers=False) if names_secret(text) else text


def mask_literals(text: str, dialect: str) -> str:
    """Give the statement without any literal: strings as '***', numbers as ?, comments empty."""
    return _masked(text, dialect, numbers=True)


def fingerprint(text: str, dialect: str) -> str:
    """Give the statement's shape: literals ?, lists (?), comments gone, one space, lower case; FINGERPRINT_CHARS of it."""
    out: list[str] = []
    for kind, token in tokens(redact(text[:FINGERPRINT_CHARS], dialect), dialect):
        if kind in ("space", "comment"):
            if out and out[-1] != " ":
                out.append(" ")
        elif kind in ("string", "number", "parameter"):
            out.append("?")
        elif kind == "unsure":
            out.append("?")
            break
        else:
            out.append(token.lower())
    shape = _LIST.sub("(?)", "".join(out).strip())
    return _ROWS.sub(r"\1", shape)


def digest(shape: str) -> str:
    """Give the short name of a fingerprint."""
    return hashlib.blake2b(shape.encode("utf-8", "backslashreplace"), digest_size=DIGEST_BYTES).hexdigest()


def verb(text: str) -> str:
    """Give the statement's first word, lower case, if it is one of SQL's; else "other": it may be anything."""
    match = _FIRST_WORD.match(text[:FINGERPRINT_CHARS])
    word = match[1].lower() if match else ""
    return word if word in _VERBS else "other"


def mask_quoted(message: str) -> str:
    """Mask an error message from its first quote to its last: what stands between is names and values alike."""
    opening = _OPENING.search(message)
    if opening is None:
        return message
    end = max(message.rfind(quote) for quote in _QUOTES)
    rest = message[end + 1 :] if end > opening.start() else ""
    closing = message[end] if end > opening.start() else ""
    return message[: opening.end()] + MASKED_WORD + closing + rest


# ---------------------------------------------------------------------- reading SQL


def tokens(text: str, dialect: str) -> list[tuple[str, str]]:
    """Split into (kind, text): string, number, parameter, quoted, word, space, comment, other; or unsure, the last."""
    return _doubtful(_postgres(text) if dialect == "postgres" else _mysql(text))


def _mysql(text: str) -> list[tuple[str, str]]:
    return [(match.lastgroup or "other", match[0]) for match in _MYSQL.finditer(text)]


def _postgres(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    match_at: Callable[[str, int], re.Match[str] | None] = _POSTGRES.match
    while (match := match_at(text, at)) is not None:
        kind, token = match.lastgroup or "other", match[0]
        if kind == "nested":
            kind, token = "comment", _nested(text, at)
        found.append((kind, token))
        at += len(token)
    return found


_STRINGS = ("plain", "escaped", "dollar")
_NESTING = re.compile(r"/\*|\*/")


def _nested(text: str, start: int) -> str:
    """Give the comment at `start`; PostgreSQL's nest."""
    depth = 0
    for match in _NESTING.finditer(text, start):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return text[start : match.end()]
    return text[start:]


def _doubtful(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    r"""Call strings `string`; where \' can be read two ways, and may have been read the wrong one, all from there `unsure`.

    Whether a backslash escapes is a setting of the session (standard_conforming_strings, NO_BACKSLASH_ESCAPES). In
    PostgreSQL a plain 'a\' is rare enough to give up on. In MySQL \' is common: read the wrong way, code and literals
    trade places there, which ends in an open literal, or in one with a word stuck to it.
    """
    doubt = -1
    wrong = False
    read: list[tuple[str, str]] = []
    for place, (kind, token) in enumerate(found):
        if kind in _STRINGS:
            if doubt < 0 and kind != "dollar" and token[0] not in "eE" and ("\\'" in token or '\\"' in token):
                doubt, wrong = place, kind == "plain"
            wrong = wrong or (doubt >= 0 and not _closed(token))
            read.append(("string", token))
        else:
            wrong = wrong or (doubt >= 0 and kind in ("word", "number") and found[place - 1][0] in _STRINGS)
            read.append((kind, token))
    if not wrong:
        return read
    return [*read[:doubt], ("unsure", "".join(token for _, token in found[doubt:]))]


def _closed(token: str) -> bool:
    """Tell whether a MySQL string ends in its own quote, and that is not an escaped one."""
    body = token.lstrip("nNbBxX")
    inner = body[1:-1]
    return len(body) > 1 and body[-1] == body[0] and (len(inner) - len(inner.rstrip("\\"))) % 2 == 0


# ---------------------------------------------------------------------- masking


def _masked(text: str, dialect: str, *, numbers: bool) -> str:
    """Mask every string, and what else could be the secret's value; `numbers`: those too."""
    found = tokens(text, dialect)
    altering = next((token.lower() for kind, token in found if kind == "word"), "") in _ALTERING
    out: list[str] = []
    before = named = ""  # the last token that counts, and the last word a value may follow
    for place, (kind, token) in enumerate(found):
        if kind == "space":
            out.append(token)
            continue
        if kind == "comment":
            out.append(MASKED_COMMENT if numbers or _tells(token) else token)
            continue
        if kind == "unsure":
            _put(out, MASK)
            break
        low = token.lower()
        if kind == "string":
            low = "" if numbers else _account(found, place, before)
            keeps = low or (not numbers and _PATTERN.fullmatch(token))
            if keeps and not (out and out[-1].endswith("'")):
                out.append(token)
            else:
                _put(out, MASK)
        elif kind == "number":
            _put(out, "?" if numbers else MASKED_WORD if named or low.startswith("0x") else token)
        elif named and kind in ("word", "quoted") and low not in _NO_VALUE and (altering or named == "by"):
            _put(out, MASKED_WORD)
        else:
            out.append(token)
        named = _named(kind, low, before, named, altering=altering)
        before = low + before if low == "@" else low
    return _URI.sub(rf"\1{MASKED_WORD}@", "".join(out))


def _put(out: list[str], masked: str) -> None:
    """Add what must not be read as one with what stands before it: x'***', /***, '***''***' (rule 3)."""
    last = out[-1] if out else ""
    if masked == MASK and last.endswith("'"):
        return
    out.append(f" {masked}" if last[-1:].isalpha() or last.endswith(("/", "&")) else masked)


def _named(kind: str, low: str, before: str, named: str, *, altering: bool) -> str:
    """Give the word whose value may come next: PASSWORD x, PASSWORD = x, PASSWORD(x, IDENTIFIED BY x."""
    if kind == "word":
        if low == "by":
            return low if altering or before == "identified" else ""
        return low if low in _VALUE_WORDS or any(stem in low for stem in STEMS) else ""
    return named if low in ("=", ":", "(", ">") else ""


def _tells(comment: str) -> bool:
    """Tell whether a comment in a statement with a secret may hold it."""
    return "'" in comment or '"' in comment or "$" in comment or names_secret(comment)


def _account(found: list[tuple[str, str]], place: int, before: str) -> str:
    """Tell which part of an account the string is, USER 'name'@'host': the name, the host or none."""
    if before == "@" + _NAME:
        return _HOST
    following = next((token for kind, token in found[place + 1 : place + 3] if kind != "space"), "")
    return _NAME if following == "@" and before in _ACCOUNT_WORDS else ""
