"""Clients that do what the random drivers can't: portals fetched in pieces, fastpath calls, tracked variables.

Each gives the statements it sent, in order, for a recording to tell.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from tests.e2e.canary_style import Log, Sent
from tests.peers.canary import Canaries
from tests.peers.mariadb import CLIENT
from tests.peers.postgres import BIN

LO_BLOCK = 8192  # libpq's LO_BUFSIZE: what one lowrite or loread carries
LO_FUNCTIONS = (
    "select proname, oid from pg_catalog.pg_proc where proname in ('lo_open', 'lo_close', 'lo_creat', 'lo_create', 'lo_unlink', "
    "'lo_lseek', 'lo_lseek64', 'lo_tell', 'lo_tell64', 'lo_truncate', 'lo_truncate64', 'loread', 'lowrite') "
    "and pronamespace = (select oid from pg_catalog.pg_namespace where nspname = 'pg_catalog')"
)  # what libpq asks before its first call, in one line
PIECE = 7  # rows asked of a portal at once


async def portals(canaries: Canaries, draw: Random, options: dict[str, Any]) -> Log:
    """asyncpg: binary results of portals that are fetched from in pieces."""
    log = Log()
    connection = await asyncpg.connect(**options)
    try:
        await connection.execute("begin")
        log.sent.append(Sent("simple", "begin"))
        for _ in range(draw.randint(3, 6)):
            rows = draw.randint(0, 3) * PIECE + draw.randint(1, PIECE - 1)
            first = canaries.issued + 1
            for _ in range(rows):
                canaries.issue()
            text = "select cn_word(k), cn_number(k), cn_blob(k), cn_uuid(k), cn_decimal(k) from generate_series($1::bigint, $2::bigint) k"
            statement = await connection.prepare(text)
            log.sent.append(Sent("prepare", text))
            cursor = await statement.cursor(first, canaries.issued)
            fetched = PIECE
            while fetched == PIECE:
                got = await cursor.fetch(PIECE)
                fetched = len(got)
                whole = fetched < PIECE
                log.sent.append(Sent("execute", text, fetched, outcome="" if whole else "suspended"))
                log.saw("portal", *(row[0] for row in got))
        await connection.execute("commit")
        log.sent.append(Sent("simple", "commit"))
    finally:
        await connection.close()
    return log


def large_objects(canaries: Canaries, directory: Path, environment: dict[str, str]) -> Log:
    """psql: files into a large object and out of it, by function calls."""
    source, sink = directory / "large", directory / "large.back"
    data = b"".join(
        canaries.word(canaries.issue()).encode() + canaries.blob(canaries.issued) for _ in range(500)
    )
    source.write_bytes(data)
    script = f"\\lo_import {source}\n\\lo_export :LASTOID {sink}\n\\lo_unlink :LASTOID\n"
    done = subprocess.run([str(BIN and BIN / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"], input=script, text=True,
                          env={**os.environ, **environment}, capture_output=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sink.read_bytes() == data
    log = Log()
    log.saw("large object", data)
    blocks = -(-len(data) // LO_BLOCK)
    for calls, first in ((3 + blocks, True), (3 + blocks, False), (1, False)):
        log.sent.append(Sent("simple", "BEGIN"))
        if first:
            log.sent.append(Sent("simple", LO_FUNCTIONS, 13))
        log.sent += [Sent("function", "") for _ in range(calls)]
        log.sent.append(Sent("simple", "COMMIT"))
    return log


def tracked(canaries: Canaries, argv: list[str]) -> Log:
    """The mariadb client, which the server tells of changed variables by itself."""
    texts = ["set session_track_system_variables = '*'"]
    for _ in range(10):
        texts.append(f"set default_master_connection = cn_word({canaries.issue()})")
        texts.append(f"select cn_word({canaries.issue()}) into @v")
        texts.append(f"select @v, cn_number({canaries.issue()})")
    done = subprocess.run([str(CLIENT), *argv, "-N", "-B"], input=";\n".join(texts) + ";\n", text=True, capture_output=True,
                          timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = Log()
    log.saw("client's row", done.stdout)
    log.sent += [Sent("simple", text, 0 if text.startswith("set") else 1) for text in texts]
    return log
