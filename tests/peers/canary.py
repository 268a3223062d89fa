"""Values that must be found nowhere: a server makes them itself, the test knows them and looks for every form of each.

Rule 1: canary `k` is drawn from md5(salt || k). The salt gets into the server past the proxy, so that a statement can
        ask for `cn_word(17)` without holding one byte of what comes back.
Rule 2: all are looked for at once, in one pass over the bytes, so that ten thousand cost what one does.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

WINDOW = 8  # bytes: the shortest form there is, a binary integer
NUMBER_DIGITS = 15  # hex digits of the digest in a number
NUMBER_BASE = 1 << 60  # every number is eight bytes long, whatever packs it

POSTGRES = """
create or replace function cn_hex(k bigint) returns text immutable language sql as $$ select md5('{salt}' || k) $$;
create or replace function cn_word(k bigint) returns text immutable language sql as $$ select 'cny' || cn_hex(k) $$;
create or replace function cn_number(k bigint) returns bigint immutable language sql as
    $$ select ('x0' || substr(cn_hex(k), 1, 15))::bit(64)::bigint + 1152921504606846976 $$;
create or replace function cn_blob(k bigint) returns bytea immutable language sql as $$ select decode(cn_hex(k), 'hex') $$;
create or replace function cn_uuid(k bigint) returns uuid immutable language sql as $$ select cn_hex(k)::uuid $$;
create or replace function cn_decimal(k bigint) returns numeric immutable language sql as
    $$ select cn_number(k)::numeric / 1000 $$;
create or replace function cn_double(k bigint) returns float8 immutable language sql as $$ select cn_number(k)::float8 $$;
"""
MARIADB = """
create function cn_word(k bigint) returns varchar(64) deterministic return concat('cny', md5(concat('{salt}', k)));
create function cn_number(k bigint) returns bigint deterministic
    return cast(conv(substr(md5(concat('{salt}', k)), 1, 15), 16, 10) as unsigned) + 1152921504606846976;
create function cn_blob(k bigint) returns varbinary(16) deterministic return unhex(md5(concat('{salt}', k)));
create function cn_decimal(k bigint) returns decimal(30, 3) deterministic return cn_number(k) / 1000;
create function cn_double(k bigint) returns double deterministic return cn_number(k);
"""


class Found(NamedTuple):
    """A canary that was found, by what form, and where."""

    key: int
    form: str
    offset: int


class Canaries:
    """The canaries of one server; `issue` numbers them, and those issued are looked for."""

    def __init__(self, salt: str) -> None:
        self.salt = salt
        self.issued = 0

    def issue(self) -> int:
        """Give the key of a canary nobody has had."""
        self.issued += 1
        return self.issued

    def hex(self, key: int) -> str:
        """What all forms are drawn from."""
        return hashlib.md5(f"{self.salt}{key}".encode(), usedforsecurity=False).hexdigest()

    def word(self, key: int) -> str:
        """The canary as text."""
        return "cny" + self.hex(key)

    def number(self, key: int) -> int:
        """The canary as a 64-bit integer."""
        return NUMBER_BASE + int(self.hex(key)[:NUMBER_DIGITS], 16)

    def blob(self, key: int) -> bytes:
        """The canary as 16 bytes."""
        return bytes.fromhex(self.hex(key))

    def uuid(self, key: int) -> UUID:
        """The canary as a UUID."""
        return UUID(self.hex(key))

    def decimal(self, key: int) -> Decimal:
        """The canary with three places behind the point."""
        return Decimal(self.number(key)) / 1000

    def forms(self, key: int) -> dict[str, bytes]:
        """Everything one canary could look like on its way; each at least WINDOW bytes long."""
        text, number, blob = self.hex(key), self.number(key), self.blob(key)
        return {
            "text": text[:16].encode(),
            "text's end": text[16:].encode(),
            "capitals": text[:16].upper().encode(),
            "UTF-16": text[:8].encode("utf-16-le"),
            "UTF-16 big-endian": text[:8].encode("utf-16-be"),
            "hex of the text": text[:8].encode().hex().encode(),
            "bytes": blob[:8],
            "bytes' end": blob[8:],
            "bytes escaped": "".join(f"\\x{byte:02x}" for byte in blob[:4]).encode(),
            "base64": base64.b64encode(blob)[:16],
            "UUID": f"{text[:8]}-{text[8:12]}".encode(),
            "digits": str(number)[:16].encode(),
            "integer": struct.pack(">q", number),
            "integer little-endian": struct.pack("<q", number),
            "double": struct.pack(">d", number),
            "double little-endian": struct.pack("<d", number),
            "double's digits": repr(float(number))[:14].encode(),
        }


class Search:
    """Looks for all canaries that were issued by now."""

    def __init__(self, canaries: Canaries) -> None:
        self._by_head: dict[bytes, list[tuple[int, str, bytes]]] = defaultdict(list)
        for key in range(1, canaries.issued + 1):
            for form, needle in canaries.forms(key).items():
                self._by_head[needle[:WINDOW]].append((key, form, needle))

    def find(self, data: bytes) -> list[Found]:
        """Give every canary in `data`."""
        heads, found = self._by_head, []
        for at in range(len(data) - WINDOW + 1):
            if (head := data[at : at + WINDOW]) in heads:
                found += [
                    Found(key, form, at) for key, form, needle in heads[head] if data.startswith(needle, at)
                ]
        return found

    def find_in(self, parts: Iterable[tuple[str, bytes]]) -> list[tuple[str, Found]]:
        """Give what is found in parts that have names."""
        return [(name, found) for name, data in parts for found in self.find(data)]
