"""What kind of statement SQL text holds, read by sqlglot's parsers for PostgreSQL and MySQL: pure, and slow.

Rule 1: text may hold several statements, and a statement may be of several kinds (`DELETE` without `WHERE` is a delete
        too); what is nested counts: a CTE that deletes, EXPLAIN ANALYZE, PREPARE, DO, executable comments of MySQL.
Rule 2: what the parser can't read is "unparsable", and of the kind its first word says.
Rule 3: never raises, whatever the text.

Cost: 0.3 to 1 ms for a short statement, some 5 ms a KB for long ones: for a worker process, not for the relay.
"""

from __future__ import annotations

import re
from typing import Any, Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from proxyd import redact

sqlglot.logger.disabled = True  # it warns of what it can't read with the statement's text, secrets and all

DIALECTS: Final = ("postgres", "mysql")
MAX_STATEMENTS: Final = 200  # of one text: a migration sent whole; beyond, it is "unparsable"
MAX_DEPTH: Final = 4  # of SQL in SQL in SQL

_BY_TYPE: Final[tuple[tuple[type[Any] | tuple[type[Any], ...], str], ...]] = (
    ((exp.Transaction, exp.Commit, exp.Rollback), "transaction"),
    (exp.Insert, "insert"),
    (exp.Update, "update"),
    (exp.Delete, "delete"),
    (exp.Merge, "merge"),
    (exp.TruncateTable, "truncate"),
    (exp.Drop, "drop"),
    (exp.Create, "create"),
    (exp.Alter, "alter"),
    (exp.Grant, "grant"),
    (exp.Revoke, "revoke"),
    (exp.Copy, "copy"),
    (exp.Set, "set"),
    ((exp.Query, exp.Values), "select"),
)
_BY_WORD: Final = {
    "select": "select", "table": "select", "values": "select", "with": "select", "fetch": "select", "insert": "insert",
    "replace": "insert", "update": "update", "delete": "delete", "merge": "merge", "truncate": "truncate", "drop": "drop",
    "create": "create", "alter": "alter", "rename": "alter", "grant": "grant", "revoke": "revoke", "copy": "copy",
    "load": "copy", "import": "copy", "call": "call", "set": "set", "reset": "set", "begin": "transaction",
    "start": "transaction", "commit": "transaction", "rollback": "transaction", "savepoint": "transaction",
    "release": "transaction", "end": "transaction", "abort": "transaction",
}  # fmt: skip
_CHANGING: Final = frozenset(
    {
        "insert",
        "update",
        "delete",
        "merge",
        "truncate",
        "drop",
        "create",
        "alter",
        "grant",
        "revoke",
        "copy",
        "call",
    }
)
_CHANGES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)
_PEOPLE = re.compile(r"(?is)\s*(?:(?:create|alter|drop|rename)\s+(?:or\s+replace\s+)?(?:user|role|group|login)\b"
                     r"(?!\s+mapping)|set\s+password\b)")  # fmt: skip
_EXPLAIN = re.compile(
    r"(?is)\s*(?:explain|describe|desc)\b((?:\s*\([^()]*\)|\s+analyze\b|\s+verbose\b|\s+format\s*=\s*\w+)*)"
)
_PREPARE = re.compile(r"(?is)\s*prepare\s+\S+?\s*(?:\([^()]*\)\s*)?(?:\bas\b|\bfrom\b)")
_COPY_QUERY = re.compile(r"(?is)\s*copy\s*\((.*)\)")
_RUNS_TEXT = re.compile(r"(?is)\s*(?:do\b|execute\s+immediate\b|begin\s+not\s+atomic\b)")
_EXECUTABLE = re.compile(r"/\*M?!\d*(.*?)(?:\*/|\Z)", re.DOTALL)
_WORDS = re.compile(r"[a-z_]+")


def statements(text: str, dialect: str) -> list[str]:
    """Split into statements without comments, spaces made one; executable comments of MySQL are text."""
    if dialect == "mysql":
        text = _EXECUTABLE.sub(r" \1 ", text)
    split: list[list[str]] = [[]]
    for kind, piece in redact.tokens(text, dialect):
        if kind in ("space", "comment"):
            split[-1].append(" ")
        elif piece == ";":
            split.append([])
        else:
            split[-1].append(piece)
    found = (_one_space(parts) for parts in split)
    return [one for one in found if one]


