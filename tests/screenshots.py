"""The pictures of the README: `python -m tests.screenshots DIRECTORY`, of real sessions in the real console.

Rule 1: nothing in a picture is made up: clients, targets and people at work are the tests' own, the browser is Chromium.
Rule 2: a picture is small enough for a page that many read: BYTES at most, or the program fails.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Page, expect

from proxyd.access import hash_password
from proxyd.verifiers import scram
from tests.e2e.console_lab import ADMIN, AUDITOR, ConsoleLab, consoled
from tests.e2e.databases import PASSWORD, listener
from tests.e2e.lab import Lab, furnish, make_lab
from tests.peers import Terminal, eventually
from tests.peers.clients import OpenSSH
from tests.peers.endpoint import HOST
from tests.peers.mariadb import DATABASE, Authority
from tests.peers.postgres import BIN, Postgres
from tests.peers.process import free_port

BYTES: Final = 150_000  # of one picture
QUALITY: Final = 82  # of WebP; letters stay sharp
SIZE: Final = {"width": 1280, "height": 800}
SCALE: Final = (
    1.25  # pixels of the picture for one of the page: sharp on most screens, and half of what 2 takes
)
SSH: Final = OpenSSH()
KEY_S, THINK_S = 0.05, 1.2  # of a person at work: a picture of a timeline needs some time
SHELL: Final = (
    r"env PS1='\[\e[32m\]app@web1\[\e[0m\]:\[\e[34m\]\w\[\e[0m\]$ ' LC_ALL=C.UTF-8 bash --norc --noprofile -i"
)
WORK: Final = ("cd /etc", "ls --color=always -C /etc | head -20", "grep -n --color=always root passwd group", "df -h /",
               "systemctl restart orders")  # fmt: skip


def main() -> int:
    """Take every picture."""
    into = Path(sys.argv[1])
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="px-") as scratch, world(Path(scratch)) as lab:
        for name, data in pictures(lab, Path(scratch)):
            if len(data) > BYTES:
                print(f"{name} has {len(data)} bytes, more than {BYTES}", file=sys.stderr)
                return 1
            (into / name).write_bytes(data)
            print(f"{into / name}  {len(data) // 1000} KB")
    return 0


@contextmanager
def world(directory: Path) -> Iterator[ConsoleLab]:
    """A console before shells and a database of a small company."""
    made = make_lab(directory / "lab")
    directory.chmod(0o755)
    with made.sshd, Postgres(directory / "pg") as postgres:
        furnish(made)
        proxyd, front = made.proxyd, Authority(directory / "front")
        proxyd.target("web2", made.sshd)
        proxyd.settings["listen"]["postgres"] = listener(front, free_port())
        proxyd.settings["targets"]["orders-db"] = postgres.target("app", directory=directory)
        proxyd.settings["rules"] = [
            {
                "name": "services",
                "action": "flag",
                "pattern": "systemctl (stop|restart)",
                "severity": "medium",
            }
        ]
        for name in ("alice", "bob", "carol"):
            proxyd.user(name, keys=[made.key.line], password=hash_password(PASSWORD), scram=scram(PASSWORD))
        with consoled(made, directory / "console") as lab:
            yield lab


@contextmanager
def shell(lab: Lab, directory: Path, user: str, target: str, *lines: str) -> Iterator[Terminal]:
    """Somebody at work in a shell, who types these lines."""
    directory = directory / f"{user}-{target}"
    directory.mkdir(exist_ok=True)
    at = lab.proxied(directory, user=user, target=target)
    argv = SSH.argv(at, "-q", command=SHELL, terminal=True)
    with Terminal(argv, env=SSH.env(at), rows=30, columns=100) as terminal:
        terminal.expect(r"\$")
        for line in lines:
            time.sleep(THINK_S)
            for key in f"{line}\r":
                terminal.type(key)
                time.sleep(KEY_S)
            terminal.expect(r"\r\n(?s:.*)\$ ")
        time.sleep(THINK_S)
        yield terminal


@contextmanager
def querying(lab: ConsoleLab, user: str) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody at work in psql."""
    assert BIN is not None
    listening = lab.lab.proxyd.settings["listen"]["postgres"]
    front, port = Path(listening["certificate"]).parent / "ca.pem", listening["address"].rpartition(":")[2]
    way = f"host={HOST} port={port} user={user}+app+orders-db password={PASSWORD} dbname={DATABASE}"
    argv = [str(BIN / "psql"), "-Xq", f"{way} sslmode=verify-full sslrootcert={front}"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(argv, **pipes) as client:
        try:
            yield client
        finally:
            client.kill()


STATEMENTS: Final = (
    "create table orders (id serial primary key, customer text, total numeric, state text)",
    "insert into orders (customer, total, state) select 'c' || n, n * 3.5, 'open' from generate_series(1, 240) n",
    "select * from orders where state = 'open' order by total desc limit 20",
    "update orders set state = 'paid' where id <= 80",
    "select sum(total) from order",
    "delete from orders where state = 'paid' and total < 50",
)


def pictures(lab: ConsoleLab, directory: Path) -> Iterator[tuple[str, bytes]]:
    """Live through a morning, and give the pictures of it with their names."""
    proxyd = lab.lab.proxyd
    with shell(lab.lab, directory, "alice", "web1", *WORK) as terminal:
        worked = proxyd.the_live_session()["id"]
        terminal.type("exit\r")
        terminal.wait()
    proxyd.ended(worked)
    with ExitStack() as open_sessions:
        editing = open_sessions.enter_context(shell(lab.lab, directory, "carol", "web2"))
        watched = _live(lab, "carol")
        editing.type("vim -u NONE -N -c 'syntax on' /etc/ssh/ssh_config\r")
        psql = open_sessions.enter_context(querying(lab, "bob"))
        queried = _live(lab, "bob")
        yield from _live_pictures(lab, watched, queried, psql)
        with lab.page(AUDITOR, **_options("light")) as page:
            yield from _reviewed(lab, page, worked)
            page.goto(lab.console.url)
            page.locator("tbody tr").nth(2).wait_for()
            yield "console-sessions.webp", _taken(page)


def _live(lab: ConsoleLab, user: str) -> str:
    rows: list[str] = []

    def begun() -> bool:
        rows[:] = [row["id"] for row in lab.lab.proxyd.live() if row["user"] == user]
        return bool(rows)

    eventually(f"{user} is at work", begun)
    return rows[0]


def _options(scheme: str) -> dict[str, object]:
    return {"color_scheme": scheme, "viewport": SIZE, "device_scale_factor": SCALE}


def _live_pictures(
    lab: ConsoleLab, watched: str, queried: str, psql: subprocess.Popen[bytes]
) -> Iterator[tuple[str, bytes]]:
    with lab.page(ADMIN, **_options("dark")) as page:
        page.goto(f"{lab.console.url}/sessions/{watched}/live")
        lab.shown(page, "Host *")
        yield "console-live.webp", _taken(page)
        page.goto(f"{lab.console.url}/sessions/{queried}/live")
        page.locator("[data-said=status]", has_text="watching").wait_for()
        assert psql.stdin
        for number, statement in enumerate(STATEMENTS, 1):
            psql.stdin.write(f"{statement};\n".encode())
            psql.stdin.flush()
            page.locator(".queries li").nth(number - 1).wait_for()
        page.locator(".queries .result").last.wait_for()
        yield "console-statements.webp", _taken(page)


def _reviewed(lab: ConsoleLab, page: Page, session: str) -> Iterator[tuple[str, bytes]]:
    page.goto(f"{lab.console.url}/sessions/{session}/play")
    expect(page.locator("[data-said=status]")).to_have_text("")
    page.locator(".feed .is-finding button").click()
    lab.shown(page, "systemctl restart orders")
    page.get_by_role("textbox", name="Comment").fill("No ticket for this restart: asked alice.")
    page.get_by_role("button", name="Add comment").click()
    page.locator(".pin").wait_for()
    yield "console-player.webp", _taken(page)
    page.goto(f"{lab.console.url}/sessions/{session}")
    page.get_by_label("What you found").fill("CHG-2041 covers it.")
    page.get_by_role("button", name="Mark as reviewed").click()
    page.get_by_role("status").wait_for()
    page.goto(f"{lab.console.url}/sessions/{session}")
    yield "console-session.webp", _taken(page)


def _taken(page: Page) -> bytes:
    page.mouse.move(0, 0)
    packed = io.BytesIO()
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(packed, "WEBP", quality=QUALITY, method=6)
    return packed.getvalue()


if __name__ == "__main__":
    sys.exit(main())
