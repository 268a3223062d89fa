"""How a user names a target, and the one clear line they get when it can't be had."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import Lab
from tests.peers import Endpoint, Key, Outcome, Terminal, free_port
from tests.peers.clients import OpenSSH
from tests.peers.daemon import TARGET, USER
from tests.peers.endpoint import HOST
from tests.peers.outcome import run

pytestmark = [pytest.mark.mission("M10"), pytest.mark.timeout(180)]

SSH = OpenSSH()
OF_SSH_ITSELF = re.compile(rb"^(Disconnected from |Connection (to|closed|reset) |exec request failed )")


def clear_line(done: Outcome) -> str:
    """The one line the user was shown, without OpenSSH's own; fails when there are more or none."""
    lines = [line for line in done.err.splitlines() if line.strip() and not OF_SSH_ITSELF.match(line)]
    assert len(lines) == 1, done.err
    text = lines[0].decode()
    shown = re.sub(rf"^Received disconnect from {HOST} port \d+:\d+: ", "", text)
    assert "Traceback" not in shown
    assert re.match(r"[A-Z]|web\d ", shown), shown
    return shown


@pytest.mark.parametrize(
    "form", ["{u}+root+{t}", "{u}@root@{t}", "{u}%root%{t}", "{u}+{t}", "{u}@{t}", "{u}%{t}"]
)
def test_a_target_is_named_in_the_login(form: str, lab: Lab, short: Path) -> None:
    user = form.format(u=USER, t=TARGET).replace("root", lab.sshd.user)
    before = lab.proxyd.ids()
    done = SSH.execute(lab.proxied(short).with_user(user), "echo here; exit 4")
    assert (done.code, done.out, done.err) == (4, b"here\n", b"")
    row = lab.proxyd.newest(before)
    assert (row["user"], row["target"], row["login"]) == (USER, TARGET, lab.sshd.user)


