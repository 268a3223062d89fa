"""Reload: new logins follow the new file, live sessions go on, and a broken file changes nothing and says why."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.lab import Lab, held
from tests.e2e.test_target_names import clear_line
from tests.peers import Key, eventually
from tests.peers.clients import OpenSSH
from tests.peers.daemon import TARGET, USER

pytestmark = [pytest.mark.mission("M17"), pytest.mark.timeout(120)]

SSH = OpenSSH()


@pytest.mark.parametrize("how", ["SIGHUP", "proxyctl"])
def test_new_users_and_targets_come_in_and_live_sessions_stay(
    how: str, own_lab: Callable[..., Lab], short: Path
) -> None:
    lab = own_lab()
    bob = Key.generate(short / "bob")
    assert SSH.execute(lab.proxied(short, user="bob", key=bob), "echo in").code == 255
    with held(lab, short, "cat") as (client, session):
        lab.proxyd.user("bob", keys=[bob.line])
        del lab.proxyd.settings["users"][USER]
        lab.proxyd.write()
        if how == "SIGHUP":
            lab.proxyd.hup()
            eventually(
                "it has reloaded",
                lambda: any(event.get("event") == "reloaded" for event in lab.proxyd.events()),
            )
        else:
            assert "1 users" in lab.proxyd.ctl("reload").data["message"]
        assert SSH.execute(lab.proxied(short, user="bob", key=bob), "echo in").out == b"in\n"
        assert SSH.execute(lab.proxied(short), "echo in").code == 255
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"still here\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"still here\n"
        assert lab.proxyd.the_live_session()["id"] == session


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ('[users.carol]\nkyes = ["x"]\n', "kyes"),
        ("[users.carol\n", "proxyd.toml"),
        ('[[grants]]\nusers = ["dave"]\ntargets = ["nowhere"]\naccounts = ["root"]\n', "dave|nowhere"),
        ("[users.carol]\nkeys = 5\n", "keys"),
    ],
)
def test_a_broken_file_changes_nothing_and_says_why(broken: str, says: str, lab: Lab, short: Path) -> None:
    good = lab.proxyd.config.read_text()
    with held(lab, short, "cat") as (client, _):
        try:
            lab.proxyd.config.write_text(good + "\n" + broken)
            refused = lab.proxyd.ctl("--socket", str(lab.proxyd.socket), "reload", check=False)
            assert refused.code in (1, 2)
            said = refused.out + refused.err
            assert re.search(says, said), said
            assert re.search(r"proxyd\.toml:\d+", said), said
            assert SSH.execute(lab.proxied(short), "echo in").out == b"in\n"
        finally:
            lab.proxyd.config.write_text(good)
        assert client.poll() is None
    assert lab.proxyd.ctl("reload").code == 0


def test_a_grant_taken_away_shows_at_the_next_login(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = own_lab()
    assert SSH.execute(lab.proxied(short), "echo in").code == 0
    lab.proxyd.settings["grants"] = []
    lab.proxyd.write()
    lab.proxyd.ctl("reload")
    refused = SSH.execute(lab.proxied(short), "echo in")
    assert refused.code == 255
    assert TARGET in clear_line(refused)


def test_a_stop_drains_and_then_says_so(own_lab: Callable[..., Lab], short: Path) -> None:
    def soon(lab: Lab) -> None:
        lab.proxyd.settings["drain_seconds"] = 1

    lab = own_lab(soon)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    at = lab.proxied(short)
    with subprocess.Popen(
        SSH.argv(at, command="echo up; exec sleep 100"), env=SSH.env(at), **pipes
    ) as client:  # type: ignore[call-overload]
        assert client.stdout.readline() == b"up\n"
        assert lab.proxyd.stop() == 0
        _, err = client.communicate(timeout=20)
    assert b"shutting down" in err, err
    lab.proxyd.start()
    row = lab.proxyd.sessions()[0]
    assert (row["state"], row["reason"]) == ("ended", "dropped"), row