def _one_space(parts: list[str]) -> str:
    kept: list[str] = []
    for part in parts:
        if part != " " or (kept and kept[-1] != " "):
            kept.append(part)
    return "".join(kept).strip()


def kinds(text: str, dialect: str) -> list[frozenset[str]]:
    """Give the kinds of each statement in the text."""
    found = statements(text, dialect)
    read = [frozenset(_kinds(one, dialect, 0)) for one in found[:MAX_STATEMENTS]]
    if len(found) > MAX_STATEMENTS:
        read.append(frozenset({"unparsable"}))
    return read


def by_word(text: str) -> frozenset[str]:
    """Give the kinds of text too long to be read whole."""
    return frozenset({"unparsable", _BY_WORD.get(redact.verb(text), "other")})


def _kinds(text: str, dialect: str, depth: int) -> set[str]:
    if depth > MAX_DEPTH:
        return {"unparsable"}
    if _RUNS_TEXT.match(text):
        return _by_words(text)
    if (match := _EXPLAIN.match(text)) and len(text) > match.end():
        runs = "analyze" in match[1].lower()
        return {"other"} | (_kinds(text[match.end() :], dialect, depth + 1) if runs else set())
    if match := _PREPARE.match(text):
        return {"other"} | _prepared(text[match.end() :].strip(), dialect, depth)
    if match := _COPY_QUERY.match(text):
        return {"copy"} | _kinds(match[1], dialect, depth + 1)
    found = _parsed(text, dialect)
    if _PEOPLE.match(text):
        found.add("user")
    return found


def _prepared(inner: str, dialect: str, depth: int) -> set[str]:
    """Look into PREPARE: a statement, or (MySQL) a literal that holds one, or a variable nobody can look into."""
    if inner.startswith(("'", '"')):
        inner = inner[1:-1].replace(inner[0] * 2, inner[0])
        return set().union(*(_kinds(one, dialect, depth + 1) for one in statements(inner, dialect)))
    return {"unparsable"} if inner.startswith("@") else _kinds(inner, dialect, depth + 1)


def _by_words(text: str) -> set[str]:
    """Give every kind whose word stands in a block of code, in its literals too; code that runs text is unreadable."""
    words = set(_WORDS.findall(text.lower()))
    found = {kind for word in words if (kind := _BY_WORD.get(word, "")) in _CHANGING} | {"other"}
    if "execute" in words:
        found.add("unparsable")
    if "where" not in words:
        found |= {f"{kind}-without-where" for kind in ("update", "delete") if kind in found}
    if words & {"user", "role"} and found & {"create", "alter", "drop"}:
        found.add("user")
    return found


def _parsed(text: str, dialect: str) -> set[str]:
    """Parse one statement (rule 2, rule 3)."""
    word = _BY_WORD.get(redact.verb(text), "other")
    try:
        tree = sqlglot.parse_one(text, read=dialect)
        if isinstance(tree, exp.Command):
            return {word}
        found = _of_tree(tree)
    except (SqlglotError, RecursionError, ValueError, TypeError, AttributeError, LookupError):
        hidden = _by_words(text) if redact.verb(text) == "with" else set()
        return {"unparsable", word} | hidden  # a parser with a bug has not read it either
    if found or redact.verb(text) != "other":
        return found or {word}
    return {
        "other",
        "unparsable",
    }  # a word that begins no statement, which the parser takes for an expression


def _of_tree(tree: exp.Expr) -> set[str]:
    found = {kind for types, kind in _BY_TYPE if isinstance(tree, types)}
    for node in tree.find_all(*_CHANGES, exp.Into):
        found |= {kind for types, kind in _BY_TYPE if isinstance(node, types)}
        if isinstance(node, exp.Into):
            found.add("create")
        elif isinstance(node, exp.Update | exp.Delete) and not _is_limited(node):
            found.add(f"{node.key}-without-where")
    return found


def _is_limited(node: exp.Expr) -> bool:
    """Tell whether a WHERE looks at anything: WHERE true and WHERE 1 = 1 do not."""
    where = node.args.get("where")
    return where is not None and where.find(exp.Column) is not None