@pytest.mark.parametrize("separator", ["+", "@", "%"])
def test_the_name_works_before_a_path(separator: str, lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    user = separator.join([USER, lab.sshd.user, TARGET])
    source, there, back = short / "file", short / "there", short / "back"
    source.write_bytes(b"content\0\xff" * 1000)
    options = ["-F", at.config]
    for put, get in (
        (
            ["scp", "-q", *options, source, f"{user}@peer:{there}"],
            ["scp", "-q", *options, f"{user}@peer:{there}", back],
        ),
        (
            ["scp", "-qO", *options, source, f"{user}@peer:{there}"],
            ["scp", "-qO", *options, f"{user}@peer:{there}", back],
        ),
        (
            ["rsync", "-e", f"ssh -F {at.config}", source, f"{user}@peer:{there}"],
            ["rsync", "-e", f"ssh -F {at.config}", f"{user}@peer:{there}", back],
        ),
    ):
        there.unlink(missing_ok=True)
        back.unlink(missing_ok=True)
        for argv in (put, get):
            done = run(argv, env=SSH.env(at))
            assert (done.code, done.err) == (0, b""), argv
        assert back.read_bytes() == source.read_bytes()


def jump_config(lab: Lab, at: Endpoint, name: str, port: int = 22) -> Path:
    """ssh -J alice@proxy root@NAME; the proxy's host CA vouches for NAME."""
    authority = (lab.proxyd.home / "keys" / "host_ca.pub").read_text().strip()
    known = at.directory / "jump_known"
    listed = name if port == 22 else f"[{name}]:{port}"
    known.write_text(f"[{HOST}]:{at.port} {at.host_key.line}\n@cert-authority {listed} {authority}\n")
    config = at.directory / "jump_config"
    config.write_text(
        f"Host proxy\n  HostName {HOST}\n  Port {at.port}\n  User {USER}\n"
        f"Host peer\n  HostName {name}\n  Port {port}\n  User {lab.sshd.user}\n  ProxyJump proxy\n"
        f"Host *\n  IdentityFile {at.key.path}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n"
    )
    return config


def test_a_jump_ends_at_the_proxy_and_names_the_target(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    config = jump_config(lab, at, TARGET)
    before = lab.proxyd.ids()
    done = run(["ssh", "-F", config, "peer", "cat; exit 5"], stdin=b"\0binary\xff", env=SSH.env(at))
    assert (done.code, done.out, done.err) == (5, b"\0binary\xff", b"")
    row = lab.proxyd.newest(before)
    assert (row["user"], row["target"], row["login"]) == (USER, TARGET, lab.sshd.user)


def test_a_jump_may_name_the_address(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    config = jump_config(lab, at, HOST, lab.sshd.port)
    done = run(["ssh", "-F", config, "peer", "echo by address"], env=SSH.env(at))
    assert (done.code, done.out, done.err) == (0, b"by address\n", b"")


def test_copies_through_a_jump(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    config = jump_config(lab, at, TARGET)
    source, there, back = short / "file", short / "there", short / "back"
    source.write_bytes(b"x" * 300_000)
    for argv in (
        ["scp", "-q", "-F", config, source, f"peer:{there}"],
        ["rsync", "-e", f"ssh -F {config}", f"peer:{there}", back],
    ):
        done = run(argv, env=SSH.env(at))
        assert (done.code, done.err) == (0, b"")
    assert back.read_bytes() == source.read_bytes()


def test_a_jump_to_nowhere_allowed_is_refused(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    config = jump_config(lab, at, "elsewhere.example")
    done = run(["ssh", "-F", config, "peer", "true"], env=SSH.env(at))
    assert done.code == 255
    assert b"You may not reach elsewhere.example:22" in done.err


def menu(lab: Lab, directory: Path) -> Terminal:
    at = lab.proxied(directory).with_user(USER)
    return Terminal(SSH.argv(at, terminal=True), env=SSH.env(at))


@pytest.mark.parametrize("answer", ["1", TARGET])
def test_the_menu_leads_to_a_shell(answer: str, lab: Lab, short: Path) -> None:
    with menu(lab, short) as terminal:
        terminal.expect("Where to")
        terminal.expect(TARGET)
        terminal.type("nonsense\r")
        terminal.expect("Not on the list")
        terminal.type(answer + "\r")
        terminal.expect(r"[#$%>] ")
        terminal.type("echo in-$((40+2)); stty size\r")
        terminal.expect("in-42")
        terminal.expect("24 80")
        terminal.resize(40, 100)
        terminal.type("sleep 0.2; stty size; exit 3\r")
        terminal.expect("40 100")
        assert terminal.wait() == 3


def test_the_menu_can_be_left(lab: Lab, short: Path) -> None:
    with menu(lab, short) as terminal:
        terminal.expect("Where to")
        terminal.type("q\r")
        assert terminal.wait() == 0


def test_without_a_terminal_there_is_a_sentence_instead_of_a_menu(lab: Lab, short: Path) -> None:
    done = SSH.execute(lab.proxied(short).with_user(USER), "true")
    assert done.code == 255
    assert f"ssh {USER}+" in clear_line(done)


def unreachable(lab: Lab) -> None:
    lab.proxyd.target(TARGET, lab.sshd, port=free_port())


def other_host_key(lab: Lab) -> None:
    lab.proxyd.settings["targets"][TARGET]["host_keys"] = [Key.generate(lab.directory / "other").line]


def no_host_key(lab: Lab) -> None:
    lab.proxyd.settings["targets"][TARGET]["host_keys"] = []


def wrong_credential(lab: Lab) -> None:
    path = Path(
        lab.proxyd.settings["targets"][TARGET]["accounts"][lab.sshd.user]["key"].removeprefix("file:")
    )
    path.write_bytes(Key.generate(lab.directory / "wrong").path.read_bytes())


def no_credential(lab: Lab) -> None:
    account = lab.proxyd.settings["targets"][TARGET]["accounts"][lab.sshd.user]
    account["key"] = "command:false"


def no_grant(lab: Lab) -> None:
    lab.proxyd.settings["grants"] = []


def not_now(lab: Lab) -> None:
    tomorrow = time.strftime("%a", time.gmtime(time.time() + 2 * 86400)).lower()
    lab.proxyd.settings["grants"][0]["when"] = [f"{tomorrow} 00:00-24:00"]


def no_exec(lab: Lab) -> None:
    lab.proxyd.settings["grants"][0]["channels"] = ["shell"]


@pytest.mark.parametrize(
    ("change", "words", "code"),
    [
        (unreachable, r"refuse|not reach|no answer|can't", 255),
        (other_host_key, r"host key", 255),
        (no_host_key, r"host key", 255),
        (wrong_credential, r"refused|login|credential", 255),
        (no_credential, r"credential|login", 255),
        (no_grant, r"grant|may not|not reach", 255),
        (not_now, r"only at these times", 255),
        (no_exec, r"exec", 255),
    ],
)
@pytest.mark.mission("M11")
def test_a_refusal_is_one_clear_line(
    change: Callable[[Lab], None], words: str, code: int, own_lab: Callable[..., Lab], short: Path
) -> None:
    lab = own_lab(change)
    done = SSH.execute(lab.proxied(short), "echo never")
    assert done.out == b""
    assert done.code == code
    assert re.search(words, clear_line(done)), clear_line(done)
    if change in (other_host_key, no_host_key):
        row = lab.proxyd.sessions()[0]
        assert row["findings"] >= 1, row
        assert row["error"] in clear_line(done)


def test_an_unknown_target_reads_like_one_without_a_grant(own_lab: Callable[..., Lab], short: Path) -> None:
    def narrowed(lab: Lab) -> None:
        lab.proxyd.target("web2", lab.sshd)
        lab.proxyd.settings["grants"][0]["targets"] = [TARGET]

    lab = own_lab(narrowed)
    said: list[Any] = [
        clear_line(SSH.execute(lab.proxied(short, target=name), "true")) for name in ("web2", "web3")
    ]
    assert said[0].replace("web2", "NAME") == said[1].replace("web3", "NAME")


def test_a_target_that_drops_connections_is_given_up_in_time(
    own_lab: Callable[..., Lab], short: Path
) -> None:
    with socket.socket() as full:
        full.bind((HOST, 0))
        full.listen(0)
        fillers = []
        for _ in range(4):  # the queue holds one or two; further SYNs are dropped
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        lab = own_lab(tapped=lambda _: full.getsockname()[1], connect_seconds=1)
        done = SSH.execute(lab.proxied(short), "true")
        for filler in fillers:
            filler.close()
    assert done.code == 255
    assert re.search(r"no answer|not answer", clear_line(done))
