"""What the log writes, and above all what it never writes."""

from __future__ import annotations

import io
import json
import logging  # noqa: TID251 - what a library does
import sys

import pytest
import structlog

from proxyd import config, log
from proxyd.vault import Secret

CANARY = "hunter2-canary"
PEM = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch):
    """Set up the log with some settings and return what gets written from then on."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()

    def setup(**settings: str) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", stream)
        log.setup(config.Log(**settings))
        return stream

    yield setup
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_event_with_its_fields(written) -> None:
    logger = log.get("listener")
    out = written(format="json")
    logger.info("ready", ssh="127.0.0.1:2222", sessions=3)
    event = json.loads(out.getvalue())
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "ready",
        "module": "listener",
        "level": "info",
        "ssh": "127.0.0.1:2222",
        "sessions": 3,
    }


def test_level_and_format(written) -> None:
    out = written(format="auto", level="warning")
    logger = log.get("x")
    logger.info("unseen")
    logger.warning("seen")
    assert json.loads(out.getvalue())["event"] == "seen"
    out = written(format="console")
    logger.info("a line", n=1)
    assert "a line" in out.getvalue().splitlines()[-1]
    assert "n=1" in out.getvalue().splitlines()[-1]


@pytest.mark.parametrize(
    "fields",
    [
        {"password": CANARY},
        {"user_password_hash": CANARY},
        {"TOTP": CANARY},
        {"code": CANARY},
        {"api_token": CANARY},
        {"client_secret": [CANARY]},
        {"nested": {"deeper": [{"passphrase": CANARY}]}},
        {"deep": {"a": {"b": {"c": {"d": {"e": CANARY}}}}}},
        {"value": Secret(CANARY.encode())},
        {"several": [Secret(CANARY.encode())]},
        {"data": CANARY.encode()},
        {"view": memoryview(CANARY.encode())},
        {"text": f"key: {PEM}"},
        {"text": f"AGE-SECRET-KEY-1{CANARY.upper().replace('-', '')}"},
        {"hash": f"$argon2id$v=19$m=1,t=1,p=1${CANARY}"},
        {"event_id": PEM[:-20]},
    ],
)
def test_no_secret_is_written(written, fields: dict[str, object]) -> None:
    out = written(format="json", level="debug")
    log.get("x").error("login failed", **fields)
    assert json.loads(out.getvalue())["event"] == "login failed"
    assert CANARY.lower() not in out.getvalue().lower()
    assert CANARY.replace("-", "").lower() not in out.getvalue().lower()


def test_harmless_fields_stay(written) -> None:
    out = written(format="json")
    log.get("x").info(
        "fine", fingerprint="SHA256:abc", data=b"1234", status=0, gone=None, password=None, ok=True
    )
    event = json.loads(out.getvalue())
    assert (event["fingerprint"], event["data"], event["status"]) == ("SHA256:abc", "<4 bytes>", 0)
    assert (event["gone"], event["password"], event["ok"]) == (None, None, True)


def test_tracebacks_are_cleaned(written) -> None:
    out = written(format="json")
    try:
        int(PEM)
    except ValueError:
        log.get("x").exception("crashed")
    event = json.loads(out.getvalue())
    assert "ValueError" in event["exception"]
    assert "test_log.py" in event["exception"]
    assert CANARY not in out.getvalue()


def test_long_text_is_cut(written) -> None:
    out = written(format="json")
    log.get("x").info("long", text="y" * 10_000)
    assert len(out.getvalue()) < log.MAX_TEXT + 300


def test_libraries_follow_the_same_rules(written) -> None:
    out = written(format="json", level="info")
    logging.getLogger("asyncssh").info("unseen")
    logging.getLogger("asyncssh").warning("bad key %s", PEM)
    event = json.loads(out.getvalue())
    assert (event["module"], event["level"]) == ("asyncssh", "warning")
    assert CANARY not in out.getvalue()
