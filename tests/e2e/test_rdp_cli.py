"""An operator's tools on a real desktop session: pictures of it at two moments, and what was typed."""
# ruff: noqa: RUF001 - the marks around keys

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from proxyd.access import hash_password
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.process import eventually, free_port
from tests.peers.rdp import freerdp, xrdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.shadow import Shadow
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, same
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and freerdp.INSTALLED), reason="xrdp or xfreerdp is not installed"
    ),
    pytest.mark.mission("M5", "M6", "M16"),
]

PASSWORD = "Alice's pass"
LINE = "echo 'Hello [World]!' > typed"


def furnished(directory: Path, desktop: Xrdp | Shadow) -> tuple[Proxyd, Identity, int]:
    """Proxyd with one desktop behind it."""
    proxyd, identity, port = Proxyd(directory / "p"), Identity(directory / "front"), free_port()
    identity.key.chmod(0o600)
    secret = directory / "target.password"
    secret.write_text(desktop.password)
    secret.chmod(0o600)
    proxyd.settings["listen"]["rdp"] = {
        "address": f"{HOST}:{port}",
        "certificate": str(identity.certificate),
        "key": str(identity.key),
    }
    proxyd.settings["targets"] = {
        "desk": {
            "protocol": "rdp",
            "address": desktop.address,
            "tls": "verify-full",
            "tls_ca": str(desktop.identity.ca),
            "accounts": {desktop.user: {"password": f"file:{secret}"}},
        }
    }
    proxyd.user("alice", password=hash_password(PASSWORD))
    proxyd.grant(users=["alice"])
    return proxyd, identity, port


def test_pictures_and_keys_of_a_real_session(short: Path) -> None:
    pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")
    with Xrdp(short / "x") as desktop:
        proxyd, identity, port = furnished(short, desktop)
        with proxyd:
            with FreeRdp(
                short / "c", port, "alice%desk", PASSWORD, fingerprint=identity.fingerprint
            ) as client:
                before = same(client.screen, desktop.screen)
                session = proxyd.the_live_session()["id"]
                seen_at = time.time()
                client.screen.click(*IN_TERMINAL)
                client.screen.enter(LINE)
                typed = desktop.home / "typed"
                eventually("what was typed arrives", lambda: typed.exists() and bool(typed.read_text()))
                after = same(client.screen, desktop.screen)
                eventually(
                    "a picture of the live session",
                    lambda: _shot(proxyd, session, short).differing(after) == 0,
                )
                assert proxyd.run_ctl("watch", session).code == 2  # a pipe
            proxyd.ended(session)
            moment = datetime.fromtimestamp(seen_at, UTC).isoformat()
            assert _shot(proxyd, session, short, "--at", moment).differing(before) == 0
            assert _shot(proxyd, session, short).differing(after) == 0
            assert before.differing(after) > 0
            log = proxyd.ctl("log", session).data
            assert [entry["text"] for entry in log["entries"] if entry["kind"] == "typed"] == [
                f"{LINE}‹Enter›"
            ]
            assert {view["kind"] for view in log["views"]} == {"picture", "replay"}
            plain = proxyd.run_ctl("replay", session)
            assert (plain.code, plain.out) == (2, "")
            assert f"proxyctl screenshot {session[:8]}" in plain.err


def _shot(proxyd: Proxyd, session: str, directory: Path, *more: str) -> Picture:
    """A picture as proxyctl draws it."""
    target = directory / "shot.png"
    told = proxyd.ctl("screenshot", session, "-o", str(target), "--force", *more).data
    image = Image.open(target)
    assert image.size == (told["width"], told["height"])
    assert told["unread"] == 0
    return Picture(*image.size, image.tobytes())
