"""Events with fields, written to standard error: JSON in production, coloured lines on a terminal.

Rule 1: an event is a name and fields, never text with values in it.
Rule 2: no secret gets out: fields named like one, Secret values, bytes, and text that looks like key material
    are replaced before anything is written, tracebacks included.
Rule 3: libraries that log through the standard library end in the same stream under the same rules.
"""

from __future__ import annotations

import logging  # noqa: TID251 - the one place where the standard library's logging is tied in
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import structlog

from proxyd import config

QUIET_LIBRARIES: Final = (
    "asyncssh",
    "spnego",  # writes login tokens at DEBUG
    "PIL",
    "asyncio",
    "alembic",
    "sqlalchemy",
    "anycorn",
)  # their INFO tells of every connection
SILENT_LIBRARIES: Final = (
    "anyio.streams.tls",  # a traceback for every scanner that breaks off a handshake
)
MAX_DEPTH: Final = 4  # of nested fields looked into; deeper ones are not shown
MAX_TEXT: Final = 2048  # characters of one field; an event is no place for a payload

_NAMES: Final = re.compile(
    r"pass(?:word|wd|phrase)|secret|token|credential|private|authorization|\botp|totp|^code$|identity|^dek$",
    re.IGNORECASE,
)
_MATERIAL: Final = re.compile(
    r"-----BEGIN[^-]*PRIVATE KEY-----.*?(?:-----END[^-]*-----|\Z)|AGE-SECRET-KEY-[0-9A-Z]+|\$argon2\w*\$[^\s'\"]+",
    re.DOTALL,
)
REDACTED: Final = "<redacted>"


def redact(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace what must not be written (Rule 2); a structlog processor."""
    return {key: _clean(key, value, 0) for key, value in event.items()}


def _clean(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if key and key != "event" and _NAMES.search(key):
        return REDACTED
    if isinstance(value, Mapping) and depth < MAX_DEPTH:
        return {str(name): _clean(str(name), item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < MAX_DEPTH:
        return [_clean("", item, depth + 1) for item in value]
    return value if isinstance(value, int | float) else _clean_text(key, value)


def _clean_text(key: str, value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return f"<{type(value).__name__}>"
    text = _MATERIAL.sub(REDACTED, str(value))
    if key == "exception" or len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]}<{len(text) - MAX_TEXT} more>"


def _module(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["module"] = event["_record"].name
    return event


def setup(settings: config.Log) -> None:
    """Write events from now on as `settings` says; call it again to change that."""
    level = getattr(logging, settings.level.upper())
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,  # loggers are made at import, before the settings are known
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_module, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    for name in SILENT_LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def standard(name: str) -> logging.Logger:
    """Give a library that asks for one a logger of the standard library's, which ends in our stream (Rule 3)."""
    return logging.getLogger(name)


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module; its events carry `module=name`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return logger
