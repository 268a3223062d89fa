"""Reads a TOML table into frozen structs; whatever is wrong is said with the line of the key.

Rule 1: a struct is its own schema: its fields' types, and what `Check` adds to them, are all there is to say.
Rule 2: an error is one line, `PATH:LINE: key: what is wrong`; the values of secrets are never in it.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, get_args, get_origin, get_type_hints

import msgspec

from proxyd.errors import ConfigError

CLOSE_ENOUGH: Final = 0.5  # of difflib's ratio: below it, a suggested key is a guess and all keys are shown
DERIVED: Final = object()  # metadata of a field that is filled later: not a key of the file
Where = tuple[str | int, ...]  # the way to a value: keys of tables and places in arrays


@dataclass(frozen=True)
class Check:
    """Metadata of an annotated type: what else must hold of its value."""

    test: Callable[[str, Path], object]


def one_of(words: tuple[str | int, ...]) -> Callable[[str | int, Path], str | int]:
    """Return a test for `Check` that lets only these words, or numbers, pass."""

    def check(value: str | int, _: Path) -> str | int:
        if value not in words:
            said = f'"{value[:60]}"' if isinstance(value, str) else value
            raise ValueError(f"{said} is not one of {', '.join(map(str, words))}")
        return value

    return check


def suggestion(name: str, known: Iterable[str]) -> str:
    """Ask, for the end of an error, whether the nearest of the known names was meant; empty when none is near."""
    near = difflib.get_close_matches(name, known, 1, CLOSE_ENOUGH)
    return f'; did you mean "{near[0]}"?' if near else ""


class Reader:
    """Turns the parsed table into structs; whatever is wrong is said with the key's line."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._base, self._text = path, path.parent, text

    def fail(self, where: Where, message: str) -> NoReturn:
        """Raise ConfigError for the key at `where`."""
        lines, at = _Lines(self._text).found, where
        while at not in lines:
            at = at[:-1]
        raise ConfigError(f"{_dotted(where)}: {message}" if where else message, self._path, lines[at])

    def struct(self, data: Any, kind: Any, where: Where, derived: dict[str, Any]) -> Any:
        """Convert a table into the struct `kind`; `derived`: what load knows and the table must not say."""
        hints, required = _shape(kind)
        keys = [
            key
            for key, hint in hints.items()
            if not (get_origin(hint) is Annotated and DERIVED in get_args(hint))
        ]
        for key in self._table(data, where):
            if key not in keys:
                known = suggestion(key, keys) or f"; known here: {', '.join(keys)}"
                self.fail((*where, key), f"unknown key{known}")
        for name in required:
            if name not in data:
                self.fail(where, f'"{name}" is missing')
        values = {key: self._value(value, hints[key], (*where, key)) for key, value in data.items()}
        return kind(
            **values, **{key: value for key, value in derived.items() if key in hints and key not in keys}
        )

    def _table(self, data: Any, where: Where) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail(where, f"expected a table, got {_named(data)}")
        return data

    def _value(self, data: Any, hint: Any, where: Where) -> Any:
        extras: tuple[Any, ...] = ()
        if type(None) in get_args(hint):  # TOML has no null: an optional key has a value, or is not there
            hint = next(kind for kind in get_args(hint) if kind is not type(None))
        if get_origin(hint) is Annotated:
            extras = get_args(hint)[1:]
        kind = get_args(hint)[0] if extras else hint
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.struct(data, kind, where, {})
        if get_origin(kind) is dict:
            each = get_args(kind)[1]
            named = isinstance(each, type) and issubclass(each, msgspec.Struct)
            return {
                key: self.struct(value, each, (*where, key), {"name": key})
                if named
                else self._value(value, each, (*where, key))
                for key, value in self._table(data, where).items()
            }
        if get_origin(kind) is list and isinstance(data, list):
            if not data and extras:
                self.fail(where, "must not be empty")
            return [
                self._value(value, get_args(kind)[0], (*where, index)) for index, value in enumerate(data)
            ]
        return self._leaf(data, hint, where, extras)

    def _leaf(self, data: Any, hint: Any, where: Where, extras: tuple[Any, ...]) -> Any:
        checks = [extra.test for extra in extras if isinstance(extra, Check)]
        plain = str if checks else hint
        if get_origin(hint) is Literal:
            checks, plain = [one_of(get_args(hint))], type(get_args(hint)[0])
        try:
            value = msgspec.convert(data, plain)
        except msgspec.ValidationError as error:
            self.fail(where, str(error).replace("`", "").replace("Expected", "expected"))
        if isinstance(value, float) and not math.isfinite(value):
            self.fail(where, "expected a finite number")
        for check in checks:
            try:
                value = check(value, self._base)
            except ValueError as error:
                self.fail(where, str(error))
        return value


