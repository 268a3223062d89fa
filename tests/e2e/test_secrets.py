"""The canary: what nobody may see is looked for everywhere the daemon writes, shows or says anything."""

from __future__ import annotations

import time
from pathlib import Path

import argon2
import pyotp
import pytest

from tests.e2e.lab import Lab
from tests.peers import Terminal
from tests.peers.clients import OpenSSH
from tests.peers.daemon import TARGET, USER

SSH = OpenSSH()
PASSWORD = "canary-user-password-5d1f"
WRONG = "canary-wrong-password-77aa"
TOTP = "KRSXG5CTMVRXEZLUKN2XAZLS"
TARGET_PASSWORD = "canary-target-password-c0de"
PASSPHRASE = "canary-passphrase-9b9b"

pytestmark = [pytest.mark.mission("M10", "M16", "M18"), pytest.mark.timeout(180)]


def test_no_secret_is_written_shown_or_said(own_lab, short: Path) -> None:
    kept: dict[str, bytes] = {}

    def before(lab: Lab) -> None:
        secret = lab.directory / "alice.totp"
        secret.write_text(TOTP)
        secret.chmod(0o600)
        bad = lab.directory / "bad.password"
        bad.write_text(TARGET_PASSWORD)
        bad.chmod(0o600)
        hashed = argon2.PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
        kept["hash"] = hashed.encode()
        kept["key"] = lab.sshd.key.path.read_bytes().splitlines()[2]
        lab.proxyd.user(USER, password=hashed, totp=f"file:{secret}")
        accounts = lab.proxyd.settings["targets"][TARGET]["accounts"]
        accounts["other"] = {"password": f"file:{bad}"}  # sshd refuses it: the failure must not tell it
        accounts["missing"] = {"password": "file:/nowhere/" + PASSPHRASE}
        lab.proxyd.settings["log"] = {"format": "json", "level": "debug"}

    lab = own_lab(before)
    at = lab.proxied(short)
    shown = b""
    for login, password, code in (
        (lab.sshd.user, WRONG, None),
        (lab.sshd.user, PASSWORD, pyotp.TOTP(TOTP).now()),
        ("other", PASSWORD, pyotp.TOTP(TOTP).at(time.time() + 30)),
    ):
        way = at.with_user(f"{USER}+{login}+{TARGET}")
        options = ("-o", "PreferredAuthentications=keyboard-interactive", "-o", "NumberOfPasswordPrompts=1")
        with Terminal(["ssh", "-F", way.config, *options, "peer", "echo in; exit 7"]) as terminal:
            terminal.expect("[Pp]assword:")
            terminal.type(password + "\r")
            if code is not None:
                terminal.expect("One-time code:")
                terminal.type(code + "\r")
            terminal.wait()
            shown += bytes(terminal.seen)
    assert b"in" in shown, "one login must have worked"
    assert b"refused the credential of account other" in shown

    lab.proxyd.quiet()
    sessions = lab.proxyd.sessions()
    assert {row["login"] for row in sessions} == {lab.sshd.user, "other"}
    recorded = b"".join(
        repr(record).encode() for row in sessions for record in lab.proxyd.recording(row["id"]).records()
    )
    assert b"exec" in recorded
    said = b"".join(
        lab.proxyd.ctl(*words, check=False).out.encode()
        for words in (
            ("--json", "status"),
            ("--json", "sessions"),
            ("--json", "users", "list"),
            ("show", sessions[0]["id"]),
        )
    )
    metrics = "\n".join(lab.proxyd.metrics()).encode()
    on_disk = b"".join(
        path.read_bytes()
        for folder in ("state", "recordings")
        for path in (lab.proxyd.home / folder).rglob("*")
        if path.is_file()
    )
    places = {
        "log": lab.proxyd.logs().encode(),
        "recording": recorded,
        "control": said,
        "metrics": metrics,
        "disk": on_disk,
        "terminal": shown,
        "arguments": Path(f"/proc/{lab.proxyd.pid}/cmdline").read_bytes(),
    }
    secrets = {
        "password": PASSWORD.encode(),
        "wrong password": WRONG.encode(),
        "totp secret": TOTP.encode(),
        "target password": TARGET_PASSWORD.encode(),
        "hash": kept["hash"],
        "target key": kept["key"],
    }
    found = [
        (name, place) for name, secret in secrets.items() for place, text in places.items() if secret in text
    ]
    assert found == []
    assert all(len(text) > 20 for text in places.values()), "a place that is empty proves nothing"