@functools.cache
def _shape(kind: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the types of a struct's fields and the names of those it needs: slow to find, the same each time."""
    required = [field.name for field in msgspec.structs.fields(kind) if field.required]
    return get_type_hints(kind, include_extras=True), required


def _named(value: Any) -> str:
    return {list: "an array", str: "text", bool: "a boolean", int: "a number", float: "a number"}.get(
        type(value), "a date"
    )


def _dotted(where: Where) -> str:
    """Write a key path as the file does: users.alice.keys[0]."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part))
    return text


_TOKEN: Final = re.compile(
    r"(?P<space>(?:[ \t\r]|\#[^\n]*)+)|(?P<newline>\n)|(?P<mark>[\[\]{}=,.])"
    r"|(?P<text>\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*')"
    r"|(?P<bare>[^\s\[\]{}=,.\#\"']+)",
    re.DOTALL,
)


class _Lines:
    """Finds the line of every key and array element in text that tomllib has accepted (TOML 1.0)."""

    def __init__(self, text: str) -> None:
        self.found: dict[Where, int] = {(): 1}
        self._elements: dict[Where, int] = {}  # arrays of tables: how many so far
        self._tokens: list[tuple[str, str, int]] = []
        line = 1
        for match in _TOKEN.finditer(text):
            if match.lastgroup != "space":
                self._tokens.append((match.lastgroup or "", match[0], line))
            line += match[0].count("\n")
        self._tokens.append(("end", "", line))
        self._at = 0
        self._document()

    def _take(self, *texts: str) -> str:
        """Step over the next token if it is one of `texts`, or whatever it is when none is named."""
        token = self._tokens[self._at][1]
        if texts and token not in texts:
            return ""
        self._at += 1
        return token

    def _document(self) -> None:
        table: Where = ()
        while self._tokens[self._at][0] != "end":
            if self._take("\n"):
                continue
            if self._take("["):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Where:
        line, array = self._tokens[self._at][2], bool(self._take("["))
        *parents, last = self._key()
        path: Where = ()
        for part in parents:
            path = self._latest((*path, part), line)
        path = (*path, last)
        if array:
            self.found.setdefault(path, line)
            self._elements[path] = self._elements.get(path, -1) + 1
        while self._take("]"):
            pass
        return self._latest(path, line)

    def _latest(self, path: Where, line: int) -> Where:
        if path in self._elements:
            path = (*path, self._elements[path])
        self.found.setdefault(path, line)
        return path

    def _key(self) -> list[str]:
        parts = []
        while True:
            kind, text, _ = self._tokens[self._at]
            self._at += 1
            parts.append(next(iter(tomllib.loads(f"{text}=0"))) if kind == "text" else text)
            if not self._take("."):
                return parts

    def _pair(self, table: Where) -> None:
        line, path = self._tokens[self._at][2], table
        for part in self._key():
            path = (*path, part)
            self.found.setdefault(path, line)
        self._take("=")
        self._value(path)

    def _value(self, path: Where) -> None:
        if self._take("["):
            index = 0
            while not self._take("]"):
                if not self._take("\n", ","):
                    self.found.setdefault((*path, index), self._tokens[self._at][2])
                    self._value((*path, index))
                    index += 1
        elif self._take("{"):
            while not self._take("}"):
                if not self._take("\n", ","):
                    self._pair(path)
        else:
            # "1.5" and dates are several tokens
            while self._tokens[self._at][1] not in ("\n", ",", "]", "}", ""):
                self._at += 1
